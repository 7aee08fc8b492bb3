import { ZERO_GUID } from '../../../bytes/guid.ts'
import { isVdiskError, type VdiskError } from '../../../errors.ts'
import { type Io, settle } from '../../../io/io.ts'
import { type PendingLog, readPendingLog } from '../log.ts'
import { openParts } from '../open.ts'
import { replayOnto } from '../replay.ts'
import type { Mending } from './mending.ts'

/**
 * Carries out what a log that was left behind promises. [2.3.3]
 *
 * A log that cannot be replayed is set aside if the tables make sense without it. They are older than it then, no
 * telling where: all of the disk is doubtful.
 *
 * @param lostLog why the headers point at no log; undefined: they do, or there is none
 * @throws VdiskError CORRUPT if the tables cannot be read without the log
 */
export function* mendLog(mending: Mending, lostLog: VdiskError | undefined): Io<void> {
  const { headers } = mending
  if (lostLog) return yield* setAside(mending, lostLog)
  if (!headers.hasLog) return
  let log: PendingLog
  try {
    log = (yield* readPendingLog(mending.image, mending.store, headers)) as PendingLog
  } catch (error) {
    if (!isVdiskError(error, 'CORRUPT')) throw error
    return yield* setAside(mending, error)
  }
  yield* carryOut(mending, log)
}

function* carryOut(mending: Mending, log: PendingLog): Io<void> {
  const { headers, store } = mending
  const size = yield* settle(store.size())
  const isCut = size < log.durableEnd
  mending.originalEnd = isCut ? size : Math.max(size, log.fileEnd)
  const done = `${log.entries} log entries were replayed`
  mending.tell({
    code: 'LOG_PENDING',
    structure: 'log',
    at: headers.logOffset,
    message: isCut ? `${done}; the file had ${log.durableEnd} bytes when they were written, and ${size} now` : done,
  })
  yield* mending.begin(isCut ? 'content' : 'metadata')
  yield* replayOnto(store, log)
  yield* mending.begin('metadata', { logGuid: ZERO_GUID })
}

function* setAside(mending: Mending, damage: VdiskError): Io<void> {
  const { headers, image, store } = mending
  const { geometry } = yield* openParts(image, headers, store, { end: yield* settle(store.size()) }, undefined)
  const change = {
    code: 'LOG_UNUSABLE',
    structure: 'log',
    at: damage.where.at,
    message: `the log could not be replayed and was set aside: the tables are what they were before it. ${damage.message}`,
  }
  mending.tell(change, [{ offset: 0, length: geometry.size }])
  yield* mending.begin('content', { logGuid: ZERO_GUID, logVersion: 0 })
  yield* mending.ensureLog()
}
