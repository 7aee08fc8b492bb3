import { crc32 } from '../bytes/crc32.ts'
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
    const size = yield* settle(this.store.size())
    for (let number = first; number < end; ) {
      const at = placeOf(number)
      const data = at < size ? yield* this.dataFrom(at, Math.min(size, placeOf(end)) - at) : undefined
      const next = data === undefined ? end : numberOf(data.at)
      if (!(yield* this.visitHeld(number, next, above, visit))) return false
      if (!data) return true
      const count = Math.min(STRIDE, Math.ceil(data.length / PAGE), end - next)
      const present = Math.min(count * PAGE, size - placeOf(next))
      yield* settle(this.store.read(placeOf(next), bytes.subarray(0, present)))
      bytes.fill(0, present, count * PAGE)
      if (!(yield* settle(visit(this.higherIn(bytes, next, count, above))))) return false
      yield* pace.keep()
      number = next + count
    }
    return true
  }

  /** Pages that are in memory only, for the medium has a hole there. */
  private *visitHeld(
    first: number,
    end: number,
    above: number,
    visit: (pages: readonly CounterPage[]) => Awaitable<boolean>,
  ): Io<boolean> {
    if (end <= first) return true
    const held = [...this.pages.values()].filter(
      ({ number, highest }) => number >= first && number < end && highest > above,
    )
    held.sort((a, b) => a.number - b.number)
    for (let i = 0; i < held.length; i += STRIDE) {
      if (!(yield* settle(visit(held.slice(i, i + STRIDE))))) return false
    }
    return true
  }

  /** Of pages that were read those with a counter above `above`, or what is in memory of them. */
  private higherIn(bytes: Uint8Array, first: number, count: number, above: number): CounterPage[] {
    const found: CounterPage[] = []
    for (let i = 0; i < count; i++) {
      const held = this.pages.get(first + i)
      const page = held ?? decode(first + i, bytes.subarray(i * PAGE, (i + 1) * PAGE), this.suspect).page
      if (page.highest > above) found.push(page)
    }
    return found
  }

  /** The next run of bytes that are no hole. */
  private *dataFrom(at: number, length: number): Io<{ at: number; length: number } | undefined> {
    const { store } = this
    if (!store.segment) return { at, length }
    for (let place = at; place < at + length; ) {
      const segment = yield* settle(store.segment(place))
      if (segment.kind === 'data') {
        return { at: place, length: Math.min(segment.length, at + length - place) }
      }
      place += segment.length
    }
    return undefined
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
    const counters = littleEndian(bytes.subarray(PAGE_HEADER))
    return {
      page: { number, counters: new Uint32Array(counters.buffer, counters.byteOffset, COUNTERS), highest },
      whole: true,
    }
  }
  const isEmpty = checksum === 0 && isHole(bytes)
  const value = isEmpty ? 0 : suspect
  return { page: { number, counters: new Uint32Array(COUNTERS).fill(value), highest: value }, whole: isEmpty }
}

const IS_LITTLE_ENDIAN = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1

/** Turns the bytes of numbers between this machine's order and little-endian, in place. */
function littleEndian(bytes: Uint8Array): Uint8Array {
  return IS_LITTLE_ENDIAN ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).swap32()
}
