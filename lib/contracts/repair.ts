/** leaks: only room that is lost is given back; all: whatever the check calls wrong, too. */
export type RepairScope = 'leaks' | 'all'

/** One thing that a repair changed. */
export interface Repaired {
  /** the code of the finding that it answers, such as 'REFCOUNT_TOO_LOW' */
  readonly code: string
  readonly structure: string
  /** bytes in the file */
  readonly at: number | undefined
  /** a range of the disk where what the guest reads now may not be what it wrote */
  readonly doubtful: { readonly offset: number; readonly length: number } | undefined
  /** what was done, in a sentence */
  readonly message: string
}

export type NewRepaired = Omit<Repaired, 'at' | 'doubtful'> & Partial<Pick<Repaired, 'at' | 'doubtful'>>

/** Changes kept for display; beyond it they are only counted. */
const KEPT = 1000

/** What a repair may do, and what it did. */
export class RepairReport {
  readonly scope: RepairScope
  readonly done: Repaired[] = []
  /** all that was changed, also what is not kept in `done` */
  count = 0
  private readonly progress: (done: number, total: number) => void

  constructor(scope: RepairScope, progress: (done: number, total: number) => void = () => {}) {
    this.scope = scope
    this.progress = progress
  }

  add(repaired: NewRepaired): void {
    this.count++
    if (this.done.length < KEPT) this.done.push({ at: undefined, doubtful: undefined, ...repaired })
  }

  /** Tells how far the repair is. */
  advance(done: number, total: number): void {
    this.progress(done, total)
  }
}
