import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { unmountAt } from '../../../fuse/daemon.ts'
import type { DiskStatus } from '../../../fuse/tree/status.ts'
import { checkImage, createDisk, finish } from '../../../lib/index.ts'
import { Bench, execute, must, until, whyNoMounts, whyNoPrograms } from '../../support/mounts.ts'

const MIB = 1 << 20
const missing =
  whyNoMounts() ??
  whyNoPrograms(
    { name: 'sfdisk', package: 'fdisk' },
    { name: 'python3', package: 'python3' },
    { name: 'fallocate', package: 'util-linux' },
  )

let bench: Bench
beforeAll(async () => {
  bench = await Bench.make()
})
afterEach(() => bench.clean())
afterAll(() => bench.dispose())

async function makeImage(size: number, folder?: string): Promise<string> {
  const image = folder ? path.join(folder, 'disk.qcow2') : bench.place('disk.qcow2')
  await (await createDisk(image, { format: 'qcow2', size })).close()
  return image
}

/** A mounted disk, and a partition of it that begins at 1 MiB. */
async function mountPartitioned() {
  const mounted = await bench.mount({ image: await makeImage(64 * MIB) })
  const input = 'label: gpt\nstart=2048, size=65536, name=data'
  expect(spawnSync('sfdisk', ['--quiet', mounted.disk], { input }).status).toBe(0)
  const part = path.join(mounted.mountpoint, 'partitions/1-data.raw')
  await until(() => fs.existsSync(part))
  return { ...mounted, part }
}

function ioOf(folder: string): DiskStatus['io'] {
  return (JSON.parse(fs.readFileSync(path.join(folder, 'status.json'), 'utf8')) as DiskStatus).io
}

/** What Node has no call for. */
function python(...lines: string[]): void {
  must('python3', '-c', ['import mmap, os, sys', ...lines].join('\n'))
}

function readAt(file: string, offset: number, length: number): Buffer {
  const fd = fs.openSync(file, 'r')
  try {
    const bytes = Buffer.alloc(length)
    fs.readSync(fd, bytes, 0, length, offset)
    return bytes
  } finally {
    fs.closeSync(fd)
  }
}

