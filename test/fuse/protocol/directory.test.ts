import { describe, expect, test } from 'vitest'
import { directoryEntry, entryOut } from '../../../fuse/protocol/messages.ts'
import { OPCODE } from '../../../fuse/protocol/protocol.ts'
import { requestBytes, transfer } from '../../support/fuse-messages.ts'
import { bodyOf, DISK, errorOf, makeSession } from '../../support/fuse-session.ts'

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

  test('a listing goes on in the right place when names have come and gone meanwhile', () => {
    const { ask, tree, device } = makeSession()
    const { root } = tree
    if (root.kind !== 'folder') throw new TypeError('a folder is expected')
    for (const name of ['one', 'two', 'three']) tree.addFile(name, device)
    const list = (from: number, room = 4096) =>
      namesOf(bodyOf(ask(requestBytes(OPCODE.READDIR, 1, transfer(from, room)))))
    const begun = list(0, 32 * 4)
    expect(begun.map(([name]) => name)).toEqual(['.', '..', 'disk.raw', 'one'])
    tree.remove('one', root)
    tree.remove('disk.raw', root)
    tree.addFile('one', device)
    expect(list(begun.at(-1)?.[2] ?? 0).map(([name]) => name)).toEqual(['two', 'three', 'one'])
  })

  test('a name that was removed is gone, and its id is not used again', () => {
    const { ask, tree, device } = makeSession()
    const { root } = tree
    if (root.kind !== 'folder') throw new TypeError('a folder is expected')
    tree.remove('disk.raw', root)
    expect(errorOf(ask(requestBytes(OPCODE.LOOKUP, 1, Buffer.from('disk.raw\0'))))).toBe(-2)
    expect(tree.addFile('disk.raw', device).id).toBe(DISK + 1)
    // Whoever has it open goes on reading.
    expect(bodyOf(ask(requestBytes(OPCODE.READ, DISK, transfer(0, 512)))).length).toBe(512)
  })
})
