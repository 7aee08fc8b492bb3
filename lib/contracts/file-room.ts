import { UnitMap, type UnitRun } from '../bytes/unit-map.ts'
import { type Io, Pace, settle, Turns } from '../io/io.ts'
import { Retirement, type Room } from '../io/retirement.ts'
import type { ByteStore } from '../io/store.ts'
import { writeZeros } from '../io/zeros.ts'

/** Where a file ends: of one that is written that moves on. */
export interface FileEnd {
  /** bytes */
  readonly end: number
}

export interface FileRoomShape {
  /** bytes: all room is given out in these */
  readonly unit: number
  /** bytes in the file */
  readonly end: number
  /** bytes in the file where the first unit lies; default 0 */
  readonly origin?: number
  /** Is asked before room that ends there is used. @throws VdiskError NO_SPACE for a place that no table can name */
  readonly admit?: (end: number) => void
}

/**
 * Room in a file whose format keeps no list of what is free.
 *
 * Whoever opens the file for writing finds out what is in use, by a walk over its tables, and marks that; the end of the file is
 * not trusted, for a crash may have left something behind it, or cut it off. New room reads as zero. Room that was given up
 * is used again only when no table on the medium points at it any more and no reader can be on the way to it; then it is given
 * back to the medium.
 */
export class FileRoom implements FileEnd {
  /** bytes in the file */
  end: number
  /** bytes */
  readonly unit: number
  /** what is in use */
  readonly units = new UnitMap()
  /** room on its way to being free */
  readonly givenUp = new Retirement()
  private readonly store: ByteStore
  private readonly admit: ((end: number) => void) | undefined
  private readonly turns = new Turns()
  private origin: number
  private isKept = false

  constructor(store: ByteStore, { unit, end, origin = 0, admit }: FileRoomShape) {
    this.store = store
    this.unit = unit
    this.end = end
    this.origin = origin
    this.admit = admit
  }

  /** Where a unit lies, in bytes. */
  placeOf(unit: number): number {
    return this.origin + unit * this.unit
  }

  /** Which unit lies at a place; no whole number, or a negative one, where none does. */
  unitAt(at: number): number {
    return (at - this.origin) / this.unit
  }

  /** Marks what a range touches as in use, as far as the file goes. @returns whether some of it was so before */
  mark(at: number, length: number): boolean {
    const first = Math.max(0, Math.floor(this.unitAt(at)))
    const end = Math.ceil(this.unitAt(Math.min(at + length, this.placeOf(Math.ceil(this.unitAt(this.end))))))
    if (end <= first) return false
    const run = { first, count: end - first }
    const isFree = this.units.isFree(run)
    this.units.take(run)
    return !isFree
  }

  /** From now on all that the file has is in use, whoever's it is; nothing is given back. */
  keepAll(): void {
    this.isKept = true
    this.mark(this.origin, this.end - this.origin)
  }

  /** The first unit lies further on from now on, at `origin`; what came before is nobody's. */
  moveTo(origin: number): void {
    const gone = this.unitAt(origin)
    if (gone > 0) this.units.shift(gone)
    this.origin = origin
  }

  /** Room that reads as zero, on the border of a unit. @param length bytes, a multiple of the unit */
  *allocate(length: number): Io<number> {
    const count = length / this.unit
    const run = { first: this.units.claim(count), count }
    yield* this.prepare(run)
    return this.placeOf(run.first)
  }

  /** Makes units that were taken read as zero; where that fails they are free again. */
  *prepare(run: UnitRun): Io<void> {
    try {
      const at = this.placeOf(run.first)
      const end = at + run.count * this.unit
      this.admit?.(end)
      yield* this.turns.take(() => this.clear(at, end))
    } catch (error) {
      this.units.free(run)
      throw error
    }
  }

  /** A table in memory does not point here any more. */
  release(at: number, length: number): void {
    this.givenUp.release(at, length)
  }

  /** Room that nothing ever pointed at. */
  free(at: number, length: number): void {
    this.units.free({ first: this.unitAt(at), count: length / this.unit })
  }

  /** All that is in use outside these places. What lies side by side is one room. */
  usedOutside(places: readonly Room[]): Room[] {
    const others = this.units.copy()
    for (const { at, length } of places) {
      const first = Math.max(0, Math.floor(this.unitAt(at)))
      others.free({ first, count: Math.ceil(this.unitAt(at + length)) - first })
    }
    return [...others.runs()].map((run) => this.roomOf(run))
  }

  /** Runs of the file that nobody uses. */
  *unused(): Generator<Room> {
    for (const run of this.units.gaps(Math.ceil(this.unitAt(this.end)))) {
      const { at, length } = this.roomOf(run)
      yield { at, length: Math.min(length, this.end - at) }
    }
  }

  /** At the begin of a flush: no reader that saw the old tables is left. The room is given back to the medium. */
  *retire(): Io<void> {
    const rooms = [...this.givenUp.takeDue()]
    if (this.isKept) return
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

  /** Makes a range read as zero, without taking room where that can be. */
  *blank(at: number, length: number): Io<void> {
    if (length <= 0) return
    if (this.store.deallocate) yield* settle(this.store.deallocate(at, length))
    else yield* writeZeros(this.store, at, length, new Pace())
  }

  /** The file reaches at least so far; what is new of it reads as zero. */
  *reach(end: number): Io<void> {
    if (end <= this.end) return
    yield* settle(this.store.grow(end))
    this.end = Math.max(this.end, end)
  }

  /** The file ends where a unit does, whatever it was cut off to. */
  *align(): Io<void> {
    yield* this.turns.take(() => this.alignNow())
  }

  /** Cuts free room off the end of the file. Only when no table on the medium can point there. */
  *trim(): Io<void> {
    const end = this.placeOf(this.units.end)
    if (end >= this.end || this.isKept) return
    yield* settle(this.store.truncate(end))
    this.end = end
  }

  private *clear(at: number, end: number): Io<void> {
    // What lies there may be of something that was given up, or that a crash left behind.
    yield* this.blank(at, Math.min(end, this.end) - at)
    yield* this.reach(end)
  }

  private *alignNow(): Io<void> {
    const end = this.placeOf(Math.ceil(this.unitAt(this.end)))
    if ((yield* settle(this.store.size())) < end) yield* settle(this.store.grow(end))
    this.end = end
  }

  private roomOf({ first, count }: UnitRun): Room {
    return { at: this.placeOf(first), length: count * this.unit }
  }
}