describe.skipIf(missing !== undefined)(`a mounted disk${missing ? ` (skipped: ${missing})` : ''}`, () => {
  test.each(['the disk', 'a partition'])(
    'is read and written a mebibyte at a time, past all caches: %s',
    async (which) => {
      const { mountpoint, disk, part } = await mountPartitioned()
      const file = which === 'the disk' ? disk : part
      const before = ioOf(mountpoint)
      must('dd', 'if=/dev/urandom', `of=${file}`, 'bs=1M', 'count=8', 'iflag=fullblock', 'oflag=direct', 'conv=notrunc')
      must('dd', `if=${file}`, 'of=/dev/null', 'bs=1M', 'count=8', 'iflag=direct')
      const after = ioOf(mountpoint)
      expect([after.writes - before.writes, after.writtenBytes - before.writtenBytes]).toEqual([8, 8 * MIB])
      expect([after.reads - before.reads, after.readBytes - before.readBytes]).toEqual([8, 8 * MIB])
    },
  )

  // Files that are open for direct I/O can be mapped since Linux 6.6.
  const [major = 0, minor = 0] = os.release().split('.').map(Number)
  const mappable = major > 6 || (major === 6 && minor >= 6) ? ['the disk', 'a partition'] : ['the disk']
  test.each(mappable)('can be mapped into memory and changed there: %s', async (which) => {
    const { mountpoint, disk, part } = await mountPartitioned()
    // A disk without partitions has its pages in the kernel's cache, a partition has not.
    if (which === 'the disk') must('dd', 'if=/dev/zero', `of=${disk}`, 'bs=1M', 'count=1', 'conv=notrunc')
    await until(() => fs.existsSync(path.join(mountpoint, 'partitions')) === (which === 'a partition'))
    const file = which === 'the disk' ? disk : part
    python(
      `fd = os.open(${JSON.stringify(file)}, os.O_RDWR)`,
      'memory = mmap.mmap(fd, 1 << 20, mmap.MAP_SHARED)',
      'assert memory[4096:4100] == bytes(4)',
      'memory[4096:4100] = b"here"',
      'memory.flush()',
      'assert os.pread(fd, 4, 4096) == b"here"',
    )
    expect(readAt(file, 4096, 4).toString()).toBe('here')
    if (which === 'a partition') expect(readAt(disk, MIB + 4096, 4).toString()).toBe('here')
  })

  test('is copied within the mount by the kernel’s own call', async () => {
    const { disk, part } = await mountPartitioned()
    python(
      `source = os.open(${JSON.stringify(part)}, os.O_RDWR)`,
      `target = os.open(${JSON.stringify(disk)}, os.O_RDWR)`,
      'os.pwrite(source, b"content" * 100000, 12345)',
      'left = 2 << 20',
      'while left > 0:',
      '    copied = os.copy_file_range(source, target, left, (2 << 20) - left, (50 << 20) - left)',
      '    assert copied > 0',
      '    left -= copied',
    )
    const bytes = readAt(disk, 48 * MIB, 2 * MIB)
    expect(bytes.equals(readAt(part, 0, 2 * MIB))).toBe(true)
    expect(bytes.toString('latin1', 12345, 12352)).toBe('content')
  })

  test('shows the room it takes, which follows writes and holes through whichever file', async () => {
    const { disk, part } = await mountPartitioned()
    const room = (file: string): number => fs.statSync(file).blocks * 512
    const before = { disk: room(disk), part: room(part) }
    const fd = fs.openSync(part, 'r+')
    fs.writeSync(fd, Buffer.alloc(4 * MIB, 1), 0, 4 * MIB, 8 * MIB)
    fs.closeSync(fd)
    expect([room(disk), room(part)]).toEqual([before.disk + 4 * MIB, before.part + 4 * MIB])
    must('fallocate', '--punch-hole', '--offset', String(9 * MIB), '--length', String(4 * MIB), disk)
    expect([room(disk), room(part)]).toEqual([before.disk, before.part])
  })

  test('tells that there is no room, and takes writes again when there is', async () => {
    const folder = bench.directory('small')
    must('mount', '-t', 'tmpfs', '-o', 'size=6m', 'small', folder)
    bench.onClean(() => execute('umount', '-l', folder))
    const image = await makeImage(64 * MIB, folder)
    const { mountpoint, disk } = await bench.mount({ image })
    const filler = path.join(folder, 'filler')
    fs.writeFileSync(filler, Buffer.alloc(3 * MIB))
    const fd = fs.openSync(disk, 'r+')
    const write = (at: number): void => void fs.writeSync(fd, Buffer.alloc(256 << 10, at / MIB + 1), 0, 256 << 10, at)
    let filled = 0
    const fill = (): void => {
      for (; filled < 64; filled++) write(filled * MIB)
    }
    try {
      expect(fill).toThrow(/ENOSPC/)
      expect(filled).toBeGreaterThan(4)
      expect(() => write(filled * MIB)).toThrow(/ENOSPC/)
      const status = JSON.parse(fs.readFileSync(path.join(mountpoint, 'status.json'), 'utf8')) as DiskStatus
      expect(status.io.errors).toBeGreaterThan(1)
      expect(status.failures.at(-1)).toMatchObject({ code: 'NO_SPACE', request: expect.stringMatching(/^WRITE of/) })
      fs.rmSync(filler)
      write(filled * MIB)
      fs.fsyncSync(fd)
    } finally {
      fs.closeSync(fd)
    }
    for (let at = 0; at <= filled; at++)
      expect(readAt(disk, at * MIB, 256 << 10).every((byte) => byte === at + 1)).toBe(true)
    await unmountAt(mountpoint)
    expect([...(await finish(checkImage(image))).findings]).toEqual([])
  })
})
