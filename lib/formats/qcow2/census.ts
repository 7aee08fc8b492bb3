import { ceilDiv } from '../../bytes/align.ts'
import { NumberSet } from '../../bytes/number-set.ts'
import type { NewFinding } from '../../contracts/check-report.ts'
import { type Io, Pace, settle } from '../../io/io.ts'
import { type CensusWindow, COUNT_MASK, countsPerBlock, IS_TABLE, readStored, windowFrom } from './census-window.ts'
import { COMPRESSED, COPIED, decodeCompressed, offsetOf, READS_AS_ZERO, RESERVED_HIGH, RESERVED_LOW } from './layout.ts'
import { Mapping } from './mapping.ts'
import type { Qcow2Parts } from './parts.ts'
import { blockOffset } from './refcount-table.ts'
import { RootTable } from './root-table.ts'
import type { SnapshotTable } from './snapshots.ts'

/**
 * Counts who refers to which host cluster, for the check and for the repair of counts.
 *
 * Everything that may point at clusters is walked: header, L1 tables, L2 tables, snapshots, bitmaps, refcounts
 * themselves. Four bytes per host cluster are held; a file with more clusters than fit is done in several windows.
 */

/** A reference to a host cluster, and where it comes from. */
export interface Reference {
  /** number of the host cluster */
  readonly cluster: number
  /** the disk's range that begins here is mapped by it */
  readonly guestOffset: number | undefined
  /** which table says so */
  readonly structure: string
  /** bytes in the file: the entry; undefined where a table is named by the header, or by a table that is held in one piece */
  readonly at: number | undefined
  /** what lies in the cluster; of packed data there may be several pieces in one */
  readonly kind: 'table' | 'data' | 'packed'
  /** id of the snapshot that it belongs to; undefined: the disk itself */
  readonly snapshot: string | undefined
}

export type Visit = (reference: Reference) => void

/** Is told what is wrong; with the number of the host cluster where an entry contradicts what is stored of that. */
export type Note = (finding: NewFinding, cluster?: number) => void

export class Census {
  private readonly parts: Qcow2Parts
  private readonly refcountTable: RootTable
  private readonly note: Note
  private readonly clusterSize: number
  private readonly fileEnd: number
  private window: CensusWindow = { first: 0, counted: new Uint16Array(0), stored: new Uint16Array(0) }
  private visit: Visit | undefined
  /** the snapshot whose tables are being walked; undefined: the disk itself */
  private snapshot: string | undefined
  /** whether that is the disk itself */
  private active = false
  /** clusters of all tables but L2 tables, which snapshots share */
  private single = new NumberSet()
  /** L2 tables of the disk itself */
  private own = new NumberSet()
  private readonly pace: Pace
  /** the highest cluster that anything refers to */
  highest = 0
  /** behind the last cluster that packed data refers to which begins in the file */
  packedEnd = 0
  /** the lowest cluster behind the window that anything refers to */
  private behind = Number.POSITIVE_INFINITY

  constructor(parts: Qcow2Parts, refcountTable: RootTable, note: Note, pace = new Pace()) {
    this.pace = pace
    this.parts = parts
    this.refcountTable = refcountTable
    this.note = note
    this.clusterSize = parts.header.clusterSize
    this.fileEnd = parts.mapping.space.length
  }

  /** clusters of the file, the last one perhaps cut short */
  get clusters(): number {
    return ceilDiv(this.fileEnd, this.clusterSize)
  }

  /** Clusters up to the last one that has a refcount block or, as far as was walked, a reference. */
  get reach(): number {
    let blocks = this.refcountTable.length
    while (blocks > 0 && blockOffset(this.refcountTable, blocks - 1) === 0) blocks--
    return Math.max(this.highest + 1, blocks * this.perBlock)
  }

  /** How many of the clusters first .. end-1 to count at once. */
  windowFrom(first: number, end: number): number {
    return windowFrom(first, end, this.parts.header, this.refcountTable)
  }

