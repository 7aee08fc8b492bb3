import { roundUp } from '../../bytes/align.ts'
import { Bitmap } from '../../bytes/bitmap.ts'
import type { Extent } from '../../contracts/extent.ts'
import type { FileEnd } from '../../contracts/file-room.ts'
import { isVdiskError, type VdiskError } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore, Segment } from '../../io/store.ts'
import { type Page, TableCache } from '../../io/table-cache.ts'
import { corrupt } from './damage.ts'
import type { Geometry } from './geometry.ts'
import { BAT_ENTRY, BITMAP, hasReservedBits, LOG_SECTOR, MIB, PAYLOAD, placeOf, stateOf } from './layout.ts'
import type { Regions } from './regions.ts'

/** Bytes of BAT and sector bitmaps kept in memory. A whole BAT can have 512 MiB; it is never held. */
const CACHE = 16 << 20
/** Bytes read at a time by who walks over all entries. */
const STRIDE = 256 << 10

/** A BAT entry as it stood when it was read. */
export interface BatEntry {
  readonly state: number
  /** bytes in the file; 0: none */
  readonly place: number
}

/**
 * From guest offsets to places in the file: block allocation table and sector bitmaps. [2.5]
 *
 * This is the reading half; `Allocation` changes entries and bits.
 */
export class Bat {
  readonly file: string
  /** the file, or the file as its log will leave it */
  readonly view: ByteStore
  readonly geometry: Geometry
  /** pages of the BAT, of sector bitmaps, and of whatever else the log covers */
  readonly tables: TableCache
  /** replaced when the BAT moves */
  regions: Regions
  /** replaced by what keeps account of room, where the file is written */
  space: FileEnd

  constructor(parts: { file: string; view: ByteStore; geometry: Geometry; regions: Regions; space: FileEnd }) {
    this.file = parts.file
    this.view = parts.view
    this.geometry = parts.geometry
    this.regions = parts.regions
    this.space = parts.space
    // A page is what one log descriptor describes.
    this.tables = new TableCache(parts.view, { pageSize: LOG_SECTOR, capacity: CACHE })
  }

  /**
   * Says what lies at `offset`: neighbouring blocks of one kind are one answer, for data as far as one page of the BAT
   * goes.
   *
   * @throws VdiskError CORRUPT for an entry that cannot be right
   * @see [MS-VHDX] 2.5.1.1 Payload BAT Entry States
   */
  *map(offset: number, length: number): Io<Extent> {
    const { blockSize } = this.geometry
    const block = Math.floor(offset / blockSize)
    const at = this.entryPlace(block)
    const page = this.tables.peek(at) ?? (yield* this.load(at, block))
    const within = at - page.at
    const start = offset - block * blockSize
    const low = page.view.getUint32(within, true)
    if (stateOf(low) === PAYLOAD.partiallyPresent) {
      const place = this.checkedPlace(block, low, page.view.getUint32(within + 4, true))
      return yield* this.mapSectors(block, place, start, Math.min(length, blockSize - start))
    }
    const extent = this.mapBlocks(page, within, block, start, length)
    if (extent.length === length || (extent.kind !== 'zero' && extent.kind !== 'parent')) return extent
    const next = block + (start + extent.length) / blockSize
    if (this.entryPlace(next) < page.at + page.bytes.length) return extent
    const more = yield* this.silentBlocks(next, extent.kind, Math.ceil((length - extent.length) / blockSize))
    return { kind: extent.kind, length: Math.min(length, extent.length + more * blockSize) }
  }

  /** A payload block's entry. */
  *entry(block: number): Io<BatEntry> {
    const at = this.entryPlace(block)
    const page = this.tables.peek(at) ?? (yield* this.load(at, block))
    return readEntry(page, at)
  }

  /** The entry of a chunk's sector bitmap block. */
  *bitmapEntry(chunk: number): Io<BatEntry> {
    const at = this.bitmapEntryPlace(chunk)
    const page = this.tables.peek(at) ?? (yield* this.load(at, chunk * this.geometry.chunkRatio))
    return readEntry(page, at)
  }

  /** Bytes in the file of a payload block's entry. */
  entryPlace(block: number): number {
    return this.regions.bat.at + this.geometry.entryOf(block) * BAT_ENTRY
  }

  bitmapEntryPlace(chunk: number): number {
    return this.regions.bat.at + this.geometry.bitmapEntryOf(chunk) * BAT_ENTRY
  }

