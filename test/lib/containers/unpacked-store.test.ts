import { describe, expect, test } from 'vitest'
import { Pieces } from '../../../lib/containers/pieces.ts'
import { type Unpack, UnpackedStore } from '../../../lib/containers/unpacked-store.ts'
import { breathe, promised, settle } from '../../../lib/io/io.ts'
import { MemoryStore } from '../../../lib/io/memory.ts'
import type { ByteStore } from '../../../lib/io/store.ts'
import { refusal } from '../../support/refusal.ts'
import { watchedStore } from '../../support/stores.ts'

const wrapping = { container: 'test', member: undefined, fileSize: 10 }

/** A file of ten bytes whose pieces each are one of its bytes, and unpack to as many as are given. */
function packed(lengths: readonly number[], unpack: Unpack, inner: ByteStore = tenBytes()): UnpackedStore {
  const pieces = new Pieces('disk')
  for (const [at, length] of lengths.entries()) pieces.add({ length, at, storedLength: 1 })
  return new UnpackedStore(inner, { wrapping, pieces, unpack })
}

function tenBytes(): MemoryStore {
  return new MemoryStore('disk', { content: Uint8Array.from({ length: 10 }, (_, at) => at) })
}

async function byteAt(store: ByteStore, at: number): Promise<number> {
  const target = new Uint8Array(1)
  await promised(settle(store.read(at, target)))
  return target[0] as number
}

describe('the pieces of a packed file', () => {
  test('hold no more than any disk', () => {
    const pieces = new Pieces('disk')
    pieces.add({ length: Number.MAX_SAFE_INTEGER, at: 0, storedLength: 1 })
    pieces.add({ length: 0, at: 1, storedLength: 1 })
    expect(pieces.count).toBe(1)
    expect(() => pieces.add({ length: 1, at: 7, storedLength: 1 })).toThrow('more than any disk')
  })
})

describe('an unpacked file', () => {
  test('keeps the pieces that were read last, as far as there is room', async () => {
    const MIB = 1 << 20
    const unpacked: number[] = []
    const store = packed([30 * MIB, 30 * MIB, 30 * MIB], (stored, { length }) => {
      unpacked.push(stored[0] as number)
      return new Uint8Array(length).fill(stored[0] as number)
    })
    const piece = (index: number): Promise<number> => byteAt(store, index * 30 * MIB)
    expect([await piece(0), await piece(1), await piece(0), await piece(2)]).toEqual([0, 1, 0, 2])
    expect(unpacked).toEqual([0, 1, 2])
    expect([await piece(0), await piece(1)]).toEqual([0, 1])
    expect(unpacked).toEqual([0, 1, 2, 1])
  })

  test('finds out once that a piece is damaged, and reads what is not', async () => {
    const asked: number[] = []
    const store = packed(Array(3).fill(1), ([place]) => {
      asked.push(place as number)
      return place === 1 ? new Uint8Array(2) : Uint8Array.of(place as number)
    })
    for (let times = 0; times < 3; times++) {
      expect(await refusal(() => byteAt(store, 1))).toMatchObject({ code: 'CORRUPT', where: { at: 1 } })
      expect(await byteAt(store, 2)).toBe(2)
    }
    expect(asked).toEqual([1, 2])
  })

  test('unpacks what several ask for once', async () => {
    let times = 0
    const store = packed([4], async () => {
      times++
      await promised(breathe())
      return Uint8Array.of(5, 6, 7, 8)
    })
    expect(await Promise.all([0, 1, 2, 3].map((at) => byteAt(store, at)))).toEqual([5, 6, 7, 8])
    expect(times).toBe(1)
  })

  test('fails where a piece holds other than it says, and tells the place', async () => {
    const store = packed([1, 4], (stored, { length }) => new Uint8Array(length - (stored[0] as number)))
    expect(await byteAt(store, 0)).toBe(0)
    const error = await refusal(() => byteAt(store, 1))
    expect(error).toMatchObject({ code: 'CORRUPT', where: { file: 'disk', structure: 'test data', at: 1 } })
    expect(error.message).toContain('holds 3 bytes instead of 4')
  })

  test('ends where its pieces do', async () => {
    const store = packed([4], () => new Uint8Array(4))
    expect(await refusal(() => byteAt(store, 4))).toMatchObject({ code: 'OUT_OF_RANGE', where: { file: 'disk' } })
    for (const change of [() => store.write(), () => store.truncate(), () => store.grow()]) {
      expect((await refusal(async () => change())).code).toBe('READ_ONLY')
    }
  })

  test('knows of its file what that can tell', async () => {
    const stamp = { size: 10, modified: 1n, changed: 2n } as never
    const known = { ...watchedStore(tenBytes(), () => {}), occupied: () => 7, stamp: () => stamp, fileId: () => 'id' }
    const store = packed([4], () => new Uint8Array(4), known)
    expect([await store.occupied?.(), store.stamp?.(), store.fileId?.()]).toEqual([7, stamp, 'id'])
    const other = packed(
      [4],
      () => new Uint8Array(4),
      watchedStore(tenBytes(), () => {}),
    )
    expect([other.occupied, other.stamp, other.fileId]).toEqual([undefined, undefined, undefined])
  })

  test('stands for another of the same file, and for none where the file cannot say', () => {
    const file = tenBytes()
    const same = { ...watchedStore(file, () => {}), standsFor: (other: ByteStore) => other === file }
    const unpack = (): Uint8Array => new Uint8Array(4)
    const store = packed([4], unpack, same)
    expect(store.standsFor(packed([4], unpack, file))).toBe(true)
    expect(store.standsFor(packed([4], unpack, tenBytes()))).toBe(false)
    expect(store.standsFor(file)).toBe(false)
    expect(packed([4], unpack, file).standsFor(store)).toBe(false)
  })
})
