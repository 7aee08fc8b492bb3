import { roundUp } from '../bytes/align.ts'
import { crc32 } from '../bytes/crc32.ts'
import { littleEndian, littleEndianWords } from '../bytes/words.ts'
import { type Awaitable, type Io, Pace, settle } from '../io/io.ts'
import type { ByteStore } from '../io/store.ts'
import { COUNTERS, counterHeader, isHole, PAGE, PAGE_HEADER, PLACE, sealed } from './layout.ts'

/** Pages that are kept in memory though nothing in them waits to be written. */
const CAPACITY = 2048

/** Pages read at a time by a walk over all. */
export const STRIDE = 64

export interface CounterPage {
  readonly number: number
  /** epochs in which each granule may last have changed; 0: not since tracking began */
  readonly counters: Uint32Array
  /** no counter of the page is higher */
  highest: number
}

/**
 * The epoch of the last possible change of each granule, page by page. Pages that were never written are holes: no counter
 * in them was ever set. One that is not whole counts as changed.
 */
export class CounterTable {
  private readonly store: ByteStore
  private readonly pages = new Map<number, CounterPage>()
  private readonly changed = new Set<CounterPage>()
  /** what counters of a damaged page are taken for */
  private readonly suspect: number

  constructor(store: ByteStore, suspect: number) {
    this.store = store
    this.suspect = suspect
  }

  /** Pages that wait to be written. */
  get waiting(): number {
    return this.changed.size
  }

  peek(number: number): CounterPage | undefined {
    return this.pages.get(number)
  }

  *load(number: number): Io<CounterPage> {
    const known = this.pages.get(number)
    if (known) return known
    const bytes = new Uint8Array(PAGE)
    const present = Math.max(0, Math.min(PAGE, (yield* settle(this.store.size())) - placeOf(number)))
    if (present > 0) yield* settle(this.store.read(placeOf(number), bytes.subarray(0, present)))
    // Somebody else may have been quicker, and may have changed it.
    const now = this.pages.get(number)
    if (now) return now
    const { page, whole } = decode(number, bytes, this.suspect)
    if (!whole) this.changed.add(page)
    this.keep(page)
    return page
  }

  /** Counters from .. to-1 of a page are `epoch` now. */
  stamp(page: CounterPage, from: number, to: number, epoch: number): void {
    if (to === from + 1 && page.counters[from] === epoch) return
    page.counters.fill(epoch, from, to)
    page.highest = epoch
    this.changed.add(page)
  }

  /** Writes all that is waiting, not yet durably. */
  *write(): Io<void> {
    const pages = [...this.changed].sort((a, b) => a.number - b.number)
    for (const page of pages) {
      this.changed.delete(page)
      try {
        yield* settle(this.store.write(placeOf(page.number), encode(page)))
      } catch (error) {
        this.changed.add(page)
        throw error
      }
    }
    this.makeRoom()
  }

  /**
   * The pages first .. end-1 with a counter above `above`, in order; those in memory as they are there.
   *
   * @param visit gets up to `STRIDE` pages, which are good until it returns, or its promise is kept. It looks at all of them before
   * it waits for anything, for then they may change. @returns whether to go on
   * @returns whether all were visited
   */
  *walk(
    first: number,
    end: number,
    above: number,
    visit: (pages: readonly CounterPage[]) => Awaitable<boolean>,
  ): Io<boolean> {
    const pace = new Pace()
    const bytes = new Uint8Array(Math.min(STRIDE, Math.max(0, end - first)) * PAGE)
    // Where a run of data ends is asked once: there are file systems that look at all of it.
    let data = { at: 0, end: 0 }
    for (let number = first; number < end; ) {
      if (placeOf(number) >= data.end) {
        // Before the medium is asked: what waits for it in memory may be there, and here no more, when it answers.
        const held = this.heldFrom(number, end)
        data = yield* this.dataFrom(placeOf(number), placeOf(end))
        const next = data.end > data.at ? numberOf(data.at) : end
        const passed = held.filter((page) => page.number < next && page.highest > above)
        for (let i = 0; i < passed.length; i += STRIDE) {
          if (!(yield* settle(visit(passed.slice(i, i + STRIDE))))) return false
        }
        number = next
      } else {
        const pages = yield* this.pagesFrom(number, data.end, bytes)
        if (!(yield* settle(visit(pages.filter(({ highest }) => highest > above))))) return false
        yield* pace.keep()
        number += pages.length
      }
    }
    return true
  }

