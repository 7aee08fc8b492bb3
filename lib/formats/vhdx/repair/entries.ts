import type { Io } from '../../../io/io.ts'
import type { Bat } from '../bat.ts'
import type { Geometry } from '../geometry.ts'
import { BAT_ENTRY, BITMAP, hasReservedBits, MIB, PAYLOAD, placeOf, stateOf } from '../layout.ts'
import { applyChanges, ENTRIES_AT_ONCE, type EntryChange } from './changes.ts'
import { decidedRanges, presentRanges, rangeOf } from './guest-ranges.ts'
import type { Mending } from './mending.ts'
import { fillRange, isMarked, knownEntries, type RoomSurvey, surveyRoom } from './room.ts'

/** A change, and whose content it is about. */
type Verdict = Omit<EntryChange, 'index' | 'doubtful'> & {
  /** what of the disk is doubtful: a block, the sectors of a block that were present, all that a sector bitmap decides about */
  readonly doubtful?: { readonly block: number } | { readonly sectorsOf: number } | { readonly decidedBy: number }
}

/**
 * Mends entries of the BAT each for itself, as far as that needs no room in the file. [2.5.1]
 *
 * A block that lies where no block can be is lost. It reads as zero from then on: in a child too, since what the parent
 * has there is older. Only where the child held no more than a part of the block, the parent's sectors are true, and it
 * shows all of them again.
 *
 * When this has ended, no entry names a place behind the end of the file: so what is given out there later is nobody's.
 */
export function* mendEntries(mending: Mending, bat: Bat): Io<void> {
  const { report, pace, originalEnd } = mending
  const judge = new EntryJudge(bat, yield* surveyRoom(bat, originalEnd, pace), originalEnd)
  const entries = knownEntries(bat, originalEnd)
  for (let start = 0; start < entries; start += ENTRIES_AT_ONCE) {
    const found: { index: number; verdict: Verdict }[] = []
    yield* bat.walk(start, Math.min(entries, start + ENTRIES_AT_ONCE), (view, first, count) => {
      for (let i = 0; i < count; i++) {
        const low = view.getUint32(i * BAT_ENTRY, true)
        const high = view.getUint32(i * BAT_ENTRY + 4, true)
        if (low === 0 && high === 0) continue
        const verdict = judge.verdict(first + i, low, high)
        if (verdict) found.push({ index: first + i, verdict })
      }
    })
    const changes: EntryChange[] = []
    for (const { index, verdict } of found) {
      changes.push({ ...verdict, index, doubtful: yield* rangesOf(bat, verdict) })
    }
    yield* applyChanges(mending, bat, changes)
    yield* pace.keep()
    report.advance(start / entries, 2)
  }
}

function* rangesOf(bat: Bat, { doubtful }: Verdict): Io<EntryChange['doubtful']> {
  if (!doubtful) return []
  if ('block' in doubtful) return [rangeOf(bat, doubtful.block)]
  return 'sectorsOf' in doubtful
    ? yield* presentRanges(bat, doubtful.sectorsOf)
    : yield* decidedRanges(bat, doubtful.decidedBy)
}

const STALE: Verdict = {
  state: PAYLOAD.notPresent,
  place: 0,
  code: 'BAT_ENTRY_STALE',
  message: 'an entry behind the last block was cleared: the disk was larger once',
  changesContent: false,
}

/** What is wrong with single entries, and what they should be. */
class EntryJudge {
  private readonly bat: Bat
  private readonly geometry: Geometry
  private readonly survey: RoomSurvey
  private readonly fileEnd: number

  constructor(bat: Bat, survey: RoomSurvey, fileEnd: number) {
    this.bat = bat
    this.geometry = bat.geometry
    this.survey = survey
    this.fileEnd = fileEnd
  }

  /** undefined: nothing is wrong that one entry alone can tell */
  verdict(index: number, low: number, high: number): Verdict | undefined {
    const { geometry } = this
    const owner = geometry.ownerOf(index)
    // Behind the last block the entries of a child go on, up to that of a sector bitmap. Without a parent that has none, but
    // what stands there may be of a file that had one.
    const first = 'block' in owner ? owner.block : owner.chunk * geometry.chunkRatio
    if (first >= geometry.blocks) return STALE
    const entry = { state: stateOf(low), place: placeOf(high, low), hasReserved: hasReservedBits(low) }
    return 'block' in owner ? this.blockVerdict(owner.block, entry) : this.bitmapVerdict(owner.chunk, entry)
  }

