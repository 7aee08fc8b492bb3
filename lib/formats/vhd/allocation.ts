import { ceilDiv, roundDown } from '../../bytes/align.ts'
import type { Reservation } from '../../contracts/layer.ts'
import { type Io, just, settle } from '../../io/io.ts'
import type { Page, TableCache } from '../../io/table-cache.ts'
import type { BlockTable } from './block-table.ts'
import { ABSENT, SECTOR } from './layout.ts'
import { fillBits } from './sector-bits.ts'
import type { Space } from './space.ts'
import type { WriteBack } from './write-back.ts'

type Fill = Reservation['fills'][number]

const BITS_PER_PAGE = SECTOR * 8
/**
 * Bytes that become a block's own together: those of a byte of its bitmap. One sector would do; but disks have pages of
 * this size, and libvhdi takes all sectors from the first present one of a byte on for present.
 */
const GROUP = 8 * SECTOR

/**
 * The writing half of the mapping: room for blocks, their entries, sector bits. ["Block Allocation Table and Data Blocks"]
 *
 * A new block of a dynamic disk is whole at once, since its room is zero, as other programs make it; of a differencing disk
 * it has the sectors that were written. Everything but the bitmap that a block begins with happens in memory; `WriteBack`
 * makes it durable.
 */
export class Allocation {
  private readonly table: BlockTable
  private readonly space: Space
  private readonly writeBack: WriteBack

  constructor(table: BlockTable, space: Space, writeBack: WriteBack) {
    this.table = table
    this.space = space
    this.writeBack = writeBack
  }

  *reserve(offset: number, length: number): Io<Reservation> {
    const { blockSize, bitmapSize, store } = this.table
    const block = Math.floor(offset / blockSize)
    const start = offset - block * blockSize
    const extent = yield* this.table.map(offset, Math.min(length, blockSize - start))
    if (extent.kind === 'data') {
      const { at } = extent
      return { length: extent.length, store, at, zeroed: false, fills: [], publish: nothing, abandon: nothing }
    }
    const at = yield* this.table.blockAt(block)
    if (at === undefined) return yield* this.reserveBlock(block, start, extent.length)
    const payload = at + bitmapSize
    return {
      length: extent.length,
      store,
      at: payload + start,
      zeroed: false,
      fills: this.fillsFor(block, payload, start, extent.length),
      publish: () => this.setBits(block, at, start, extent.length),
      abandon: nothing,
    }
  }

  /**
   * Makes a range read as zero, or shows the parent, where it does not already: see `untouched`.
   *
   * @returns bytes done from `offset` on; 0 where only a write can do it
   */
  *erase(offset: number, length: number, reveal: 'zero' | 'parent'): Io<number> {
    const { blockSize, shape } = this.table
    const extent = yield* this.table.map(offset, length)
    if (reveal === 'parent' && shape.hasParent) return yield* this.showParent(offset, length)
    const start = offset % blockSize
    if (start === 0 && !shape.hasParent) {
      const block = offset / blockSize
      if (length >= this.table.usedOf(block)) return yield* this.giveUp(block)
    }
    const within = Math.min(extent.length, blockSize - start)
    return extent.kind === 'data' ? yield* this.punch(offset, within) : yield* this.hide(offset, within)
  }

  /** A block of a disk without a parent reads as zero where it has no room. @returns bytes done */
  private *giveUp(block: number): Io<number> {
    const at = (yield* this.table.blockAt(block)) as number
    yield* this.setEntry(block, NO_ROOM)
    this.space.releaseBlock(at)
    yield* this.writeBack.relieve()
    return this.table.usedOf(block)
  }

  /** How much of a range from `offset` on an erasure would leave as it is. */
  *untouched(offset: number, length: number, reveal: 'zero' | 'parent'): Io<number> {
    const extent = yield* this.table.map(offset, length)
    const wanted = reveal === 'parent' && this.table.shape.hasParent ? 'parent' : 'zero'
    return extent.kind === wanted ? extent.length : 0
  }

  /** Zeros where the parent shows; nothing but the bits is written if the room is zero already. @returns bytes done */
  *hide(offset: number, length: number): Io<number> {
    const { blockSize, bitmapSize } = this.table
    const block = Math.floor(offset / blockSize)
    const start = offset - block * blockSize
    const end = this.wholeUnitsTo(block, start, length, GROUP)
    if (start % GROUP !== 0 || end <= start) return 0
    const at = yield* this.table.blockAt(block)
    if (at === undefined) {
      yield* this.newBlock(block, start, end - start)
      return end - start
    }
    if (!this.table.store.deallocate) return 0
    yield* settle(this.table.store.deallocate(at + bitmapSize + start, end - start))
    yield* this.setBits(block, at, start, end - start)
    return end - start
  }

  /** Points a block at other room, or at none; durable with the next flush. */
  *setEntry(block: number, entry: number): Io<void> {
    const at = this.table.entryPlace(block)
    const page = yield* this.load(this.table.entries, at)
    page.view.setUint32(at - page.at, entry)
    this.table.entries.touch(page, at - page.at, 4)
    this.table.forget(block, block + 1)
  }

  /** A block that is not there gets room, with sectors of zeros where the disk is going to have some. */
  *newBlock(block: number, start: number, length: number): Io<void> {
    yield* this.publishBlock(block, yield* this.space.allocateBlock(), start / SECTOR, ceilDiv(start + length, SECTOR))
  }

