import { type Io, type Pace, settle } from '../../../io/io.ts'
import type { ByteStore } from '../../../io/store.ts'
import { MIB } from '../layout.ts'

/** What of the file is read: a range, and who is let run meanwhile. */
interface Source {
  readonly store: ByteStore
  readonly at: number
  readonly length: number
  readonly pace: Pace
}

/**
 * Reads a range of the file piece by piece, and passes over its holes. Pieces begin at whole MiB of the range.
 *
 * @param visit gets bytes, which are its own until it ends, and how far from the begin of the range they are
 */
export function* readPieces(
  { store, at, length, pace }: Source,
  visit: (bytes: Uint8Array, done: number) => Io<void>,
): Io<void> {
  const piece = new Uint8Array(Math.min(MIB, length))
  for (let done = 0; done < length; done += piece.length) {
    yield* pace.keep()
    const segment = store.segment && (yield* settle(store.segment(at + done)))
    const bytes = piece.subarray(0, length - done)
    if (segment?.kind === 'hole' && segment.length >= bytes.length) continue
    yield* settle(store.read(at + done, bytes))
    yield* visit(bytes, done)
  }
}
