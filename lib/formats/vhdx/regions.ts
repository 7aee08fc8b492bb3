import { crc32c } from '../../bytes/crc32c.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { corrupt, unsupported } from './damage.ts'
import type { Headers } from './header.ts'
import {
  HEADER_SECTION,
  LIMIT,
  MIB,
  REGION,
  REGION_TABLE_PLACES,
  REGION_TABLE_SIZE,
  regionTableEntry,
  regionTableHeader,
} from './layout.ts'

/** A part of the file that no block may lie in. Places are bytes. */
export interface Region {
  readonly name: string
  readonly at: number
  readonly length: number
}

/** New bytes for a place in the file. */
export interface Patch {
  readonly at: number
  readonly bytes: Uint8Array
}

/** What a copy of the region table turned out to be. */
export type TableCopy = 'valid' | 'damaged' | 'differs'

/**
 * The region table: where the BAT, the metadata and whatever else has a fixed place lie. [2.2.3]
 *
 * There are two copies, the same at all times, because they change through the log. The first that is valid counts.
 */
export class Regions {
  readonly bat: Region
  readonly metadata: Region
  /** header section, log and all regions: what the file has besides blocks */
  readonly all: readonly Region[]
  readonly copies: readonly [TableCopy, TableCopy]
  private readonly table: Uint8Array

  private constructor(parts: {
    bat: Region
    metadata: Region
    all: readonly Region[]
    copies: [TableCopy, TableCopy]
    table: Uint8Array
  }) {
    this.bat = parts.bat
    this.metadata = parts.metadata
    this.all = parts.all
    this.copies = parts.copies
    this.table = parts.table
  }

  /** @throws VdiskError CORRUPT, UNSUPPORTED for a required region that is not known */
  static *read(file: string, store: ByteStore, headers: Headers): Io<Regions> {
    const tables = yield* readTables(store)
    const table = tables.find(isValid)
    if (!table) {
      throw corrupt(file, 'neither copy of its region table is valid', {
        structure: 'region table',
        at: REGION_TABLE_PLACES[0],
        section: '2.2.3',
      })
    }
    // The checksum of 64 KiB takes most of the time of opening: what equals a valid copy is valid.
    const copies = tables.map((copy) =>
      copy && Buffer.compare(copy, table) === 0 ? 'valid' : isValid(copy) ? 'differs' : 'damaged',
    ) as [TableCopy, TableCopy]
    const log = { name: 'log', at: headers.logOffset, length: headers.logLength }
    const found = parseTable(file, table)
    const all = [{ name: 'header section', at: 0, length: HEADER_SECTION }, ...found.values()]
    if (log.length > 0) all.push(log)
    refuseOverlap(file, all)
    return new Regions({
      bat: required(file, found, REGION.bat, 'BAT'),
      metadata: required(file, found, REGION.metadata, 'metadata'),
      all,
      copies,
      table,
    })
  }

  /** Which region a range of the file touches. */
  hit(at: number, length: number): Region | undefined {
    for (const region of this.all) if (at < region.at + region.length && at + length > region.at) return region
    return undefined
  }

  /** Both copies of the table as they must be for the BAT to lie elsewhere. */
  moveBat(at: number, length: number): Patch[] {
    const table = this.table.slice()
    const count = regionTableHeader.decode(table).entryCount
    for (let i = 0; i < count; i++) {
      const entry = table.subarray(entryAt(i), entryAt(i) + regionTableEntry.size)
      if (regionTableEntry.decode(entry).guid === REGION.bat) regionTableEntry.patch(entry, { fileOffset: at, length })
    }
    seal(table)
    return REGION_TABLE_PLACES.map((place) => ({ at: place, bytes: table }))
  }
}

