import type { Extent, Packed } from '../../contracts/extent.ts'
import { isVdiskError, VdiskError } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { type Page, TableCache } from '../../io/table-cache.ts'
import { unpackerOf } from './compression.ts'
import type { FileSpace } from './file-space.ts'
import type { Header } from './header.ts'
import {
  COMPRESSED,
  COPIED,
  decodeCompressed,
  L1_RESERVED_HIGH,
  L1_RESERVED_LOW,
  offsetOf,
  READS_AS_ZERO,
  RESERVED_HIGH,
  RESERVED_LOW,
} from './layout.ts'
import { RootTable } from './root-table.ts'
import type { TablePlaces } from './table-places.ts'

/** Bytes of L2 tables kept in memory: with 64 KiB clusters that maps 256 GiB at once. */
const CACHE = 32 << 20
const MAX_PAGE = 4096
const SUBCLUSTERS = 32

/** What a standard entry says; with extended entries, about one subcluster. */
type Kind = 'data' | 'zero' | 'parent'

/** What can be wrong with an L2 entry, as the end of a sentence about it. */
export const ENTRY_FLAW = {
  reserved: 'has reserved bits set',
  unaligned: 'is not aligned to a cluster',
  contradictory: 'has a subcluster that is both allocated and zero',
  placeless: 'has allocated subclusters but no place',
  misplaced: 'does not match its place in the data file',
  pastEnd: 'lies past the end of the file',
  inTable: 'leads into a table of the image',
  packedInDataFile: 'is compressed, which an image with a data file cannot have',
  packedReserved: 'is compressed and has reserved bits set',
} as const
export type EntryFlaw = keyof typeof ENTRY_FLAW

/**
 * From guest offsets to host offsets: L1 table, L2 tables, entries. ["Cluster mapping", "Extended L2 Entries"]
 *
 * This is the reading half; `Allocation` changes the tables.
 */
export class Mapping {
  readonly store: ByteStore
  /** where guest data lies: the image itself, or its external data file */
  readonly dataStore: ByteStore
  readonly header: Header
  readonly tables: TableCache
  readonly space: FileSpace
  /** where no guest data can lie */
  readonly places: TablePlaces
  /** replaced when the table moves */
  l1: RootTable
  private readonly unpack: Packed['unpack']
  private readonly clusterSize: number
  private readonly entrySize: number
  private readonly tableEntries: number

  constructor(parts: {
    store: ByteStore
    dataStore: ByteStore
    header: Header
    l1: RootTable
    space: FileSpace
    places: TablePlaces
    tables?: TableCache
  }) {
    this.store = parts.store
    this.dataStore = parts.dataStore
    this.header = parts.header
    this.l1 = parts.l1
    this.space = parts.space
    this.places = parts.places
    this.clusterSize = parts.header.clusterSize
    this.entrySize = parts.header.l2EntrySize
    this.tableEntries = this.clusterSize / this.entrySize
    this.tables =
      parts.tables ?? new TableCache(parts.store, { pageSize: Math.min(MAX_PAGE, this.clusterSize), capacity: CACHE })
    this.unpack = unpackerOf(parts.header)
  }

  /**
   * Reads an L1 table; its bounds have been checked. Where the file ends inside it, entries are missing: those are read as
   * what no entry can be, so that nobody takes the range for one that holds nothing.
   *
   * @param fileEnd bytes of the file, where they are known: there may be thousands of tables to read
   */
  static *readL1(store: ByteStore, at: number, entries: number, fileEnd?: number): Io<RootTable> {
    const bytes = new Uint8Array(entries * 8)
    if (entries === 0) return new RootTable(at, bytes)
    const present = Math.max(0, Math.min(bytes.length, (fileEnd ?? (yield* settle(store.size()))) - at))
    if (present > 0) yield* settle(store.read(at, bytes.subarray(0, present)))
    bytes.fill(0xff, present)
    return new RootTable(at, bytes)
  }

  /** The same image seen through another L1 table: a snapshot's. Caches and stores are shared. */
  through(l1: RootTable, places: TablePlaces): Mapping {
    const { store, dataStore, header, space, tables } = this
    return new Mapping({ store, dataStore, header, space, tables, l1, places })
  }

