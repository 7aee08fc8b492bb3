import { roundUp } from '../../../bytes/align.ts'
import type { NewRepaired, RepairReport } from '../../../contracts/repair.ts'
import { type Io, settle } from '../../../io/io.ts'
import type { ByteStore } from '../../../io/store.ts'
import { GrainDirectory } from '../grain-directory.ts'
import { GrainTables } from '../grain-tables.ts'
import { ENTRY, SECTOR } from '../layout.ts'
import type { HeaderChanges, SparseHeader } from '../sparse-header.ts'

/** A sparse extent under repair. */
export class Patient {
  readonly store: ByteStore
  readonly report: RepairReport
  /** bytes on the disk where the extent begins */
  readonly start: number
  tables: GrainTables
  /** whether something of the content may be lost */
  isDoubtful = false
  private readonly hasParent: boolean

  private constructor(tables: GrainTables, how: Pick<Patient, 'start' | 'report'> & { readonly hasParent: boolean }) {
    this.store = tables.store
    this.tables = tables
    this.start = how.start
    this.report = how.report
    this.hasParent = how.hasParent
  }

  /** @throws VdiskError CORRUPT if neither directory can be read: no other place has what they say */
  static *open(
    store: ByteStore,
    header: SparseHeader,
    how: Pick<Patient, 'start' | 'report'> & { readonly hasParent: boolean },
  ): Io<Patient> {
    return new Patient(yield* read(store, header, how.hasParent), how)
  }

  /** Changes the header, durably, and reads the directories anew from where it says now. */
  *reread(changes: Pick<HeaderChanges, 'directoryOffset' | 'redundantDirectoryOffset'> = {}): Io<void> {
    const { header } = this.tables
    if (Object.keys(changes).length > 0) {
      yield* header.change(this.store, changes)
      yield* settle(this.store.flush())
    }
    const fields = { ...header.fields, ...changes }
    const [directoryAt, redundantAt] = [
      Number(fields.directoryOffset) * SECTOR,
      fields.redundantDirectoryOffset * SECTOR,
    ]
    const moved = { ...header, fields, directoryAt, ...(header.redundantAt === undefined ? {} : { redundantAt }) }
    this.tables = yield* read(this.store, moved, this.hasParent)
  }

  /** Whether the header tells where free room begins. */
  get countsRoom(): boolean {
    return this.tables.freeSector !== undefined
  }

  /** The header tells that free room begins there; durable with the next flush. */
  *setFreeSector(freeSector: number): Io<void> {
    yield* this.tables.header.change(this.store, { freeSector })
    this.tables.freeSector = freeSector
  }

  /** Room behind all that the file has, where a grain can lie; what is not written there is zero. */
  *room(length: number): Io<number> {
    const { grainBytes, unit } = this.tables.header
    const at = roundUp(yield* settle(this.store.size()), unit)
    const end = at + roundUp(length, grainBytes)
    yield* settle(this.store.grow(end))
    this.tables.space = { end }
    if (this.countsRoom) yield* this.setFreeSector(end / SECTOR)
    return at
  }

  /** Notes what is about to change. @param grains of which the content may not be what was written */
  note(repaired: NewRepaired, grains?: { readonly first: number; readonly count: number }): void {
    const { grainBytes, size } = this.tables.header
    const offset = grains && this.start + grains.first * grainBytes
    const end = grains && this.start + Math.min(size, (grains.first + grains.count) * grainBytes)
    const doubtful =
      offset === undefined || end === undefined ? undefined : { offset, length: end - offset, snapshot: undefined }
    if (doubtful) this.isDoubtful = true
    this.report.add({
      ...repaired,
      ...(doubtful ? { doubtful } : {}),
      message: `${this.store.name}: ${repaired.message}`,
    })
  }

  /** Sets the entry of a grain, in its table and in the copy of that; durable with the next flush. */
  *setEntry(grain: number, sector: number): Io<void> {
    const { directory, header } = this.tables
    const table = Math.floor((grain * ENTRY) / header.tableBytes)
    const bytes = new Uint8Array(ENTRY)
    new DataView(bytes.buffer).setUint32(0, sector, true)
    for (const place of [directory.copyPlace(table), directory.ownPlace(table)]) {
      if (place) yield* settle(this.store.write(place + grain * ENTRY - table * header.tableBytes, bytes))
    }
  }

  /** The file counts as closed: tables and copies say the same. */
  *markClosed(): Io<void> {
    if (this.tables.header.fields.unclean === 0) return
    const message = 'its last writer had not closed it; its tables and their copies agree now'
    this.note({ code: 'NOT_CLOSED', structure: 'header', at: 0, message })
    yield* settle(this.store.flush())
    yield* this.tables.header.change(this.store, { unclean: 0 })
    yield* settle(this.store.flush())
  }

  /** Bytes in the file of a table's entry in the directory, or in its copy. */
  directoryEntryAt(table: number, copy: boolean): number {
    const { directoryAt, redundantAt = 0 } = this.tables.header
    return (copy ? redundantAt : directoryAt) + table * ENTRY
  }

  /** Points a directory at a table, or at none. Durable when it returns. @param place bytes in the file */
  *nameTable(table: number, place: number, copy: boolean): Io<void> {
    const bytes = new Uint8Array(ENTRY)
    new DataView(bytes.buffer).setUint32(0, place / SECTOR, true)
    yield* settle(this.store.write(this.directoryEntryAt(table, copy), bytes))
    yield* settle(this.store.flush())
  }
}

function* read(store: ByteStore, header: SparseHeader, hasParent: boolean): Io<GrainTables> {
  const directory = yield* GrainDirectory.read(store.name, store, header)
  return new GrainTables({ store, header, directory, hasParent }, { end: yield* settle(store.size()) })
}
