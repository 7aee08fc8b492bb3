import path from 'node:path'
import { expect, test } from 'vitest'
import { openDisk } from '../../lib/index.ts'
import { put } from '../hostile/images.ts'
import { CraftedImage } from '../support/crafted-qcow2.ts'
import { describeWithPeers, runPeer } from '../support/peers.ts'
import { printSeed, SEED } from '../support/random.ts'
import { scratchFolder } from '../support/temp.ts'
import { compare, differential } from './differential.ts'
import { seedsOf } from './seeds.ts'

/** Images of each format; `npm run fuzz -- --differential` goes on for minutes. */
const IMAGES = Number(process.env.VDISK_TEST_RUNS ?? 12) * 2

printSeed()

describeWithPeers(['qemu-img'], 'vdisk and QEMU', () => {
  test.each(['qcow2', 'vhdx'] as const)('read all sound images alike: %s', async (format) => {
    const seeds = await seedsOf(format)
    for (const { name } of seeds) {
      const folder = path.join(scratchFolder(), 'a')
      const { verdict, words } = await compare(format, seeds, { seed: name, edits: [], chance: 0 }, folder)
      // QEMU knows neither differencing VHDX nor sectors of 4 KiB; disks that are too large are not compared.
      const apart = format === 'vhdx' && /child|4 KiB/.test(name) ? 'ours' : /chunks/.test(name) ? 'neither' : 'same'
      expect([name, verdict, words]).toEqual([name, apart, expect.anything()])
    }
  })

  test.each(['qcow2', 'vhdx', 'raw'] as const)('read damaged images alike, if both do: %s', async (format) => {
    let left = IMAGES
    for await (const { verdict, recipe, words } of differential(format, await seedsOf(format), SEED, () => left <= 0)) {
      left--
      expect(verdict, `${words}\nVDISK_TEST_SEED=${SEED}\n${JSON.stringify(recipe)}`).not.toBe('different')
    }
  })

  test('differ where a disk ends within a sector: vdisk reads it to its last byte, as it says how large it is', async () => {
    const folder = scratchFolder()
    const file = put(folder, 'a', new CraftedImage().header('size', 4096 + 513))
    await using disk = await openDisk(file)
    const end = new Uint8Array(513)
    await disk.read(4096, end)
    expect([disk.size, Buffer.compare(end, Buffer.alloc(513, 0xa1))]).toEqual([4096 + 513, 0])
    const info = runPeer('qemu-img', ['info', '--output=json', file])
    expect(JSON.parse(info.stdout)['virtual-size']).toBe(4096 + 512)
  })
})
