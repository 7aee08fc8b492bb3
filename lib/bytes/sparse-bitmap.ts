import { Bitmap } from './bitmap.ts'

/** Bits of a page, which has 4 KiB. */
const PAGE = 32768

/** What every page is whose bits are all set; never changed. */
const FULL = Bitmap.empty(PAGE)
FULL.fill(0, PAGE)

/**
 * A bit set without an end, in pages that come when they are needed and go when they are not: where all bits of a page are
 * equal it takes none.
 */
export class SparseBitmap {
  private readonly pages = new Map<number, Bitmap>()

  has(bit: number): boolean {
    const number = Math.floor(bit / PAGE)
    return this.pages.get(number)?.has(bit - number * PAGE) ?? false
  }

  /** Sets (or clears) bits start .. end-1. */
  fill(start: number, end: number, set = true): void {
    for (let bit = start; bit < end; ) {
      const number = Math.floor(bit / PAGE)
      const base = number * PAGE
      const stop = Math.min(end, base + PAGE)
      this.fillPage(number, bit - base, stop - base, set)
      bit = stop
    }
  }

  /** Where the run of equal bits that starts at `start` ends, at most `end`. */
  runEnd(start: number, end: number): number {
    const set = this.has(start)
    for (let bit = start; bit < end; ) {
      const number = Math.floor(bit / PAGE)
      const base = number * PAGE
      const stop = Math.min(end, base + PAGE)
      const page = this.pages.get(number)
      if ((page?.has(bit - base) ?? false) !== set) return bit
      if (page && page !== FULL) {
        const found = base + page.runEnd(bit - base, stop - base)
        if (found < stop) return found
      }
      bit = stop
    }
    return end
  }

  clear(): void {
    this.pages.clear()
  }

  private fillPage(number: number, start: number, end: number, set: boolean): void {
    const same = set ? FULL : undefined
    let page = this.pages.get(number)
    if (page === same) return
    if (start > 0 || end < PAGE) {
      if (!page || page === FULL) {
        page = Bitmap.empty(PAGE)
        if (!set) page.fill(0, PAGE)
        this.pages.set(number, page)
      }
      page.fill(start, end, set)
      if (page.has(0) !== set || page.runEnd(0, PAGE) < PAGE) return
    }
    if (same) this.pages.set(number, same)
    else this.pages.delete(number)
  }
}
