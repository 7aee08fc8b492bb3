import { type Io, settle, Turns } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import type { Batch } from '../../io/table-cache.ts'
import type { BlockTable } from './block-table.ts'
import type { Space } from './space.ts'

/** Bytes of changed tables from which on they are written between flushes as well. */
const MUCH = 4 << 20

/**
 * The order in which changes become durable.
 *
 *   footer at a new end → F → (data ∥ bitmap of a block that is new) → F → (entry in the BAT ∥ bits of blocks that were there)
 *
 * A block is complete before anything points at it, and sectors before their bits say that they are here. A bit and the
 * entry of its block need no order between them: the bitmap that a block begins with is durable before its entry, and a bit
 * that comes later is true whether it gets there or not. Room that was given up is used again when the entry that says so
 * is durable, and a flush has ended since.
 */
export class WriteBack {
  private readonly store: ByteStore
  private readonly table: BlockTable
  private readonly space: Space
  private readonly turns = new Turns()

  constructor(table: BlockTable, space: Space) {
    this.store = table.store
    this.table = table
    this.space = space
  }

  /** Everything so far is durable. No read begun before the last flush may still be under way. */
  *flush(): Io<void> {
    yield* this.turns.take(() => this.flushNow())
  }

  /** Everything is in its place, and what was given up is free. */
  *end(): Io<void> {
    yield* this.flush()
    // What was given up needs more rounds to be free.
    while (!this.space.givenUp.isEmpty) yield* this.flush()
  }

  /** Keeps the tables in memory from growing without bound. */
  *relieve(): Io<void> {
    if (this.changedBytes > MUCH) yield* this.turns.take(() => this.round())
  }

  private get changedBytes(): number {
    return this.table.bits.changedBytes + this.table.entries.changedBytes
  }

  private *flushNow(): Io<void> {
    yield* this.space.retire()
    yield* this.round()
    this.space.givenUp.endFlush()
  }

  private *round(): Io<void> {
    const { bits, entries } = this.table
    const { givenUp } = this.space
    // From here to the next wait nobody else runs: these belong together.
    const released = givenUp.takeReleased()
    const batches: [typeof bits, Batch][] = [
      [bits, bits.take()],
      [entries, entries.take()],
    ]
    const waiting = [...batches]
    try {
      yield* settle(this.store.flush())
      while (waiting.length > 0) {
        const [tables, batch] = waiting.shift() as (typeof batches)[number]
        yield* tables.write(batch)
      }
    } catch (error) {
      // A write of a batch that failed has put it back itself.
      for (const [tables, batch] of waiting) tables.putBack(batch)
      givenUp.putBack(released)
      throw error
    }
    try {
      if (batches.some(([, { runs }]) => runs.length > 0)) yield* settle(this.store.flush())
    } catch (error) {
      givenUp.putBack(released)
      throw error
    }
    givenUp.condemn(released)
  }
}
