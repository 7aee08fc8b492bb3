import { roundDown } from '../../bytes/align.ts'
import { unsafeToWrite } from '../../contracts/unsafe.ts'
import type { VdiskError } from '../../errors.ts'
import { type Io, Pace } from '../../io/io.ts'
import { HEADER_SECTION, spotIn, TABLE_SECTION } from './damage.ts'
import { ABSENT, ENTRY, SECTOR, type Structure } from './layout.ts'
import type { VhdParts } from './parts.ts'
import { strangersToTable } from './structures.ts'

/** Entries between two looks at the clock. */
const STRIDE = 1 << 20

/**
 * A BAT that reaches into something else, if it has all the entries that the header says. The disk needs one for each of its
 * blocks; more are of use to nobody. ["Dynamic Disk Header Format", "Max Table Entries"]
 */
export interface Overreach {
  /** entries for which there is room: not fewer than the disk needs */
  readonly fits: number
  /** what lies where the next one would be */
  readonly name: string
  /** bytes in the file, where that begins */
  readonly at: number
  /** the header is wrong for certain: else only entries of the BAT contradict it, which may be wrong themselves */
  readonly isProven: boolean
}

/** What the BAT reaches into behind the entries that the disk needs; undefined: nothing. */
export function* overreachOf(parts: VhdParts): Io<Overreach | undefined> {
  const { table } = parts
  const spare = spareEntries(parts)
  if (spare.from >= spare.to) return undefined
  const proof = structureInTheWay(parts)
  const first = nearest([...(proof ? [proof] : []), ...(yield* blocksInTheWay(parts))])
  if (!first) return undefined
  const fits = Math.max(table.blocks, Math.floor((first.at - table.shape.tableAt) / ENTRY))
  return { fits, name: first.name, at: first.at, isProven: proof !== undefined }
}

/** The first structure of which entries would be a part that the disk does not need; undefined: there is none. */
export function structureInTheWay(parts: VhdParts): Structure | undefined {
  const { from, to } = spareEntries(parts)
  // The BAT has whole sectors: the last one ends before the footer.
  const at = roundDown(parts.table.shape.limit, SECTOR)
  const end = { name: parts.footers.tail ? 'footer' : 'end of the file', at, length: SECTOR }
  return nearest([...strangersToTable(parts), end].filter((one) => one.at < to && one.at + one.length > from))
}

/**
 * What lies where the BAT has entries that the disk needs, if anything does: one of the two is wrong, and nothing says which.
 * A change of an entry would be one of a parent's name, say.
 */
export function structureOverTable(parts: VhdParts): Structure | undefined {
  const { table } = parts
  const [from, to] = [table.entryPlace(0), table.entryPlace(table.blocks)]
  return nearest(strangersToTable(parts).filter((one) => one.at < to && one.at + one.length > from))
}

/** Says what lies over the BAT. */
export function wordsForOverlap({ name, at }: Structure): string {
  return `the ${name} at ${at} lies over entries of its BAT, and nothing says which of the two is right`
}

/** The first block that lies there, if any. One that cannot lie where it does for other reasons is no witness. */
function* blocksInTheWay(parts: VhdParts): Io<Structure[]> {
  const { table, image } = parts
  const { from, to } = spareEntries(parts)
  const others = strangersToTable(parts)
  const pace = new Pace(image.signal)
  let found: Structure | undefined
  for (let start = 0; start < table.blocks; start += STRIDE) {
    yield* table.walk(start, Math.min(table.blocks, start + STRIDE), (view, index, count) => {
      for (let i = 0; i < count; i++) {
        const entry = view.getUint32(i * ENTRY)
        const at = entry * SECTOR
        if (entry === ABSENT || at < from || at >= (found?.at ?? to)) continue
        const end = at + table.bitmapSize + table.usedOf(index + i)
        if (end > table.shape.limit || others.some((one) => at < one.at + one.length && end > one.at)) continue
        found = { name: `block ${index + i}`, at, length: end - at }
      }
    })
    yield* pace.keep()
  }
  return found ? [found] : []
}

/** Bytes in the file of the entries that the header says there are and the disk does not need. */
export function spareEntries({ table, header }: Pick<VhdParts, 'table' | 'header'>): { from: number; to: number } {
  return { from: table.entryPlace(table.blocks), to: table.entryPlace(header.fields.entryCount) }
}

/** Says what is wrong with the header. */
export function wordsFor({ table, header }: VhdParts, { name, at }: Overreach): string {
  const what = name.startsWith('block') ? name : `the ${name}`
  return `the header says that the BAT has ${header.fields.entryCount} entries, which would reach into ${what} at ${at}; the disk needs ${table.blocks}`
}

/** The error of who would write to such a file. */
export function refusalOf(parts: VhdParts, overreach: Overreach): VdiskError {
  const spot = { structure: 'dynamic disk header', at: parts.footer.fields.dataOffset, section: HEADER_SECTION }
  const { name } = parts.image
  return unsafeToWrite(name, wordsFor(parts, overreach), spotIn(name, spot))
}

/** The error of who would write entries over something else. */
export function refusalOfOverlap({ image: { name }, table }: VhdParts, over: Structure): VdiskError {
  const advice = 'It can still be read and converted: vdisk convert IMAGE COPY --format vhd'
  const spot = { structure: 'BAT', at: table.shape.tableAt, section: TABLE_SECTION }
  return unsafeToWrite(name, wordsForOverlap(over), spotIn(name, spot), advice)
}

function nearest(structures: readonly Structure[]): Structure | undefined {
  return structures.reduce<Structure | undefined>(
    (first, one) => (first && first.at <= one.at ? first : one),
    undefined,
  )
}
