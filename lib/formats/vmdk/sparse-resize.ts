import { ceilDiv, roundDown, roundUp } from '../../bytes/align.ts'
import type { FileRoom } from '../../contracts/file-room.ts'
import { type Io, Pace, settle } from '../../io/io.ts'
import type { Allocation } from './allocation.ts'
import type { GrainDirectory } from './grain-directory.ts'
import type { GrainTables } from './grain-tables.ts'
import { ENTRY, GRAIN_ENTRY, SECTOR } from './layout.ts'
import type { SparseHeader } from './sparse-header.ts'
import { encodeEntries, type WriteBack } from './write-back.ts'

/** What a change of size works with. */
export interface SparseParts {
  readonly tables: GrainTables
  readonly space: FileRoom
  readonly allocation: Allocation
  readonly writeBack: WriteBack
}

/** A header and its directory that are to be true. */
interface NewMap {
  readonly header: SparseHeader
  readonly directory: GrainDirectory
}

/**
 * Changes how much of the disk an extent holds, durably and in one step: the header's sector, which names the capacity and
 * the two directories. ["Hosted Sparse Extents"]
 *
 * What lies past the old size, left over by whoever shrank the disk before, is made to say nothing before the disk grows
 * over it; what lies past the new size is given up after the disk has shrunk.
 *
 * @param size bytes, other than it has
 * @param hidden bytes of the extent up to which a parent would show in what is new
 */
export function* resizeSparse(parts: SparseParts, size: number, hidden: number, signal?: AbortSignal): Io<void> {
  if (size > parts.tables.header.size) yield* grow(parts, size, Math.min(size, hidden), new Pace(signal))
  else yield* shrink(parts, size)
}

/** Empties an extent and gives it another size, in the same one step: a directory of tables that say nothing. */
export function* clearSparse(parts: SparseParts, size: number): Io<void> {
  const { tables, space, writeBack } = parts
  while (!space.givenUp.isEmpty) yield* writeBack.flush()
  const structures = [...tables.places].map(({ sector, length }) => ({ at: sector * SECTOR, length: length * SECTOR }))
  const used = space.usedOutside(structures)
  const map = yield* newMap(parts, size, false, 0)
  yield* adopt(parts, map)
  tables.cache.drop(0, map.header.tables * map.header.tableBytes + tables.header.tables * tables.header.tableBytes)
  for (const { at, length } of used) space.release(at, length)
  while (!space.givenUp.isEmpty) yield* writeBack.flush()
}

function* grow(parts: SparseParts, size: number, hidden: number, pace: Pace): Io<void> {
  const { tables, allocation, writeBack } = parts
  const { grainBytes } = tables.header
  const before = tables.grains
  yield* coverTail(parts)
  yield* allocation.forget(before)
  const perTable = tables.header.tableBytes / ENTRY
  // The new directory takes over what the old one names: so the table in which something will be hidden is there before.
  if (before % perTable !== 0 && ceilDiv(hidden, grainBytes) > before) {
    yield* allocation.ensureTable(Math.floor(before / perTable))
  }
  const map = yield* newMap(parts, size, true, hidden)
  yield* hideGrains(parts, map, before, ceilDiv(hidden, grainBytes), pace)
  yield* writeBack.flush()
  yield* adopt(parts, map)
}

/** What the last grain holds behind the end of the disk becomes zero. */
function* coverTail({ tables, space }: SparseParts): Io<void> {
  const { size, grainBytes } = tables.header
  const start = size % grainBytes
  if (start === 0) return
  const extent = yield* tables.map(size - start, start)
  if (extent.kind !== 'data') return
  // Other programs let the file end where the disk does.
  yield* space.reach(extent.at + grainBytes)
  yield* space.blank(extent.at + start, grainBytes - start)
}

/** New grains where the parent would show: marked as zero, or where no mark is allowed, with room that is zero. */
function* hideGrains(parts: SparseParts, map: NewMap, first: number, end: number, pace: Pace): Io<void> {
  const { tables, space } = parts
  const { grainBytes, tableBytes, zeroedGrains } = map.header
  const perTable = tableBytes / ENTRY
  for (let grain = first; grain < end; ) {
    yield* pace.keep()
    const table = Math.floor(grain / perTable)
    const count = Math.min(end, (table + 1) * perTable) - grain
    const at = zeroedGrains ? 0 : yield* space.allocate(count * grainBytes)
    const entries = Uint32Array.from({ length: count }, (_, i) =>
      zeroedGrains ? GRAIN_ENTRY.zero : (at + i * grainBytes) / SECTOR,
    )
    if (table < tables.header.tables) yield* enterOld(parts, grain, entries)
    else yield* enterNew(tables, map.directory, grain, entries)
    grain += count
  }
}

/** Entries of a table that is in use: they lie behind what the disk has, so that nobody asks for them yet. */
function* enterOld({ tables, allocation }: SparseParts, grain: number, entries: Uint32Array): Io<void> {
  yield* allocation.ensureTable(Math.floor((grain * ENTRY) / tables.header.tableBytes))
  const page = tables.cache.peek(grain * ENTRY) ?? (yield* tables.load(grain))
  for (const [i, entry] of entries.entries()) page.view.setUint32((grain + i) * ENTRY - page.at, entry, true)
  tables.cache.touch(page, grain * ENTRY - page.at, entries.length * ENTRY)
}

