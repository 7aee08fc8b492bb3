import type { Extent } from '../../contracts/extent.ts'
import type { FileEnd } from '../../contracts/file-room.ts'
import type { VdiskError } from '../../errors.ts'
import { type Awaitable, type Io, run, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { type Page, TableCache, type TableStore } from '../../io/table-cache.ts'
import { badEntry } from './damage.ts'
import type { GrainDirectory } from './grain-directory.ts'
import { ENTRY, GRAIN_ENTRY, SECTOR } from './layout.ts'
import { MetadataPlaces } from './metadata-places.ts'
import type { SparseHeader } from './sparse-header.ts'

/** Bytes of grain tables kept in memory: those of 256 GiB with usual grains. */
const CACHE = 16 << 20
/** Tables that one look at silent grains goes over. */
const TABLES_PER_LOOK = 256

/**
 * From offsets of a sparse extent to places in its file. ["Grain Directory and Grain Table"]
 *
 * Tables are known by their number, wherever they lie: the entry of grain n is at byte 4n of what the cache sees. So
 * they are loaded whole, and the copy of a table takes its place where that is damaged. This is the reading half.
 */
export class GrainTables implements TableStore {
  readonly file: string
  readonly store: ByteStore
  header: SparseHeader
  readonly cache: TableCache
  /** header, descriptor, directories and tables, all with their copies */
  places: MetadataPlaces
  hasParent: boolean
  directory: GrainDirectory
  /** replaced by what keeps account of room, where the file is written */
  space: FileEnd
  /** what the header says now of where free room begins; undefined: it does not tell */
  freeSector: number | undefined

  constructor(
    parts: { store: ByteStore; header: SparseHeader; directory: GrainDirectory; hasParent: boolean },
    space: FileEnd,
  ) {
    this.store = parts.store
    this.file = parts.store.name
    this.header = parts.header
    this.directory = parts.directory
    this.hasParent = parts.hasParent
    this.space = space
    this.freeSector = parts.header.freeSector
    this.places = placesOf(parts.header, parts.directory)
    this.cache = new TableCache(this, { pageSize: parts.header.tableBytes, capacity: CACHE })
  }

  /** Whole grains of the extent, the last of which may be cut by its end. */
  get grains(): number {
    return Math.ceil(this.header.size / this.header.grainBytes)
  }

  /**
   * Says what lies at `within`: neighbouring grains of one kind are one answer, for data as far as a table goes.
   *
   * @param within bytes from the begin of the extent
   * @throws VdiskError CORRUPT for an entry that cannot be right
   */
  *map(within: number, length: number): Io<Extent> {
    const { grainBytes, tableBytes } = this.header
    const grain = Math.floor(within / grainBytes)
    const skip = within - grain * grainBytes
    const page = this.cache.peek(grain * ENTRY) ?? (yield* this.load(grain))
    const index = (grain * ENTRY - page.at) / ENTRY
    const sector = page.view.getUint32(index * ENTRY, true)
    const kind = this.kindOf(sector)
    const wanted = Math.ceil((skip + length) / grainBytes)
    const most = Math.min(wanted, tableBytes / ENTRY - index)
    if (kind === 'data') {
      const count = this.soundRun(grain, sector, this.dataRun(page, index, most, sector))
      const run = Math.min(length, count * grainBytes - skip)
      return { kind, length: run, store: this.store, at: sector * SECTOR + skip }
    }
    let count = this.silentRun(page, index, most, kind)
    for (let looks = 0; looks < TABLES_PER_LOOK && count < wanted; looks++) {
      const next = grain + count
      if ((next * ENTRY) % tableBytes !== 0) break
      const empty = kind === this.kindOf(GRAIN_ENTRY.silent) ? yield* this.emptyTables(next, wanted - count) : 0
      if (empty > 0) {
        count += empty
        continue
      }
      const table = this.cache.peek(next * ENTRY) ?? (yield* this.load(next))
      const more = this.silentRun(table, 0, Math.min(wanted - count, tableBytes / ENTRY), kind)
      if (more === 0) break
      count += more
    }
    return { kind, length: Math.min(length, count * grainBytes - skip) }
  }

  /** From now on the extent has this size, and these tables. */
  adopt(header: SparseHeader, directory: GrainDirectory): void {
    this.header = header
    this.directory = directory
    this.places = placesOf(header, directory)
  }

  /** The table that holds a grain's entry. @throws VdiskError CORRUPT where neither it nor its copy can be read */
  *load(grain: number): Io<Page> {
    return yield* this.cache.load(grain * ENTRY)
  }

  /** What an entry says. */
  kindOf(sector: number): 'data' | 'zero' | 'parent' {
    if (sector === GRAIN_ENTRY.silent) return this.hasParent ? 'parent' : 'zero'
    return sector === GRAIN_ENTRY.zero && this.header.zeroedGrains ? 'zero' : 'data'
  }

  /** What is wrong with grains that lie from a sector on, in words; undefined: nothing. @param used bytes of them */
  complaintAbout(sector: number, used: number): string | undefined {
    if (sector * SECTOR + used > this.space.end) return `points at sector ${sector}, past the end of the file`
    if (!this.places.hit(sector, used / SECTOR)) return undefined
    return `points at sector ${sector}, where the header or a table lies`
  }

  /** Bytes of a grain that the extent has. */
  usedOf(grain: number): number {
    return Math.min(this.header.grainBytes, this.header.size - grain * this.header.grainBytes)
  }

  /** For the cache: one table, or its copy where that is the better of the two. */
  read(at: number, target: Uint8Array): Awaitable<void> {
    return run(this.readTable(at / this.header.tableBytes, target))
  }

  /** For the cache: changed sectors of tables, first in the copies, then in the tables that are in use. */
  write(at: number, source: Uint8Array): Awaitable<void> {
    return run(this.writeTables(at, source))
  }

  private *readTable(table: number, target: Uint8Array): Io<void> {
    const { directory } = this
    const place = directory.placeOf(table)
    if (place === 0) {
      target.fill(0)
      return
    }
    if (place === undefined) {
      throw this.badTable(table, 'lies where no table can be, and so does its copy')
    }
    yield* settle(this.store.read(place, target))
    const copy = directory.copyPlace(table)
    if (!copy || copy === place || this.isSound(table, target)) return
    const other = new Uint8Array(target.length)
    yield* settle(this.store.read(copy, other))
    if (this.isBetter(table, other, target)) target.set(other)
  }

  private *writeTables(at: number, source: Uint8Array): Io<void> {
    const { directory } = this
    for (const placeOf of [
      (table: number) => directory.copyPlace(table),
      (table: number) => directory.ownPlace(table),
    ]) {
      for (let done = 0; done < source.length; ) {
        const { place, length } = this.stretch(placeOf, at + done, source.length - done)
        if (place) yield* settle(this.store.write(place, source.subarray(done, done + length)))
        done += length
      }
    }
  }

  /** Where bytes of tables lie, as far as the tables lie one behind the other. */
  private stretch(
    placeOf: (table: number) => number | undefined,
    at: number,
    most: number,
  ): { place: number | undefined; length: number } {
    const { tableBytes } = this.header
    const table = Math.floor(at / tableBytes)
    const start = placeOf(table)
    let length = (table + 1) * tableBytes - at
    for (let next = table + 1; length < most; next++, length += tableBytes) {
      if (!start || placeOf(next) !== start + (next - table) * tableBytes) break
    }
    return { place: start && start + at - table * tableBytes, length: Math.min(length, most) }
  }

  /** Whether a copy of a table alone can be right: it names places that can be, no two grains share one, and the table does not. */
  isBetter(table: number, copy: Uint8Array, own: Uint8Array): boolean {
    return !this.isSound(table, own) && this.isSound(table, copy) && !this.hasOverlaps(table, copy)
  }

  /** Whether every entry of a table names a place where a grain can be. */
  private isSound(table: number, bytes: Uint8Array): boolean {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
    const first = table * (bytes.length / ENTRY)
    const count = Math.min(bytes.length / ENTRY, this.grains - first)
    for (let index = 0; index < count; index++) {
      const sector = view.getUint32(index * ENTRY, true)
      if (this.kindOf(sector) !== 'data') continue
      if (this.complaintAbout(sector, this.usedOf(first + index)) !== undefined) return false
    }
    return true
  }

  private hasOverlaps(table: number, bytes: Uint8Array): boolean {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
    const count = Math.min(bytes.length / ENTRY, this.grains - table * (bytes.length / ENTRY))
    const entries = Array.from({ length: count }, (_, index) => view.getUint32(index * ENTRY, true))
    const sectors = Uint32Array.from(entries.filter((sector) => this.kindOf(sector) === 'data')).sort()
    const apart = this.header.grainBytes / SECTOR
    return sectors.some((sector, i) => i > 0 && sector < (sectors[i - 1] as number) + apart)
  }

  /** How many grains from `grain` on, the first of a table, have tables that are holes of the file, and not in memory. */
  private *emptyTables(grain: number, most: number): Io<number> {
    const { store, directory, cache } = this
    const { tableBytes } = this.header
    const first = (grain * ENTRY) / tableBytes
    const place = directory.ownPlace(first)
    if (!place || !store.segment || place >= this.space.end) return 0
    const segment = yield* settle(store.segment(place))
    if (segment.kind === 'data') return 0
    const wanted = Math.min(Math.ceil((most * ENTRY) / tableBytes), Math.floor(segment.length / tableBytes))
    const held = cache.nextHeld(first * tableBytes, (first + wanted) * tableBytes)
    const end = Math.floor(held / tableBytes)
    let table = first
    while (table < end && directory.ownPlace(table) === place + (table - first) * tableBytes) table++
    return Math.min(most, ((table - first) * tableBytes) / ENTRY)
  }

  private dataRun(page: Page, index: number, most: number, sector: number): number {
    const sectors = this.header.grainBytes / SECTOR
    let count = 1
    while (count < most && page.view.getUint32((index + count) * ENTRY, true) === sector + count * sectors) count++
    return count
  }

  private silentRun(page: Page, index: number, most: number, kind: string): number {
    let count = 0
    while (count < most && this.kindOf(page.view.getUint32((index + count) * ENTRY, true)) === kind) count++
    return count
  }

  /** How many grains of a run lie where grains can be: all, or else the first alone. @throws VdiskError CORRUPT */
  private soundRun(grain: number, sector: number, count: number): number {
    const { grainBytes, size } = this.header
    const used = Math.min(count * grainBytes, size - grain * grainBytes)
    if (this.complaintAbout(sector, used) === undefined) return count
    const complaint = this.complaintAbout(sector, this.usedOf(grain))
    if (complaint !== undefined) throw this.badGrain(grain, complaint)
    return 1
  }

  private badGrain(grain: number, why: string): VdiskError {
    const table = Math.floor((grain * ENTRY) / this.header.tableBytes)
    // Its table was read.
    const place = this.directory.placeOf(table) as number
    return badEntry(this.file, `the entry of grain ${grain} ${why}`, {
      structure: 'grain table',
      index: grain,
      at: place + grain * ENTRY - table * this.header.tableBytes,
      offset: grain * this.header.grainBytes,
      section: 'Grain Table',
    })
  }

  private badTable(table: number, why: string): VdiskError {
    return badEntry(this.file, `grain table ${table} ${why}`, {
      structure: 'grain directory',
      index: table,
      at: this.header.directoryAt + table * ENTRY,
      offset: table * (this.header.tableBytes / ENTRY) * this.header.grainBytes,
      section: 'Grain Directory',
    })
  }
}

/** Where grains cannot be: readers that do not look would show a guest the tables of its own disk. */
function placesOf(header: SparseHeader, directory: GrainDirectory): MetadataPlaces {
  const places = MetadataPlaces.of(directory.sectors, header.tableBytes / SECTOR)
  const directorySectors = Math.ceil((header.tables * ENTRY) / SECTOR)
  places.add(0, header.length / SECTOR)
  if (header.descriptor) places.add(header.descriptor.at / SECTOR, header.descriptor.length / SECTOR)
  if (directory.own) places.add(header.directoryAt / SECTOR, directorySectors)
  if (directory.copy && header.redundantAt !== undefined && header.redundantAt !== header.directoryAt)
    places.add(header.redundantAt / SECTOR, directorySectors)
  return places
}
