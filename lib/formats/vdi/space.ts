import { Bitmap } from '../../bytes/bitmap.ts'
import type { Image } from '../../contracts/image.ts'
import { type Io, Pace, settle } from '../../io/io.ts'
import { Retirement, type Room } from '../../io/retirement.ts'
import type { ByteStore } from '../../io/store.ts'
import type { BlockMap, FileEnd } from './block-map.ts'
import { corrupt, MEND } from './damage.ts'
import type { Header } from './header.ts'
import { ENTRY, ZERO } from './layout.ts'

/** Entries between two looks at the clock. */
const SURVEYED = 1 << 20
const PIECE = 1 << 20

/** Blocks of the file that lie one after the other, by their numbers. */
export interface Run {
  readonly first: number
  readonly count: number
}

/**
 * Which blocks of the file are in use: one bit for each.
 *
 * The format counts the blocks of a file and knows of no gaps between them. What is in use is found once, when the file is
 * opened for writing, by a walk over the map; neither the count nor the end of the file is trusted. Room that was given up
 * is used again only when no entry on the medium names it any more and no reader can be on the way to it; then it is
 * punched. What gaps are left is closed up at the end (`compact.ts`).
 */
export class Space implements FileEnd {
  /** bytes in the file */
  end: number
  /** room on its way to being free, in bytes */
  readonly givenUp = new Retirement()
  private readonly store: ByteStore
  private readonly header: Header
  private used = Bitmap.empty(0)
  /** no block before this one is free */
  private cursor = 0

  private constructor(store: ByteStore, header: Header, end: number) {
    this.store = store
    this.header = header
    this.end = end
  }

  /**
   * @param damaged is told of blocks that share a place with another, or lie where they cannot
   * @throws VdiskError CORRUPT for those where nobody is told: whoever writes there would destroy something
   */
  static *survey(map: BlockMap, { store, signal }: Image, damaged: Damaged = refuseOn(map)): Io<Space> {
    const { header } = map
    const size = yield* settle(store.size())
    const space = new Space(store, header, size)
    const { blockCount, dataAt } = header.fields
    // Where the map reaches into the blocks, none may be put.
    if (header.mapEnd > dataAt) space.mark(0, Math.ceil((header.mapEnd - dataAt) / header.stride))
    const pace = new Pace(signal)
    for (let block = 0; block < blockCount; block += SURVEYED) {
      yield* map.walk(block, Math.min(blockCount, block + SURVEYED), (view, first, count) =>
        space.markEntries(map, view, { first, count, damaged }),
      )
      yield* pace.keep()
    }
    return space
  }

  /** How many blocks the header must count: all numbers in use are below. */
  get count(): number {
    let last = this.used.length
    while (last > 0 && !this.used.has(last - 1)) last--
    if (last < this.used.length) this.used = new Bitmap(this.used.bytes, last)
    return last
  }

  /** How many are in use. */
  get inUse(): number {
    return this.used.count()
  }

  /** Numbers below `end` that nothing uses, in order. */
  *gaps(end: number): Generator<number> {
    for (const { start, length, set } of this.used.runs(0, Math.min(end, this.used.length))) {
      for (let number = start; !set && number < start + length; number++) yield number
    }
  }

  /**
   * Room that reads as zero, for up to `count` blocks in a row.
   *
   * @param least the least number that will do
   */
  *allocate(count: number, least = 0): Io<Run> {
    const run = this.take(count, least)
    try {
      yield* this.prepare(run)
    } catch (error) {
      this.free(run)
      throw error
    }
    return run
  }

  /** Takes one block, which nothing uses; its room reads as zero. */
  *occupy(number: number): Io<void> {
    const run = { first: number, count: 1 }
    this.mark(number, 1)
    try {
      yield* this.prepare(run)
    } catch (error) {
      this.free(run)
      throw error
    }
  }

  /** An entry in memory does not name this block any more. */
  release(number: number): void {
    this.givenUp.release(this.header.placeOf(number), this.header.stride)
  }

  /** Blocks that nothing ever pointed at, or not any more. */
  free({ first, count }: Run): void {
    this.used.fill(first, Math.min(this.used.length, first + count), false)
    this.cursor = Math.min(this.cursor, first)
  }

  /** No entry names any block. */
  freeAll(): void {
    this.free({ first: 0, count: this.used.length })
  }

