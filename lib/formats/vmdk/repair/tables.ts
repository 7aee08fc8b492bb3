import { type Io, Pace, settle } from '../../../io/io.ts'
import { corrupt } from '../damage.ts'
import { ENTRY } from '../layout.ts'
import type { Patient } from './patient.ts'

/**
 * Both directories name tables that can be, and every table says what its copy says.
 *
 * Nothing makes the file longer here: an entry that names a place behind its end would come to name one within. So what
 * is lost of the two is not made anew: whoever asks for it is led to the one that is left.
 *
 * @throws VdiskError CORRUPT where tables lie one over the other: whose an entry is then nobody knows
 */
export function* mendTables(patient: Patient): Io<void> {
  yield* mendDirectories(patient)
  const pace = new Pace()
  const { tables: count } = patient.tables.header
  let changed = false
  for (let table = 0; table < count; table++) {
    yield* pace.keep()
    if (yield* mendEntry(patient, table)) changed = true
  }
  if (changed) yield* patient.reread()
  const { places, file, header } = patient.tables
  if (places.overlap) {
    throw corrupt(file, 'two of its tables overlap, or one and the header', {
      structure: 'grain directory',
      at: header.directoryAt,
      section: 'Grain Directory',
    })
  }
  for (let table = 0; table < count; table++) {
    yield* pace.keep()
    yield* reconcile(patient, table)
    patient.report.advance(table, count)
  }
}

function* mendDirectories(patient: Patient): Io<void> {
  const { header, directory } = patient.tables
  const { directoryOffset, redundantDirectoryOffset } = header.fields
  const how = 'it lay past the end of the file; the other one serves for both from now on'
  if (!directory.own) {
    const at = header.directoryAt
    patient.note({ code: 'DIRECTORY_DAMAGED', structure: 'grain directory', at, message: how })
    yield* patient.reread({ directoryOffset: BigInt(redundantDirectoryOffset) })
  } else if (header.redundantAt !== undefined && !directory.copy) {
    const at = header.redundantAt
    patient.note({ code: 'DIRECTORY_COPY_DAMAGED', structure: 'copy of the grain directory', at, message: how })
    yield* patient.reread({ redundantDirectoryOffset: Number(directoryOffset) })
  }
}

/** An entry of a directory that names no table leads to what the other one names. @returns whether something changed */
function* mendEntry(patient: Patient, table: number): Io<boolean> {
  const { directory, header } = patient.tables
  const [own, copy] = [directory.ownPlace(table), directory.copyPlace(table)]
  const at = patient.directoryEntryAt(table, own !== undefined)
  if (own === undefined) {
    const perTable = header.tableBytes / ENTRY
    const lost = copy ? undefined : { first: table * perTable, count: perTable }
    const how = copy ? 'its copy serves for both from now on' : 'so did its copy, and what they named is lost'
    const message = `table ${table} lay where no table can be; ${how}`
    patient.note({ code: 'TABLE_MISPLACED', structure: 'grain directory', at, message }, lost)
    if (directory.copy && !copy) yield* patient.nameTable(table, 0, true)
    yield* patient.nameTable(table, copy ?? 0, false)
    return true
  }
  if (!directory.copy || copy === own || (copy !== undefined && copy > 0 && own > 0)) return false
  const message = `table ${table} and its copy did not both lie where tables can be; one serves for both from now on`
  patient.note({ code: 'TABLE_COPY_MISSING', structure: 'copy of the grain directory', at, message })
  yield* patient.nameTable(table, own, true)
  return true
}

/** Only where the table in use cannot be right, and its copy can, is the copy believed. */
function* reconcile(patient: Patient, table: number): Io<void> {
  const { directory } = patient.tables
  const [own, copy] = [directory.ownPlace(table), directory.copyPlace(table)]
  if (!own || !copy || own === copy) return
  const ours = yield* read(patient, own)
  const theirs = yield* read(patient, copy)
  if (Buffer.compare(ours, theirs) === 0) return
  const takesCopy = patient.tables.isBetter(table, theirs, ours)
  const which = takesCopy ? 'the copy, which alone can be right' : 'the table that is in use'
  const message = `table ${table} and its copy did not say the same; both say now what ${which} said`
  patient.note({ code: 'TABLE_COPIES_DIFFER', structure: 'grain table', at: own, message })
  yield* settle(patient.store.write(takesCopy ? own : copy, takesCopy ? theirs : ours))
  yield* settle(patient.store.flush())
}

function* read(patient: Patient, at: number): Io<Uint8Array> {
  const bytes = new Uint8Array(patient.tables.header.tableBytes)
  yield* settle(patient.store.read(at, bytes))
  return bytes
}
