import { Bitmap } from './bitmap.ts'

/** Units in a row. */
export interface UnitRun {
  readonly first: number
  readonly count: number
}

/**
 * Which of equal units are in use: one bit for each, from the first to the last that ever was. All behind are free.
 *
 * The least free one is known, nearly; the search for several in a row goes on where it ended, and is not repeated for as many
 * as were not found.
 */
export class UnitMap {
  private used = Bitmap.empty(0)
  /** no unit before this one is free */
  private low = 0
  private cursor = 0
  /** the least number of units in a row that are not free between two in use */
  private notFound = Number.POSITIVE_INFINITY

  /** Behind the last unit in use. */
  get end(): number {
    let end = this.used.length
    while (end > 0 && !this.used.has(end - 1)) end--
    // What is cut off says nothing, so it may come back as it is.
    if (end < this.used.length) this.used = new Bitmap(this.used.bytes, end)
    return end
  }

  /** How many are in use. */
  get count(): number {
    return this.used.count()
  }

  /** Whether none of some units in a row is in use. */
  isFree({ first, count }: UnitRun): boolean {
    const end = Math.min(this.used.length, first + count)
    return first >= end || (!this.used.has(first) && this.used.runEnd(first, end) === end)
  }

  /** Units are in use from now on. */
  take({ first, count }: UnitRun): void {
    this.cover(first + count)
    this.used.fill(first, first + count)
    if (first <= this.low && this.low < first + count) this.low = first + count
  }

  /** Units are free from now on. */
  free({ first, count }: UnitRun): void {
    const end = Math.min(this.used.length, first + count)
    if (first < end) this.used.fill(first, end, false)
    this.low = Math.min(this.low, first)
    this.cursor = Math.min(this.cursor, first)
    this.notFound = Number.POSITIVE_INFINITY
  }

  /** Takes so many free units in a row. @returns the first of them */
  claim(count: number): number {
    const first = this.find(count)
    this.take({ first, count })
    this.cursor = first + count
    return first
  }

  /** Takes the first free unit from `least` on, and what is free behind it. @param most units at most */
  claimFirst(most: number, least = 0): UnitRun {
    const total = this.used.length
    let first = Math.max(this.low, least)
    while (first < total && this.used.has(first)) first = this.used.runEnd(first, total)
    const end = first < total ? this.used.runEnd(first, total) : total
    if (least <= this.low) this.low = first
    const run = { first, count: end < total ? Math.min(most, end - first) : most }
    this.take(run)
    return run
  }

  /** The first units are gone: the others have numbers that are smaller by as much. */
  shift(count: number): void {
    const left = new UnitMap()
    for (const run of this.runs(count)) left.take({ first: run.first - count, count: run.count })
    this.used = left.used
    this.low = 0
    this.cursor = 0
    this.notFound = Number.POSITIVE_INFINITY
  }

  /** The units in use from `start` on, in order. They must not change meanwhile. */
  *runs(start = 0): Generator<UnitRun> {
    const from = Math.min(start, this.used.length)
    for (const run of this.used.runs(from)) if (run.set) yield { first: run.start, count: run.length }
  }

  /** The units below `end` that are free, in order. They must not change meanwhile. */
  *gaps(end: number): Generator<UnitRun> {
    let known = 0
    for (const { first, count } of this.runs()) {
      if (first >= end) break
      if (first > known) yield { first: known, count: first - known }
      known = first + count
    }
    if (known < end) yield { first: known, count: end - known }
  }

  /** The same units, for who wants to leave some of them out. */
  copy(): UnitMap {
    const copy = new UnitMap()
    for (const run of this.runs()) copy.take(run)
    return copy
  }

  private find(count: number): number {
    const total = this.used.length
    if (count >= this.notFound) return this.end
    for (const from of [Math.min(this.cursor, total), 0]) {
      for (let unit = from; unit < total; ) {
        const end = this.used.runEnd(unit, total)
        if (!this.used.has(unit) && (end - unit >= count || end === total)) return unit
        unit = end
      }
    }
    this.notFound = count
    return total
  }

  private cover(units: number): void {
    if (units <= this.used.length) return
    let { bytes } = this.used
    if (bytes.length * 8 < units) {
      bytes = new Uint8Array(Math.max(bytes.length * 2, Math.ceil(units / 8)))
      bytes.set(this.used.bytes)
    }
    this.used = new Bitmap(bytes, units)
  }
}
