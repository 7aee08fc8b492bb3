/** A range of a file, in bytes. */
export interface Room {
  readonly at: number
  readonly length: number
}

/**
 * Room that was given up, on its way to being free.
 *
 * The medium may still hold a pointer to it, and a reader that saw the pointer may be on its way there. So it passes
 * three stations, and may be used again only by who takes it from the last:
 *
 *   released    no table in memory points here any more
 *   condemned   nor does one on the medium
 *   due         a flush has ended since: when the next one begins, all readers from before have ended
 *
 * Tables are written back between flushes too. That condemns, and no more: a reader may have come after the flush
 * waited for others to end.
 */
export class Retirement {
  private released: Room[] = []
  private condemned: Room[] = []
  private due: Room[] = []

  /** Whether nothing is on its way. */
  get isEmpty(): boolean {
    return this.released.length + this.condemned.length + this.due.length === 0
  }

  /** A table in memory does not point here any more. */
  release(at: number, length: number): void {
    append(this.released, { at, length })
  }

  /** What was released so far: its tables are about to be written. Ends in `condemn` or `putBack`. */
  takeReleased(): readonly Room[] {
    const { released } = this
    this.released = []
    return released
  }

  /** Writing the tables failed. */
  putBack(rooms: readonly Room[]): void {
    this.released = [...rooms, ...this.released]
  }

  /** Writing the tables succeeded: nothing on the medium points here any more. */
  condemn(rooms: readonly Room[]): void {
    for (const room of rooms) append(this.condemned, room)
  }

  /** What may be used again. Only at the begin of a flush. */
  takeDue(): readonly Room[] {
    const { due } = this
    this.due = []
    return due
  }

  /** A flush is over: what it found condemned is due in the next. */
  endFlush(): void {
    for (const room of this.condemned) append(this.due, room)
    this.condemned = []
  }
}

/** Adds a room at the end of a list, joined with the last one where they meet. */
export function append(rooms: Room[], { at, length }: Room): void {
  const last = rooms.at(-1)
  if (last && last.at + last.length === at) rooms[rooms.length - 1] = { at: last.at, length: last.length + length }
  else rooms.push({ at, length })
}
