import { roundDown, roundUp } from '../../bytes/align.ts'
import { isVdiskError, VdiskError } from '../../errors.ts'
import { type Io, settle, Turns } from '../../io/io.ts'
import { append, Retirement, type Room } from '../../io/retirement.ts'
import type { ByteStore } from '../../io/store.ts'
import { type Batch, type Page, TableCache } from '../../io/table-cache.ts'
import type { FileSpace } from './file-space.ts'
import type { Header } from './header.ts'
import { LIMIT } from './layout.ts'
import { RefcountBlocks, tooLong } from './refcount-blocks.ts'
import { readCount, readRefcountTable, writeCount } from './refcount-table.ts'
import type { RootTable } from './root-table.ts'
import type { TablePlaces } from './table-places.ts'

/** Bytes of refcount blocks kept in memory: enough for 4 TiB of 64 KiB clusters at 16 bits. */
const CACHE = 16 << 20
const MAX_PAGE = 4096

/** A run of host clusters. */
export interface Run {
  /** first cluster's number */
  readonly first: number
  readonly count: number
}

/**
 * Reference counts of host clusters, and the allocator that lives on them. ["Host cluster management"]
 *
 * Counts that rise may be written at any time: a count too high is a leak. A count falls when the cluster that was
 * `release`d is due, see `Retirement`. Only then can the cluster be handed out again.
 */
export class Refcounts {
  private readonly store: ByteStore
  private readonly header: Header
  private readonly cache: TableCache
  private readonly entryBits: number
  private readonly blocks: RefcountBlocks
  private readonly perPage: number
  /** the highest count that an entry can hold */
  readonly maxCount: number
  /** below this cluster nothing is free, as far as is known */
  private hint = 0
  /** clusters whose count is to fall */
  readonly givenUp = new Retirement()
  /** where tables lie: never to be handed out, whatever their count says */
  private readonly places: TablePlaces
  private readonly turns = new Turns()
  /** everything at or past this host offset has never been written: it reads as zero */
  private pristine: number
  private readonly space: FileSpace

  constructor(store: ByteStore, header: Header, root: RootTable, space: FileSpace, places: TablePlaces) {
    this.places = places
    this.store = store
    this.header = header
    this.entryBits = 2 ** header.refcountOrder
    this.maxCount = this.entryBits === 64 ? Number.MAX_SAFE_INTEGER : 2 ** this.entryBits - 1
    this.cache = new TableCache(store, { pageSize: Math.min(MAX_PAGE, header.clusterSize), capacity: CACHE })
    this.blocks = new RefcountBlocks({ store, header, cache: this.cache, space, places }, root)
    this.perPage = (this.cache.pageSize * 8) / this.entryBits
    this.pristine = roundUp(space.end, header.clusterSize)
    this.space = space
  }

  /** Reads the refcount table. Blocks are read when they are needed. */
  static *open(store: ByteStore, header: Header, space: FileSpace, places: TablePlaces): Io<Refcounts> {
    return new Refcounts(store, header, yield* readRefcountTable(store, header, space), space, places)
  }

  /** The refcount table; another one when it has grown. */
  get root(): RootTable {
    return this.blocks.root
  }

  /** Bytes of changed counts that wait to be written. */
  get changedBytes(): number {
    return this.cache.changedBytes
  }

  /** How often cluster `number` is in use. @throws VdiskError CORRUPT if the table cannot be right */
  *get(number: number): Io<number> {
    const at = this.entryAt(number)
    if (at === undefined) return 0
    return this.read(yield* this.load(at.page), at.index)
  }

  /**
   * Takes up to `count` neighbouring free clusters, each then in use once.
   *
   * @param exact take all of them together or fail; else a shorter run will do
   * @returns `zeroed` if the clusters read as zero already
   */
  *allocate(count: number, exact = false): Io<Run & { at: number; zeroed: boolean }> {
    return yield* this.turns.take(() => this.allocateNow(count, exact))
  }

  /** Adds `delta` to each count of a run. Falling counts are only for whoever knows that no pointer is left. */
  *change(run: Run, delta: number): Io<void> {
    yield* this.turns.take(() => this.changeNow(run, delta))
  }

