import { roundUp } from '../../bytes/align.ts'
import { Bitmap } from '../../bytes/bitmap.ts'
import type { Image } from '../../contracts/image.ts'
import type { VdiskError } from '../../errors.ts'
import { type Io, Pace, settle, Turns } from '../../io/io.ts'
import { Retirement, type Room } from '../../io/retirement.ts'
import type { ByteStore } from '../../io/store.ts'
import type { Bat, FileEnd } from './bat.ts'
import { corrupt } from './damage.ts'
import { BAT_ENTRY, BITMAP, LIMIT, MIB, PAYLOAD, placeOf, stateOf } from './layout.ts'

/**
 * Which parts of the file are in use: one bit for each MiB, so 8 MiB of memory for 64 TiB. [2.1]
 *
 * The format keeps no list of free room. It is found once, when the file is opened for writing, by a walk over the
 * BAT; neither the end of the file nor anything else is trusted. Room that was given up is used again only when no
 * table on the medium points at it any more and no reader can be on the way to it; then it is punched.
 */
export class Space implements FileEnd {
  /** bytes in the file, a multiple of 1 MiB from the first change on */
  end: number
  private readonly store: ByteStore
  private used: Bitmap
  /** room on its way to being free */
  readonly givenUp = new Retirement()
  /** where the search for free room goes on, and the least number of MiB in a row that it did not find */
  private cursor = 0
  private notFound = Number.POSITIVE_INFINITY
  private readonly turns = new Turns()

  private constructor(store: ByteStore, end: number) {
    this.store = store
    this.end = end
    this.used = Bitmap.empty(Math.ceil(end / MIB))
  }

  /**
   * @throws VdiskError CORRUPT if two blocks share a place, or one lies where it cannot: whoever writes there would
   * destroy something
   */
  static *survey(bat: Bat, { store, signal }: Image): Io<Space> {
    const size = yield* settle(store.size())
    const space = new Space(store, size)
    for (const { at, length } of bat.regions.all) space.mark(at, length)
    // Entries behind the last block are of a disk that was larger once; their room is left alone too.
    const { regions, geometry } = bat
    const entries = Math.min(regions.bat.length / BAT_ENTRY, geometry.entryCount(LIMIT.diskBytes, true))
    const known = Math.min(entries, Math.floor((size - regions.bat.at) / BAT_ENTRY))
    const pace = new Pace(signal)
    // Entries that hold nothing may keep a place that nobody else should use. Where a block lies there all the same, the
    // block is what counts: nobody writes by the other entry. [2.5.1.1, UNMAPPED]
    const kept = Bitmap.empty(space.used.length)
    for (let index = 0; index < known; index += SURVEYED) {
      yield* bat.walk(index, Math.min(known, index + SURVEYED), (view, first, count) =>
        space.markEntries({ bat, size, kept }, view, first, count),
      )
      yield* pace.keep()
    }
    space.used.add(kept)
    space.end = Math.max(space.end, space.used.length * MIB)
    return space
  }

  /** The file ends on a whole MiB: log entries can state its size in no other way. [2.3.1.1] */
  *align(): Io<void> {
    yield* this.turns.take(() => this.alignNow())
  }

  /** Room that reads as zero. @param length bytes, a multiple of 1 MiB */
  *allocate(length: number): Io<number> {
    return yield* this.turns.take(() => this.allocateNow(length))
  }

  /** A table in memory does not point here any more. */
  release(at: number, length: number): void {
    this.givenUp.release(at, length)
  }

  /** Room that nothing ever pointed at. */
  free(at: number, length: number): void {
    this.used.fill(at / MIB, (at + length) / MIB, false)
    this.cursor = Math.min(this.cursor, at / MIB)
    this.notFound = Number.POSITIVE_INFINITY
  }

  /** All that is in use outside these places. Blocks that lie side by side are one room. */
  usedOutside(places: readonly Room[]): Room[] {
    const others = new Bitmap(this.used.bytes.slice(), this.used.length)
    for (const { at, length } of places) others.fill(Math.floor(at / MIB), Math.ceil((at + length) / MIB), false)
    const rooms: Room[] = []
    for (const { start, length, set } of others.runs()) if (set) rooms.push({ at: start * MIB, length: length * MIB })
    return rooms
  }

  /** Runs of the file that nobody uses. */
  *unused(): Generator<Room> {
    for (const { start, length, set } of this.used.runs()) {
      if (!set) yield { at: start * MIB, length: Math.min(length * MIB, this.end - start * MIB) }
    }
  }

