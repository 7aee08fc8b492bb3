import { memoryPool } from '../../bytes/pool.ts'
import type { Io } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { corrupt, leaveOut, type Reader, unsupported } from './damage.ts'
import type { Headers } from './header.ts'
import {
  HEADER_SECTION,
  LIMIT,
  MIB,
  REGION,
  REGION_TABLE_PLACES,
  REGION_TABLE_SIZE,
  regionTableHeader,
} from './layout.ts'
import {
  entriesOf,
  isValidTable,
  joinTables,
  type RegionEntry,
  readRegionTables,
  withBat,
  withoutRest,
  withRest,
} from './region-table.ts'

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

/** Memory for both copies: to have it anew for each file that is opened would be most of the memory that opening takes. */
const SCRATCH = memoryPool(REGION_TABLE_SIZE, REGION_TABLE_PLACES.length)

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
  /** entries that were not left out, in the order of the table */
  readonly entries: readonly RegionEntry[]
  /** entries that were */
  readonly dropped: number
  /** the table that counts, without the zeros behind its entries */
  private readonly shortened: Uint8Array

  private constructor(copies: readonly [TableCopy, TableCopy], table: Uint8Array, found: Found) {
    this.copies = copies
    this.shortened = withoutRest(table)
    this.bat = found.bat
    this.metadata = found.metadata
    this.all = found.all
    this.entries = found.entries
    this.dropped = regionTableHeader.decode(table).entryCount - found.entries.length
  }

  /**
   * Salvage does without regions that the disk does not need, also where somebody calls them required.
   *
   * @throws VdiskError CORRUPT, UNSUPPORTED for a required region that is not known
   */
  static *read(reader: Reader, store: ByteStore, headers: Headers): Io<Regions> {
    const taken: Uint8Array[] = []
    const take = (): Uint8Array => {
      const piece = SCRATCH.take()
      taken.push(piece)
      return piece
    }
    try {
      const tables = yield* readRegionTables(store, take)
      return Regions.of(reader, tables, wholeTable(reader, tables), headers)
    } finally {
      for (const piece of taken) SCRATCH.giveBack(piece)
    }
  }

  /** The 64 KiB that count. */
  get table(): Uint8Array {
    return withRest(this.shortened)
  }

  /** What one of the copies says. Nothing of the tables is kept. */
  static of(reader: Reader, tables: readonly (Uint8Array | undefined)[], table: Uint8Array, headers: Headers): Regions {
    // The checksum of 64 KiB takes most of the time of opening: what equals a valid copy is valid.
    const isWhole = tables.includes(table)
    const copies = tables.map((copy) =>
      isWhole && copy && Buffer.compare(copy, table) === 0 ? 'valid' : isValidTable(copy) ? 'differs' : 'damaged',
    ) as [TableCopy, TableCopy]
    return new Regions(copies, table, new Parsing(reader, table).found(headers))
  }

  /** Which region a range of the file touches. */
  hit(at: number, length: number): Region | undefined {
    for (const region of this.all) if (at < region.at + region.length && at + length > region.at) return region
    return undefined
  }

  /** Both copies of the table as they must be for the BAT to lie elsewhere. */
  moveBat(at: number, length: number): Patch[] {
    const bytes = withBat(this.table, at, length)
    return REGION_TABLE_PLACES.map((place) => ({ at: place, bytes }))
  }
}

const NAMES = new Map<string, string>([
  [REGION.bat, 'BAT'],
  [REGION.metadata, 'metadata region'],
])
const SPOT = { structure: 'region table', at: REGION_TABLE_PLACES[0], section: '2.2.3' }

interface Found {
  readonly bat: Region
  readonly metadata: Region
  readonly all: readonly Region[]
  readonly entries: readonly RegionEntry[]
}

function wholeTable(reader: Reader, tables: readonly (Uint8Array | undefined)[]): Uint8Array {
  const table = tables.find(isValidTable)
  if (table) return table
  const damage = corrupt(reader.name, 'neither copy of its region table is valid', SPOT)
  const joined = joinTables(tables[0], tables[1])
  if (!joined) throw damage
  leaveOut(reader, damage)
  return joined
}

/** One table, entry by entry. */
class Parsing {
  private readonly reader: Reader
  private readonly entries: readonly RegionEntry[]

  constructor(reader: Reader, table: Uint8Array) {
    this.reader = reader
    const { entryCount } = regionTableHeader.decode(table)
    if (entryCount > LIMIT.tableEntries) {
      const why = `its region table claims ${entryCount} entries, it has room for ${LIMIT.tableEntries}`
      throw corrupt(reader.name, why, SPOT)
    }
    this.entries = entriesOf(table, entryCount)
  }

  found(headers: Headers): Found {
    const entries = this.usable()
    const bat = this.required(entries, REGION.bat, 'BAT')
    const metadata = this.required(entries, REGION.metadata, 'metadata')
    const all: Region[] = [{ name: 'header section', at: 0, length: HEADER_SECTION }]
    for (const region of [bat, metadata]) this.place(all, region, false)
    const log = { name: 'log', at: headers.logOffset, length: headers.logLength }
    if (log.length > 0) this.place(all, log, !headers.hasLog)
    const kept = entries.filter((entry) => NAMES.has(entry.guid) || this.place(all, regionOf(entry), true))
    return { bat, metadata, all, entries: kept }
  }

  /** The entries that make sense, each for itself. */
  private usable(): RegionEntry[] {
    const { name } = this.reader
    const seen = new Set<string>()
    return this.entries.filter(({ guid, fileOffset, length, required }, index) => {
      const where = { ...SPOT, index, section: '2.2.3.2' }
      const isKnown = NAMES.has(guid)
      if (!isKnown && required & 1) {
        leaveOut(this.reader, unsupported(name, `it needs the region {${guid}}, which vdisk does not know`, where))
      }
      const aligned = fileOffset % MIB === 0 && length % MIB === 0 && length > 0
      const why = seen.has(guid)
        ? `its region table names {${guid}} twice`
        : aligned && fileOffset >= HEADER_SECTION && Number.isSafeInteger(fileOffset + length)
          ? undefined
          : `its region {${guid}} of ${length} bytes at ${fileOffset} is not aligned to 1 MiB`
      seen.add(guid)
      if (why === undefined) return true
      const damage = corrupt(name, why, where)
      if (isKnown) throw damage
      leaveOut(this.reader, damage)
      return false
    })
  }

  private required(entries: readonly RegionEntry[], guid: string, name: string): Region {
    const entry = entries.find((one) => one.guid === guid)
    if (entry) return regionOf(entry)
    throw corrupt(this.reader.name, `its region table has no ${name} region`, { ...SPOT, section: '2.2.3.2' })
  }

  /** Adds a region to those that have their place. @returns whether it could have its own */
  private place(all: Region[], region: Region, isOptional: boolean): boolean {
    const other = all.find(({ at, length }) => region.at < at + length && at < region.at + region.length)
    if (other) {
      const [first, second] = other.at <= region.at ? [other, region] : [region, other]
      const why = `its ${first.name} and its ${second.name} lie on top of each other at ${second.at}`
      const damage = corrupt(this.reader.name, why, { ...SPOT, at: second.at, section: '2.2.3.2' })
      if (!isOptional) throw damage
      leaveOut(this.reader, damage)
      return false
    }
    all.push(region)
    return true
  }
}

function regionOf({ guid, fileOffset, length }: RegionEntry): Region {
  return { name: NAMES.get(guid) ?? `region {${guid}}`, at: fileOffset, length }
}