  /**
   * From here on all counts are those of another table, still empty, of which nobody knows before `adopt`: so the old ones
   * stay as they are until all new ones are right.
   */
  beginAnew(root: RootTable): void {
    this.blocks.beginAnew(root)
    this.hint = 0
    this.growTo(root.at + root.bytes.length)
  }

  /** The header names the table that `beginAnew` was given, in one step. All of it is durable, as are its blocks. */
  *adopt(): Io<void> {
    yield* this.turns.take(() => this.blocks.name())
  }

  /** Everything below `clusters` may be referred to: what is made from now on goes behind it. */
  reserveUpTo(clusters: number): void {
    this.growTo(clusters * this.header.clusterSize)
  }

  /** Sets a count to what the references say. A missing block is made at the end of the file. */
  *set(number: number, count: number): Io<void> {
    const index = Math.floor(number / this.blocks.perBlock)
    if (index >= this.root.length) yield* this.growTable(index + 1)
    if (this.blocks.at(index) === 0) {
      if (count === 0) return
      const at = roundUp(this.space.end, this.header.clusterSize)
      this.blocks.add(index, at)
      this.growTo(at + this.header.clusterSize)
      yield* this.set(at / this.header.clusterSize, 1)
    }
    const place = this.entryAt(number) as { page: number; index: number }
    this.write(yield* this.load(place.page), place.index, Math.min(count, this.maxCount))
  }

  /** A pointer to these bytes is being removed: the counts of their clusters fall when that is durable. */
  release(at: number, length: number): void {
    const { clusterSize } = this.header
    const start = roundDown(at, clusterSize)
    this.givenUp.release(start, roundUp(at + length, clusterSize) - start)
  }

  /**
   * Lets the counts fall that are due to, and gives back to the store what nobody uses any more.
   *
   * @returns the first count that turned out to be wrong: that is no reason to leave the others, or what else a flush
   *   does, undone
   */
  *retire(): Io<VdiskError | undefined> {
    return yield* this.turns.take(() => this.retireNow())
  }

  /** Whether a block, or the table itself, waits to become durable before anything may point at it. */
  get hasNewBlocks(): boolean {
    return this.blocks.isWaiting
  }

  /** Step one of writing, where there are new blocks: all counts, durable before the table points at those. */
  *writeNewBlocks(): Io<void> {
    if (this.hasNewBlocks) yield* this.turns.take(() => this.writeNewBlocksNow())
  }

  /** Step two: counts and table, as they are now. Durable with the next flush. */
  *writeChanges(): Io<void> {
    yield* this.space.lengthen(0, this.space.end)
    const batch: Batch = this.cache.take()
    yield* this.cache.write(batch)
    const sectors = this.root.take()
    try {
      for (const { at, bytes } of sectors) yield* settle(this.store.write(at, bytes))
    } catch (error) {
      this.root.putBack(sectors)
      throw error
    }
  }

  /** Clusters up to here are in use from now on. */
  private growTo(end: number): void {
    if (end > LIMIT.fileBytes) throw tooLong(this.header.file, end)
    this.space.end = Math.max(this.space.end, end)
    this.pristine = Math.max(this.pristine, end)
  }

  private *allocateNow(count: number, exact: boolean): Io<Run & { at: number; zeroed: boolean }> {
    for (;;) {
      const run = yield* this.findFree(count, exact)
      for (let number = run.first; number < run.first + run.count; number++) {
        this.assertNoTable(number)
      }
      // Making a missing refcount block takes a cluster too, perhaps one of these: then look again.
      if (yield* this.makeBlocks(run)) continue
      yield* this.changeNow(run, 1)
      if (!exact) this.hint = run.first + run.count
      const { clusterSize } = this.header
      const at = run.first * clusterSize
      const zeroed = at >= this.pristine
      this.growTo(at + run.count * clusterSize)
      return { at, zeroed, ...run }
    }
  }

