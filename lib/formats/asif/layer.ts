import type { Extent } from '../../contracts/extent.ts'
import type { Image } from '../../contracts/image.ts'
import type { Json, Layer } from '../../contracts/layer.ts'
import { VdiskError } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import { paddedTables } from '../../io/padded-tables.ts'
import type { ByteStore } from '../../io/store.ts'
import { TableCache } from '../../io/table-cache.ts'
import { directoryHeader, ENTRY, entryOf, type Geometry, NUMBER_HIGH } from './layout.ts'

const PAGE = 4096
const CACHE = 8 << 20
/** Chunks that one extent spans at most, so that a look-up takes no longer than others. */
const JOINED = 1024

interface Shape {
  readonly geometry: Geometry
  readonly size: number
  /** where the file ends */
  readonly end: number
  readonly directoryAt: number
  readonly guid: string
}

/** An ASIF image, for reading. */
export class AsifLayer implements Layer {
  readonly format = 'asif'
  readonly identity = undefined
  readonly parent = undefined
  readonly merged = undefined
  readonly name: string
  readonly store: ByteStore
  readonly shape: Shape
  private readonly tables: TableCache

  constructor(image: Image, shape: Shape) {
    this.name = image.name
    this.store = image.store
    this.shape = shape
    this.tables = new TableCache(paddedTables(image.store, shape.end), { pageSize: PAGE, capacity: CACHE })
  }

  get size(): number {
    return this.shape.size
  }

  get granularity(): number {
    return this.shape.geometry.chunkSize
  }

  get details(): { readonly [key: string]: Json } {
    return { guid: this.shape.guid, chunkSize: this.granularity }
  }

  /** @throws VdiskError CORRUPT where a table or a chunk does not lie in the file */
  *map(offset: number, length: number): Io<Extent> {
    const { chunkSize, chunksPerTable } = this.shape.geometry
    const first = Math.floor(offset / chunkSize)
    const table = Math.floor(first / chunksPerTable)
    const tableEnd = (table + 1) * chunksPerTable
    const tableAt = yield* this.tableAt(table)
    if (tableAt === undefined) {
      return { kind: 'zero', length: Math.min(length, tableEnd * chunkSize - offset) }
    }
    const place = yield* this.chunkAt(tableAt, first)
    const most = Math.min(first + JOINED, tableEnd, Math.ceil((offset + length) / chunkSize))
    let last = first + 1
    while (last < most && (yield* this.chunkAt(tableAt, last)) === (place && place + (last - first) * chunkSize)) last++
    const run = Math.min(length, last * chunkSize - offset)
    if (place === undefined) return { kind: 'zero', length: run }
    const at = place + offset - first * chunkSize
    const there = Math.min(run, this.shape.end - at)
    if (there <= 0) throw this.pastEnd('chunk', at, offset)
    return { kind: 'data', length: there, store: this.store, at }
  }

  /**
   * Where a chunk of the disk lies; undefined: it was never written.
   *
   * @param tableAt where the table of the chunk lies
   * @throws VdiskError CORRUPT
   */
  *chunkAt(tableAt: number, chunk: number): Io<number | undefined> {
    const { geometry } = this.shape
    return yield* this.placeIn(tableAt + entryOf(chunk % geometry.chunksPerTable, geometry))
  }

  /** Where a table lies; undefined: nothing of it was ever written. @throws VdiskError CORRUPT */
  *tableAt(table: number): Io<number | undefined> {
    return yield* this.placeIn(this.shape.directoryAt + directoryHeader.size + table * ENTRY)
  }

  *close(): Io<void> {
    yield* settle(this.store.close())
  }

  /** The place that an entry names. */
  private *placeIn(at: number): Io<number | undefined> {
    if (at + ENTRY > this.shape.end) throw this.pastEnd('table', at, undefined)
    const page = this.tables.peek(at) ?? (yield* this.tables.load(at))
    const high = page.view.getUint32(at - page.at) & NUMBER_HIGH
    const number = high * 2 ** 32 + page.view.getUint32(at - page.at + 4)
    return number === 0 ? undefined : number * this.shape.geometry.chunkSize
  }

  private pastEnd(structure: string, at: number, offset: number | undefined): VdiskError {
    return new VdiskError('CORRUPT', {
      message: `Cannot read ${this.name}: a ${structure} would lie at ${at}, past the end of the file`,
      where: { file: this.name, structure, at, offset, section: structure === 'table' ? 'Table' : 'Directory' },
      advice: 'See how far the damage goes: vdisk check IMAGE',
    })
  }
}
