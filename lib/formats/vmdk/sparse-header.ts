import { ceilDiv, isPowerOfTwo } from '../../bytes/align.ts'
import { isVdiskError } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { corrupt, leaveOut, type Reader, tooLarge, unsupported } from './damage.ts'
import {
  DIRECTORY_AT_END,
  ENTRY,
  FLAG,
  GRAIN,
  LINE_ENDS,
  MOST_DESCRIPTOR_BYTES,
  MOST_DIRECTORY_BYTES,
  SECTOR,
  SPARSE_MAGIC,
  sparseHeader,
  TABLE_ENTRIES,
} from './layout.ts'
import { findDirectory } from './stream/find-directory.ts'

const SECTION = 'Hosted Sparse Extents'
/** From the end: marker, footer, marker that ends the stream. ["Stream-Optimized Compressed Sparse Extents"] */
const FOOTER_FROM_END = 2 * SECTOR

/** What says how all the rest is to be read. */
const DECISIVE = ['version', 'flags', 'grainSize', 'entriesPerTable', 'compression'] as const

/** What of a header changes while its extent is in use. Places and sizes are sectors. */
export interface HeaderChanges {
  readonly capacity?: number
  readonly directoryOffset?: bigint
  readonly redundantDirectoryOffset?: number
  readonly unclean?: 0 | 1
  /** grain tables that the directory has entries for; hosted extents do not say it */
  readonly tables?: number
  /** the first behind all room that is in use; hosted extents do not say it */
  readonly freeSector?: number
}

/** What the header of a sparse extent says, in bytes, as hosted products say it. ["Hosted Sparse Extents"] */
export interface SparseHeader {
  readonly fields: ReturnType<typeof sparseHeader.decode>
  /** bytes of the header itself */
  readonly length: number
  /** bytes of the disk */
  readonly size: number
  readonly grainBytes: number
  /** bytes in which room is taken, counted from the begin of the file: what lies there begins at a multiple of it */
  readonly unit: number
  readonly tableBytes: number
  /** grain tables, and so entries of a directory */
  readonly tables: number
  /** bytes in the file where the directory begins; 0: salvage has found none */
  readonly directoryAt: number
  /** the same of its copy; undefined: there is none */
  readonly redundantAt: number | undefined
  /** bytes in the file before the first grain */
  readonly overhead: number
  readonly zeroedGrains: boolean
  /** grains are packed, or markers stand between them: the file is a stream */
  readonly isStream: boolean
  /** it stands in a footer at the end of the file, which the header leads to */
  readonly isFooter: boolean
  /** room of the embedded descriptor; undefined: it is another file */
  readonly descriptor: { readonly at: number; readonly length: number } | undefined
  /** the first sector behind all room in use, where the header tells it: others take new room from there on */
  readonly freeSector: number | undefined
  /** tables that say nothing have no room either: the directory does not name them */
  readonly tablesOnDemand: boolean
  /** Changes the header, in one sector but for `unclean`; what is not named stays. */
  readonly change: (store: ByteStore, changes: HeaderChanges) => Io<void>
}

/**
 * Reads and judges the header of a sparse extent, or its footer where the header says that the tables are at the end.
 *
 * @param reader whose file it is; salvage does without a footer
 * @throws VdiskError CORRUPT, UNSUPPORTED, LIMIT_EXCEEDED
 */
export function* readSparseHeader(reader: Reader, store: ByteStore): Io<SparseHeader> {
  const { name } = store
  const fields = yield* fieldsAt(name, store, 0)
  if (fields.directoryOffset !== DIRECTORY_AT_END) return judgeHeader(name, fields, 0)
  const at = (yield* settle(store.size())) - FOOTER_FROM_END
  const footer = at > 0 ? yield* fieldsAt(name, store, at) : undefined
  if (footer?.magic === SPARSE_MAGIC && footer.directoryOffset !== DIRECTORY_AT_END) {
    if (DECISIVE.some((field) => footer[field] !== fields[field])) {
      throw corrupt(name, 'its header and its footer are of two different disks', spot(at))
    }
    // The footer repeats the header; where the descriptor is, only the header knows for certain.
    const { descriptorOffset, descriptorSize } = fields
    return judgeHeader(name, { ...footer, descriptorOffset, descriptorSize }, at)
  }
  leaveOut(reader, corrupt(name, 'its tables should be at its end, but there is no footer', spot(Math.max(at, 0))))
  // Before anything is looked for by what it says.
  refuseDamage(name, fields, 0)
  const found = yield* findDirectory(store, fields.overhead * SECTOR, fields)
  const directoryOffset = found === undefined ? DIRECTORY_AT_END : BigInt(found / SECTOR)
  return judgeHeader(name, { ...fields, directoryOffset }, 0)
}

