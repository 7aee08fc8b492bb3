import type { Io } from '../io/io.ts'

/** How long somebody waits, all in all: it begins to run with the first wait. */
export class Patience {
  private readonly milliseconds: number
  private until: number | undefined

  constructor(milliseconds: number) {
    this.milliseconds = milliseconds
  }

  /** milliseconds that are left */
  left(): number {
    this.until ??= performance.now() + this.milliseconds
    return Math.max(0, this.until - performance.now())
  }
}

/** Those who wait until something has changed. */
export class WaitingRoom {
  private readonly waiting = new Set<() => void>();

  /** Waits for the next change. @returns false: patience was at its end before */
  *wait(patience: Patience): Io<boolean> {
    let wake!: () => void
    let timer: NodeJS.Timeout | undefined
    const changed = new Promise<boolean>((resolve) => {
      wake = () => resolve(true)
      timer = setTimeout(() => resolve(false), patience.left())
    })
    this.waiting.add(wake)
    try {
      return (yield changed) as boolean
    } finally {
      clearTimeout(timer)
      this.waiting.delete(wake)
    }
  }

  /** Something has changed. */
  wake(): void {
    for (const wake of this.waiting) wake()
  }
}
