import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { askHolder } from '../../../fuse/control/control-client.ts'
import { unmountAt } from '../../../fuse/daemon.ts'
import type { DiskStatus } from '../../../fuse/tree/status.ts'
import { createDisk, createInternalSnapshot } from '../../../lib/index.ts'
import { Bench, must, until, whyNoLoops, whyNoMounts, whyNoPrograms } from '../../support/mounts.ts'

const MIB = 1 << 20
const noMounts = whyNoMounts() ?? whyNoPrograms({ name: 'sfdisk', package: 'fdisk' })
const noLoops = noMounts ?? whyNoLoops() ?? whyNoPrograms({ name: 'mkfs.ext4', package: 'e2fsprogs' })

/** A group of tests that needs something; what is missing stands in its name. */
function describeIf(missing: string | undefined, name: string, body: () => void): void {
  describe.skipIf(missing !== undefined)(missing ? `${name} (skipped: ${missing})` : name, body)
}

let bench: Bench
beforeAll(async () => {
  bench = await Bench.make()
})
afterEach(() => bench.clean())
afterAll(() => bench.dispose())

async function makeImage(size: number, name = 'disk.qcow2', parent?: string): Promise<string> {
  const image = parent ? path.join(path.dirname(parent), name) : bench.place(name)
  await (await createDisk(image, { format: 'qcow2', ...(parent ? { parent } : { size }) })).close()
  return image
}

/** Writes a partition table, as a user would: with a program, through the mount. */
function partition(file: string, ...lines: string[]): void {
  const { status, stderr } = spawnSync('sfdisk', ['--quiet', file], { input: lines.join('\n'), encoding: 'utf8' })
  expect(status, stderr).toBe(0)
}

const TWO_PARTITIONS = ['label: gpt', 'start=2048, size=32768, name=first', 'start=34816, size=32768, name=second']

function statusIn(folder: string): DiskStatus {
  return JSON.parse(fs.readFileSync(path.join(folder, 'status.json'), 'utf8')) as DiskStatus
}

/** All that there is below a folder, by path. */
function listing(folder: string): string[] {
  return (fs.readdirSync(folder, { recursive: true }) as string[]).sort()
}

function readAt(file: string | number, offset: number, length: number): Buffer {
  const fd = typeof file === 'number' ? file : fs.openSync(file, 'r')
  const bytes = Buffer.alloc(length)
  fs.readSync(fd, bytes, 0, length, offset)
  if (typeof file !== 'number') fs.closeSync(fd)
  return bytes
}

function writeAt(file: string | number, offset: number, bytes: Uint8Array): void {
  const fd = typeof file === 'number' ? file : fs.openSync(file, 'r+')
  fs.writeSync(fd, bytes, 0, bytes.length, offset)
  if (typeof file !== 'number') fs.closeSync(fd)
}

