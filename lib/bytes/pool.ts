/**
 * Pieces of one kind that are needed for a moment, again and again: a fresh piece costs more than what is done with it,
 * and its end is the collector's work.
 *
 * Who takes one gives it back, and keeps nothing that lies in it. Where more are taken than are kept, there are fresh
 * ones. Last in, first out: what was used just now is still in the processor's cache.
 */
export class Pool<Piece> {
  private readonly make: () => Piece
  private readonly kept: number
  private readonly free: Piece[] = []

  /** @param kept idle pieces that are held at most; more are left to the collector */
  constructor(make: () => Piece, kept: number) {
    this.make = make
    this.kept = kept
  }

  /** A piece of which nobody knows what it holds. */
  take(): Piece {
    return this.free.pop() ?? this.make()
  }

  giveBack(piece: Piece): void {
    if (this.free.length < this.kept) this.free.push(piece)
  }
}

/** Memory, `size` bytes at a time. */
export function memoryPool(size: number, kept: number): Pool<Uint8Array> {
  return new Pool(() => new Uint8Array(Buffer.allocUnsafeSlow(size).buffer), kept)
}
