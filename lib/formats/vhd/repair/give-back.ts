import { CheckReport } from '../../../contracts/check-report.ts'
import { type Io, settle } from '../../../io/io.ts'
import { Census } from '../census.ts'
import { lostRoom } from '../check.ts'
import { findFooters, readFooters } from '../footer.ts'
import { openParts, surveyOf } from '../open.ts'
import { structuresOf } from '../structures.ts'
import type { Mending } from './mending.ts'

/**
 * Gives back room of the file that nothing names: it is punched, and cut off at the end.
 *
 * @throws VdiskError CORRUPT if the BAT does not say for certain whose which room is
 */
export function* giveBackRoom(mending: Mending): Io<void> {
  const { image, store } = mending
  const strict = { ...image, leaveOut: undefined }
  const parts = yield* openParts(strict, yield* readFooters(strict, store))
  const space = yield* surveyOf(strict, parts)
  const { tail, fileSize } = yield* findFooters(store)
  const census = new Census(parts.table, structuresOf(parts), new CheckReport())
  yield* census.take()
  const rooms = yield* lostRoom(store, census, tail?.at ?? fileSize)
  for (const { at, length } of rooms) {
    const isLast = at + length >= (tail?.at ?? fileSize)
    if (!isLast && !store.deallocate) continue
    const what = isLast ? 'cut off the end of the file' : 'given back'
    const message = `${length} bytes that belonged to nothing were ${what}`
    mending.tell({ code: 'ROOM_UNUSED', structure: 'file', at, message })
    if (!space.hasBegun) yield* space.begin()
    if (isLast) yield* space.trim()
    else yield* settle(store.deallocate?.(at, length))
  }
  if (rooms.length > 0) yield* settle(store.flush())
}
