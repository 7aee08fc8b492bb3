import { ceilDiv, roundUp } from '../../bytes/align.ts'
import { Bitmap } from '../../bytes/bitmap.ts'
import type { BitmapInfo, StoredBitmaps } from '../../contracts/layer.ts'
import { isVdiskError, VdiskError } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { type Directory, readDirectory, type StoredBitmap } from './bitmap-directory.ts'
import type { Header } from './header.ts'
import {
  AUTOCLEAR,
  BITMAP_ALL_ONES,
  BITMAP_FLAG,
  bitmapEntry,
  bitmapsExtension,
  EXTENSION,
  RESERVED_LOW,
} from './layout.ts'
import type { Refcounts } from './refcounts.ts'
import { RootTable } from './root-table.ts'
import type { TablePlaces } from './table-places.ts'

/**
 * Persistent dirty bitmaps. ["Bitmaps", docs/interop/bitmaps]
 *
 * Bitmaps that record ("auto") are marked as in use, durably, before the first change of a session; from then on every
 * change sets their bits in memory, and a clean close stores them and takes the mark off. After a crash the mark
 * stays, and everybody knows that the bitmap is not to be trusted. Bitmaps that do not record stay as they are.
 */

/** Bitmaps larger than this together are not kept up to date: they stay marked, as after a crash. */
const MEMORY = 64 << 20

/** The image that the bitmaps are of. */
export interface BitmapImage {
  readonly header: Header
  readonly store: ByteStore
  /** where no bitmap data can lie */
  readonly places: TablePlaces
}

/** What storing bitmaps needs from the writing half of the image. */
export interface BitmapRoom {
  readonly refcounts: Refcounts
  flush(): Io<void>
}

export class Bitmaps implements StoredBitmaps {
  entries: readonly StoredBitmap[]
  /** where the directory lies, in bytes of the file; undefined too where a writer that knows no bitmaps was here since */
  directory: { readonly at: number; readonly length: number } | undefined
  /** why the directory could not be read; the disk itself can be */
  problem: VdiskError | undefined
  private readonly header: Header
  private readonly store: ByteStore
  private readonly places: TablePlaces
  private room: BitmapRoom | undefined
  private tracking: StoredBitmap[] = []

  private constructor(
    image: BitmapImage,
    { directory, problem }: { directory?: Directory | undefined; problem?: VdiskError | undefined },
  ) {
    this.header = image.header
    this.store = image.store
    this.places = image.places
    this.entries = directory?.entries ?? []
    this.directory = this.isValid ? directory : undefined
    this.problem = problem
  }

  /** Reads the directory; data stays where it is. @throws VdiskError CORRUPT, LIMIT_EXCEEDED */
  static *open(image: BitmapImage): Io<Bitmaps> {
    return new Bitmaps(image, { directory: yield* readDirectory(image.header, image.store) })
  }

  /** No bitmaps, or none that this opening can or will use. */
  static none(image: BitmapImage, problem?: VdiskError): Bitmaps {
    return new Bitmaps(image, { problem })
  }

  /** From here on the bitmaps can be changed. */
  attach(room: BitmapRoom): void {
    this.room = room
  }

  list(): BitmapInfo[] {
    return this.entries.map((entry) => ({
      name: entry.name,
      granularity: 2 ** entry.granularityBits,
      enabled: (entry.flags & BITMAP_FLAG.auto) !== 0,
      consistent: this.isConsistent(entry),
    }))
  }

  *read(name: string): Io<Bitmap> {
    if (this.problem) throw this.problem
    const entry = this.entries.find((candidate) => candidate.name === name)
    if (!entry) {
      throw new VdiskError('NOT_FOUND', {
        message: `Cannot read bitmap "${name}" of ${this.header.file}: there is none of that name`,
        where: { file: this.header.file, structure: 'bitmap directory' },
        advice: `It has: ${this.entries.map((one) => one.name).join(', ') || 'none at all'}.`,
      })
    }
    if (entry.bits) return entry.bits
    if (!this.isConsistent(entry)) {
      throw new VdiskError('CORRUPT', {
        message: `Cannot read bitmap "${name}" of ${this.header.file}: ${entry.problem ?? 'it was not saved by its last writer'}`,
        where: { file: this.header.file, structure: 'bitmap', section: 'Bitmap directory' },
        advice: 'Treat everything as changed, and start a new bitmap.',
      })
    }
    return yield* this.load(entry)
  }

  /** Marks what records as in use, durably, and takes it into memory. */
  *beginTracking(): Io<void> {
    yield* this.take(this.entries.filter((entry) => entry.flags & BITMAP_FLAG.auto && this.isConsistent(entry)))
  }

