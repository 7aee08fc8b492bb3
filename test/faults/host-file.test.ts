import fs from 'node:fs'
import path from 'node:path'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { isVdiskError, type VdiskError } from '../../lib/errors.ts'
import { CopyThread } from '../../lib/io/copy-thread.ts'
import type { OpenFileOptions } from '../../lib/io/files.ts'
import { HostFile } from '../../lib/io/host-file.ts'
import { hostFiles } from '../../lib/io/host-files.ts'
import { ERRNO, type Sys, sys } from '../../lib/io/sys.ts'
import { patternFor } from '../model/history.ts'
import { scratchFolder } from '../support/temp.ts'
import { systemError } from './memory-machine.ts'

afterEach(() => {
  vi.restoreAllMocks()
})

const LENGTH = 5000
/** From here on a transfer goes to the thread pool. */
const POOLED = 5 << 20

/** A file of its own with bytes that tell where they are from. */
function makeFile(length = LENGTH, options: OpenFileOptions = {}): HostFile {
  const name = path.join(scratchFolder(), 'disk.raw')
  fs.writeFileSync(name, patternFor(0, length, 3))
  return HostFile.open(name, { write: true, ...options })
}

async function errorOf(work: () => unknown): Promise<VdiskError> {
  try {
    await work()
  } catch (error) {
    if (isVdiskError(error)) return error
    throw error
  }
  throw new Error('nothing failed')
}

/** Node's call fails once with this code, or always. */
function failing(
  call: 'readSync' | 'writeSync' | 'fdatasyncSync' | 'fsyncSync' | 'closeSync' | 'fstatSync',
  code: string,
): void {
  vi.spyOn(fs, call).mockImplementationOnce(() => {
    throw systemError(code, call)
  })
}

type Ended = (error: NodeJS.ErrnoException | null, count: number) => void

/** Calls that fail, or end before they have done all, by turns; then as they are. */
function transfers(call: 'read' | 'write', answers: readonly ('EINTR' | 'EIO' | 'ENOSPC' | number)[]): void {
  const original = fs[call] as (...args: unknown[]) => void
  const rest = [...answers]
  vi.spyOn(fs, call).mockImplementation(((
    fd: number,
    bytes: Uint8Array,
    start: number,
    length: number,
    at: number,
    end: Ended,
  ) => {
    const answer = rest.shift()
    if (typeof answer === 'string') setImmediate(() => end(systemError(answer, call), 0))
    else if (answer === 0) setImmediate(() => end(null, 0))
    else original(fd, bytes, start, Math.min(length, answer ?? length), at, end)
  }) as never)
}

describe('a transfer that is cut short', () => {
  test('goes on where it ended: reads', async () => {
    const file = makeFile()
    const { readSync } = fs
    const spy = vi
      .spyOn(fs, 'readSync')
      .mockImplementation(((fd: number, bytes: Uint8Array, start: number, length: number, at: number) =>
        readSync(fd, bytes, start, Math.min(length, 700), at)) as never)
    const found = new Uint8Array(LENGTH - 10)
    await file.read(10, found)
    expect(Buffer.compare(found, patternFor(0, LENGTH, 3).subarray(10))).toBe(0)
    expect(spy).toHaveBeenCalledTimes(8)
    file.close()
  })

  test('goes on where it ended: writes', async () => {
    const file = makeFile()
    const { writeSync } = fs
    const spy = vi
      .spyOn(fs, 'writeSync')
      .mockImplementation(((fd: number, bytes: Uint8Array, start: number, length: number, at: number) =>
        writeSync(fd, bytes, start, Math.min(length, 700), at)) as never)
    const source = patternFor(1, 3000, 77)
    await file.write(100, source)
    expect(spy).toHaveBeenCalledTimes(5)
    expect(Buffer.compare(fs.readFileSync(file.name).subarray(100, 3100), source)).toBe(0)
    file.close()
  })

  test('goes on where it ended, on the thread pool', async () => {
    const file = makeFile(POOLED)
    transfers('read', [100, 'EINTR', 4096, 'EINTR'])
    transfers('write', [100, 'EINTR', 4096])
    const bytes = new Uint8Array(POOLED)
    await file.read(0, bytes)
    expect(Buffer.compare(bytes, patternFor(0, POOLED, 3))).toBe(0)
    const source = patternFor(9, POOLED, 5)
    await file.write(0, source)
    expect(Buffer.compare(fs.readFileSync(file.name), source)).toBe(0)
    file.close()
  })

  test('by the end of the file is an error that says where that is', async () => {
    for (const length of [LENGTH, POOLED]) {
      const file = makeFile(length)
      const error = await errorOf(() => file.read(0, new Uint8Array(length + 1)))
      expect(error).toMatchObject({ code: 'OUT_OF_RANGE', where: { file: file.name, at: 0 } })
      expect(error.message).toContain(`it ends at ${length}`)
      file.close()
    }
  })

  test('a write of which nothing is taken is an error, not a loop without end', async () => {
    const file = makeFile()
    vi.spyOn(fs, 'writeSync').mockReturnValue(0)
    transfers('write', [0])
    expect(await errorOf(() => file.write(7, new Uint8Array(10)))).toMatchObject({ code: 'IO', where: { at: 7 } })
    expect(await errorOf(() => file.write(7, new Uint8Array(POOLED)))).toMatchObject({ code: 'IO', where: { at: 7 } })
    file.close()
  })
})

