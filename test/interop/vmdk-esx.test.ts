import fs from 'node:fs'
import path from 'node:path'
import { expect, test } from 'vitest'
import { createDisk, openDisk } from '../../lib/index.ts'
import { describeWithPeers, runPeer } from '../support/peers.ts'
import { printSeed, randomFor } from '../support/random.ts'
import { scratchFolder } from '../support/temp.ts'
import { cowdOf, deltaDescriptor, seSparseOf } from '../support/vmdk-esx.ts'

printSeed()

describeWithPeers(['qemu-img'], 'deltas of ESX, as QEMU reads them', () => {
  test.each([
    ['VMFSSPARSE', 512, cowdOf],
    ['SESPARSE', 4096, seSparseOf],
  ] as const)('%s reads the same', async (type, grainBytes, make) => {
    const random = randomFor(type)
    const folder = scratchFolder()
    const capacity = 6000 * (grainBytes / 512)
    const numbers = Array.from({ length: 900 }, () => random.below(6000)).sort((a, b) => a - b)
    const grains = new Map(numbers.map((grain) => [grain, random.bytes(grainBytes)]))
    fs.writeFileSync(path.join(folder, 'd-delta.vmdk'), make(capacity, grains))
    fs.writeFileSync(path.join(folder, 'd.vmdk'), deltaDescriptor(type, capacity, 'd-delta.vmdk'))
    runPeer('qemu-img', ['convert', '-f', 'vmdk', '-O', 'raw', 'd.vmdk', 'd.raw'], { in: folder })
    await using disk = await openDisk(path.join(folder, 'd.vmdk'))
    const bytes = Buffer.alloc(disk.size)
    await disk.read(0, bytes)
    expect(bytes.equals(fs.readFileSync(path.join(folder, 'd.raw')))).toBe(true)
  })
})

const MIB = 1 << 20

describeWithPeers(['qemu-img'], 'a delta of ESX that we write, as QEMU reads it', () => {
  test('is what was written over its flat parent', async () => {
    const random = randomFor('written')
    const folder = scratchFolder()
    const [base, child] = [path.join(folder, 'vm.vmdk'), path.join(folder, 'vm-000001.vmdk')]
    const wanted = Buffer.from(random.bytes(5 * MIB))
    {
      await using disk = await createDisk(base, { format: 'vmdk', size: 5 * MIB, options: { subformat: 'vmfs' } })
      await disk.write(0, wanted)
    }
    {
      const options = { subformat: 'vmfsSparse' }
      await using disk = await createDisk(child, { format: 'vmdk', parent: base, options })
      for (let times = 0; times < 60; times++) {
        const offset = random.below(5 * MIB - 20_000)
        const source = random.bytes(1 + random.below(20_000))
        await disk.write(offset, source)
        wanted.set(source, offset)
      }
    }
    runPeer('qemu-img', ['convert', '-f', 'vmdk', '-O', 'raw', child, 'd.raw'], { in: folder })
    expect(wanted.equals(fs.readFileSync(path.join(folder, 'd.raw')))).toBe(true)
  })
})
