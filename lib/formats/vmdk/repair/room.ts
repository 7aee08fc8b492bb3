import { Bitmap } from '../../../bytes/bitmap.ts'
import { type Io, settle } from '../../../io/io.ts'
import { takesRoom } from '../census.ts'
import { SECTOR } from '../layout.ts'
import { eachGrain } from './grains.ts'
import type { Patient } from './patient.ts'

/**
 * Gives room back that nothing leads to: the end of the file is cut off, what lies between becomes a hole. Only where all
 * grains lie on the borders of grains, so that it is certain what is whose.
 */
export function* giveBackRoom(patient: Patient): Io<void> {
  const { tables, store } = patient
  const { grainBytes, overhead } = tables.header
  const end = yield* settle(store.size())
  const used = Bitmap.empty(Math.ceil(end / grainBytes))
  const mark = (at: number, length: number): void =>
    used.fill(Math.floor(at / grainBytes), Math.min(used.length, Math.ceil((at + length) / grainBytes)))
  mark(0, overhead)
  for (const { sector, length } of tables.places) mark(sector * SECTOR, length * SECTOR)
  let isAligned = tables.directory.own !== undefined && !tables.places.overlap
  yield* eachGrain(patient, ({ grain, sector }) => {
    if ((sector * SECTOR) % grainBytes !== 0) isAligned = false
    else mark(sector * SECTOR, tables.usedOf(grain))
  })
  if (!isAligned) return
  for (const { start, length, set } of used.runs()) {
    if (set) continue
    const at = start * grainBytes
    const bytes = Math.min(length * grainBytes, end - at)
    const isLast = start + length === used.length
    if (!isLast && !(yield* takesRoom(store, at, bytes))) continue
    const message = `${bytes} bytes at ${at} belonged to nothing; they are given back`
    patient.note({ code: 'ROOM_UNUSED', structure: 'file', at, message })
    if (isLast) yield* settle(store.truncate(at))
    else if (store.deallocate) yield* settle(store.deallocate(at, bytes))
    yield* settle(store.flush())
  }
}