/** The 64 KiB of a new region table. */
export function makeRegionTable(
  bat: { at: number; length: number },
  metadata: { at: number; length: number },
): Uint8Array {
  const table = new Uint8Array(REGION_TABLE_SIZE)
  regionTableHeader.encode({ signature: SIGNATURE, checksum: 0, entryCount: 2 }, table)
  const entries = [
    { guid: REGION.bat, fileOffset: bat.at, length: bat.length, required: 1 },
    { guid: REGION.metadata, fileOffset: metadata.at, length: metadata.length, required: 1 },
  ]
  for (const [i, entry] of entries.entries()) regionTableEntry.encode(entry, table.subarray(entryAt(i)))
  seal(table)
  return table
}

const SIGNATURE = 'regi'

function* readTables(store: ByteStore): Io<(Uint8Array | undefined)[]> {
  const size = yield* settle(store.size())
  const tables: (Uint8Array | undefined)[] = []
  for (const at of REGION_TABLE_PLACES) {
    const table = new Uint8Array(REGION_TABLE_SIZE)
    if (at + table.length <= size) yield* settle(store.read(at, table))
    tables.push(at + table.length <= size ? table : undefined)
  }
  return tables
}

function isValid(table: Uint8Array | undefined): table is Uint8Array {
  if (!table) return false
  const { signature, checksum } = regionTableHeader.decode(table)
  return signature === SIGNATURE && checksum === checksumOf(table)
}

function parseTable(file: string, table: Uint8Array): Map<string, Region> {
  const { entryCount } = regionTableHeader.decode(table)
  const spot = { structure: 'region table', at: REGION_TABLE_PLACES[0], section: '2.2.3' }
  if (entryCount > LIMIT.tableEntries) {
    throw corrupt(file, `its region table claims ${entryCount} entries, it has room for ${LIMIT.tableEntries}`, spot)
  }
  const regions = new Map<string, Region>()
  for (let i = 0; i < entryCount; i++) {
    const { guid, fileOffset, length, required } = regionTableEntry.decode(table.subarray(entryAt(i)))
    const name = NAMES.get(guid)
    const entry = { ...spot, index: i, section: '2.2.3.2' }
    if (name === undefined && required & 1) {
      throw unsupported(file, `it needs the region {${guid}}, which vdisk does not know`, entry)
    }
    if (regions.has(guid)) throw corrupt(file, `its region table names {${guid}} twice`, entry)
    const aligned = fileOffset % MIB === 0 && length % MIB === 0
    if (!aligned || fileOffset < HEADER_SECTION || length === 0 || !Number.isSafeInteger(fileOffset + length)) {
      throw corrupt(file, `its region {${guid}} of ${length} bytes at ${fileOffset} is not aligned to 1 MiB`, entry)
    }
    regions.set(guid, { name: name ?? `region {${guid}}`, at: fileOffset, length })
  }
  return regions
}

const NAMES = new Map<string, string>([
  [REGION.bat, 'BAT'],
  [REGION.metadata, 'metadata region'],
])

function required(file: string, regions: Map<string, Region>, guid: string, name: string): Region {
  const region = regions.get(guid)
  if (region) return region
  throw corrupt(file, `its region table has no ${name} region`, {
    structure: 'region table',
    at: REGION_TABLE_PLACES[0],
    section: '2.2.3.2',
  })
}

function refuseOverlap(file: string, regions: readonly Region[]): void {
  const sorted = [...regions].sort((a, b) => a.at - b.at)
  for (const [i, region] of sorted.entries()) {
    const next = sorted[i + 1]
    if (!next || region.at + region.length <= next.at) continue
    throw corrupt(file, `its ${region.name} and its ${next.name} lie on top of each other at ${next.at}`, {
      structure: 'region table',
      at: next.at,
      section: '2.2.3.2',
    })
  }
}

function entryAt(index: number): number {
  return regionTableHeader.size + index * regionTableEntry.size
}

function seal(table: Uint8Array): void {
  regionTableHeader.patch(table, { checksum: checksumOf(table) })
}

/** With the checksum field taken as 0. */
function checksumOf(table: Uint8Array): number {
  const copy = table.slice()
  regionTableHeader.patch(copy, { checksum: 0 })
  return crc32c(copy)
}
