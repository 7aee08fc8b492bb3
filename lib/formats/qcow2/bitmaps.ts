import { ceilDiv, roundUp } from '../../bytes/align.ts'
import { Bitmap } from '../../bytes/bitmap.ts'
import type { BitmapInfo, StoredBitmaps } from '../../contracts/layer.ts'
import { VdiskError } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import type { Header } from './header.ts'
import { AUTOCLEAR, BITMAP_ALL_ONES, BITMAP_FLAG, bitmapEntry, bitmapsExtension, EXTENSION, LIMIT } from './layout.ts'
import type { Refcounts } from './refcounts.ts'
import { RootTable } from './root-table.ts'

/**
 * Persistent dirty bitmaps. ["Bitmaps", docs/interop/bitmaps]
 *
 * Bitmaps that record ("auto") are marked as in use, durably, before the first change of a session; from then on every
 * change sets their bits in memory, and a clean close stores them and takes the mark off. After a crash the mark
 * stays, and everybody knows that the bitmap is not to be trusted. Bitmaps that do not record stay as they are.
 */

/** Bitmaps larger than this together are not kept up to date: they stay marked, as after a crash. */
const MEMORY = 64 << 20

/** One entry of the directory. */
export interface StoredBitmap {
  readonly name: string
  /** bytes in the file where its directory entry begins, and its length */
  readonly entryAt: number
  readonly granularityBits: number
  tableOffset: number
  /** entries */
  tableSize: number
  flags: number
  /** why it cannot be used, apart from being in use */
  readonly problem: string | undefined
  /** the bits, while they are in memory */
  bits?: Bitmap
}

/** What storing bitmaps needs from the writing half of the image. */
export interface BitmapRoom {
  readonly refcounts: Refcounts
  flush(): Io<void>
}

export class Bitmaps implements StoredBitmaps {
  readonly entries: readonly StoredBitmap[]
  /** where the directory lies, in bytes of the file */
  readonly directory: { readonly at: number; readonly length: number } | undefined
  private readonly header: Header
  private readonly store: ByteStore
  private room: BitmapRoom | undefined
  private tracking: StoredBitmap[] = []

  private constructor(header: Header, store: ByteStore, entries: readonly StoredBitmap[]) {
    this.header = header
    this.store = store
    this.entries = entries
    const extension = header.extension(EXTENSION.bitmaps)
    const fields = extension && bitmapsExtension.decode(extension)
    this.directory = fields && { at: fields.directoryOffset, length: fields.directorySize }
  }

  /** Reads the directory; data stays where it is. @throws VdiskError CORRUPT, LIMIT_EXCEEDED */
  static *open(header: Header, store: ByteStore): Io<Bitmaps> {
    const directory = yield* readDirectory(header, store)
    return new Bitmaps(header, store, directory)
  }

  /** No bitmaps, or none that this opening cares for. */
  static none(header: Header, store: ByteStore): Bitmaps {
    return new Bitmaps(header, store, [])
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
    yield* this.take(this.entries.filter((entry) => this.isConsistent(entry) && !entry.bits))
  }