describeIf(noMounts, 'what a mount shows of a disk', () => {
  test('is itself, its layers, and a status that is of the moment', async () => {
    const base = await makeImage(8 * MIB, 'base.qcow2')
    const image = await makeImage(0, 'child.qcow2', base)
    const { mountpoint, disk } = await bench.mount({ image })
    expect(listing(mountpoint)).toEqual([
      'child.raw',
      'layers',
      'layers/0-base.qcow2.raw',
      'layers/1-child.qcow2.raw',
      'status.json',
    ])
    const before = statusIn(mountpoint)
    expect(before).toMatchObject({
      version: 1,
      image,
      mode: 'read-write',
      state: 'serving',
      dirty: false,
      size: 8 * MIB,
    })
    expect(before.chain.map(({ file, link }) => [file, link?.level])).toEqual([
      [base, undefined],
      [image, 'verified'],
    ])
    // Somebody who looks at the top layer keeps nobody from writing, and sees what is written.
    const watcher = fs.openSync(path.join(mountpoint, 'layers/1-child.qcow2.raw'), 'r')
    expect(readAt(watcher, MIB, 1)).toEqual(Buffer.from([0]))
    const fd = fs.openSync(disk, 'r+')
    try {
      writeAt(fd, MIB, Buffer.alloc(4096, 7))
      expect(readAt(watcher, MIB, 1)).toEqual(Buffer.from([7]))
      expect(statusIn(mountpoint)).toMatchObject({ dirty: true, io: { writes: 1, writtenBytes: 4096, flushes: 0 } })
      fs.fsyncSync(fd)
      expect(statusIn(mountpoint)).toMatchObject({ dirty: false, io: { flushes: 1, errors: 0 } })
    } finally {
      fs.closeSync(fd)
      fs.closeSync(watcher)
    }
    // The base stays as it is, the top layer is what the disk is.
    expect(readAt(path.join(mountpoint, 'layers/0-base.qcow2.raw'), MIB, 4096).every((byte) => byte === 0)).toBe(true)
    expect(readAt(path.join(mountpoint, 'layers/1-child.qcow2.raw'), MIB, 4096).every((byte) => byte === 7)).toBe(true)
    expect(() => fs.openSync(path.join(mountpoint, 'layers/1-child.qcow2.raw'), 'r+')).toThrow(/EROFS/)
    expect(() => fs.openSync(path.join(mountpoint, 'status.json'), 'r+')).toThrow(/EROFS/)
    expect(fs.statSync(path.join(mountpoint, 'status.json')).size).toBeGreaterThan(500)
  })

  test('are its internal snapshots, which stay as they are while the disk is written', async () => {
    const image = await makeImage(8 * MIB)
    const disk = await bench.mount({ image })
    writeAt(disk.disk, 0, Buffer.alloc(MIB, 1))
    await unmountAt(disk.mountpoint)
    await createInternalSnapshot(image, 'before / after')
    const again = await bench.mount({ image })
    const snapshot = path.join(again.mountpoint, 'snapshots/1-before _ after.raw')
    expect(fs.statSync(snapshot).size).toBe(8 * MIB)
    writeAt(again.disk, 0, Buffer.alloc(MIB / 2, 2))
    expect(readAt(snapshot, 0, MIB).equals(Buffer.alloc(MIB, 1))).toBe(true)
    expect(readAt(again.disk, 0, MIB / 2).equals(Buffer.alloc(MIB / 2, 2))).toBe(true)
    expect(() => fs.openSync(snapshot, 'r+')).toThrow(/EROFS/)
    expect(statusIn(again.mountpoint).snapshots).toMatchObject([{ id: '1', shownAs: '1-before _ after.raw' }])
  })

  test('are its partitions, as soon as somebody who made them closes the disk', async () => {
    const { mountpoint, disk } = await bench.mount({ image: await makeImage(64 * MIB) })
    expect(fs.existsSync(path.join(mountpoint, 'partitions'))).toBe(false)
    partition(disk, ...TWO_PARTITIONS)
    const folder = path.join(mountpoint, 'partitions')
    await until(() => fs.existsSync(folder))
    expect(fs.readdirSync(folder)).toEqual(['1-first.raw', '2-second.raw'])
    expect(fs.statSync(path.join(folder, '1-first.raw'))).toMatchObject({ size: 16 * MIB })
    expect(statusIn(mountpoint).partitions).toMatchObject([
      { number: 1, start: MIB, length: 16 * MIB, shownAs: '1-first.raw' },
      { number: 2, start: 17 * MIB, length: 16 * MIB, shownAs: '2-second.raw' },
    ])
    // What is removed is gone by name; whoever has it open keeps it.
    const second = fs.openSync(path.join(folder, '2-second.raw'), 'r')
    try {
      writeAt(disk, 17 * MIB, Buffer.alloc(512, 9))
      partition(disk, ...TWO_PARTITIONS.slice(0, 2), 'start=67584, size=32768, name=third')
      await until(() => !fs.existsSync(path.join(folder, '2-second.raw')))
      expect(fs.readdirSync(folder)).toEqual(['1-first.raw', '2-third.raw'])
      expect(readAt(second, 0, 512).equals(Buffer.alloc(512, 9))).toBe(true)
    } finally {
      fs.closeSync(second)
    }
  })

  test('is nothing but the disk, in the place of a file', async () => {
    const place = bench.place('disk')
    fs.writeFileSync(place, '')
    const image = await makeImage(8 * MIB)
    await bench.mount({ image, mountpoint: place })
    expect(fs.statSync(place).size).toBe(8 * MIB)
    const status = await askHolder<{ images: { status: DiskStatus }[] }>(image, 'status')
    const shown = status?.images[0]?.status
    expect(shown).toMatchObject({ image, chain: [{ format: 'qcow2' }] })
    expect(shown?.chain[0]).not.toHaveProperty('shownAs')
  })
})

