import { ceilDiv, roundUp } from '../../bytes/align.ts'
import { Bitmap } from '../../bytes/bitmap.ts'
import { isVdiskError, VdiskError } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import type { StoredBitmap } from './bitmap-directory.ts'
import type { Header } from './header.ts'
import { BITMAP_ALL_ONES, RESERVED_LOW } from './layout.ts'
import type { Refcounts } from './refcounts.ts'
import { RootTable } from './root-table.ts'
import type { TablePlaces } from './table-places.ts'

/** The image that bitmaps are of. */
export interface BitmapImage {
  readonly header: Header
  readonly store: ByteStore
  /** where no bitmap data can lie */
  readonly places: TablePlaces
}

/** The bits of bitmaps: a table for each, and the clusters it leads to. ["Bitmap table", "Bitmap data"] */
export class BitmapData {
  private readonly header: Header
  private readonly store: ByteStore
  private readonly places: TablePlaces

  constructor({ header, store, places }: BitmapImage) {
    this.header = header
    this.store = store
    this.places = places
  }

  /** Bytes that the bits of one bitmap take. */
  bytesOf({ granularityBits }: Pick<StoredBitmap, 'granularityBits'>): number {
    return ceilDiv(ceilDiv(this.header.size, 2 ** granularityBits), 8)
  }

  /** @throws VdiskError CORRUPT for what cannot be read whole: what is missing may not count as unchanged */
  *load(entry: StoredBitmap): Io<Bitmap> {
    const { clusterSize } = this.header
    const length = this.bytesOf(entry)
    const table = yield* this.readTable(entry)
    const bytes = new Uint8Array(length)
    const fileSize = yield* settle(this.store.size())
    for (let i = 0; i < table.length; i++) {
      const at = table.offset(i)
      const part = bytes.subarray(i * clusterSize, Math.min(length, (i + 1) * clusterSize))
      // What is missing may not count as unchanged, so here a last cluster that is cut short will not do.
      if (at + part.length > fileSize) throw this.badTable(entry, i, at)
      if (at !== 0) yield* settle(this.store.read(at, part))
      else part.fill(table.low(i) & BITMAP_ALL_ONES ? 0xff : 0)
    }
    return new Bitmap(bytes, ceilDiv(this.header.size, 2 ** entry.granularityBits))
  }

  /** @throws VdiskError CORRUPT for an entry that leads where no bits can be */
  *readTable(entry: StoredBitmap): Io<RootTable> {
    const bytes = new Uint8Array(entry.tableSize * 8)
    if (bytes.length > 0) yield* settle(this.store.read(entry.tableOffset, bytes))
    const table = new RootTable(entry.tableOffset, bytes)
    const fileSize = yield* settle(this.store.size())
    for (let i = 0; i < table.length; i++) {
      const at = table.offset(i)
      const reserved = table.high(i) >>> 24 !== 0 || (table.low(i) & (at === 0 ? RESERVED_LOW : 0x1ff)) !== 0
      const isPlace = at % this.header.clusterSize === 0 && at < fileSize && !this.places.holds(at)
      if (reserved || (at !== 0 && !isPlace)) throw this.badTable(entry, i, at)
    }
    return table
  }

  /**
   * Writes the bits of a bitmap that is marked as in use over those it had, and into further clusters where needed.
   *
   * @returns the table, not yet written
   */
  *rewrite(entry: StoredBitmap, refcounts: Refcounts): Io<RootTable> {
    const { clusterSize } = this.header
    const bits = entry.bits as Bitmap
    const size = ceilDiv(bits.bytes.length, clusterSize)
    const old = yield* this.readTable(entry)
    let table = old
    if (size !== entry.tableSize) {
      table = new RootTable(yield* this.placeForTable(size, refcounts), this.emptyTable(size))
      if (entry.tableSize > 0) {
        refcounts.release(entry.tableOffset, entry.tableSize * 8)
        this.places.removeRange(entry.tableOffset)
      }
    }
    for (let i = 0; i < Math.max(size, old.length); i++) {
      const at = i < old.length ? old.offset(i) : 0
      const uniform = i < size ? uniformBits(bits, i * clusterSize * 8, clusterSize * 8) : 'clear'
      if (uniform !== undefined) {
        if (at !== 0) refcounts.release(at, clusterSize)
        if (i < size) table.set(i, uniform === 'set' ? BITMAP_ALL_ONES : 0)
        continue
      }
      const target = at !== 0 ? at : (yield* refcounts.allocate(1)).at
      yield* this.writeCluster(target, bits, i)
      table.set(i, target)
    }
    entry.tableOffset = table.at
    entry.tableSize = size
    delete entry.bits
    return table
  }

