/** A run of the disk, joined with those that go on where it ends. */
export interface Run {
  /** bytes on the disk */
  readonly offset: number
  readonly length: number
  /** one of KIND */
  readonly kind: number
  /** bytes in the file */
  readonly at: number
  readonly storedLength: number
}

/** Runs, in an array of their numbers: there may be very many. */
export class Runs implements Iterable<Run> {
  private readonly numbers: Float64Array
  count = 0

  /** @param most how many there will be at most */
  constructor(most: number) {
    this.numbers = new Float64Array(most * FIELDS)
  }

  /** All of several lists, one after the other. */
  static joined(lists: readonly Runs[]): Runs {
    const [first] = lists
    if (first && lists.length === 1) return first
    const all = new Runs(lists.reduce((sum, { count }) => sum + count, 0))
    for (const { numbers, count } of lists) {
      all.numbers.set(numbers.subarray(0, count * FIELDS), all.count * FIELDS)
      all.count += count
    }
    return all
  }

  add({ offset, length, kind, at, storedLength }: Run): void {
    const place = this.count++ * FIELDS
    this.numbers[place + PLACE.offset] = offset
    this.numbers[place + PLACE.length] = length
    this.numbers[place + PLACE.kind] = kind
    this.numbers[place + PLACE.at] = at
    this.numbers[place + PLACE.storedLength] = storedLength
  }

  /** @param index below `count` */
  run(index: number): Run {
    return {
      offset: this.number(index, 'offset'),
      length: this.number(index, 'length'),
      kind: this.number(index, 'kind'),
      at: this.number(index, 'at'),
      storedLength: this.number(index, 'storedLength'),
    }
  }

  *[Symbol.iterator](): Generator<Run> {
    for (let i = 0; i < this.count; i++) yield this.run(i)
  }

  /** The same in the order of their places on the disk, or in the file. */
  sortedBy(key: 'offset' | 'at'): Runs {
    let inOrder = 0
    while (inOrder + 1 < this.count && this.number(inOrder, key) <= this.number(inOrder + 1, key)) inOrder++
    if (inOrder + 1 >= this.count) return this
    const order = Uint32Array.from({ length: this.count }, (_, index) => index)
    order.sort((a, b) => this.number(a, key) - this.number(b, key))
    const sorted = new Runs(this.count)
    for (const index of order) sorted.add(this.run(index))
    return sorted
  }

  /** Of sorted ones, the last that begins at or before a place on the disk; -1 if none does. */
  find(offset: number): number {
    let low = -1
    for (let high = this.count - 1; low < high; ) {
      const middle = Math.ceil((low + high) / 2)
      if (this.number(middle, 'offset') <= offset) low = middle
      else high = middle - 1
    }
    return low
  }

  private number(index: number, key: keyof Run): number {
    return this.numbers[index * FIELDS + PLACE[key]] as number
  }
}

/** Where the numbers of a run stand. */
const PLACE = { offset: 0, length: 1, kind: 2, at: 3, storedLength: 4 } as const
const FIELDS = 5
