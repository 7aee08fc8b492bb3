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

/**
 * Gives room back that nothing leads to: the end of the file is cut off, what lies between becomes a hole. Only where all
 * grains lie on the borders by which room is taken, so that it is certain what is whose.
 */
export function* giveBackRoom(patient: Patient): Io<void> {
  const { tables, store } = patient
  const { unit, overhead } = tables.header
  const end = yield* settle(store.size())
  const used = Bitmap.empty(Math.ceil(end / unit))
  const mark = (at: number, length: number): void =>
    used.fill(Math.floor(at / unit), Math.min(used.length, Math.ceil((at + length) / unit)))
  mark(0, overhead)
  for (const { sector, length } of tables.places) mark(sector * SECTOR, length * SECTOR)
  let isAligned = tables.directory.own !== undefined && !tables.places.overlap
  yield* eachGrain(patient, ({ grain, sector }) => {
    if ((sector * SECTOR) % unit !== 0) isAligned = false
    else mark(sector * SECTOR, tables.usedOf(grain))
  })
  if (!isAligned) return
  for (const { start, length, set } of used.runs()) {
    if (set) continue
    const at = start * unit
    const bytes = Math.min(length * unit, end - at)
    const isLast = start + length === used.length
    if (!isLast && !(yield* takesRoom(store, at, bytes))) continue
    const message = `${bytes} bytes at ${at} belonged to nothing; they are given back`
    patient.note({ code: 'ROOM_UNUSED', structure: 'file', at, message })
    if (isLast && patient.countsRoom) yield* patient.setFreeSector(at / SECTOR)
    if (isLast) yield* settle(store.truncate(at))
    else if (store.deallocate) yield* settle(store.deallocate(at, bytes))
    yield* settle(store.flush())
  }
}