  /** All counts of the run change, or none. */
  private *changeNow(run: Run, delta: number): Io<void> {
    const end = run.first + run.count
    for (let number = run.first; number < end; ) {
      const place = this.entryAt(number)
      const page = place && (yield* this.load(place.page))
      const changed = page
        ? this.changeWithin(page, place.index, Math.min(end - number, this.perPage - place.index), delta)
        : 0
      if (delta < 0) this.noteFallen(number, changed, page, place?.index ?? 0)
      number += changed
      if (changed > 0) continue
      const next = page ? this.read(page, place.index) + delta : -1
      yield* this.changeNow({ first: run.first, count: number - run.first }, -delta)
      if (next < 0) throw this.corrupt(number, 'it is used more often than it is counted')
      throw new VdiskError('LIMIT_EXCEEDED', {
        message: `Cannot use a cluster of ${this.header.file} once more: counts of ${this.entryBits} bits end at ${this.maxCount}`,
        where: { file: this.header.file, structure: 'refcount block', at: number * this.header.clusterSize },
        advice: 'Convert the image to one with wider counts: vdisk convert ... -o refcount_bits=16',
      })
    }
  }

  /** Changes counts of one page as far as they can change. @returns how many did */
  private changeWithin(page: Page, index: number, count: number, delta: number): number {
    let done = 0
    for (; done < count; done++) {
      const next = readCount(page.view, index + done, this.entryBits) + delta
      if (next < 0 || next > this.maxCount) break
      writeCount(page.view, index + done, this.entryBits, next)
    }
    const first = Math.floor((index * this.entryBits) / 8)
    const last = Math.ceil(((index + done) * this.entryBits) / 8)
    if (done > 0) this.cache.touch(page, first, last - first)
    return done
  }

  /** Counts of a run have fallen: what nobody uses any more is free, and no table. */
  private noteFallen(number: number, count: number, page: Page | undefined, index: number): void {
    if (count > 0 && number < this.hint) this.hint = number
    for (let i = 0; page && i < count; i++) if (this.read(page, index + i) === 0) this.places.freed(number + i)
  }

  private *retireNow(): Io<VdiskError | undefined> {
    const { clusterSize } = this.header
    const free: Room[] = []
    let flaw: VdiskError | undefined
    for (const { at, length } of this.givenUp.takeDue()) {
      for (let cluster = at; cluster < at + length; cluster += clusterSize) {
        try {
          if (yield* this.retireCluster(cluster / clusterSize)) append(free, { at: cluster, length: clusterSize })
        } catch (error) {
          if (!isVdiskError(error)) throw error
          flaw ??= error
        }
      }
    }
    // Still in this turn, so that nobody has taken the room yet: a discard must not fall on what is written next.
    for (const { at, length } of free) yield* settle(this.store.discard?.(at, length))
    return flaw
  }

  /** @returns whether nobody uses the cluster any more */
  private *retireCluster(number: number): Io<boolean> {
    yield* this.changeNow({ first: number, count: 1 }, -1)
    const place = this.entryAt(number)
    if (!place || this.read(yield* this.load(place.page), place.index) !== 0) return false
    this.assertNoTable(number)
    return true
  }

  private *writeNewBlocksNow(): Io<void> {
    const old = yield* this.blocks.write()
    if (old) this.release(old.at, old.bytes.length)
  }

  /** The first run of free clusters; an exact one is as long as asked for. */
  private *findFree(count: number, exact: boolean): Io<Run> {
    for (let number = this.hint; ; ) {
      number = yield* this.nextFree(number)
      if (number * this.header.clusterSize >= LIMIT.fileBytes)
        throw tooLong(this.header.file, number * this.header.clusterSize)
      const length = yield* this.freeLength(number, count)
      if (length === count || !exact) return { first: number, count: length }
      number += length
    }
  }

  /** The first cluster from `from` on whose count is zero. */
  private *nextFree(from: number): Io<number> {
    for (let number = from; ; ) {
      const place = this.entryAt(number)
      if (!place) return number
      const page = yield* this.load(place.page)
      const free = this.findZero(page, place.index)
      if (free !== undefined) return number + (free - place.index)
      number += this.perPage - place.index
    }
  }

  private *freeLength(from: number, count: number): Io<number> {
    for (let length = 0; length < count; ) {
      const place = this.entryAt(from + length)
      if (!place) {
        // The rest of this block's range is free, and so are the ranges of blocks that do not exist.
        length += this.blocks.perBlock - ((from + length) % this.blocks.perBlock)
        continue
      }
      const page = yield* this.load(place.page)
      for (let index = place.index; index < this.perPage; index++, length++) {
        if (length >= count || this.read(page, index) !== 0) return Math.min(length, count)
      }
    }
    return count
  }