  /** A block behind the end of the disk is made wholly present, and zero. */
  *coverBlock(block: number): Io<void> {
    if ((yield* this.table.blockAt(block)) === undefined) yield* this.newBlock(block, 0, this.table.blockSize)
  }

  /** Sectors from .. to-1 of a block that is there become its own. @param at of the block */
  *markSectors(block: number, at: number, from: number, to: number): Io<void> {
    yield* this.changeBits(block, at, from, to, true)
  }

  private *reserveBlock(block: number, start: number, wanted: number): Io<Reservation> {
    const { blockSize, bitmapSize, store } = this.table
    const room = yield* this.space.allocateBlock()
    const payload = room + bitmapSize
    const length = Math.min(wanted, blockSize - start)
    return {
      length,
      store,
      at: payload + start,
      zeroed: true,
      fills: this.table.shape.hasParent ? this.fillsFor(block, payload, start, length) : [],
      publish: () => this.publishBlock(block, room, ...sectorsOf(start, length)),
      abandon: () => just(this.space.freeBlock(room)),
    }
  }

  /** A new block becomes part of the disk, in a child with sectors from .. to-1; the rest of its room is zero. */
  private *publishBlock(block: number, room: number, from: number, to: number): Io<void> {
    const { bitmapSize, blockSize, store, bits, shape } = this.table
    const bitmap = new Uint8Array(bitmapSize)
    if (shape.hasParent) fillBits(bitmap, from, to, true)
    else fillBits(bitmap, 0, blockSize / SECTOR, true)
    try {
      yield* settle(store.write(room, bitmap))
      // Pages of what lay there once may still be in memory.
      bits.drop(room, bitmapSize)
      yield* this.setEntry(block, room / SECTOR)
    } catch (error) {
      this.space.freeBlock(room)
      throw error
    }
    yield* this.writeBack.relieve()
  }

  /** Sectors of a block that is there become its own. @param at of the block */
  private *setBits(block: number, at: number, start: number, length: number): Io<void> {
    yield* this.changeBits(block, at, ...sectorsOf(start, length), true)
    yield* this.writeBack.relieve()
  }

  private *changeBits(block: number, at: number, from: number, to: number, set: boolean): Io<void> {
    for (let bit = from; bit < to; ) {
      const pageAt = at + Math.floor(bit / BITS_PER_PAGE) * SECTOR
      const page = yield* this.load(this.table.bits, pageAt)
      const within = bit % BITS_PER_PAGE
      const end = Math.min(BITS_PER_PAGE, within + to - bit)
      fillBits(page.bytes, within, end, set)
      this.table.bits.touch(page, within >>> 3, ((end - 1) >>> 3) - (within >>> 3) + 1)
      bit += end - within
    }
    if (!set) this.table.forget(block, block + 1)
  }

  /** Sectors that are here, or rather their bytes, become zero where they are. */
  private *punch(offset: number, length: number): Io<number> {
    const extent = yield* this.table.map(offset, length)
    if (extent.kind !== 'data' || !this.table.store.deallocate) return 0
    yield* settle(this.table.store.deallocate(extent.at, extent.length))
    return extent.length
  }

  /** Whole sectors that are here show the parent again; their block keeps its room. */
  private *showParent(offset: number, length: number): Io<number> {
    const { blockSize } = this.table
    const block = Math.floor(offset / blockSize)
    const start = offset - block * blockSize
    const end = this.wholeUnitsTo(block, start, length, SECTOR)
    const at = yield* this.table.blockAt(block)
    if (at === undefined || start % SECTOR !== 0 || end <= start) return 0
    yield* this.changeBits(block, at, start / SECTOR, ceilDiv(end, SECTOR), false)
    return end - start
  }

  /** Where the whole units end that a range of a block begins with; the last of a disk is whole. */
  private wholeUnitsTo(block: number, start: number, length: number, unit: number): number {
    const end = Math.min(this.table.blockSize, start + length)
    return end === this.table.usedOf(block) ? end : roundDown(end, unit)
  }

  /** What lies between the request and the borders of its groups. @param payload where the sectors of the block begin */
  private fillsFor(block: number, payload: number, start: number, length: number): Fill[] {
    const base = block * this.table.blockSize
    const end = start + length
    const head = start % GROUP
    const tail = (GROUP - (end % GROUP)) % GROUP
    const fills: Fill[] = []
    if (head > 0) fills.push({ offset: base + start - head, length: head, at: payload + start - head })
    if (tail > 0) fills.push({ offset: base + end, length: tail, at: payload + end })
    return fills
  }

  /** A page to be changed at once: between its arrival and the change nobody may wait. */
  private *load(tables: TableCache, at: number): Io<Page> {
    for (;;) {
      yield* tables.load(at)
      // What waits can be forgotten.
      const page = tables.peek(at)
      if (page) return page
    }
  }
}

/** A block without room. */
export const NO_ROOM = ABSENT

/** The end of a reservation that changes nothing. */
export function nothing(): Io<void> {
  return just(undefined)
}

/** The sectors of the groups that a range within a block touches. */
function sectorsOf(start: number, length: number): [number, number] {
  return [Math.floor(start / GROUP) * 8, ceilDiv(start + length, GROUP) * 8]
}
