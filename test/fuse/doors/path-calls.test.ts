import { describe, expect, test } from 'vitest'
import { PathCalls, type Stat } from '../../../fuse/doors/path-calls.ts'
import { OPCODE } from '../../../fuse/protocol/protocol.ts'
import { Session } from '../../../fuse/protocol/session.ts'
import { Tree } from '../../../fuse/tree/tree.ts'
import { promised, runSync, VdiskError } from '../../../lib/index.ts'
import { just } from '../../../lib/io/io.ts'
import { MemoryDevice } from '../../support/memory-device.ts'
import { randomFor } from '../../support/random.ts'

const READING = 0
const BOTH = 2
const MIB = 1 << 20

function makeCalls(options: { size?: number; writable?: boolean; direct?: boolean } = {}) {
  const device = new MemoryDevice(options.size ?? 65536, options)
  const tree = Tree.ofFolder()
  const file = tree.addFile('disk.raw', device)
  const log: string[] = []
  const say = (message: string): number => log.push(message)
  const session = new Session(tree, { owner: { uid: 1000, gid: 100, shared: false }, log: say })
  const calls = new PathCalls(tree, session, { direct: options.direct ?? false, log: say })
  return { calls, device, tree, file, log, open: (flags = BOTH) => runSync(calls.open('/disk.raw', flags)) }
}

describe('a file by path', () => {
  test('is found in its folder, and nothing else is', () => {
    const { calls, tree } = makeCalls({ size: 10_000 })
    tree.addFile('inner.raw', new MemoryDevice(4096), tree.addFolder('partitions'))
    expect(calls.names('/')).toEqual(['disk.raw', 'partitions'])
    expect(calls.names('/partitions')).toEqual(['inner.raw'])
    expect(calls.names('/disk.raw')).toBe(-20)
    expect(calls.names('/nothing')).toBe(-2)
    expect(runSync(calls.stat('/disk.raw'))).toMatchObject({ size: 10_000, uid: 1000, gid: 100, mode: 0o100600 })
    expect(runSync(calls.stat('/partitions/inner.raw'))).toMatchObject({ size: 4096, ino: 4 })
    for (const path of ['/nothing', '/disk.raw/more', '/partitions/nothing']) {
      expect(runSync(calls.stat(path)), path).toBe(-2)
      expect(runSync(calls.open(path, READING)), path).toBe(-2)
    }
  })

  test('tells its times in milliseconds', () => {
    const { calls } = makeCalls()
    expect(runSync(calls.change('/disk.raw', { accessed: 1_000_000_000_001, modified: 1_234_567_890_123 }))).toBe(0)
    expect(runSync(calls.stat('/disk.raw'))).toMatchObject({ atime: 1_000_000_000_001, mtime: 1_234_567_890_123 })
    // Before 1970: the library hands over what is left of a negative number in 64 bits.
    expect(runSync(calls.change('/disk.raw', { modified: 2 ** 64 - 1000 }))).toBe(-22)
  })

  test('keeps its size, owner and mode, and says so as the session does', () => {
    const { calls, log } = makeCalls({ size: 65536 })
    expect(runSync(calls.change('/disk.raw', { size: 65536, mode: 0o600, uid: 1000, gid: 100 }))).toBe(0)
    for (const size of [0, 65535, 2 ** 33, 2 ** 63])
      expect(runSync(calls.change('/disk.raw', { size })), `${size}`).toBe(-1)
    expect(runSync(calls.change('/disk.raw', { mode: 0o644 }))).toBe(-1)
    expect(runSync(calls.change('/disk.raw', { uid: 0 }))).toBe(-1)
    expect(runSync(calls.change('/disk.raw', { gid: 0 }))).toBe(-1)
    expect(log[0]).toContain('the disk has a fixed size')
  })

  test.each(['CREATE', 'MKNOD', 'MKDIR', 'UNLINK', 'RMDIR', 'RENAME', 'LINK', 'SYMLINK'] as const)(
    'is neither made nor moved: %s',
    (name) => {
      expect(runSync(makeCalls().calls.rearrange(OPCODE[name]))).toBe(-1)
    },
  )

  test('of a disk that is only read is not opened for writing', () => {
    const { calls, open } = makeCalls({ writable: false })
    expect(open(BOTH)).toBe(-30)
    expect(open(READING)).toBe(1)
    expect(runSync(calls.access('/disk.raw', 4))).toBe(0)
    expect(runSync(calls.access('/disk.raw', 2))).toBe(-30)
  })
})