  /** The first `count` blocks are gone: the others have numbers that are smaller by as much. */
  shift(count: number): void {
    const moved = Bitmap.empty(Math.max(0, this.used.length - count))
    for (const { start, length, set } of this.used.runs(Math.min(count, this.used.length))) {
      if (set) moved.fill(start - count, start - count + length)
    }
    this.used = moved
    this.cursor = 0
  }

  /** At the begin of a flush: no reader that saw the old entries is left. The room is given back to the medium. */
  *retire(): Io<void> {
    const rooms: Room[] = [...this.givenUp.takeDue()]
    const { stride } = this.header
    while (rooms.length > 0) {
      const { at, length } = rooms.at(-1) as Room
      try {
        const present = Math.min(at + length, this.end) - at
        if (this.store.deallocate && present > 0) yield* settle(this.store.deallocate(at, present))
      } catch (error) {
        this.givenUp.condemn(rooms)
        throw error
      }
      rooms.pop()
      this.free({ first: (at - this.header.placeOf(0)) / stride, count: length / stride })
    }
  }

  /** Makes a range of the file read as zero, without taking room where that can be. */
  *blank(at: number, length: number): Io<void> {
    if (length <= 0) return
    if (this.store.deallocate) {
      yield* settle(this.store.deallocate(at, length))
      return
    }
    const zeros = new Uint8Array(Math.min(length, PIECE))
    for (let done = 0; done < length; done += zeros.length) {
      yield* settle(this.store.write(at + done, zeros.subarray(0, length - done)))
    }
  }

  /** The file reaches at least so far; what is new of it reads as zero. */
  *reach(end: number): Io<void> {
    if (end <= this.end) return
    yield* settle(this.store.grow(end))
    this.end = Math.max(this.end, end)
  }

  /** Cuts the file off behind the last block in use. */
  *trim(): Io<void> {
    const end = this.header.placeOf(this.count)
    if (end >= this.end) return
    yield* settle(this.store.truncate(end))
    this.end = end
  }

  private take(count: number, least: number): Run {
    const from = Math.max(this.cursor, least)
    const total = this.used.length
    let first = from
    while (first < total && this.used.has(first)) first = this.used.runEnd(first, total)
    const end = first < total ? this.used.runEnd(first, total) : total
    // Behind the last number there is as much room as is wanted.
    const found = end < total ? Math.min(count, end - first) : count
    if (least <= this.cursor) this.cursor = first + found
    this.mark(first, found)
    return { first, count: found }
  }

  private *prepare({ first, count }: Run): Io<void> {
    const at = this.header.placeOf(first)
    const length = count * this.header.stride
    // What lies there may be of a block that was given up, or that a crash left behind.
    yield* this.blank(at, Math.min(at + length, this.end) - at)
    yield* this.reach(at + length)
  }

  private mark(first: number, count: number): void {
    const bits = first + count
    if (bits > this.used.length) {
      let { bytes } = this.used
      if (bytes.length * 8 < bits) {
        bytes = new Uint8Array(Math.max(bytes.length * 2, Math.ceil(bits / 8)))
        bytes.set(this.used.bytes)
      }
      // Bits past the old end may be left of what was there once.
      new Bitmap(bytes).fill(this.used.length, bits, false)
      this.used = new Bitmap(bytes, bits)
    }
    this.used.fill(first, bits)
  }

  private markEntries(map: BlockMap, view: DataView, { first, count, damaged }: Marking): void {
    for (let i = 0; i < count; i++) {
      const entry = view.getUint32(i * ENTRY, true)
      if (entry >= ZERO) continue
      const misplaced = map.complaintAbout(first + i, entry)
      if (misplaced !== undefined) damaged(first + i, 'misplaced', misplaced)
      else if (entry < this.used.length && this.used.has(entry)) damaged(first + i, 'shared', SHARED)
      else this.mark(entry, 1)
    }
  }
}

interface Marking extends Run {
  readonly damaged: Damaged
}

/** Is told that the entry of a block is damaged, how, and why in words. */
export type Damaged = (block: number, how: 'misplaced' | 'shared', why: string) => void

const SHARED = 'names a place that another one has as well'

function refuseOn(map: BlockMap): Damaged {
  return (block, _, why) => {
    const spot = { structure: 'block map', index: block, at: map.entryPlace(block) }
    throw corrupt(map.file, `it cannot be written safely, because the entry of block ${block} ${why}`, spot, MEND)
  }
}
