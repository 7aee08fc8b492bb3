import { roundUp } from '../../../bytes/align.ts'
import { Bitmap } from '../../../bytes/bitmap.ts'
import type { Io, Pace } from '../../../io/io.ts'
import type { Bat } from '../bat.ts'
import { BAT_ENTRY, BITMAP, LIMIT, MIB, PAYLOAD, placeOf, stateOf } from '../layout.ts'

/** Who uses which part of a file that may be damaged: one bit for each MiB. */
export interface RoomSurvey {
  /** regions, and blocks that are present and lie where they can */
  readonly claimed: Bitmap
  /** of those, what more than one block claims */
  readonly shared: Bitmap
  /** places that entries name which hold nothing */
  readonly kept: Bitmap
  /** bytes: behind this no entry that lies in the file reaches */
  readonly end: number
}

/** Entries between two looks at the clock. */
const STRIDE = 1 << 17

/** Entries of the BAT that are worth a look: those of a disk that was larger once too. */
export function knownEntries({ regions, geometry }: Bat, fileEnd: number): number {
  return Math.min(
    regions.bat.length / BAT_ENTRY,
    Math.floor((fileEnd - regions.bat.at) / BAT_ENTRY),
    geometry.entryCount(LIMIT.diskBytes, true),
  )
}

/** Walks over the entries of the BAT, piece by piece. @param visit may not wait */
export function* walkEntries(
  bat: Bat,
  entries: number,
  pace: Pace,
  visit: (view: DataView, first: number, count: number) => void,
): Io<void> {
  for (let index = 0; index < entries; index += STRIDE) {
    yield* pace.keep()
    yield* bat.walk(index, Math.min(entries, index + STRIDE), visit)
  }
}

/** Surveys a BAT of which any entry may be wrong. @param fileEnd bytes that the file really has */
export function* surveyRoom(bat: Bat, fileEnd: number, pace: Pace): Io<RoomSurvey> {
  const { geometry, regions } = bat
  const units = Math.ceil(fileEnd / MIB)
  const claimed = Bitmap.empty(units)
  const shared = Bitmap.empty(units)
  const kept = Bitmap.empty(units)
  const inUse = geometry.entryCount()
  let end = roundUp(fileEnd, MIB)
  for (const { at, length } of regions.all) {
    fillRange(claimed, at, length)
    end = Math.max(end, at + length)
  }
  yield* walkEntries(bat, knownEntries(bat, fileEnd), pace, (view, first, count) => {
    for (let i = 0; i < count; i++) {
      const low = view.getUint32(i * BAT_ENTRY, true)
      const place = placeOf(view.getUint32(i * BAT_ENTRY + 4, true), low)
      if (place === 0 || place >= fileEnd) continue
      const owner = geometry.ownerOf(first + i)
      const isBlock = 'block' in owner
      const length = isBlock ? geometry.blockSize : MIB
      end = Math.max(end, place + length)
      const state = stateOf(low)
      const isPresent = first + i < inUse && (isBlock ? state >= PAYLOAD.fullyPresent : state === BITMAP.present)
      if (!isPresent) fillRange(kept, place, length)
      else if (!regions.hit(place, isBlock ? geometry.usedOf(owner.block) : MIB)) {
        for (const run of runsOf(claimed, place, length)) if (run.set) shared.fill(run.start, run.start + run.length)
        fillRange(claimed, place, length)
      }
    }
  })
  return { claimed, shared, kept, end }
}

/** Marks a range of the file, as far as the file goes. */
export function fillRange(bits: Bitmap, at: number, length: number): void {
  bits.fill(Math.floor(at / MIB), Math.min(bits.length, Math.ceil((at + length) / MIB)))
}

/** Whether any part of a range of the file is marked. */
export function isMarked(bits: Bitmap, at: number, length: number): boolean {
  for (const run of runsOf(bits, at, length)) if (run.set) return true
  return false
}

function runsOf(bits: Bitmap, at: number, length: number): Iterable<{ start: number; length: number; set: boolean }> {
  return bits.runs(Math.floor(at / MIB), Math.min(bits.length, Math.ceil((at + length) / MIB)))
}
