import { ceilDiv, roundDown, roundUp, TWO_32 } from '../../bytes/align.ts'
import type { Reservation } from '../../contracts/layer.ts'
import { type Io, just, settle, Turns } from '../../io/io.ts'
import type { Page } from '../../io/table-cache.ts'
import type { Header } from './header.ts'
import { COMPRESSED, COPIED, decodeCompressed, offsetOf, READS_AS_ZERO } from './layout.ts'
import type { Mapping } from './mapping.ts'
import type { Refcounts, Run } from './refcounts.ts'

const ALL_SUBCLUSTERS = 0xffffffff
const SUBCLUSTERS = 32

/** An L2 entry as its two halves, with the subcluster bitmap of extended entries. */
interface Entry {
  readonly high: number
  readonly low: number
  /** bit per subcluster that reads as zeros */
  readonly zero: number
  /** bit per subcluster that is allocated */
  readonly allocated: number
}

/**
 * The writing half of the mapping: room for data, changed entries, own copies of shared L2 tables.
 *
 * Everything happens in memory; `WriteBack` makes it durable in the order that the format needs. Tables that are new
 * are remembered in `newTables`: they must be durable before an L1 entry points at them.
 */
export class Allocation {
  readonly newTables = new Set<number>()
  private readonly mapping: Mapping
  private readonly refcounts: Refcounts
  private readonly header: Header
  private readonly hasParent: () => boolean
  private readonly clusterSize: number
  private readonly tableEntries: number
  private readonly turns = new Turns()

  /** @param hasParent whether something below would show through where an entry is empty */
  constructor(mapping: Mapping, refcounts: Refcounts, hasParent: () => boolean) {
    this.mapping = mapping
    this.refcounts = refcounts
    this.header = mapping.header
    this.hasParent = hasParent
    this.clusterSize = mapping.header.clusterSize
    this.tableEntries = this.clusterSize / mapping.header.l2EntrySize
  }

  *reserve(offset: number, length: number): Io<Reservation> {
    const cluster = Math.floor(offset / this.clusterSize)
    const place = yield* this.ownEntry(cluster)
    this.mapping.assertSound(place.page.view, place.within, cluster)
    const entry = this.read(place.page, place.within)
    const start = offset - cluster * this.clusterSize
    if (this.header.hasDataFile) return this.reserveExternal(cluster, entry, start, length)
    if (this.isOwned(entry)) {
      const run = this.inPlaceRun(place.page, place.within, cluster, start, length)
      if (run > 0) return this.inPlace(offsetOf(entry.high, entry.low) + start, run)
      return this.reserveInOwned(cluster, entry, start, length)
    }
    return yield* this.reserveNew(cluster, place.page, place.within, start, length)
  }

  /** Erases whole units from `offset` on, as far as one page of entries goes. @returns bytes done */
  *erase(offset: number, length: number, reveal: 'zero' | 'parent'): Io<number> {
    const unit = this.mapping.unit
    const end = offset + length === this.header.size ? offset + length : roundDown(offset + length, unit)
    if (offset % unit !== 0 || end <= offset) return 0
    const showsParent = reveal === 'parent' || !this.hasParent()
    // Version 2 has no way to say "zero" where a parent would show.
    if (this.header.version === 2 && !showsParent) return 0
    const cluster = Math.floor(offset / this.clusterSize)
    const l1Index = Math.floor(cluster / this.tableEntries)
    if (showsParent && this.mapping.tableOffset(l1Index) === 0) {
      return Math.min(end, (l1Index + 1) * this.header.l2Span) - offset
    }
    if (this.header.hasDataFile) yield* this.eraseExternal(offset, end)
    const place = yield* this.ownEntry(cluster)
    let at = offset
    for (let within = place.within; at < end && within < place.page.bytes.length; within += this.header.l2EntrySize) {
      const clusterStart = roundDown(at, this.clusterSize)
      const next = Math.min(end, clusterStart + this.clusterSize)
      this.mapping.assertSound(place.page.view, within, clusterStart / this.clusterSize)
      const whole = at === clusterStart && (next === clusterStart + this.clusterSize || next === this.header.size)
      if (whole) this.eraseCluster(place.page, within, showsParent)
      else if (!this.eraseSubclusters(place.page, within, at - clusterStart, next - clusterStart, showsParent)) break
      at = next
    }
    return at - offset
  }