  /** Fits the bitmaps in memory to the disk's new size; new bits are clear, as QEMU has them. */
  resized(): void {
    for (const entry of this.tracking) {
      const before = entry.bits as Bitmap
      const after = Bitmap.empty(ceilDiv(this.header.size, 2 ** entry.granularityBits))
      after.bytes.set(before.bytes.subarray(0, after.bytes.length))
      const shared = Math.min(before.length, after.length)
      if (after.bytes.length * 8 > shared) after.fill(shared, after.bytes.length * 8, false)
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
    for (const entry of saved) yield* this.writeEntry(entry, entry.flags | BITMAP_FLAG.inUse)
    yield* settle(this.store.flush())
    for (const entry of saved) yield* this.writeFlags(entry, entry.flags & ~BITMAP_FLAG.inUse)
    yield* settle(this.store.flush())
    yield* this.room.flush()
  }

  private isConsistent(entry: StoredBitmap): boolean {
    const valid = (this.header.autoclear & AUTOCLEAR.bitmaps) !== 0n
    return valid && (entry.flags & BITMAP_FLAG.inUse) === 0 && entry.problem === undefined
  }

  private *take(entries: readonly StoredBitmap[]): Io<void> {
    if (entries.length === 0) return
    let memory = 0
    for (const entry of entries) {
      memory += this.bytesOf(entry)
      if (memory > MEMORY) continue
      entry.bits = yield* this.load(entry)
      this.tracking.push(entry)
    }
    for (const entry of entries) yield* this.writeFlags(entry, entry.flags | BITMAP_FLAG.inUse)
    yield* settle(this.store.flush())
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
    for (let i = 0; i < table.length; i++) {
      const part = bytes.subarray(i * clusterSize, Math.min(length, (i + 1) * clusterSize))
      if (table.offset(i) !== 0) yield* settle(this.store.read(table.offset(i), part))
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
      if (at % this.header.clusterSize === 0 && at <= fileSize) continue
      throw new VdiskError('CORRUPT', {
        message: `Cannot read bitmap "${entry.name}" of ${this.header.file}: entry ${i} of its table is ${at}`,
        where: { file: this.header.file, structure: 'bitmap table', index: i, at: entry.tableOffset + i * 8 },
        advice: 'Treat everything as changed, and start a new bitmap.',
      })
    }
    return table
  }

  /** Writes the bits into clusters of their own. @returns the table, not yet written */
  private *storeData(entry: StoredBitmap, room: BitmapRoom): Io<RootTable> {
    const { clusterSize } = this.header
    const { bytes, length } = entry.bits as Bitmap
    const size = ceilDiv(bytes.length, clusterSize)
    const old = yield* this.readTable(entry)
    let table = old
    if (size !== entry.tableSize) {
      const place = yield* room.refcounts.allocate(Math.max(1, ceilDiv(size * 8, clusterSize)), true)
      table = new RootTable(place.at, new Uint8Array(roundUp(Math.max(1, size * 8), clusterSize)))
      if (entry.tableSize > 0) room.refcounts.release(entry.tableOffset, entry.tableSize * 8)
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

  private *writeEntry(entry: StoredBitmap, flags: number): Io<void> {
    const head = new Uint8Array(bitmapEntry.size)
    bitmapEntry.patch(head, { tableOffset: entry.tableOffset, tableSize: entry.tableSize })
    yield* settle(this.store.write(entry.entryAt, head.subarray(0, bitmapEntry.offsetOf('flags'))))
    yield* this.writeFlags(entry, flags)
  }

  private *writeFlags(entry: StoredBitmap, flags: number): Io<void> {
    entry.flags = flags
    const at = bitmapEntry.offsetOf('flags')
    const head = new Uint8Array(bitmapEntry.size)
    bitmapEntry.patch(head, { flags })
    yield* settle(this.store.write(entry.entryAt + at, head.subarray(at, at + 4)))
  }
}

/** Whether all of `count` bits (at most those of `part`) are equal, and how. */
function uniformBits(part: Uint8Array, count: number): 'set' | 'clear' | undefined {
  const bits = new Bitmap(part, Math.min(count, part.length * 8))
  if (bits.length === 0) return 'clear'
  if (bits.runEnd(0, bits.length) !== bits.length) return undefined
  return bits.has(0) ? 'set' : 'clear'
}

function* readDirectory(header: Header, store: ByteStore): Io<StoredBitmap[]> {
  const extension = header.extension(EXTENSION.bitmaps)
  if (!extension) return []
  const { count, directorySize, directoryOffset } = bitmapsExtension.decode(extension)
  const fileSize = yield* settle(store.size())
  const bad = (why: string): never => {
    throw new VdiskError('CORRUPT', {
      message: `Cannot read the bitmaps of ${header.file}: ${why}`,
      where: { file: header.file, structure: 'bitmap directory', at: directoryOffset, section: 'Bitmaps extension' },
      advice: 'The disk itself can be read. To write to it, remove the bitmaps first.',
    })
  }
  if (count > LIMIT.bitmaps || directorySize > LIMIT.bitmapDirectoryBytes || directorySize < count * bitmapEntry.size) {
    bad(`its directory would have ${count} entries in ${directorySize} bytes`)
  }
  if (directoryOffset % header.clusterSize !== 0 || directoryOffset + directorySize > fileSize) {
    bad(`its directory would lie at ${directoryOffset}`)
  }
  const bytes = new Uint8Array(directorySize)
  yield* settle(store.read(directoryOffset, bytes))
  const entries: StoredBitmap[] = []
  let at = 0
  for (let i = 0; i < count; i++) {
    if (at + bitmapEntry.size > directorySize) bad(`entry ${i} leaves the directory`)
    const fields = bitmapEntry.decode(bytes.subarray(at))
    const nameAt = at + bitmapEntry.size + fields.extraDataSize
    const end = nameAt + fields.nameSize
    if (end > directorySize || fields.nameSize === 0) bad(`entry ${i} leaves the directory`)
    const name = Buffer.from(bytes.subarray(nameAt, end)).toString('utf8')
    if (entries.some((entry) => entry.name === name)) bad(`two bitmaps are called "${name}"`)
    entries.push({ ...fields, name, entryAt: directoryOffset + at, problem: problemOf(header, fields, fileSize) })
    at += roundUp(end - at, 8)
  }
  return entries
}

function problemOf(
  header: Header,
  fields: ReturnType<typeof bitmapEntry.decode>,
  fileSize: number,
): string | undefined {
  if (fields.type !== 1) return `its type ${fields.type} is not known`
  if (fields.granularityBits > 40) return 'its granularity is larger than any disk'
  if (fields.extraDataSize > 0 && !(fields.flags & BITMAP_FLAG.extraDataCompatible))
    return 'it has extra data that vdisk does not know'
  if (
    fields.tableOffset % header.clusterSize !== 0 ||
    fields.tableOffset + fields.tableSize * 8 > roundUp(fileSize, header.clusterSize)
  ) {
    return 'its table lies outside the file'
  }
  const bytes = ceilDiv(ceilDiv(header.size, 2 ** fields.granularityBits), 8)
  const expected = ceilDiv(bytes, header.clusterSize)
  return fields.tableSize === expected
    ? undefined
    : `its table has ${fields.tableSize} entries, the disk needs ${expected}`
}