  /**
   * The first cluster from `number` on that has a refcount block or, as far as the last walk saw, a reference: a file
   * may be one hole of many terabytes.
   */
  nextFrom(number: number): number {
    for (let index = Math.floor(number / this.perBlock); index < this.refcountTable.length; index++) {
      if (index * this.perBlock >= this.behind) break
      if (blockOffset(this.refcountTable, index) !== 0) return Math.max(number, index * this.perBlock)
    }
    return Math.max(number, this.behind)
  }

  /** clusters that one refcount block counts */
  private get perBlock(): number {
    return countsPerBlock(this.parts.header)
  }

  /** Counts all references to clusters first .. first+count-1, against the counts that the file has. */
  *count(first: number, count: number, progress: (done: number, total: number) => void): Io<CensusWindow> {
    this.behind = Number.POSITIVE_INFINITY
    this.window = { first, counted: new Uint16Array(count), stored: new Uint16Array(count) }
    yield* readStored(this.parts, this.refcountTable, this.window)
    yield* this.walk(progress)
    return this.window
  }

  /** Walks again and tells every reference; for the few clusters that turned out to be wrong. */
  *revisit(visit: Visit): Io<void> {
    this.visit = visit
    yield* this.walk(() => {})
    this.visit = undefined
  }

  private *walk(progress: (done: number, total: number) => void): Io<void> {
    const { header, snapshots } = this.parts
    this.single = new NumberSet()
    this.own = new NumberSet()
    this.active = false
    this.snapshot = undefined
    this.addRange(0, 1, 'header')
    this.addRange(this.refcountTable.at, this.refcountTable.bytes.length, 'refcount table')
    for (let i = 0; i < this.refcountTable.length; i++) {
      const at = blockOffset(this.refcountTable, i)
      if (at === 0) continue
      if (this.isPlace(at)) this.addRange(at, this.clusterSize, 'refcount block')
      else this.badBlock(i, at)
    }
    this.addRange(header.snapshotsOffset, snapshots.tableLength, 'snapshot table')
    yield* this.addBitmaps()
    const roots = [undefined, ...this.soundSnapshots()]
    // Once for all: there may be thousands.
    const storeEnd = yield* settle(this.parts.mapping.store.size())
    // All tables first, so that data which overlaps any of them is seen.
    for (const root of roots) {
      this.enter(root)
      this.addTables(yield* this.rootTable(root, storeEnd), root ? `L1 table of snapshot ${root.id}` : 'L1 table')
      yield* this.pace.keep()
    }
    for (const [index, root] of roots.entries()) {
      this.enter(root)
      yield* this.walkTables(yield* this.rootTable(root, storeEnd), (done) => progress(index + done, roots.length))
    }
  }

  private enter(root: SnapshotTable | undefined): void {
    this.active = root === undefined
    this.snapshot = root?.id
  }

  /** Those whose tables can be walked, and have entries. */
  private soundSnapshots(): SnapshotTable[] {
    return this.parts.snapshots.tables().filter(({ id, at, entries, flaw }) => {
      if (flaw === undefined) return entries > 0
      this.error('SNAPSHOT_TABLE_INVALID', 'snapshot table', at, undefined, `snapshot ${id} cannot be right: ${flaw}`)
      return false
    })
  }

  /** The L1 table of the disk, or of a snapshot; that is read when it is needed, for there may be thousands. */
  private *rootTable(snapshot: SnapshotTable | undefined, storeEnd: number): Io<RootTable> {
    const { mapping } = this.parts
    return snapshot ? yield* Mapping.readL1(mapping.store, snapshot.at, snapshot.entries, storeEnd) : mapping.l1
  }