describe('a failure of the system', () => {
  test.each([
    ['ENOSPC', 'NO_SPACE', 'Free some room'],
    ['EDQUOT', 'NO_SPACE', 'Free some room'],
    ['EIO', 'IO', 'Check the medium'],
    ['ENOMEM', 'IO', 'short of memory'],
  ])('%s of a write or read is %s, and says what to do', async (code, expected, advice) => {
    const file = makeFile()
    for (const [call, work] of [
      ['writeSync', () => file.write(5, new Uint8Array(9))],
      ['readSync', () => file.read(5, new Uint8Array(9))],
    ] as const) {
      failing(call, code)
      const error = await errorOf(work)
      expect(error).toMatchObject({ code: expected, where: { file: file.name, at: 5 } })
      expect(error.message).toMatch(/^Cannot (read|write) .*disk\.raw at 5: /)
      expect(error.advice).toContain(advice)
      // It was this call's failure, not the file's.
      await work()
    }
    file.close()
  })

  test('a signal in the middle of a call is none', async () => {
    const file = makeFile()
    failing('readSync', 'EINTR')
    await file.read(0, new Uint8Array(5))
    failing('writeSync', 'EINTR')
    await file.write(0, patternFor(0, 500, 90))
    expect(fs.readFileSync(file.name).subarray(0, 500)).toEqual(Buffer.from(patternFor(0, 500, 90)))
    file.close()
  })

  test('of a look at an open file has a type', async () => {
    const file = makeFile()
    for (const look of [() => file.size(), () => file.stamp(), () => file.occupied()]) {
      failing('fstatSync', 'EIO')
      expect(await errorOf(look)).toMatchObject({ code: 'IO', where: { file: file.name } })
    }
    file.close()
  })

  test.each([
    ['EMFILE', 'IO', 'ulimit -n'],
    ['ENFILE', 'IO', 'ulimit -n'],
    ['ENOMEM', 'IO', 'short of memory'],
    ['EIO', 'IO', 'Check the medium'],
    ['ENOSPC', 'NO_SPACE', 'Free some room'],
    ['EACCES', 'REFUSED', 'who may read'],
  ])('%s of an open is %s, and says what to do', async (code, expected, advice) => {
    vi.spyOn(fs, 'openSync').mockImplementation(() => {
      throw systemError(code)
    })
    const error = await errorOf(() => HostFile.open('/nowhere/disk.raw'))
    expect(error).toMatchObject({ code: expected, where: { file: '/nowhere/disk.raw' } })
    expect(error.message).toMatch(/^Cannot open \/nowhere\/disk.raw: /)
    expect(error.advice).toContain(advice)
  })

  test.each([
    ['EIO', 'IO'],
    ['ENOENT', 'NOT_FOUND'],
    ['ENAMETOOLONG', 'REFUSED'],
    ['EACCES', 'REFUSED'],
    ['ENOSPC', 'NO_SPACE'],
  ])('%s about a name is %s', async (code, expected) => {
    vi.spyOn(fs, 'renameSync').mockImplementation(() => {
      throw systemError(code)
    })
    expect((await errorOf(() => hostFiles.rename('/nowhere/a', '/nowhere/b'))).code).toBe(expected)
  })

  test('while a new file is being locked leaves neither the file nor its descriptor', async () => {
    const native = sys()
    if (!native) return
    const name = path.join(scratchFolder(), 'new.raw')
    vi.spyOn(native, 'lockByte').mockReturnValue(-ERRNO.ENOLCK)
    const close = vi.spyOn(fs, 'closeSync')
    const error = await errorOf(() => HostFile.open(name, { write: true, create: 'new', lock: 'write' }))
    expect(error.code).toBe('REFUSED')
    expect(close).toHaveBeenCalledTimes(1)
    expect(fs.existsSync(name)).toBe(false)
    // What was there before stays.
    fs.writeFileSync(name, 'precious')
    await errorOf(() => HostFile.open(name, { write: true, create: 'replace', lock: 'write' }))
    expect(fs.readFileSync(name, 'utf8')).toBe('precious')
  })
})