  /** At the begin of a flush: no reader that saw the old tables is left. The room is given back to the medium. */
  *retire(): Io<void> {
    const rooms = [...this.givenUp.takeDue()]
    while (rooms.length > 0) {
      const { at, length } = rooms.at(-1) as Room
      try {
        if (this.store.deallocate) yield* settle(this.store.deallocate(at, length))
      } catch (error) {
        this.givenUp.condemn(rooms)
        throw error
      }
      rooms.pop()
      this.free(at, length)
    }
  }

  /** Makes a range read as zero, without taking room where that can be. */
  *blank(at: number, length: number): Io<void> {
    if (this.store.deallocate) {
      yield* settle(this.store.deallocate(at, length))
      return
    }
    const zeros = new Uint8Array(Math.min(length, MIB))
    for (let done = 0; done < length; done += zeros.length) {
      yield* settle(this.store.write(at + done, zeros.subarray(0, length - done)))
    }
  }

  /** Cuts free room off the end of the file. Only when no log can bring it back. */
  *trim(): Io<void> {
    let last = this.used.length
    while (last > 0 && !this.used.has(last - 1)) last--
    if (last * MIB >= this.end) return
    yield* settle(this.store.truncate(last * MIB))
    this.end = last * MIB
    this.used = new Bitmap(this.used.bytes, last)
  }

  private *alignNow(): Io<void> {
    const size = yield* settle(this.store.size())
    const end = roundUp(this.end, MIB)
    if (size < end) yield* settle(this.store.grow(end))
    this.grow(end)
  }

  private *allocateNow(length: number): Io<number> {
    const count = length / MIB
    const first = this.find(count)
    const at = first * MIB
    const present = Math.min(at + length, this.end) - at
    // What lies there may be of a block that was given up, or that a crash left behind.
    if (present > 0) yield* this.blank(at, present)
    if (at + length > this.end) {
      yield* settle(this.store.grow(at + length))
      this.grow(at + length)
    }
    this.used.fill(first, first + count)
    this.cursor = first + count
    return at
  }

  /** The first of `count` free MiB in a row; at the end of the file the last of them may be missing still. */
  private find(count: number): number {
    const total = this.used.length
    if (count >= this.notFound) return this.tail()
    for (const [from, to] of [
      [this.cursor, total],
      [0, total],
    ] as const) {
      for (let bit = from; bit < to; ) {
        const end = this.used.runEnd(bit, to)
        if (!this.used.has(bit) && (end - bit >= count || end === total)) return bit
        bit = end
      }
    }
    this.notFound = count
    return total
  }

  /** Where the free room at the end of the file begins. */
  private tail(): number {
    let first = this.used.length
    while (first > 0 && !this.used.has(first - 1)) first--
    return first
  }

  private grow(end: number): void {
    this.end = Math.max(this.end, end)
    const bits = Math.ceil(this.end / MIB)
    if (bits <= this.used.length) return
    let { bytes } = this.used
    if (bytes.length * 8 < bits) {
      bytes = new Uint8Array(Math.max(bytes.length * 2, Math.ceil(bits / 8)))
      bytes.set(this.used.bytes)
    }
    this.used = new Bitmap(bytes, bits)
  }

  private mark(at: number, length: number): void {
    this.used.fill(Math.floor(at / MIB), Math.min(this.used.length, Math.ceil((at + length) / MIB)))
  }

  private markEntries(
    { bat, size, kept }: { bat: Bat; size: number; kept: Bitmap },
    view: DataView,
    first: number,
    count: number,
  ): void {
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
      if (!present || isBehind) {
        if (place !== 0 && place < size) kept.fill(place / MIB, Math.min(kept.length, (place + length) / MIB))
        continue
      }
      const used = 'block' in owner ? geometry.usedOf(owner.block) : length
      if (place + used > size) throw damaged(bat, first + i, `points at ${place}, past the end of the file`)
      this.grow(place + length)
      const start = place / MIB
      const end = (place + length) / MIB
      if (this.used.has(start) || this.used.runEnd(start, end) !== end) {
        throw damaged(bat, first + i, `points at ${place}, where something else lies`)
      }
      this.used.fill(start, end)
    }
  }
}

/** Entries between two looks at the clock. */
const SURVEYED = 1 << 20

function damaged(bat: Bat, index: number, why: string): VdiskError {
  return corrupt(
    bat.file,
    `it cannot be written safely, because entry ${index} of the BAT ${why}`,
    { structure: 'BAT', index, at: bat.regions.bat.at + index * BAT_ENTRY, section: '2.5.1' },
    'It can still be read and converted. To mend it: vdisk check IMAGE --repair',
  )
}
