import { VdiskError } from '../errors.ts'

/** Pieces that are known of one file: 24 bytes each. */
const MOST_PIECES = 1 << 20
/** Bytes that a piece may have in the file: those of the longest one, and what packing can add to bytes that do not pack. */
const LONGEST_STORED = 72 << 20

/** A run of packed bytes that can be unpacked by itself. */
export interface Piece {
  /** bytes in what is unpacked */
  readonly offset: number
  /** bytes it unpacks to */
  readonly length: number
  /** bytes in the file */
  readonly at: number
  readonly storedLength: number
}

/** The pieces that a packed file consists of, in order. */
export class Pieces {
  private readonly file: string
  private readonly offsets: number[] = []
  private readonly places: number[] = []
  private readonly storedLengths: number[] = []
  private end = 0

  constructor(file: string) {
    this.file = file
  }

  /** bytes of all that is unpacked */
  get size(): number {
    return this.end
  }

  get count(): number {
    return this.offsets.length
  }

  /** Adds the next one; one that holds nothing is left out. @throws VdiskError LIMIT_EXCEEDED */
  add({ length, at, storedLength }: Omit<Piece, 'offset'>): void {
    if (length === 0) return
    if (storedLength > LONGEST_STORED) {
      throw new VdiskError('LIMIT_EXCEEDED', {
        message: `Cannot open ${this.file}: a piece of it has ${storedLength} bytes, more than can be read at a time`,
        where: { file: this.file, at },
        advice: 'Unpack it with the program that made it, if you trust it.',
      })
    }
    if (this.count === MOST_PIECES || this.end + length > Number.MAX_SAFE_INTEGER) {
      throw new VdiskError('LIMIT_EXCEEDED', {
        message: `Cannot open ${this.file}: it has more than ${MOST_PIECES} pieces, or says that it holds more than any disk`,
        where: { file: this.file, at },
      })
    }
    this.offsets.push(this.end)
    this.places.push(at)
    this.storedLengths.push(storedLength)
    this.end += length
  }

  /** @param offset below `size` */
  find(offset: number): Piece {
    let low = 0
    for (let high = this.count - 1; low < high; ) {
      const middle = (low + high + 1) >>> 1
      if ((this.offsets[middle] as number) <= offset) low = middle
      else high = middle - 1
    }
    const start = this.offsets[low] as number
    return {
      offset: start,
      length: (this.offsets[low + 1] ?? this.end) - start,
      at: this.places[low] as number,
      storedLength: this.storedLengths[low] as number,
    }
  }
}
