import { describe, expect, test } from 'vitest'
import { OPCODE } from '../../fuse/protocol.ts'
import { requestBytes } from '../support/fuse-messages.ts'
import { bodyOf, DISK, errorOf, makeSession } from '../support/fuse-session.ts'

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
