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
  /** bytes in the file, as far as tables are concerned */
  private end: number

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
    return this.ownPlace(table) ?? (this.copyPlace(table) || undefined)
  }

  /** What the directory itself says of a table: bytes in the file, 0 for none, undefined for what cannot be right. */
  ownPlace(table: number): number | undefined {
    return this.checked(this.own?.[table])
  }

  /** The same of its copy. */
  copyPlace(table: number): number | undefined {
    return this.checked(this.copy?.[table])
  }

  /** From now on a table lies there, and its copy. Sectors of the file. */
  name(table: number, own: number, copy: number | undefined): void {
    if (this.own) this.own[table] = own
    if (this.copy && copy !== undefined) this.copy[table] = copy
    this.end = Math.max(this.end, own * SECTOR + this.header.tableBytes, (copy ?? 0) * SECTOR + this.header.tableBytes)
  }

  /** The directory of another size, with more tables behind those it has, or without those that are too many. */
  resized(header: SparseHeader, own: readonly number[], copy: readonly number[]): GrainDirectory {
    const changed = (entries: Uint32Array | undefined, more: readonly number[]): Uint32Array | undefined =>
      entries && Uint32Array.from([...entries.subarray(0, header.tables), ...more])
    const farthest = Math.max(
      0,
      ...[own.at(-1), copy.at(-1)].map((sector) => (sector ?? 0) * SECTOR + header.tableBytes),
    )
    return new GrainDirectory(header, changed(this.own, own), changed(this.copy, copy), Math.max(this.end, farthest))
  }

  /** The directory without tables. */
  emptied(): GrainDirectory {
    const nothing = new Uint32Array(0)
    return new GrainDirectory(this.header, this.own && nothing, this.copy && nothing, this.end)
  }

  /** Tables may lie as far as there in the file. */
  reach(end: number): void {
    this.end = Math.max(this.end, end)
  }

  private checked(sector: number | undefined): number | undefined {
    if (sector === 0) return 0
    return sector !== undefined && this.isPlace(sector) ? sector * SECTOR : undefined
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
