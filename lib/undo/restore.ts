import { roundDown, roundUp } from '../bytes/align.ts'
import type { Range } from '../bytes/ranges.ts'
import { type Io, settle } from '../io/io.ts'
import type { ByteStore, FileStamp } from '../io/store.ts'
import { LIMIT, SECTOR } from './layout.ts'
import type { Old, Past } from './past.ts'
import type { JournalState } from './records.ts'

/** Bytes that are looked at, and written, at once. */
const PIECE = LIMIT.run * SECTOR

/**
 * Nanoseconds between the last word in the journal and the last change of the file, at most: a verb writes as soon as
 * what it is going to write stands in the journal. Who was cut short could not say when it ended.
 */
const SOON = 60_000_000_000n

/** A sign that another program has written to a file since. */
export interface Objection {
  /** time: everything that the verb touched is as it was left, but something may have changed elsewhere */
  readonly kind: 'size' | 'content' | 'time'
  /** bytes in the file */
  readonly at: number | undefined
  /** a sentence that begins with the file: "it ..." */
  readonly message: string
}

/**
 * Looks whether anybody else has written to a file since the journal was.
 *
 * Every sector that the verb touched must be as before or as the verb was going to leave it; the size likewise; and the
 * time of the last change must be the one that the verb left, or if it was cut short, one that fits.
 *
 * @returns the first sign of it; content and size come before time
 */
export function* findObjection(
  past: Past,
  state: JournalState,
  file: ByteStore,
  journal: ByteStore,
): Io<Objection | undefined> {
  const size = yield* settle(file.size())
  const ended = state === 'complete' ? past.end : undefined
  if (size < past.least || size > past.most || (ended && size !== ended.size)) {
    const wanted = ended ? `${ended.size}` : `${past.least} to ${past.most}`
    return { kind: 'size', at: undefined, message: `it has ${size} bytes, and was left with ${wanted}` }
  }
  const at = yield* findForeignContent(past, file, size, journal)
  if (at !== undefined) return { kind: 'content', at, message: `it was written to at ${at}` }
  const stamp = file.stamp?.()
  if (!stamp) return undefined
  return ended ? judgeTime(stamp, ended.modified) : judgeOpenTime(stamp, journal.stamp?.())
}

function judgeTime({ modified }: FileStamp, left: bigint | undefined): Objection | undefined {
  if (left === undefined || left === modified) return undefined
  const message = `it was last written at ${timeOf(modified)}, and was left at ${timeOf(left)}`
  return { kind: 'time', at: undefined, message }
}

function judgeOpenTime({ modified }: FileStamp, noted: FileStamp | undefined): Objection | undefined {
  if (!noted || modified <= noted.modified + SOON) return undefined
  const message = `it was written at ${timeOf(modified)}, but what was cut short ended before ${timeOf(noted.modified + SOON)}`
  return { kind: 'time', at: undefined, message }
}

function timeOf(nanoseconds: bigint): string {
  const milliseconds = Number(nanoseconds / 1_000_000n)
  return Math.abs(milliseconds) <= 8.64e15 ? new Date(milliseconds).toISOString() : `${nanoseconds} ns`
}

/** The first sector that is neither as it was nor as the verb was going to make it. */
function* findForeignContent(past: Past, file: ByteStore, size: number, journal: ByteStore): Io<number | undefined> {
  for (const old of past.olds) {
    const found =
      old.place === undefined
        ? findForeignData(past, file, size, { start: old.at, end: old.at + old.length })
        : findForeignSector(past, file, size, old, journal)
    const at = yield* found
    if (at !== undefined) return at
  }
  return yield* findForeignData(past, file, size, { start: roundUp(past.size, SECTOR), end: size })
}

function* findForeignSector(
  past: Past,
  file: ByteStore,
  size: number,
  { at, length, place }: Old,
  journal: ByteStore,
): Io<number | undefined> {
  const before = new Uint8Array(roundUp(length, SECTOR))
  const now = new Uint8Array(before.length)
  yield* settle(journal.read(place as number, before.subarray(0, length)))
  yield* readAvailable(file, size, at, now)
  for (let done = 0; done < now.length; done += SECTOR) {
    const sector = now.subarray(done, done + SECTOR)
    if (Buffer.compare(sector, before.subarray(done, done + SECTOR)) === 0) continue
    if (!past.explains((at + done) / SECTOR, sector)) return at + done
  }
  return undefined
}

/** The first sector in a range that was zero which holds what the verb did not write. */
function* findForeignData(past: Past, file: ByteStore, size: number, range: Range): Io<number | undefined> {
  const end = Math.min(size, range.end)
  for (let at = range.start; at < end; ) {
    const segment = yield* settle(file.segment?.(at) ?? { kind: 'data' as const, length: end - at })
    if (segment.kind === 'hole' && segment.length >= SECTOR) {
      at += roundDown(segment.length, SECTOR)
      continue
    }
    const bytes = new Uint8Array(roundUp(Math.min(PIECE, end - at), SECTOR))
    yield* readAvailable(file, size, at, bytes)
    for (let done = 0; done < bytes.length; done += SECTOR) {
      const sector = bytes.subarray(done, done + SECTOR)
      if (sector.some((byte) => byte !== 0) && !past.explains((at + done) / SECTOR, sector)) return at + done
    }
    at += bytes.length
  }
  return undefined
}

/** Reads as far as there is something; behind it `target` stays zero. */
function* readAvailable(file: ByteStore, end: number, at: number, target: Uint8Array): Io<void> {
  const there = Math.min(target.length, end - at)
  if (there > 0) yield* settle(file.read(at, target.subarray(0, there)))
}

/**
 * Gives a file back its bytes, its size and the time of its last change, durably. Whoever is interrupted does it again:
 * each step leaves what the journal explains.
 */
export function* restore(past: Past, file: ByteStore, journal: ByteStore): Io<void> {
  if ((yield* settle(file.size())) !== past.size) yield* settle(file.truncate(past.size))
  for (const old of past.olds) {
    if (old.place === undefined) yield* restoreZeros(file, old.at, old.length)
    else {
      const bytes = new Uint8Array(old.length)
      yield* settle(journal.read(old.place, bytes))
      yield* settle(file.write(old.at, bytes))
    }
  }
  yield* settle(file.flush())
  // Children know a parent without identity by this time; and a qcow2 image says in itself which one it has.
  if (past.modified !== undefined) file.setModified?.(past.modified)
}

/** Zeros take no room again, where the medium can. */
function* restoreZeros(file: ByteStore, at: number, length: number): Io<void> {
  if (file.deallocate) {
    yield* settle(file.deallocate(at, length))
    return
  }
  const zeros = new Uint8Array(Math.min(PIECE, length))
  for (let done = 0; done < length; done += zeros.length) {
    yield* settle(file.write(at + done, zeros.subarray(0, length - done)))
  }
}
