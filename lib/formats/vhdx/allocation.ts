import { ceilDiv, roundDown } from '../../bytes/align.ts'
import { Bitmap } from '../../bytes/bitmap.ts'
import type { FileRoom } from '../../contracts/file-room.ts'
import type { Reservation } from '../../contracts/layer.ts'
import { type Io, just, Pace, settle, Turns } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import type { Page } from '../../io/table-cache.ts'
import type { Bat, BatEntry } from './bat.ts'
import type { Edits, Span } from './edits.ts'
import type { Geometry } from './geometry.ts'
import { BAT_ENTRY, BITMAP, LOG_SECTOR, MIB, PAYLOAD, placeOf, setBatEntry, stateOf } from './layout.ts'

/** Room that one reservation takes for new blocks at most. */
const LARGEST_RUN = 64 << 20
const SECTORS_PER_PAGE = LOG_SECTOR * 8

type Fill = Reservation['fills'][number]

/**
 * The writing half of the mapping: room for blocks, changed entries, sector bits. [2.5.1, 2.4]
 *
 * Everything happens in memory; `WriteBack` makes it durable. A block that reads as zero becomes fully present, its
 * new room being zero; a block that the parent holds becomes partially present, with bits for what was written.
 */
export class Allocation {
  private readonly bat: Bat
  private readonly geometry: Geometry
  private readonly edits: Edits
  private readonly space: FileRoom
  private readonly store: ByteStore
  private readonly bitmapTurns = new Turns()

  constructor(bat: Bat, edits: Edits, space: FileRoom, store: ByteStore) {
    this.bat = bat
    this.geometry = bat.geometry
    this.edits = edits
    this.space = space
    this.store = store
  }

  *reserve(offset: number, length: number): Io<Reservation> {
    const { blockSize } = this.geometry
    const extent = yield* this.bat.map(offset, length)
    if (extent.kind === 'data') return this.inPlace(extent.at, extent.length)
    const block = Math.floor(offset / blockSize)
    const start = offset - block * blockSize
    if (extent.kind === 'zero') return yield* this.reserveWhole(block, start, Math.min(length, extent.length))
    const entry = yield* this.bat.entry(block)
    if (entry.state === PAYLOAD.partiallyPresent) return this.reserveSectors(block, entry.place, start, extent.length)
    return yield* this.reservePartial(block, start, Math.min(length, blockSize - start))
  }

  /** How much of a range from `offset` on an erasure would leave as it is: nothing need be written for that. */
  *untouched(offset: number, length: number, reveal: 'zero' | 'parent'): Io<number> {
    const wanted = reveal === 'parent' && this.geometry.hasParent ? 'parent' : 'zero'
    // One look first: to find the end of what is otherwise would take as long as the disk is large, at each step.
    if ((yield* this.bat.map(offset, 1)).kind !== wanted) return 0
    return (yield* this.bat.map(offset, length)).length
  }

  /** Erases whole blocks, or what of a block can be erased in place. @returns bytes done from `offset` on */
  *erase(offset: number, length: number, reveal: 'zero' | 'parent'): Io<number> {
    const { blockSize, size, isFixed, hasParent } = this.geometry
    const block = Math.floor(offset / blockSize)
    const start = offset - block * blockSize
    const end = offset + length === size ? offset + length : roundDown(offset + length, blockSize)
    const state = reveal === 'parent' && hasParent ? PAYLOAD.notPresent : PAYLOAD.zero
    if (!isFixed && start === 0 && end > offset) {
      const next = yield* this.setBlocks(block, ceilDiv(end, blockSize), state)
      return Math.min(next * blockSize, end) - offset
    }
    // Beyond the end of this block, blocks that can be given up as a whole may follow.
    const within = isFixed ? length : Math.min(length, blockSize - start)
    return state === PAYLOAD.zero
      ? yield* this.eraseInPlace(offset, within)
      : yield* this.revealSectors(block, start, within)
  }

  /** Sets entries of blocks first .. end-1, as far as one page of the BAT goes, and gives up their room. */
  *setBlocks(first: number, end: number, state: number): Io<number> {
    const at = this.bat.entryPlace(first)
    return yield* this.edits.apply([{ at, length: BAT_ENTRY }], () => {
      const { page, within } = this.edits.view(at)
      let block = first
      for (const place of this.entriesFrom(page, within, first, end)) {
        this.replace(page, place, state, 0)
        block++
      }
      return block
    })
  }

