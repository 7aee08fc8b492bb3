import type { Image } from '../../../contracts/image.ts'
import type { RepairReport } from '../../../contracts/repair.ts'
import type { Io } from '../../../io/io.ts'
import { openParts } from '../open.ts'
import { structureOverTable } from '../overreach.ts'
import type { VhdParts } from '../parts.ts'
import { mendCount } from './count.ts'
import { mendEntries } from './entries.ts'
import { mendFixed } from './fixed.ts'
import { mendFooters } from './footers.ts'
import { giveBackRoom } from './give-back.ts'
import { mendHeader } from './header.ts'
import { Mending } from './mending.ts'
import { shareNoPlaces } from './shared.ts'

/**
 * Mends a VHD file, from what is found first to what is found by it:
 *
 *   footers → header → its count of entries → entries of the BAT → places that blocks share → batmap → room
 *
 * Each change is one sector, written when what it depends on is durable; so a crash leaves a file that is mended up to some
 * step, and mending it once more does the rest. A file without damage is not written to.
 *
 * Nothing is guessed. Where both footers are lost, or the header is, the file stays as it is: nothing else says what they
 * did. Where something else lies over the BAT, entries stay as they are. Where content is lost or may be somebody else's, the range of the disk is named.
 *
 * @throws VdiskError
 */
export function* repairVhd(image: Image, report: RepairReport): Io<void> {
  const mending = new Mending(image, report)
  const footers = yield* mendFooters(mending)
  if (footers.current.isFixed) {
    yield* mendFixed(mending, footers)
    return
  }
  yield* mendHeader(mending, footers)
  let parts = yield* openParts(mending.image, footers)
  if (report.scope === 'all') {
    if (yield* mendCount(mending, parts)) parts = yield* openParts(mending.image, footers)
    if (structureOverTable(parts)) mending.isDoubtful = true
    else yield* mendContent(mending, parts)
  }
  // Where content was lost or cannot be told from something else, room that nobody names may hold it: who wants to look for it, finds it there.
  if (!mending.isDoubtful) yield* giveBackRoom(mending)
}

function* mendContent(mending: Mending, parts: VhdParts): Io<void> {
  yield* mendEntries(mending, parts)
  yield* shareNoPlaces(mending, parts)
  yield* mending.clearBatmap(parts)
}