/** Entries of a table that nothing leads to. */
function* enterNew(tables: GrainTables, directory: GrainDirectory, grain: number, entries: Uint32Array): Io<void> {
  const { tableBytes } = directory.header
  const table = Math.floor((grain * ENTRY) / tableBytes)
  for (const place of [directory.copyPlace(table), directory.ownPlace(table)]) {
    if (place) yield* settle(tables.store.write(place + grain * ENTRY - table * tableBytes, encodeEntries(entries)))
  }
}

function* shrink(parts: SparseParts, size: number): Io<void> {
  const { tables, allocation, writeBack } = parts
  const capacity = size / SECTOR
  const count = ceilDiv(size, tables.header.grainBytes * (tables.header.tableBytes / ENTRY))
  yield* writeBack.flush()
  yield* tables.header.change(tables.store, { capacity, tables: count })
  yield* settle(tables.store.flush())
  // The old map is still the one in memory: what lies past the new size can be reached for the last time.
  const pace = new Pace()
  const end = tables.grains
  for (let grain = ceilDiv(size, tables.header.grainBytes); grain < end; ) {
    yield* pace.keep()
    grain = yield* allocation.setEntries(grain, end, GRAIN_ENTRY.silent)
  }
  yield* writeBack.flush()
  const fields = { ...tables.header.fields, capacity }
  const header = { ...tables.header, fields, size, tables: count }
  // The disk may grow again: under the numbers of these tables others come then.
  tables.cache.drop(count * header.tableBytes, (tables.header.tables - count) * header.tableBytes)
  exchange(parts, header, tables.directory.resized(header, [], []))
}

/**
 * Prepares directories for another size in room that nothing leads to: those that name the old tables and new ones
 * behind them, or new ones alone. Where tables that say nothing have no room, only those are made that are to hide the
 * parent.
 *
 * @param hidden bytes of the extent up to which a parent would show in what is new
 */
function* newMap(parts: SparseParts, size: number, keepsOld: boolean, hidden: number): Io<NewMap> {
  const { tables, space } = parts
  const { header, directory, store } = tables
  const { tableBytes, grainBytes, unit } = header
  const ofTable = grainBytes * (tableBytes / ENTRY)
  const count = ceilDiv(size, ofTable)
  const kept = keepsOld ? header.tables : 0
  const made = header.tablesOnDemand ? Math.max(0, ceilDiv(hidden, ofTable) - kept) : count - kept
  const fields = { ...header.fields, capacity: size / SECTOR }
  if (keepsOld && count === kept) {
    const same = { ...header, fields, size }
    return { header: same, directory: directory.resized(same, [], []) }
  }
  const hasCopy = directory.copy !== undefined
  const directoryBytes = ceilDiv(count * ENTRY, SECTOR) * SECTOR
  const halfBytes = directoryBytes + made * tableBytes
  const at = yield* space.allocate(roundUp(halfBytes * (hasCopy ? 2 : 1), unit))
  const [copyAt, ownAt] = hasCopy ? [at, at + halfBytes] : [undefined, at]
  const newTables = (start: number): number[] =>
    Array.from({ length: count - kept }, (_, i) => (i < made ? (start + directoryBytes + i * tableBytes) / SECTOR : 0))
  const next: SparseHeader = {
    ...header,
    fields: {
      ...fields,
      directoryOffset: BigInt(ownAt / SECTOR),
      redundantDirectoryOffset: copyAt === undefined ? 0 : copyAt / SECTOR,
    },
    size,
    tables: count,
    directoryAt: ownAt,
    redundantAt: copyAt,
  }
  const base = keepsOld ? directory : directory.emptied()
  const map = base.resized(next, newTables(ownAt), copyAt === undefined ? [] : newTables(copyAt))
  for (const [entries, place] of [
    [map.copy, copyAt],
    [map.own, ownAt],
  ] as const) {
    if (entries && place !== undefined) yield* settle(store.write(place, encodeEntries(entries)))
  }
  return { header: next, directory: map }
}

/** The step that decides: one sector. */
function* adopt(parts: SparseParts, { header, directory }: NewMap): Io<void> {
  const { tables, writeBack } = parts
  const { capacity, directoryOffset, redundantDirectoryOffset } = header.fields
  // Without a copy the field says nothing, and may say anything.
  const copy = directory.copy ? { redundantDirectoryOffset } : {}
  yield* writeBack.countRoom()
  yield* settle(tables.store.flush())
  yield* header.change(tables.store, { capacity, directoryOffset, ...copy, tables: header.tables })
  yield* settle(tables.store.flush())
  exchange(parts, header, directory)
}

/** Goes on with another map. What the old one took, and the new one does not, is given up; not what lies before all grains. */
function exchange({ tables, space }: SparseParts, header: SparseHeader, directory: GrainDirectory): void {
  const old = tables.places
  tables.adopt(header, directory)
  const { unit } = space
  let next = roundUp(header.overhead, unit)
  for (const { sector, length } of old) {
    const end = (sector + length) * SECTOR
    for (let at = Math.max(next, roundDown(sector * SECTOR, unit)); at < end; at += unit) {
      if (!tables.places.hit(at / SECTOR, unit / SECTOR)) space.release(at, unit)
      next = at + unit
    }
  }
}
