import { ceilDiv, roundUp } from '../../bytes/align.ts'
import type { Bitmap } from '../../bytes/bitmap.ts'
import { VdiskError } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import type { Header } from './header.ts'
import { BITMAP_FLAG, bitmapEntry, bitmapsExtension, EXTENSION, LIMIT } from './layout.ts'

/** The list of an image's bitmaps. ["Bitmaps extension", "Bitmap directory"] */

const KNOWN_FLAGS = BITMAP_FLAG.inUse | BITMAP_FLAG.auto | BITMAP_FLAG.extraDataCompatible

/** One entry of the directory. */
export interface StoredBitmap {
  readonly name: string
  /** bytes in the file where its directory entry begins */
  entryAt: number
  /** bytes of that entry, with its name and what pads it */
  readonly entryLength: number
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

/** Where the directory lies, in bytes of the file, and what it holds. */
export interface Directory {
  readonly at: number
  readonly length: number
  readonly entries: readonly StoredBitmap[]
}

/** The directory of an image's bitmaps; undefined if it has none. @throws VdiskError CORRUPT */
export function* readDirectory(header: Header, store: ByteStore): Io<Directory | undefined> {
  const extension = header.extension(EXTENSION.bitmaps)
  if (!extension) return undefined
  const bad = (why: string, at = 0): never => {
    throw new VdiskError('CORRUPT', {
      message: `Cannot read the bitmaps of ${header.file}: ${why}`,
      where: { file: header.file, structure: 'bitmap directory', at, section: 'Bitmaps extension' },
      advice: 'The disk itself can be read. To write to it, remove the bitmaps first.',
    })
  }
  if (extension.length < bitmapsExtension.size) bad(`their header extension has only ${extension.length} bytes`)
  const { count, directorySize: length, directoryOffset: at } = bitmapsExtension.decode(extension)
  const fileSize = yield* settle(store.size())
  if (count > LIMIT.bitmaps || length > LIMIT.bitmapDirectoryBytes || length < count * bitmapEntry.size) {
    bad(`its directory would have ${count} entries in ${length} bytes`, at)
  }
  if (at % header.clusterSize !== 0 || at < header.clusterSize || at + length > fileSize) {
    bad(`its directory would lie at ${at}`, at)
  }
  const bytes = new Uint8Array(length)
  yield* settle(store.read(at, bytes))
  const entries = new Map<string, StoredBitmap>()
  let done = 0
  for (let i = 0; i < count; i++) {
    if (done + bitmapEntry.size > length) bad(`entry ${i} leaves the directory`, at + done)
    const fields = bitmapEntry.decode(bytes.subarray(done, done + bitmapEntry.size))
    const nameAt = done + bitmapEntry.size + fields.extraDataSize
    const end = nameAt + fields.nameSize
    if (end > length || fields.nameSize === 0) bad(`entry ${i} leaves the directory`, at + done)
    const name = Buffer.from(bytes.subarray(nameAt, end)).toString('utf8')
    if (entries.has(name)) bad(`two bitmaps are called "${name}"`, at + done)
    entries.set(name, {
      name,
      entryAt: at + done,
      entryLength: Math.min(roundUp(end - done, 8), length - done),
      granularityBits: fields.granularityBits,
      // A table of no entries has no place, whatever stands there.
      tableOffset: fields.tableSize === 0 ? 0 : fields.tableOffset,
      tableSize: fields.tableSize,
      flags: fields.flags,
      problem: problemOf(header, fields, fileSize),
    })
    done += roundUp(end - done, 8)
  }
  return { at, length, entries: [...entries.values()] }
}

/** An entry as it goes into a directory: what it said before, if there was one, with what has changed. */
export type DirectoryEntry = Pick<StoredBitmap, 'name' | 'granularityBits' | 'tableOffset' | 'tableSize' | 'flags'> & {
  /** where it is read from, with extra data that is not ours to know; undefined: it is new */
  readonly before: StoredBitmap | undefined
}

/**
 * Writes a directory where nobody looks; whoever calls makes it durable.
 *
 * @param take gives room for so many bytes
 * @returns undefined for one of no entries, which has no place
 * @throws VdiskError LIMIT_EXCEEDED
 */
export function* writeDirectory(
  header: Header,
  store: ByteStore,
  entries: readonly DirectoryEntry[],
  take: (length: number) => Io<number>,
): Io<Directory | undefined> {
  const parts: Uint8Array[] = []
  for (const entry of entries) parts.push(yield* encodeEntry(store, entry))
  const length = parts.reduce((sum, { byteLength }) => sum + byteLength, 0)
  if (entries.length > LIMIT.bitmaps || length > LIMIT.bitmapDirectoryBytes) {
    throw new VdiskError('LIMIT_EXCEEDED', {
      message: `Cannot keep ${entries.length} bitmaps in ${header.file}: an image has at most ${LIMIT.bitmaps}`,
      where: { file: header.file, structure: 'bitmap directory' },
      advice: 'Remove some that nobody needs: vdisk bitmap remove IMAGE NAME',
    })
  }
  if (entries.length === 0) return undefined
  const at = yield* take(length)
  yield* settle(store.write(at, Buffer.concat(parts)))
  let entryAt = at
  const stored = entries.map(({ before, ...fields }, i): StoredBitmap => {
    const { length: entryLength } = parts[i] as Uint8Array
    entryAt += entryLength
    return { ...fields, entryAt: entryAt - entryLength, entryLength, problem: before?.problem }
  })
  return { at, length, entries: stored }
}

/** Padded to 8 bytes. ["Bitmap directory"] */
function* encodeEntry(store: ByteStore, entry: DirectoryEntry): Io<Uint8Array> {
  const { name, before, granularityBits, tableOffset, tableSize, flags } = entry
  if (before) {
    const bytes = new Uint8Array(roundUp(before.entryLength, 8))
    yield* settle(store.read(before.entryAt, bytes.subarray(0, before.entryLength)))
    bitmapEntry.patch(bytes, { granularityBits, tableOffset, tableSize, flags })
    return bytes
  }
  const text = Buffer.from(name, 'utf8')
  const bytes = new Uint8Array(roundUp(bitmapEntry.size + text.length, 8))
  const fields = { type: 1, granularityBits, tableOffset, tableSize, flags, nameSize: text.length, extraDataSize: 0 }
  bitmapEntry.encode(fields, bytes)
  bytes.set(text, bitmapEntry.size)
  return bytes
}

function problemOf(
  header: Header,
  fields: ReturnType<typeof bitmapEntry.decode>,
  fileSize: number,
): string | undefined {
  const { type, granularityBits, tableOffset, tableSize } = fields
  if (type !== 1) return `its type ${type} is not known`
  if (fields.flags & ~KNOWN_FLAGS) return 'it has flags that vdisk does not know'
  if (granularityBits < LIMIT.minGranularityBits || granularityBits > LIMIT.maxGranularityBits) {
    return `its granularity would be 2^${granularityBits} bytes`
  }
  if (fields.extraDataSize > 0 && !(fields.flags & BITMAP_FLAG.extraDataCompatible))
    return 'it has extra data that vdisk does not know'
  const bytes = ceilDiv(ceilDiv(header.size, 2 ** granularityBits), 8)
  const expected = ceilDiv(bytes, header.clusterSize)
  // A crash while the disk gets another size leaves what is in use with the table that was right before.
  const isInUse = (fields.flags & BITMAP_FLAG.inUse) !== 0
  if (tableSize !== expected && !isInUse) return `its table has ${tableSize} entries, the disk needs ${expected}`
  const most = Math.max(bytes, (tableSize - 1) * header.clusterSize)
  if (most > LIMIT.bitmapBytes) return `its ${most} bytes are more than any bitmap may have`
  const isPlace = tableOffset % header.clusterSize === 0 && tableOffset >= header.clusterSize
  if (tableSize > 0 && (!isPlace || tableOffset + tableSize * 8 > fileSize)) return 'its table lies outside the file'
  return undefined
}
