import { describe, expect, test } from 'vitest'
import { Frame } from '../../fuse/frame.ts'
import { attributesOut, directoryEntry, entryOut, initOut, statfsOut } from '../../fuse/messages.ts'
import { OPCODE } from '../../fuse/protocol.ts'
import { Session } from '../../fuse/session.ts'
import { Tree } from '../../fuse/tree.ts'
import { type ErrorCode, run, runSync, VdiskError } from '../../lib/index.ts'
import { frameOf, hex, requestBytes, transfer, writeBody } from '../support/fuse-messages.ts'
import { MemoryDevice } from '../support/memory-device.ts'

/** The disk in the folder of the mount. */
const DISK = 2

function makeSession(options: { size?: number; writable?: boolean; shared?: boolean; name?: string } = {}) {
  const device = new MemoryDevice(options.size ?? 65536, options)
  const tree = Tree.ofFolder()
  tree.addFile(options.name ?? 'disk.raw', device)
  const log: string[] = []
  const owner = { uid: 1000, gid: 100, shared: options.shared ?? false }
  const session = new Session(tree, { owner, log: (message) => log.push(message) })
  /** Bytes in, bytes out: the whole reply, in a copy. */
  const ask = (message: Uint8Array): Buffer => {
    const reply = runSync(session.handle(frameOf(message))) as Frame
    const bytes = Buffer.from(reply.bytes.subarray(0, reply.length))
    session.recycle(reply)
    return bytes
  }
  return { device, session, log, ask }
}

/** The error of a reply: 0 or a negative number. It must say its own length. */
function errorOf(reply: Buffer): number {
  expect(reply.readUInt32LE(0)).toBe(reply.length)
  return reply.readInt32LE(4)
}

const bodyOf = (reply: Buffer): Buffer => reply.subarray(16)

describe('INIT', () => {
  test('a kernel of 7.45 is answered in 7.31, with those of its flags that we use', () => {
    const { ask } = makeSession()
    const reply = ask(
      hex(`68000000 1a000000 0200000000000000 0000000000000000 00000000 00000000 00000000 00000000
           07000000 2d000000 00000200 fbffff73 7d070000 ${'00'.repeat(44)}`),
    )
    expect(reply.toString('hex')).toBe(
      [
        '50000000',
        '00000000',
        '0200000000000000', // 80 bytes, no error, the same number
        '07000000',
        '1f000000',
        '00000200', // 7.31, readahead as offered
        '21e04400', // ASYNC_READ, BIG_WRITES, READDIRPLUS and its AUTO, ASYNC_DIO, PARALLEL_DIROPS, MAX_PAGES
        '4000',
        '3000', // 64 in the background, slow from 48
        '00001000',
        '01000000',
        '0001', // 1 MiB, nanoseconds, 256 pages
        '00'.repeat(34),
      ].join(''),
    )
  })

  test('what a kernel does not offer is not taken', () => {
    const { ask } = makeSession()
    const reply = ask(requestBytes(OPCODE.INIT, 0, '07000000 17000000 00000200 01000000'))
    expect(initOut.decode(bodyOf(reply))).toMatchObject({ major: 7, minor: 23, flags: 1 })
  })

  test('a kernel before 7.23 is refused, in words', () => {
    const { ask, log } = makeSession()
    expect(errorOf(ask(requestBytes(OPCODE.INIT, 0, '07000000 16000000 00000200 01000000')))).toBe(-71)
    expect(log).toEqual([expect.stringContaining('7.22')])
  })

  test('a kernel of a later major version learns ours', () => {
    const { ask } = makeSession()
    const reply = ask(requestBytes(OPCODE.INIT, 0, '08000000 00000000 00000200 01000000'))
    expect(initOut.decode(bodyOf(reply))).toMatchObject({ major: 7, minor: 31 })
  })
})

