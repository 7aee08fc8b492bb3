/** Joins ranges that come in order and touch each other, and tells them as runs of bytes. */
export class ChangedRuns {
  private readonly visit: (offset: number, length: number) => void
  private start = 0
  private end = 0

  constructor(visit: (offset: number, length: number) => void) {
    this.visit = visit
  }

  add(start: number, end: number): void {
    if (end <= start) return
    if (start !== this.end || this.end === this.start) {
      this.finish()
      this.start = start
    }
    this.end = end
  }

  /** Tells the last one. */
  finish(): void {
    if (this.end > this.start) this.visit(this.start, this.end - this.start)
    this.start = this.end
  }
}