  *map(offset: number, length: number): Io<Extent> {
    const cluster = Math.floor(offset / this.clusterSize)
    const l1Index = Math.floor(cluster / this.tableEntries)
    const tableAt = this.tableOffset(l1Index)
    if (tableAt === 0) return { kind: 'parent', length: this.unmappedRun(l1Index, offset, length) }
    const entryAt = tableAt + (cluster % this.tableEntries) * this.entrySize
    const page = this.tables.peek(entryAt) ?? (yield* this.loadTable(entryAt, l1Index))
    const within = entryAt - page.at
    const start = offset - cluster * this.clusterSize
    if (page.view.getUint32(within) & COMPRESSED) return this.packedExtent(page.view, within, cluster, start, length)
    return this.entrySize === 8
      ? this.standardExtent(page, within, cluster, start, length)
      : this.extendedExtent(page, within, cluster, start, length)
  }

  /** Host offset of the L2 table for an L1 entry; 0: none. @throws VdiskError CORRUPT */
  tableOffset(l1Index: number, l1 = this.l1): number {
    // A snapshot's disk may be larger than its table: what the table does not reach is not mapped.
    if (l1Index >= l1.length) return 0
    const high = l1.high(l1Index)
    const low = l1.low(l1Index)
    const at = offsetOf(high, low)
    if ((high & L1_RESERVED_HIGH) === 0 && (low & L1_RESERVED_LOW) === 0) {
      if (at === 0) return 0
      if (at % this.clusterSize === 0 && !this.places.holdsOther(at)) return at
    }
    throw new VdiskError('CORRUPT', {
      message: `Cannot read ${this.header.file}: entry ${l1Index} of the L1 table cannot be right`,
      where: {
        file: this.header.file,
        structure: 'L1 table',
        index: l1Index,
        at: l1.at + l1Index * 8,
        offset: l1Index * this.header.l2Span,
        section: 'L1 table entry',
      },
      advice: 'See how far the damage goes: vdisk check IMAGE',
    })
  }

  /** The page with the L2 entry at host offset `entryAt`. @throws VdiskError CORRUPT if it lies past the file's end */
  *loadTable(entryAt: number, l1Index: number): Io<Page> {
    try {
      return yield* this.tables.load(entryAt)
    } catch (error) {
      if (!isVdiskError(error, 'OUT_OF_RANGE')) throw error
      throw new VdiskError('CORRUPT', {
        message: `Cannot read ${this.header.file}: the L2 table of L1 entry ${l1Index} lies past the end of the file`,
        where: {
          file: this.header.file,
          structure: 'L2 table',
          index: l1Index,
          at: entryAt,
          offset: l1Index * this.header.l2Span,
          section: 'L1 table entry',
        },
        advice: 'The file was cut short. If you have it, copy it again from its source.',
        cause: error,
      })
    }
  }

  /**
   * For whoever is about to change an entry: all of it must be right, not only what a read would look at.
   *
   * @throws VdiskError CORRUPT
   */
  assertSound(view: DataView, within: number, cluster: number): void {
    const flaw = this.flawOf(view, within, cluster)
    if (flaw !== undefined) throw this.badEntry(cluster, flaw)
  }

  /** What is wrong with the entry of a guest cluster; undefined where nothing is. */
  flawOf(view: DataView, within: number, cluster: number): EntryFlaw | undefined {
    const high = view.getUint32(within)
    const low = view.getUint32(within + 4)
    if (high & COMPRESSED) return this.packedFlaw(view, within)
    const flaw = this.entrySize === 8 ? this.standardFlaw(high, low) : this.extendedFlaw(view, within)
    if (flaw !== undefined) return flaw
    const at = offsetOf(high, low)
    // Host offset 0 is a place only in a data file, and then the COPIED flag says that it is meant.
    if (at === 0 && !(this.header.hasDataFile && high & COPIED)) return undefined
    return this.placeFlaw(at, cluster)
  }

  /** Subclusters of a cluster: 32 with extended L2 entries, else the cluster itself. */
  get unit(): number {
    return this.entrySize === 16 ? this.clusterSize / SUBCLUSTERS : this.clusterSize
  }

  private unmappedRun(l1Index: number, offset: number, length: number): number {
    const span = this.header.l2Span
    let end = (l1Index + 1) * span - offset
    for (let next = l1Index + 1; end < length && this.tableOffset(next) === 0; next++) end += span
    return Math.min(length, end)
  }

