import { describe, expect, onTestFinished, test } from 'vitest'
import { findNext } from '../../../fuse/protocol/extents.ts'
import { copyRangeIn, fallocateIn, writeOut } from '../../../fuse/protocol/messages.ts'
import { OPCODE } from '../../../fuse/protocol/protocol.ts'
import { Content } from '../../../fuse/tree/content.ts'
import { promised, VdiskError } from '../../../lib/index.ts'
import { requestBytes, transfer, writeBody } from '../../support/fuse-messages.ts'
import { bodyOf, DISK, errorOf, makeSession } from '../../support/fuse-session.ts'
import { MemoryDevice } from '../../support/memory-device.ts'

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

  test('are looked for over thousands of extents, and others have their turn meanwhile', async () => {
    const GRANULE = 4096
    const device = new MemoryDevice(3000 * GRANULE)
    device.bytes.fill(1, 0, 2999 * GRANULE)
    const map = device.map.bind(device)
    device.map = (offset) => map(offset, GRANULE)
    let turns = 0
    let other = setImmediate(function again() {
      turns++
      other = setImmediate(again)
    })
    onTestFinished(() => clearImmediate(other))
    expect(await promised(findNext(device, 0, 'hole'))).toBe(2999 * GRANULE)
    expect(turns).toBeGreaterThan(0)
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

describe('COPY_FILE_RANGE', () => {
  const copy = (id: number, from: number, target: number, to: number, length: number, flags = 0): Uint8Array =>
    requestBytes(OPCODE.COPY_FILE_RANGE, id, copyRangeIn.encode({ from, targetNode: target, to, length, flags }))
  const copiedOf = (reply: Buffer): number => writeOut.decode(bodyOf(reply)).size

  function makeTwo() {
    const made = makeSession({ size: 32768 })
    const other = new MemoryDevice(32768)
    const { id } = made.tree.addFile('other.raw', other)
    made.device.bytes.fill(5, 4096, 8192)
    made.device.bytes.fill(6, 20000, 20480)
    other.bytes.fill(9)
    return { ...made, other, otherId: id }
  }

  test('copies what is there, and holes as holes', () => {
    const { ask, device, other, otherId } = makeTwo()
    expect(copiedOf(ask(copy(DISK, 1000, otherId, 2000, 20000)))).toBe(20000)
    expect(Buffer.from(other.bytes.subarray(2000, 22000)).equals(device.bytes.subarray(1000, 21000))).toBe(true)
    expect([other.bytes[1999], other.bytes[22000]]).toEqual([9, 9])
    expect(other.calls.filter((call) => call.startsWith('erase'))).toEqual([
      'erase 2000 3096',
      'erase 9192 8192',
      'erase 21480 520',
    ])
    expect(other.calls.filter((call) => call.startsWith('write'))).toEqual(['write 5096 4096', 'write 17384 4096'])
  })

  test('ends where one of the disks ends, and takes no more at a time than others can wait for', () => {
    const { ask, tree, otherId } = makeTwo()
    expect(copiedOf(ask(copy(DISK, 30000, otherId, 0, 99999)))).toBe(2768)
    expect(copiedOf(ask(copy(DISK, 0, otherId, 32000, 99999)))).toBe(768)
    expect(copiedOf(ask(copy(DISK, 99999, otherId, 0, 10)))).toBe(0)
    expect(errorOf(ask(copy(DISK, 0, otherId, 32768, 10)))).toBe(-28)
    const large = tree.addFile('large.raw', new MemoryDevice(20 << 20))
    const larger = tree.addFile('larger.raw', new MemoryDevice(20 << 20))
    expect(copiedOf(ask(copy(large.id, 0, larger.id, 0, 20 << 20)))).toBe(8 << 20)
  })

  test('refuses ranges of the same bytes, what is no disk, and what cannot be written', () => {
    const { ask, tree, file, device, otherId } = makeTwo()
    const window = tree.addFile('window', device, undefined, { content: file.content, start: 4096 })
    expect(errorOf(ask(copy(DISK, 8192, window.id, 0, 4097)))).toBe(-22)
    expect(copiedOf(ask(copy(DISK, 8192, window.id, 0, 4096)))).toBe(4096)
    expect(errorOf(ask(copy(DISK, 0, 1, 0, 4096)))).toBe(-22)
    expect(errorOf(ask(copy(DISK, 0, 99, 0, 4096)))).toBe(-22)
    expect(errorOf(ask(copy(DISK, 0, otherId, 0, 4096, 1)))).toBe(-22)
    const readOnly = tree.addFile('old.raw', new MemoryDevice(32768, { writable: false }))
    expect(errorOf(ask(copy(DISK, 0, readOnly.id, 0, 4096)))).toBe(-30)
  })
})

test('what is done with a disk is counted, whatever file it was done by, and what failed is kept', () => {
  const { ask, file, device, tree } = makeSession({ size: 32768 })
  const { activity } = file.content
  const view = tree.addFile('view', device, undefined, { content: new Content(device, activity), start: 0 })
  ask(requestBytes(OPCODE.READ, view.id, transfer(0, 4096)))
  ask(requestBytes(OPCODE.READ, DISK, transfer(30000, 4096)))
  ask(requestBytes(OPCODE.WRITE, DISK, writeBody(0, new Uint8Array(1000))))
  ask(requestBytes(OPCODE.FALLOCATE, DISK, fallocateIn.encode({ offset: 0, length: 4096, mode: 3 })))
  ask(requestBytes(OPCODE.FSYNC, DISK, '00'.repeat(16)))
  expect(activity).toMatchObject({ reads: 2, readBytes: 6864, writes: 1, writtenBytes: 1000, flushes: 1, errors: 0 })
  expect(activity).toMatchObject({ erases: 1, erasedBytes: 4096, failures: [] })
  device.before = () => {
    throw new VdiskError('NO_SPACE', { message: 'Cannot write: the medium is full' })
  }
  for (let n = 0; n < 25; n++) ask(requestBytes(OPCODE.WRITE, DISK, writeBody(n, new Uint8Array(3))))
  expect(activity).toMatchObject({ writes: 1, errors: 25 })
  expect(activity.failures).toHaveLength(20)
  expect(activity.failures.at(-1)).toMatchObject({
    request: 'WRITE of 3 bytes at 24',
    code: 'NO_SPACE',
    message: 'Cannot write: the medium is full',
  })
})

test('a write for which there is no room can be repeated when there is', () => {
  const { ask, device } = makeSession()
  const write = requestBytes(OPCODE.WRITE, DISK, writeBody(512, new Uint8Array(4096).fill(3)))
  device.before = () => {
    throw new VdiskError('NO_SPACE', { message: 'Cannot write: the medium is full' })
  }
  expect(errorOf(ask(write))).toBe(-28)
  device.before = () => undefined
  expect(errorOf(ask(write))).toBe(0)
  expect(device.bytes.subarray(512, 4608).every((byte) => byte === 3)).toBe(true)
})
