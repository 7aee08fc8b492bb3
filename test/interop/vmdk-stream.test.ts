import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { checkImage, convertDisk, createDisk, finish, openDisk } from '../../lib/index.ts'
import { packableDisk } from '../support/packed-disks.ts'
import { describeWithPeers, runPeer } from '../support/peers.ts'
import { printSeed, randomFor } from '../support/random.ts'
import { refusal } from '../support/refusal.ts'
import { scratchFolder } from '../support/temp.ts'
import { readByLibvmdk } from '../support/vmdkmount.ts'

printSeed()

/** A disk of several tables, most of it empty, whose last grain is cut. */
const SIZE = (80 << 20) + 3 * 512

function rawDisk(folder: string, seed: string): { file: string; content: Buffer } {
  const content = Buffer.alloc(SIZE)
  const random = randomFor(seed)
  for (const offset of [0, 33 << 20, SIZE - 300_000]) content.set(packableDisk(random, 300_000), offset)
  const file = path.join(folder, 'disk.raw')
  fs.writeFileSync(file, content)
  return { file, content }
}

async function contentOf(file: string): Promise<Buffer> {
  await using disk = await openDisk(file)
  const bytes = Buffer.alloc(disk.size)
  await disk.read(0, bytes)
  return bytes
}

async function convert(from: string, to: string, format: string, more: { compress?: string } = {}): Promise<void> {
  await using source = await openDisk(from, from.endsWith('.raw') ? { format: 'raw' } : {})
  const options = format === 'vmdk' ? { subformat: 'streamOptimized' } : {}
  await finish(convertDisk(source.chain, to, { format, options, ...more }))
}

async function codesOf(file: string): Promise<string[]> {
  return (await finish(checkImage(file))).findings.map(({ code }) => code)
}

describeWithPeers(['qemu-img', 'tar'], 'streams of packed grains and QEMU', () => {
  test('ours reads the same there, and checks clean', async () => {
    const folder = scratchFolder()
    const { file, content } = rawDisk(folder, 'ours')
    await convert(file, path.join(folder, 's.vmdk'), 'vmdk')
    runPeer('qemu-img', ['check', 's.vmdk'], { in: folder })
    runPeer('qemu-img', ['convert', '-f', 'vmdk', '-O', 'raw', 's.vmdk', 'back.raw'], { in: folder })
    expect(fs.readFileSync(path.join(folder, 'back.raw')).equals(content)).toBe(true)
    expect(await codesOf(path.join(folder, 's.vmdk'))).toEqual([])
  })

  test('theirs reads the same here, and checks clean', async () => {
    const folder = scratchFolder()
    const { content } = rawDisk(folder, 'theirs')
    runPeer(
      'qemu-img',
      ['convert', '-f', 'raw', '-O', 'vmdk', '-o', 'subformat=streamOptimized', 'disk.raw', 's.vmdk'],
      { in: folder },
    )
    expect((await contentOf(path.join(folder, 's.vmdk'))).equals(content)).toBe(true)
    expect(await codesOf(path.join(folder, 's.vmdk'))).toEqual([])
  })

  test('the disk of an appliance that we make is one', async () => {
    const folder = scratchFolder()
    const { file, content } = rawDisk(folder, 'appliance')
    const appliance = path.join(folder, 'machine.ova')
    await convert(file, appliance, 'ova')
    expect((await contentOf(appliance)).equals(content)).toBe(true)
    expect(await codesOf(appliance)).toEqual([])
    runPeer('tar', ['-xf', 'machine.ova'], { in: folder })
    runPeer('qemu-img', ['convert', '-f', 'vmdk', '-O', 'raw', 'machine-disk1.vmdk', 'back.raw'], { in: folder })
    expect(fs.readFileSync(path.join(folder, 'back.raw')).equals(content)).toBe(true)
  })
})