  /** The L1 table itself and the L2 tables that it points at. */
  private addTables(l1: RootTable, structure: string): void {
    const { l2Span } = this.parts.header
    this.addRange(l1.at, l1.bytes.length, structure)
    for (let i = 0; i < l1.length; i++) {
      const at = l1.offset(i)
      const guest = { offset: i * l2Span, length: l2Span }
      const entryAt = l1.at + i * 8
      if ((l1.high(i) & ~COPIED) >>> 24 !== 0 || l1.low(i) & 0x1ff) {
        this.error('L1_ENTRY_RESERVED', structure, entryAt, guest, `entry ${i} has reserved bits set`)
      }
      if (at === 0) continue
      if (!this.isPlace(at)) {
        this.error(
          'L1_ENTRY_INVALID',
          structure,
          entryAt,
          guest,
          `entry ${i} points at ${at}, where no L2 table can be`,
        )
        // Past the end of the file it is still a reference: nothing else may be put there.
        if (at >= this.fileEnd && at % this.clusterSize === 0) {
          this.add(at / this.clusterSize, guest.offset, structure, entryAt, 'table')
        }
        continue
      }
      this.addL2(at, structure, entryAt, guest)
      if (this.active) this.checkCopied(at, l1.high(i), structure, entryAt, guest)
    }
  }

  private *walkTables(l1: RootTable, progress: (done: number) => void): Io<void> {
    const table = new Uint8Array(this.clusterSize)
    const view = new DataView(table.buffer)
    for (let i = 0; i < l1.length; i++) {
      const at = l1.offset(i)
      if (at === 0 || !this.isPlace(at)) continue
      const present = Math.min(table.length, this.fileEnd - at)
      if (present < table.length) {
        const guest = { offset: i * this.parts.header.l2Span, length: this.parts.header.l2Span }
        this.error('L2_TABLE_TRUNCATED', 'L2 table', at, guest, 'the file ends inside an L2 table')
        table.fill(0, present)
      }
      yield* settle(this.parts.mapping.store.read(at, table.subarray(0, present)))
      this.walkL2(view, at, i * this.parts.header.l2Span)
      yield* this.pace.keep()
      progress(i / l1.length)
    }
  }

  /** The hot loop of a check: one turn for each cluster of the disk. */
  private walkL2(view: DataView, tableAt: number, guestStart: number): void {
    const { l2EntrySize, hasDataFile, extendedL2 } = this.parts.header
    const { first, counted, stored } = this.window
    const { clusterSize, fileEnd, active } = this
    const simple = !this.visit && !hasDataFile && !extendedL2
    for (let within = 0, guest = guestStart; within < clusterSize; within += l2EntrySize, guest += clusterSize) {
      const high = view.getUint32(within)
      const low = view.getUint32(within + 4)
      if (simple && (high & 0x7f000000) === 0 && (low & 0x1ff) === 0) {
        if (low === 0 && high === 0) continue
        const at = offsetOf(high, low)
        const index = at / clusterSize - first
        // Plain data in the window, with a right flag: nothing to say about it.
        if (at < fileEnd && Number.isInteger(index) && index >= 0 && index < counted.length) {
          const known = stored[index] as number
          if ((known & IS_TABLE) === 0 && (!active || (known === 1) === high >>> 31 > 0) && at >= clusterSize) {
            if (counted[index] !== 0xffff) counted[index] = (counted[index] as number) + 1
            if (at > this.highest * clusterSize) this.highest = at / clusterSize
            continue
          }
        }
      }
      this.visitEntry(view, within, tableAt, guest)
    }
  }

  private visitEntry(view: DataView, within: number, tableAt: number, guestOffset: number): void {
    const { header } = this.parts
    const high = view.getUint32(within)
    const low = view.getUint32(within + 4)
    const at = tableAt + within
    const guest = { offset: guestOffset, length: Math.max(0, Math.min(this.clusterSize, header.size - guestOffset)) }
    if (high & COMPRESSED) {
      if (header.extendedL2 && view.getUint32(within + 8) | view.getUint32(within + 12)) {
        this.error('L2_ENTRY_RESERVED', 'L2 table', at, guest, 'the entry of a compressed cluster has subclusters')
      }
      this.visitCompressed(high, low, at, guest)
      return
    }
    const zeroBit = header.version === 3 && !header.extendedL2 ? 0 : READS_AS_ZERO
    if (high & RESERVED_HIGH || low & (RESERVED_LOW | zeroBit)) {
      this.error('L2_ENTRY_RESERVED', 'L2 table', at, guest, 'an entry has reserved bits set')
    }
    const place = offsetOf(high, low)
    if (header.extendedL2) this.checkSubclusters(view, within, at, place, guest)
    if (header.hasDataFile) {
      // Where no place is named, the flag says that the first cluster is meant.
      if ((place !== 0 || high & COPIED) && place !== guestOffset) {
        this.error(
          'DATA_FILE_MISMATCH',
          'L2 table',
          at,
          guest,
          `an entry points at ${place} of the data file instead of ${guestOffset}`,
        )
      }
      return
    }
    if (place === 0) return
    if (!this.isPlace(place)) {
      const why = place % this.clusterSize === 0 ? 'past the end of the file' : 'not aligned to a cluster'
      this.error('L2_ENTRY_INVALID', 'L2 table', at, guest, `an entry points at ${place}, ${why}`)
      if (place % this.clusterSize !== 0) return
    }
    this.checkNoTable(place / this.clusterSize, at, guest)
    this.add(place / this.clusterSize, guest.offset, 'L2 table', at, 'data')
    if (this.active) this.checkCopied(place, high, 'L2 table', at, guest)
  }

