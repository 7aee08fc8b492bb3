import type { Awaitable } from '../io/io.ts'
import { COUNTERS } from './layout.ts'

/**
 * Ranges of a disk in order, in bytes: where one begins, where it ends, where the next one begins. Whoever gets them must be done
 * with them before it lets the teller go on.
 *
 * @returns false: that is enough
 */
export type TellRanges = (places: Float64Array) => Awaitable<boolean>

/** Tells ranges one by one. */
export function oneByOne(visit: (offset: number, length: number) => void): (places: Float64Array) => true {
  return (places) => {
    for (let i = 0; i + 1 < places.length; i += 2) {
      const offset = places[i] as number
      visit(offset, (places[i + 1] as number) - offset)
    }
    return true
  }
}

/**
 * Joins granules that changed to runs, where pages of counters come in order.
 *
 * A disk may have hundreds of millions of them, so what is done for each is arithmetic only: no branch that a processor has to
 * guess, and no call.
 */
export class ChangedRuns {
  private readonly granularity: number
  private readonly above: number
  private readonly start: number
  private readonly places: Float64Array
  private count = 0
  /** places that were told */
  private told = 0
  /** 1: the last place is where a run begins that goes on */
  private open = 0
  /** where the last page ended */
  private end = 0

  /**
   * @param how granularity: bytes of the disk per counter; above: counters that are higher have changed; start: bytes on the
   * disk, before which nothing is told
   * @param pages that are added at most before `take`
   */
  constructor(how: { granularity: number; above: number; start: number }, pages: number) {
    this.granularity = how.granularity
    this.above = how.above
    this.start = how.start
    // A place for each granule, the one where a run goes on, that behind the last page, and one to spare.
    this.places = new Float64Array(pages * COUNTERS + 4)
  }

  /** Counters from .. to-1 of a page. @param granule of the disk that the first counter of the page is for */
  add(counters: Uint32Array, from: number, to: number, granule: number): void {
    this.forget()
    const { places, granularity } = this
    if ((granule + from) * granularity !== this.end) this.finish()
    const above = this.above | 0
    let { count, open } = this
    for (let i = from; i < to; i++) {
      const counter = (counters[i] as number) | 0
      // 1 where above < counter, both without sign: what a subtraction borrows.
      const changed = ((~above & counter) | (~(above ^ counter) & (above - counter))) >>> 31
      places[count] = (granule + i) * granularity
      count += changed ^ open
      open = changed
    }
    this.count = count
    this.open = open
    this.end = (granule + to) * granularity
  }

  /** A range behind all that was added. */
  addRange(start: number, end: number): void {
    if (end <= start) return
    this.forget()
    if (start !== this.end) this.finish()
    if (this.open === 0) this.places[this.count++] = start
    this.open = 1
    this.end = end
  }

  /** The run that goes on ends where the last page did. */
  finish(): void {
    this.forget()
    if (this.open === 1) this.places[this.count++] = this.end
    this.open = 0
  }

  /** The runs that are complete. They are there until more is added. */
  take(): Float64Array {
    this.forget()
    this.told = this.count - this.open
    const places = this.places.subarray(0, this.told)
    const [first] = places
    if (first !== undefined && first < this.start) places[0] = this.start
    return places
  }

  private forget(): void {
    if (this.told === 0) return
    this.places.copyWithin(0, this.told, this.count)
    this.count -= this.told
    this.told = 0
  }
}