/** Changes fields of the header, in its one sector; what is not named stays, and for what it does not say it has no field. */
function* changeHeader(store: ByteStore, changes: HeaderChanges): Io<void> {
  const bytes = new Uint8Array(sparseHeader.size)
  yield* settle(store.read(0, bytes))
  sparseHeader.patch(bytes, changes)
  yield* settle(store.write(0, bytes))
}

function* fieldsAt(file: string, store: ByteStore, at: number): Io<SparseHeader['fields']> {
  const bytes = new Uint8Array(sparseHeader.size)
  try {
    yield* settle(store.read(at, bytes))
  } catch (error) {
    if (!isVdiskError(error, 'OUT_OF_RANGE')) throw error
    throw corrupt(file, 'it ends before its header does', spot(at))
  }
  return sparseHeader.decode(bytes)
}

/** What fields mean, if they can be right. @param at where they lie, for messages. @throws VdiskError as `readSparseHeader` */
export function judgeHeader(file: string, fields: SparseHeader['fields'], at: number): SparseHeader {
  refuseDamage(file, fields, at)
  const { capacity, grainSize, entriesPerTable, flags, redundantDirectoryOffset } = fields
  const tables = ceilDiv(capacity, grainSize * entriesPerTable)
  if (tables * ENTRY > MOST_DIRECTORY_BYTES) {
    throw tooLarge(file, `its grain directory would have ${tables * ENTRY} bytes`, spot(at))
  }
  const { descriptorOffset, descriptorSize } = fields
  return {
    fields,
    length: sparseHeader.size,
    size: capacity * SECTOR,
    grainBytes: grainSize * SECTOR,
    unit: grainSize * SECTOR,
    tableBytes: entriesPerTable * ENTRY,
    tables,
    directoryAt: Number(fields.directoryOffset) * SECTOR,
    redundantAt:
      (flags & FLAG.redundantDirectory) === 0 || redundantDirectoryOffset === 0
        ? undefined
        : redundantDirectoryOffset * SECTOR,
    overhead: fields.overhead * SECTOR,
    zeroedGrains: (flags & FLAG.zeroedGrains) !== 0,
    isStream: (flags & (FLAG.compressed | FLAG.markers)) !== 0,
    isFooter: at !== 0,
    descriptor:
      descriptorOffset === 0 || descriptorSize === 0
        ? undefined
        : { at: descriptorOffset * SECTOR, length: Math.min(descriptorSize * SECTOR, MOST_DESCRIPTOR_BYTES) },
    freeSector: undefined,
    tablesOnDemand: false,
    change: changeHeader,
  }
}

function refuseDamage(file: string, fields: SparseHeader['fields'], at: number): void {
  const { magic, version, flags, capacity, grainSize, entriesPerTable, compression, lineEnds } = fields
  const damaged = (why: string): never => {
    throw corrupt(file, why, spot(at))
  }
  if (magic !== SPARSE_MAGIC) damaged('it is no sparse extent of a VMDK')
  if (version < 1 || version > 3) {
    throw unsupported(file, `it is of version ${version} of the format; 1 to 3 are known`, spot(at))
  }
  if ((flags & FLAG.lineEnds) !== 0 && Buffer.from(lineEnds).toString('latin1') !== LINE_ENDS) {
    damaged('line ends in it were changed: it was copied as if it were text')
  }
  if (!isPowerOfTwo(grainSize) || grainSize < GRAIN.least || grainSize > GRAIN.most) {
    damaged(`grains of ${grainSize} sectors cannot be`)
  }
  if (!TABLE_ENTRIES.includes(entriesPerTable)) damaged(`tables of ${entriesPerTable} entries cannot be`)
  if (!Number.isSafeInteger(capacity * SECTOR))
    throw tooLarge(file, `a disk of ${capacity} sectors cannot be`, spot(at))
  if (compression !== 0 && (flags & FLAG.compressed) === 0) {
    damaged('it names a method of packing, and says that nothing is packed')
  }
  if (compression > 1) throw unsupported(file, `it is packed by the unknown method ${compression}`, spot(at))
}

function spot(at: number): { structure: string; at: number; section: string } {
  return { structure: at === 0 ? 'header' : 'footer', at, section: SECTION }
}
