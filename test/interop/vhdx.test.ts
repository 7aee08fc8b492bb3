import fs from 'node:fs'
import path from 'node:path'
import { expect, test } from 'vitest'
import { Chain } from '../../lib/chain/chain.ts'
import { createDisk, type Disk, openDisk } from '../../lib/index.ts'
import { promised } from '../../lib/io/io.ts'
import { describeWithPeers, runPeer } from '../support/peers.ts'
import { Random } from '../support/random.ts'
import { RecordingStore } from '../support/stores.ts'
import { tempFolder } from '../support/temp.ts'
import { readByLibvhdi } from '../support/vhdimount.ts'
import { VhdxFile } from '../support/vhdx-file.ts'

const MIB = 1 << 20
const folder = tempFolder('vhdx')

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
  const disk = await openDisk(file(name))
  try {
    const bytes = Buffer.alloc(disk.size)
    await disk.read(0, bytes)
    return bytes
  } finally {
    await disk.close()
  }
}

/** What QEMU reads. */
function convertedBy(name: string): Buffer {
  runPeer('qemu-img', ['convert', '-f', 'vhdx', '-O', 'raw', file(name), file(`${name}.raw`)])
  return fs.readFileSync(file(`${name}.raw`))
}

describeWithPeers(['qemu-img', 'qemu-io'], 'QEMU and VHDX', () => {
  const kinds: Record<string, string>[] = [
    { subformat: 'dynamic', block_size: '1M' },
    { subformat: 'dynamic' },
    { subformat: 'dynamic', block_size: '8M', block_state_zero: 'on' },
    { subformat: 'fixed', block_size: '2M', physical_sector_size: '512' },
    { subformat: 'dynamic', block_size: '256M', log_size: '4M' },
  ]

  test.each(kinds)('what vdisk makes and writes is sound, and reads the same there: %o', async (options) => {
    const size = 70 * MIB + 512
    await using disk = await createDisk(file('ours.vhdx'), { format: 'vhdx', size, options, replace: true })
    await scribble(disk, 11, 60)
    await disk.erase(20 * MIB + 5, 9 * MIB)
    await disk.resize(90 * MIB)
    await disk.close()
    expect(runPeer('qemu-img', ['check', '-f', 'vhdx', file('ours.vhdx')]).stdout).toContain('No errors')
    expect(JSON.parse(runPeer('qemu-img', ['info', '--output=json', file('ours.vhdx')]).stdout)).toMatchObject({
      format: 'vhdx',
      'virtual-size': 90 * MIB,
    })
    expect(Buffer.compare(convertedBy('ours.vhdx'), await contentOf('ours.vhdx'))).toBe(0)
  })

  test.each(kinds)('what vdisk makes can be written there, and is read back and written on: %o', async (options) => {
    await (await createDisk(file('both.vhdx'), { format: 'vhdx', size: 64 * MIB, options, replace: true })).close()
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
      runPeer('qemu-io', ['-f', 'vhdx', ...commands, '-c', 'flush', file('both.vhdx')])
      expect(Buffer.compare(await contentOf('both.vhdx'), wanted)).toBe(0)
      await using disk = await openDisk(file('both.vhdx'), { writable: true })
      for (let i = 0; i < 10; i++) {
        const length = 1 + Math.floor(random.fraction() * 400_000)
        const at = Math.floor(random.fraction() * (wanted.length - length))
        wanted.fill(200 + i, at, at + length)
        await disk.write(at, wanted.subarray(at, at + length))
      }
      await disk.erase(MIB * turn * 9, 3 * MIB)
      wanted.fill(0, MIB * turn * 9, MIB * turn * 9 + 3 * MIB)
      await disk.close()
      expect(Buffer.compare(convertedBy('both.vhdx'), wanted)).toBe(0)
    }
    expect(runPeer('qemu-img', ['check', '-f', 'vhdx', file('both.vhdx')]).stdout).toContain('No errors')
  })

  test.each(['dynamic', 'fixed'])(
    'what QEMU makes and writes reads the same here, and can be written: %s',
    async (subformat) => {
      const name = file('theirs.vhdx')
      fs.rmSync(name, { force: true })
      runPeer('qemu-img', ['create', '-f', 'vhdx', '-o', `subformat=${subformat},block_size=1M`, name, '33M'])
      const random = new Random(9)
      const commands = Array.from({ length: 40 }, (_, i) => {
        const at = 512 * Math.floor(random.fraction() * 60_000)
        return ['-c', `write -P ${i + 1} ${at} ${512 * (1 + Math.floor(random.fraction() * 3000))}`]
      })
      runPeer('qemu-io', ['-f', 'vhdx', ...commands.flat(), name])
      const theirs = convertedBy('theirs.vhdx')
      expect(Buffer.compare(await contentOf('theirs.vhdx'), theirs)).toBe(0)
      await using disk = await openDisk(name, { writable: true })
      await scribble(disk, 21, 30)
      await disk.close()
      expect(runPeer('qemu-img', ['check', '-f', 'vhdx', name]).stdout).toContain('No errors')
      expect(Buffer.compare(convertedBy('theirs.vhdx'), await contentOf('theirs.vhdx'))).toBe(0)
    },
  )

  test('a file of ours that was not closed is replayed there to what it is here', async () => {
    let pending = 0
    for (let cut = 0; cut < 40; cut += 3) {
      const image = await VhdxFile.make(6 * MIB)
      const start = image.copy()
      const recorder = new RecordingStore(image.store)
      image.wrap(() => recorder)
      const chain = new Chain([await image.write()])
      for (let i = 0; i < 12; i++) {
        await promised(chain.write(i * 500_000, new Uint8Array(9000).fill(i + 1)))
        if (i % 4 === 1) await promised(chain.erase(MIB, MIB))
        await promised(chain.flush())
      }
      // All that was issued up to some point is on the medium, except for tables in their places.
      const end = Math.floor((recorder.log.length * (cut + 1)) / 40)
      const tables = image.bat.at
      for (const entry of recorder.log.slice(0, end)) {
        if (entry.kind === 'truncate') start.store.truncate(Math.max(entry.size, start.store.size()))
        if (entry.kind === 'write' && (entry.at < tables || entry.at >= tables + MIB)) start.put(entry.at, entry.bytes)
      }
      const bytes = new Uint8Array(start.store.size())
      start.store.read(0, bytes)
      fs.writeFileSync(file('crashed.vhdx'), bytes)
      const ours = await contentOf('crashed.vhdx')
      if ((await start.read()).details.pendingLogEntries !== undefined) pending++
      runPeer('qemu-img', ['check', '-r', 'all', '-f', 'vhdx', file('crashed.vhdx')], { accept: 'any' })
      expect(runPeer('qemu-img', ['check', '-f', 'vhdx', file('crashed.vhdx')]).stdout).toContain('No errors')
      expect(Buffer.compare(convertedBy('crashed.vhdx'), ours), `cut at ${end}`).toBe(0)
    }
    expect(pending).toBeGreaterThan(5)
  })

  test('a child is refused there, as ever: QEMU cannot be asked about it', async () => {
    await (await createDisk(file('base.vhdx'), { format: 'vhdx', size: 4 * MIB, replace: true })).close()
    await (await createDisk(file('child.avhdx'), { format: 'vhdx', parent: file('base.vhdx'), replace: true })).close()
    expect(runPeer('qemu-img', ['info', file('child.avhdx')], { accept: 'any' }).stderr).toContain('not supported')
  })

  test('a child whose parent was taken away is read there', async () => {
    await using base = await createDisk(file('base.vhdx'), { format: 'vhdx', size: 4 * MIB, replace: true })
    await base.close()
    const name = file('alone.vhdx')
    await using disk = await createDisk(name, { format: 'vhdx', parent: file('base.vhdx'), replace: true })
    await scribble(disk, 33, 10)
    const top = disk.chain.layers.at(-1) as Awaited<ReturnType<VhdxFile['write']>>
    await promised(top.links.setParent(undefined))
    await disk.close()
    expect(runPeer('qemu-img', ['check', '-f', 'vhdx', name]).stdout).toContain('No errors')
    expect(Buffer.compare(convertedBy('alone.vhdx'), await contentOf('alone.vhdx'))).toBe(0)
  })
})