describe('a flush that failed', () => {
  test.each(['block', 'defer'] as const)('poisons the file: no later one succeeds (%s)', async (waiting) => {
    const file = makeFile(LENGTH, { waiting })
    const fail = (): never => {
      throw systemError('EIO', 'fdatasync')
    }
    if (waiting === 'block') vi.spyOn(fs, 'fdatasyncSync').mockImplementationOnce(fail)
    else
      vi.spyOn(fs, 'fdatasync').mockImplementationOnce(((_fd: number, end: Ended) =>
        end(systemError('EIO'), 0)) as never)
    const first = await errorOf(() => file.flush())
    expect(first).toMatchObject({ code: 'IO', where: { file: file.name } })
    expect(first.message).toBe(`Cannot make ${file.name} durable: ${(first.cause as Error).message}`)
    expect(first.advice).toContain('may be lost')
    await file.write(0, new Uint8Array(10))
    // Node's calls are the real ones again, and the kernel has nothing to complain of.
    expect(await errorOf(() => file.flush())).toBe(first)
    expect(await errorOf(() => file.restamp(1000))).toBe(first)
    file.close()
    const again = HostFile.open(file.name, { write: true, waiting })
    await again.flush()
    again.close()
  })

  test('for want of room says so', async () => {
    const file = makeFile()
    failing('fdatasyncSync', 'EDQUOT')
    expect(await errorOf(() => file.flush())).toMatchObject({
      code: 'NO_SPACE',
      advice: expect.stringContaining('Free some room'),
    })
    file.close()
  })

  test('counts as well where the time was to become durable', async () => {
    const file = makeFile()
    failing('fsyncSync', 'EIO')
    const first = await errorOf(() => file.restamp(1000))
    expect(first.code).toBe('IO')
    expect(await errorOf(() => file.flush())).toBe(first)
    file.close()
  })
})

describe('a close that fails', () => {
  const failClose = (code: string): ReturnType<typeof vi.spyOn> => {
    const { closeSync } = fs
    return vi.spyOn(fs, 'closeSync').mockImplementationOnce((fd) => {
      closeSync(fd)
      throw systemError(code, 'close')
    })
  }

  test('is told to a writer, once, and never tried again', async () => {
    const file = makeFile()
    const close = failClose('EIO')
    expect(await errorOf(() => file.close())).toMatchObject({ code: 'IO', where: { file: file.name } })
    file.close()
    expect(close).toHaveBeenCalledTimes(1)
  })

  test('is nothing to a reader', () => {
    const file = makeFile(LENGTH, { write: false })
    failClose('EIO')
    file.close()
  })
})