describe('READ', () => {
  test('is answered with the bytes behind a header of 16', () => {
    const { ask, device } = makeSession()
    device.bytes.set(hex('c0ffee42'), 0x1234)
    const reply = ask(
      hex(`50000000 0f000000 0700000000000000 0200000000000000 00000000 00000000 01000000 00000000
           0000000000000000 3412000000000000 04000000 00000000 0000000000000000 00000000 00000000`),
    )
    expect(reply.toString('hex')).toBe('14000000' + '00000000' + '0700000000000000' + 'c0ffee42')
  })

  test('lets the device write into the reply itself, and needs no promise', () => {
    const { session, device } = makeSession()
    const done = run(session.handle(frameOf(requestBytes(OPCODE.READ, DISK, transfer(4096, 4096)))))
    expect(done).toBeInstanceOf(Frame)
    expect(device.buffers[0]?.buffer).toBe((done as Frame).bytes.buffer)
    expect(device.buffers[0]?.byteOffset).toBe(16)
  })

  test('gets shorter where the disk ends, and empty behind it', () => {
    const { ask, device } = makeSession({ size: 5000 })
    device.bytes.fill(7)
    expect(bodyOf(ask(requestBytes(OPCODE.READ, DISK, transfer(4096, 4096)))).length).toBe(904)
    expect(bodyOf(ask(requestBytes(OPCODE.READ, DISK, transfer(5000, 4096)))).length).toBe(0)
    expect(bodyOf(ask(requestBytes(OPCODE.READ, DISK, transfer(2 ** 52, 4096)))).length).toBe(0)
    expect(device.calls).toEqual(['read 4096 904'])
  })

  test('of a mebibyte fits in one reply, of more is refused', () => {
    const { ask } = makeSession({ size: 3 << 20 })
    expect(bodyOf(ask(requestBytes(OPCODE.READ, DISK, transfer(0, 1 << 20)))).length).toBe(1 << 20)
    expect(errorOf(ask(requestBytes(OPCODE.READ, DISK, transfer(0, (1 << 20) + 1))))).toBe(-22)
  })

  test('of a folder or an unknown node is refused', () => {
    const { ask } = makeSession()
    expect(errorOf(ask(requestBytes(OPCODE.READ, 1, transfer(0, 512))))).toBe(-21)
    expect(errorOf(ask(requestBytes(OPCODE.READ, 99, transfer(0, 512))))).toBe(-2)
    expect(errorOf(ask(requestBytes(OPCODE.READ, 2 ** 32 + DISK, transfer(0, 512))))).toBe(-2)
  })
})

describe('WRITE', () => {
  test('writes what is in the request, from the request buffer, and tells how much', () => {
    const { session, device } = makeSession()
    const request = frameOf(
      hex(`54000000 10000000 0900000000000000 0200000000000000 00000000 00000000 01000000 00000000
           0000000000000000 0010000000000000 04000000 00000000 0000000000000000 00000000 00000000 deadbeef`),
    )
    const reply = runSync(session.handle(request)) as Frame
    expect(Buffer.from(reply.bytes.subarray(0, reply.length)).toString('hex')).toBe(
      '18000000' + '00000000' + '0900000000000000' + '0400000000000000',
    )
    expect(Buffer.from(device.bytes.subarray(4096, 4100)).toString('hex')).toBe('deadbeef')
    expect(device.buffers[0]?.buffer).toBe(request.bytes.buffer)
  })

  test('ends where the disk ends; behind it there is no space', () => {
    const { ask, device } = makeSession({ size: 5000 })
    const reply = ask(requestBytes(OPCODE.WRITE, DISK, writeBody(4990, new Uint8Array(100).fill(1))))
    expect(bodyOf(reply).readUInt32LE(0)).toBe(10)
    expect(errorOf(ask(requestBytes(OPCODE.WRITE, DISK, writeBody(5000, new Uint8Array(1)))))).toBe(-28)
    expect(device.calls).toEqual(['write 4990 10'])
  })

  test('that promises more bytes than it brings writes none', () => {
    const { ask, device } = makeSession()
    expect(errorOf(ask(requestBytes(OPCODE.WRITE, DISK, Buffer.concat([transfer(0, 512), Buffer.alloc(511)]))))).toBe(
      -22,
    )
    expect(device.calls).toEqual([])
  })
})

