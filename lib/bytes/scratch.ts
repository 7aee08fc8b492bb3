/**
 * Pieces of memory of one size that are needed for a moment, again and again: a fresh piece costs more than what is done
 * with it, and its end is the collector's work.
 *
 * Who takes one gives it back, and keeps nothing that lies in it. Where more are taken than are kept, there are fresh ones.
 */
export class Scratch {
  private readonly size: number
  private readonly kept: number
  private readonly free: Uint8Array[] = []

  /** @param size bytes of each @param kept pieces that are kept for the next one at most */
  constructor(size: number, kept: number) {
    this.size = size
    this.kept = kept
  }

  /** A piece of which nobody knows what it holds. */
  take(): Uint8Array {
    return this.free.pop() ?? new Uint8Array(Buffer.allocUnsafeSlow(this.size).buffer)
  }

  giveBack(piece: Uint8Array): void {
    if (this.free.length < this.kept) this.free.push(piece)
  }
}
