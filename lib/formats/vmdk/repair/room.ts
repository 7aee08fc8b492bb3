import { Bitmap } from '../../../bytes/bitmap.ts'
import { type Io, settle } from '../../../io/io.ts'
import { takesRoom } from '../census.ts'
import { SECTOR } from '../layout.ts'
import { eachGrain } from './grains.ts'
import type { Patient } from './patient.ts'

/** Where the header tells where free room begins, it tells of no place before the end of what is in use. */
export function* mendFreeSector(patient: Patient): Io<void> {
  const { freeSector, places } = patient.tables
  if (freeSector === undefined) return
  let end = 0
  for (const { sector, length } of places) end = Math.max(end, sector + length)
  yield* eachGrain(patient, ({ grain, sector }) => {
    end = Math.max(end, sector + patient.tables.usedOf(grain) / SECTOR)
  })
  if (freeSector >= end) return
  const message = `its header said that sector ${freeSector} and all behind it are free; sector ${end} is the first now`
  patient.note({ code: 'FREE_SECTOR_LOW', structure: 'header', at: 0, message })
  yield* patient.setFreeSector(end)
  yield* settle(patient.store.flush())
}

/** Units of the file of which account is kept at a time, one bit each. */
const WINDOW = 1 << 28

/**
 * Gives room back that nothing leads to: the end of the file is cut off, what lies between becomes a hole. Only where all
 * grains lie on the borders by which room is taken, so that it is certain what is whose.
 */
export function* giveBackRoom(patient: Patient): Io<void> {
  const { tables, store } = patient
  const { unit } = tables.header
  const end = yield* settle(store.size())
  const endOfUse = yield* findEndOfUse(patient)
  if (endOfUse === undefined) return
  // Behind all that is in use there is one piece, however long the file says that it is.
  const units = Math.ceil(Math.min(endOfUse, end) / unit)
  const { bytes } = Bitmap.empty(Math.min(WINDOW, units))
  for (let first = 0; first < units; first += WINDOW) {
    yield* giveBackHoles(patient, first, new Bitmap(bytes.fill(0), Math.min(WINDOW, units - first)))
  }
  const at = units * unit
  if (at >= end) return
  noteUnused(patient, at, end - at)
  if (patient.countsRoom) yield* patient.setFreeSector(at / SECTOR)
  yield* settle(store.truncate(at))
  yield* settle(store.flush())
}

/** Bytes before the end of what is in use; undefined where it is not certain what is whose. */
function* findEndOfUse(patient: Patient): Io<number | undefined> {
  const { tables } = patient
  const { unit, overhead } = tables.header
  if (tables.directory.own === undefined || tables.places.overlap) return undefined
  let end = overhead
  let isAligned = true
  for (const { sector, length } of tables.places) end = Math.max(end, (sector + length) * SECTOR)
  yield* eachGrain(patient, ({ grain, sector }) => {
    if ((sector * SECTOR) % unit !== 0) isAligned = false
    end = Math.max(end, sector * SECTOR + tables.usedOf(grain))
  })
  return isAligned ? end : undefined
}

/** Makes holes of what is not in use among some units of the file. @param used for each of them a bit, none of which is set */
function* giveBackHoles(patient: Patient, first: number, used: Bitmap): Io<void> {
  const { tables, store } = patient
  const { unit, overhead } = tables.header
  const mark = (at: number, length: number): void => {
    const start = Math.max(0, Math.floor(at / unit) - first)
    used.fill(start, Math.max(start, Math.min(used.length, Math.ceil((at + length) / unit) - first)))
  }
  mark(0, overhead)
  for (const { sector, length } of tables.places) mark(sector * SECTOR, length * SECTOR)
  yield* eachGrain(patient, ({ grain, sector }) => mark(sector * SECTOR, tables.usedOf(grain)))
  for (const { start, length, set } of used.runs()) {
    const at = (first + start) * unit
    const bytes = length * unit
    if (set || !(yield* takesRoom(store, at, bytes))) continue
    noteUnused(patient, at, bytes)
    if (store.deallocate) yield* settle(store.deallocate(at, bytes))
    yield* settle(store.flush())
  }
}

function noteUnused(patient: Patient, at: number, bytes: number): void {
  const message = `${bytes} bytes at ${at} belonged to nothing; they are given back`
  patient.note({ code: 'ROOM_UNUSED', structure: 'file', at, message })
}
