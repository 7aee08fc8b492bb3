import { ceilDiv } from '../../bytes/align.ts'
import { Bitmap } from '../../bytes/bitmap.ts'
import type { BitmapInfo, ForeignWriter, Restart, StoredBitmaps } from '../../contracts/layer.ts'
import { isVdiskError, VdiskError, whatItHas } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { BitmapData, type BitmapImage } from './bitmap-data.ts'
import { type Directory, readDirectory, type StoredBitmap, writeDirectory } from './bitmap-directory.ts'
import type { Header } from './header.ts'
import { AUTOCLEAR, BITMAP_FLAG, bitmapEntry, bitmapsExtension, EXTENSION } from './layout.ts'
import type { Refcounts } from './refcounts.ts'
import type { RootTable } from './root-table.ts'
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

/** A bitmap of which another record is kept while the image is open. */
interface Restarting extends Restart {
  readonly name: string
  readonly bits: (count: number) => Bitmap
  done: boolean
  /** also where nothing else changes */
  wanted: boolean
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
  edit?: NonNullable<StoredBitmaps['edit']>
  foreignWriter: ForeignWriter = 'unknown'
  private readonly header: Header
  private readonly store: ByteStore
  private readonly places: TablePlaces
  readonly data: BitmapData
  private room: BitmapRoom | undefined
  private tracking: StoredBitmap[] = []
  private restarting: Restarting | undefined