describeWithPeers(['vhdimount', 'umount'], 'libvhdi and VHDX', () => {
  /** What libvhdi reads: one file for each layer, base first. */
  const mounted = (name: string, layers: number): Buffer[] => readByLibvhdi(file(name), layers)

  test.each([
    { block_size: '1M' },
    { block_size: '1M', logical_sector_size: '4096' },
    { block_size: '16M' },
    { subformat: 'fixed' },
  ] as Record<string, string>[])('a disk that vdisk wrote reads the same there: %o', async (options) => {
    await using disk = await createDisk(file('v.vhdx'), { format: 'vhdx', size: 40 * MIB, options, replace: true })
    await scribble(disk, 3, 40)
    await disk.erase(9 * MIB, 5 * MIB)
    await disk.close()
    expect(Buffer.compare(mounted('v.vhdx', 1)[0] as Buffer, await contentOf('v.vhdx'))).toBe(0)
  })

  test.each([
    { block_size: '1M' },
    { block_size: '1M', logical_sector_size: '4096' },
    { block_size: '2M' },
    { block_size: '32M' },
  ] as Record<string, string>[])(
    'a chain of three that vdisk made and wrote reads the same there: %o',
    async (options) => {
      const names = ['one.vhdx', 'two.avhdx', 'three.avhdx']
      for (const [i, name] of names.entries()) {
        const shape = i === 0 ? { size: 40 * MIB } : { parent: file(names[i - 1] as string) }
        await using disk = await createDisk(file(name), { format: 'vhdx', options, replace: true, ...shape })
        await scribble(disk, 50 + i * 70, 25)
        // A whole block, and sectors that were there before.
        await disk.write(4 * MIB, new Uint8Array(2 * MIB).fill(240 + i))
        await scribble(disk, 90 + i * 70, 10)
        await disk.close()
      }
      const theirs = mounted('three.avhdx', 3)
      for (const [i, name] of names.entries()) {
        expect(Buffer.compare(theirs[i] as Buffer, await contentOf(name)), name).toBe(0)
      }
    },
  )

  test('a chain whose middle was relinked is followed there, and one whose base was written is refused, as here', async () => {
    const names = ['one.vhdx', 'two.avhdx', 'three.avhdx']
    for (const [i, name] of names.entries()) {
      const shape = i === 0 ? { size: 8 * MIB } : { parent: file(names[i - 1] as string) }
      await using disk = await createDisk(file(name), { format: 'vhdx', replace: true, ...shape })
      await scribble(disk, 5 + i, 5)
      await disk.close()
    }
    fs.renameSync(file('one.vhdx'), file('renamed.vhdx'))
    const { relink } = await import('../../lib/jobs/relink.ts')
    await relink(file('two.avhdx'), file('renamed.vhdx'))
    expect(Buffer.compare(mounted('three.avhdx', 3)[2] as Buffer, await contentOf('three.avhdx'))).toBe(0)
    await using base = await openDisk(file('renamed.vhdx'), { writable: true })
    await base.write(0, Uint8Array.of(1))
    await base.close()
    expect(() => mounted('three.avhdx', 3)).toThrow()
    await expect(openDisk(file('three.avhdx'))).rejects.toMatchObject({ code: 'PARENT_MISMATCH' })
  })

  // libvhdi takes a block that is marked as zero for one that the parent has, against 2.5.1.1; so where children
  // erase whole blocks it cannot be asked.
})