const native = sys()
describe.skipIf(!native)(
  native ? 'the native calls' : 'the native calls (skipped: koffi is missing: npm install koffi)',
  () => {
    const calls = native as Sys

    test('a signal in the middle of them is no failure', async () => {
      const [from, to] = [makeFile(), makeFile()]
      vi.spyOn(calls, 'copyFileRange').mockReturnValueOnce(-ERRNO.EINTR)
      expect(await to.copyFrom(from, 0, 100, 3000)).toBe(3000)
      expect(fs.readFileSync(to.name).subarray(100, 3100)).toEqual(
        Buffer.from(patternFor(0, LENGTH, 3).subarray(0, 3000)),
      )
      const fallocate = vi.spyOn(calls, 'fallocate').mockResolvedValueOnce(-ERRNO.EINTR)
      await to.deallocate(0, 4096)
      expect(fallocate).toHaveBeenCalledTimes(2)
      expect(
        fs
          .readFileSync(to.name)
          .subarray(0, 4096)
          .every((byte) => byte === 0),
      ).toBe(true)
      for (const file of [from, to]) file.close()
    })

    test('a copy that fails by the kernel tells which file it is that cannot be read', async () => {
      const [from, to] = [makeFile(), makeFile()]
      vi.spyOn(calls, 'copyFileRange').mockReturnValue(-ERRNO.EIO)
      expect(await to.copyFrom(from, 0, 0, 3000)).toBe(3000)
      failing('readSync', 'EIO')
      const error = await errorOf(() => to.copyFrom(from, 0, 0, 3000))
      expect(error).toMatchObject({ code: 'IO', where: { file: from.name } })
      expect(error.message).toMatch(/^Cannot read /)
      for (const file of [from, to]) file.close()
    })

    test('a copy for which there is no room says so', async () => {
      const [from, to] = [makeFile(), makeFile()]
      vi.spyOn(calls, 'copyFileRange').mockReturnValue(-ERRNO.ENOSPC)
      expect(await errorOf(() => to.copyFrom(from, 0, 0, 3000))).toMatchObject({
        code: 'NO_SPACE',
        where: { file: to.name },
      })
      for (const file of [from, to]) file.close()
    })

    test('a long copy is made beside this thread: by the thread that copies, or by the kernel where it may share room', async () => {
      const [from, to] = [makeFile(POOLED), makeFile()]
      const thread = vi.spyOn(CopyThread.get(), 'copy')
      const kernel = vi.spyOn(calls, 'copyFileRangeLater')
      const shares = vi.spyOn(fs, 'statfsSync').mockReturnValue({ type: 0x58465342 } as fs.StatsFs)
      // XFS: at once, since it may take no time; in line with others, on a thread of the pool.
      expect(await to.copyFrom(from, 0, 0, POOLED)).toBe(POOLED)
      const served = HostFile.open(to.name, { write: true, waiting: 'defer' })
      expect(await served.copyFrom(from, 0, POOLED, POOLED)).toBe(POOLED)
      expect(kernel).toHaveBeenCalled()
      expect(thread).not.toHaveBeenCalled()
      shares.mockReturnValue({ type: 0xef53 } as fs.StatsFs)
      const plain = HostFile.open(to.name, { write: true })
      kernel.mockClear()
      expect(await plain.copyFrom(from, 0, 2 * POOLED, POOLED)).toBe(POOLED)
      expect(kernel).not.toHaveBeenCalled()
      expect(thread).toHaveBeenCalledTimes(1)
      const whole = fs.readFileSync(from.name)
      expect(fs.readFileSync(to.name).equals(Buffer.concat([whole, whole, whole]))).toBe(true)
      for (const file of [from, to, served, plain]) file.close()
    })

    test('where the kernel cannot join two files the thread that copies can', async () => {
      const [from, to] = [makeFile(POOLED), makeFile()]
      vi.spyOn(fs, 'statfsSync').mockReturnValue({ type: 0x58465342 } as fs.StatsFs)
      const thread = vi.spyOn(CopyThread.get(), 'copy')
      vi.spyOn(calls, 'copyFileRange').mockReturnValue(-ERRNO.EXDEV)
      vi.spyOn(calls, 'copyFileRangeLater').mockResolvedValue(-ERRNO.EXDEV)
      expect(await to.copyFrom(from, 0, 0, POOLED)).toBe(POOLED)
      expect(thread).toHaveBeenCalledTimes(1)
      expect(fs.readFileSync(to.name).equals(fs.readFileSync(from.name))).toBe(true)
      for (const file of [from, to]) file.close()
    })

    test('room is reserved without a change to what is there, once a signal lets it; what cannot be said why', async () => {
      const file = makeFile()
      const fallocate = vi.spyOn(calls, 'fallocate').mockResolvedValueOnce(-ERRNO.EINTR)
      await file.allocate(1000, 100_000)
      expect(fallocate).toHaveBeenCalledTimes(2)
      expect(file.size()).toBe(101_000)
      expect(Buffer.compare(fs.readFileSync(file.name).subarray(0, LENGTH), patternFor(0, LENGTH, 3))).toBe(0)
      for (const [errno, code] of [
        [ERRNO.EOPNOTSUPP, 'UNSUPPORTED'],
        [ERRNO.ENOSYS, 'UNSUPPORTED'],
        [ERRNO.ENOSPC, 'NO_SPACE'],
        [ERRNO.EIO, 'IO'],
      ] as const) {
        fallocate.mockResolvedValueOnce(-errno)
        expect(await errorOf(() => file.allocate(1000, 5))).toMatchObject({
          code,
          where: { file: file.name, at: 1000 },
        })
      }
      const reader = HostFile.open(file.name)
      expect((await errorOf(() => reader.allocate(0, 5))).code).toBe('READ_ONLY')
      for (const one of [file, reader]) one.close()
    })

    test('holes are told where they begin and end; what has become shorter meanwhile is not believed', async () => {
      const file = makeFile(1 << 20)
      const seek = { data: vi.spyOn(calls, 'seekData'), hole: vi.spyOn(calls, 'seekHole') }
      seek.data.mockReturnValueOnce(8192)
      expect(file.segment(4096)).toEqual({ kind: 'hole', length: 4096 })
      seek.data.mockReturnValueOnce(-ERRNO.ENXIO)
      expect(file.segment(4096)).toEqual({ kind: 'hole', length: (1 << 20) - 4096 })
      seek.data.mockReturnValueOnce(-ERRNO.EINVAL)
      expect(file.segment(4096)).toEqual({ kind: 'data', length: (1 << 20) - 4096 })
      seek.data.mockReturnValueOnce(4096)
      seek.hole.mockReturnValueOnce(-ERRNO.EIO)
      expect(file.segment(4096)).toEqual({ kind: 'data', length: (1 << 20) - 4096 })
      seek.data.mockReturnValueOnce(4096)
      seek.hole.mockReturnValueOnce(12_288)
      expect(file.segment(4096)).toEqual({ kind: 'data', length: 8192 })
      expect(await errorOf(() => file.segment(1 << 20))).toMatchObject({
        code: 'OUT_OF_RANGE',
        where: { file: file.name, at: 1 << 20 },
      })
      file.close()
    })

    test('a time that cannot be set is told', async () => {
      const file = makeFile()
      vi.spyOn(calls, 'setModified').mockReturnValueOnce(-ERRNO.EIO)
      expect(await errorOf(() => file.setModified(5n))).toMatchObject({ code: 'IO', where: { file: file.name } })
      file.close()
    })

    test('a medium that refuses not to wait is read all the same: one in memory at once, any other on a thread', async () => {
      for (const type of [0x01021994, 0xef53]) {
        const file = makeFile(LENGTH, { waiting: 'defer' })
        const cached = vi.spyOn(calls, 'readCached').mockReturnValue(-ERRNO.EOPNOTSUPP)
        const statfs = vi.spyOn(fs, 'statfsSync').mockReturnValue({ type } as fs.StatsFs)
        for (const at of [0, 100]) {
          const bytes = new Uint8Array(1000)
          const answer = file.read(at, bytes)
          expect(answer instanceof Promise).toBe(type === 0xef53)
          await answer
          expect(Buffer.compare(bytes, patternFor(0, LENGTH, 3).subarray(at, at + 1000))).toBe(0)
        }
        // What kind it is, is asked once.
        expect([statfs.mock.calls.length, cached.mock.calls.length]).toEqual([1, type === 0xef53 ? 2 : 1])
        vi.restoreAllMocks()
        file.close()
      }
    })

    test('a medium that cannot lock lets readers pass, and tells writers why not', async () => {
      const file = makeFile()
      for (const [errno, advice] of [
        [ERRNO.ENOLCK, 'The lock service'],
        [ERRNO.ENOSYS, 'Pass --locking=off'],
      ] as const) {
        vi.spyOn(calls, 'lockByte').mockReturnValue(-errno)
        HostFile.open(file.name, { lock: 'read' }).close()
        const error = await errorOf(() => HostFile.open(file.name, { write: true, lock: 'write' }))
        expect([error.code, error.advice]).toEqual(['REFUSED', expect.stringMatching(new RegExp(`^${advice}`))])
        expect(error.message).toContain(`errno ${errno}`)
      }
      file.close()
    })

    test('whoever holds an image is named with what it does', async () => {
      const file = makeFile()
      const use = (byte: number) => vi.spyOn(calls, 'byteIsHeld').mockImplementation((_fd, asked) => asked === byte)
      const refused = async (byte: number, lock: 'read' | 'repair') => {
        use(byte)
        const write = lock === 'repair'
        return (await errorOf(() => HostFile.open(file.name, { write, lock }))).message
      }
      // [QEMU, block/file-posix.c] 100: it reads; 101: it writes; 201: it does not share writing.
      expect(await refused(100, 'repair')).toBe(`Cannot open ${file.name} for writing: another program reads it`)
      expect(await refused(101, 'repair')).toContain('another program is writing to it')
      expect(await refused(200, 'read')).toBe(
        `Cannot open ${file.name} for reading: another program has it open and does not allow that`,
      )
      file.close()
    })

    test('room that cannot be given back is overwritten with zeros', async () => {
      const file = makeFile()
      vi.spyOn(calls, 'fallocate').mockResolvedValue(-ERRNO.EIO)
      await file.deallocate(10, 3000)
      expect(
        fs
          .readFileSync(file.name)
          .subarray(10, 3010)
          .every((byte) => byte === 0),
      ).toBe(true)
      failing('writeSync', 'EIO')
      expect(await errorOf(() => file.deallocate(10, 3000))).toMatchObject({ code: 'IO' })
      file.close()
    })
  },
)

