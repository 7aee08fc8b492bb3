import { roundDown } from '../../../bytes/align.ts'
import type { Image } from '../../../contracts/image.ts'
import { isVdiskError } from '../../../errors.ts'
import { type Io, type Pace, settle } from '../../../io/io.ts'
import { corrupt } from '../damage.ts'
import { HEADER_SECTION, LOG_SECTOR, logEntryHeader, MIB } from '../layout.ts'
import { type LogPlace, type PendingLog, readPendingLog } from '../log.ts'
import { ReplayedStore } from '../replay.ts'
import { isMarked, type RoomSurvey } from './room.ts'

const LOG_LENGTH = MIB

/** Where a new log can lie: where all programs put it, if that is free, else behind everything. */
export function placeForLog(survey: RoomSurvey, fileSize: number): { logOffset: number; logLength: number } {
  const usual =
    fileSize >= HEADER_SECTION + LOG_LENGTH &&
    ![survey.claimed, survey.kept].some((bits) => isMarked(bits, HEADER_SECTION, LOG_LENGTH))
  return { logOffset: usual ? HEADER_SECTION : survey.end, logLength: LOG_LENGTH }
}

/**
 * Makes sure that no log waits to be replayed in room that nothing claims. A log whose changes are all in their places
 * may stay unknown: whether it waits makes no difference.
 *
 * @throws VdiskError CORRUPT if there is another one: whether it is old or waits, only the headers knew
 */
export function* refuseHiddenLogs(image: Image, survey: RoomSurvey, pace: Pace): Io<void> {
  for (const { start, length, set } of survey.claimed.runs()) {
    if (set) continue
    const size = yield* settle(image.store.size())
    const place = { logOffset: start * MIB, logLength: Math.min(length * MIB, size - start * MIB) }
    for (const logGuid of yield* logGuidsIn(image, place, pace)) {
      const log = yield* hiddenLog(image, { ...place, logGuid, hasLog: true })
      if (log && (yield* isDone(image, log))) continue
      throw corrupt(
        image.name,
        'neither of its two headers counts, and nothing else says whether the log in it is still to be replayed',
        { structure: 'log', at: place.logOffset, section: '2.2.2' },
        'It can be read, as its tables stand, with --salvage.',
      )
    }
  }
}

/** The LogGuids of all that looks like a log entry in a part of the file. */
function* logGuidsIn(
  { store }: Image,
  { logOffset, logLength }: { logOffset: number; logLength: number },
  pace: Pace,
): Io<Set<string>> {
  const guids = new Set<string>()
  const piece = new Uint8Array(MIB)
  for (let at = logOffset; at < logOffset + logLength; ) {
    yield* pace.keep()
    const segment = store.segment && (yield* settle(store.segment(at)))
    const hole = segment?.kind === 'hole' ? roundDown(segment.length, LOG_SECTOR) : 0
    if (hole > 0) {
      at += hole
      continue
    }
    const bytes = piece.subarray(0, Math.min(piece.length, logOffset + logLength - at))
    yield* settle(store.read(at, bytes))
    for (let sector = 0; sector + LOG_SECTOR <= bytes.length; sector += LOG_SECTOR) {
      const { signature, logGuid } = logEntryHeader.decode(bytes.subarray(sector, sector + logEntryHeader.size))
      if (signature === 'loge') guids.add(logGuid)
    }
    at += bytes.length
  }
  return guids
}

/** What a log would change; undefined if it has no sequence of entries that is whole. */
function* hiddenLog({ name, store }: Image, place: LogPlace): Io<PendingLog | undefined> {
  try {
    return yield* readPendingLog({ name }, store, place)
  } catch (error) {
    if (isVdiskError(error, 'CORRUPT') || isVdiskError(error, 'LIMIT_EXCEEDED')) return undefined
    throw error
  }
}

/** Bytes that are compared at most to find that a log has been carried out. */
const COMPARED = 64 * MIB

/** Whether a log would leave the file as it is. */
function* isDone({ store }: Image, log: PendingLog): Io<boolean> {
  const size = yield* settle(store.size())
  const total = log.updates.reduce((sum, update) => sum + (update.kind === 'zero' ? update.length : LOG_SECTOR), 0)
  if (total > COMPARED || log.fileEnd > size) return false
  const view = yield* ReplayedStore.over(store, log)
  for (const update of log.updates) {
    const before = new Uint8Array(update.kind === 'zero' ? update.length : LOG_SECTOR)
    const after = new Uint8Array(before.length)
    yield* settle(store.read(update.at, before))
    yield* settle(view.read(update.at, after))
    if (Buffer.compare(before, after) !== 0) return false
  }
  return true
}
