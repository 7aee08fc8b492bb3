import type { FileRoom } from '../../contracts/file-room.ts'
import { type Io, settle, Turns } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import type { Page, TableCache } from '../../io/table-cache.ts'
import type { RoundState } from './edits.ts'
import type { LogWriter } from './log-writer.ts'

/**
 * Makes data and tables durable, in an order of which every prefix is a sound image. [2.3]
 *
 *   data → F → one log entry with all changed pages → F → the pages in their places
 *
 * The first F makes durable what the tables will point at, the size of the file, and the pages that the round before
 * wrote to their places: so its log entry has done its work, and the new one stands alone. All changes of a round are
 * in one entry, so a crash leaves all of them or none: a BAT entry never comes without its sector bits, a moved BAT
 * never without the new size. `Edits` sees to it that a round is never larger than an entry.
 *
 * Only tables go through the log; the payload of blocks, and room that no table points at yet, are written directly.
 */
export class WriteBack implements RoundState {
  readonly capacity: number
  private readonly store: ByteStore
  private readonly tables: TableCache
  private readonly space: FileRoom
  private readonly log: LogWriter
  private readonly turns = new Turns()
  private taken = 0

  constructor(store: ByteStore, tables: TableCache, space: FileRoom, log: LogWriter) {
    this.store = store
    this.tables = tables
    this.space = space
    this.log = log
    this.capacity = log.capacity
  }

  get inFlight(): number {
    return this.taken
  }

  /** Everything so far is durable. No read begun before the last flush may still be under way. */
  *flush(): Io<void> {
    yield* this.turns.take(() => this.flushNow())
  }

  /** Makes room for more changes; gives no room in the file free. */
  *relieve(): Io<void> {
    yield* this.turns.take(() => this.roundNow())
  }

  /** Leaves a file without a log: everything is in its place. */
  *end(): Io<void> {
    yield* this.flush()
    // What was given up needs one more round to be free.
    while (!this.space.givenUp.isEmpty) yield* this.flush()
    yield* settle(this.store.flush())
    yield* this.log.clear()
    yield* this.space.trim()
    yield* settle(this.store.flush())
  }

  private *flushNow(): Io<void> {
    yield* this.space.retire()
    yield* this.roundNow()
    this.space.givenUp.endFlush()
  }

  private *roundNow(): Io<void> {
    const { store, tables, space } = this
    // From here to the next wait nobody else runs: these belong together.
    const batch = tables.take()
    const pages = batch.pages.map(({ page }) => snapshot(page))
    const released = space.givenUp.takeReleased()
    const { end } = space
    this.taken = pages.length
    let logged = false
    try {
      yield* settle(store.flush())
      if (pages.length === 0) return
      yield* this.log.write(pages, end)
      logged = true
      yield* tables.write(batch)
    } catch (error) {
      // A write of the batch that failed has put it back itself.
      if (!logged) tables.putBack(batch)
      throw error
    } finally {
      if (logged || pages.length === 0) space.givenUp.condemn(released)
      else space.givenUp.putBack(released)
      this.taken = 0
    }
  }
}

function snapshot(page: Page): { at: number; bytes: Uint8Array } {
  return { at: page.at, bytes: page.bytes.slice() }
}
