import type { Image } from '../../../contracts/image.ts'
import type { RepairReport } from '../../../contracts/repair.ts'
import { type Io, settle } from '../../../io/io.ts'
import { takesRoom } from '../census.ts'
import { Headers } from '../header.ts'
import { complaintAboutLog, openForWriting } from '../open.ts'

/**
 * Gives back room of the file that no region and no entry of the BAT names: it is punched, and cut off at the end.
 *
 * That is what a crash leaves of blocks that were being made. Nothing else is lost room in a VHDX file: a block that was
 * given up names its place still, or nobody does.
 *
 * @throws VdiskError CORRUPT if the tables do not say for certain whose which room is
 */
export function* giveBackRoom(image: Image, report: RepairReport): Io<void> {
  const { store } = image
  const size = yield* settle(store.size())
  // To write at all, there must be a log.
  if (complaintAboutLog(yield* Headers.read(image, store), size) !== undefined) return
  const layer = yield* openForWriting(image)
  const { space, session } = layer
  const end = yield* settle(store.size())
  const rooms = [...space.unused()]
  for (const { at, length } of rooms) {
    const isLast = at + length >= end
    if (!(store.deallocate || isLast) || !(yield* takesRoom(store, at, Math.min(length, end - at)))) continue
    report.add({
      code: 'ROOM_UNUSED',
      structure: 'file',
      at,
      message: `${length} bytes that belonged to nothing were ${isLast ? 'cut off the end of the file' : 'given back'}`,
    })
    yield* session.beginMetadata()
    yield* isLast ? space.trim() : space.blank(at, length)
  }
  yield* layer.end()
}
