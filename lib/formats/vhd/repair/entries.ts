import type { Io } from '../../../io/io.ts'
import { ABSENT, ENTRY, SECTOR } from '../layout.ts'
import type { VhdParts } from '../parts.ts'
import { structuresOf } from '../structures.ts'
import type { EntryChange, Mending } from './mending.ts'

/** Entries looked at between two looks at the clock. */
const STRIDE = 1 << 16

/**
 * Entries that cannot be right, each for itself. ["Block Allocation Table and Data Blocks"]
 *
 * A block that lies where no block can be is lost: it reads as zero from then on, or as the parent, and is named. Entries
 * behind the last block say nothing from then on.
 */
export function* mendEntries(mending: Mending, { table, header, footer, batmap }: VhdParts): Io<void> {
  const structures = structuresOf(header, footer.fields.dataOffset, batmap)
  const { entryCount } = table.shape
  for (let first = 0; first < entryCount; first += STRIDE) {
    const changes: EntryChange[] = []
    yield* table.walk(first, Math.min(entryCount, first + STRIDE), (view, index, count) => {
      for (let i = 0; i < count; i++) {
        const entry = view.getUint32(i * ENTRY)
        const block = index + i
        if (entry === ABSENT) continue
        const at = entry * SECTOR
        const end = at + table.bitmapSize + table.usedOf(block)
        const hit = structures.find((one) => at < one.at + one.length && end > one.at)
        if (block >= table.blocks) changes.push(stale(block))
        else if (hit) changes.push(lost(block, 'BLOCK_OVERLAPS_STRUCTURE', `where the ${hit.name} lies`))
        else if (table.complaintAbout(block, entry)) {
          changes.push(lost(block, 'BLOCK_PAST_END', 'past the end of the file'))
        }
      }
    })
    yield* mending.setEntries(table, changes)
    yield* mending.pace.keep()
    mending.report.advance(first / entryCount, 2)
  }
}

function stale(block: number): EntryChange {
  const message = 'an entry behind the last block was cleared: the disk was larger once'
  return { block, entry: ABSENT, code: 'BAT_ENTRY_STALE', message, doubtful: false }
}

function lost(block: number, code: string, where: string): EntryChange {
  const message = `block ${block} lay ${where}: its content is lost`
  return { block, entry: ABSENT, code, message, doubtful: true }
}
