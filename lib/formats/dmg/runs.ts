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

/** All runs of a disk, sorted, in arrays: there may be very many. What lies between them was never written. */
export class Runs {
  private readonly runs: Float64Array
  readonly count: number

  /** @param runs in any order, without overlaps */
  constructor(runs: readonly Run[]) {
    const sorted = [...runs].sort((a, b) => a.offset - b.offset)
    this.count = sorted.length
    this.runs = new Float64Array(sorted.length * FIELDS)
    for (const [i, run] of sorted.entries()) {
      this.runs.set([run.offset, run.length, run.kind, run.at, run.storedLength], i * FIELDS)
    }
  }

  /** @param index below `count` */
  run(index: number): Run {
    const [offset, length, kind, at, storedLength] = this.runs.subarray(index * FIELDS) as Float64Array & RunFields
    return { offset, length, kind, at, storedLength }
  }

  /** The last run that begins at or before a place on the disk; -1 if none does. */
  find(offset: number): number {
    let low = -1
    for (let high = this.count - 1; low < high; ) {
      const middle = Math.ceil((low + high) / 2)
      if ((this.runs[middle * FIELDS] as number) <= offset) low = middle
      else high = middle - 1
    }
    return low
  }
}

const FIELDS = 5
type RunFields = [number, number, number, number, number]
