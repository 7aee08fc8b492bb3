import { ceilDiv, roundUp } from '../../bytes/align.ts'
import { Bitmap } from '../../bytes/bitmap.ts'
import type { Extent } from '../../contracts/extent.ts'
import type { VdiskError } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { type Page, TableCache } from '../../io/table-cache.ts'
import { badEntry } from './damage.ts'
import { ABSENT, ENTRY, SECTOR } from './layout.ts'
import { allSet, hasBit, runEnd } from './sector-bits.ts'

/** Bytes of the BAT, and of sector bitmaps, kept in memory. */
const TABLE_CACHE = 8 << 20
const BITS_CACHE = 8 << 20
/** Bytes read at a time by who walks over all entries. */
const STRIDE = 256 << 10
const BITS_PER_PAGE = SECTOR * 8

/** What of header and footer the mapping goes by. It changes while the file is open. */
export interface Shape {
  /** bytes that the guest sees */
  size: number
  hasParent: boolean
  /** bytes in the file */
  tableAt: number
  entryCount: number
  /** bytes in the file: before this everything but the footer ends */
  limit: number
}

/**
 * From guest offsets to places in the file: block allocation table and sector bitmaps. ["Block Allocation Table and Data
 * Blocks"]
 *
 * A block is its sector bitmap and behind it its sectors. A sector whose bit is not set is the parent's, or, where there
 * is none, was never written and reads as zero, whatever lies in its place. This is the reading half; `Allocation` changes
 * entries and bits.
 */
export class BlockTable {
  readonly file: string
  readonly store: ByteStore
  readonly shape: Shape
  readonly blockSize: number
  /** bytes of a block's sector bitmap */
  readonly bitmapSize: number
  readonly entries: TableCache
  readonly bits: TableCache
  /** blocks of which it is known that all their sectors are present */
  private whole: Bitmap

  constructor(file: string, store: ByteStore, blockSize: number, shape: Shape) {
    this.file = file
    this.store = store
    this.shape = shape
    this.blockSize = blockSize
    this.bitmapSize = bitmapSizeOf(blockSize)
    this.entries = new TableCache(store, { pageSize: SECTOR, capacity: TABLE_CACHE })
    this.bits = new TableCache(store, { pageSize: SECTOR, capacity: BITS_CACHE })
    this.whole = Bitmap.empty(shape.entryCount)
  }

  /** blocks of the disk */
  get blocks(): number {
    return ceilDiv(this.shape.size, this.blockSize)
  }

  /** Bytes of a block that are part of the disk: less than a block at its end. */
  usedOf(block: number): number {
    return Math.max(0, Math.min(this.blockSize, this.shape.size - block * this.blockSize))
  }

  /** Bytes in the file of a block's entry. */
  entryPlace(block: number): number {
    return this.shape.tableAt + block * ENTRY
  }

  /**
   * Says what lies at `offset`: neighbouring blocks that hold nothing are one answer.
   *
   * @throws VdiskError CORRUPT for an entry that cannot be right
   */
  *map(offset: number, length: number): Io<Extent> {
    const { blockSize, bitmapSize } = this
    const block = Math.floor(offset / blockSize)
    const start = offset - block * blockSize
    const at = yield* this.blockAt(block)
    if (at === undefined) return yield* this.mapSilence(block, start, length)
    const run = Math.min(length, blockSize - start)
    const place = at + bitmapSize + start
    if (this.whole.has(block)) return { kind: 'data', length: run, store: this.store, at: place }
    return yield* this.mapSectors(block, at, start, run)
  }

  /** Where a block lies, its sector bitmap first; undefined: it has no room. @throws VdiskError CORRUPT */
  *blockAt(block: number): Io<number | undefined> {
    const at = this.entryPlace(block)
    const page = this.entries.peek(at) ?? (yield* this.entries.load(at))
    const entry = page.view.getUint32(at - page.at)
    if (entry === ABSENT) return undefined
    const complaint = this.complaintAbout(block, entry)
    if (complaint !== undefined) throw this.badEntry(block, complaint)
    return entry * SECTOR
  }