  /** Bytes in the file of the first bit of a payload block. @throws VdiskError CORRUPT if its chunk has no bitmap */
  *bitsPlace(block: number): Io<number> {
    const chunk = this.geometry.chunkOf(block)
    const { state, place } = yield* this.bitmapEntry(chunk)
    const used = place + MIB <= this.space.end && place !== 0 && !this.regions.hit(place, MIB)
    if (state === BITMAP.present && used) return place + this.geometry.bitmapByteOf(block)
    throw this.badBitmap(
      chunk,
      state === BITMAP.present ? `lies at ${place}, where no bitmap can be` : 'is not present',
    )
  }

  /**
   * Visits all entries from `first` on, some at a time, as they are now: changes that are not written yet included.
   *
   * Entries that lie in a hole of the file are all zero, blocks that are not present; those are passed over.
   *
   * @param visit may not wait; false ends the walk
   */
  *walk(first: number, end: number, visit: (view: DataView, index: number, count: number) => unknown): Io<void> {
    if (end <= first) return
    const { at: batAt } = this.regions.bat
    const { pageSize } = this.tables
    let bytes = new Uint8Array(0)
    for (let index = first; index < end; ) {
      const at = batAt + index * BAT_ENTRY
      const run = yield* this.runAt(at, batAt + end * BAT_ENTRY)
      if (run.kind === 'hole' && run.length >= pageSize) {
        index += Math.floor(run.length / BAT_ENTRY)
        continue
      }
      // Data is read by whole pages as far as it goes: the hole behind it is passed over in the next round.
      const known = run.kind === 'hole' ? STRIDE : roundUp(at + run.length, pageSize) - at
      const length = Math.min(known, STRIDE - (at % pageSize), (end - index) * BAT_ENTRY)
      if (bytes.length < length) bytes = new Uint8Array(length)
      const part = bytes.subarray(0, length)
      yield* settle(this.view.read(at, part))
      for (let page = at - (at % pageSize); page < at + part.length; page += pageSize) {
        const cached = this.tables.peek(page)
        if (!cached) continue
        const from = Math.max(page, at)
        part.set(cached.bytes.subarray(from - page, Math.min(pageSize, at + part.length - page)), from - at)
      }
      const count = part.length / BAT_ENTRY
      if (visit(new DataView(part.buffer, part.byteOffset, part.length), index, count) === false) return
      index += count
    }
  }

  /** Where a present block lies. @throws VdiskError CORRUPT if that is no place for it */
  checkedPlace(block: number, low: number, high: number): number {
    const complaint = this.complaintAbout(block, low, high)
    if (complaint !== undefined) throw this.badEntry(block, complaint)
    return placeOf(high, low)
  }

  /** What is wrong with the entry of a present block, in words; undefined: nothing. */
  complaintAbout(block: number, low: number, high: number): string | undefined {
    const place = placeOf(high, low)
    const used = this.geometry.usedOf(block)
    if (hasReservedBits(low)) return 'has reserved bits set'
    if (place + used > this.space.end) return `points at ${place}, past the end of the file`
    const region = this.regions.hit(place, used)
    return region && `points at ${place}, where the ${region.name} lies`
  }

  /**
   * How many blocks from `block` on hold nothing, as `kind` says. A table can have 512 MiB: this reads it in strides and
   * passes over its holes, and leaves the pages in memory to those that are asked for again.
   */
  private *silentBlocks(block: number, kind: 'zero' | 'parent', wanted: number): Io<number> {
    const { geometry } = this
    const first = geometry.entryOf(block)
    const end = geometry.entryOf(block + wanted - 1) + 1
    const holesCount = this.kindOf(PAYLOAD.notPresent) === kind
    let last = first
    let ended = false
    yield* this.walk(first, end, (view, index, count) => {
      ended = index > last && !holesCount
      if (!ended) last = index
      let within = index % (geometry.chunkRatio + 1)
      for (let i = 0; i < count && !ended; i++) {
        if (within === geometry.chunkRatio) within = 0
        else if (this.kindOf(stateOf(view.getUint32(i * BAT_ENTRY, true))) === kind) within++
        else ended = true
        if (!ended) last++
      }
      return !ended
    })
    return geometry.blocksBelow(ended || !holesCount ? last : end) - block
  }

  /** Bytes of table from `at` on, before `end`: a hole where neither the file has room for them nor memory a page of them. */
  private *runAt(at: number, end: number): Io<Segment> {
    if (!this.view.segment || at >= (yield* settle(this.view.size()))) return { kind: 'data', length: end - at }
    const segment = yield* settle(this.view.segment(at))
    if (segment.kind === 'data') return segment
    return { kind: 'hole', length: this.tables.nextHeld(at, Math.min(end, at + segment.length)) - at }
  }