  private standardExtent(page: Page, within: number, cluster: number, start: number, length: number): Extent {
    const { view } = page
    const high = view.getUint32(within)
    const low = view.getUint32(within + 4)
    const kind = this.standardKind(high, low, cluster)
    const most = Math.min((page.bytes.length - within) / 8, Math.ceil((start + length) / this.clusterSize))
    if (kind !== 'data') {
      const count = this.runOf(view, within, cluster, { kind, step: 0, most })
      return { kind, length: Math.min(length, count * this.clusterSize - start) }
    }
    const at = offsetOf(high, low)
    const inRow = this.runOf(view, within, cluster, { kind, step: this.clusterSize, most })
    const own = this.header.hasDataFile ? inRow - 1 : this.places.clearRun(at / this.clusterSize + 1, inRow - 1)
    return this.dataExtent(at + start, cluster, start, Math.min(length, (1 + own) * this.clusterSize - start))
  }

  /**
   * How many entries are of one kind, from the one at `within` on.
   *
   * @param step bytes from the place of each to that of the next; 0: wherever they lie
   */
  private runOf(
    view: DataView,
    within: number,
    cluster: number,
    { kind, step, most }: { readonly kind: Kind; readonly step: number; readonly most: number },
  ): number {
    const high = view.getUint32(within)
    const low = view.getUint32(within + 4)
    const at = offsetOf(high, low)
    for (let n = 1; n < most; n++) {
      const nextHigh = view.getUint32(within + n * 8)
      const nextLow = view.getUint32(within + n * 8 + 4)
      // What is the same but for its place is as sound as the first one.
      if (nextHigh === high && nextLow === low + n * step) continue
      if (nextHigh & COMPRESSED || this.standardKind(nextHigh, nextLow, cluster + n) !== kind) return n
      if (step > 0 && offsetOf(nextHigh, nextLow) !== at + n * step) return n
    }
    return most
  }

  private standardKind(high: number, low: number, cluster: number): Kind {
    const flaw = this.standardFlaw(high, low)
    if (flaw !== undefined) throw this.badEntry(cluster, flaw)
    if (low & READS_AS_ZERO) return 'zero'
    if (offsetOf(high, low) !== 0) return 'data'
    return this.header.hasDataFile && high & COPIED ? 'data' : 'parent'
  }

  private extendedExtent(page: Page, within: number, cluster: number, start: number, length: number): Extent {
    const at = offsetOf(page.view.getUint32(within), page.view.getUint32(within + 4))
    let sub = Math.floor(start / this.unit)
    const kind = this.subclusterKind(page.view, within, sub, cluster)
    let run = this.unit * (sub + 1) - start
    for (let entry = within, n = 0; run < length; ) {
      if (++sub === SUBCLUSTERS) {
        sub = 0
        n++
        entry += 16
        if (entry >= page.bytes.length || page.view.getUint32(entry) & COMPRESSED) break
        const next = offsetOf(page.view.getUint32(entry), page.view.getUint32(entry + 4))
        if (kind === 'data' && !this.follows(next, at + n * this.clusterSize)) break
      }
      if (this.subclusterKind(page.view, entry, sub, cluster + n) !== kind) break
      run += this.unit
    }
    run = Math.min(run, length)
    return kind === 'data' ? this.dataExtent(at + start, cluster, start, run) : { kind, length: run }
  }

  /** The bitmap is the second half of an entry: high 32 bits "reads as zeros", low 32 bits "allocated". */
  private subclusterKind(view: DataView, entry: number, sub: number, cluster: number): Kind {
    const flaw = this.extendedFlaw(view, entry)
    if (flaw !== undefined) throw this.badEntry(cluster, flaw)
    const zero = view.getUint32(entry + 8)
    const allocated = view.getUint32(entry + 12)
    if (allocated & (1 << sub)) return 'data'
    return zero & (1 << sub) ? 'zero' : 'parent'
  }

  private standardFlaw(high: number, low: number): EntryFlaw | undefined {
    if (high & RESERVED_HIGH || low & RESERVED_LOW) return 'reserved'
    if (low & READS_AS_ZERO && this.header.version === 2) return 'reserved'
    return offsetOf(high, low) % this.clusterSize === 0 ? undefined : 'unaligned'
  }