  /** Points an unmapped cluster at compressed data that is already written. */
  *setCompressed(offset: number, high: number, low: number): Io<void> {
    const cluster = Math.floor(offset / this.clusterSize)
    const place = yield* this.ownEntry(cluster)
    this.mapping.assertSound(place.page.view, place.within, cluster)
    this.releaseEntry(this.read(place.page, place.within))
    this.write(place.page, place.within, { high, low, zero: 0, allocated: 0 })
  }

  /** Maps clusters to places that are already counted: for images made with all metadata in place. */
  *setMapped(offset: number, at: number, clusters: number): Io<void> {
    for (let done = 0; done < clusters; ) {
      const place = yield* this.ownEntry(offset / this.clusterSize + done)
      const fits = (place.page.bytes.length - place.within) / this.header.l2EntrySize
      for (let i = 0; i < fits && done < clusters; i++, done++) {
        const host = at + done * this.clusterSize
        this.write(place.page, place.within + i * this.header.l2EntrySize, mappedEntry(host, this.header.extendedL2))
      }
    }
  }

  /** The entry of a guest cluster, in an L2 table that is this image's own. */
  private *ownEntry(cluster: number): Io<{ page: Page; within: number }> {
    const l1Index = Math.floor(cluster / this.tableEntries)
    const { l1 } = this.mapping
    let tableAt = this.mapping.tableOffset(l1Index)
    if (tableAt === 0 || (l1.high(l1Index) & COPIED) === 0) {
      tableAt = yield* this.turns.take(() => this.makeOwnTable(l1Index))
    }
    const entryAt = tableAt + (cluster % this.tableEntries) * this.header.l2EntrySize
    const page = this.mapping.tables.peek(entryAt) ?? (yield* this.mapping.loadTable(entryAt, l1Index))
    return { page, within: entryAt - page.at }
  }

  /** A new L2 table, empty or a copy of one that a snapshot shares. */
  private *makeOwnTable(l1Index: number): Io<number> {
    const { l1, tables } = this.mapping
    const old = this.mapping.tableOffset(l1Index)
    // Another write may have made it while this one waited its turn.
    if (old !== 0 && l1.high(l1Index) & COPIED) return old
    // All of it is read before room is taken, for which then nothing can fail any more.
    const source = old === 0 ? undefined : yield* this.copyOf(old, l1Index)
    const { at } = yield* this.refcounts.allocate(1)
    for (let done = 0; done < this.clusterSize; done += tables.pageSize) {
      const page = tables.fresh(at + done)
      if (source) page.bytes.set(source.subarray(done, done + tables.pageSize))
    }
    this.newTables.add(at)
    this.mapping.places.addL2(at)
    l1.set(l1Index, at, COPIED)
    if (old !== 0) {
      this.mapping.places.share(old)
      this.refcounts.release(old, this.clusterSize)
    }
    return at
  }

  /** The bytes of an L2 table that is shared, which nobody changes. */
  private *copyOf(tableAt: number, l1Index: number): Io<Uint8Array> {
    const { tables } = this.mapping
    const bytes = new Uint8Array(this.clusterSize)
    for (let done = 0; done < bytes.length; done += tables.pageSize) {
      bytes.set((yield* this.mapping.loadTable(tableAt + done, l1Index)).bytes, done)
    }
    return bytes
  }

