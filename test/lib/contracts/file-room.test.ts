import { describe, expect, test } from 'vitest'
import { FileRoom } from '../../../lib/contracts/file-room.ts'
import { VdiskError } from '../../../lib/errors.ts'
import { promised } from '../../../lib/io/io.ts'
import { MemoryStore } from '../../../lib/io/memory.ts'
import type { ByteStore } from '../../../lib/io/store.ts'
import { contentOf } from '../../support/stores.ts'

const UNIT = 4096
const ORIGIN = 512

/** A file with a head of 512 bytes and three units, of which the second is free; nothing in it is zero. */
function room(changes: Partial<ByteStore> = {}): { room: FileRoom; store: MemoryStore } {
  const store = new MemoryStore('a', { content: new Uint8Array(ORIGIN + 3 * UNIT).fill(7) })
  Object.assign(store, changes)
  const made = new FileRoom(store, { unit: UNIT, origin: ORIGIN, end: store.size() })
  made.mark(ORIGIN, UNIT)
  made.mark(ORIGIN + 2 * UNIT, UNIT)
  return { room: made, store }
}

const isZero = (store: MemoryStore, at: number, length: number): boolean =>
  contentOf(store)
    .subarray(at, at + length)
    .every((byte) => byte === 0)

describe('room in a file', () => {
  test.each(['holes', 'none'])('reads as zero when it is given out, whatever was there: %s', async (holes) => {
    const { room: made, store } = room(holes === 'none' ? ({ deallocate: undefined } as never) : {})
    const first = await promised(made.allocate(UNIT))
    expect([first, isZero(store, first, UNIT)]).toEqual([ORIGIN + UNIT, true])
    const next = await promised(made.allocate(2 * UNIT))
    expect([next, made.end, isZero(store, next, 2 * UNIT)]).toEqual([ORIGIN + 3 * UNIT, ORIGIN + 5 * UNIT, true])
    // What lay around it is as it was.
    expect(contentOf(store)[ORIGIN + 2 * UNIT]).toBe(7)
    expect(contentOf(store)[ORIGIN - 1]).toBe(7)
  })

  test('is given to two who ask at once as two', async () => {
    const { room: made } = room()
    const places = await Promise.all([1, 2, 3].map(() => promised(made.allocate(UNIT))))
    expect(new Set(places).size).toBe(3)
  })

  test('that could not be made ready is free again, and so is room that nothing could name', async () => {
    let fails = true
    const { room: made, store } = room()
    const grow = store.grow.bind(store)
    store.grow = (size) => {
      if (fails) throw new VdiskError('NO_SPACE', { message: 'full' })
      return grow(size)
    }
    await promised(made.allocate(UNIT))
    await expect(promised(made.allocate(UNIT))).rejects.toMatchObject({ code: 'NO_SPACE' })
    fails = false
    expect(await promised(made.allocate(UNIT))).toBe(ORIGIN + 3 * UNIT)

    const admit = (end: number): void => {
      if (end > 2 * UNIT) throw new VdiskError('NO_SPACE', { message: 'too far' })
    }
    const bounded = new FileRoom(new MemoryStore('b'), { unit: UNIT, end: 0, admit })
    await expect(promised(bounded.allocate(3 * UNIT))).rejects.toMatchObject({ message: 'too far' })
    expect(await promised(bounded.allocate(2 * UNIT))).toBe(0)
  })

  test('that was given up is used again, and punched, only when a flush has ended since nothing pointed at it', async () => {
    const { room: made, store } = room()
    await promised(made.allocate(UNIT))
    made.release(ORIGIN, UNIT)
    const taken: number[] = []
    for (let flush = 0; flush < 3; flush++) {
      await promised(made.retire())
      taken.push(await promised(made.allocate(UNIT)))
      made.givenUp.condemn(made.givenUp.takeReleased())
      made.givenUp.endFlush()
    }
    // Condemned in the first flush, due in the second.
    expect(taken).toEqual([ORIGIN + 3 * UNIT, ORIGIN, ORIGIN + 4 * UNIT])
    expect(isZero(store, ORIGIN, UNIT)).toBe(true)
  })

  test('that the medium does not take back is tried again with the next flush', async () => {
    let fails = true
    const { room: made, store } = room()
    const deallocate = store.deallocate.bind(store)
    store.deallocate = (at, length) => {
      if (fails) throw new VdiskError('IO', { message: 'no' })
      return deallocate(at, length)
    }
    made.givenUp.condemn([{ at: ORIGIN, length: UNIT }])
    made.givenUp.endFlush()
    await expect(promised(made.retire())).rejects.toMatchObject({ code: 'IO' })
    expect(made.units.isFree({ first: 0, count: 1 })).toBe(false)
    made.givenUp.endFlush()
    fails = false
    await promised(made.retire())
    expect(made.units.isFree({ first: 0, count: 1 })).toBe(true)
  })

  test('at the end that is free is cut off; where all is kept nothing is, and nothing is free', async () => {
    const { room: made, store } = room()
    made.free(ORIGIN + 2 * UNIT, UNIT)
    await promised(made.trim())
    expect([made.end, store.size()]).toEqual([ORIGIN + UNIT, ORIGIN + UNIT])
    await promised(made.trim())
    const { room: kept, store: other } = room()
    kept.keepAll()
    kept.free(ORIGIN + 2 * UNIT, UNIT)
    await promised(kept.trim())
    expect(other.size()).toBe(ORIGIN + 3 * UNIT)
    expect(await promised(kept.allocate(2 * UNIT))).toBe(ORIGIN + 2 * UNIT)
  })

  test('is told: what is used outside places, and what is not used at all', () => {
    const { room: made } = room()
    expect(made.usedOutside([{ at: ORIGIN + 10, length: 20 }])).toEqual([{ at: ORIGIN + 2 * UNIT, length: UNIT }])
    expect([...made.unused()]).toEqual([{ at: ORIGIN + UNIT, length: UNIT }])
    const cut = new FileRoom(new MemoryStore('b'), { unit: UNIT, end: UNIT + 100 })
    expect([...cut.unused()]).toEqual([{ at: 0, length: UNIT + 100 }])
  })

  test('is marked as far as the file goes, and once', () => {
    const { room: made } = room()
    expect(made.mark(ORIGIN + UNIT + 5, 10)).toBe(false)
    expect(made.mark(ORIGIN + UNIT, UNIT)).toBe(true)
    expect(made.mark(ORIGIN + 50 * UNIT, UNIT)).toBe(false)
    expect(made.units.end).toBe(3)
  })

  test('begins elsewhere when what comes before grows over it', async () => {
    const { room: made } = room()
    made.moveTo(ORIGIN + 2 * UNIT)
    expect([made.placeOf(0), made.units.count]).toEqual([ORIGIN + 2 * UNIT, 1])
    expect(await promised(made.allocate(UNIT))).toBe(ORIGIN + 3 * UNIT)
  })

  test('ends where a unit does once it was aligned', async () => {
    const store = new MemoryStore('a', { content: new Uint8Array(UNIT + 1) })
    const made = new FileRoom(store, { unit: UNIT, end: UNIT + 1 })
    await promised(made.align())
    expect([made.end, store.size()]).toEqual([2 * UNIT, 2 * UNIT])
  })
})
