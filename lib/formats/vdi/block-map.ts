import { ceilDiv } from '../../bytes/align.ts'
import type { Extent } from '../../contracts/extent.ts'
import type { FileEnd } from '../../contracts/file-room.ts'
import { isVdiskError, type VdiskError } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { type Page, TableCache } from '../../io/table-cache.ts'
import { corrupt, SEE_DAMAGE } from './damage.ts'
import type { Header } from './header.ts'
import { ENTRY, FREE, SECTOR, ZERO } from './layout.ts'

/** Bytes of the map kept in memory. A whole map can have 512 MiB; it is never held. */
const CACHE = 16 << 20
/** Bytes read at a time by who walks over all entries. */
const STRIDE = 256 << 10

/**
 * From guest offsets to places in the file. [VDIIMAGEBLOCKPOINTER]
 *
 * This is the reading half; `Allocation` changes entries.
 */
export class BlockMap {
  readonly file: string
  readonly header: Header
  /** Sectors of the map: it may begin and end in the middle of anything larger. */
  readonly tables: TableCache
  /** replaced by what keeps account of room, where the file is written */
  space: FileEnd
  private readonly store: ByteStore

  constructor(file: string, store: ByteStore, header: Header, space: FileEnd) {
    this.file = file
    this.store = store
    this.header = header
    this.space = space
    this.tables = new TableCache(store, { pageSize: SECTOR, capacity: CACHE })
  }

  /**
   * Says what lies at `offset`: neighbouring blocks of one kind are one answer, for data as far as one sector of the map
   * goes.
   *
   * @throws VdiskError CORRUPT for an entry that cannot be right
   */
  *map(offset: number, length: number): Io<Extent> {
    const { blockSize } = this.header.fields
    const block = Math.floor(offset / blockSize)
    const page = yield* this.pageOf(block)
    const start = offset - block * blockSize
    const extent = this.mapBlocks(page, block, start, length)
    if (extent.length === length || (extent.kind !== 'zero' && extent.kind !== 'parent')) return extent
    const next = block + (start + extent.length) / blockSize
    if (this.entryPlace(next) < page.at + page.bytes.length) return extent
    const more = yield* this.silentBlocks(next, extent.kind, ceilDiv(length - extent.length, blockSize))
    return { kind: extent.kind, length: Math.min(length, extent.length + more * blockSize) }
  }

  /** A block's entry: its number in the file, FREE or ZERO. */
  *entry(block: number): Io<number> {
    const page = yield* this.pageOf(block)
    return page.view.getUint32(this.entryPlace(block) - page.at, true)
  }

  /** Bytes in the file of a block's entry. */
  entryPlace(block: number): number {
    return this.header.fields.mapAt + block * ENTRY
  }

  /** The sector of a block's entry, in memory. @throws VdiskError CORRUPT if the file ends before it */
  *pageOf(block: number): Io<Page> {
    for (;;) {
      const at = this.entryPlace(block)
      const page = this.tables.peek(at) ?? (yield* this.load(block, at))
      // While this waited the map may have moved, and with it what its entries count from.
      if (this.entryPlace(block) === at) return page
    }
  }

  /**
   * Visits the entries of blocks first .. end-1, some at a time, as they are now: changes that are not written yet
   * included.
   *
   * @param visit may not wait; false ends the walk
   */
  *walk(first: number, end: number, visit: (view: DataView, block: number, count: number) => unknown): Io<void> {
    const bytes = new Uint8Array(Math.min(STRIDE, Math.max(0, end - first) * ENTRY))
    for (let block = first; block < end; ) {
      const part = bytes.subarray(0, Math.min(bytes.length, (end - block) * ENTRY))
      const at = this.entryPlace(block)
      yield* settle(this.store.read(at, part))
      this.overlay(at, part)
      if (visit(new DataView(part.buffer, 0, part.length), block, part.length / ENTRY) === false) return
      block += part.length / ENTRY
    }
  }

  /** What is wrong with the place that an entry names, in words; undefined: nothing. */
  complaintAbout(block: number, entry: number): string | undefined {
    const place = this.header.placeOf(entry)
    if (place + Math.max(SECTOR, this.usedOf(block)) > this.space.end)
      return `points at ${place}, past the end of the file`
    if (place < this.header.mapEnd) return `points at ${place}, where the block map lies`
    return undefined
  }

  /** Bytes of a block that the disk has: the last one may be cut. */
  usedOf(block: number): number {
    const { blockSize, size } = this.header.fields
    return Math.min(blockSize, size - block * blockSize)
  }

  /** The kind of a block's entry. */
  kindOf(entry: number): 'data' | 'zero' | 'parent' {
    if (entry < ZERO) return 'data'
    return entry === FREE && this.header.isChild ? 'parent' : 'zero'
  }

  badEntry(block: number, why: string): VdiskError {
    const { blockSize } = this.header.fields
    const spot = { structure: 'block map', index: block, at: this.entryPlace(block), offset: block * blockSize }
    return corrupt(this.file, `the entry of block ${block} ${why}`, spot, SEE_DAMAGE)
  }

  /** How many blocks from `block` on are of a kind that has no room. The map is read in strides, and not kept. */
  private *silentBlocks(block: number, kind: 'zero' | 'parent', wanted: number): Io<number> {
    let silent = 0
    yield* this.walk(block, block + wanted, (view, _, count) => {
      let i = 0
      while (i < count && this.kindOf(view.getUint32(i * ENTRY, true)) === kind) i++
      silent += i
      return i === count
    })
    return silent
  }

  private *load(block: number, at: number): Io<Page> {
    try {
      return yield* this.tables.load(at)
    } catch (error) {
      if (!isVdiskError(error, 'OUT_OF_RANGE')) throw error
      throw this.badEntry(block, 'lies past the end of the file')
    }
  }

  private mapBlocks(page: Page, block: number, start: number, length: number): Extent {
    const { fields } = this.header
    const { blockSize, blockExtra } = fields
    const { view } = page
    let within = this.entryPlace(block) - page.at
    const entry = view.getUint32(within, true)
    const kind = this.kindOf(entry)
    if (kind === 'data') {
      const complaint = this.complaintAbout(block, entry)
      if (complaint !== undefined) throw this.badEntry(block, complaint)
    }
    const last = Math.min(fields.blockCount, block + ceilDiv(start + length, blockSize))
    let next = block + 1
    for (within += ENTRY; next < last && within < page.bytes.length; next++, within += ENTRY) {
      const other = view.getUint32(within, true)
      if (this.kindOf(other) !== kind) break
      if (kind !== 'data') continue
      if (blockExtra !== 0 || other !== entry + (next - block) || this.complaintAbout(next, other) !== undefined) break
    }
    const run = Math.min(length, (next - block) * blockSize - start)
    if (kind !== 'data') return { kind, length: run }
    return { kind, length: run, store: this.store, at: this.header.placeOf(entry) + start }
  }

  /** Lays what memory has of the map over what the file has. */
  private overlay(at: number, part: Uint8Array): void {
    for (let page = at - (at % SECTOR); page < at + part.length; page += SECTOR) {
      const cached = this.tables.peek(page)
      if (!cached) continue
      const from = Math.max(page, at)
      part.set(cached.bytes.subarray(from - page, Math.min(SECTOR, at + part.length - page)), from - at)
    }
  }
}
