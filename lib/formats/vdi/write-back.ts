import { type Io, settle, Turns } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import type { TableCache } from '../../io/table-cache.ts'
import type { Header } from './header.ts'
import type { Space } from './space.ts'

/**
 * Makes data and map durable, in an order of which every prefix is a sound image.
 *
 *   data, and the header's count of blocks where it rises → F → entries of the map → F
 *
 * So an entry never names a block that is not there, nor one that the header does not count: other programs put their next
 * block behind the last that is counted. `modified` changed before the first data (`Session`). The count goes down, and the
 * file is cut, only when no entry on the medium names what goes (`compact.ts`).
 *
 * What of a new block was not written is a hole in the file, so a first write costs what was written and no whole block:
 * room beyond the end of the file reads as zero, and what lay in the file before is punched first.
 */
export class WriteBack {
  private readonly store: ByteStore
  private readonly header: Header
  private readonly tables: TableCache
  private readonly space: Space
  private readonly turns = new Turns()

  constructor(store: ByteStore, header: Header, tables: TableCache, space: Space) {
    this.store = store
    this.header = header
    this.tables = tables
    this.space = space
  }

  /** Everything so far is durable. No read begun before the last flush may still be under way. */
  *flush(): Io<void> {
    yield* this.turns.take(() => this.flushNow())
  }

  /** Everything so far is durable; gives no room in the file free. */
  *commit(): Io<void> {
    yield* this.turns.take(() => this.roundNow())
  }

  /** Works while nothing is written back. `work` may not call `flush` or `commit`. */
  *alone<T>(work: () => Io<T>): Io<T> {
    return yield* this.turns.take(work)
  }

  private *flushNow(): Io<void> {
    yield* this.space.room.retire()
    yield* this.roundNow()
    this.space.givenUp.endFlush()
  }

  private *roundNow(): Io<void> {
    const { store, tables, space, header } = this
    // From here to the next wait nobody else runs: these belong together.
    const batch = tables.take()
    const released = space.givenUp.takeReleased()
    const { count } = space
    let isWritten = false
    try {
      if (count > header.fields.blocksAllocated) yield* header.write(store, { blocksAllocated: count })
      yield* settle(store.flush())
      if (batch.pages.length > 0) {
        isWritten = true
        yield* tables.write(batch)
        yield* settle(store.flush())
      }
      space.givenUp.condemn(released)
    } catch (error) {
      // A write of the batch that failed has put it back itself.
      if (!isWritten) tables.putBack(batch)
      space.givenUp.putBack(released)
      throw error
    }
  }
}
