import { littleEndianWords } from '../../bytes/words.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { corrupt } from './damage.ts'
import { ENTRY, SECTOR } from './layout.ts'
import type { SparseHeader } from './sparse-header.ts'

/** Stands for an entry that named a place outside the file: it stays impossible, however long the file becomes. */
const IMPOSSIBLE = 0xffffffff

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

  private constructor(header: SparseHeader, own: Uint32Array | undefined, copy: Uint32Array | undefined) {
    this.header = header
    this.own = own
    this.copy = copy
  }

  /** @throws VdiskError CORRUPT if neither of the two can be read */
  static *read(file: string, store: ByteStore, header: SparseHeader): Io<GrainDirectory> {
    const end = yield* settle(store.size())
    const own = yield* readEntries(store, header, header.directoryAt, end)
    const copy =
      header.redundantAt === undefined ? undefined : yield* readEntries(store, header, header.redundantAt, end)
    if (own || copy) return new GrainDirectory(header, own, copy)
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

  /** Sectors of all tables that there are, and of those copies that are no table of their own. */
  get sectors(): Uint32Array[] {
    const { own, copy } = this
    const parts = own ? [named(own, () => true)] : []
    return copy ? [...parts, named(copy, (sector, table) => own?.[table] !== sector)] : parts
  }

  /** From now on a table lies there, and its copy. Sectors of the file, which has a directory: else it is not written. */
  name(table: number, own: number, copy: number | undefined): void {
    ;(this.own as Uint32Array)[table] = own
    if (this.copy && copy !== undefined) this.copy[table] = copy
  }

  /** The directory of another size, with more tables behind those it has, or without those that are too many. */
  resized(header: SparseHeader, own: readonly number[], copy: readonly number[]): GrainDirectory {
    const changed = (entries: Uint32Array | undefined, more: readonly number[]): Uint32Array | undefined =>
      entries && Uint32Array.from([...entries.subarray(0, header.tables), ...more])
    return new GrainDirectory(header, changed(this.own, own), changed(this.copy, copy))
  }

  /** The directory without tables. */
  emptied(): GrainDirectory {
    const nothing = new Uint32Array(0)
    return new GrainDirectory(this.header, this.own && nothing, this.copy && nothing)
  }

  private checked(sector: number | undefined): number | undefined {
    return sector === undefined || sector === IMPOSSIBLE ? undefined : sector * SECTOR
  }
}

function* readEntries(store: ByteStore, header: SparseHeader, at: number, end: number): Io<Uint32Array | undefined> {
  const { tables, tableBytes } = header
  if (at === 0 || at + tables * ENTRY > end) return undefined
  const bytes = new Uint8Array(tables * ENTRY)
  yield* settle(store.read(at, bytes))
  // The directory of a huge disk is large: it is in memory once.
  const entries = littleEndianWords(bytes)
  for (let table = 0; table < tables; table++) {
    if ((entries[table] as number) * SECTOR + tableBytes > end && entries[table] !== 0) entries[table] = IMPOSSIBLE
  }
  return entries
}

/** Entries that name a table, without those that need not count. It takes the memory of these, not that of all. */
function named(entries: Uint32Array, counts: (sector: number, table: number) => boolean): Uint32Array {
  const isOne = (sector: number, table: number): boolean =>
    sector !== 0 && sector !== IMPOSSIBLE && counts(sector, table)
  let count = 0
  for (let table = 0; table < entries.length; table++) if (isOne(entries[table] as number, table)) count++
  const sectors = new Uint32Array(count)
  let next = 0
  for (let table = 0; next < count; table++) {
    if (isOne(entries[table] as number, table)) sectors[next++] = entries[table] as number
  }
  return sectors
}