describeIf(noMounts, 'files that show the same bytes', () => {
  /** A mount with partitions in it from the beginning. */
  async function mountPartitioned() {
    const image = await makeImage(64 * MIB)
    const first = await bench.mount({ image })
    partition(first.disk, ...TWO_PARTITIONS)
    await unmountAt(first.mountpoint)
    const mounted = await bench.mount({ image })
    return { ...mounted, partition: path.join(mounted.mountpoint, 'partitions/1-first.raw') }
  }

  test.each(['the partition', 'the disk'])('agree, whichever was read before: written is %s', async (written) => {
    const { disk, partition: part } = await mountPartitioned()
    const [target, at] = written === 'the disk' ? [disk, MIB] : [part, 0]
    const [seen, seenAt] = written === 'the disk' ? [part, 0] : [disk, MIB]
    const reader = fs.openSync(seen, 'r')
    const writer = fs.openSync(target, 'r+')
    try {
      for (let round = 1; round <= 20; round++) {
        expect(readAt(reader, seenAt, 8192)[0]).toBe(round - 1)
        writeAt(writer, at, Buffer.alloc(8192, round))
        expect(readAt(reader, seenAt, 8192).equals(Buffer.alloc(8192, round))).toBe(true)
        expect(readAt(seen, seenAt, 8192).equals(Buffer.alloc(8192, round))).toBe(true)
        // Times and room as well.
        expect(fs.fstatSync(reader).mtimeMs).toBe(fs.fstatSync(writer).mtimeMs)
      }
    } finally {
      fs.closeSync(reader)
      fs.closeSync(writer)
    }
    expect(fs.statSync(disk).blocks).toBeGreaterThanOrEqual(fs.statSync(part).blocks)
  })

  test('cannot be written while another one was opened before there were two', async () => {
    const { mountpoint, disk, log } = await bench.mount({ image: await makeImage(64 * MIB) })
    const before = fs.openSync(disk, 'r')
    try {
      partition(disk, ...TWO_PARTITIONS)
      const part = path.join(mountpoint, 'partitions/1-first.raw')
      await until(() => fs.existsSync(part))
      expect(readAt(part, 0, 512).length).toBe(512)
      expect(() => fs.openSync(part, 'r+')).toThrow(/EBUSY/)
      expect(fs.readFileSync(log as string, 'utf8')).toContain('Cannot open 1-first.raw for writing')
    } finally {
      fs.closeSync(before)
    }
    await until(() => {
      try {
        fs.closeSync(fs.openSync(path.join(mountpoint, 'partitions/1-first.raw'), 'r+'))
        return true
      } catch {
        return false
      }
    })
  })
})

describeIf(noLoops, 'block devices upon a mount', () => {
  test('on a partition hold a file system, which the whole disk shows in its place', async () => {
    const { mountpoint, disk } = await bench.mount({ image: await makeImage(64 * MIB) })
    partition(disk, ...TWO_PARTITIONS)
    const part = path.join(mountpoint, 'partitions/1-first.raw')
    await until(() => fs.existsSync(part))
    const loop = bench.attach(part)
    must('mkfs.ext4', '-q', loop.device)
    const inner = bench.mountInner(loop.device)
    const bytes = Buffer.alloc(MIB, 'content ')
    fs.writeFileSync(path.join(inner.at, 'file'), bytes)
    inner.unmount()
    must('fsck.ext4', '-f', '-n', loop.device)
    await loop.detach()
    expect(readAt(disk, MIB + 1024 + 56, 2).toString('hex')).toBe('53ef')
    const found = must('sh', '-c', `grep -c 'content content' '${disk}' || true`)
    expect(Number(found)).toBeGreaterThan(0)
  })

  test('and open files see a new size as soon as there is one', async () => {
    const image = await makeImage(16 * MIB)
    const { disk } = await bench.mount({ image })
    const loop = bench.attach(disk)
    const fd = fs.openSync(disk, 'r')
    try {
      expect(fs.fstatSync(fd).size).toBe(16 * MIB)
      await askHolder(image, 'resize', { size: 48 * MIB })
      expect(fs.fstatSync(fd).size).toBe(48 * MIB)
      must('losetup', '--set-capacity', loop.device)
      expect(Number(must('blockdev', '--getsize64', loop.device))).toBe(48 * MIB)
      writeAt(loop.device, 40 * MIB, Buffer.alloc(4096, 5))
      must('blockdev', '--flushbufs', loop.device)
      expect(readAt(fd, 40 * MIB, 4096).equals(Buffer.alloc(4096, 5))).toBe(true)
      await loop.detach()
      await askHolder(image, 'resize', { size: 8 * MIB, shrink: true })
      expect(fs.fstatSync(fd).size).toBe(8 * MIB)
      expect(fs.readSync(fd, Buffer.alloc(512), 0, 512, 40 * MIB)).toBe(0)
    } finally {
      fs.closeSync(fd)
    }
  })
})
