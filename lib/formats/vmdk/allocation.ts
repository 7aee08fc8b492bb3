import { ceilDiv, roundDown, roundUp } from '../../bytes/align.ts'
import type { FileRoom } from '../../contracts/file-room.ts'
import type { Reservation } from '../../contracts/layer.ts'
import { type Io, just, settle, Turns } from '../../io/io.ts'
import type { GrainTables } from './grain-tables.ts'
import { ENTRY, GRAIN_ENTRY, SECTOR } from './layout.ts'
import type { WriteBack } from './write-back.ts'

/** Room that one reservation takes for new grains at most. */
const LARGEST_RUN = 16 << 20
/** Bytes of tables that wait to be written, before a round makes them durable. */
const MOST_CHANGED = 4 << 20

type Fill = Reservation['fills'][number]

/** The end of a reservation that has nothing to publish: the room is the grain's already. */
const nothing = (): Io<void> => just(undefined)

/**
 * The writing half of the mapping: room for grains, and entries that name it. Everything happens in memory; `WriteBack`
 * makes it durable. `within` counts bytes from the begin of the extent.
 */
export class Allocation {
  private readonly tables: GrainTables
  private readonly space: FileRoom
  private readonly writeBack: WriteBack
  /** bytes on the disk where the extent begins */
  private readonly start: number
  private readonly tableTurns = new Turns()
  /** what is left of the room that was taken last for new tables */
  private tableRoom = { at: 0, left: 0 }

  constructor(tables: GrainTables, space: FileRoom, writeBack: WriteBack, start: number) {
    this.tables = tables
    this.space = space
    this.writeBack = writeBack
    this.start = start
  }

  *reserve(within: number, length: number): Io<Reservation> {
    const { store, header } = this.tables
    const extent = yield* this.tables.map(within, length)
    if (extent.kind === 'data') {
      const { at } = extent
      return { length: extent.length, store, at, zeroed: false, fills: [], publish: nothing, abandon: nothing }
    }
    const { grainBytes } = header
    const grain = Math.floor(within / grainBytes)
    const skip = within - grain * grainBytes
    const most = Math.max(1, Math.floor(LARGEST_RUN / grainBytes))
    const count = Math.min(most, ceilDiv(skip + extent.length, grainBytes))
    const covered = Math.min(extent.length, count * grainBytes - skip)
    const at = yield* this.space.allocate(count * grainBytes)
    return {
      length: covered,
      store,
      at: at + skip,
      zeroed: true,
      // Where the grain reads as zero its new room does so too.
      fills: extent.kind === 'zero' ? [] : this.fillsFor(grain, at, skip, covered),
      publish: () => this.publish(grain, count, at),
      abandon: () => just(this.space.free(at, count * grainBytes)),
    }
  }

  /** Erases whole grains by their entries, or what of a grain can be erased in place. @returns bytes done */
  *erase(within: number, length: number, reveal: 'zero' | 'parent'): Io<number> {
    const { header, hasParent, store } = this.tables
    const { grainBytes, size } = header
    const end = within + length === size ? size : roundDown(within + length, grainBytes)
    const entry = this.entryFor(reveal)
    if (entry !== undefined && within % grainBytes === 0 && end > within) {
      const next = yield* this.setEntries(within / grainBytes, ceilDiv(end, grainBytes), entry)
      return Math.min(next * grainBytes, end) - within
    }
    const inGrain = Math.min(length, grainBytes - (within % grainBytes))
    const extent = yield* this.tables.map(within, entry === undefined ? length : inGrain)
    if (extent.kind !== 'data' || (reveal === 'parent' && hasParent) || !store.deallocate) return 0
    yield* settle(store.deallocate(extent.at, extent.length))
    return extent.length
  }

  /** Sets entries of grains first .. end-1, as far as one table goes, and gives up their room. @returns the next grain */
  *setEntries(first: number, end: number, entry: number): Io<number> {
    const { tableBytes, grainBytes } = this.tables.header
    const table = Math.floor((first * ENTRY) / tableBytes)
    const last = Math.min(end, ((table + 1) * tableBytes) / ENTRY)
    // A table that is not there says of all its grains that they are silent.
    if (this.isAbsent(table) && entry === GRAIN_ENTRY.silent) return last
    yield* this.relieve()
    yield* this.ensureTable(table)
    const { cache } = this.tables
    const page = cache.peek(first * ENTRY) ?? (yield* this.tables.load(first))
    for (let at = first * ENTRY - page.at; at < last * ENTRY - page.at; at += ENTRY) {
      const before = page.view.getUint32(at, true)
      if (before === entry) continue
      if (this.tables.kindOf(before) === 'data') this.space.release(before * SECTOR, grainBytes)
      page.view.setUint32(at, entry, true)
      cache.touch(page, at, ENTRY)
    }
    return last
  }

