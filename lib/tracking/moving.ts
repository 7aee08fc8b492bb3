import { randomGuid } from '../bytes/guid.ts'
import { type Io, settle } from '../io/io.ts'
import type { ByteStore } from '../io/store.ts'
import type { Subject } from './binding.ts'
import { PAGE, PLACE } from './layout.ts'
import { type Facts, NO_IDENTITY, Superblock } from './superblock.ts'

/**
 * A record of changes whose disk goes on in another file, or whose files were changed and not what the disk reads as.
 *
 * Everything here is done with records that are clean, and durable when it returns. At each moment at most one of two copies
 * of a record may be believed, since both would go on with the same epochs.
 */

/** Bytes copied at a time. */
const PIECE = 1 << 20

/**
 * Makes a copy that is not believed until it is bound to a disk.
 *
 * @param to empty
 * @param reason why nobody knows the changes of the disk that the copy is found beside meanwhile
 */
export function* copyRecord(from: ByteStore, to: ByteStore, reason: string): Io<void> {
  const { facts } = yield* Superblock.open(from)
  const size = yield* settle(from.size())
  const buffer = new Uint8Array(PIECE)
  for (let at: number = PLACE.counters; at < size; ) {
    const segment = from.segment ? yield* settle(from.segment(at)) : { kind: 'data', length: size - at }
    const length = Math.min(PIECE, segment.length, size - at)
    if (segment.kind === 'data') {
      const piece = buffer.subarray(0, length)
      yield* settle(from.read(at, piece))
      yield* settle(to.write(at, piece))
      at += length
    } else at += segment.length
  }
  const own = to.stamp?.()
  yield* Superblock.new(to, {
    ...facts,
    state: 'lost',
    // That is a part of the file from before.
    guard: undefined,
    own: { inode: own?.inode ?? 0n, born: own?.born ?? 0n },
    reason,
  }).write({})
}

/** From now on a record is that of a disk as it is at this moment. @param reason what is told for tokens that are older than it */
export function* bindRecord(store: ByteStore, subject: Subject, reason: string): Io<void> {
  const superblock = yield* Superblock.open(store)
  const { size, stamp, content } = subject
  yield* superblock.write({ state: 'clean', stamp, content, next: NO_IDENTITY, diskSize: size, reason })
}

/** Nothing that a record tells counts any more. */
export function* loseRecord(store: ByteStore, reason: string): Io<void> {
  yield* giveUp(store, { state: 'lost', reason })
}

/** A record stays where its disk has gone on in another file: to tell that, and nothing else. */
export function* leaveRecord(store: ByteStore, reason: string): Io<void> {
  yield* giveUp(store, { state: 'moved', reason, consumers: [] })
  yield* settle(store.truncate(PLACE.superblock + 2 * PAGE))
}

function* giveUp(store: ByteStore, facts: Partial<Facts>): Io<void> {
  const superblock = yield* Superblock.open(store)
  const epoch = superblock.facts.epoch + 1
  yield* superblock.write({ ...facts, trackId: randomGuid(), epoch, firstEpoch: epoch, shrinks: [] })
}