describe('errors', () => {
  test.each<[ErrorCode, number]>([
    ['NO_SPACE', -28],
    ['READ_ONLY', -30],
    ['OUT_OF_RANGE', -22],
    ['UNSUPPORTED', -95],
    ['IN_USE', -16],
    ['IO', -5],
    ['CORRUPT', -5],
    ['PARENT_MISSING', -5],
  ])('%s becomes error number %i, and its words go to the log', (code, errno) => {
    const { ask, device, log } = makeSession()
    device.before = () => {
      throw new VdiskError(code, { message: 'Cannot do it: a test says so', advice: 'Ask the test.' })
    }
    const reply = ask(requestBytes(OPCODE.WRITE, DISK, writeBody(512, new Uint8Array(3))))
    expect(errorOf(reply)).toBe(errno)
    expect(reply.length).toBe(16)
    expect(log).toEqual(['WRITE of 3 bytes at 512 failed: Cannot do it: a test says so. Ask the test.'])
  })

  test('an error that is not ours becomes EIO, with its stack in the log', () => {
    const { ask, device, log } = makeSession()
    device.before = () => {
      throw new TypeError('a mistake')
    }
    expect(errorOf(ask(requestBytes(OPCODE.READ, DISK, transfer(0, 512))))).toBe(-5)
    expect(log[0]).toMatch(/a mistake[\s\S]*memory-device|a mistake[\s\S]*session\.test/)
  })

  test('an error that comes later is answered all the same', async () => {
    const { session, device } = makeSession()
    device.before = () => Promise.reject(new VdiskError('IO', { message: 'Cannot read: the medium is gone' }))
    const reply = await run(session.handle(frameOf(requestBytes(OPCODE.READ, DISK, transfer(0, 512), 77))))
    expect(reply?.view.getInt32(4, true)).toBe(-5)
    expect(reply?.view.getUint32(8, true)).toBe(77)
    expect(reply?.length).toBe(16)
  })

  test('an unknown request is answered with ENOSYS', () => {
    expect(errorOf(makeSession().ask(requestBytes(4242, 1)))).toBe(-38)
    expect(errorOf(makeSession().ask(requestBytes(22, DISK, '00'.repeat(16))))).toBe(-38) // GETXATTR
  })

  test('names cannot be made or removed', () => {
    const { ask } = makeSession()
    for (const opcode of [OPCODE.CREATE, OPCODE.UNLINK, OPCODE.MKDIR, OPCODE.RENAME2]) {
      expect(errorOf(ask(requestBytes(opcode, 1, '00'.repeat(16))))).toBe(-1)
    }
  })
})

test('FORGET, BATCH_FORGET and INTERRUPT have no reply', () => {
  const { session } = makeSession()
  for (const opcode of [OPCODE.FORGET, OPCODE.BATCH_FORGET, OPCODE.INTERRUPT]) {
    expect(runSync(session.handle(frameOf(requestBytes(opcode, DISK, '00'.repeat(16)))))).toBeUndefined()
  }
})

