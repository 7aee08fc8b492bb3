import { randomGuid, ZERO_GUID } from '../../../bytes/guid.ts'
import type { Image } from '../../../contracts/image.ts'
import type { RepairReport } from '../../../contracts/repair.ts'
import type { VdiskError } from '../../../errors.ts'
import { type Io, Pace, settle } from '../../../io/io.ts'
import {
  agreedState,
  currentOf,
  type HeaderCopy,
  type HeaderState,
  Headers,
  NO_STATE,
  readHeaderCopies,
} from '../header.ts'
import { HEADER_PLACES } from '../layout.ts'
import { openParts } from '../open.ts'
import type { Mending } from './mending.ts'
import { placeForLog, refuseHiddenLogs } from './new-log.ts'
import { surveyRoom } from './room.ts'
import { tolerant } from './tolerant.ts'

export interface MendedHeaders {
  readonly headers: Headers
  /** why the log that the headers point at is none; undefined: there is none, or it is where they say */
  readonly lostLog: VdiskError | undefined
}

/**
 * The headers of a file, of which one counts at least. [2.2.2]
 *
 * Where neither does, both are made of what is certain: where both state the same of the log, that; else there must
 * not be anything in the file that could be a log to be replayed. Who the content is nobody knows then, so it gets a
 * new DataWriteGuid.
 *
 * @throws VdiskError CORRUPT where it would be a guess, UNSUPPORTED for another version of the format
 */
export function* mendHeaders(image: Image, report: RepairReport): Io<MendedHeaders> {
  const copies = yield* readHeaderCopies(image.store)
  if (!currentOf(copies)) yield* rebuild(image, copies, report)
  const current = currentOf(yield* readHeaderCopies(image.store)) as HeaderCopy
  let complaint: VdiskError | undefined
  const patient = tolerant(image, (damage) => {
    complaint = damage
  })
  const headers = yield* Headers.read(patient, image.store)
  return { headers, lostLog: current.fields.logGuid === ZERO_GUID ? undefined : complaint }
}

/** Writes a damaged header anew, with what the other one states. */
export function* mendHeaderCopy(mending: Mending): Io<void> {
  const damaged = mending.headers.valid.indexOf(false)
  if (damaged === -1) return
  mending.tell({
    code: 'HEADER_DAMAGED',
    structure: 'header',
    at: HEADER_PLACES[damaged] as number,
    message: 'the damaged header was written anew with what the other one states',
  })
  yield* mending.begin('metadata')
}

function* rebuild(image: Image, copies: readonly HeaderCopy[], report: RepairReport): Io<void> {
  const { name, store } = image
  const log = agreedState(copies) ?? (yield* stateWithNewLog(image))
  const highest = copies.reduce(
    (most, { isValid, fields }) => (isValid && fields.sequenceNumber > most ? fields.sequenceNumber : most),
    0n,
  )
  const state = { ...log, fileWriteGuid: randomGuid(), dataWriteGuid: randomGuid() }
  report.add({
    code: 'HEADERS_LOST',
    structure: 'header',
    at: HEADER_PLACES[0],
    message: 'neither header counted: both were made anew, with an identity that no child of this image knows',
  })
  yield* Headers.rebuilt(name, state, highest).update(store, {})
}

function* stateWithNewLog(image: Image): Io<HeaderState> {
  const { name, store } = image
  const size = yield* settle(store.size())
  const pace = new Pace(image.signal)
  const parts = yield* openParts(tolerant(image), Headers.make(name, NO_STATE), store, { end: size }, undefined)
  const survey = yield* surveyRoom(parts.bat, size, pace)
  yield* refuseHiddenLogs(image, survey, pace)
  const place = placeForLog(survey, size)
  yield* settle(store.grow(place.logOffset + place.logLength))
  return { ...NO_STATE, ...place }
}