  /** Pages in memory, and others as they are on the medium, up to a place there. @param bytes room for them, which is used */
  private *pagesFrom(first: number, end: number, bytes: Uint8Array): Io<CounterPage[]> {
    const at = placeOf(first)
    const present = Math.min(bytes.length, end - at)
    const held = Array.from({ length: Math.ceil(present / PAGE) }, (_, i) => this.pages.get(first + i))
    yield* settle(this.store.read(at, bytes.subarray(0, present)))
    bytes.fill(0, present, held.length * PAGE)
    const read = (i: number): Uint8Array => bytes.subarray(i * PAGE, (i + 1) * PAGE)
    return held.map((page, i) => page ?? decode(first + i, read(i), this.suspect).page)
  }

  /** Pages that are in memory, in order. */
  private heldFrom(first: number, end: number): CounterPage[] {
    const held = [...this.pages.values()].filter(({ number }) => number >= first && number < end)
    return held.sort((a, b) => a.number - b.number)
  }

  /** The next run of bytes that are no hole, between places in the store; an empty one: there is none. */
  private *dataFrom(at: number, most: number): Io<{ at: number; end: number }> {
    const { store } = this
    const end = Math.min(most, yield* settle(store.size()))
    if (!store.segment) return { at, end: Math.max(at, end) }
    for (let place = at; place < end; ) {
      const { kind, length } = yield* settle(store.segment(place))
      if (kind === 'data') return { at: place, end: Math.min(roundUp(place + length, PAGE), end) }
      place += length
    }
    return { at, end: at }
  }

  private keep(page: CounterPage): void {
    this.pages.set(page.number, page)
    if (this.pages.size > CAPACITY * 2 + this.changed.size) this.makeRoom()
  }

  /** Those that came first go first. */
  private makeRoom(): void {
    for (const page of this.pages.values()) {
      if (this.pages.size <= CAPACITY + this.changed.size) return
      if (!this.changed.has(page)) this.pages.delete(page.number)
    }
  }
}

function placeOf(number: number): number {
  return PLACE.counters + number * PAGE
}

function numberOf(at: number): number {
  return Math.floor((at - PLACE.counters) / PAGE)
}

function encode({ number, counters, highest }: CounterPage): Uint8Array {
  const bytes = new Uint8Array(PAGE)
  counterHeader.encode({ checksum: 0, number, highest }, bytes)
  bytes.set(littleEndian(new Uint8Array(counters.slice().buffer)), PAGE_HEADER)
  return sealed(bytes, 0)
}

/**
 * The page is made of the bytes that are given, and changes them.
 *
 * @param bytes at a multiple of 4
 */
function decode(number: number, bytes: Uint8Array, suspect: number): { page: CounterPage; whole: boolean } {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  const checksum = view.getUint32(0)
  view.setUint32(0, 0)
  if (crc32(bytes) === checksum && view.getUint32(4) === number) {
    const highest = view.getUint32(8)
    const counters = littleEndianWords(bytes.subarray(PAGE_HEADER))
    return { page: { number, counters, highest }, whole: true }
  }
  const isEmpty = checksum === 0 && isHole(bytes)
  const value = isEmpty ? 0 : suspect
  return { page: { number, counters: new Uint32Array(COUNTERS).fill(value), highest: value }, whole: isEmpty }
}
