import { roundDown, roundUp } from '../bytes/align.ts'
import { Ranges } from '../bytes/ranges.ts'
import { type Io, settle } from '../io/io.ts'
import type { ByteStore } from '../io/store.ts'
import { KIND, LIMIT, SECTOR } from './layout.ts'

/** A record about the file; see `KIND`. */
export interface Note {
  readonly kind: number
  readonly at: number
  readonly length: number
  readonly payload?: Uint8Array | undefined
}

/** Where a file notes what is about to happen to it. */
export interface Notes {
  add(note: Note): Io<void>
  /** All that was added is durable when this ends. */
  commit(): Io<void>
}

/** Content is looked at in pieces of so many bytes; those that are all zero take no room in the journal. */
const PIECE = LIMIT.run * SECTOR

/** What a file held before, noted once for each sector: when that is about to change for the first time. */
export class OldContent {
  private readonly file: ByteStore
  private readonly notes: Notes
  /** sectors that are noted */
  private readonly saved = new Ranges()

  constructor(file: ByteStore, notes: Notes) {
    this.file = file
    this.notes = notes
  }

  /**
   * Notes all sectors of a range that were not noted before.
   *
   * @param size bytes that the file had in the beginning: what lies behind needs no note
   */
  *save(from: number, to: number, size: number): Io<void> {
    const sectors = { start: Math.floor(from / SECTOR), end: Math.ceil(Math.min(to, size) / SECTOR) }
    for (const gap of this.saved.gaps(sectors)) {
      yield* this.saveSectors(gap.start * SECTOR, Math.min(size, gap.end * SECTOR))
      this.saved.add(gap)
    }
  }

  private *saveSectors(from: number, to: number): Io<void> {
    for (let at = from; at < to; ) {
      const segment = yield* settle(this.file.segment?.(at) ?? { kind: 'data' as const, length: to - at })
      // A hole ends where a block of the medium does, which need not be the end of a sector.
      const hole = segment.length >= to - at ? to - at : roundDown(segment.length, SECTOR)
      if (segment.kind === 'hole' && hole > 0) {
        yield* this.notes.add({ kind: KIND.oldZero, at, length: hole })
        at += hole
      } else {
        const piece = Math.min(PIECE, to - at, roundUp(segment.length, SECTOR))
        yield* this.savePiece(at, piece)
        at += piece
      }
    }
  }

  private *savePiece(at: number, length: number): Io<void> {
    const payload = new Uint8Array(length)
    yield* settle(this.file.read(at, payload))
    if (payload.every((byte) => byte === 0)) yield* this.notes.add({ kind: KIND.oldZero, at, length })
    else yield* this.notes.add({ kind: KIND.old, at, length, payload })
  }
}
