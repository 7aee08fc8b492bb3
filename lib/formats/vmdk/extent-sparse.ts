import type { CheckReport } from '../../contracts/check-report.ts'
import type { Extent } from '../../contracts/extent.ts'
import type { FileRoom } from '../../contracts/file-room.ts'
import type { Json, Reservation } from '../../contracts/layer.ts'
import type { VdiskError } from '../../errors.ts'
import { type Io, settle, Turns } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { Allocation } from './allocation.ts'
import { Census } from './census.ts'
import { corrupt, unsupported } from './damage.ts'
import type { ExtentFile, ExtentOpening, WritableExtentFile } from './extent-file.ts'
import { GrainDirectory } from './grain-directory.ts'
import { GrainTables } from './grain-tables.ts'
import { SECTOR } from './layout.ts'
import type { SparseHeader } from './sparse-header.ts'
import { clearSparse, resizeSparse, type SparseParts } from './sparse-resize.ts'
import { type Survey, survey } from './survey.ts'
import { WriteBack } from './write-back.ts'

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
  if (opening.access === 'read') return new SparseExtent(opening, tables)
  if (opening.start % header.grainBytes !== 0) throw crooked(opening)
  return new WritableSparseExtent(opening, tables, yield* survey(tables, opening.image))
}

/** A hosted sparse extent for reading. */
export class SparseExtent implements ExtentFile {
  readonly start: number
  length: number
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

  *check(report: CheckReport): Io<void> {
    const { tables, store, start } = this
    if (tables.header.fields.unclean !== 0) {
      const message = `${store.name}: its last writer did not close it`
      report.add({ code: 'NOT_CLOSED', severity: 'warning', structure: 'header', at: 0, message })
    }
    yield* new Census(tables, start, yield* settle(store.size()), report).take()
  }

  *close(): Io<void> {
    if (this.closes) yield* settle(this.store.close())
  }
}

/**
 * A hosted sparse extent for reading and writing. The order in which things become durable is told in `WriteBack`.
 *
 * Nothing is written before the first change: a file that was only opened for writing stays as it was, to the byte.
 */
export class WritableSparseExtent extends SparseExtent implements WritableExtentFile {
  private readonly space: FileRoom
  private readonly writeBack: WriteBack
  private readonly allocation: Allocation
  private readonly turns = new Turns()
  /** tables whose copy is to be made the same before anything changes */
  private readonly differing: readonly number[]
  private begun = false

  constructor(opening: ExtentOpening, tables: GrainTables, found: Survey) {
    super(opening, tables)
    this.space = found.space
    this.differing = found.differing
    tables.space = found.space
    this.writeBack = new WriteBack(tables, this.space)
    this.allocation = new Allocation(tables, this.space, this.writeBack, opening.start)
  }

  *reserve(offset: number, length: number): Io<Reservation> {
    if (!this.begun) yield* this.begin()
    return yield* this.allocation.reserve(offset - this.start, length)
  }

  *erase(offset: number, length: number, reveal: 'zero' | 'parent'): Io<number> {
    if (!this.begun) yield* this.begin()
    return yield* this.allocation.erase(offset - this.start, length, reveal)
  }

  showParent(hasParent: boolean): void {
    this.tables.hasParent = hasParent
  }

  *resize(length: number, parentEnd: number, signal?: AbortSignal): Io<void> {
    yield* this.begin()
    yield* resizeSparse(this.parts, length, parentEnd - this.start, signal)
    this.length = length
  }

  *hide(parentEnd: number, signal?: AbortSignal): Io<void> {
    const { length } = this
    yield* this.resize(0, 0, signal)
    yield* this.resize(length, parentEnd, signal)
  }

  *clear(length: number): Io<void> {
    yield* this.begin()
    yield* clearSparse(this.parts, length)
    this.length = length
  }

  private get parts(): SparseParts {
    const { tables, space, allocation, writeBack } = this
    return { tables, space, allocation, writeBack }
  }

  *flush(): Io<void> {
    if (this.begun) yield* this.writeBack.flush()
  }

  *end(): Io<void> {
    if (!this.begun) return
    yield* this.flush()
    // What was given up needs one more round to be free.
    while (!this.space.givenUp.isEmpty) yield* this.flush()
    yield* this.space.trim()
    yield* this.writeBack.countRoom()
    yield* this.setUnclean(false)
    yield* settle(this.store.flush())
    this.begun = false
  }

  private *begin(): Io<void> {
    yield* this.turns.take(() => this.beginNow())
  }

  private *beginNow(): Io<void> {
    if (this.begun) return
    // Durable with the grains, and so before any table changes.
    yield* this.setUnclean(true)
    if (this.differing.length > 0) yield* this.repeatTables()
    this.begun = true
  }

  /** What a crash left half done is completed: the copies say what the tables say, before room is used that they name. */
  private *repeatTables(): Io<void> {
    const { directory, header } = this.tables
    const bytes = new Uint8Array(header.tableBytes)
    for (const table of this.differing) {
      // What is written was surveyed: each entry of the directory names a place, or none.
      const [own, copy] = [directory.ownPlace(table) as number, directory.copyPlace(table)]
      if (copy) {
        if (own === 0) bytes.fill(0)
        else yield* settle(this.store.read(own, bytes))
        yield* settle(this.store.write(copy, bytes))
      } else {
        // An entry that names no place must not come to name one that the file grows over.
        directory.name(table, own / SECTOR, own / SECTOR)
        this.writeBack.noteTable(table)
      }
    }
    yield* this.writeBack.relieve()
    yield* settle(this.store.flush())
  }

  private *setUnclean(unclean: boolean): Io<void> {
    yield* this.tables.header.change(this.store, { unclean: unclean ? 1 : 0 })
  }
}

/** Who writes here must know which grains others may be writing to: for the chain they begin with the disk. */
function crooked({ image, start }: ExtentOpening): VdiskError {
  return unsupported(
    image.name,
    `a sparse part of it begins at ${start}, which is no multiple of its grains: so it can only be read`,
    { structure: 'descriptor', section: 'The Extent Descriptions' },
    'Convert it: vdisk convert IMAGE COPY --format vmdk',
  )
}