describeWithPeers(['vmdkmount', 'umount', 'tar'], 'streams of packed grains and libvmdk', () => {
  test('the disk of an appliance that we make reads the same there', async () => {
    const folder = scratchFolder()
    const { file, content } = rawDisk(folder, 'libvmdk')
    await convert(file, path.join(folder, 'machine.ova'), 'ova')
    runPeer('tar', ['-xf', 'machine.ova'], { in: folder })
    expect(readByLibvmdk(path.join(folder, 'machine-disk1.vmdk')).equals(content)).toBe(true)
  })
})

describe('a stream that is converted into', () => {
  test('is what compressing means for a VMDK', async () => {
    const folder = scratchFolder()
    const { file, content } = rawDisk(folder, 'compress')
    await using source = await openDisk(file, { format: 'raw' })
    const target = path.join(folder, 's.vmdk')
    await finish(convertDisk(source.chain, target, { format: 'vmdk', compress: 'zlib' }))
    expect((await contentOf(target)).equals(content)).toBe(true)
    expect(fs.statSync(target).size).toBeLessThan(2 << 20)
    await using made = await openDisk(target)
    expect(made.chain.layers.at(-1)?.details.subformat).toBe('streamOptimized')
  })

  test.each([1, 511, 65537, 100_001])('may come from a disk of %i bytes, which ends inside a sector', async (size) => {
    const folder = scratchFolder()
    const content = Buffer.alloc(size, 7)
    fs.writeFileSync(path.join(folder, 'disk.raw'), content)
    await convert(path.join(folder, 'disk.raw'), path.join(folder, 's.vmdk'), 'vmdk')
    const found = await contentOf(path.join(folder, 's.vmdk'))
    expect(found.subarray(0, size).equals(content)).toBe(true)
    expect(found.subarray(size).every((byte) => byte === 0)).toBe(true)
  })

  test('cannot be anything but whole', async () => {
    const folder = scratchFolder()
    const at = (name: string): string => path.join(folder, name)
    for (const [options, why] of [
      [{ grain_size: '128K' }, /grains of 64K/],
      [{ zeroed_grain: 'on' }, /grains of 64K/],
    ] as const) {
      const work = createDisk(at('s.vmdk'), {
        format: 'vmdk',
        size: 1 << 20,
        options: { subformat: 'streamOptimized', ...options },
      })
      expect((await refusal(() => work)).message).toMatch(why)
    }
    await (await createDisk(at('base.qcow2'), { format: 'qcow2', size: 1 << 20 })).close()
    const child = { format: 'vmdk', parent: at('base.qcow2'), options: { subformat: 'streamOptimized' } }
    expect((await refusal(() => createDisk(at('s.vmdk'), child))).message).toMatch(/a whole disk/)
    expect(fs.readdirSync(folder)).toEqual(['base.qcow2'])
  })

  test('that is made empty reads as zero, takes no write, and is filled by nothing but a copy', async () => {
    const file = path.join(scratchFolder(), 's.vmdk')
    const options = { subformat: 'streamOptimized' }
    {
      await using disk = await createDisk(file, { format: 'vmdk', size: 1 << 20, options })
      expect((await refusal(() => disk.write(0, Buffer.alloc(512, 1)))).code).toBe('READ_ONLY')
      await disk.erase(0, 1 << 20)
    }
    expect((await contentOf(file)).every((byte) => byte === 0)).toBe(true)
    expect(await codesOf(file)).toEqual([])
  })

  test('is the same bytes each time, but for its content id', async () => {
    const folder = scratchFolder()
    const { file } = rawDisk(folder, 'twice')
    const [one, two] = [path.join(folder, '1.vmdk'), path.join(folder, '2.vmdk')]
    await convert(file, one, 'vmdk')
    await convert(file, two, 'vmdk')
    const grains = (name: string): Buffer => fs.readFileSync(name).subarray(128 * 512)
    expect(grains(one).equals(grains(two))).toBe(true)
  })
})
