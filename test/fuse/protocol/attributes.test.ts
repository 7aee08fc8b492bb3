import { describe, expect, test } from 'vitest'
import { attributesOut, entryOut, statfsOut } from '../../../fuse/protocol/messages.ts'
import { OPCODE } from '../../../fuse/protocol/protocol.ts'
import { just, VdiskError } from '../../../lib/index.ts'
import { hex, requestBytes, transfer, writeBody } from '../../support/fuse-messages.ts'
import { bodyOf, DISK, errorOf, makeSession, type SessionShape } from '../../support/fuse-session.ts'

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

test('the permission bits that are asked for are shown: for folders with x beside r, without w where nothing can be written', () => {
  const modesOf = (options: SessionShape): string[] => {
    const { ask } = makeSession(options)
    return [1, DISK].map((id) =>
      attributesOut.decode(bodyOf(ask(requestBytes(OPCODE.GETATTR, id, '00'.repeat(16))))).mode.toString(8),
    )
  }
  expect(modesOf({ mode: 0o640 })).toEqual(['40550', '100640'])
  expect(modesOf({ mode: 0o666, shared: true })).toEqual(['40555', '100666'])
  expect(modesOf({ mode: 0o666, writable: false })).toEqual(['40555', '100444'])
  expect(modesOf({ mode: 0o7777 })).toEqual(['40555', '100777'])
})

test('attributes of files that others show too are asked for again and again, others hold for long', () => {
  const { ask, tree, file, device } = makeSession()
  const validSeconds = (): number =>
    attributesOut.decode(bodyOf(ask(requestBytes(OPCODE.GETATTR, DISK, '00'.repeat(16))))).validSeconds
  expect(validSeconds()).toBeGreaterThan(3600)
  tree.addFile('the same', device, undefined, { content: file.content, start: 0 })
  expect(validSeconds()).toBe(0)
  const entry = entryOut.decode(bodyOf(ask(requestBytes(OPCODE.LOOKUP, 1, Buffer.from('disk.raw\0')))))
  expect(entry.attributesValidSeconds).toBe(0)
  expect(entry.entryValidSeconds).toBeGreaterThan(3600)
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

  test('of the time of access is kept, and to now means now', () => {
    const { ask } = makeSession()
    const body = Buffer.alloc(88)
    body.writeUInt32LE((1 << 4) | (1 << 5) | (1 << 8), 0)
    body.writeBigUInt64LE(999_000_000n, 32)
    body.writeUInt32LE(250_000_000, 56)
    const before = Date.now()
    const set = attributesOut.decode(bodyOf(ask(requestBytes(OPCODE.SETATTR, DISK, body))))
    expect(set).toMatchObject({ accessed: 999_000_000, accessedNanos: 250_000_000 })
    expect(set.modified).toBeGreaterThanOrEqual(Math.floor(before / 1000))
    // What is said to be now is not looked at.
    body.writeUInt32LE((1 << 5) | (1 << 8), 0)
    body.writeBigInt64LE(-1n, 40)
    expect(errorOf(ask(requestBytes(OPCODE.SETATTR, DISK, body)))).toBe(0)
  })

  test('of the time of access to now is done, to one before 1970 refused, with the time of change beside it', () => {
    const { ask } = makeSession()
    const body = Buffer.alloc(88)
    body.writeUInt32LE((1 << 4) | (1 << 7), 0)
    body.writeBigInt64LE(-1n, 32)
    const before = Date.now()
    const { accessed } = attributesOut.decode(bodyOf(ask(requestBytes(OPCODE.SETATTR, DISK, body))))
    expect(accessed).toBeGreaterThanOrEqual(Math.floor(before / 1000))
    body.writeUInt32LE((1 << 4) | (1 << 5), 0)
    body.writeBigUInt64LE(1_000_000_000n, 40)
    expect(errorOf(ask(requestBytes(OPCODE.SETATTR, DISK, body)))).toBe(-22)
    const after = attributesOut.decode(bodyOf(ask(requestBytes(OPCODE.GETATTR, DISK, '00'.repeat(16)))))
    expect(after.modified).not.toBe(1_000_000_000)
  })

  test('of bits that nobody knows, or that only say who asks, changes nothing', () => {
    const { ask, log } = makeSession()
    const body = Buffer.alloc(88)
    // FH, LOCKOWNER, CTIME, KILL_SUIDGID, and all above
    body.writeUInt32LE(0xffff_fe40, 0)
    expect(errorOf(ask(requestBytes(OPCODE.SETATTR, DISK, body)))).toBe(0)
    expect(log).toEqual([])
  })

  test('of the size of a folder or a text is refused', () => {
    const { ask, tree } = makeSession()
    const text = tree.addText('status.json', () => just('{}'))
    expect(errorOf(ask(requestBytes(OPCODE.SETATTR, 1, setSize(0))))).toBe(-21)
    expect(errorOf(ask(requestBytes(OPCODE.SETATTR, text.id, setSize(0))))).toBe(-30)
    expect(errorOf(ask(requestBytes(OPCODE.SETATTR, text.id, Buffer.alloc(88))))).toBe(0)
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