  /** Points blocks at room of their own, one after the other, as far as one page of the BAT goes; for fixed files. */
  *setPresent(first: number, end: number, at: number): Io<number> {
    const entryAt = this.bat.entryPlace(first)
    return yield* this.edits.apply([{ at: entryAt, length: BAT_ENTRY }], () => {
      const { page, within } = this.edits.view(entryAt)
      let block = first
      for (const place of this.entriesFrom(page, within, first, end)) {
        this.replace(page, place, PAYLOAD.fullyPresent, at + (block - first) * this.geometry.blockSize)
        block++
      }
      return block
    })
  }

  /** Makes entries first .. end-1 of the BAT say nothing; for those behind the last block. */
  *clearEntries(first: number, end: number, pace = new Pace()): Io<void> {
    const { at: batAt } = this.bat.regions.bat
    for (let index = first; index < end; ) {
      yield* pace.keep()
      const at = batAt + index * BAT_ENTRY
      const count = Math.min(end - index, (LOG_SECTOR - (at % LOG_SECTOR)) / BAT_ENTRY)
      yield* this.edits.apply([{ at, length: count * BAT_ENTRY }], () => {
        const { page, within } = this.edits.view(at)
        const entries = page.bytes.subarray(within, within + count * BAT_ENTRY)
        if (entries.every((byte) => byte === 0)) return
        entries.fill(0)
        this.edits.touch(page, within, entries.length)
      })
      index += count
    }
  }

  /** Gives up the sector bitmap block of a chunk, if there is one. */
  *dropBitmap(chunk: number): Io<void> {
    const at = this.bat.bitmapEntryPlace(chunk)
    yield* this.edits.apply([{ at, length: BAT_ENTRY }], () => {
      const { page, within } = this.edits.view(at)
      const low = page.view.getUint32(within, true)
      if (stateOf(low) !== BITMAP.present) return
      this.space.release(placeOf(page.view.getUint32(within + 4, true), low), MIB)
      setBatEntry(page.view, within, BITMAP.notPresent, 0)
      this.edits.touch(page, within, BAT_ENTRY)
    })
  }

  /** Sets (or clears) bits of a block's sectors from .. to-1. */
  *setBits(block: number, from: number, to: number, set: boolean): Io<void> {
    const bitsAt = yield* this.bat.bitsPlace(block)
    yield* this.edits.apply([spanOfBits(bitsAt, from, to)], () => this.fillBits(bitsAt, from, to, set))
  }

  /** Makes a block that is not present partially present, with zeros in its sectors from .. to-1. */
  *makePartial(block: number, from: number, to: number): Io<void> {
    yield* this.ensureBitmap(this.geometry.chunkOf(block))
    const place = yield* this.space.allocate(this.geometry.blockSize)
    yield* this.publishPartial(block, place, from, to, true)
  }

  private inPlace(at: number, length: number): Reservation {
    return { length, store: this.store, at, zeroed: false, fills: [], publish: nothing, abandon: nothing }
  }

  /** Blocks that read as zero, to be wholly present: what is not written of their new room is zero as well. */
  private *reserveWhole(block: number, start: number, length: number): Io<Reservation> {
    const { blockSize } = this.geometry
    const most = Math.max(1, Math.floor(LARGEST_RUN / blockSize))
    const count = Math.min(most, ceilDiv(start + length, blockSize))
    const at = yield* this.space.allocate(count * blockSize)
    return {
      length: Math.min(length, count * blockSize - start),
      store: this.store,
      at: at + start,
      zeroed: true,
      fills: [],
      publish: () => this.publishWhole(block, count, at),
      abandon: () => just(this.space.free(at, count * blockSize)),
    }
  }

  /** A block that only the parent has. Whole sectors need nothing of it; cut ones bring their rest along. */
  private *reservePartial(block: number, start: number, length: number): Io<Reservation> {
    const { blockSize } = this.geometry
    const whole = start === 0 && length >= this.geometry.usedOf(block)
    if (!whole) yield* this.ensureBitmap(this.geometry.chunkOf(block))
    const at = yield* this.space.allocate(blockSize)
    const [from, to] = this.sectorsOf(start, length)
    return {
      length,
      store: this.store,
      at: at + start,
      zeroed: true,
      fills: whole ? [] : this.fillsFor(block, at, start, length),
      publish: () => (whole ? this.publishWhole(block, 1, at) : this.publishPartial(block, at, from, to, true)),
      abandon: () => just(this.space.free(at, blockSize)),
    }
  }

