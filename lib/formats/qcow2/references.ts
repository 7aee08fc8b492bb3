import { type Io, just, Pace } from '../../io/io.ts'
import type { Page } from '../../io/table-cache.ts'
import { COMPRESSED, COPIED, decodeCompressed, offsetOf } from './layout.ts'
import type { Mapping } from './mapping.ts'
import type { Refcounts, Run } from './refcounts.ts'
import type { RootTable } from './root-table.ts'

/** What a walk that changes things needs of a writable image. */
export interface WalkParts {
  readonly mapping: Mapping
  readonly refcounts: Refcounts
  /** writes tables back when they take much memory */
  relieve(): Io<void>
}

/**
 * Visits every run of host clusters that an L1 table refers to: L2 tables, data, compressed data. ["Snapshots"]
 *
 * @param visit answers false to end the walk
 * @throws VdiskError CORRUPT at the first entry that cannot be right
 */
export function* walkReferences(
  mapping: Mapping,
  l1: RootTable,
  visit: (run: Run) => Io<boolean>,
  signal?: AbortSignal,
): Io<void> {
  const { clusterSize } = mapping.header
  const pace = new Pace(signal)
  for (let index = 0; index < l1.length; index++) {
    const tableAt = mapping.tableOffset(index, l1)
    if (tableAt === 0) continue
    yield* pace.keep()
    if (!(yield* visit({ first: tableAt / clusterSize, count: 1 }))) return
    for (let at = tableAt; at < tableAt + clusterSize; at += mapping.tables.pageSize) {
      // The runs of a page are collected before anyone waits: the page may not be in memory afterwards.
      const runs = runsOf(mapping, yield* mapping.loadTable(at, index), index)
      // Clusters of a data file are not counted. ["External data file bit"]
      if (mapping.header.hasDataFile) continue
      for (const run of runs) {
        if (!(yield* visit(run))) return
      }
    }
  }
}

/** What the entries of one page refer to. */
function runsOf(mapping: Mapping, page: Page, l1Index: number): Run[] {
  const { clusterSize, l2EntrySize, clusterBits } = mapping.header
  const perTable = clusterSize / l2EntrySize
  const firstEntry = (page.at % clusterSize) / l2EntrySize
  const runs: Run[] = []
  for (let within = 0; within < page.bytes.length; within += l2EntrySize) {
    const high = page.view.getUint32(within)
    const low = page.view.getUint32(within + 4)
    if (high === 0 && low === 0) continue
    mapping.assertSound(page.view, within, l1Index * perTable + firstEntry + within / l2EntrySize)
    if (high & COMPRESSED) {
      const { at: stored, storedLength } = decodeCompressed(high, low, clusterBits)
      const first = Math.floor(stored / clusterSize)
      runs.push({ first, count: Math.floor((stored + storedLength - 1) / clusterSize) - first + 1 })
    } else if (offsetOf(high, low) !== 0) {
      const first = offsetOf(high, low) / clusterSize
      const last = runs.at(-1)
      if (last && last.first + last.count === first)
        runs[runs.length - 1] = { first: last.first, count: last.count + 1 }
      else runs.push({ first, count: 1 })
    }
  }
  return runs
}

/**
 * Counts everything below an L1 table once more. If one count cannot rise, or an entry cannot be right, or the signal
 * says so, what was added is taken back before the error is thrown.
 */
export function* addReferences(parts: WalkParts, l1: RootTable, signal?: AbortSignal): Io<void> {
  let visited = 0
  try {
    const add = function* (run: Run): Io<boolean> {
      yield* parts.refcounts.change(run, 1)
      visited++
      yield* parts.relieve()
      return true
    }
    yield* walkReferences(parts.mapping, l1, add, signal)
  } catch (error) {
    if (visited === 0) throw error
    yield* walkReferences(parts.mapping, l1, function* (run) {
      if (visited-- <= 0) return false
      yield* parts.refcounts.change(run, -1)
      return true
    })
    throw error
  }
}

/**
 * Gives up everything below an L1 table that no durable pointer leads to any more: the counts fall with the flushes to
 * come, and what nobody else uses goes back to the store.
 */
export function* releaseReferences({ mapping, refcounts }: WalkParts, l1: RootTable): Io<void> {
  const { clusterSize } = mapping.header
  yield* walkReferences(mapping, l1, function* ({ first, count }) {
    refcounts.release(first * clusterSize, count * clusterSize)
    return yield* just(true)
  })
}

/**
 * Makes the COPIED flags below an L1 table say what the counts say: set where the count is one.
 *
 * @param countOf answers the count of a cluster; a walk before a switch of tables can give the count that will be
 */
export function* setCopiedFlags(
  parts: WalkParts,
  l1: RootTable,
  countOf: (number: number) => Io<number>,
  signal?: AbortSignal,
): Io<void> {
  const { mapping } = parts
  const { clusterSize, l2EntrySize } = mapping.header
  const pace = new Pace(signal)
  for (let index = 0; index < l1.length; index++) {
    const tableAt = mapping.tableOffset(index, l1)
    if (tableAt === 0) continue
    yield* pace.keep()
    const owned = (yield* countOf(tableAt / clusterSize)) === 1
    if (owned !== ((l1.high(index) & COPIED) !== 0)) l1.set(index, tableAt, owned ? COPIED : 0)
    // Clusters of a data file are not counted, and always the disk's own. ["External data file bit"]
    if (mapping.header.hasDataFile) continue
    for (let at = tableAt; at < tableAt + clusterSize; at += mapping.tables.pageSize) {
      for (let within = 0; within < mapping.tables.pageSize; within += l2EntrySize) {
        const page = mapping.tables.peek(at) ?? (yield* mapping.loadTable(at, index))
        const high = page.view.getUint32(within)
        const host = offsetOf(high, page.view.getUint32(within + 4))
        // What is off its cluster cannot be right; nobody uses it, so it stays as it is.
        if (high & COMPRESSED || host === 0 || host % clusterSize !== 0) continue
        const single = (yield* countOf(host / clusterSize)) === 1
        if (single === ((high & COPIED) !== 0)) continue
        // Counting may have waited: the page is asked for again, and changed before the next wait.
        const now = yield* mapping.loadTable(at, index)
        now.view.setUint32(within, (single ? high | COPIED : high & ~COPIED) >>> 0)
        mapping.tables.touch(now, within, 4)
      }
      yield* parts.relieve()
    }
  }
}