  private blockVerdict(block: number, entry: Entry): Verdict | undefined {
    const { state, place, hasReserved } = entry
    const name = `block ${block}`
    const doubtful = { block }
    if (state === 4) return this.stateless(name, entry, this.geometry.blockSize, PAYLOAD.undefined, doubtful)
    if (state < PAYLOAD.fullyPresent) return this.withoutContent(name, entry, this.geometry.usedOf(block))
    const misplaced = this.misplacement(place, this.geometry.usedOf(block), false)
    if (misplaced) {
      const message = `${name} was at ${place}, ${misplaced.where}: its content is lost`
      const lost = { place: 0, code: misplaced.code, changesContent: true }
      return state === PAYLOAD.partiallyPresent && this.geometry.hasParent
        ? {
            ...lost,
            state: PAYLOAD.notPresent,
            message: `${message}, and the parent shows`,
            doubtful: { sectorsOf: block },
          }
        : { ...lost, state: PAYLOAD.undefined, message: `${message}, and it reads as zero`, doubtful }
    }
    return hasReserved ? { ...cleared(name, entry), changesContent: true, doubtful } : undefined
  }

  private bitmapVerdict(chunk: number, entry: Entry): Verdict | undefined {
    const { state, place, hasReserved } = entry
    const name = `the sector bitmap of chunk ${chunk}`
    if (state === BITMAP.notPresent) return this.withoutContent(name, entry, MIB)
    // What is without use where there is no parent may be of use to blocks that had one: it goes when they are mended.
    if (!this.geometry.hasParent) return undefined
    if (state !== BITMAP.present) return this.stateless(name, entry, MIB, BITMAP.notPresent, { decidedBy: chunk })
    const misplaced = this.misplacement(place, MIB, true)
    if (misplaced) {
      const message = `${name} was at ${place}, ${misplaced.where}: it is lost`
      return { state: BITMAP.notPresent, place: 0, code: misplaced.code, message, changesContent: true }
    }
    return hasReserved ? { ...cleared(name, entry), changesContent: false } : undefined
  }

  /** An entry that holds nothing may keep a place, if that is its own. [2.5.1.1, UNMAPPED] */
  private withoutContent(name: string, entry: Entry, length: number): Verdict | undefined {
    const { state, place, hasReserved } = entry
    if (place !== 0 && !this.isFree(place, length)) {
      const message = `${name}, which holds nothing, no longer keeps the place ${place}, which is not its own`
      return { state, place: 0, code: 'BAT_PLACE_NOT_OWN', message, changesContent: false }
    }
    return hasReserved ? { ...cleared(name, entry), changesContent: false } : undefined
  }

  /**
   * An entry with a state that does not exist: what lies at its place is taken for its content, if it is nobody else's.
   *
   * @param nothing the state of one that has lost its content; "present" is the same for blocks and for sector bitmaps
   */
  private stateless(
    name: string,
    { state, place }: Entry,
    length: number,
    nothing: number,
    doubtful: NonNullable<Verdict['doubtful']>,
  ): Verdict {
    const common = { code: 'BAT_STATE_INVALID', changesContent: true, doubtful }
    const had = `${name} had the state ${state}, which does not exist`
    if (place !== 0 && this.isFree(place, length)) {
      fillRange(this.survey.claimed, place, length)
      const message = `${had}: what lies at its place is taken for its content`
      return { ...common, state: PAYLOAD.fullyPresent, place, message }
    }
    return { ...common, state: nothing, place: 0, message: `${had}, and no place of its own: its content is lost` }
  }

  /** Whether a place in the file can be somebody's, and is nobody's who holds something. */
  private isFree(place: number, length: number): boolean {
    return !this.misplacement(place, length, true) && !isMarked(this.survey.claimed, place, length)
  }

  /** @param whole it must lie in the file with all of its length; else its beginning is enough */
  private misplacement(place: number, length: number, whole: boolean): { code: string; where: string } | undefined {
    const region = this.bat.regions.hit(place, length)
    if (region) return { code: 'BLOCK_OVERLAPS_REGION', where: `where the ${region.name} lies` }
    if (place < this.fileEnd && (!whole || place + length <= this.fileEnd)) return undefined
    return { code: 'BLOCK_PAST_END', where: 'past the end of the file' }
  }
}

interface Entry {
  readonly state: number
  readonly place: number
  readonly hasReserved: boolean
}

function cleared(name: string, { state, place }: Entry): Omit<Verdict, 'changesContent'> {
  return { state, place, code: 'BAT_ENTRY_RESERVED', message: `the reserved bits in the entry of ${name} were cleared` }
}