  /** A cluster with a place that only the active disk uses. */
  private isOwned(entry: Entry): boolean {
    return (entry.high & COPIED) !== 0 && (entry.high & COMPRESSED) === 0 && offsetOf(entry.high, entry.low) !== 0
  }

  /** How many bytes from `start` can be written where they lie; 0 if not even the first. */
  private inPlaceRun(page: Page, within: number, cluster: number, start: number, length: number): number {
    const first = this.read(page, within)
    if (this.header.extendedL2) return this.inPlaceSubclusters(first, start, length)
    if (first.low & READS_AS_ZERO) return 0
    let run = this.clusterSize - start
    const at = offsetOf(first.high, first.low)
    for (let next = within + 8, n = 1; run < length && next < page.bytes.length; next += 8, n++) {
      const entry = this.read(page, next)
      const follows = offsetOf(entry.high, entry.low) === at + n * this.clusterSize
      if (!this.isOwned(entry) || entry.low & READS_AS_ZERO || !follows) break
      if (this.mapping.flawOf(page.view, next, cluster + n) !== undefined) break
      run += this.clusterSize
    }
    return Math.min(run, length)
  }

  private inPlaceSubclusters(entry: Entry, start: number, length: number): number {
    const { unit } = this.mapping
    const end = Math.min(start + length, this.clusterSize)
    let run = 0
    for (let sub = Math.floor(start / unit); sub * unit < end; sub++) {
      if ((entry.allocated & (1 << sub)) === 0) break
      run = Math.min(end, (sub + 1) * unit) - start
    }
    return run
  }

  private inPlace(at: number, length: number): Reservation {
    // What was missing of a last cluster that was cut short is there now.
    const publish = this.header.hasDataFile ? nothing : () => this.mapping.space.lengthen(at + length, 0)
    return { length, store: this.mapping.dataStore, at, zeroed: false, fills: [], publish, abandon: nothing }
  }

  /** The cluster has its place, but reads as zero or as the parent there: the place becomes true with the write. */
  private reserveInOwned(cluster: number, entry: Entry, start: number, length: number): Reservation {
    const at = offsetOf(entry.high, entry.low)
    const { unit } = this.mapping
    const first = Math.floor(start / unit)
    let end = Math.min(start + length, this.clusterSize)
    // Subclusters that are allocated already need no fill: stop before the first of them.
    for (let sub = first + 1; sub * unit < end; sub++) if (entry.allocated & (1 << sub)) end = sub * unit
    return {
      length: end - start,
      store: this.mapping.dataStore,
      at: at + start,
      zeroed: false,
      fills: this.fillsFor(cluster, start, end, at, unit),
      publish: () => this.publishOld(cluster, at, start, end, unit),
      abandon: nothing,
    }
  }

  private *reserveNew(cluster: number, page: Page, within: number, start: number, length: number): Io<Reservation> {
    const wanted = this.newRun(page, within, cluster, start, length)
    const old = this.read(page, within)
    const room = yield* this.refcounts.allocate(wanted)
    const end = Math.min(start + length, room.count * this.clusterSize)
    // Data that a snapshot shares, or that is compressed, moves as a whole; else subclusters can stay as they are.
    const moves = offsetOf(old.high, old.low) !== 0 || (old.high & COMPRESSED) !== 0
    const unit = moves ? this.clusterSize : this.mapping.unit
    return {
      length: end - start,
      store: this.mapping.dataStore,
      at: room.at + start,
      zeroed: room.zeroed,
      fills: this.fillsFor(cluster, start, end, room.at, unit),
      publish: () => this.publishNew(cluster, room, start, end, moves ? 'whole' : 'keep'),
      abandon: () => just(this.refcounts.release(room.at, room.count * this.clusterSize)),
    }
  }

