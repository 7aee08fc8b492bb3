import { Bitmap } from '../../../bytes/bitmap.ts'
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
/** Pieces of the file of which account is kept at a time, three bits each: 24 MiB. */
const WINDOW = 1 << 26

/**
 * Every entry names a place where a grain can be, and no two the same, nor one that overlaps another. What names no place says nothing from now on; of
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
  yield* separateAll(patient)
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

/** Each place that grains share, also a part of one, is left to the first of them. */
function* separateAll(patient: Patient): Io<void> {
  const { unit, units } = yield* measure(patient)
  const bits = (): Uint8Array => Bitmap.empty(Math.min(WINDOW, units)).bytes
  const [seen, shared, kept] = [bits(), bits(), bits()]
  for (let first = 0; first < units; ) {
    const map = (bytes: Uint8Array): Bitmap => new Bitmap(bytes.fill(0), Math.min(WINDOW, units - first))
    const window = { unit, first, seen: map(seen), shared: map(shared), kept: map(kept) }
    if (!(yield* separate(patient, window))) first += WINDOW
  }
}

/** A part of the file, in units of which each has a bit. */
interface Window {
  /** bytes */
  readonly unit: number
  readonly first: number
  /** in use by a grain */
  readonly seen: Bitmap
  /** in use by more than one */
  readonly shared: Bitmap
  /** in use by one that shares its place and keeps it */
  readonly kept: Bitmap
}

/** Bytes by which all grains are aligned, and how many of these pieces the file has before the end of the last grain. */
function* measure(patient: Patient): Io<{ readonly unit: number; readonly units: number }> {
  const sectors = patient.tables.header.grainBytes / SECTOR
  let bits = sectors
  let end = 0
  yield* eachGrain(patient, ({ sector }) => {
    bits |= sector
    end = Math.max(end, sector + sectors)
  })
  const unit = Math.min(sectors, bits & -bits)
  return { unit: unit * SECTOR, units: Math.ceil(end / unit) }
}

/** @returns whether there may be more */
function* separate(patient: Patient, window: Window): Io<boolean> {
  const { seen, shared, kept } = window
  yield* eachGrain(patient, (grain) => {
    const [start, end] = unitsOf(patient, window, grain)
    for (const run of seen.runs(start, end)) if (run.set) shared.fill(run.start, run.start + run.length)
    seen.fill(start, end)
  })
  if (shared.runEnd(0, shared.length) === shared.length && !shared.has(0)) return false
  const found: Grain[] = []
  yield* eachGrain(patient, (grain) => {
    const [start, end] = unitsOf(patient, window, grain)
    if (!isMarked(shared, start, end)) return
    if (isMarked(kept, start, end)) {
      if (found.length < KEPT) found.push(grain)
      return
    }
    kept.fill(start, end)
    noteShared(patient, grain, 'it keeps the place')
  })
  for (const grain of found) yield* moveGrain(patient, grain)
  return found.length === KEPT
}

/** The bits of a grain in a window, from and to; none where it does not touch that. */
function unitsOf(patient: Patient, { unit, first, seen }: Window, { sector }: Grain): [number, number] {
  const at = sector * SECTOR
  const start = Math.max(0, Math.floor(at / unit) - first)
  const end = Math.min(seen.length, Math.ceil((at + patient.tables.header.grainBytes) / unit) - first)
  return [start, Math.max(start, end)]
}

function isMarked(bits: Bitmap, start: number, end: number): boolean {
  return start < end && (bits.has(start) || bits.runEnd(start, end) < end)
}

function noteShared(patient: Patient, { grain, sector }: Grain, how: string): void {
  const message = `grain ${grain} lay at sector ${sector} with another one, at least in part; ${how}, the content may be of either`
  patient.note({ code: 'GRAIN_SHARED', structure: 'grain table', message }, { first: grain, count: 1 })
}

function* moveGrain(patient: Patient, { grain, sector }: Grain): Io<void> {
  noteShared(patient, { grain, sector }, 'it gets a copy')
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
