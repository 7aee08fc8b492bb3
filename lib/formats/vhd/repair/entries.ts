import type { Io } from '../../../io/io.ts'
import { ABSENT, ENTRY, SECTOR } from '../layout.ts'
import type { VhdParts } from '../parts.ts'
import { structuresOf } from '../structures.ts'
import type { EntryChange, Mending } from './mending.ts'

/** Entries whose changes are written together. */
const STRIDE = 1 << 13

/**
 * Entries that cannot be right, each for itself. ["Block Allocation Table and Data Blocks"]
 *
 * A block that lies where no block can be is lost: it reads as zero from then on, or as the parent, and is named. Entries
 * behind the last block say nothing from then on.
 */
export function* mendEntries(mending: Mending, parts: VhdParts): Io<void> {
  const { table } = parts
  const structures = structuresOf(parts)
  const { entryCount } = table.shape
  for (let first = 0; first < entryCount; first += STRIDE) {
    const runs: Run[] = []
    const add = (block: number, fault: Fault): void => {
      const last = runs.at(-1)
      if (last?.fault === fault && last.block + last.count === block) last.count++
      else runs.push({ block, count: 1, fault })
    }
    yield* table.walk(first, Math.min(entryCount, first + STRIDE), (view, index, count) => {
      for (let i = 0; i < count; i++) {
        const entry = view.getUint32(i * ENTRY)
        const block = index + i
        if (entry === ABSENT) continue
        const at = entry * SECTOR
        const end = at + table.bitmapSize + table.usedOf(block)
        if (block >= table.blocks) add(block, STALE)
        else if (structures.some((one) => at < one.at + one.length && end > one.at)) add(block, OVERLAPS)
        else if (table.complaintAbout(block, entry)) add(block, PAST_END)
      }
    })
    yield* mending.setEntries(table, runs.map(changeOf))
    yield* mending.pace.keep()
    mending.report.advance(first / entryCount, 2)
  }
}

/** Neighbours with the same fault. */
interface Run {
  readonly block: number
  count: number
  readonly fault: Fault
}

interface Fault {
  readonly code: string
  /** what is told of the blocks */
  readonly message: string
  /** their content is lost */
  readonly doubtful: boolean
}

const STALE: Fault = {
  code: 'BAT_ENTRY_STALE',
  message: 'behind the last one had entries, which were cleared: the disk was larger once',
  doubtful: false,
}
const OVERLAPS: Fault = {
  code: 'BLOCK_OVERLAPS_STRUCTURE',
  message: 'lay where other structures of the file lie: the content is lost',
  doubtful: true,
}
const PAST_END: Fault = {
  code: 'BLOCK_PAST_END',
  message: 'lay past the end of the file: the content is lost',
  doubtful: true,
}

function changeOf({ block, count, fault: { code, message, doubtful } }: Run): EntryChange {
  const which = count === 1 ? `block ${block}` : `blocks ${block} to ${block + count - 1}`
  return { block, count, entry: ABSENT, code, message: `${which} ${message}`, doubtful }
}