  /** Sectors of a block that is here in part, but without them: their room may hold anything. */
  private reserveSectors(block: number, place: number, start: number, length: number): Reservation {
    const [from, to] = this.sectorsOf(start, length)
    return {
      length,
      store: this.store,
      at: place + start,
      zeroed: false,
      fills: this.fillsFor(block, place, start, length),
      publish: () => this.publishPartial(block, place, from, to, false),
      abandon: nothing,
    }
  }

  /** The sectors that a range within a block touches. */
  private sectorsOf(start: number, length: number): [number, number] {
    const { sectorSize } = this.geometry
    return [Math.floor(start / sectorSize), ceilDiv(start + length, sectorSize)]
  }

  /** What lies between the request and the borders of its sectors. `at` is the place of the block. */
  private fillsFor(block: number, at: number, start: number, length: number): Fill[] {
    const { sectorSize, blockSize } = this.geometry
    const base = block * blockSize
    const end = start + length
    const head = start % sectorSize
    const tail = (sectorSize - (end % sectorSize)) % sectorSize
    const fills: Fill[] = []
    if (head > 0) fills.push({ offset: base + start - head, length: head, at: at + start - head })
    if (tail > 0) fills.push({ offset: base + end, length: tail, at: at + end })
    return fills
  }

  private *publishWhole(block: number, count: number, at: number): Io<void> {
    const { blockSize } = this.geometry
    try {
      for (let done = 0; done < count; ) {
        done = (yield* this.setPresent(block + done, block + count, at + done * blockSize)) - block
      }
    } catch (error) {
      this.space.free(at, count * blockSize)
      throw error
    }
  }

  /** @param isNew the block was not here: none of its old bits counts */
  private *publishPartial(block: number, place: number, from: number, to: number, isNew: boolean): Io<void> {
    const { blockSize, sectorsPerBlock } = this.geometry
    const entryAt = this.bat.entryPlace(block)
    try {
      const bitsAt = yield* this.bat.bitsPlace(block)
      const spans = [{ at: entryAt, length: BAT_ENTRY }]
      // Bits that lie in one page are looked at together: a block with all of them needs none any more.
      const together = isNew || sectorsPerBlock <= SECTORS_PER_PAGE
      spans.push(together ? spanOfBits(bitsAt, 0, sectorsPerBlock) : spanOfBits(bitsAt, from, to))
      yield* this.edits.apply(spans, () => {
        if (isNew) this.fillBits(bitsAt, 0, sectorsPerBlock, false)
        this.fillBits(bitsAt, from, to, true)
        const full = sectorsPerBlock <= SECTORS_PER_PAGE && this.hasAllBits(block, bitsAt)
        const { page, within } = this.edits.view(entryAt)
        const state = full ? PAYLOAD.fullyPresent : PAYLOAD.partiallyPresent
        if (isNew || full) this.replace(page, within, state, place)
      })
    } catch (error) {
      if (isNew) this.space.free(place, blockSize)
      throw error
    }
  }

  /** Zeros in the room that a block has: where there is none it reads as zero already, or the parent must be hidden. */
  private *eraseInPlace(offset: number, length: number): Io<number> {
    const extent = yield* this.bat.map(offset, length)
    if (extent.kind === 'zero') return extent.length
    if (extent.kind !== 'data' || !this.store.deallocate) return 0
    yield* settle(this.store.deallocate(extent.at, extent.length))
    return extent.length
  }

  /** Whole sectors of a block that is here show the parent again. */
  private *revealSectors(block: number, start: number, length: number): Io<number> {
    const { sectorSize, sectorsPerBlock } = this.geometry
    const used = this.geometry.usedOf(block)
    const end = start + length === used ? used : roundDown(start + length, sectorSize)
    const entry: BatEntry = yield* this.bat.entry(block)
    if (entry.state === PAYLOAD.notPresent) return length
    if (start % sectorSize !== 0 || end <= start || entry.state < PAYLOAD.fullyPresent) return 0
    const isWhole = entry.state === PAYLOAD.fullyPresent
    if (isWhole) yield* this.ensureBitmap(this.geometry.chunkOf(block))
    const bitsAt = yield* this.bat.bitsPlace(block)
    const entryAt = this.bat.entryPlace(block)
    const [from, to] = this.sectorsOf(start, end - start)
    const bits = isWhole ? spanOfBits(bitsAt, 0, sectorsPerBlock) : spanOfBits(bitsAt, from, to)
    yield* this.edits.apply([{ at: entryAt, length: BAT_ENTRY }, bits], () => {
      if (isWhole) {
        this.fillBits(bitsAt, 0, sectorsPerBlock, false)
        this.fillBits(bitsAt, 0, ceilDiv(used, sectorSize), true)
      }
      this.fillBits(bitsAt, from, to, false)
      const { page, within } = this.edits.view(entryAt)
      if (isWhole) this.replace(page, within, PAYLOAD.partiallyPresent, entry.place)
    })
    return end - start
  }

