import type { Image } from '../../../contracts/image.ts'
import type { RepairReport } from '../../../contracts/repair.ts'
import { type Io, settle } from '../../../io/io.ts'
import { refuseTooLong } from '../damage.ts'
import { Regions } from '../regions.ts'
import { mendBlocks } from './blocks.ts'
import { mendEntries } from './entries.ts'
import { giveBackRoom } from './give-back.ts'
import { mendHeaderCopy, mendHeaders } from './headers.ts'
import { mendLastBits } from './last-bits.ts'
import { mendLocator, partsOf } from './locator.ts'
import { mendLog } from './log.ts'
import { Mending } from './mending.ts'
import { mendMetadata } from './metadata.ts'
import { mendRegionTables } from './region-tables.ts'
import { mendSignature } from './signature.ts'

/**
 * Mends a VHDX file, from what is found first to what is found by it:
 *
 *   signature → headers → log → region tables → metadata → parent locator → BAT → room
 *
 * The headers change one after the other, each with a higher sequence number. All tables change through the log, in
 * entries that are replayed whole or not at all; what they will point at is durable before. So a crash leaves a file that
 * is mended up to some step, and mending it once more does the rest. A file without damage is not written to.
 *
 * Nothing is guessed. Where what is lost is kept nowhere else (block size, size, where the BAT lies) the file stays as it
 * is; where content is lost or may be somebody else's, the range of the disk is named.
 *
 * @throws VdiskError
 */
export function* repairVhdx(image: Image, report: RepairReport): Io<void> {
  refuseTooLong(image.name, yield* settle(image.store.size()))
  const isDoubtful = report.scope === 'all' && (yield* mendAll(image, report))
  // Where content was lost, room that nobody names may hold it: who wants to look for it, finds it there.
  if (!isDoubtful) yield* giveBackRoom(image, report)
}

/** @returns whether something of the content may be lost */
function* mendAll(image: Image, report: RepairReport): Io<boolean> {
  yield* mendSignature(image, report)
  const { headers, lostLog } = yield* mendHeaders(image, report)
  const mending = new Mending(image, report, headers, yield* settle(image.store.size()))
  yield* mendLog(mending, lostLog)
  yield* mendRegionTables(mending)
  yield* mendMetadata(mending, (yield* Regions.read(mending.image, mending.store, headers)).metadata)
  yield* mendLocator(mending)
  // Not before it is clear that nothing in the file is beyond us: any change writes both headers anyway.
  yield* mendHeaderCopy(mending)
  const { bat } = yield* partsOf(mending)
  yield* mendEntries(mending, bat)
  yield* mendBlocks(mending, bat)
  // Sector bitmaps may lie behind what was the end of the file by now.
  yield* mendLastBits(mending, (yield* partsOf(mending)).bat)
  yield* mending.end()
  return mending.isDoubtful
}
