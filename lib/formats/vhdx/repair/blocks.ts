import type { Io } from '../../../io/io.ts'
import type { Bat } from '../bat.ts'
import { BlockMender } from './block-mender.ts'
import { TaskFinder } from './block-tasks.ts'
import type { Mending } from './mending.ts'
import { NewRoom } from './new-room.ts'
import { knownEntries, surveyRoom } from './room.ts'

/** Entries that are looked at before what is wrong with them is mended. */
const STRIDE = 1 << 15

/**
 * Mends what blocks have to do with each other and with their sector bitmaps; each entry for itself makes sense by now.
 *
 * Of blocks that share a place the first keeps it, and the others get copies of what lies there: the guest reads what it
 * read before, and a write to one no longer changes the other. The content of all of them is doubtful. A block that is
 * present in part gets a sector bitmap if it has none: whatever of it is not zero is taken for its own. Where the file has
 * no parent, such a block becomes fully present.
 */
export function* mendBlocks(mending: Mending, bat: Bat): Io<void> {
  const { pace, originalEnd, report } = mending
  const survey = yield* surveyRoom(bat, originalEnd, pace)
  const room = new NewRoom(mending, survey.end)
  const finder = new TaskFinder(bat, survey, originalEnd)
  const { size } = bat.geometry
  const entries = Math.min(knownEntries(bat, originalEnd), bat.geometry.entryCount(size, true))
  const mender = new BlockMender(mending, bat, room)
  for (let start = 0; start < entries; start += STRIDE) {
    yield* bat.walk(start, Math.min(entries, start + STRIDE), (view, first, count) => finder.look(view, first, count))
    for (const task of finder.take()) yield* mender.mend(task)
    yield* pace.keep()
    report.advance(1 + start / entries, 2)
  }
  finder.endChunk()
  for (const task of finder.take()) yield* mender.mend(task)
  yield* mender.finish()
}