describe('an open file', () => {
  test('is read and written at any offset, in pieces that the session takes', () => {
    const { calls, device, open } = makeCalls({ size: 3 * MIB })
    const bytes = randomFor('path calls').bytes(2 * MIB + 777)
    const handle = open()
    expect(runSync(calls.write(handle, bytes, 12_345))).toBe(bytes.length)
    expect(
      Buffer.from(device.bytes)
        .subarray(12_345, 12_345 + bytes.length)
        .equals(bytes),
    ).toBe(true)
    const target = new Uint8Array(bytes.length)
    expect(runSync(calls.read(handle, target, 12_345))).toBe(bytes.length)
    expect(Buffer.from(target).equals(bytes)).toBe(true)
    expect(device.calls.filter((call) => call.startsWith('write'))).toEqual([
      `write 12345 ${MIB}`,
      `write ${12_345 + MIB} ${MIB}`,
      `write ${12_345 + 2 * MIB} 777`,
    ])
  })

  test('ends where the disk ends', () => {
    const { calls, open } = makeCalls({ size: 5000 })
    const handle = open()
    expect(runSync(calls.read(handle, new Uint8Array(4096), 4096))).toBe(904)
    expect(runSync(calls.read(handle, new Uint8Array(4096), 2 ** 40))).toBe(0)
    expect(runSync(calls.write(handle, new Uint8Array(4096), 4096))).toBe(904)
    expect(runSync(calls.write(handle, new Uint8Array(4096), 5000))).toBe(-28)
  })

  test('that is a text which cannot be made fails where it is asked for, and is whole when it can', () => {
    const { calls, tree } = makeCalls()
    let fails = true
    tree.addText('status.json', () => {
      if (fails) throw new VdiskError('IO', { message: 'Cannot tell: a test says so' })
      return just('whole')
    })
    expect(runSync(calls.stat('/status.json'))).toBe(-5)
    expect(runSync(calls.open('/status.json', READING))).toBe(-5)
    fails = false
    expect(runSync(calls.stat('/status.json'))).toMatchObject({ size: 5 })
  })

  test('that is none is not there', () => {
    const { calls } = makeCalls()
    for (const answer of [
      calls.read(99, new Uint8Array(10), 0),
      calls.write(99, new Uint8Array(10), 0),
      calls.settle(OPCODE.FSYNC, 99),
      calls.release(99),
    ])
      expect(runSync(answer)).toBe(-2)
  })

  test('says what was written before a failure, and the failure when what is left comes again', () => {
    const { calls, device, open } = makeCalls({ size: 3 * MIB })
    const handle = open()
    device.before = (call) => {
      if (call.startsWith(`write ${MIB} `)) throw new VdiskError('IO', { message: 'Cannot write: a test says so' })
      return undefined
    }
    expect(runSync(calls.write(handle, new Uint8Array(2 * MIB).fill(7), 0))).toBe(MIB)
    expect(runSync(calls.write(handle, new Uint8Array(MIB).fill(7), MIB))).toBe(-5)
    expect(device.bytes.subarray(0, MIB).every((byte) => byte === 7)).toBe(true)
  })

  test('beyond 4 GiB is not the one below', () => {
    const { calls, device, open } = makeCalls()
    Object.defineProperty(device, 'size', { value: 2 ** 33 })
    device.before = (call) => {
      throw new VdiskError('IO', { message: call })
    }
    const handle = open()
    runSync(calls.read(handle, new Uint8Array(512), 2 ** 32 + 4096))
    runSync(calls.write(handle, new Uint8Array(512), 2 ** 32 + 8192))
    expect(device.calls).toEqual([`read ${2 ** 32 + 4096} 512`, `write ${2 ** 32 + 8192} 512`])
  })

  test('that fails gives the number of the error, and its words to the log', () => {
    const { calls, device, log, open } = makeCalls()
    const handle = open()
    device.before = (call) => {
      throw new VdiskError(call.startsWith('write') ? 'NO_SPACE' : 'CORRUPT', { message: `Cannot ${call}: because` })
    }
    expect(runSync(calls.write(handle, new Uint8Array(512), 0))).toBe(-28)
    expect(runSync(calls.read(handle, new Uint8Array(512), 0))).toBe(-5)
    expect(log).toEqual([
      'WRITE of 512 bytes at 0 failed: Cannot write 0 512: because.',
      'READ of 512 bytes at 0 failed: Cannot read 0 512: because.',
    ])
  })

  test('stays the same when its name goes to another', () => {
    const { calls, device, tree, open } = makeCalls()
    const handle = open()
    tree.remove('disk.raw', tree.root as never)
    const other = new MemoryDevice(65536)
    tree.addFile('disk.raw', other)
    expect(runSync(calls.write(handle, new Uint8Array(512).fill(7), 0))).toBe(512)
    expect(device.bytes[0]).toBe(7)
    expect(other.bytes[0]).toBe(0)
    expect(runSync(calls.settle(OPCODE.FSYNC, handle))).toBe(0)
    expect(device.calls.at(-1)).toBe('flush')
  })

  test('is not open beside another with the same bytes that is written, unless nothing of either is kept', () => {
    for (const direct of [false, true]) {
      const { calls, tree, file, log } = makeCalls({ direct })
      const open = (path: string, flags: number): number => runSync(calls.open(path, flags))
      const part = (name: string, start: number): void => {
        tree.addFile(name, new MemoryDevice(4096), tree.root, { content: file.content, start }).direct = true
      }
      file.direct = true
      part('1.raw', 0)
      part('2.raw', 4096)
      const first = open('/1.raw', BOTH)
      expect(open('/2.raw', BOTH)).toBeGreaterThan(0)
      expect(open('/1.raw', BOTH)).toBeGreaterThan(0)
      expect(open('/disk.raw', READING) > 0).toBe(direct)
      if (direct) continue
      expect(log[0]).toContain('Cannot open disk.raw: 1.raw is open, and shows the same bytes')
      for (let handle = first; handle <= 3; handle++) runSync(calls.release(handle))
      // One after the other is no harm, and neither are two who only read.
      expect(open('/disk.raw', READING)).toBeGreaterThan(0)
      expect(open('/1.raw', READING)).toBeGreaterThan(0)
      expect(open('/1.raw', BOTH)).toBe(-16)
    }
  })

  test('is flushed when it is closed after a change, and by fsync always', () => {
    const { calls, device, open } = makeCalls()
    const handle = open()
    const flushes = (): number => device.calls.filter((call) => call === 'flush').length
    runSync(calls.settle(OPCODE.FLUSH, handle))
    expect(flushes()).toBe(0)
    runSync(calls.write(handle, new Uint8Array(512), 0))
    runSync(calls.settle(OPCODE.FLUSH, handle))
    expect(flushes()).toBe(1)
    runSync(calls.settle(OPCODE.FSYNC, handle))
    expect(flushes()).toBe(2)
  })

  test('has a number of its own, and none once it is closed', () => {
    const { calls, open } = makeCalls()
    const [first, second] = [open(), open()]
    expect(first).not.toBe(second)
    runSync(calls.release(first))
    expect(runSync(calls.read(first, new Uint8Array(512), 0))).toBe(-2)
    expect(runSync(calls.read(second, new Uint8Array(512), 0))).toBe(512)
  })

  test('is served while another waits, each with its own bytes', async () => {
    const { calls, device, open } = makeCalls()
    const handle = open()
    let release = (): void => {}
    device.before = (call) => (call === 'write 0 512' ? new Promise<void>((resolve) => (release = resolve)) : undefined)
    const slow = promised(calls.write(handle, new Uint8Array(512).fill(1), 0))
    expect(runSync(calls.write(handle, new Uint8Array(512).fill(2), 512))).toBe(512)
    release()
    expect(await slow).toBe(512)
    expect([device.bytes[0], device.bytes[512]]).toEqual([1, 2])
  })
})

