import type { Extent } from '../../contracts/extent.ts'
import type { Json } from '../../contracts/layer.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { corrupt } from './damage.ts'
import type { ExtentFile, ExtentOpening } from './extent-file.ts'
import { GrainDirectory } from './grain-directory.ts'
import { GrainTables } from './grain-tables.ts'
import type { SparseHeader } from './sparse-header.ts'

/**
 * Opens a hosted sparse extent: header, grain directory, grain tables, grains. ["Hosted Sparse Extents"]
 *
 * @param header of `store`, read before
 * @throws VdiskError CORRUPT where no directory can be read, or the descriptor says more than the extent has
 */
export function* openSparse(opening: ExtentOpening, store: ByteStore, header: SparseHeader): Io<ExtentFile> {
  if (opening.length > header.size) {
    throw corrupt(
      opening.image.name,
      `${store.name} has ${header.size} bytes of the disk, the descriptor says ${opening.length}`,
      { structure: 'descriptor', section: 'The Extent Descriptions' },
    )
  }
  const directory = yield* GrainDirectory.read(store.name, store, header)
  const end = yield* settle(store.size())
  const tables = new GrainTables({ store, header, directory, hasParent: opening.hasParent }, { end })
  return new SparseExtent(opening, tables)
}

/** A hosted sparse extent for reading. */
export class SparseExtent implements ExtentFile {
  readonly start: number
  readonly length: number
  readonly store: ByteStore
  protected readonly tables: GrainTables
  private readonly closes: boolean

  constructor({ start, length, isOwnFile }: ExtentOpening, tables: GrainTables) {
    this.start = start
    this.length = length
    this.store = tables.store
    this.tables = tables
    this.closes = !isOwnFile
  }

  get granularity(): number {
    return this.tables.header.grainBytes
  }

  get details(): { readonly [key: string]: Json } {
    const { fields, grainBytes, zeroedGrains } = this.tables.header
    return { headerVersion: fields.version, grainSize: grainBytes, zeroedGrains }
  }

  map(offset: number, length: number): Io<Extent> {
    return this.tables.map(offset - this.start, length)
  }

  *check(): Io<void> {}

  *close(): Io<void> {
    if (this.closes) yield* settle(this.store.close())
  }
}
