import { Bitmap } from '../../../bytes/bitmap.ts'
import type { Bat } from '../bat.ts'
import { BAT_ENTRY, BITMAP, MIB, PAYLOAD, placeOf, stateOf } from '../layout.ts'
import { fillRange, isMarked, type RoomSurvey } from './room.ts'

/** A block that shares its room, that the end of the file cuts, or that is present in part without a parent. */
export interface BlockTask {
  readonly kind: 'block'
  readonly block: number
  readonly state: number
  /** bytes in the file */
  readonly place: number
  readonly isShared: boolean
  /** the region that lies in the part of its room behind the end of the disk */
  readonly region: string | undefined
  /** it must get a copy of what lies at its place */
  readonly copy: boolean
}

/** Something to be mended, in the order of the BAT. */
export type Task =
  | BlockTask
  /** a sector bitmap that shares its place, or that nobody has use for */
  | { readonly kind: 'bitmap'; readonly chunk: number; readonly place: number }
  /** blocks that are present in part, and whose chunk has no sector bitmap */
  | { readonly kind: 'bits'; readonly chunk: number; readonly blocks: readonly number[] }

/** Finds what must be mended, without waiting. */
export class TaskFinder {
  private readonly bat: Bat
  private readonly shared: Bitmap
  private readonly originalEnd: number
  /** what the entries so far have taken */
  private readonly taken: Bitmap
  private tasks: Task[] = []
  /** partially present blocks of the chunk that is looked at, as long as no bitmap was found for them */
  private partial: number[] = []

  constructor(bat: Bat, survey: RoomSurvey, originalEnd: number) {
    this.bat = bat
    this.shared = survey.shared
    this.originalEnd = originalEnd
    this.taken = Bitmap.empty(survey.claimed.length)
  }

  take(): Task[] {
    const { tasks } = this
    this.tasks = []
    return tasks
  }

  look(view: DataView, first: number, count: number): void {
    const { geometry } = this.bat
    for (let i = 0; i < count; i++) {
      const low = view.getUint32(i * BAT_ENTRY, true)
      if (low === 0) continue
      const place = placeOf(view.getUint32(i * BAT_ENTRY + 4, true), low)
      const owner = geometry.ownerOf(first + i)
      if ('block' in owner) this.lookAtBlock(owner.block, stateOf(low), place)
      else if (stateOf(low) === BITMAP.present) this.lookAtBitmap(owner.chunk, place)
    }
  }

  /** No entry of a bitmap was found for the blocks so far. */
  endChunk(): void {
    const [first] = this.partial
    if (first !== undefined) {
      this.tasks.push({ kind: 'bits', chunk: this.bat.geometry.chunkOf(first), blocks: this.partial })
    }
    this.partial = []
  }

  private lookAtBlock(block: number, state: number, place: number): void {
    const { geometry } = this.bat
    const [last] = this.partial
    if (last !== undefined && geometry.chunkOf(last) !== geometry.chunkOf(block)) this.endChunk()
    if (state < PAYLOAD.fullyPresent) return
    const isPartial = state === PAYLOAD.partiallyPresent
    const isOdd = isPartial && !geometry.hasParent
    const used = geometry.usedOf(block)
    // What the disk has of a block lies in no region by now.
    const region = this.bat.regions.hit(place, geometry.blockSize)?.name
    const isShared = isMarked(this.shared, place, region === undefined ? geometry.blockSize : used)
    // What is to be made zero in a shared place must be a copy: the other block still reads there.
    const must = isShared && (isOdd || isMarked(this.taken, place, geometry.blockSize))
    const copy = must || region !== undefined
    if (!copy) fillRange(this.taken, place, geometry.blockSize)
    const isCut = place + used > this.originalEnd
    if (isShared || copy || isCut || isOdd)
      this.tasks.push({ kind: 'block', block, state, place, isShared, region, copy })
    if (isPartial && geometry.hasParent) this.partial.push(block)
  }

  private lookAtBitmap(chunk: number, place: number): void {
    const { geometry } = this.bat
    if (this.partial.length > 0 && geometry.chunkOf(this.partial[0] as number) !== chunk) this.endChunk()
    this.partial = []
    if (!geometry.hasParent) {
      this.tasks.push({ kind: 'bitmap', chunk, place })
      return
    }
    if (isMarked(this.shared, place, MIB)) this.tasks.push({ kind: 'bitmap', chunk, place })
    else fillRange(this.taken, place, MIB)
  }
}
