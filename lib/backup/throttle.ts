import { setTimeout as sleep } from 'node:timers/promises'
import { throwIfCancelled } from '../errors.ts'

/** Milliseconds that a wait takes at most before the signal is heard. */
const NAP = 200

/** Keeps a job from using more bytes a second than it may. */
export class Throttle {
  private readonly rate: number | undefined
  private readonly began = Date.now()
  private spent = 0

  /** @param rate bytes a second; undefined: as many as there are */
  constructor(rate: number | undefined) {
    this.rate = rate
  }

  /** Bytes were used: comes back when that was allowed. @throws VdiskError CANCELLED */
  async spend(bytes: number, signal: AbortSignal | undefined): Promise<void> {
    if (this.rate === undefined) return
    this.spent += bytes
    const due = this.began + (this.spent / this.rate) * 1000
    for (let rest = due - Date.now(); rest > 0; rest = due - Date.now()) {
      throwIfCancelled(signal)
      await sleep(Math.min(rest, NAP))
    }
  }
}