  /** How many neighbouring clusters of the request need a new place. A cluster that moves goes alone with extended entries. */
  private newRun(page: Page, within: number, cluster: number, start: number, length: number): number {
    const touched = ceilDiv(start + length, this.clusterSize)
    let count = 0
    for (let at = within; count < touched && at < page.bytes.length; at += this.header.l2EntrySize) {
      const entry = this.read(page, at)
      if (this.isOwned(entry) || this.mapping.flawOf(page.view, at, cluster + count) !== undefined) break
      const moves = offsetOf(entry.high, entry.low) !== 0 || (entry.high & COMPRESSED) !== 0
      if (this.header.extendedL2 && moves) return Math.max(count, 1)
      count++
    }
    return Math.max(count, 1)
  }

  /** What lies between the request and the borders of its units. `at` is the place of the first cluster. */
  private fillsFor(cluster: number, start: number, end: number, at: number, unit: number): Reservation['fills'] {
    const base = cluster * this.clusterSize
    const head = start % unit
    const tail = (unit - (end % unit)) % unit
    const fills: Reservation['fills'][number][] = []
    if (head > 0) fills.push({ offset: base + start - head, length: head, at: at + start - head })
    if (tail > 0) fills.push({ offset: base + end, length: tail, at: at + end })
    return fills
  }

  /** An old place may be a last cluster that was cut short. */
  private *publishOld(cluster: number, at: number, start: number, end: number, unit: number): Io<void> {
    if (!this.header.hasDataFile) yield* this.mapping.space.lengthen(at + roundUp(end, unit), 0)
    yield* this.publishRun(cluster, 1, at, start, end, 'keep')
  }

  /** The rest of the last cluster must be there when the cluster is: it may be read right after. */
  private *publishNew(
    cluster: number,
    room: Run & { at: number },
    start: number,
    end: number,
    rest: 'keep' | 'whole',
  ): Io<void> {
    yield* this.mapping.space.lengthen(room.at + end, room.at + room.count * this.clusterSize)
    yield* this.publishRun(cluster, room.count, room.at, start, end, rest)
  }

  /**
   * Points `count` clusters at their place. With extended entries the subclusters of start .. end-1 become allocated;
   * 'whole' says that the fills brought the rest of the cluster along.
   */
  private *publishRun(
    cluster: number,
    count: number,
    at: number,
    start: number,
    end: number,
    rest: 'keep' | 'whole',
  ): Io<void> {
    const { l2EntrySize } = this.header
    for (let n = 0; n < count; ) {
      const { page, within } = yield* this.ownEntry(cluster + n)
      for (let next = within; n < count && next < page.bytes.length; next += l2EntrySize, n++) {
        const host = at + n * this.clusterSize
        this.publishOne(page, next, host, start - n * this.clusterSize, end - n * this.clusterSize, rest)
      }
    }
  }

  private publishOne(
    page: Page,
    within: number,
    host: number,
    start: number,
    end: number,
    rest: 'keep' | 'whole',
  ): void {
    const old = this.read(page, within)
    if (offsetOf(old.high, old.low) !== host) this.releaseEntry(old)
    const extended = this.header.extendedL2
    const allocated = !extended || rest === 'whole' ? ALL_SUBCLUSTERS : old.allocated | this.subclusterMask(start, end)
    this.write(page, within, {
      high: (COPIED | Math.floor(host / TWO_32)) >>> 0,
      low: host % TWO_32,
      zero: extended && rest === 'keep' ? old.zero & ~allocated : 0,
      allocated: extended ? allocated : 0,
    })
  }

  /** Bits of the subclusters that start .. end-1 touches, both relative to the cluster. */
  private subclusterMask(start: number, end: number): number {
    const { unit } = this.mapping
    const first = Math.max(0, Math.floor(start / unit))
    const last = Math.min(SUBCLUSTERS, ceilDiv(end, unit))
    return maskOf(first, last)
  }

