import { roundUp } from '../../bytes/align.ts'
import { UnitMap } from '../../bytes/unit-map.ts'
import { FileRoom } from '../../contracts/file-room.ts'
import type { Image } from '../../contracts/image.ts'
import { unsafeToWrite } from '../../contracts/unsafe.ts'
import type { VdiskError } from '../../errors.ts'
import { type Io, Pace, settle } from '../../io/io.ts'
import type { Bat } from './bat.ts'
import { refuseTooLong, spotIn } from './damage.ts'
import { BAT_ENTRY, BITMAP, LIMIT, MIB, PAYLOAD, placeOf, stateOf } from './layout.ts'

/** Entries between two looks at the clock. */
const SURVEYED = 1 << 20

/** What the walk over a BAT finds. */
interface Survey {
  readonly bat: Bat
  /** bytes in the file */
  readonly size: number
  readonly room: FileRoom
  /** places that entries keep which hold nothing */
  readonly kept: UnitMap
}

/**
 * Finds out which parts of the file are in use: one bit for each MiB, so 8 MiB of memory for 64 TiB. [2.1]
 *
 * @throws VdiskError CORRUPT if two blocks share a place, or one lies where it cannot: whoever writes there would
 * destroy something; LIMIT_EXCEEDED for a file that is longer than any can be
 */
export function* surveyRoom(bat: Bat, { store, signal }: Image): Io<FileRoom> {
  const size = yield* settle(store.size())
  refuseTooLong(bat.file, size)
  const room = new FileRoom(store, { unit: MIB, end: size })
  for (const { at, length } of bat.regions.all) {
    const run = { first: Math.floor(at / MIB), count: Math.ceil((at + length) / MIB) - Math.floor(at / MIB) }
    // A region that lies behind what the file has so far is nobody else's place either. No file gets further than this.
    if (at + length <= LIMIT.fileBytes) room.units.take(run)
  }
  // Entries behind the last block are of a disk that was larger once; their room is left alone too.
  const { regions, geometry } = bat
  const entries = Math.min(regions.bat.length / BAT_ENTRY, geometry.entryCount(LIMIT.diskBytes, true))
  const known = Math.min(entries, Math.floor((size - regions.bat.at) / BAT_ENTRY))
  const pace = new Pace(signal)
  // Entries that hold nothing may keep a place that nobody else should use. Where a block lies there all the same, the
  // block is what counts: nobody writes by the other entry. [2.5.1.1, UNMAPPED]
  const survey: Survey = { bat, size, room, kept: new UnitMap() }
  for (let index = 0; index < known; index += SURVEYED) {
    yield* bat.walk(index, Math.min(known, index + SURVEYED), (view, first, count) =>
      markEntries(survey, view, first, count),
    )
    yield* pace.keep()
  }
  for (const run of survey.kept.runs()) room.units.take(run)
  // Log entries can state the size of a file in no other way; it gets there with the first change. [2.3.1.1]
  room.end = roundUp(room.end, MIB)
  return room
}

function markEntries({ bat, size, room, kept }: Survey, view: DataView, first: number, count: number): void {
  const { geometry } = bat
  const inUse = geometry.entryCount()
  for (let i = 0, within = 0; i < count; i++, within += BAT_ENTRY) {
    const low = view.getUint32(within, true)
    const high = view.getUint32(within + 4, true)
    if (low === 0 && high === 0) continue
    const owner = geometry.ownerOf(first + i)
    const length = 'block' in owner ? geometry.blockSize : MIB
    const place = placeOf(high, low)
    const state = stateOf(low)
    const present = 'block' in owner ? state >= PAYLOAD.fullyPresent : geometry.hasParent && state === BITMAP.present
    // In the last chunk of a child, entries behind the last block come before that of the bitmap.
    const isBehind = first + i >= inUse || ('block' in owner && owner.block >= geometry.blocks)
    const run = { first: place / MIB, count: length / MIB }
    if (!present || isBehind) {
      const there = Math.min(run.count, Math.ceil(size / MIB) - run.first)
      if (place !== 0 && there > 0) kept.take({ first: run.first, count: there })
      continue
    }
    const used = 'block' in owner ? geometry.usedOf(owner.block) : length
    if (place + used > size) throw damaged(bat, first + i, `points at ${place}, past the end of the file`)
    if (!room.units.isFree(run)) throw damaged(bat, first + i, `points at ${place}, where something else lies`)
    room.units.take(run)
    room.end = Math.max(room.end, place + length)
  }
}

function damaged(bat: Bat, index: number, why: string): VdiskError {
  const spot = { structure: 'BAT', index, at: bat.regions.bat.at + index * BAT_ENTRY, section: '2.5.1' }
  return unsafeToWrite(bat.file, `entry ${index} of the BAT ${why}`, spotIn(bat.file, spot))
}