describe('names and attributes', () => {
  test('LOOKUP finds the disk by its name, whatever letters it has', () => {
    const { ask } = makeSession({ name: 'Büro 2.raw' })
    const reply = ask(requestBytes(OPCODE.LOOKUP, 1, Buffer.from('Büro 2.raw\0')))
    expect(entryOut.decode(bodyOf(reply))).toMatchObject({ nodeId: DISK, inode: DISK, size: 65536, links: 1 })
    expect(errorOf(ask(requestBytes(OPCODE.LOOKUP, 1, Buffer.from('Buro 2.raw\0'))))).toBe(-2)
    expect(errorOf(ask(requestBytes(OPCODE.LOOKUP, DISK, Buffer.from('x\0'))))).toBe(-20)
  })

  test('GETATTR tells a size, an owner, and the room that is not holes', () => {
    const { ask, device } = makeSession({ size: 65536 })
    device.bytes.fill(1, 8192, 16384)
    const attributes = attributesOut.decode(bodyOf(ask(requestBytes(OPCODE.GETATTR, DISK, '00'.repeat(16)))))
    expect(attributes).toMatchObject({ inode: DISK, size: 65536, blocks: 16, uid: 1000, gid: 100, blockSize: 4096 })
    expect(attributes.mode.toString(8)).toBe('100600')
    expect(attributes.validSeconds).toBeGreaterThan(3600)
  })

  test('room is counted again after a change, and only then', () => {
    const { ask, device } = makeSession({ size: 8192 })
    const blocks = (): number =>
      attributesOut.decode(bodyOf(ask(requestBytes(OPCODE.GETATTR, DISK, '00'.repeat(16))))).blocks
    expect([blocks(), blocks()]).toEqual([0, 0])
    expect(device.calls).toEqual(['map 0'])
    ask(requestBytes(OPCODE.WRITE, DISK, writeBody(0, hex('01'))))
    expect(blocks()).toBe(8)
  })

  test('a file whose room cannot be counted is still there', () => {
    const { ask, device } = makeSession({ size: 8192 })
    device.before = () => {
      throw new VdiskError('CORRUPT', { message: 'Cannot read the table: it is damaged' })
    }
    const reply = ask(requestBytes(OPCODE.GETATTR, DISK, '00'.repeat(16)))
    expect(attributesOut.decode(bodyOf(reply))).toMatchObject({ size: 8192, blocks: 16 })
  })

  test('others may read if the owner says so, and nobody may write to a disk for reading', () => {
    const modeOf = (options: Parameters<typeof makeSession>[0], id: number): string =>
      attributesOut
        .decode(bodyOf(makeSession(options).ask(requestBytes(OPCODE.GETATTR, id, '00'.repeat(16)))))
        .mode.toString(8)
    expect(modeOf({}, 1)).toBe('40500')
    expect(modeOf({ shared: true }, 1)).toBe('40555')
    expect(modeOf({ shared: true }, DISK)).toBe('100644')
    expect(modeOf({ shared: true, writable: false }, DISK)).toBe('100444')
  })

  test('bytes of earlier replies do not show through', () => {
    const { ask, device } = makeSession()
    device.bytes.fill(0xff)
    ask(requestBytes(OPCODE.READ, DISK, transfer(0, 4096)))
    const entry = bodyOf(ask(requestBytes(OPCODE.LOOKUP, 1, Buffer.from('disk.raw\0'))))
    expect(entry.readUInt32LE(32)).toBe(0) // entry_valid_nsec, which no field covers
    expect(entry.readUInt32LE(36)).toBe(0)
  })
})

describe('SETATTR', () => {
  const setSize = (size: number): Buffer => {
    const body = Buffer.alloc(88)
    body.writeUInt32LE(1 << 3, 0)
    body.writeBigUInt64LE(BigInt(size), 16)
    return body
  }

  test('to the size it has is granted; any other is not, and nothing happens', () => {
    const { ask, device, log } = makeSession({ size: 8192 })
    expect(attributesOut.decode(bodyOf(ask(requestBytes(OPCODE.SETATTR, DISK, setSize(8192))))).size).toBe(8192)
    expect(log).toEqual([])
    expect(errorOf(ask(requestBytes(OPCODE.SETATTR, DISK, setSize(0))))).toBe(-1)
    expect(errorOf(ask(requestBytes(OPCODE.SETATTR, DISK, setSize(16384))))).toBe(-1)
    expect(log.length).toBe(2)
    expect(device.calls.filter((call) => !call.startsWith('map'))).toEqual([])
  })

  test('of times is kept; of an owner or of permissions is refused unless it changes nothing', () => {
    const { ask } = makeSession()
    const body = Buffer.alloc(88)
    body.writeUInt32LE(1 << 5, 0)
    body.writeBigUInt64LE(1_000_000_000n, 40)
    body.writeUInt32LE(500_000_000, 60)
    const set = attributesOut.decode(bodyOf(ask(requestBytes(OPCODE.SETATTR, DISK, body))))
    expect(set).toMatchObject({ modified: 1_000_000_000, modifiedNanos: 500_000_000 })
    body.writeBigInt64LE(-1n, 40)
    expect(errorOf(ask(requestBytes(OPCODE.SETATTR, DISK, body)))).toBe(-22)

    const owner = Buffer.alloc(88)
    owner.writeUInt32LE((1 << 0) | (1 << 1), 0)
    owner.writeUInt32LE(0o100600, 68)
    owner.writeUInt32LE(1000, 76)
    expect(errorOf(ask(requestBytes(OPCODE.SETATTR, DISK, owner)))).toBe(0)
    owner.writeUInt32LE(1001, 76)
    expect(errorOf(ask(requestBytes(OPCODE.SETATTR, DISK, owner)))).toBe(-1)
  })
})

