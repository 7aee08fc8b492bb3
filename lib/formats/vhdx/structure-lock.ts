import { type Io, Turns } from '../../io/io.ts'

/**
 * Many writers, or one who rebuilds.
 *
 * Writers of blocks hold places that they were given until they publish or abandon them. Who moves the BAT, changes
 * the size or takes the parent away waits for them, and keeps new ones waiting.
 */
export class StructureLock {
  private users = 0
  private rebuilding = false
  private readonly turns = new Turns()
  private waiting: (() => void)[] = []

  /** Begins a use, if that needs no wait. */
  tryEnter(): boolean {
    if (this.rebuilding) return false
    this.users++
    return true
  }

  /** Begins a use; each ends with `leave`. */
  *enter(): Io<void> {
    while (!this.tryEnter()) yield this.changed()
  }

  leave(): void {
    this.users--
    if (this.users === 0 && this.waiting.length > 0) this.wake()
  }

  /** Works while nobody uses the structure. */
  *alone<T>(work: () => Io<T>): Io<T> {
    return yield* this.turns.take(() => this.rebuild(work))
  }

  private *rebuild<T>(work: () => Io<T>): Io<T> {
    this.rebuilding = true
    try {
      while (this.users > 0) yield this.changed()
      return yield* work()
    } finally {
      this.rebuilding = false
      this.wake()
    }
  }

  private changed(): Promise<void> {
    return new Promise((resolve) => this.waiting.push(resolve))
  }

  private wake(): void {
    const { waiting } = this
    this.waiting = []
    for (const resolve of waiting) resolve()
  }
}
