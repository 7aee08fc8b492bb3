/**
 * error: what the guest reads is, or may become, wrong. leak: room is lost, content is right.
 * warning: odd, harmless as it stands.
 */
export type Severity = 'error' | 'leak' | 'warning'

/** One thing that a check found. */
export interface Finding {
  /** stable word for programs, such as 'REFCOUNT_TOO_LOW' */
  readonly code: string
  readonly severity: Severity
  readonly layer: string
  readonly structure: string
  /** bytes in the file */
  readonly at: number | undefined
  /** the range of the disk that the guest sees, where one is concerned */
  readonly guest: { readonly offset: number; readonly length: number } | undefined
  readonly message: string
}

export type NewFinding = Omit<Finding, 'layer' | 'at' | 'guest'> & Partial<Pick<Finding, 'at' | 'guest'>>

/** Findings of one severity that are kept for display; beyond it they are only counted, so that a ruined table does not fill the memory. */
const KEPT = 1000

/** Collects what a check finds, layer by layer, and how far it is. */
export class CheckReport {
  readonly findings: Finding[] = []
  readonly counts: Record<Severity, number> = { error: 0, leak: 0, warning: 0 }
  private readonly progress: (done: number, total: number) => void
  private readonly kinds: Record<Severity, Set<string>> = { error: new Set(), leak: new Set(), warning: new Set() }
  private layer = ''

  constructor(progress: (done: number, total: number) => void = () => {}) {
    this.progress = progress
  }

  /** Findings from here on are about this layer. */
  enter(layer: string): void {
    this.layer = layer
  }

  add(finding: NewFinding): void {
    const { code, severity } = finding
    const kinds = this.kinds[severity]
    // Of each severity, and of each kind one: what is odd, or wrong, a thousand times must not hide what else is.
    if (++this.counts[severity] <= KEPT || !kinds.has(code)) {
      kinds.add(code)
      this.findings.push({ at: undefined, guest: undefined, ...finding, layer: this.layer })
    }
  }

  /** Tells how far the check of this layer is. */
  advance(done: number, total: number): void {
    this.progress(done, total)
  }
}