describe('a text', () => {
  test('is as long as the text that is open, and stays what it was when it was opened', () => {
    const { calls, tree } = makeCalls()
    let said = 'one'
    tree.addText('status.json', () => just(said))
    const sizeNow = (): number => (runSync(calls.stat('/status.json')) as Stat).size
    expect(sizeNow()).toBe(3)
    const handle = runSync(calls.open('/status.json', READING))
    said = 'x'.repeat(40_000)
    expect(sizeNow()).toBe(3)
    const target = new Uint8Array(50_000)
    expect(runSync(calls.read(handle, target, 1))).toBe(2)
    expect(Buffer.from(target.subarray(0, 2)).toString()).toBe('ne')
    runSync(calls.release(handle))
    expect(sizeNow()).toBe(40_000)
  })
})

describe('the whole mount', () => {
  test.each([
    [10_000, { bsize: 4096, blocks: 3 }],
    [2 ** 44 - 4096, { bsize: 4096, blocks: 2 ** 32 - 1 }],
    [2 ** 44, { bsize: 8192, blocks: 2 ** 31 }],
    [2 ** 46, { bsize: 32768, blocks: 2 ** 31 }],
  ])('of %i bytes is counted in blocks that 32 bits can count', (size, expected) => {
    const { calls, device } = makeCalls()
    Object.defineProperty(device, 'size', { value: size })
    expect(runSync(calls.statistics())).toMatchObject({ ...expected, frsize: expected.bsize, files: 1, namemax: 255 })
  })
})