  private mapBlocks(page: Page, within: number, block: number, start: number, length: number): Extent {
    const { blockSize, chunkRatio } = this.geometry
    const { view } = page
    const low = view.getUint32(within, true)
    const kind = this.kindOf(stateOf(low))
    if (!kind) throw this.badEntry(block, `has the state ${stateOf(low)}, which does not exist`)
    const place = kind === 'data' ? this.checkedPlace(block, low, view.getUint32(within + 4, true)) : 0
    let run = blockSize - start
    for (let next = block + 1, at = within; run < length; next++) {
      // The entry of a sector bitmap stands between two chunks.
      at += next % chunkRatio === 0 ? 2 * BAT_ENTRY : BAT_ENTRY
      if (at >= page.bytes.length) break
      const nextLow = view.getUint32(at, true)
      if (this.kindOf(stateOf(nextLow)) !== kind) break
      if (kind === 'data') {
        const high = view.getUint32(at + 4, true)
        if (placeOf(high, nextLow) !== place + (next - block) * blockSize) break
        if (this.complaintAbout(next, nextLow, high) !== undefined) break
      }
      run += blockSize
    }
    run = Math.min(run, length)
    return kind === 'data' ? { kind, length: run, store: this.view, at: place + start } : { kind, length: run }
  }

  /** What a whole block in this state is; undefined for one that is only partly there, or for no state at all. */
  private kindOf(state: number): 'data' | 'zero' | 'parent' | undefined {
    switch (state) {
      case PAYLOAD.fullyPresent:
        return 'data'
      case PAYLOAD.notPresent:
        return this.geometry.hasParent ? 'parent' : 'zero'
      case PAYLOAD.undefined:
      case PAYLOAD.zero:
      case PAYLOAD.unmapped:
      case PAYLOAD.unmappedDraft:
        return 'zero'
      default:
        return undefined
    }
  }

  /** One run of sectors that are here, or that the parent has. [2.5.1.1, PAYLOAD_BLOCK_PARTIALLY_PRESENT] */
  private *mapSectors(block: number, place: number, start: number, length: number): Io<Extent> {
    if (!this.geometry.hasParent) throw this.badEntry(block, 'is partially present, but the file has no parent')
    const { sectorSize } = this.geometry
    const first = Math.floor(start / sectorSize)
    const byte = (yield* this.bitsPlace(block)) + (first >>> 3)
    const page = this.tables.peek(byte) ?? (yield* this.load(byte, block))
    const bits = new Bitmap(page.bytes)
    const bit = (byte - page.at) * 8 + (first & 7)
    const wanted = Math.ceil((start + length) / sectorSize) - first
    const run = bits.runEnd(bit, Math.min(bits.length, bit + wanted)) - bit
    const bytes = Math.min(length, (first + run) * sectorSize - start)
    return bits.has(bit)
      ? { kind: 'data', length: bytes, store: this.view, at: place + start }
      : { kind: 'parent', length: bytes }
  }

  private *load(at: number, block: number): Io<Page> {
    try {
      return yield* this.tables.load(at)
    } catch (error) {
      if (!isVdiskError(error, 'OUT_OF_RANGE')) throw error
      throw this.badEntry(block, 'lies past the end of the file')
    }
  }

  private badEntry(block: number, why: string): VdiskError {
    return corrupt(
      this.file,
      `the BAT entry of block ${block} ${why}`,
      {
        structure: 'BAT',
        index: this.geometry.entryOf(block),
        at: this.entryPlace(block),
        offset: block * this.geometry.blockSize,
        section: '2.5.1.1',
      },
      'See how far the damage goes: vdisk check IMAGE',
    )
  }

  private badBitmap(chunk: number, why: string): VdiskError {
    return corrupt(
      this.file,
      `the sector bitmap of chunk ${chunk} ${why}`,
      {
        structure: 'BAT',
        index: this.geometry.bitmapEntryOf(chunk),
        at: this.bitmapEntryPlace(chunk),
        offset: chunk * this.geometry.chunkRatio * this.geometry.blockSize,
        section: '2.5.1.2',
      },
      'See how far the damage goes: vdisk check IMAGE',
    )
  }
}

function readEntry(page: Page, at: number): BatEntry {
  const low = page.view.getUint32(at - page.at, true)
  return { state: stateOf(low), place: placeOf(page.view.getUint32(at - page.at + 4, true), low) }
}
