import { roundUp } from '../../bytes/align.ts'
import { corrupt, leaveOut, type Reader, type Spot, unsupported } from './damage.ts'
import { ITEM, LIMIT, METADATA_FLAG, METADATA_TABLE_SIZE, metadataTableEntry, metadataTableHeader } from './layout.ts'
import type { Region } from './regions.ts'

/** One entry of the metadata table. */
export interface MetadataItem {
  readonly id: string
  /** place in the table */
  readonly index: number
  /** bytes from the start of the region */
  readonly offset: number
  readonly length: number
  readonly flags: number
}

/** An item that has no place in the table yet. */
export type NewItem = Omit<MetadataItem, 'index'>

/** Items are placed on borders of this, so that numbers in them are aligned. */
export const ITEM_ALIGNMENT = 8
export const METADATA_SIGNATURE = 'metadata'
const KNOWN_ITEMS = new Set<string>(Object.values(ITEM))
/** Without these nobody knows where on the disk anything lies. */
const VITAL_ITEMS = new Set<string>([ITEM.fileParameters, ITEM.virtualDiskSize, ITEM.logicalSectorSize])

/** The item of the format that has this id; users may have items of the same. [2.6.1.2, IsUser] */
export function systemItem<Item extends NewItem>(items: readonly Item[], id: string): Item | undefined {
  return items.find((item) => item.id === id && (item.flags & METADATA_FLAG.isUser) === 0)
}

/**
 * The entries of a metadata table. [2.6.1]
 *
 * Salvage leaves out items that the disk can be read without, and believes the entries where it cannot believe their
 * header.
 *
 * @throws VdiskError CORRUPT, UNSUPPORTED for a required item that is not known
 */
export function parseMetadataTable(reader: Reader, table: Uint8Array, region: Region): MetadataItem[] {
  const { name } = reader
  const { signature } = metadataTableHeader.decode(table)
  const spot = { structure: 'metadata table', at: region.at, section: '2.6.1.1' }
  if (signature !== METADATA_SIGNATURE) {
    leaveOut(reader, corrupt(name, 'its metadata table does not begin with "metadata"', spot))
  }
  const count = countOf(reader, table, spot)
  const items: MetadataItem[] = []
  const seen = new Set<string>()
  for (let index = 0; index < count; index++) {
    const at = entryAt(index)
    const { itemId: id, offset, length, flags } = metadataTableEntry.decode(table.subarray(at))
    const isUser = (flags & METADATA_FLAG.isUser) !== 0
    const where = { ...spot, index, at: region.at + at, section: '2.6.1.2' }
    if (flags & METADATA_FLAG.isRequired && (isUser || !KNOWN_ITEMS.has(id))) {
      leaveOut(reader, unsupported(name, `it needs the metadata item {${id}}, which vdisk does not know`, where))
    }
    const placed = offset >= METADATA_TABLE_SIZE && offset + length <= region.length && length <= LIMIT.itemBytes
    const why = seen.has(`${id} ${isUser}`)
      ? `its metadata table names {${id}} twice`
      : (length === 0 ? offset === 0 : placed)
        ? undefined
        : `its metadata item {${id}} of ${length} bytes at ${offset} is outside the region`
    seen.add(`${id} ${isUser}`)
    if (why === undefined) items.push({ id, index, offset, length, flags })
    else leaveOut(VITAL_ITEMS.has(id) && !isUser ? { name } : reader, corrupt(name, why, where))
  }
  if (items.filter(({ flags }) => flags & METADATA_FLAG.isUser).length > LIMIT.userItems) {
    leaveOut(reader, corrupt(name, `its metadata table has more than ${LIMIT.userItems} items of users`, spot))
  }
  return withoutOverlap(reader, items, region)
}

/** Bytes from the start of the region of an entry of the table. */
export function entryAt(index: number): number {
  return metadataTableHeader.size + index * metadataTableEntry.size
}

/** The 64 KiB of a table with these entries. */
export function encodeMetadataTable(items: readonly NewItem[]): Uint8Array {
  const table = new Uint8Array(METADATA_TABLE_SIZE)
  metadataTableHeader.encode({ signature: METADATA_SIGNATURE, entryCount: items.length }, table)
  for (const [i, item] of items.entries()) table.set(encodeItem(item), entryAt(i))
  return table
}

export function encodeItem({ id, offset, length, flags }: NewItem): Uint8Array {
  return metadataTableEntry.encode({ itemId: id, offset, length, flags, reserved: 0 })
}

/** Where the first gap of `length` bytes between items begins, from the start of the region; it may lie past its end. */
export function gapFor(items: readonly NewItem[], length: number): number {
  let start = METADATA_TABLE_SIZE
  for (const item of [...items].sort((a, b) => a.offset - b.offset)) {
    if (item.length === 0) continue
    if (start + length <= item.offset) break
    start = roundUp(item.offset + item.length, ITEM_ALIGNMENT)
  }
  return start
}

/**
 * How many entries there are to believe in. What stands behind the claimed ones means nothing: Hyper-V leaves rubbish
 * there. Only where the claim cannot be right, salvage takes all that are there.
 */
function countOf(reader: Reader, table: Uint8Array, spot: Spot): number {
  const { entryCount: claimed } = metadataTableHeader.decode(table)
  const { name } = reader
  const room = LIMIT.tableEntries
  if (claimed > room) {
    leaveOut(reader, corrupt(name, `its metadata table claims ${claimed} entries, it has room for ${room}`, spot))
  }
  if (!reader.leaveOut || (claimed <= room && hasVitalItems(table, claimed))) return claimed
  let there = 0
  while (there < room && !isEmpty(table, there)) there++
  if (claimed <= room) {
    reader.leaveOut(corrupt(name, `its metadata table claims ${claimed} entries, there are ${there}`, spot))
  }
  return there
}

function hasVitalItems(table: Uint8Array, count: number): boolean {
  const found = new Set<string>()
  for (let index = 0; index < count; index++) {
    const { itemId, flags } = metadataTableEntry.decode(table.subarray(entryAt(index)))
    if (VITAL_ITEMS.has(itemId) && (flags & METADATA_FLAG.isUser) === 0) found.add(itemId)
  }
  return found.size === VITAL_ITEMS.size
}

function isEmpty(table: Uint8Array, index: number): boolean {
  return table.subarray(entryAt(index), entryAt(index + 1)).every((byte) => byte === 0)
}

/** How little an item matters. */
function rankOf({ id, flags }: MetadataItem): number {
  if (flags & METADATA_FLAG.isUser || !KNOWN_ITEMS.has(id)) return 2
  return VITAL_ITEMS.has(id) ? 0 : 1
}

/** What lies on top of an item that matters more goes. */
function withoutOverlap(reader: Reader, items: readonly MetadataItem[], region: Region): MetadataItem[] {
  const placed: MetadataItem[] = []
  const kept = new Set<MetadataItem>()
  for (const item of [...items].sort((a, b) => rankOf(a) - rankOf(b) || a.index - b.index)) {
    const other = placed.find(
      ({ offset, length }) => item.offset < offset + length && offset < item.offset + item.length,
    )
    if (!other) {
      kept.add(item)
      if (item.length > 0) placed.push(item)
      continue
    }
    const where = {
      structure: 'metadata table',
      at: region.at + Math.max(item.offset, other.offset),
      section: '2.6.1.2',
    }
    const why = `its metadata items {${other.id}} and {${item.id}} lie on top of each other`
    leaveOut(rankOf(item) === 0 ? { name: reader.name } : reader, corrupt(reader.name, why, where))
  }
  return items.filter((item) => kept.has(item))
}
