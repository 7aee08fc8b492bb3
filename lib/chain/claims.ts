import type { Io } from '../io/io.ts'

/** A range of the disk that one writer has to itself. */
export interface Claim {
  release(): void
}

interface Held extends Claim {
  readonly start: number
  readonly end: number
  readonly ended: () => Promise<void>
}

/**
 * One write at a time per granule.
 *
 * Two writes into one empty granule would each find room for it, and the one that publishes first would be lost.
 * So a writer claims the granules it touches, and the second waits. Ranges that do not meet do not wait; those that do
 * have their turn in the order in which they came, so that one who claims the whole disk gets it, however busy it is.
 */
export class Claims {
  /** held, and waited for, in the order in which they came */
  private readonly held: Held[] = [];

  /** Waits until nobody who came before claims any of start .. end-1, then claims it. */
  *take(start: number, end: number): Io<Claim> {
    const claim = this.enter(start, end)
    let mine = false
    try {
      for (let other = this.before(claim); other; other = this.before(claim)) yield other.ended()
      mine = true
      return claim
    } finally {
      // Whoever waits for it no longer must not hold up those behind.
      if (!mine) claim.release()
    }
  }

  /** The first of those that came before and meet it. */
  private before(claim: Held): Held | undefined {
    for (const other of this.held) {
      if (other === claim) return undefined
      if (other.start < claim.end && claim.start < other.end) return other
    }
    return undefined
  }

  private enter(start: number, end: number): Held {
    let waiting: { promise: Promise<void>; resolve: () => void } | undefined
    const claim: Held = {
      start,
      end,
      ended: () => {
        waiting ??= withResolver()
        return waiting.promise
      },
      release: () => {
        this.held.splice(this.held.indexOf(claim), 1)
        waiting?.resolve()
      },
    }
    this.held.push(claim)
    return claim
  }
}

/**
 * Reads under way, by epoch. Room that was given up is used again only when no reader can still be on its way to it:
 * whoever reuses room first waits for all reads that began before.
 */
export class Epochs {
  private current = { readers: 0, idle: () => {} }

  enter(): { readers: number; idle: () => void } {
    this.current.readers++
    return this.current
  }

  leave(epoch: { readers: number; idle: () => void }): void {
    if (--epoch.readers === 0) epoch.idle()
  }

  /** Waits for the end of all reads begun before this call. One caller at a time. */
  *drain(): Io<void> {
    const old = this.current
    if (old.readers === 0) return
    this.current = { readers: 0, idle: () => {} }
    const { promise, resolve } = withResolver()
    old.idle = resolve
    yield promise
  }
}

function withResolver(): { promise: Promise<void>; resolve: () => void } {
  let resolve!: () => void
  const promise = new Promise<void>((done) => {
    resolve = done
  })
  return { promise, resolve }
}