describe('opening', () => {
  test('for writing is refused where the disk cannot be written', () => {
    const { ask } = makeSession({ writable: false })
    expect(errorOf(ask(requestBytes(OPCODE.OPEN, DISK, '00000000 00000000')))).toBe(0)
    expect(errorOf(ask(requestBytes(OPCODE.OPEN, DISK, '01000000 00000000')))).toBe(-30)
    expect(errorOf(ask(requestBytes(OPCODE.OPEN, DISK, '02000000 00000000')))).toBe(-30)
  })

  test('keeps what the kernel has in its cache', () => {
    const reply = makeSession().ask(requestBytes(OPCODE.OPEN, DISK, '02000000 00000000'))
    expect(bodyOf(reply).toString('hex')).toBe('0000000000000000' + '02000000' + '00000000')
  })

  test('knows folders from files', () => {
    const { ask } = makeSession()
    expect(errorOf(ask(requestBytes(OPCODE.OPEN, 1, '00000000 00000000')))).toBe(-21)
    expect(errorOf(ask(requestBytes(OPCODE.OPENDIR, DISK, '00000000 00000000')))).toBe(-20)
    expect(errorOf(ask(requestBytes(OPCODE.OPENDIR, 1, '00000000 00000000')))).toBe(0)
  })
})

describe('folders', () => {
  const namesOf = (body: Buffer, prefix = 0): [string, number, number][] => {
    const entries: [string, number, number][] = []
    for (let at = 0; at < body.length; ) {
      const { inode, next, nameLength } = directoryEntry.decode(body.subarray(at + prefix))
      const name = body.subarray(at + prefix + 24, at + prefix + 24 + nameLength).toString('utf8')
      entries.push([name, inode, next])
      at += (prefix + 24 + nameLength + 7) & ~7
    }
    return entries
  }

  test('READDIR lists the folder, itself and its parent first', () => {
    const reply = makeSession().ask(requestBytes(OPCODE.READDIR, 1, transfer(0, 4096)))
    expect(bodyOf(reply).toString('hex')).toBe(
      [
        '0100000000000000',
        '0100000000000000',
        '01000000',
        '04000000',
        '2e00000000000000',
        '0100000000000000',
        '0200000000000000',
        '02000000',
        '04000000',
        '2e2e000000000000',
        '0200000000000000',
        '0300000000000000',
        '08000000',
        '08000000',
        '6469736b2e726177',
      ].join(''),
    )
  })

  test('READDIR goes on where it stopped for want of room', () => {
    const { ask } = makeSession()
    const first = namesOf(bodyOf(ask(requestBytes(OPCODE.READDIR, 1, transfer(0, 70)))))
    expect(first).toEqual([
      ['.', 1, 1],
      ['..', 1, 2],
    ])
    expect(namesOf(bodyOf(ask(requestBytes(OPCODE.READDIR, 1, transfer(2, 70)))))).toEqual([['disk.raw', 2, 3]])
    expect(bodyOf(ask(requestBytes(OPCODE.READDIR, 1, transfer(3, 70)))).length).toBe(0)
  })

  test('READDIRPLUS brings attributes, and ids for all but itself and its parent', () => {
    const body = bodyOf(makeSession().ask(requestBytes(OPCODE.READDIRPLUS, 1, transfer(0, 4096))))
    expect(namesOf(body, 128).map(([name]) => name)).toEqual(['.', '..', 'disk.raw'])
    expect(entryOut.decode(body.subarray(0)).nodeId).toBe(0)
    expect(entryOut.decode(body.subarray(320))).toMatchObject({ nodeId: DISK, size: 65536 })
  })
})

