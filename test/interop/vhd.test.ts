import fs from 'node:fs'
import path from 'node:path'
import { expect, test } from 'vitest'
import { checkImage, createDisk, type Disk, finish, mergeImage, openDisk } from '../../lib/index.ts'
import { describeWithPeers, runPeer } from '../support/peers.ts'
import { Random } from '../support/random.ts'
import { tempFolder } from '../support/temp.ts'
import { readByLibvhdi } from '../support/vhdimount.ts'

const MIB = 1 << 20
const folder = tempFolder('vhd')

const file = (name: string): string => path.join(folder, name)

/** Random writes, from a seed that the test names. Every byte tells the step. */
async function scribble(disk: Disk, seed: number, steps: number): Promise<void> {
  const random = new Random(seed)
  for (let i = 0; i < steps; i++) {
    const length = 1 + Math.floor(random.fraction() ** 3 * 600_000)
    const at = Math.floor(random.fraction() * (disk.size - length))
    await disk.write(at, new Uint8Array(length).fill(1 + ((seed + i) % 255)))
    if (i % 7 === 0) await disk.flush()
  }
}

async function contentOf(name: string): Promise<Buffer> {
  await using disk = await openDisk(file(name))
  const bytes = Buffer.alloc(disk.size)
  await disk.read(0, bytes)
  return bytes
}

async function errorsOf(name: string): Promise<string[]> {
  const { findings } = await finish(checkImage(file(name)))
  return findings.map(({ code }) => code)
}

/** What QEMU reads. */
function convertedBy(name: string): Buffer {
  runPeer('qemu-img', ['convert', '-f', 'vpc', '-O', 'raw', file(name), file(`${name}.raw`)])
  return fs.readFileSync(file(`${name}.raw`))
}

async function make(name: string, options: Record<string, string>, size = 70 * MIB + 512): Promise<Disk> {
  return await createDisk(file(name), { format: 'vhd', size, options, replace: true })
}

async function makeChild(name: string, parent: string): Promise<Disk> {
  return await createDisk(file(name), { format: 'vhd', parent: file(parent), replace: true })
}

const KINDS: Record<string, string>[] = [
  { subformat: 'dynamic' },
  { subformat: 'dynamic', block_size: '512K' },
  { subformat: 'dynamic', block_size: '8M' },
  { subformat: 'fixed' },
]

