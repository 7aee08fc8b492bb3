import { littleEndianWords } from '../../../bytes/words.ts'
import { type Awaitable, type Io, settle } from '../../../io/io.ts'
import type { ByteStore } from '../../../io/store.ts'
import { TableCache } from '../../../io/table-cache.ts'
import { corrupt } from '../damage.ts'
import { ENTRY, SECTOR } from '../layout.ts'
import type { SparseHeader } from '../sparse-header.ts'

/** Bytes of grain tables kept in memory. */
const CAPACITY = 1 << 20
const SECTION = 'Hosted Sparse Extents'

/**
 * Where the grains of a stream lie: a directory in memory, and tables anywhere in the file, of which the ones used last
 * are kept.
 */
export class GrainMap {
  /** sector of each grain table; 0: it is empty, and not in the file */
  readonly directory: Uint32Array
  /** tables that the file does not have, or not yet, by their index */
  readonly made = new Map<number, DataView>()
  /** entries of a table */
  readonly entries: number
  private readonly tableBytes: number
  private readonly tables: TableCache

  constructor(store: ByteStore, { tableBytes }: SparseHeader, directory: Uint32Array) {
    this.directory = directory
    this.tableBytes = tableBytes
    this.entries = tableBytes / ENTRY
    // The cache sees tables side by side, in their order, wherever they lie.
    const read = (at: number, target: Uint8Array): Awaitable<void> =>
      store.read((directory[at / tableBytes] as number) * SECTOR, target)
    this.tables = new TableCache({ read, write: neverWritten }, { pageSize: tableBytes, capacity: CAPACITY })
  }

  /** Reads the directory. @throws VdiskError CORRUPT where it, or a table, does not lie where tables can */
  static *open(store: ByteStore, header: SparseHeader): Io<GrainMap> {
    const { directoryAt, tables, tableBytes } = header
    const end = yield* settle(store.size())
    const complaint = complaintAbout(header, { at: directoryAt, length: tables * ENTRY }, end)
    if (complaint !== undefined) {
      throw corrupt(store.name, `its grain directory should lie at ${directoryAt}, ${complaint}`, {
        structure: 'grain directory',
        at: directoryAt,
        section: SECTION,
      })
    }
    const bytes = new Uint8Array(tables * ENTRY)
    yield* settle(store.read(directoryAt, bytes))
    const directory = littleEndianWords(bytes)
    for (const [index, sector] of directory.entries()) {
      const place = { at: sector * SECTOR, length: tableBytes }
      const why = sector === 0 ? undefined : complaintAbout(header, place, end)
      if (why !== undefined) {
        throw corrupt(store.name, `its grain table ${index} should lie at ${place.at}, ${why}`, {
          structure: 'grain directory',
          index,
          at: directoryAt + index * ENTRY,
          section: SECTION,
        })
      }
    }
    return new GrainMap(store, header, directory)
  }

  /** The table with the entry of a grain, if it is in memory: the fast way. */
  peek(grain: number): DataView | undefined {
    const index = Math.floor(grain / this.entries)
    return (
      this.made.get(index) ??
      (this.directory[index] === 0 ? undefined : this.tables.peek(index * this.tableBytes)?.view)
    )
  }

  /** The same table, read if need be; undefined: it is empty. */
  *load(grain: number): Io<DataView | undefined> {
    const index = Math.floor(grain / this.entries)
    if (this.isEmpty(index)) return undefined
    return this.made.get(index) ?? (yield* this.tables.load(index * this.tableBytes)).view
  }

  /** Grains from `grain` on, in a table that is empty, up to the next that is not. */
  emptyRun(grain: number): number {
    let index = Math.floor(grain / this.entries)
    while (index < this.directory.length && this.isEmpty(index)) index++
    return index * this.entries - grain
  }

  /** Grains from `grain` on up to the end of its table. */
  restOfTable(grain: number): number {
    return this.entries - (grain % this.entries)
  }

  /** The entry of a grain in its table. */
  entryOf(table: DataView, grain: number): number {
    return table.getUint32((grain % this.entries) * ENTRY, true)
  }

  /** Notes where a grain lies, in a table of memory. */
  note(grain: number, sector: number): void {
    const index = Math.floor(grain / this.entries)
    let table = this.made.get(index)
    if (!table) {
      table = new DataView(new ArrayBuffer(this.tableBytes))
      this.made.set(index, table)
    }
    table.setUint32((grain % this.entries) * ENTRY, sector, true)
  }

  private isEmpty(index: number): boolean {
    return this.directory[index] === 0 && !this.made.has(index)
  }
}

/** Why no table can lie somewhere, in words; undefined: it can. What changes the descriptor must change no table. */
function complaintAbout(
  header: SparseHeader,
  { at, length }: { readonly at: number; readonly length: number },
  end: number,
): string | undefined {
  if (at === 0) return 'where its header lies'
  if (at + length > end) return `past its end at ${end}`
  const { descriptor } = header
  const overlaps = descriptor && at < descriptor.at + descriptor.length && descriptor.at < at + length
  return overlaps ? 'where its descriptor lies' : undefined
}

function neverWritten(): never {
  throw new TypeError('Tables of a stream are written once, past this cache')
}