  /** The sector bitmap block of a chunk, made if it is not there. It says nothing until a block is partially present. */
  private *ensureBitmap(chunk: number): Io<void> {
    if ((yield* this.bat.bitmapEntry(chunk)).state === BITMAP.present) return
    yield* this.bitmapTurns.take(() => this.makeBitmap(chunk))
  }

  private *makeBitmap(chunk: number): Io<void> {
    // Another write may have made it while this one waited its turn.
    if ((yield* this.bat.bitmapEntry(chunk)).state === BITMAP.present) return
    const place = yield* this.space.allocate(MIB)
    // Pages of what lay there once may still be in memory.
    this.bat.tables.drop(place, MIB)
    const entryAt = this.bat.bitmapEntryPlace(chunk)
    try {
      yield* this.edits.apply([{ at: entryAt, length: BAT_ENTRY }], () => {
        const { page, within } = this.edits.view(entryAt)
        setBatEntry(page.view, within, BITMAP.present, place)
        this.edits.touch(page, within, BAT_ENTRY)
      })
    } catch (error) {
      this.space.free(place, MIB)
      throw error
    }
  }

  /** Places within a page of the entries of blocks first .. end-1; those of sector bitmaps are passed over. */
  private *entriesFrom(page: Page, within: number, first: number, end: number): Generator<number> {
    const { chunkRatio } = this.geometry
    for (let block = first, at = within; block < end && at < page.bytes.length; ) {
      yield at
      block++
      at += block % chunkRatio === 0 ? 2 * BAT_ENTRY : BAT_ENTRY
    }
  }

  /** Changes an entry; the room it had is given up, unless it keeps it. */
  private replace(page: Page, within: number, state: number, place: number): void {
    const low = page.view.getUint32(within, true)
    const old = placeOf(page.view.getUint32(within + 4, true), low)
    const isSame = stateOf(low) === state && old === place
    // A dynamic file without a parent reads as zero where nothing is present: such an entry may stay.
    if (isSame || (state === PAYLOAD.zero && stateOf(low) === PAYLOAD.notPresent && !this.geometry.hasParent)) return
    if (stateOf(low) >= PAYLOAD.fullyPresent && old !== place) this.space.release(old, this.geometry.blockSize)
    setBatEntry(page.view, within, state, place)
    this.edits.touch(page, within, BAT_ENTRY)
  }

  private hasAllBits(block: number, bitsAt: number): boolean {
    const { page, within } = this.edits.view(bitsAt)
    const bits = new Bitmap(page.bytes)
    const end = within * 8 + ceilDiv(this.geometry.usedOf(block), this.geometry.sectorSize)
    return bits.has(within * 8) && bits.runEnd(within * 8, end) === end
  }

  /** Bits of sectors from .. to-1 of the block whose bits begin at byte `bitsAt` of the file. */
  private fillBits(bitsAt: number, from: number, to: number, set: boolean): void {
    for (let bit = from; bit < to; ) {
      const { page, within } = this.edits.view(bitsAt + (bit >>> 3))
      const first = within * 8 + (bit & 7)
      const count = Math.min(to - bit, SECTORS_PER_PAGE - first)
      new Bitmap(page.bytes).fill(first, first + count, set)
      this.edits.touch(page, within, ((first + count - 1) >>> 3) - within + 1)
      bit += count
    }
  }
}

/** The end of a reservation that has nothing to publish: the room is the block's already. */
export const nothing = (): Io<void> => just(undefined)

/** The bytes of the file that hold the bits of sectors from .. to-1. */
function spanOfBits(bitsAt: number, from: number, to: number): Span {
  const first = bitsAt + (from >>> 3)
  return { at: first, length: bitsAt + ((to - 1) >>> 3) - first + 1 }
}