  /** Entries from `first` on to the end of their table, behind the last grain, say nothing: they may be of a larger disk. */
  *forget(first: number): Io<void> {
    const { cache, header } = this.tables
    const table = Math.floor((first * ENTRY) / header.tableBytes)
    if ((first * ENTRY) % header.tableBytes === 0 || this.isAbsent(table)) return
    const page = cache.peek(first * ENTRY) ?? (yield* this.tables.load(first))
    const stale = page.bytes.subarray(first * ENTRY - page.at)
    if (stale.every((byte) => byte === 0)) return
    stale.fill(0)
    cache.touch(page, first * ENTRY - page.at, stale.length)
  }

  /** The directory names a table for these grains. */
  *ensureTable(table: number): Io<void> {
    if (this.isAbsent(table)) yield* this.tableTurns.take(() => this.makeTable(table))
  }

  /** The entry of an erased grain; undefined where no entry says it. */
  private entryFor(reveal: 'zero' | 'parent'): number | undefined {
    const { hasParent, header } = this.tables
    if (reveal === 'parent' || !hasParent) return GRAIN_ENTRY.silent
    return header.zeroedGrains ? GRAIN_ENTRY.zero : undefined
  }

  /** What lies between the request and the borders of its grains, or the end of the extent. `at` is the place of the grain. */
  private fillsFor(grain: number, at: number, skip: number, length: number): Fill[] {
    const { grainBytes, size } = this.tables.header
    const base = grain * grainBytes
    const end = skip + length
    const tail = Math.min(size - base, ceilDiv(end, grainBytes) * grainBytes) - end
    const fills: Fill[] = []
    if (skip > 0) fills.push({ offset: this.start + base, length: skip, at })
    if (tail > 0) fills.push({ offset: this.start + base + end, length: tail, at: at + end })
    return fills
  }

  private *publish(grain: number, count: number, at: number): Io<void> {
    const { header, cache } = this.tables
    const { grainBytes, tableBytes } = header
    let done = 0
    try {
      yield* this.relieve()
      while (done < count) {
        const first = grain + done
        const table = Math.floor((first * ENTRY) / tableBytes)
        yield* this.ensureTable(table)
        const page = cache.peek(first * ENTRY) ?? (yield* this.tables.load(first))
        const end = Math.min(count, ((table + 1) * tableBytes) / ENTRY - grain)
        const within = first * ENTRY - page.at
        for (let i = done; i < end; i++) {
          page.view.setUint32((grain + i) * ENTRY - page.at, (at + i * grainBytes) / SECTOR, true)
        }
        cache.touch(page, within, (end - done) * ENTRY)
        done = end
      }
    } catch (error) {
      // What no entry names is free again; the rest is in use.
      this.space.free(at + done * grainBytes, (count - done) * grainBytes)
      throw error
    }
  }

  /** Tables that wait to be written are bounded, however long nobody flushes. */
  private *relieve(): Io<void> {
    if (this.tables.cache.changedBytes > MOST_CHANGED) yield* this.writeBack.relieve()
  }

  private isAbsent(table: number): boolean {
    return this.tables.directory.own?.[table] === 0
  }

  private *makeTable(table: number): Io<void> {
    // Another write may have made it while this one waited its turn.
    if (!this.isAbsent(table)) return
    const { directory, header, places } = this.tables
    const { tableBytes, grainBytes, unit } = header
    const length = tableBytes * (directory.copy ? 2 : 1)
    if (this.tableRoom.left < length) {
      const left = roundUp(Math.max(length, grainBytes), unit)
      this.tableRoom = { at: yield* this.space.allocate(left), left }
    }
    const sector = this.tableRoom.at / SECTOR
    this.tableRoom = { at: this.tableRoom.at + length, left: this.tableRoom.left - length }
    places.add(sector, length / SECTOR)
    directory.name(table, sector, directory.copy ? sector + tableBytes / SECTOR : undefined)
    this.writeBack.noteTable(table)
  }
}
