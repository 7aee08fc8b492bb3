import type { Extent, Packed } from '../../contracts/extent.ts'
import { isVdiskError, VdiskError } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { type Page, TableCache } from '../../io/table-cache.ts'
import { unpackerOf } from './compression.ts'
import type { Header } from './header.ts'
import { COMPRESSED, COPIED, decodeCompressed, offsetOf, READS_AS_ZERO, RESERVED_HIGH, RESERVED_LOW } from './layout.ts'
import type { FileSpace } from './refcounts.ts'
import { RootTable } from './root-table.ts'

/** Bytes of L2 tables kept in memory: with 64 KiB clusters that maps 256 GiB at once. */
const CACHE = 32 << 20
const MAX_PAGE = 4096
const SUBCLUSTERS = 32

/** Where one guest cluster's entry stands. */
export interface EntryPlace {
  readonly page: Page
  /** bytes from the start of the page */
  readonly within: number
}

/** What a standard entry says; with extended entries, about one subcluster. */
type Kind = 'data' | 'zero' | 'parent'

/**
 * From guest offsets to host offsets: L1 table, L2 tables, entries. ["Cluster mapping", "Extended L2 Entries"]
 *
 * This is the reading half; `Allocation` changes the tables through `entry` and `l1`.
 */
export class Mapping {
  readonly store: ByteStore
  /** where guest data lies: the image itself, or its external data file */
  readonly dataStore: ByteStore
  readonly header: Header
  readonly tables: TableCache
  readonly space: FileSpace
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
    tables?: TableCache
  }) {
    this.store = parts.store
    this.dataStore = parts.dataStore
    this.header = parts.header
    this.l1 = parts.l1
    this.space = parts.space
    this.clusterSize = parts.header.clusterSize
    this.entrySize = parts.header.l2EntrySize
    this.tableEntries = this.clusterSize / this.entrySize
    this.tables =
      parts.tables ?? new TableCache(parts.store, { pageSize: Math.min(MAX_PAGE, this.clusterSize), capacity: CACHE })
    this.unpack = unpackerOf(parts.header)
  }

  /** Reads an L1 table; its bounds have been checked against the file. */
  static *readL1(store: ByteStore, at: number, entries: number): Io<RootTable> {
    const bytes = new Uint8Array(entries * 8)
    if (entries > 0) yield* settle(store.read(at, bytes))
    return new RootTable(at, bytes)
  }

  /** The same image seen through another L1 table: a snapshot's. Caches and stores are shared. */
  through(l1: RootTable): Mapping {
    const { store, dataStore, header, space, tables } = this
    return new Mapping({ store, dataStore, header, space, tables, l1 })
  }

  *map(offset: number, length: number): Io<Extent> {
    const cluster = Math.floor(offset / this.clusterSize)
    const l1Index = Math.floor(cluster / this.tableEntries)
    const tableAt = this.tableOffset(l1Index)
    if (tableAt === 0) return { kind: 'parent', length: this.unmappedRun(l1Index, offset, length) }
    const entryAt = tableAt + (cluster % this.tableEntries) * this.entrySize
    const page = this.tables.peek(entryAt) ?? (yield* this.loadTable(entryAt, l1Index))
    const within = entryAt - page.at
    const high = page.view.getUint32(within)
    const low = page.view.getUint32(within + 4)
    const start = offset - cluster * this.clusterSize
    if (high & COMPRESSED) return this.packedExtent(high, low, cluster, start, length)
    return this.entrySize === 8
      ? this.standardExtent(page, within, cluster, start, length)
      : this.extendedExtent(page, within, cluster, start, length)
  }

  /** Host offset of the L2 table for an L1 entry; 0: none. @throws VdiskError CORRUPT */
  tableOffset(l1Index: number): number {
    // A snapshot's disk may be larger than its table: what the table does not reach is not mapped.
    if (l1Index >= this.l1.length) return 0
    const at = offsetOf(this.l1.high(l1Index), this.l1.low(l1Index))
    if (at % this.clusterSize === 0 && (this.l1.high(l1Index) & ~COPIED) >>> 24 === 0) return at
    throw new VdiskError('CORRUPT', {
      message: `Cannot read ${this.header.file}: entry ${l1Index} of the L1 table cannot be right`,
      where: {
        file: this.header.file,
        structure: 'L1 table',
        index: l1Index,
        at: this.l1.at + l1Index * 8,
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
    const kind = this.standardKind(view.getUint32(within), view.getUint32(within + 4), cluster)
    const at = offsetOf(view.getUint32(within), view.getUint32(within + 4))
    let run = this.clusterSize - start
    for (let next = within + 8, n = 1; run < length && next < page.bytes.length; next += 8, n++) {
      const high = view.getUint32(next)
      const low = view.getUint32(next + 4)
      if (high & COMPRESSED || this.standardKind(high, low, cluster + n) !== kind) break
      if (kind === 'data' && offsetOf(high, low) !== at + n * this.clusterSize) break
      run += this.clusterSize
    }
    run = Math.min(run, length)
    return kind === 'data' ? this.dataExtent(at + start, cluster, start, run) : { kind, length: run }
  }

  private standardKind(high: number, low: number, cluster: number): Kind {
    if (high & RESERVED_HIGH || low & RESERVED_LOW) throw this.badEntry(cluster, 'has reserved bits set')
    if (low & READS_AS_ZERO) {
      if (this.header.version === 2) throw this.badEntry(cluster, 'has reserved bits set')
      return 'zero'
    }
    if (offsetOf(high, low) !== 0) return 'data'
    // Host offset 0 is a place only in a data file, and then the COPIED flag says that it is meant.
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
        if (kind === 'data' && next !== at + n * this.clusterSize) break
      }
      if (this.subclusterKind(page.view, entry, sub, cluster + n) !== kind) break
      run += this.unit
    }
    run = Math.min(run, length)
    return kind === 'data' ? this.dataExtent(at + start, cluster, start, run) : { kind, length: run }
  }

  /** The bitmap is the second half of an entry: high 32 bits "reads as zeros", low 32 bits "allocated". */
  private subclusterKind(view: DataView, entry: number, sub: number, cluster: number): Kind {
    const high = view.getUint32(entry)
    const low = view.getUint32(entry + 4)
    if (high & RESERVED_HIGH || low & (RESERVED_LOW | READS_AS_ZERO))
      throw this.badEntry(cluster, 'has reserved bits set')
    const zero = view.getUint32(entry + 8)
    const allocated = view.getUint32(entry + 12)
    if (zero & allocated) throw this.badEntry(cluster, 'has a subcluster that is both allocated and zero')
    if (allocated !== 0 && offsetOf(high, low) === 0 && !this.header.hasDataFile) {
      throw this.badEntry(cluster, 'has allocated subclusters but no place')
    }
    if (allocated & (1 << sub)) return 'data'
    return zero & (1 << sub) ? 'zero' : 'parent'
  }

  /** Data must lie in the file; a last cluster may be cut short, what is missing of it reads as zero. */
  private dataExtent(at: number, cluster: number, start: number, length: number): Extent {
    if ((at - start) % this.clusterSize !== 0) throw this.badEntry(cluster, 'is not aligned to a cluster')
    if (this.header.hasDataFile) return this.externalExtent(at, cluster, start, length)
    const { length: end } = this.space
    if (at + length <= end) return { kind: 'data', length, store: this.store, at }
    if (at < end) return { kind: 'data', length: end - at, store: this.store, at }
    if (at - start < end) return { kind: 'zero', length: Math.min(length, this.clusterSize - start) }
    throw this.badEntry(cluster, 'lies past the end of the file')
  }

  /** In a data file every cluster lies where the guest has it. ["External data file bit"] */
  private externalExtent(at: number, cluster: number, start: number, length: number): Extent {
    if (at !== cluster * this.clusterSize + start)
      throw this.badEntry(cluster, 'does not match its place in the data file')
    const size = this.dataStore.size()
    if (size instanceof Promise) return { kind: 'data', length, store: this.dataStore, at }
    if (at >= size) return { kind: 'zero', length }
    return { kind: 'data', length: Math.min(length, size - at), store: this.dataStore, at }
  }

  private packedExtent(high: number, low: number, cluster: number, start: number, length: number): Extent {
    if (this.header.hasDataFile)
      throw this.badEntry(cluster, 'is compressed, which an image with a data file cannot have')
    const { at, storedLength } = decodeCompressed(high, low, this.header.clusterBits)
    // The length counts whole sectors; the file may end inside the last one.
    const present = Math.min(storedLength, this.space.length - at)
    if (present <= 0 || at < this.clusterSize) throw this.badEntry(cluster, 'lies past the end of the file')
    const packed = { store: this.store, at, storedLength: present, length: this.clusterSize, unpack: this.unpack }
    return { kind: 'packed', length: Math.min(length, this.clusterSize - start), packed, skip: start }
  }

  private badEntry(cluster: number, why: string): VdiskError {
    return new VdiskError('CORRUPT', {
      message: `Cannot read ${this.header.file}: the L2 entry of guest cluster ${cluster} ${why}`,
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