  private checkNoTable(number: number, at: number, guest: { offset: number; length: number }): void {
    const known = this.storedAt(number)
    if (known === undefined || (known & IS_TABLE) === 0) return
    const why = `an entry points at ${number * this.clusterSize}, where a table of the image lies`
    this.tell('DATA_OVERLAPS_TABLE', 'L2 table', at, guest, why)
  }

  private visitCompressed(high: number, low: number, at: number, guest: { offset: number; length: number }): void {
    const { header } = this.parts
    const { at: place, storedLength } = decodeCompressed(high, low, header.clusterBits)
    if (high & COPIED)
      this.error('COMPRESSED_COPIED', 'L2 table', at, guest, 'a compressed cluster is flagged as writable in place')
    if (header.hasDataFile) {
      this.error(
        'COMPRESSED_WITH_DATA_FILE',
        'L2 table',
        at,
        guest,
        'a compressed cluster in an image with a data file',
      )
      return
    }
    if (place < this.clusterSize || place >= this.fileEnd) {
      this.error('L2_ENTRY_INVALID', 'L2 table', at, guest, `compressed data would lie at ${place}, outside the file`)
    }
    const last = Math.floor((place + storedLength - 1) / this.clusterSize)
    if (place < this.fileEnd) this.packedEnd = Math.max(this.packedEnd, last + 1)
    for (let number = Math.floor(place / this.clusterSize); number <= last; number++) {
      this.checkNoTable(number, at, guest)
      this.add(number, guest.offset, 'L2 table', at, 'packed')
    }
  }

  private checkSubclusters(
    view: DataView,
    within: number,
    at: number,
    place: number,
    guest: { offset: number; length: number },
  ): void {
    const zero = view.getUint32(within + 8)
    const allocated = view.getUint32(within + 12)
    if (zero & allocated)
      this.error('SUBCLUSTER_INVALID', 'L2 table', at, guest, 'a subcluster is both allocated and zero')
    if (allocated !== 0 && place === 0 && !this.parts.header.hasDataFile) {
      this.error('SUBCLUSTER_INVALID', 'L2 table', at, guest, 'subclusters are allocated, but the cluster has no place')
    }
  }

  /** The flag must say whether the count is one. Where the count itself is wrong that is found by itself. */
  private checkCopied(
    place: number,
    high: number,
    structure: string,
    at: number,
    guest: { offset: number; length: number },
  ): void {
    const known = this.storedAt(place / this.clusterSize)
    if (known === undefined || this.visit) return
    const count = known & COUNT_MASK
    const flagged = (high & COPIED) !== 0
    if ((count === 1) === flagged) return
    this.tell(
      'COPIED_FLAG_WRONG',
      structure,
      at,
      guest,
      `an entry is ${flagged ? '' : 'not '}flagged as writable in place, but its cluster at ${place} has a count of ${count}`,
      place / this.clusterSize,
    )
  }

