import type { Random } from '../support/random.ts'
import { Violation } from './trial.ts'

interface Piece {
  readonly offset: number
  /** what must be read there; undefined: nobody can say */
  bytes: Uint8Array | undefined
}

/** What a disk that may be huge must hold, in the places where somebody looks: some samples, and all that was written. */
export class KnownContent {
  private pieces: Piece[] = []

  add(offset: number, bytes: Uint8Array | undefined): void {
    this.pieces.push({ offset, bytes: bytes?.slice() })
  }

  /** Now the disk has these bytes there. */
  write(offset: number, source: Uint8Array): void {
    for (const piece of this.pieces) {
      if (!piece.bytes) continue
      const from = Math.max(offset, piece.offset)
      const to = Math.min(offset + source.length, piece.offset + piece.bytes.length)
      if (from < to) piece.bytes.set(source.subarray(from - offset, to - offset), from - piece.offset)
    }
    this.add(offset, source)
  }

  /** What lies there is not known any more: a change of it has failed. */
  doubt(offset: number, length: number): void {
    for (const piece of this.pieces) {
      const end = piece.offset + (piece.bytes?.length ?? 0)
      if (piece.offset < offset + length && end > offset) piece.bytes = undefined
    }
  }

  /** The disk has only so many bytes now. */
  cut(size: number): void {
    for (const piece of this.pieces) {
      if (piece.bytes && piece.offset + piece.bytes.length > size) {
        piece.bytes = piece.bytes.slice(0, Math.max(0, size - piece.offset))
      }
    }
  }

  copy(): KnownContent {
    const other = new KnownContent()
    other.pieces = this.pieces.map(({ offset, bytes }) => ({ offset, bytes: bytes?.slice() }))
    return other
  }

  /** Looks at every known place. @param read undefined: it cannot be read. @throws Violation 'changed' */
  async verify(what: string, read: (offset: number, length: number) => Promise<Uint8Array | undefined>): Promise<void> {
    for (const { offset, bytes } of this.pieces) {
      if (!bytes || bytes.length === 0) continue
      const found = await read(offset, bytes.length)
      if (!found) throw new Violation('changed', `${what} can be read no more where it was read before`)
      const at = Buffer.compare(found, bytes) === 0 ? -1 : found.findIndex((byte, i) => byte !== bytes[i])
      if (at >= 0) throw new Violation('changed', `${what} holds other bytes than it should, at ${offset + at}`)
    }
  }
}

/** A range of a disk, on borders of its granules and beside them; at most 64 KiB. */
export function anyRange(random: Random, size: number, granularity: number): { offset: number; length: number } {
  const near = random.chance(0.75) ? Math.min(size, 40 * granularity) : size
  const align = random.pick([1, 512, 4096, granularity])
  const offset = Math.min(size - 1, Math.floor((random.fraction() * near) / align) * align)
  const length = random.pick([1, 512, 513, 4096, granularity, granularity + 512, granularity * 3])
  return { offset, length: Math.max(1, Math.min(length, size - offset, 65536)) }
}