  private constructor(
    image: BitmapImage,
    { directory, problem }: { directory?: Directory | undefined; problem?: VdiskError | undefined },
  ) {
    this.header = image.header
    this.store = image.store
    this.places = image.places
    this.data = new BitmapData(image)
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

  restart(name: string, bits: (count: number) => Bitmap): Restart {
    this.restarting = { name, bits, done: false, wanted: false }
    return this.restarting
  }

  /** What is to begin anew does so, whatever happens until the image is closed. */
  restartAnyway(): void {
    if (this.restarting) this.restarting.wanted = true
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
        advice: whatItHas(
          this.entries.map((one) => one.name),
          'bitmaps',
        ),
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
    return yield* this.data.load(entry)
  }

  /** Marks what records as in use, durably, and takes it into memory. */
  *beginTracking(): Io<void> {
    yield* this.take(this.entries.filter((entry) => entry.flags & BITMAP_FLAG.auto && this.isConsistent(entry)))
  }

  /** The disk will have another size: every bitmap that can be trusted goes into memory, to be stored anew. */
  *beginResize(): Io<void> {
    yield* this.take(this.entries.filter((entry) => this.isConsistent(entry)))
  }

  /**
   * Fits the bitmaps in memory to the disk's new size. What a bitmap records that the disk grew by counts as changed: it may
   * have been cut off before, with other content.
   *
   * @param size bytes that the disk had
   */
  resized(size: number): void {
    for (const entry of this.tracking) {
      const before = entry.bits as Bitmap
      const after = Bitmap.empty(ceilDiv(this.header.size, 2 ** entry.granularityBits))
      after.bytes.set(before.bytes.subarray(0, after.bytes.length))
      // Bits that one of the two has not are clear, those of its last byte too.
      after.fill(Math.min(before.length, after.length), after.bytes.length * 8, false)
      entry.bits = after
    }
    if (this.header.size > size) this.mark(size, this.header.size - size)
  }

  /** The guest's view of this range changes. */
  mark(offset: number, length: number): void {
    for (const { bits, granularityBits, flags } of this.tracking) {
      if (!bits || !(flags & BITMAP_FLAG.auto)) continue
      const granularity = 2 ** granularityBits
      bits.fill(Math.floor(offset / granularity), Math.min(bits.length, ceilDiv(offset + length, granularity)))
    }
  }

  /**
   * Stores what is in memory and takes the marks off.
   *
   * @param anew another state of the content began, so the bitmap that is to begins anew, too
   */
  *save(anew: boolean): Io<void> {
    if (!this.room) return
    const restarted = anew || this.restarting?.wanted ? yield* this.beginAnew() : undefined
    const saved = restarted ? [...this.tracking, restarted] : this.tracking
    if (saved.length === 0) return
    this.tracking = []
    const tables: RootTable[] = []
    for (const entry of saved) tables.push(yield* this.data.rewrite(entry, this.room.refcounts))
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
    if (restarted && this.restarting) this.restarting.done = true
  }

  /**
   * Drops bitmaps that are of no use, or all of them where the directory is; the others stay. Durable when it returns. Room
   * and places of what was dropped, and of the old directory, are the caller's care.
   *
   * @param dropped entries of `entries`
   */
  *drop(dropped: ReadonlySet<StoredBitmap>): Io<void> {
    const rest = this.directory ? this.entries.filter((entry) => !dropped.has(entry)) : []
    const room = this.room as BitmapRoom
    const { clusterSize } = this.header
    const entries = rest.map((entry) => ({ ...entry, before: entry }))
    const directory = yield* writeDirectory(this.header, this.store, entries, function* (length) {
      return (yield* room.refcounts.allocate(ceilDiv(length, clusterSize), true)).at
    })
    if (directory) yield* room.flush()
    const { tracking } = this
    yield* this.name(directory)
    // Those that stay are who they were: what is in memory of them is kept.
    for (const [i, { entryAt }] of this.entries.entries()) (rest[i] as StoredBitmap).entryAt = entryAt
    this.entries = rest
    this.tracking = tracking.filter((entry) => rest.includes(entry))
  }

  /**
   * The header names a directory that is durable, or none: in one step, after which its bitmaps count as saved.
   *
   * @throws VdiskError LIMIT_EXCEEDED, with nothing changed, if the header has no room
   */
  *name(directory: Directory | undefined): Io<void> {
    const { header } = this
    const before = { extension: header.extension(EXTENSION.bitmaps), autoclear: header.autoclear }
    const extension = directory && {
      count: directory.entries.length,
      reserved: 0,
      directorySize: directory.length,
      directoryOffset: directory.at,
    }
    header.setExtension(EXTENSION.bitmaps, extension && bitmapsExtension.encode(extension))
    if (directory) header.autoclear |= AUTOCLEAR.bitmaps
    else header.autoclear &= ~AUTOCLEAR.bitmaps
    try {
      yield* header.write(this.store)
    } catch (error) {
      header.setExtension(EXTENSION.bitmaps, before.extension)
      header.autoclear = before.autoclear
      throw error
    }
    if (directory) this.places.addRange(directory.at, directory.length)
    this.directory = directory
    this.entries = directory?.entries ?? []
    this.tracking = []
    this.problem = undefined
  }

  /** Whether nobody who does not know bitmaps wrote to the image since they were stored. */
  get isValid(): boolean {
    return (this.header.autoclear & AUTOCLEAR.bitmaps) !== 0n
  }

  isConsistent(entry: StoredBitmap): boolean {
    return this.isValid && (entry.flags & BITMAP_FLAG.inUse) === 0 && entry.problem === undefined
  }

  /** @returns the bitmap that begins anew, marked as in use, with the bits that it is to get; undefined: there is none that can */
  private *beginAnew(): Io<StoredBitmap | undefined> {
    const entry = this.entries.find(({ name }) => name === this.restarting?.name)
    if (!this.restarting || !entry || !this.directory || entry.problem !== undefined) return undefined
    try {
      yield* this.data.readTable(entry)
    } catch (error) {
      // Nobody can say what such a table leads to: it stays what it is.
      if (!isVdiskError(error, 'CORRUPT')) throw error
      return undefined
    }
    if ((entry.flags & BITMAP_FLAG.inUse) === 0) yield* this.markInUse([entry])
    // Whoever switched it off did not know what it is for.
    entry.flags |= BITMAP_FLAG.auto
    entry.bits = this.restarting.bits(ceilDiv(this.header.size, 2 ** entry.granularityBits))
    return entry
  }

  private *take(entries: readonly StoredBitmap[]): Io<void> {
    if (entries.length === 0) return
    const loaded = new Map<StoredBitmap, Bitmap>()
    let memory = 0
    for (const entry of entries.filter(({ name }) => name !== this.restarting?.name)) {
      memory += this.data.bytesOf(entry)
      if (memory > MEMORY) continue
      try {
        loaded.set(entry, yield* this.data.load(entry))
      } catch (error) {
        // What cannot be read cannot be kept up to date: it stays marked, and nobody relies on it.
        if (!isVdiskError(error, 'CORRUPT')) throw error
      }
    }
    yield* this.markInUse(entries)
    for (const [entry, bits] of loaded) entry.bits = bits
    this.tracking.push(...loaded.keys())
  }

  private *markInUse(entries: readonly StoredBitmap[]): Io<void> {
    for (const entry of entries) yield* this.writeFlags(entry, entry.flags | BITMAP_FLAG.inUse)
    yield* settle(this.store.flush())
    // Not before the marks are durable: where that failed, whoever changes something next has to set them.
    for (const entry of entries) entry.flags |= BITMAP_FLAG.inUse
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
