import { type Io, settle } from '../../../io/io.ts'
import { Batmap } from '../batmap.ts'
import { ABSENT, ENTRY, SECTOR, tableLength } from '../layout.ts'
import { type Overreach, overreachOf, spareEntries, wordsFor } from '../overreach.ts'
import type { VhdParts } from '../parts.ts'
import type { Mending } from './mending.ts'

/**
 * A header that says that the BAT has more entries than there is room for says that there are as many as fit, and never
 * fewer than the disk needs. ["Dynamic Disk Header Format", "Max Table Entries"]
 *
 * Where nothing but entries contradicts the header, those may be what is wrong: their blocks are kept, and named.
 *
 * @returns whether the header is another one now
 */
export function* mendCount(mending: Mending, parts: VhdParts): Io<boolean> {
  const overreach = yield* overreachOf(parts)
  if (!overreach) return false
  const { header, footer } = parts
  const entryCount = parts.batmap ? yield* moveBatmap(mending, parts, parts.batmap, overreach) : overreach.fits
  mending.tell({
    code: 'BAT_TOO_LARGE',
    structure: 'dynamic disk header',
    at: footer.fields.dataOffset,
    message: `${wordsFor(parts, overreach)}: it says ${entryCount} now`,
  })
  if (!overreach.isProven) yield* doubtBlocks(mending, parts)
  yield* mending.writeTold(footer.fields.dataOffset, header.with({ entryCount }).bytes.subarray(0, SECTOR))
  return true
}

/** XenServer looks for its batmap behind the last entry: one that says nothing goes there, where there is room for it. */
function* moveBatmap({ store }: Mending, { table }: VhdParts, batmap: Batmap, { at }: Overreach): Io<number> {
  const end = table.shape.tableAt + tableLength(table.blocks)
  if (end + Batmap.lengthFor(table.blocks) <= at) yield* settle(store.write(end, batmap.emptyFor(table.blocks, end)))
  return table.blocks
}

/** The blocks that lie where the header said that there are entries. */
function* doubtBlocks(mending: Mending, parts: VhdParts): Io<void> {
  const { table } = parts
  const { from, to } = spareEntries(parts)
  mending.isDoubtful = true
  yield* table.walk(0, table.blocks, (view, index, count) => {
    for (let i = 0; i < count; i++) {
      const entry = view.getUint32(i * ENTRY)
      if (entry === ABSENT || entry * SECTOR < from || entry * SECTOR >= to) continue
      const block = index + i
      mending.report.doubt({ offset: block * table.blockSize, length: table.usedOf(block), snapshot: undefined })
    }
  })
}
