import { Bitmap } from '../../../bytes/bitmap.ts'
import { type Io, just, settle } from '../../../io/io.ts'
import { writeZeros } from '../../../io/zeros.ts'
import type { Bat } from '../bat.ts'
import { BITMAP, MIB, PAYLOAD } from '../layout.ts'
import type { BlockTask, Task } from './block-tasks.ts'
import { applyChanges, type EntryChange } from './changes.ts'
import { bitsOf, decidedRanges, fewOf, rangeOf } from './guest-ranges.ts'
import type { Mending, Range } from './mending.ts'
import type { NewRoom } from './new-room.ts'
import { readPieces } from './pieces.ts'

/** Changes that are written together at most; copies of blocks stand behind them. */
const BATCH = 64

/** Does what has been found to do, a batch of entries at a time. */
export class BlockMender {
  private readonly mending: Mending
  private readonly bat: Bat
  private readonly room: NewRoom
  private changes: EntryChange[] = []

  constructor(mending: Mending, bat: Bat, room: NewRoom) {
    this.mending = mending
    this.bat = bat
    this.room = room
  }

  *mend(task: Task): Io<void> {
    if (task.kind === 'block') yield* this.mendBlock(task)
    else if (task.kind === 'bitmap') yield* this.mendBitmap(task.chunk, task.place)
    else yield* this.makeBits(task.chunk, task.blocks)
    if (this.changes.length >= BATCH) yield* this.finish()
  }

  /** All changes so far are written. */
  *finish(): Io<void> {
    const { changes } = this
    this.changes = []
    yield* applyChanges(this.mending, this.bat, changes)
  }

  private *mendBlock({ block, state, place, isShared, region, copy }: BlockTask): Io<void> {
    const { geometry } = this.bat
    const range = rangeOf(this.bat, block)
    yield* this.completeCut(block, place, range.length)
    const shared =
      region === undefined
        ? `block ${block} shared the place ${place} with another one`
        : `the end of block ${block}, behind that of the disk, lay where the ${region} lies`
    const at = copy ? yield* this.room.copy(place, range.length, geometry.blockSize) : place
    if (isShared && !copy) this.tell('BLOCKS_SHARE_PLACE', block, `${shared}, and has it alone now`, range)
    const isOdd = state === PAYLOAD.partiallyPresent && !geometry.hasParent
    if (isOdd) yield* this.blankAbsent(block, at)
    if (!copy && !isOdd) return
    this.changes.push({
      index: geometry.entryOf(block),
      state: isOdd ? PAYLOAD.fullyPresent : state,
      place: at,
      code: isOdd ? 'PARTIAL_WITHOUT_PARENT' : region === undefined ? 'BLOCKS_SHARE_PLACE' : 'BLOCK_OVERLAPS_REGION',
      message: isOdd
        ? `block ${block}, which was present in part in a file without a parent, is present as a whole`
        : `${shared}: it has a copy of it at ${at} now`,
      changesContent: isOdd,
      doubtful: isShared || isOdd ? [range] : [],
    })
  }

  /** The end of a block that was cut off the file reads as zero from now on. */
  private *completeCut(block: number, place: number, used: number): Io<void> {
    const { mending } = this
    const lost = place + used - mending.originalEnd
    if (lost <= 0) return
    const { offset } = rangeOf(this.bat, block)
    const message = `the end of the file cut off ${lost} bytes of block ${block}: they read as zero`
    this.tell('BLOCK_PAST_END', block, message, { offset: offset + used - lost, length: lost })
    yield* mending.begin('content')
    yield* mending.growTo(place + this.bat.geometry.blockSize)
  }

  /** Nobody has the sectors that a block does not hold itself, where there is no parent. */
  private *blankAbsent(block: number, at: number): Io<void> {
    const { mending, bat } = this
    const { sectorSize } = bat.geometry
    const bits = yield* bitsOf(bat, block)
    yield* mending.begin('content')
    for (const { start, length, set } of bits?.runs() ?? []) {
      if (!set) yield* writeZeros(mending.store, at + start * sectorSize, length * sectorSize, mending.pace)
    }
  }

  private *mendBitmap(chunk: number, place: number): Io<void> {
    const name = `the sector bitmap of chunk ${chunk}`
    const index = this.bat.geometry.bitmapEntryOf(chunk)
    if (!this.bat.geometry.hasParent) {
      const message = `${name} was given up: the file has no parent`
      const nothing = { index, state: BITMAP.notPresent, place: 0, changesContent: false, doubtful: [] }
      this.changes.push({ ...nothing, code: 'BITMAP_WITHOUT_PARENT', message })
      return
    }
    const doubtful = yield* decidedRanges(this.bat, chunk)
    const at = yield* this.room.copy(place, MIB)
    const message = `${name} shared the place ${place} with something else: it has a copy of it at ${at} now`
    const present = { index, state: BITMAP.present, place: at, changesContent: false }
    this.changes.push({ ...present, code: 'BLOCKS_SHARE_PLACE', message, doubtful })
  }

  /** A sector bitmap made of what the blocks hold: a sector of zeros is taken for one that the parent has. */
  private *makeBits(chunk: number, blocks: readonly number[]): Io<void> {
    const { bat, mending, room } = this
    yield* this.finish()
    const at = yield* room.take(MIB)
    for (const block of blocks) {
      const bits = yield* this.nonZeroSectors(block)
      yield* settle(mending.store.write(at + bat.geometry.bitmapByteOf(block), bits.bytes))
    }
    this.changes.push({
      index: bat.geometry.bitmapEntryOf(chunk),
      state: BITMAP.present,
      place: at,
      code: 'BITMAP_MISSING',
      message: `chunk ${chunk} has a sector bitmap again: what is not zero in its blocks is taken for theirs, the rest for the parent's`,
      changesContent: true,
      doubtful: fewOf(blocks.map((block) => rangeOf(bat, block))),
    })
  }

  private *nonZeroSectors(block: number): Io<Bitmap> {
    const { store, pace } = this.mending
    const { sectorSize, sectorsPerBlock } = this.bat.geometry
    const { place } = yield* this.bat.entry(block)
    const length = this.bat.geometry.usedOf(block)
    const bits = Bitmap.empty(sectorsPerBlock)
    const visit = (bytes: Uint8Array, done: number): Io<void> => {
      for (let within = 0; within < bytes.length; within += sectorSize) {
        if (bytes.subarray(within, within + sectorSize).every((byte) => byte === 0)) continue
        const sector = (done + within) / sectorSize
        bits.fill(sector, sector + 1)
      }
      return just(undefined)
    }
    yield* readPieces({ store, at: place, length, pace }, visit)
    return bits
  }

  private tell(code: string, block: number, message: string, doubtful: Range): void {
    this.mending.tell({ code, structure: 'BAT', at: this.bat.entryPlace(block), message }, [doubtful])
  }
}