  /**
   * Writes bits where nobody looks, table and all; whoever calls makes them durable.
   *
   * @param take gives room for so many bytes
   */
  *writeAside(bits: Bitmap, take: (length: number) => Io<number>): Io<{ tableOffset: number; tableSize: number }> {
    const { clusterSize } = this.header
    const size = ceilDiv(bits.bytes.length, clusterSize)
    if (size === 0) return { tableOffset: 0, tableSize: 0 }
    const bytes = this.emptyTable(size)
    const table = new RootTable(yield* take(bytes.length), bytes)
    for (let i = 0; i < size; i++) {
      const uniform = uniformBits(bits, i * clusterSize * 8, clusterSize * 8)
      if (uniform === undefined) {
        table.set(i, yield* take(clusterSize))
        yield* this.writeCluster(table.offset(i), bits, i)
      } else if (uniform === 'set') table.set(i, BITMAP_ALL_ONES)
    }
    yield* settle(this.store.write(table.at, bytes))
    return { tableOffset: table.at, tableSize: size }
  }

  /** What a bitmap consists of that nothing on the medium leads to any more. Where its table cannot be read, that alone. */
  *release(entry: StoredBitmap, refcounts: Refcounts): Io<void> {
    if (entry.problem !== undefined || entry.tableSize === 0) return
    const { clusterSize } = this.header
    try {
      const table = yield* this.readTable(entry)
      for (let i = 0; i < table.length; i++) if (table.offset(i) !== 0) refcounts.release(table.offset(i), clusterSize)
    } catch (error) {
      if (!isVdiskError(error, 'CORRUPT')) throw error
    }
    refcounts.release(entry.tableOffset, entry.tableSize * 8)
    this.places.removeRange(entry.tableOffset)
  }

  /** The table of an empty disk has no place. */
  private *placeForTable(entries: number, refcounts: Refcounts): Io<number> {
    if (entries === 0) return 0
    const { length } = this.emptyTable(entries)
    const { at } = yield* refcounts.allocate(length / this.header.clusterSize, true)
    this.places.addRange(at, length)
    return at
  }

  /** Whole clusters. */
  private emptyTable(entries: number): Uint8Array {
    return new Uint8Array(roundUp(entries * 8, this.header.clusterSize))
  }

  private *writeCluster(at: number, { bytes }: Bitmap, index: number): Io<void> {
    const { clusterSize } = this.header
    const cluster = new Uint8Array(clusterSize)
    cluster.set(bytes.subarray(index * clusterSize, Math.min(bytes.length, (index + 1) * clusterSize)))
    yield* settle(this.store.write(at, cluster))
  }

  private badTable(entry: StoredBitmap, index: number, at: number): VdiskError {
    return new VdiskError('CORRUPT', {
      message: `Cannot read bitmap "${entry.name}" of ${this.header.file}: entry ${index} of its table is ${at}`,
      where: { file: this.header.file, structure: 'bitmap table', index, at: entry.tableOffset + index * 8 },
      advice: 'Treat everything as changed, and start a new bitmap.',
    })
  }
}

/** Whether all of at most `count` bits from `start` are equal, and how. */
function uniformBits(bits: Bitmap, start: number, count: number): 'set' | 'clear' | undefined {
  const end = Math.min(bits.length, start + count)
  if (bits.runEnd(start, end) !== end) return undefined
  return bits.has(start) ? 'set' : 'clear'
}
