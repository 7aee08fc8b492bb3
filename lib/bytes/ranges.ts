/** A run of sectors, bytes, or whatever a caller counts. */
export interface Range {
  readonly start: number
  readonly end: number
}

/** A set of numbers as ranges that neither touch nor overlap. It takes room by ranges, not by numbers. */
export class Ranges {
  private readonly list: Range[] = []

  /** How many ranges there are. */
  get count(): number {
    return this.list.length
  }

  has(number: number): boolean {
    return this.around(number) !== undefined
  }

  /** The range that holds a number. */
  around(number: number): Range | undefined {
    const next = this.list[this.firstEndingAfter(number)]
    return next !== undefined && next.start <= number ? next : undefined
  }

  /** Whether any number of a range is in the set. */
  meets({ start, end }: Range): boolean {
    const next = this.list[this.firstEndingAfter(start)]
    return next !== undefined && next.start < end
  }

  add({ start, end }: Range): void {
    if (start >= end) return
    // What ends exactly where this one begins is joined as well.
    const from = this.firstEndingAfter(start - 1)
    let to = from
    let [low, high] = [start, end]
    for (let next = this.list[to]; next && next.start <= end; next = this.list[++to]) {
      low = Math.min(low, next.start)
      high = Math.max(high, next.end)
    }
    this.list.splice(from, to - from, { start: low, end: high })
  }

  remove({ start, end }: Range): void {
    if (start >= end) return
    const from = this.firstEndingAfter(start)
    const kept: Range[] = []
    let to = from
    for (let next = this.list[to]; next && next.start < end; next = this.list[++to]) {
      if (next.start < start) kept.push({ start: next.start, end: start })
      if (next.end > end) kept.push({ start: end, end: next.end })
    }
    this.list.splice(from, to - from, ...kept)
  }

  /** The parts of a range that are not in the set. */
  gaps({ start, end }: Range): Range[] {
    const gaps: Range[] = []
    let from = start
    for (let i = this.firstEndingAfter(start); from < end; i++) {
      const next = this.list[i]
      const to = Math.min(end, next?.start ?? end)
      if (to > from) gaps.push({ start: from, end: to })
      from = next?.end ?? end
    }
    return gaps
  }

  /** The first range that ends behind `number`; the count of ranges if none does. */
  private firstEndingAfter(number: number): number {
    let low = 0
    for (let high = this.list.length; low < high; ) {
      const middle = (low + high) >>> 1
      if ((this.list[middle] as Range).end > number) high = middle
      else low = middle + 1
    }
    return low
  }
}
