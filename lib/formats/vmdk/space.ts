import { roundUp, TWO_32 } from '../../bytes/align.ts'
import { Bitmap } from '../../bytes/bitmap.ts'
import { VdiskError } from '../../errors.ts'
import { type Io, Pace, settle, Turns } from '../../io/io.ts'
import { Retirement, type Room } from '../../io/retirement.ts'
import type { ByteStore } from '../../io/store.ts'
import { writeZeros } from '../../io/zeros.ts'
import type { FileEnd } from './grain-tables.ts'
import { SECTOR } from './layout.ts'

/** Tables name sectors by 32 bits. */
const FARTHEST = TWO_32 * SECTOR

/**
 * Which parts of a sparse extent's file are in use: one bit for each grain, so 4 MiB of memory for 2 TiB.
 *
 * The format keeps no list of free room. It is found once, when the file is opened for writing, by a walk over the
 * tables; the end of the file is not trusted, for a crash may have left grains behind it, or cut off. Room that was
 * given up is used again only when no table on the medium points at it any more and no reader can be on the way to it.
 */
export class Space implements FileEnd {
  /** bytes in the file */
  end: number
  /** bytes of a part: a grain */
  readonly unit: number
  /** room on its way to being free */
  readonly givenUp = new Retirement()
  private readonly store: ByteStore
  private readonly turns = new Turns()
  private used: Bitmap
  /** where the search for free room goes on, and the least number of parts in a row that it did not find */
  private cursor = 0
  private notFound = Number.POSITIVE_INFINITY

  /** @param end bytes in the file now */
  constructor(store: ByteStore, unit: number, end: number) {
    this.store = store
    this.unit = unit
    this.end = end
    this.used = Bitmap.empty(Math.ceil(end / unit))
  }

  /** Marks a range of the file as in use, as far as the file goes. @returns whether some of it was so before */
  mark(at: number, length: number): boolean {
    const first = Math.floor(at / this.unit)
    const end = Math.min(this.used.length, Math.ceil((at + length) / this.unit))
    if (end <= first) return false
    const isFree = !this.used.has(first) && this.used.runEnd(first, end) === end
    this.used.fill(first, end)
    return !isFree
  }

  /** Room that reads as zero, on the border of a grain. @param length bytes, a multiple of the unit */
  *allocate(length: number): Io<number> {
    return yield* this.turns.take(() => this.allocateNow(length / this.unit))
  }

  /** A table in memory does not point here any more. */
  release(at: number, length: number): void {
    this.givenUp.release(at, length)
  }

  /** Room that nothing ever pointed at. */
  free(at: number, length: number): void {
    this.used.fill(at / this.unit, (at + length) / this.unit, false)
    this.cursor = Math.min(this.cursor, at / this.unit)
    this.notFound = Number.POSITIVE_INFINITY
  }

  /** All that is in use outside these places. */
  usedOutside(places: readonly Room[]): Room[] {
    const others = new Bitmap(this.used.bytes.slice(), this.used.length)
    for (const { at, length } of places) {
      others.fill(Math.floor(at / this.unit), Math.min(others.length, Math.ceil((at + length) / this.unit)), false)
    }
    const rooms: Room[] = []
    for (const { start, length, set } of others.runs()) {
      if (set) rooms.push({ at: start * this.unit, length: length * this.unit })
    }
    return rooms
  }

  /** At the begin of a flush: no reader that saw the old tables is left. The room is given back to the medium. */
  *retire(): Io<void> {
    const rooms = [...this.givenUp.takeDue()]
    while (rooms.length > 0) {
      const { at, length } = rooms.at(-1) as Room
      try {
        const present = Math.min(length, this.end - at)
        if (this.store.deallocate && present > 0) yield* settle(this.store.deallocate(at, present))
      } catch (error) {
        this.givenUp.condemn(rooms)
        throw error
      }
      rooms.pop()
      this.free(at, length)
    }
  }

  /** Makes the file at least so long; what is new reads as zero. */
  *reach(end: number): Io<void> {
    if (end <= this.end) return
    yield* settle(this.store.grow(end))
    this.grow(end)
  }

  /** Cuts free room off the end of the file. Only when no table on the medium can point there. */
  *trim(): Io<void> {
    const last = this.tail()
    if (last * this.unit >= this.end) return
    yield* settle(this.store.truncate(last * this.unit))
    this.end = last * this.unit
    this.used = new Bitmap(this.used.bytes, last)
  }

  /** Makes a range read as zero, without taking room where that can be. */
  *blank(at: number, length: number): Io<void> {
    if (this.store.deallocate) yield* settle(this.store.deallocate(at, length))
    else yield* writeZeros(this.store, at, length, new Pace())
  }

  private *allocateNow(count: number): Io<number> {
    const first = this.find(count)
    const at = first * this.unit
    const end = at + count * this.unit
    if (end > FARTHEST) throw full(this.store.name)
    // What lies there may be of a grain that was given up, or that a crash left behind.
    const present = Math.min(end, this.end) - at
    if (present > 0) yield* this.blank(at, present)
    yield* this.reach(end)
    this.used.fill(first, first + count)
    this.cursor = first + count
    return at
  }

  /** The first of `count` free parts in a row; at the end of the file the last of them may be missing still. */
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
    this.end = end
    const bits = roundUp(end, this.unit) / this.unit
    if (bits <= this.used.length) return
    let { bytes } = this.used
    if (bytes.length * 8 < bits) {
      bytes = new Uint8Array(Math.max(bytes.length * 2, Math.ceil(bits / 8)))
      bytes.set(this.used.bytes)
    }
    this.used = new Bitmap(bytes, bits)
  }
}

function full(file: string): VdiskError {
  return new VdiskError('NO_SPACE', {
    message: `Cannot write ${file}: its tables cannot name a place past 2 TiB`,
    where: { file },
    advice:
      'Convert the disk to several files, or to another format: vdisk convert IMAGE COPY --format vmdk -o subformat=twoGbMaxExtentSparse',
  })
}