describeWithPeers(['qemu-img', 'qemu-io'], 'QEMU and VHD', () => {
  test.each(KINDS)('what vdisk makes, writes and resizes reads the same there: %o', async (options) => {
    await using disk = await make('ours.vhd', options)
    await scribble(disk, 11, 60)
    await disk.erase(20 * MIB + 5, 9 * MIB)
    await disk.resize(50 * MIB + 1024)
    await scribble(disk, 12, 10)
    await disk.resize(90 * MIB + 512)
    await scribble(disk, 13, 20)
    await disk.close()
    expect(JSON.parse(runPeer('qemu-img', ['info', '--output=json', file('ours.vhd')]).stdout)).toMatchObject({
      format: options.subformat === 'fixed' ? 'raw' : 'vpc',
    })
    expect(Buffer.compare(convertedBy('ours.vhd'), await contentOf('ours.vhd'))).toBe(0)
    expect(await errorsOf('ours.vhd')).toEqual([])
  })

  test.each(KINDS)('what vdisk makes can be written there, and is read back and written on: %o', async (options) => {
    await (await make('both.vhd', options, 64 * MIB)).close()
    const wanted = Buffer.alloc(64 * MIB)
    const random = new Random(5)
    for (let turn = 0; turn < 3; turn++) {
      const commands: string[] = []
      for (let i = 0; i < 25; i++) {
        const length = 512 * (1 + Math.floor(random.fraction() * 800))
        const at = 512 * Math.floor(random.fraction() * (131_072 - length / 512))
        const value = 1 + Math.floor(random.fraction() * 254)
        wanted.fill(value, at, at + length)
        commands.push('-c', `write -P ${value} ${at} ${length}`)
      }
      runPeer('qemu-io', ['-f', 'vpc', ...commands, '-c', 'flush', file('both.vhd')])
      expect(Buffer.compare(await contentOf('both.vhd'), wanted)).toBe(0)
      await using disk = await openDisk(file('both.vhd'), { writable: true })
      for (let i = 0; i < 10; i++) {
        const length = 1 + Math.floor(random.fraction() * 400_000)
        const at = Math.floor(random.fraction() * (wanted.length - length))
        wanted.fill(200 + i, at, at + length)
        await disk.write(at, wanted.subarray(at, at + length))
      }
      await disk.close()
      expect(Buffer.compare(convertedBy('both.vhd'), wanted)).toBe(0)
    }
  })

  test.each([
    ['dynamic', 'on'],
    ['dynamic', 'off'],
    ['fixed', 'on'],
    ['fixed', 'off'],
  ])('what QEMU makes reads the same, and can be written: %s, force_size=%s', async (subformat, force) => {
    const options = `subformat=${subformat},force_size=${force}`
    runPeer('qemu-img', ['create', '-q', '-f', 'vpc', '-o', options, file('theirs.vhd'), '33M'])
    const commands = [3, 900_096, 20 << 20].flatMap((at, i) => ['-c', `write -P ${i + 1} ${at - (at % 512)} 70000`])
    runPeer('qemu-io', ['-f', 'vpc', ...commands, file('theirs.vhd')])
    expect(Buffer.compare(await contentOf('theirs.vhd'), convertedBy('theirs.vhd'))).toBe(0)
    expect(await errorsOf('theirs.vhd')).toEqual([])
    await using disk = await openDisk(file('theirs.vhd'), { writable: true })
    await scribble(disk, 3, 20)
    await disk.close()
    expect(Buffer.compare(await contentOf('theirs.vhd'), convertedBy('theirs.vhd'))).toBe(0)
  })

  test('a differencing disk, which QEMU reads as if it had no parent, shows its parent, or is refused without it', async () => {
    await using base = await make('base.vhd', {}, 8 * MIB)
    await base.write(0, new Uint8Array(4 * MIB).fill(1))
    await base.close()
    await using child = await makeChild('child.vhd', 'base.vhd')
    await child.write(MIB, new Uint8Array(512).fill(2))
    await child.close()
    expect(convertedBy('child.vhd')[0]).toBe(0)
    const content = await contentOf('child.vhd')
    expect([content[0], content[MIB], content[MIB + 512]]).toEqual([1, 2, 1])
    fs.renameSync(file('base.vhd'), file('elsewhere.vhd'))
    await expect(openDisk(file('child.vhd'))).rejects.toMatchObject({ code: 'PARENT_MISSING' })
  })

  test('a disk of 2040 GiB, the largest, is made, written at its end, and read there', async () => {
    await using disk = await make('huge.vhd', {}, 2040 * 2 ** 30)
    await disk.write(disk.size - 4096, new Uint8Array(4096).fill(9))
    await disk.close()
    expect(fs.statSync(file('huge.vhd')).blocks * 512).toBeLessThan(16 * MIB)
    const last = `read -P 9 ${2040 * 2 ** 30 - 4096} 4096`
    expect(runPeer('qemu-io', ['-r', '-f', 'vpc', '-c', last, file('huge.vhd')]).stdout).not.toContain('failed')
  })

  test('a size that no geometry holds reads whole: QEMU believes our creator', async () => {
    await using disk = await make('odd.vhd', { azure: 'on' }, 10 * MIB + 1)
    expect(disk.size).toBe(11 * MIB)
    await disk.close()
    expect(fs.statSync(file('odd.vhd')).size).toBe(11 * MIB + 512)
    expect(convertedBy('odd.vhd').length).toBe(11 * MIB)
  })
})

describeWithPeers(['vhdimount', 'umount'], 'libvhdi and VHD', () => {
  test.each(KINDS)('what vdisk makes and writes reads the same there: %o', async (options) => {
    await using disk = await make('lib.vhd', options)
    await scribble(disk, 21, 60)
    await disk.erase(20 * MIB + 5, 9 * MIB)
    await disk.close()
    const [read] = readByLibvhdi(file('lib.vhd'), 1)
    expect(Buffer.compare(read as Buffer, await contentOf('lib.vhd'))).toBe(0)
  })

  test('a chain of three reads the same there, layer by layer, and after the middle was merged away', async () => {
    await using base = await make('c0.vhd', {}, 40 * MIB)
    await scribble(base, 31, 40)
    await base.close()
    for (const [name, parent, seed] of [
      ['c1.vhd', 'c0.vhd', 32],
      ['c2.vhd', 'c1.vhd', 33],
    ] as const) {
      await using disk = await makeChild(name, parent)
      await scribble(disk, seed, 30)
      await disk.close()
    }
    const wanted = await Promise.all(['c0.vhd', 'c1.vhd', 'c2.vhd'].map(contentOf))
    const before = readByLibvhdi(file('c2.vhd'), 3)
    for (const [i, content] of wanted.entries()) expect(Buffer.compare(before[i] as Buffer, content), `${i}`).toBe(0)
    await finish(mergeImage(file('c1.vhd'), { delete: true }))
    expect(Buffer.compare(await contentOf('c2.vhd'), wanted[2] as Buffer)).toBe(0)
    const after = readByLibvhdi(file('c2.vhd'), 2)
    expect(Buffer.compare(after[1] as Buffer, wanted[2] as Buffer)).toBe(0)
    await finish(mergeImage(file('c2.vhd'), { delete: true }))
    expect(Buffer.compare(await contentOf('c0.vhd'), wanted[2] as Buffer)).toBe(0)
    expect(Buffer.compare(readByLibvhdi(file('c0.vhd'), 1)[0] as Buffer, wanted[2] as Buffer)).toBe(0)
  })
})
