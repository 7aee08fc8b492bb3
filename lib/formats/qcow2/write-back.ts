import { type Io, settle, Turns } from '../../io/io.ts'
import type { Batch } from '../../io/table-cache.ts'
import type { Allocation } from './allocation.ts'
import type { Mapping } from './mapping.ts'
import type { Refcounts } from './refcounts.ts'

/**
 * Makes data and metadata durable, in an order of which every prefix is a sound image.
 *
 *   data, counts, refcount table, new L2 tables → F → L2 entries, L1 entries → F; where there are new refcount blocks,
 *   all counts → F before that
 *
 * So a pointer becomes durable only when its target and the target's count are; what a crash leaves behind are
 * counts too high, never too low. Counts fall one flush after the pointers are gone (see `Retirement`), and only then
 * is the room given back. ["Host cluster management"; the order is QEMU's for an existing L2 table]
 */
export class WriteBack {
  private readonly mapping: Mapping
  private readonly refcounts: Refcounts
  private readonly allocation: Allocation
  private readonly turns = new Turns()

  constructor(mapping: Mapping, refcounts: Refcounts, allocation: Allocation) {
    this.mapping = mapping
    this.refcounts = refcounts
    this.allocation = allocation
  }

  /** Everything so far is durable. No read begun before the last flush may still be under way. */
  *flush(): Io<void> {
    yield* this.turns.take(() => this.flushNow())
  }

  /** Writes back because memory fills up; gives no room free. */
  *relieve(): Io<void> {
    yield* this.turns.take(() => this.round())
  }

  private *flushNow(): Io<void> {
    const flaw = yield* this.refcounts.retire()
    yield* this.round()
    this.refcounts.givenUp.endFlush()
    if (flaw) throw flaw
  }

  private *round(): Io<void> {
    const { mapping, refcounts, allocation } = this
    const { store, dataStore, tables, l1 } = mapping
    while (refcounts.hasNewBlocks) yield* refcounts.writeNewBlocks()
    // From here to the next wait nobody else runs: these belong together.
    const { clusterSize } = mapping.header
    const newTables = new Set(allocation.newTables)
    allocation.newTables.clear()
    const newPages = tables.take((page) => newTables.has(page.at - (page.at % clusterSize)))
    const pages = tables.take()
    const roots = l1.take()
    const released = refcounts.givenUp.takeReleased()
    // Batches that no write has taken charge of yet.
    const waiting = new Set([newPages, pages])
    const write = (batch: Batch): Io<void> => {
      waiting.delete(batch)
      return tables.write(batch)
    }
    try {
      yield* refcounts.writeChanges()
      yield* write(newPages)
      if (dataStore !== store) yield* settle(dataStore.flush())
      yield* settle(store.flush())
      yield* write(pages)
      for (const { at, bytes } of roots) yield* settle(store.write(at, bytes))
      if (pages.runs.length > 0 || roots.length > 0) yield* settle(store.flush())
    } catch (error) {
      for (const at of newTables) allocation.newTables.add(at)
      for (const batch of waiting) tables.putBack(batch)
      l1.putBack(roots)
      refcounts.givenUp.putBack(released)
      throw error
    }
    refcounts.givenUp.condemn(released)
  }
}
