import { ceilDiv } from '../../../bytes/align.ts'
import { type Io, Pace, settle } from '../../../io/io.ts'
import { corrupt } from '../damage.ts'
import { ENTRY, SECTOR } from '../layout.ts'
import { type SparseHeader, writeHeader } from '../sparse-header.ts'
import { encodeEntries } from '../write-back.ts'
import type { Patient } from './patient.ts'

/**
 * Both directories can be read and name tables, and every table says what its copy says.
 *
 * @throws VdiskError CORRUPT where tables lie one over the other: whose an entry is then nobody knows
 */
export function* mendTables(patient: Patient): Io<void> {
  const { header, directory, file, places } = patient.tables
  if (!directory.own) yield* rebuildDirectory(patient, false)
  else if (header.redundantAt !== undefined && !directory.copy) yield* rebuildDirectory(patient, true)
  if (places.overlap) {
    throw corrupt(file, 'two of its tables overlap, or one and the header', {
      structure: 'grain directory',
      at: header.directoryAt,
      section: 'Grain Directory',
    })
  }
  const pace = new Pace()
  for (let table = 0; table < header.tables; table++) {
    yield* pace.keep()
    yield* mendTable(patient, table)
    patient.report.advance(table, header.tables)
  }
}

/** A directory that cannot be read is made anew behind the file, with tables that say what the others say. */
function* rebuildDirectory(patient: Patient, isCopy: boolean): Io<void> {
  const { header, directory } = patient.tables
  const { tableBytes, tables } = header
  patient.note({
    code: isCopy ? 'DIRECTORY_COPY_DAMAGED' : 'DIRECTORY_DAMAGED',
    structure: isCopy ? 'copy of the grain directory' : 'grain directory',
    at: patient.directoryEntryAt(0, isCopy),
    message: 'it lay past the end of the file; it is made anew from the other one',
  })
  const directoryBytes = ceilDiv(tables * ENTRY, SECTOR) * SECTOR
  const at = yield* patient.room(directoryBytes + tables * tableBytes)
  const entries = Uint32Array.from(
    { length: tables },
    (_, table) => (at + directoryBytes + table * tableBytes) / SECTOR,
  )
  const bytes = new Uint8Array(tableBytes)
  const pace = new Pace()
  for (const [table, sector] of entries.entries()) {
    yield* pace.keep()
    const place = isCopy ? directory.ownPlace(table) : directory.copyPlace(table)
    if (!place) continue
    yield* settle(patient.store.read(place, bytes))
    yield* settle(patient.store.write(sector * SECTOR, bytes))
  }
  yield* settle(patient.store.write(at, encodeEntries(entries)))
  yield* settle(patient.store.flush())
  const change = isCopy ? { redundantDirectoryOffset: at / SECTOR } : { directoryOffset: BigInt(at / SECTOR) }
  yield* writeHeader(patient.store, change)
  yield* settle(patient.store.flush())
  const moved: Partial<SparseHeader> = isCopy ? { redundantAt: at } : { directoryAt: at }
  yield* patient.reread({ ...header, ...moved, fields: { ...header.fields, ...change } })
}

function* mendTable(patient: Patient, table: number): Io<void> {
  const { directory } = patient.tables
  if (directory.ownPlace(table) === undefined) yield* replaceTable(patient, table)
  const own = directory.ownPlace(table)
  const copy = directory.copyPlace(table)
  if (!directory.copy || !own || own === copy) return
  const ours = yield* read(patient, own)
  if (!copy) {
    const message = `table ${table} had no copy; it has one now`
    patient.note({ code: 'TABLE_COPY_MISSING', structure: 'copy of the grain directory', message })
    const place = yield* patient.room(ours.length)
    yield* settle(patient.store.write(place, ours))
    yield* patient.nameTable(table, place, true)
    return
  }
  const theirs = yield* read(patient, copy)
  if (Buffer.compare(ours, theirs) === 0) return
  // Only where the one in use cannot be right, and its copy can, is the copy believed.
  const takesCopy = !patient.tables.isSound(table, ours) && patient.tables.isSound(table, theirs)
  const which = takesCopy ? 'the copy, which alone can be right' : 'the table that is in use'
  const message = `table ${table} and its copy did not say the same; both say now what ${which} said`
  patient.note({ code: 'TABLE_COPIES_DIFFER', structure: 'grain table', at: own, message })
  yield* settle(patient.store.write(takesCopy ? own : copy, takesCopy ? theirs : ours))
  yield* settle(patient.store.flush())
}

/** A table that lies where none can be: its copy takes its place, or one that says nothing. */
function* replaceTable(patient: Patient, table: number): Io<void> {
  const { header, directory } = patient.tables
  const copy = directory.copyPlace(table)
  const perTable = header.tableBytes / ENTRY
  const lost = copy ? undefined : { first: table * perTable, count: perTable }
  const how = copy ? 'a copy of its copy takes its place' : 'an empty one takes its place, what it named is lost'
  patient.note(
    {
      code: 'TABLE_MISPLACED',
      structure: 'grain directory',
      at: patient.directoryEntryAt(table, false),
      message: `table ${table} lay where no table can be; ${how}`,
    },
    lost,
  )
  const place = yield* patient.room(header.tableBytes)
  if (copy) yield* settle(patient.store.write(place, yield* read(patient, copy)))
  yield* patient.nameTable(table, place, false)
}

function* read(patient: Patient, at: number): Io<Uint8Array> {
  const bytes = new Uint8Array(patient.tables.header.tableBytes)
  yield* settle(patient.store.read(at, bytes))
  return bytes
}