  private reserveExternal(cluster: number, entry: Entry, start: number, length: number): Reservation {
    const at = cluster * this.clusterSize
    const mapped = this.header.extendedL2 ? this.inPlaceSubclusters(entry, start, length) : 0
    if (mapped > 0) return this.inPlace(at + start, mapped)
    const isData = (entry.high & COPIED) !== 0 && (entry.low & READS_AS_ZERO) === 0 && !this.header.extendedL2
    const inCluster = Math.min(length, this.clusterSize - start)
    if (isData) return this.inPlace(at + start, inCluster)
    return this.reserveInOwned(cluster, { ...entry, high: Math.floor(at / TWO_32), low: at % TWO_32 }, start, length)
  }

  /** In a data file the bytes themselves become zero; a raw one must read right without these tables. */
  private *eraseExternal(offset: number, end: number): Io<void> {
    const { dataStore } = this.mapping
    const size = yield* settle(dataStore.size())
    const within = Math.min(end, size) - offset
    if (within > 0 && dataStore.deallocate) yield* settle(dataStore.deallocate(offset, within))
  }

  private eraseCluster(page: Page, within: number, showsParent: boolean): void {
    const old = this.read(page, within)
    this.releaseEntry(old)
    const extended = this.header.extendedL2
    this.write(page, within, {
      high: 0,
      low: showsParent || extended ? 0 : READS_AS_ZERO,
      zero: showsParent || !extended ? 0 : ALL_SUBCLUSTERS,
      allocated: 0,
    })
  }

  /** @returns false where the cluster cannot be changed in part */
  private eraseSubclusters(page: Page, within: number, start: number, end: number, showsParent: boolean): boolean {
    const old = this.read(page, within)
    const owned = this.isOwned(old) || (offsetOf(old.high, old.low) === 0 && (old.high & COMPRESSED) === 0)
    if (!this.header.extendedL2 || !owned) return false
    const mask = this.subclusterMask(start, end)
    const allocated = old.allocated & ~mask
    const zero = showsParent ? old.zero & ~mask : old.zero | mask
    if (allocated === 0) this.releaseEntry(old)
    this.write(page, within, allocated === 0 ? { high: 0, low: 0, zero, allocated } : { ...old, zero, allocated })
    return true
  }

  /** The entry is about to point elsewhere: what it points at now is used once less. */
  private releaseEntry(entry: Entry): void {
    if (this.header.hasDataFile) return
    if (entry.high & COMPRESSED) {
      const { at, storedLength } = decodeCompressed(entry.high, entry.low, this.header.clusterBits)
      this.refcounts.release(at, storedLength)
    } else if (offsetOf(entry.high, entry.low) !== 0) {
      this.refcounts.release(offsetOf(entry.high, entry.low), this.clusterSize)
    }
  }

  private read(page: Page, within: number): Entry {
    const extended = this.header.extendedL2
    return {
      high: page.view.getUint32(within),
      low: page.view.getUint32(within + 4),
      zero: extended ? page.view.getUint32(within + 8) : 0,
      allocated: extended ? page.view.getUint32(within + 12) : 0,
    }
  }

  private write(page: Page, within: number, entry: Entry): void {
    page.view.setUint32(within, entry.high)
    page.view.setUint32(within + 4, entry.low)
    if (this.header.extendedL2) {
      page.view.setUint32(within + 8, entry.zero)
      page.view.setUint32(within + 12, entry.allocated)
    }
    this.mapping.tables.touch(page, within, this.header.l2EntrySize)
  }
}

const nothing = (): Io<void> => just(undefined)

function maskOf(first: number, last: number): number {
  let mask = 0
  for (let bit = first; bit < last; bit++) mask |= 1 << bit
  return mask >>> 0
}

function mappedEntry(host: number, extended: boolean): Entry {
  return {
    high: (COPIED | Math.floor(host / TWO_32)) >>> 0,
    low: host % TWO_32,
    zero: 0,
    allocated: extended ? ALL_SUBCLUSTERS : 0,
  }
}