  /** What is wrong with the entry of a block, in words; undefined: nothing. */
  complaintAbout(block: number, entry: number): string | undefined {
    const at = entry * SECTOR
    const { tableAt, entryCount, limit } = this.shape
    const end = at + this.bitmapSize + this.usedOf(block)
    if (at < 2 * SECTOR) return `points at ${at}, where the footer's copy or the header lies`
    if (at < tableAt + entryCount * ENTRY && end > tableAt) return `points at ${at}, where the BAT lies`
    return end > limit ? `points at ${at}, past the end of the file` : undefined
  }

  badEntry(block: number, why: string): VdiskError {
    const { blockSize } = this
    const place = { index: block, at: this.entryPlace(block), offset: block * blockSize }
    return badEntry(this.file, `the BAT entry of block ${block} ${why}`, place)
  }

  /** It is no longer known of blocks first .. end-1 that all their sectors are present. */
  forget(first: number, end: number): void {
    this.whole.fill(first, Math.min(end, this.whole.length), false)
  }

  /** The BAT has another place or length. */
  forgetAll(): void {
    this.whole = Bitmap.empty(this.shape.entryCount)
  }

  /**
   * Visits entries first .. end-1, some at a time, as they are now: changes that are not written yet included.
   *
   * @param visit may not wait
   */
  *walk(first: number, end: number, visit: (view: DataView, index: number, count: number) => void): Io<void> {
    const { entries, store } = this
    const bytes = new Uint8Array(Math.min(STRIDE, Math.max(0, end - first) * ENTRY))
    for (let index = first; index < end; ) {
      const at = this.entryPlace(index)
      const part = bytes.subarray(0, (end - index) * ENTRY)
      yield* settle(store.read(at, part))
      for (let page = at - (at % SECTOR); page < at + part.length; page += SECTOR) {
        const held = entries.peek(page)
        if (!held) continue
        const from = Math.max(page, at)
        part.set(held.bytes.subarray(from - page, Math.min(SECTOR, at + part.length - page)), from - at)
      }
      const count = part.length / ENTRY
      visit(new DataView(part.buffer, part.byteOffset, part.length), index, count)
      index += count
    }
  }

  /** How far nothing is there from `start` of a block on. */
  private *mapSilence(block: number, start: number, length: number): Io<Extent> {
    const { blockSize } = this
    const end = Math.min(this.blocks, block + ceilDiv(start + length, blockSize))
    let next = block + 1
    while (next < end) {
      const at = this.entryPlace(next)
      const page = this.entries.peek(at) ?? (yield* this.entries.load(at))
      const stop = Math.min(end, next + (page.at + SECTOR - at) / ENTRY)
      let within = at - page.at
      while (next < stop && page.view.getUint32(within) === ABSENT) {
        next++
        within += ENTRY
      }
      if (next < stop) break
    }
    const kind = this.shape.hasParent ? 'parent' : 'zero'
    return { kind, length: Math.min(length, (next - block) * blockSize - start) }
  }

  /** One run of sectors that are here, or that are not. */
  private *mapSectors(block: number, at: number, start: number, length: number): Io<Extent> {
    const first = Math.floor(start / SECTOR)
    const byte = at + (first >>> 3)
    const page = this.bits.peek(byte) ?? (yield* this.bits.load(byte))
    const sectors = ceilDiv(this.usedOf(block), SECTOR)
    if (sectors <= BITS_PER_PAGE && page.at === at && allSet(page.bytes, 0, sectors)) this.whole.fill(block, block + 1)
    const bit = (byte - page.at) * 8 + (first & 7)
    const wanted = ceilDiv(start + length, SECTOR) - first
    const run = runEnd(page.bytes, bit, Math.min(BITS_PER_PAGE, bit + wanted)) - bit
    const bytes = Math.min(length, (first + run) * SECTOR - start)
    if (hasBit(page.bytes, bit)) {
      return { kind: 'data', length: bytes, store: this.store, at: at + this.bitmapSize + start }
    }
    return { kind: this.shape.hasParent ? 'parent' : 'zero', length: bytes }
  }
}

/** Bytes of the sector bitmap of blocks of this size: whole sectors. ["Block Allocation Table and Data Blocks"] */
export function bitmapSizeOf(blockSize: number): number {
  return roundUp(Math.ceil(blockSize / SECTOR / 8), SECTOR)
}

/** The entry of a page that holds it. */
export function entryIn(page: Page, at: number): number {
  return page.view.getUint32(at - page.at)
}