  /** The disk will have another size: every bitmap that can be trusted goes into memory, to be stored anew. */
  *beginResize(): Io<void> {
    yield* this.take(this.entries.filter((entry) => this.isConsistent(entry)))
  }

  /** Fits the bitmaps in memory to the disk's new size; new bits are clear, as QEMU has them. */
  resized(): void {
    for (const entry of this.tracking) {
      const before = entry.bits as Bitmap
      const after = Bitmap.empty(ceilDiv(this.header.size, 2 ** entry.granularityBits))
      after.bytes.set(before.bytes.subarray(0, after.bytes.length))
      // Bits that one of the two has not are clear, those of its last byte too.
      after.fill(Math.min(before.length, after.length), after.bytes.length * 8, false)
      entry.bits = after
    }
  }

  /** The guest's view of this range changes. */
  mark(offset: number, length: number): void {
    for (const { bits, granularityBits, flags } of this.tracking) {
      if (!bits || !(flags & BITMAP_FLAG.auto)) continue
      const granularity = 2 ** granularityBits
      bits.fill(Math.floor(offset / granularity), Math.min(bits.length, ceilDiv(offset + length, granularity)))
    }
  }

  /** Stores what is in memory and takes the marks off. */
  *save(): Io<void> {
    if (!this.room || this.tracking.length === 0) return
    const saved = this.tracking
    this.tracking = []
    const tables: RootTable[] = []
    for (const entry of saved) tables.push(yield* this.storeData(entry, this.room))
    // Data and counts are durable before a table points at them, tables before a directory entry says so.
    yield* this.room.flush()
    for (const table of tables) yield* settle(this.store.write(table.at, table.bytes))
    yield* settle(this.store.flush())
    // The mark goes last, by itself: place and size may stand in another sector than the flags.
    for (const entry of saved) yield* this.writeEntry(entry)
    yield* settle(this.store.flush())
    for (const entry of saved) {
      yield* this.writeFlags(entry, entry.flags & ~BITMAP_FLAG.inUse)
      entry.flags &= ~BITMAP_FLAG.inUse
    }
    yield* settle(this.store.flush())
    yield* this.room.flush()
  }

  /**
   * Drops bitmaps that are of no use, or all of them where the directory is; the others stay. Durable when it returns. Room
   * and places of what was dropped, and of the old directory, are the caller's care.
   *
   * @param dropped entries of `entries`
   */
  *drop(dropped: ReadonlySet<StoredBitmap>): Io<void> {
    const rest = this.directory ? this.entries.filter((entry) => !dropped.has(entry)) : []
    const length = rest.reduce((sum, { entryLength }) => sum + roundUp(entryLength, 8), 0)
    const places: number[] = []
    let extension: Uint8Array | undefined
    if (rest.length > 0) {
      const { refcounts, flush } = this.room as BitmapRoom
      const { at } = yield* refcounts.allocate(ceilDiv(length, this.header.clusterSize), true)
      let end = at
      for (const { entryAt, entryLength } of rest) {
        const bytes = new Uint8Array(roundUp(entryLength, 8))
        yield* settle(this.store.read(entryAt, bytes.subarray(0, entryLength)))
        yield* settle(this.store.write(end, bytes))
        places.push(end)
        end += bytes.length
      }
      yield* flush()
      extension = bitmapsExtension.encode({
        count: rest.length,
        reserved: 0,
        directorySize: length,
        directoryOffset: at,
      })
      this.places.addRange(at, length)
    }
    this.header.setExtension(EXTENSION.bitmaps, extension)
    if (!extension) this.header.autoclear &= ~AUTOCLEAR.bitmaps
    yield* this.header.write(this.store)
    for (const [i, entry] of rest.entries()) entry.entryAt = places[i] as number
    this.directory = rest.length > 0 ? { at: places[0] as number, length } : undefined
    this.entries = rest
    this.tracking = this.tracking.filter((entry) => rest.includes(entry))
    this.problem = undefined
  }

  /** Whether nobody who does not know bitmaps wrote to the image since they were stored. */
  private get isValid(): boolean {
    return (this.header.autoclear & AUTOCLEAR.bitmaps) !== 0n
  }

  private isConsistent(entry: StoredBitmap): boolean {
    return this.isValid && (entry.flags & BITMAP_FLAG.inUse) === 0 && entry.problem === undefined
  }