  private extendedFlaw(view: DataView, entry: number): EntryFlaw | undefined {
    const high = view.getUint32(entry)
    const low = view.getUint32(entry + 4)
    if (high & RESERVED_HIGH || low & (RESERVED_LOW | READS_AS_ZERO)) return 'reserved'
    const zero = view.getUint32(entry + 8)
    const allocated = view.getUint32(entry + 12)
    if (zero & allocated) return 'contradictory'
    const at = offsetOf(high, low)
    if (allocated !== 0 && at === 0 && !this.header.hasDataFile) return 'placeless'
    return at % this.clusterSize === 0 ? undefined : 'unaligned'
  }

  /** @param at an aligned place that an entry names for guest data */
  private placeFlaw(at: number, cluster: number): EntryFlaw | undefined {
    if (this.header.hasDataFile) {
      // In a data file every cluster lies where the guest has it. ["External data file bit"]
      return at === cluster * this.clusterSize ? undefined : 'misplaced'
    }
    if (at >= this.space.length) return 'pastEnd'
    return this.places.holds(at) ? 'inTable' : undefined
  }

  private packedFlaw(view: DataView, within: number): EntryFlaw | undefined {
    if (this.header.hasDataFile) return 'packedInDataFile'
    const high = view.getUint32(within)
    const extendedBits = this.entrySize === 8 ? 0 : view.getUint32(within + 8) | view.getUint32(within + 12)
    if (extendedBits !== 0) return 'packedReserved'
    const { at, storedLength } = decodeCompressed(high, view.getUint32(within + 4), this.header.clusterBits)
    if (at < this.clusterSize || at >= this.space.length) return 'pastEnd'
    const last = at + Math.min(storedLength, this.space.length - at) - 1
    for (let place = at; place <= last; place = (Math.floor(place / this.clusterSize) + 1) * this.clusterSize) {
      if (this.places.holds(place)) return 'inTable'
    }
    return undefined
  }

  /** Whether the data of the next cluster goes on right behind that of this one. */
  private follows(next: number, at: number): boolean {
    return next === at && (this.header.hasDataFile || !this.places.holds(at))
  }

  /** Data must lie in the file; a last cluster may be cut short, what is missing of it reads as zero. */
  private dataExtent(at: number, cluster: number, start: number, length: number): Extent {
    const flaw = this.placeFlaw(at - start, cluster)
    if (flaw !== undefined) throw this.badEntry(cluster, flaw)
    if (this.header.hasDataFile) return this.externalExtent(at, length)
    const { length: end } = this.space
    if (at + length <= end) return { kind: 'data', length, store: this.store, at }
    if (at < end) return { kind: 'data', length: end - at, store: this.store, at }
    return { kind: 'zero', length: Math.min(length, this.clusterSize - start) }
  }

  private externalExtent(at: number, length: number): Extent {
    const size = this.dataStore.size()
    if (size instanceof Promise) return { kind: 'data', length, store: this.dataStore, at }
    if (at >= size) return { kind: 'zero', length }
    return { kind: 'data', length: Math.min(length, size - at), store: this.dataStore, at }
  }

  private packedExtent(view: DataView, within: number, cluster: number, start: number, length: number): Extent {
    const flaw = this.packedFlaw(view, within)
    if (flaw !== undefined) throw this.badEntry(cluster, flaw)
    const high = view.getUint32(within)
    const { at, storedLength } = decodeCompressed(high, view.getUint32(within + 4), this.header.clusterBits)
    // The length counts whole sectors; the file may end inside the last one.
    const present = Math.min(storedLength, this.space.length - at)
    const packed = { store: this.store, at, storedLength: present, length: this.clusterSize, unpack: this.unpack }
    return { kind: 'packed', length: Math.min(length, this.clusterSize - start), packed, skip: start }
  }

  private badEntry(cluster: number, flaw: EntryFlaw): VdiskError {
    return new VdiskError('CORRUPT', {
      message: `Cannot read ${this.header.file}: the L2 entry of guest cluster ${cluster} ${ENTRY_FLAW[flaw]}`,
      where: {
        file: this.header.file,
        structure: 'L2 table',
        index: cluster % this.tableEntries,
        offset: cluster * this.clusterSize,
        section: 'L2 table entry',
      },
      advice: 'See how far the damage goes: vdisk check IMAGE',
    })
  }
}
