import { type Io, type Pace, settle } from './io.ts'
import type { ByteStore } from './store.ts'

const PIECE = 1 << 20
/** Bytes after which the medium is told to begin with what it has: the flush at the end finds less to do. */
const HASTEN = 64 << 20

/** Writes zeros over a range that may be many gigabytes long: others run meanwhile, and a signal ends it. */
export function* writeZeros(store: ByteStore, at: number, length: number, pace: Pace): Io<void> {
  const zeros = new Uint8Array(PIECE)
  for (let done = 0; done < length; done += PIECE) {
    yield* pace.keep()
    yield* settle(store.write(at + done, zeros.subarray(0, length - done)))
    if ((done + PIECE) % HASTEN === 0) store.hasten?.()
  }
}
