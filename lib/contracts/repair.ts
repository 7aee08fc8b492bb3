/** leaks: only room that is lost is given back; all: whatever the check calls wrong, too. */
export type RepairScope = 'leaks' | 'all'

/** A range of a disk where what the guest reads now may not be what it wrote. */
export interface DoubtfulRange {
  readonly offset: number
  readonly length: number
  /** id of the internal snapshot whose disk it is; undefined: the disk itself */
  readonly snapshot: string | undefined
}

/** One thing that a repair changed. */
export interface Repaired {
  /** the code of the finding that it answers, such as 'REFCOUNT_TOO_LOW' */
  readonly code: string
  readonly structure: string
  /** bytes in the file */
  readonly at: number | undefined
  readonly doubtful: DoubtfulRange | undefined
  /** what was wrong and what was done, in a sentence that begins with a small letter */
  readonly message: string
}

export type NewRepaired = Omit<Repaired, 'at' | 'doubtful'> & Partial<Pick<Repaired, 'at' | 'doubtful'>>

/** Changes kept for display; beyond it they are only counted. */
const KEPT = 1000
/** Ranges told apart; beyond it the last one of its disk grows until it covers the next, so that none is left out. */
const RANGES = 10_000

/** What a repair may do, and what it did. */
export class RepairReport {
  readonly scope: RepairScope
  /** where nothing is left that could tell what was there, what has a wrong checksum is believed */
  readonly ignoreChecksums: boolean
  readonly done: Repaired[] = []
  /** all that was changed, also what is not kept in `done` */
  count = 0
  private readonly ranges: DoubtfulRange[] = []
  private readonly progress: (done: number, total: number) => void

  constructor(
    scope: RepairScope,
    progress: (done: number, total: number) => void = () => {},
    { ignoreChecksums = false }: { readonly ignoreChecksums?: boolean | undefined } = {},
  ) {
    this.scope = scope
    this.progress = progress
    this.ignoreChecksums = ignoreChecksums
  }

  /** Notes a change; whoever makes it notes it before it is written. */
  add(repaired: NewRepaired): void {
    this.count++
    if (this.done.length < KEPT) this.done.push({ at: undefined, doubtful: undefined, ...repaired })
    if (repaired.doubtful) this.doubt(repaired.doubtful)
  }

  /** Notes a further range that a change makes doubtful. */
  doubt(range: DoubtfulRange): void {
    const last = this.ranges.at(-1)
    const meets = last && last.snapshot === range.snapshot && last.offset + last.length === range.offset
    if (meets) this.ranges[this.ranges.length - 1] = covering(last, range)
    else if (this.ranges.length < RANGES) this.ranges.push(range)
    else this.widen(range)
  }

  /** Every range that is doubtful: the disk's first, then those of snapshots, each in order and without overlaps. */
  get doubtful(): DoubtfulRange[] {
    const sorted = [...this.ranges].sort(
      (a, b) => compareText(a.snapshot ?? '', b.snapshot ?? '') || a.offset - b.offset || a.length - b.length,
    )
    const joined: DoubtfulRange[] = []
    for (const range of sorted) {
      const last = joined.at(-1)
      if (last && last.snapshot === range.snapshot && range.offset <= last.offset + last.length) {
        joined[joined.length - 1] = covering(last, range)
      } else joined.push(range)
    }
    return joined
  }

  /** Tells how far the repair is. */
  advance(done: number, total: number): void {
    this.progress(done, total)
  }

  private widen(range: DoubtfulRange): void {
    const index = this.ranges.findLastIndex(({ snapshot }) => snapshot === range.snapshot)
    if (index === -1) this.ranges.push(range)
    else this.ranges[index] = covering(this.ranges[index] as DoubtfulRange, range)
  }
}

function covering(a: DoubtfulRange, b: DoubtfulRange): DoubtfulRange {
  const offset = Math.min(a.offset, b.offset)
  const end = Math.max(a.offset + a.length, b.offset + b.length)
  return { offset, length: end - offset, snapshot: a.snapshot }
}

function compareText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0
}
