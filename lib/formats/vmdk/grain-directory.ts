import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { corrupt } from './damage.ts'
import { ENTRY, SECTOR } from './layout.ts'
import type { SparseHeader } from './sparse-header.ts'

/**
 * The grain directory and its copy: where the grain tables lie, in sectors; 0: nowhere. ["Grain Directory"]
 *
 * The directory and its tables are the ones in use, their copies are for the day when those are damaged.
 */
export class GrainDirectory {
  readonly header: SparseHeader
  /** undefined: it lies where it cannot be read */
  readonly own: Uint32Array | undefined
  /** undefined: there is none, or it lies where it cannot be read */
  readonly copy: Uint32Array | undefined
  /** bytes in the file that count, for what lies where */
  private readonly end: number

  private constructor(header: SparseHeader, own: Uint32Array | undefined, copy: Uint32Array | undefined, end: number) {
    this.header = header
    this.own = own
    this.copy = copy
    this.end = end
  }

  /** @throws VdiskError CORRUPT if neither of the two can be read */
  static *read(file: string, store: ByteStore, header: SparseHeader): Io<GrainDirectory> {
    const end = yield* settle(store.size())
    const own = yield* readEntries(store, header.directoryAt, header.tables, end)
    const copy =
      header.redundantAt === undefined ? undefined : yield* readEntries(store, header.redundantAt, header.tables, end)
    if (own || copy) return new GrainDirectory(header, own, copy, end)
    throw corrupt(file, 'its grain directory lies past its end', {
      structure: 'grain directory',
      at: header.directoryAt,
      section: 'Grain Directory',
    })
  }

  /**
   * Where a grain table lies, in bytes of the file; 0: there is none, so its grains are silent.
   *
   * @returns undefined if what the directory says cannot be right, and its copy is no better
   */
  placeOf(table: number): number | undefined {
    const own = this.own?.[table]
    if (own === 0) return 0
    if (own !== undefined && this.isPlace(own)) return own * SECTOR
    const copy = this.copy?.[table]
    return copy !== undefined && this.isPlace(copy) ? copy * SECTOR : undefined
  }

  /** Where the copy of a grain table lies, in bytes of the file; undefined: there is none to be used. */
  placeOfCopy(table: number): number | undefined {
    const copy = this.copy?.[table]
    return copy !== undefined && this.isPlace(copy) ? copy * SECTOR : undefined
  }

  /** Whether a grain table can lie there. @param sector of the file */
  isPlace(sector: number): boolean {
    return sector > 0 && sector * SECTOR + this.header.tableBytes <= this.end
  }
}

function* readEntries(store: ByteStore, at: number, count: number, end: number): Io<Uint32Array | undefined> {
  if (at === 0 || at + count * ENTRY > end) return undefined
  const bytes = new Uint8Array(count * ENTRY)
  yield* settle(store.read(at, bytes))
  const view = new DataView(bytes.buffer)
  return Uint32Array.from({ length: count }, (_, index) => view.getUint32(index * ENTRY, true))
}
