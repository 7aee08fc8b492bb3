import { type Awaitable, type Io, settle } from '../../../io/io.ts'
import type { ByteStore } from '../../../io/store.ts'
import { type Page, TableCache } from '../../../io/table-cache.ts'
import { corrupt } from '../damage.ts'
import { SECTOR } from '../layout.ts'
import { decodeDirectoryEntry, decodeTableEntry, SE_ENTRY, SE_SPARSE, type SeGrain } from './layout.ts'

/** What the header of a space-efficient extent says, in bytes. */
export interface SeHeader {
  /** bytes of the disk */
  readonly size: number
  readonly directoryAt: number
  /** grain tables that the disk needs */
  readonly tables: number
  readonly tablesAt: number
  readonly tablesEnd: number
  readonly grainsAt: number
  readonly grainsEnd: number
}

const TABLE_BYTES = SE_SPARSE.tableSize * SECTOR
/** Entries of a table, and so grains that it tells of. */
export const TABLE_GRAINS = TABLE_BYTES / SE_ENTRY
export const GRAIN_BYTES = SE_SPARSE.grainSize * SECTOR
/** Bytes of tables in memory, and of a page of them: half a table. */
const CAPACITY = 4 << 20
const PAGE = TABLE_BYTES / 2
/** No table: its number in the directory. */
const ABSENT = 0xffffffff

/** Where the grains of a space-efficient extent lie. */
export class SeSparseTables {
  readonly header: SeHeader
  private readonly directory: Uint32Array
  private readonly cache: TableCache

  private constructor(store: ByteStore, header: SeHeader, directory: Uint32Array) {
    this.header = header
    this.directory = directory
    // Tables lie one behind the other, on the border of a sector: the cache sees them from 0 on.
    const read = (at: number, target: Uint8Array): Awaitable<void> => store.read(header.tablesAt + at, target)
    this.cache = new TableCache({ read, write: neverWritten }, { pageSize: PAGE, capacity: CAPACITY })
  }

  /** Reads the directory. @throws VdiskError CORRUPT for an entry that leads to no table */
  static *read(store: ByteStore, header: SeHeader): Io<SeSparseTables> {
    const bytes = new Uint8Array(header.tables * SE_ENTRY)
    yield* settle(store.read(header.directoryAt, bytes))
    const view = new DataView(bytes.buffer)
    const directory = new Uint32Array(header.tables)
    const present = Math.floor((header.tablesEnd - header.tablesAt) / TABLE_BYTES)
    for (let index = 0; index < header.tables; index++) {
      const at = index * SE_ENTRY
      const entry = decodeDirectoryEntry(view.getUint32(at + 4, true), view.getUint32(at, true))
      if (entry === 'bad' || (entry !== undefined && entry >= present)) {
        throw corrupt(store.name, `entry ${index} of its grain directory leads to no grain table`, {
          structure: 'grain directory',
          index,
          at: header.directoryAt + at,
        })
      }
      directory[index] = entry ?? ABSENT
    }
    return new SeSparseTables(store, header, directory)
  }

  /** Whether a table of the disk is there. */
  has(table: number): boolean {
    return this.directory[table] !== ABSENT
  }

  /** Grains from `grain` on, of tables that are not there, up to the next that is. */
  absentRun(grain: number): number {
    let table = Math.floor(grain / TABLE_GRAINS)
    while (table < this.directory.length && !this.has(table)) table++
    return table * TABLE_GRAINS - grain
  }

  /** The part of a table with the entry of a grain, if it is in memory: the fast way. Only where the table is there. */
  peek(grain: number): Page | undefined {
    return this.cache.peek(this.entryAt(grain))
  }

  *load(grain: number): Io<Page> {
    return yield* this.cache.load(this.entryAt(grain))
  }

  /** The entry of a grain in such a part. */
  entryIn({ at, view }: Page, grain: number): SeGrain {
    const within = this.entryAt(grain) - at
    return decodeTableEntry(view.getUint32(within + 4, true), view.getUint32(within, true))
  }

  /** Grains from `grain` on up to the end of such a part. */
  restOfPage({ at }: Page, grain: number): number {
    return (at + PAGE - this.entryAt(grain)) / SE_ENTRY
  }

  /** Byte of the file at which a grain of a number lies; undefined: none can. */
  placeOf(number: number): number | undefined {
    const at = this.header.grainsAt + number * GRAIN_BYTES
    return at + GRAIN_BYTES <= this.header.grainsEnd ? at : undefined
  }

  /** Bytes from the begin of the tables. */
  private entryAt(grain: number): number {
    const table = this.directory[Math.floor(grain / TABLE_GRAINS)] as number
    return table * TABLE_BYTES + (grain % TABLE_GRAINS) * SE_ENTRY
  }
}

function neverWritten(): never {
  throw new TypeError('Space-efficient extents are only read')
}