describe('holes', () => {
  const seek = (offset: number, whence: number): Buffer => {
    const body = Buffer.alloc(24)
    body.writeBigUInt64LE(BigInt(offset), 8)
    body.writeUInt32LE(whence, 16)
    return Buffer.from(requestBytes(OPCODE.LSEEK, DISK, body))
  }
  const DATA = 3
  const HOLE = 4

  test('LSEEK finds data and holes; the end is a hole, and no data follows the last', () => {
    const { ask, device } = makeSession({ size: 32768 })
    device.bytes.fill(1, 8192, 12288)
    const find = (offset: number, whence: number): number =>
      Number(bodyOf(ask(seek(offset, whence))).readBigUInt64LE(0))
    expect(find(0, DATA)).toBe(8192)
    expect(find(9000, DATA)).toBe(9000)
    expect(find(0, HOLE)).toBe(0)
    expect(find(8192, HOLE)).toBe(12288)
    device.bytes.fill(1, 12288)
    expect(find(8192, HOLE)).toBe(32768)
    device.bytes.fill(0)
    expect(errorOf(ask(seek(0, DATA)))).toBe(-6)
    expect(errorOf(ask(seek(32768, HOLE)))).toBe(-6)
    expect(errorOf(ask(seek(0, 2)))).toBe(-22)
  })

  const allocate = (offset: number, length: number, mode: number): Buffer => {
    const body = Buffer.alloc(32)
    body.writeBigUInt64LE(BigInt(offset), 8)
    body.writeBigUInt64LE(BigInt(length), 16)
    body.writeUInt32LE(mode, 24)
    return Buffer.from(requestBytes(OPCODE.FALLOCATE, DISK, body))
  }
  const KEEP_SIZE = 1
  const PUNCH_HOLE = 2
  const ZERO_RANGE = 16

  test('FALLOCATE erases where a hole is punched or zeros are wanted, as far as the disk goes', () => {
    const { ask, device } = makeSession({ size: 32768 })
    expect(errorOf(ask(allocate(4096, 8192, PUNCH_HOLE | KEEP_SIZE)))).toBe(0)
    expect(errorOf(ask(allocate(100, 200, ZERO_RANGE | KEEP_SIZE)))).toBe(0)
    expect(errorOf(ask(allocate(100, 200, ZERO_RANGE)))).toBe(0)
    expect(errorOf(ask(allocate(32000, 8192, PUNCH_HOLE | KEEP_SIZE)))).toBe(0)
    expect(errorOf(ask(allocate(40000, 8192, PUNCH_HOLE | KEEP_SIZE)))).toBe(0)
    expect(device.calls).toEqual(['erase 4096 8192', 'erase 100 200', 'erase 100 200', 'erase 32000 768'])
  })

  test('FALLOCATE cannot take room in advance, cut a piece out, or make the disk larger', () => {
    const { ask, device } = makeSession({ size: 32768 })
    expect(errorOf(ask(allocate(0, 4096, 0)))).toBe(-95)
    expect(errorOf(ask(allocate(0, 4096, KEEP_SIZE)))).toBe(-95)
    expect(errorOf(ask(allocate(0, 4096, 8)))).toBe(-95)
    expect(errorOf(ask(allocate(32000, 4096, ZERO_RANGE)))).toBe(-28)
    expect(device.calls).toEqual([])
  })
})

describe('durability', () => {
  const write = requestBytes(OPCODE.WRITE, DISK, writeBody(0, hex('01')))
  const close = requestBytes(OPCODE.FLUSH, DISK, '00'.repeat(24))
  const sync = requestBytes(OPCODE.FSYNC, DISK, '00'.repeat(16))
  const flushes = (device: MemoryDevice): number => device.calls.filter((call) => call === 'flush').length

  test('FSYNC flushes, always', () => {
    const { ask, device } = makeSession()
    ask(sync)
    ask(sync)
    expect(flushes(device)).toBe(2)
  })

  test('closing flushes if something was written, and tells the error', () => {
    const { ask, device } = makeSession()
    ask(close)
    expect(flushes(device)).toBe(0)
    ask(write)
    ask(close)
    ask(close)
    expect(flushes(device)).toBe(1)
    ask(write)
    device.before = (call) => {
      if (call === 'flush') throw new VdiskError('IO', { message: 'Cannot flush: the medium is gone' })
      return undefined
    }
    expect(errorOf(ask(close))).toBe(-5)
    expect(errorOf(ask(close))).toBe(-5)
  })

  test('a write that ends after a flush began is covered by the next', async () => {
    const { session, ask, device } = makeSession()
    const end = deferred()
    device.before = (call) => (call.startsWith('write') ? end.promise : undefined)
    const writing = run(session.handle(frameOf(write)))
    device.before = () => undefined
    ask(sync)
    end.resolve()
    await writing
    ask(close)
    expect(flushes(device)).toBe(2)
  })

  test('a write that ends while a flush runs is covered by the next', async () => {
    const { session, ask, device } = makeSession()
    const end = deferred()
    device.before = (call) => (call === 'flush' ? end.promise : undefined)
    const flushing = run(session.handle(frameOf(sync)))
    ask(write)
    end.resolve()
    await flushing
    device.before = () => undefined
    ask(close)
    expect(flushes(device)).toBe(2)
  })

  test('DESTROY flushes what was written', () => {
    const { ask, device } = makeSession()
    expect(errorOf(ask(requestBytes(OPCODE.DESTROY, 0)))).toBe(0)
    expect(flushes(device)).toBe(1)
  })
})

