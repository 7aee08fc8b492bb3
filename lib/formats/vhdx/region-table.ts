import { crc32cWithin } from '../../bytes/crc32c.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { REGION, REGION_TABLE_PLACES, REGION_TABLE_SIZE, regionTableEntry, regionTableHeader } from './layout.ts'

/** The two copies of the region table as bytes; what they say is read in `regions.ts`. [2.2.3] */

export type RegionEntry = ReturnType<typeof regionTableEntry.decode>

const SIGNATURE = 'regi'
const NOTHING = Buffer.alloc(REGION_TABLE_SIZE)
/** Pieces in which two damaged copies are compared. */
const SECTOR = 512
/** Pieces that may differ for one whole table to be sought in two damaged ones: each doubles the work. */
const MAX_DIFFERING = 8

/** Both copies; undefined where the file ends before. @param take gives memory for one */
export function* readRegionTables(
  store: ByteStore,
  take = (): Uint8Array => new Uint8Array(REGION_TABLE_SIZE),
): Io<(Uint8Array | undefined)[]> {
  const size = yield* settle(store.size())
  const tables: (Uint8Array | undefined)[] = []
  for (const at of REGION_TABLE_PLACES) {
    if (at + REGION_TABLE_SIZE > size) {
      tables.push(undefined)
      continue
    }
    const table = take()
    yield* settle(store.read(at, table))
    tables.push(table)
  }
  return tables
}

export function isValidTable(table: Uint8Array | undefined): table is Uint8Array {
  if (!table) return false
  const { signature, checksum } = regionTableHeader.decode(table)
  return signature === SIGNATURE && checksum === checksumOf(table)
}

/**
 * One whole table out of two damaged copies: each sector from one or from the other, so that the checksum fits. Where
 * they do not differ, nothing but the checksum is damaged, in both. Undefined if that leads nowhere.
 */
export function joinTables(first: Uint8Array | undefined, second: Uint8Array | undefined): Uint8Array | undefined {
  if (!first || !second) return undefined
  const differing: number[] = []
  for (let at = 0; at < first.length; at += SECTOR) {
    if (Buffer.compare(first.subarray(at, at + SECTOR), second.subarray(at, at + SECTOR)) !== 0) differing.push(at)
  }
  if (differing.length === 0) return regionTableHeader.decode(first).signature === SIGNATURE ? sealed(first) : undefined
  if (differing.length > MAX_DIFFERING) return undefined
  const table = first.slice()
  for (let choice = 1; choice < 2 ** differing.length - 1; choice++) {
    for (const [i, at] of differing.entries()) {
      const source = choice & (1 << i) ? second : first
      table.set(source.subarray(at, at + SECTOR), at)
    }
    if (isValidTable(table)) return table
  }
  return undefined
}

/** The entries that a table claims, `count` at most. */
export function entriesOf(table: Uint8Array, count: number): RegionEntry[] {
  return Array.from({ length: count }, (_, i) => regionTableEntry.decode(table.subarray(entryAt(i))))
}

/** A copy of a table as far as its entries reach, where nothing stands behind them; else of all of it. */
export function withoutRest(table: Uint8Array): Uint8Array {
  const end = Math.min(table.length, entryAt(regionTableHeader.decode(table).entryCount))
  return table.slice(0, NOTHING.compare(table, end, table.length, end) === 0 ? end : table.length)
}

/** The 64 KiB of a table that was copied without its rest. */
export function withRest(table: Uint8Array): Uint8Array {
  const whole = new Uint8Array(REGION_TABLE_SIZE)
  whole.set(table)
  return whole
}

/** The 64 KiB of a new region table. */
export function makeRegionTable(
  bat: { at: number; length: number },
  metadata: { at: number; length: number },
): Uint8Array {
  return tableOf([
    { guid: REGION.bat, fileOffset: bat.at, length: bat.length, required: 1 },
    { guid: REGION.metadata, fileOffset: metadata.at, length: metadata.length, required: 1 },
  ])
}

/** A table of these entries. */
export function tableOf(entries: readonly RegionEntry[]): Uint8Array {
  const table = new Uint8Array(REGION_TABLE_SIZE)
  regionTableHeader.encode({ signature: SIGNATURE, checksum: 0, entryCount: entries.length }, table)
  for (const [i, entry] of entries.entries()) regionTableEntry.encode(entry, table.subarray(entryAt(i)))
  return sealed(table)
}

/** The same table with its BAT elsewhere. */
export function withBat(table: Uint8Array, at: number, length: number): Uint8Array {
  const moved = table.slice()
  for (const [i, { guid }] of entriesOf(table, regionTableHeader.decode(table).entryCount).entries()) {
    if (guid === REGION.bat) regionTableEntry.patch(moved.subarray(entryAt(i)), { fileOffset: at, length })
  }
  return sealed(moved)
}

function entryAt(index: number): number {
  return regionTableHeader.size + index * regionTableEntry.size
}

function sealed(table: Uint8Array): Uint8Array {
  const whole = table.slice()
  regionTableHeader.patch(whole, { checksum: checksumOf(table) })
  return whole
}

function checksumOf(table: Uint8Array): number {
  return crc32cWithin(table, regionTableHeader.offsetOf('checksum'))
}
