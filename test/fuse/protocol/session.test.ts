import { describe, expect, test } from 'vitest'
import { Frame } from '../../../fuse/protocol/frame.ts'
import { attributesOut } from '../../../fuse/protocol/messages.ts'
import { OPCODE } from '../../../fuse/protocol/protocol.ts'
import { Session } from '../../../fuse/protocol/session.ts'
import { Tree } from '../../../fuse/tree/tree.ts'
import { type ErrorCode, run, runSync, VdiskError } from '../../../lib/index.ts'
import { frameOf, hex, requestBytes, transfer, writeBody } from '../../support/fuse-messages.ts'
import { bodyOf, DISK, deferred, errorOf, makeSession } from '../../support/fuse-session.ts'
import { MemoryDevice } from '../../support/memory-device.ts'

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

test('where the mountpoint is a file, the disk is the root', () => {
  const device = new MemoryDevice(4096)
  const session = new Session(Tree.ofFile(device), { owner: { uid: 0, gid: 0, shared: false }, log: () => {} })
  const reply = runSync(session.handle(frameOf(requestBytes(OPCODE.GETATTR, 1, '00'.repeat(16))))) as Frame
  expect(attributesOut.decode(reply.bytes.subarray(16)).mode.toString(8)).toBe('100600')
  const read = runSync(session.handle(frameOf(requestBytes(OPCODE.READ, 1, transfer(0, 512))))) as Frame
  expect(read.length).toBe(16 + 512)
})
