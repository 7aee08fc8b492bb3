/** A run of equal bits. */
export interface BitRun {
  readonly start: number
  readonly length: number
  readonly set: boolean
}

/** Bits of a word less one, and as many as are worth to be looked at in words. */
const WORD_MASK = 31
const MANY = 1 << 12

/**
 * A bit set over bytes it does not own, least significant bit first: sector bitmaps, dirty bitmaps, subclusters.
 *
 * Runs are found a byte at a time where bytes are uniform, so a sparse bitmap costs an eighth of its bits.
 */
export class Bitmap {
  readonly bytes: Uint8Array
  readonly length: number

  /** @param length number of bits; `bytes` must hold at least that many */
  constructor(bytes: Uint8Array, length = bytes.length * 8) {
    this.bytes = bytes
    this.length = length
  }

  static empty(length: number): Bitmap {
    return new Bitmap(new Uint8Array(Math.ceil(length / 8)), length)
  }

  has(bit: number): boolean {
    return ((this.bytes[bit >>> 3] as number) & (1 << (bit & 7))) !== 0
  }

  /** Sets (or clears) bits start .. end-1. */
  fill(start: number, end: number, set = true): void {
    let bit = start
    while (bit < end && bit & 7) this.put(bit++, set)
    const wholeEnd = end & ~7
    if (bit < wholeEnd) {
      this.bytes.fill(set ? 0xff : 0, bit >>> 3, wholeEnd >>> 3)
      bit = wholeEnd
    }
    while (bit < end) this.put(bit++, set)
  }

  /** Sets every bit that is set in `other` too, as far as both go. */
  add(other: Bitmap): void {
    const bytes = Math.min(this.bytes.length, other.bytes.length)
    for (let i = 0; i < bytes; i++) this.bytes[i] = (this.bytes[i] as number) | (other.bytes[i] as number)
  }

  /** Where the run of equal bits that starts at `start` ends, at most `end`. */
  runEnd(start: number, end: number): number {
    const set = this.has(start)
    const uniform = set ? 0xff : 0
    let bit = start + 1
    while (bit < end) {
      if ((bit & 7) === 0) {
        while (bit + 8 <= end && this.bytes[bit >>> 3] === uniform) {
          bit += 8
          if ((bit & WORD_MASK) === 0 && end - bit >= MANY) bit = this.skipWords(bit, end, uniform)
        }
        if (bit >= end) break
      }
      if (this.has(bit) !== set) return bit
      bit++
    }
    return end
  }

  /** The same for whole words of equal bits, where there may be many. @param bit of the first word */
  private skipWords(bit: number, end: number, uniform: number): number {
    const { buffer, byteOffset } = this.bytes
    if (byteOffset % 4 !== 0) return bit
    const words = new Int32Array(buffer, byteOffset + (bit >>> 3), Math.floor((end - bit) / 32))
    const word = uniform === 0 ? 0 : -1
    let equal = 0
    while (equal < words.length && words[equal] === word) equal++
    return bit + equal * 32
  }

  /** The runs of equal bits that cover start .. end-1, in order. */
  *runs(start = 0, end = this.length): Generator<BitRun> {
    for (let bit = start; bit < end; ) {
      const next = this.runEnd(bit, end)
      yield { start: bit, length: next - bit, set: this.has(bit) }
      bit = next
    }
  }

  /** How many bits are set among start .. end-1. */
  count(start = 0, end = this.length): number {
    let total = 0
    for (const run of this.runs(start, end)) if (run.set) total += run.length
    return total
  }

  private put(bit: number, set: boolean): void {
    const index = bit >>> 3
    const mask = 1 << (bit & 7)
    this.bytes[index] = set ? (this.bytes[index] as number) | mask : (this.bytes[index] as number) & ~mask
  }
}