  private findZero(page: Page, index: number): number | undefined {
    if (this.entryBits === 16) {
      // Zero is zero in either byte order.
      const found = new Uint16Array(page.bytes.buffer, page.bytes.byteOffset, this.perPage).indexOf(0, index)
      return found === -1 ? undefined : found
    }
    for (let i = index; i < this.perPage; i++) if (this.read(page, i) === 0) return i
    return undefined
  }

  /**
   * Makes the blocks that a run needs out of its first clusters, which are known to be free. Elsewhere they would stand
   * in the way: a table longer than the range of one block would never find room.
   *
   * @returns whether any had to be made
   */
  private *makeBlocks(run: Run): Io<boolean> {
    const last = Math.floor((run.first + run.count - 1) / this.blocks.perBlock)
    if (last >= this.root.length) {
      yield* this.growTable(last + 1)
      return true
    }
    const missing: number[] = []
    for (let index = Math.floor(run.first / this.blocks.perBlock); index <= last; index++) {
      if (this.blocks.at(index) === 0) missing.push(index)
    }
    if (missing.length === 0) return false
    if (missing[0] === 0) throw this.corrupt(0, 'there is no refcount block for the header')
    const { clusterSize } = this.header
    this.growTo((run.first + missing.length) * clusterSize)
    for (const [i, index] of missing.entries()) this.blocks.add(index, (run.first + i) * clusterSize)
    yield* this.changeNow({ first: run.first, count: missing.length }, 1)
    return true
  }

  /**
   * Moves the table to a larger place, with the blocks that count it. Done at once and made durable, for it happens once in
   * terabytes; should that fail, the next flush does it before anything else.
   */
  private *growTable(entries: number): Io<void> {
    const { clusterSize } = this.header
    if (this.hasNewBlocks) yield* this.writeNewBlocksNow()
    const growth = this.blocks.planGrowth(entries)
    const count = growth.tableClusters + growth.blocks
    this.growTo((growth.first + count) * clusterSize)
    this.blocks.grow(growth)
    yield* this.changeNow({ first: growth.first, count }, 1)
    yield* this.writeNewBlocksNow()
  }

  /** The page that holds a count, and the count's index in it; undefined where there is no block. */
  private entryAt(number: number): { page: number; index: number } | undefined {
    const block = this.blocks.at(Math.floor(number / this.blocks.perBlock))
    if (block === 0) return undefined
    const bit = (number % this.blocks.perBlock) * this.entryBits
    const pageBits = this.cache.pageSize * 8
    return { page: block + Math.floor(bit / pageBits) * this.cache.pageSize, index: (bit % pageBits) / this.entryBits }
  }

  /** The page that holds byte `at` of a refcount block. @throws VdiskError CORRUPT where the file ends before */
  private *load(at: number): Io<Page> {
    try {
      return this.cache.peek(at) ?? (yield* this.cache.load(at))
    } catch (error) {
      if (!isVdiskError(error, 'OUT_OF_RANGE')) throw error
      throw new VdiskError('CORRUPT', {
        message: `Cannot use the refcounts of ${this.header.file}: the file ends inside a refcount block`,
        where: { file: this.header.file, structure: 'refcount block', at, section: 'Host cluster management' },
        advice: 'The file was cut short. If you have it, copy it again from its source. It can still be read.',
        cause: error,
      })
    }
  }

  private assertNoTable(number: number): void {
    if (!this.places.holds(number * this.header.clusterSize)) return
    throw this.corrupt(number, 'it holds a table, but counts as free')
  }

  private read(page: Page, index: number): number {
    return readCount(page.view, index, this.entryBits)
  }

  private write(page: Page, index: number, count: number): void {
    writeCount(page.view, index, this.entryBits, count)
    this.cache.touch(page, Math.floor((index * this.entryBits) / 8), Math.max(1, this.entryBits / 8))
  }

  private corrupt(number: number, why: string): VdiskError {
    return new VdiskError('CORRUPT', {
      message: `Cannot change ${this.header.file}: cluster ${number} has a wrong reference count, ${why}`,
      where: { file: this.header.file, structure: 'refcount block', at: number * this.header.clusterSize },
      advice: 'Check the image: vdisk check IMAGE. It can still be read.',
    })
  }
}
