import type { UnitRun } from '../../bytes/unit-map.ts'
import { type FileEnd, FileRoom } from '../../contracts/file-room.ts'
import type { Image } from '../../contracts/image.ts'
import { unsafeToWrite } from '../../contracts/unsafe.ts'
import type { VdiskError } from '../../errors.ts'
import { type Io, Pace, settle } from '../../io/io.ts'
import type { Retirement } from '../../io/retirement.ts'
import type { BlockMap } from './block-map.ts'
import { tooLarge } from './damage.ts'
import { ENTRY, ZERO } from './layout.ts'

/** Entries between two looks at the clock. */
const SURVEYED = 1 << 20

/**
 * Which blocks of the file are in use, by their numbers.
 *
 * The format counts the blocks of a file and knows of no gaps between them. What is in use is found once, when the file is
 * opened for writing, by a walk over the map; the count is not trusted. What gaps are left is closed up at the end (`compact.ts`).
 */
export class Space implements FileEnd {
  /** the same room, in bytes */
  readonly room: FileRoom

  private constructor(room: FileRoom) {
    this.room = room
  }

  /**
   * @param damaged is told of blocks that share a place with another, or lie where they cannot
   * @throws VdiskError CORRUPT for those where nobody is told: whoever writes there would destroy something; LIMIT_EXCEEDED
   * for those too far out to keep account of
   */
  static *survey(map: BlockMap, { store, signal }: Image, damaged: Damaged = refuseOn(map)): Io<Space> {
    const { header } = map
    const { blockCount, dataAt } = header.fields
    const end = yield* settle(store.size())
    const space = new Space(new FileRoom(store, { unit: header.stride, origin: header.placeOf(0), end }))
    // Where the map reaches into the blocks, none may be put.
    if (header.mapEnd > dataAt) space.take(0, Math.ceil((header.mapEnd - dataAt) / header.stride))
    const pace = new Pace(signal)
    for (let block = 0; block < blockCount; block += SURVEYED) {
      yield* map.walk(block, Math.min(blockCount, block + SURVEYED), (view, first, count) =>
        space.markEntries(map, view, { first, count, damaged }),
      )
      yield* pace.keep()
    }
    return space
  }

  /** bytes in the file */
  get end(): number {
    return this.room.end
  }

  /** room on its way to being free, in bytes */
  get givenUp(): Retirement {
    return this.room.givenUp
  }

  /** How many blocks the header must count: all numbers in use are below. */
  get count(): number {
    return this.room.units.end
  }

  /** How many are in use. */
  get inUse(): number {
    return this.room.units.count
  }

  /** Numbers below `end` that nothing uses, in order. */
  *gaps(end: number): Generator<number> {
    for (const { first, count } of this.room.units.gaps(Math.min(end, this.count))) {
      for (let number = first; number < first + count; number++) yield number
    }
  }

  /**
   * Room that reads as zero, for up to `most` blocks in a row.
   *
   * @param least the least number that will do
   */
  *allocate(most: number, least = 0): Io<UnitRun> {
    const run = this.room.units.claimFirst(most, least)
    yield* this.room.prepare(run)
    return run
  }

  /** Takes one block, which nothing uses; its room reads as zero. */
  *occupy(number: number): Io<void> {
    this.take(number, 1)
    yield* this.room.prepare({ first: number, count: 1 })
  }

  /** An entry in memory does not name this block any more. */
  release(number: number): void {
    this.room.release(this.room.placeOf(number), this.room.unit)
  }

  /** Blocks that nothing ever pointed at, or not any more. */
  free(run: UnitRun): void {
    this.room.units.free(run)
  }

  /** No entry names any block. */
  freeAll(): void {
    this.free({ first: 0, count: this.count })
  }

  /** The first `count` blocks are gone: the others have numbers that are smaller by as much. */
  shift(count: number): void {
    this.room.moveTo(this.room.placeOf(count))
  }

  private take(first: number, count: number): void {
    this.room.units.take({ first, count })
  }

  private markEntries(map: BlockMap, view: DataView, { first, count, damaged }: Marking): void {
    for (let i = 0; i < count; i++) {
      const entry = view.getUint32(i * ENTRY, true)
      if (entry >= ZERO) continue
      const misplaced = map.complaintAbout(first + i, entry)
      if (misplaced !== undefined) damaged(first + i, 'misplaced', misplaced)
      else if (entry >= MOST_COUNTED) throw tooFar(map, first + i, entry)
      else if (!this.room.units.isFree({ first: entry, count: 1 })) damaged(first + i, 'shared', SHARED)
      else this.take(entry, 1)
    }
  }
}

/** Blocks of a file of which account is kept, one bit each: 32 MiB of memory for files of 256 TiB. */
const MOST_COUNTED = 2 ** 28

/** A sparse file can say that it is longer than any medium, and have a block there. */
function tooFar(map: BlockMap, block: number, entry: number): VdiskError {
  const spot = { structure: 'block map', index: block, at: map.entryPlace(block) }
  const advice = 'It can still be read and converted: vdisk convert IMAGE COPY --format vdi'
  return tooLarge(
    map.file,
    `the entry of block ${block} names block ${entry} of the file, too far to write it`,
    spot,
    advice,
  )
}

interface Marking extends UnitRun {
  readonly damaged: Damaged
}

/** Is told that the entry of a block is damaged, how, and why in words. */
export type Damaged = (block: number, how: 'misplaced' | 'shared', why: string) => void

const SHARED = 'names a place that another one has as well'

function refuseOn(map: BlockMap): Damaged {
  return (block, _, why) => {
    const where = { file: map.file, structure: 'block map', index: block, at: map.entryPlace(block) }
    throw unsafeToWrite(map.file, `the entry of block ${block} ${why}`, where)
  }
}
