import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import fs from 'node:fs'
import path from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { unmountAt } from '../../fuse/daemon.ts'
import { checkImage, createDisk, type Disk, finish, openDisk } from '../../lib/index.ts'
import { patternFor } from '../model/history.ts'
import { commandLineIn } from '../support/command-line.ts'
import { Bench, execute, must, whyNoMounts } from '../support/mounts.ts'

const MIB = 1 << 20
/** Bytes of the file system that fills up. */
const ROOM = 24 * MIB
const PIECE = 64 << 10

/** A MiB that does not compress. */
function noise(seed: number): Uint8Array {
  const words = new Uint32Array(MIB / 4)
  let state = seed >>> 0
  for (let i = 0; i < words.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    words[i] = state ^ (state >>> 13)
  }
  return new Uint8Array(words.buffer)
}

/** Why no small file system can be had here; or undefined. */
function whyNoTmpfs(): string | undefined {
  if (process.platform !== 'linux') return 'Linux is needed'
  return process.getuid?.() === 0 ? undefined : 'root is needed, to mount a small file system'
}

const missing = whyNoTmpfs()
const title = 'a medium that is full'

describe.skipIf(missing)(missing ? `${title} (skipped: ${missing})` : title, () => {
  let bench: Bench
  beforeAll(async () => {
    bench = await Bench.make()
  })
  afterEach(() => bench.clean())
  afterAll(() => bench.dispose())

  /** A small file system, with a file that takes most of it and can be given up. */
  function smallFileSystem(free: number): { at: (name: string) => string; makeRoom: () => void } {
    const folder = bench.directory('small')
    must('mount', '-t', 'tmpfs', '-o', `size=${ROOM}`, 'tmpfs', folder)
    bench.onClean(() => execute('umount', '-l', folder))
    const at = (name: string): string => path.join(folder, name)
    const leave = (bytes: number): void => {
      const { bavail, bsize } = fs.statfsSync(folder)
      fs.writeFileSync(at('ballast'), Buffer.alloc(Math.max(0, bavail * bsize - bytes), 1))
    }
    if (free < ROOM) leave(free)
    return { at, makeRoom: () => fs.rmSync(at('ballast')) }
  }

  async function makeImage(file: string, format: string, bytes: number, parent?: string): Promise<void> {
    const options = format === 'vhdx' ? { block_size: '1M' } : {}
    await using disk = await createDisk(file, { format, size: 16 * MIB, options, parent })
    for (let offset = 0; offset < bytes; offset += MIB) await disk.write(offset, noise(offset + (parent ? 9 : 8)))
  }

  async function contentOf(file: string, format?: string): Promise<Uint8Array> {
    await using disk = await openDisk(file, { format })
    const bytes = new Uint8Array(disk.size)
    await disk.read(0, bytes)
    return bytes
  }

  async function expectSound(file: string): Promise<void> {
    const { findings } = await finish(checkImage(file, { chain: true }))
    expect(findings.filter(({ severity }) => severity === 'error')).toEqual([])
  }

  test.each([
    ['raw', []],
    ['qcow2', []],
    ['qcow2', ['--compress', 'zlib']],
    ['vhdx', []],
  ] as const)(
    'convert to %s %j: nothing half-made stays, the message says what to do, and then it can be done',
    async (format, how) => {
      const source = bench.place('source.qcow2')
      await makeImage(source, 'qcow2', 12 * MIB)
      const { at, makeRoom } = smallFileSystem(7 * MIB)
      const vdisk = commandLineIn(path.dirname(source))
      const convert = ['convert', source, at(`copy.${format}`), '--format', format, ...how]
      const ran = vdisk(...convert)
      expect([ran.code, ran.err]).toEqual([
        expect.any(Number),
        expect.stringMatching(/Cannot (write|resize|make|allocate) .*copy.*(no room is left|ENOSPC)/s),
      ])
      expect(ran.code).not.toBe(0)
      expect(ran.err).toContain('Free some room')
      expect(fs.readdirSync(path.dirname(at('x')))).toEqual(['ballast'])
      makeRoom()
      const again = vdisk(...convert)
      expect(again.code, again.err).toBe(0)
      expect(Buffer.compare(await contentOf(at(`copy.${format}`), format), await contentOf(source))).toBe(0)
    },
  )

  test.each(['qcow2', 'vhdx', 'vmdk'])(
    'merge of %s: the disk stays as it is, and after making room the merge goes through',
    async (format) => {
      const { at, makeRoom } = smallFileSystem(ROOM)
      await makeImage(at('base'), format, 2 * MIB)
      await makeImage(at('top'), format, 6 * MIB, at('base'))
      const wanted = await contentOf(at('top'))
      const { bavail, bsize } = fs.statfsSync(path.dirname(at('x')))
      fs.writeFileSync(at('ballast'), Buffer.alloc(bavail * bsize - 2 * MIB, 1))
      const vdisk = commandLineIn(path.dirname(at('x')))
      const ran = vdisk('merge', 'top')
      expect(ran.code).not.toBe(0)
      expect(ran.err).toMatch(/Cannot (write|resize|make) .*base.*(no room is left|ENOSPC)/s)
      expect(ran.err).toContain('Free some room')
      expect(Buffer.compare(await contentOf(at('top')), wanted)).toBe(0)
      await expectSound(at('top'))
      makeRoom()
      const again = vdisk('merge', 'top')
      expect(again.code, again.err).toBe(0)
      expect(Buffer.compare(await contentOf(at('base')), wanted)).toBe(0)
      await expectSound(at('base'))
    },
  )

  /** Writes piece after piece until it fails. @returns how many there was room for */
  async function fill(disk: Disk): Promise<number> {
    for (let count = 0; ; count++) {
      try {
        await disk.write(count * PIECE, patternFor(count * PIECE, PIECE, 5))
      } catch (error) {
        expect(error).toMatchObject({ code: 'NO_SPACE' })
        return count
      }
    }
  }

  test.each(['raw', 'qcow2', 'vhdx', 'vdi', 'vhd', 'vmdk', 'parallels'])(
    'writes to an open %s disk: what there was room for is there, and it goes on afterwards',
    async (format) => {
      const { at, makeRoom } = smallFileSystem(6 * MIB)
      await makeImage(at('disk'), format, 0)
      const disk = await openDisk(at('disk'), { format, writable: true })
      const count = await fill(disk)
      expect(count).toBeGreaterThan(8)
      makeRoom()
      for (let i = count; i < (16 * MIB) / PIECE; i++) await disk.write(i * PIECE, patternFor(i * PIECE, PIECE, 5))
      await disk.close()
      const found = await contentOf(at('disk'), format)
      for (let i = 0; i < found.length / PIECE; i++) {
        expect(
          Buffer.compare(found.subarray(i * PIECE, (i + 1) * PIECE), patternFor(i * PIECE, PIECE, 5)),
          `piece ${i}`,
        ).toBe(0)
      }
      if (format !== 'raw') await expectSound(at('disk'))
    },
  )

  const unmountable = whyNoMounts()
  describe.skipIf(unmountable)(unmountable ? `under a mount (skipped: ${unmountable})` : 'under a mount', () => {
    test.each(['raw', 'qcow2', 'vhdx'])(
      '%s: the guest sees ENOSPC, the image is sound, and goes on when there is room',
      async (format) => {
        const { at, makeRoom } = smallFileSystem(6 * MIB)
        await makeImage(at('disk'), format, 0)
        const { disk, mountpoint } = await bench.mount({ image: at('disk'), format })
        const guest = await writeUntilFull(disk)
        expect(guest.error).toBe('ENOSPC')
        expect(guest.count).toBeGreaterThan(8)
        makeRoom()
        const rest = await writeUntilFull(disk)
        expect(rest).toEqual({ count: (16 * MIB) / PIECE, error: undefined })
        const { ended } = await unmountAt(mountpoint)
        expect(ended).toBe('durable')
        const found = await contentOf(at('disk'), format)
        expect(found.every((byte) => byte === 7)).toBe(true)
        if (format !== 'raw') await expectSound(at('disk'))
      },
    )
  })

  /** Another process writes to the mounted disk and flushes: who serves a mount must not wait for it. */
  async function writeUntilFull(disk: string): Promise<{ count: number; error: string | undefined }> {
    const program = `
      const fs = require('node:fs')
      const fd = fs.openSync(${JSON.stringify(disk)}, 'r+')
      const piece = Buffer.alloc(${PIECE}, 7)
      let count = 0, error
      try {
        for (; count < ${(16 * MIB) / PIECE}; count++) fs.writeSync(fd, piece, 0, piece.length, count * piece.length)
        fs.fsyncSync(fd)
      } catch (failure) { error = failure.code }
      console.log(JSON.stringify({ count, error }))`
    const child: ChildProcess = spawn(process.execPath, ['-e', program], { stdio: ['ignore', 'pipe', 'inherit'] })
    bench.onClean(() => child.kill('SIGKILL'))
    let out = ''
    child.stdout?.setEncoding('utf8').on('data', (text) => {
      out += text
    })
    await once(child, 'close')
    return JSON.parse(out) as { count: number; error: string | undefined }
  }
})
