import { NumberSet } from '../../../bytes/number-set.ts'
import { type Io, Pace, settle } from '../../../io/io.ts'
import { ENTRY, GRAIN_ENTRY, SECTOR } from '../layout.ts'
import { TableWalk } from '../table-walk.ts'
import type { Patient } from './patient.ts'

/** A grain and the sector of the file where its entry says that it lies. */
interface Grain {
  readonly grain: number
  readonly sector: number
}

/** Grains that are mended between two walks. */
const KEPT = 1 << 16

/**
 * Every entry names a place where a grain can be, and no two the same. What names no place says nothing from now on; of
 * those that share one, the first keeps it and the others get copies: which of them was written last nobody knows.
 */
export function* mendGrains(patient: Patient): Io<void> {
  for (let more = true; more; ) {
    const misplaced: Grain[] = []
    yield* eachGrain(patient, (grain) => {
      if (misplaced.length < KEPT && complaintAbout(patient, grain) !== undefined) misplaced.push(grain)
    })
    for (const grain of misplaced) yield* dropGrain(patient, grain)
    yield* settle(patient.store.flush())
    more = misplaced.length === KEPT
  }
  for (let more = true; more; ) more = yield* separate(patient)
}

function* dropGrain(patient: Patient, { grain, sector }: Grain): Io<void> {
  const complaint = complaintAbout(patient, { grain, sector })
  patient.note(
    {
      code: 'GRAIN_MISPLACED',
      structure: 'grain table',
      message: `the entry of grain ${grain} ${complaint}; it says nothing now, its content is lost`,
    },
    { first: grain, count: 1 },
  )
  yield* patient.setEntry(grain, GRAIN_ENTRY.silent)
}

/** @returns whether there may be more */
function* separate(patient: Patient): Io<boolean> {
  const seen = new NumberSet()
  const shared = new NumberSet()
  yield* eachGrain(patient, ({ sector }) => {
    if (seen.has(sector)) shared.add(sector)
    seen.add(sector)
  })
  if (shared.size === 0) return false
  const found: Grain[] = []
  yield* eachGrain(patient, (grain) => {
    if (found.length < KEPT && shared.has(grain.sector)) found.push(grain)
  })
  const first = new NumberSet()
  for (const one of found) {
    const keeps = !first.has(one.sector)
    first.add(one.sector)
    yield* separateGrain(patient, one, keeps)
  }
  return found.length === KEPT
}

function* separateGrain(patient: Patient, { grain, sector }: Grain, keeps: boolean): Io<void> {
  const how = keeps ? 'it keeps the place' : 'it gets a copy'
  patient.note(
    {
      code: 'GRAIN_SHARED',
      structure: 'grain table',
      message: `grain ${grain} lay at sector ${sector} with another one; ${how}, the content may be of either`,
    },
    { first: grain, count: 1 },
  )
  if (keeps) return
  const bytes = new Uint8Array(patient.tables.usedOf(grain))
  yield* settle(patient.store.read(sector * SECTOR, bytes))
  const at = yield* patient.room(bytes.length)
  yield* settle(patient.store.write(at, bytes))
  yield* settle(patient.store.flush())
  yield* patient.setEntry(grain, at / SECTOR)
  yield* settle(patient.store.flush())
}

function complaintAbout({ tables }: Patient, { grain, sector }: Grain): string | undefined {
  return tables.complaintAbout(sector, tables.usedOf(grain))
}

/** Visits every grain that an entry names a place for. */
export function* eachGrain({ tables, store }: Patient, visit: (grain: Grain) => void): Io<void> {
  const walk = new TableWalk(store, tables.directory, new Pace())
  const perTable = tables.header.tableBytes / ENTRY
  for (let group = yield* walk.group(); group; group = yield* walk.group()) {
    const { own, first, count } = group
    const end = Math.min(tables.grains, (first + count) * perTable)
    for (let grain = first * perTable, at = 0; own && grain < end; grain++, at += ENTRY) {
      const sector = own.getUint32(at, true)
      if (tables.kindOf(sector) === 'data') visit({ grain, sector })
    }
  }
}