  private *addBitmaps(): Io<void> {
    const { header, bitmaps, mapping } = this.parts
    const directory = bitmaps.directory
    if (!directory) return
    this.addRange(directory.at, directory.length, 'bitmap directory')
    for (const entry of bitmaps.entries) {
      if (entry.problem !== undefined) {
        const why = `bitmap "${entry.name}" cannot be used: ${entry.problem}`
        this.error('BITMAP_INVALID', 'bitmap directory', entry.entryAt, undefined, why)
        continue
      }
      this.addRange(entry.tableOffset, entry.tableSize * 8, 'bitmap table')
      const bytes = new Uint8Array(entry.tableSize * 8)
      yield* settle(mapping.store.read(entry.tableOffset, bytes))
      const table = new RootTable(entry.tableOffset, bytes)
      for (let i = 0; i < table.length; i++) {
        const at = table.offset(i)
        if (at === 0) continue
        if (this.isPlace(at)) this.addRange(at, header.clusterSize, 'bitmap data')
        else
          this.error(
            'BITMAP_INVALID',
            'bitmap table',
            entry.tableOffset + i * 8,
            undefined,
            `bitmap "${entry.name}" has data at ${at}, outside the file`,
          )
      }
    }
  }

  /** Told for the whole table: a writer refuses such an entry even where it would count nothing. */
  private badBlock(index: number, at: number): void {
    const entryAt = this.refcountTable.at + index * 8
    const why = `entry ${index} points at ${at}, where no refcount block can be`
    this.error('REFCOUNT_TABLE_INVALID', 'refcount table', entryAt, undefined, why)
  }

  /** An L2 table. Snapshots may have it too, but the disk has it once. */
  private addL2(at: number, structure: string, entryAt: number, guest: NonNullable<NewFinding['guest']>): void {
    const number = at / this.clusterSize
    if (this.single.has(number) || (this.active && this.own.has(number))) {
      this.error('TABLES_OVERLAP', structure, entryAt, guest, `an entry leads to ${at}, where another table lies`)
    }
    if (this.active) this.own.add(number)
    this.add(number, guest.offset, 'L2 table', entryAt, 'table')
    this.markTable(number)
  }

  /** A table that is held in one piece: referenced once here, and nothing else may share its clusters. */
  private addRange(at: number, length: number, structure: string): void {
    for (let done = 0; done < length; done += this.clusterSize) {
      const number = Math.floor((at + done) / this.clusterSize)
      if (this.single.has(number)) {
        this.error('TABLES_OVERLAP', structure, at, undefined, `it lies at ${at + done}, where another table does`)
      }
      this.single.add(number)
      this.add(number, undefined, structure, undefined, 'table')
      this.markTable(number)
    }
  }

  /** No guest data may share its cluster. */
  private markTable(number: number): void {
    const index = number - this.window.first
    if (index >= 0 && index < this.window.stored.length) {
      this.window.stored[index] = (this.window.stored[index] as number) | IS_TABLE
    }
  }

  private add(
    cluster: number,
    guestOffset: number | undefined,
    structure: string,
    at: number | undefined,
    kind: Reference['kind'],
  ): void {
    this.visit?.({ cluster, guestOffset, structure, at, kind, snapshot: this.snapshot })
    if (cluster > this.highest) this.highest = cluster
    if (cluster < this.behind && cluster >= this.window.first + this.window.counted.length) this.behind = cluster
    const index = cluster - this.window.first
    if (this.visit || index < 0 || index >= this.window.counted.length) return
    const before = this.window.counted[index] as number
    if (before !== 0xffff) this.window.counted[index] = before + 1
  }

  private storedAt(number: number): number | undefined {
    return this.window.stored[number - this.window.first]
  }

  /** Whether a whole cluster can begin there. */
  private isPlace(at: number): boolean {
    return at % this.clusterSize === 0 && at >= this.clusterSize && at < this.fileEnd
  }

  private error(code: string, structure: string, at: number, guest: NewFinding['guest'], message: string): void {
    // Told once: by the first walk over the first window.
    if (this.window.first === 0) this.tell(code, structure, at, guest, message)
  }

  /** For what is seen only in the window that has the cluster. */
  private tell(
    code: string,
    structure: string,
    at: number,
    guest: NewFinding['guest'],
    message: string,
    cluster?: number,
  ): void {
    if (!this.visit) this.note({ code, severity: 'error', structure, at, guest, message }, cluster)
  }
}