  private *take(entries: readonly StoredBitmap[]): Io<void> {
    if (entries.length === 0) return
    const loaded = new Map<StoredBitmap, Bitmap>()
    let memory = 0
    for (const entry of entries) {
      memory += this.bytesOf(entry)
      if (memory > MEMORY) continue
      try {
        loaded.set(entry, yield* this.load(entry))
      } catch (error) {
        // What cannot be read cannot be kept up to date: it stays marked, and nobody relies on it.
        if (!isVdiskError(error, 'CORRUPT')) throw error
      }
    }
    for (const entry of entries) yield* this.writeFlags(entry, entry.flags | BITMAP_FLAG.inUse)
    yield* settle(this.store.flush())
    // Not before the marks are durable: where that failed, whoever changes something next has to set them.
    for (const entry of entries) entry.flags |= BITMAP_FLAG.inUse
    for (const [entry, bits] of loaded) entry.bits = bits
    this.tracking.push(...loaded.keys())
  }

  private bytesOf(entry: StoredBitmap): number {
    return ceilDiv(ceilDiv(this.header.size, 2 ** entry.granularityBits), 8)
  }

  /** ["Bitmap table", "Bitmap data"] */
  private *load(entry: StoredBitmap): Io<Bitmap> {
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

  private *readTable(entry: StoredBitmap): Io<RootTable> {
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

  private badTable(entry: StoredBitmap, index: number, at: number): VdiskError {
    return new VdiskError('CORRUPT', {
      message: `Cannot read bitmap "${entry.name}" of ${this.header.file}: entry ${index} of its table is ${at}`,
      where: { file: this.header.file, structure: 'bitmap table', index, at: entry.tableOffset + index * 8 },
      advice: 'Treat everything as changed, and start a new bitmap.',
    })
  }

  /** Writes the bits into clusters of their own. @returns the table, not yet written */
  private *storeData(entry: StoredBitmap, room: BitmapRoom): Io<RootTable> {
    const { clusterSize } = this.header
    const { bytes, length } = entry.bits as Bitmap
    const size = ceilDiv(bytes.length, clusterSize)
    const old = yield* this.readTable(entry)
    let table = old
    if (size !== entry.tableSize) {
      table = yield* this.emptyTable(size, room)
      if (entry.tableSize > 0) {
        room.refcounts.release(entry.tableOffset, entry.tableSize * 8)
        this.places.removeRange(entry.tableOffset)
      }
    }
    for (let i = 0; i < Math.max(size, old.length); i++) {
      const at = i < old.length ? old.offset(i) : 0
      const part = bytes.subarray(i * clusterSize, Math.min(bytes.length, (i + 1) * clusterSize))
      const uniform = i < size ? uniformBits(part, length - i * clusterSize * 8) : 'clear'
      if (uniform !== undefined) {
        if (at !== 0) room.refcounts.release(at, clusterSize)
        if (i < size) table.set(i, uniform === 'set' ? BITMAP_ALL_ONES : 0)
        continue
      }
      const target = at !== 0 ? at : (yield* room.refcounts.allocate(1)).at
      const cluster = new Uint8Array(clusterSize)
      cluster.set(part)
      yield* settle(this.store.write(target, cluster))
      table.set(i, target)
    }
    entry.tableOffset = table.at
    entry.tableSize = size
    delete entry.bits
    return table
  }

  /** A place for so many entries; the bitmap of an empty disk has none, and no place. */
  private *emptyTable(entries: number, { refcounts }: BitmapRoom): Io<RootTable> {
    if (entries === 0) return new RootTable(0, new Uint8Array(0))
    const bytes = new Uint8Array(roundUp(entries * 8, this.header.clusterSize))
    const { at } = yield* refcounts.allocate(bytes.length / this.header.clusterSize, true)
    this.places.addRange(at, bytes.length)
    return new RootTable(at, bytes)
  }

  private *writeEntry(entry: StoredBitmap): Io<void> {
    const head = new Uint8Array(bitmapEntry.size)
    bitmapEntry.patch(head, { tableOffset: entry.tableOffset, tableSize: entry.tableSize })
    yield* settle(this.store.write(entry.entryAt, head.subarray(0, bitmapEntry.offsetOf('flags'))))
    yield* this.writeFlags(entry, entry.flags)
  }

  private *writeFlags(entry: StoredBitmap, flags: number): Io<void> {
    const at = bitmapEntry.offsetOf('flags')
    const head = new Uint8Array(bitmapEntry.size)
    bitmapEntry.patch(head, { flags })
    yield* settle(this.store.write(entry.entryAt + at, head.subarray(at, at + 4)))
  }
}

/** Whether all of `count` bits (at most those of `part`) are equal, and how. */
function uniformBits(part: Uint8Array, count: number): 'set' | 'clear' | undefined {
  const bits = new Bitmap(part, Math.min(count, part.length * 8))
  if (bits.runEnd(0, bits.length) !== bits.length) return undefined
  return bits.has(0) ? 'set' : 'clear'
}