test('a slow device has several requests in flight, and they may end in any order', async () => {
  const { session, device } = makeSession()
  device.bytes.set(hex('0a'), 0)
  device.bytes.set(hex('0b'), 512)
  const waits = [deferred(), deferred(), deferred()]
  let calls = 0
  device.before = () => waits[calls++]?.promise
  const ended: number[] = []
  const ask = async (offset: number, unique: number): Promise<Frame> => {
    const reply = (await run(
      session.handle(frameOf(requestBytes(OPCODE.READ, DISK, transfer(offset, 1), unique))),
    )) as Frame
    ended.push(unique)
    return reply
  }
  const replies = [ask(0, 10), ask(512, 11), ask(1024, 12)]
  expect(device.calls).toEqual(['read 0 1', 'read 512 1', 'read 1024 1'])
  for (const index of [2, 0, 1]) {
    waits[index]?.resolve()
    await replies[index]
  }
  expect(ended).toEqual([12, 10, 11])
  const [first, second] = (await Promise.all(replies)) as [Frame, Frame, Frame]
  expect([first.bytes[16], second.bytes[16]]).toEqual([0x0a, 0x0b])
  expect(new Set((await Promise.all(replies)).map((reply) => reply.bytes)).size).toBe(3)
})

test('STATFS shows a full file system of the size of the disk', () => {
  const reply = makeSession({ size: 1 << 20 }).ask(requestBytes(OPCODE.STATFS, 1))
  expect(statfsOut.decode(bodyOf(reply))).toMatchObject({
    blocks: 256,
    freeBlocks: 0,
    availableBlocks: 0,
    nameLength: 255,
  })
})

test('ACCESS for writing is refused where the disk cannot be written', () => {
  expect(errorOf(makeSession({ writable: false }).ask(requestBytes(OPCODE.ACCESS, DISK, '02000000 00000000')))).toBe(
    -30,
  )
  expect(errorOf(makeSession({ writable: false }).ask(requestBytes(OPCODE.ACCESS, DISK, '04000000 00000000')))).toBe(0)
  expect(errorOf(makeSession().ask(requestBytes(OPCODE.ACCESS, DISK, '06000000 00000000')))).toBe(0)
})

test('where the mountpoint is a file, the disk is the root', () => {
  const device = new MemoryDevice(4096)
  const session = new Session(Tree.ofFile(device), { owner: { uid: 0, gid: 0, shared: false }, log: () => {} })
  const reply = runSync(session.handle(frameOf(requestBytes(OPCODE.GETATTR, 1, '00'.repeat(16))))) as Frame
  expect(attributesOut.decode(reply.bytes.subarray(16)).mode.toString(8)).toBe('100600')
  const read = runSync(session.handle(frameOf(requestBytes(OPCODE.READ, 1, transfer(0, 512))))) as Frame
  expect(read.length).toBe(16 + 512)
})

function deferred(): { promise: Promise<void>; resolve: () => void } {
  let resolve = (): void => {}
  const promise = new Promise<void>((done) => {
    resolve = done
  })
  return { promise, resolve }
}
