import { ceilDiv } from '../bytes/align.ts'
import { Bitmap } from '../bytes/bitmap.ts'

/** Bytes on a disk. */
interface Extent {
  readonly offset: number
  readonly length: number
}

/** The ranges of the disk, in bytes, that the set bits stand for. */
export function* extentsOf(bits: Bitmap, granularity: number, size: number): Generator<Extent> {
  for (const { start, length, set } of bits.runs()) {
    const offset = start * granularity
    if (set) yield { offset, length: Math.min(length * granularity, size - offset) }
  }
}

/** The bitmap of a disk of `size` bytes, with nothing in it. */
export function emptyBits(size: number, granularity: number): Bitmap {
  return Bitmap.empty(ceilDiv(size, granularity))
}

/** Sets the bits that stand for any part of a range. */
export function setRange(bits: Bitmap, granularity: number, { offset, length }: Extent): void {
  bits.fill(Math.floor(offset / granularity), Math.min(bits.length, ceilDiv(offset + length, granularity)))
}