describe('a block device', () => {
  test('has the size that it has', async () => {
    const file = makeFile()
    Object.assign(file, { isDevice: true })
    if (sys()) expect(file.size()).toBe(LENGTH)
    vi.spyOn(HostFile.prototype, 'size').mockReturnValue(LENGTH)
    file.truncate(LENGTH - 1000)
    file.truncate(LENGTH)
    expect(await errorOf(() => file.truncate(LENGTH + 1))).toMatchObject({
      code: 'NO_SPACE',
      where: { file: file.name, at: LENGTH + 1 },
    })
    expect(fs.statSync(file.name).size).toBe(LENGTH)
    file.close()
  })
})

describe('a file that need not be durable', () => {
  test('is flushed by nobody', async () => {
    const calls = (['fdatasyncSync', 'fsyncSync'] as const).map((call) => vi.spyOn(fs, call))
    const native = sys()
    const begin = native && vi.spyOn(native, 'startWriting')
    const file = makeFile(LENGTH, { durable: false })
    await file.write(0, new Uint8Array(10))
    file.hasten()
    await file.flush()
    file.restamp(1_600_000_000)
    file.setModified(1_700_000_000_000_000_000n)
    expect(file.stamp().modified).toBe(1_700_000_000_000_000_000n)
    file.close()
    for (const call of calls) expect(call).not.toHaveBeenCalled()
    if (begin) expect(begin).not.toHaveBeenCalled()
  })
})
