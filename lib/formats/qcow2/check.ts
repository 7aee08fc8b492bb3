import type { CheckReport } from '../../contracts/check-report.ts'
import { isVdiskError } from '../../errors.ts'
import { type Io, just } from '../../io/io.ts'
import { Census } from './census.ts'
import { type CensusWindow, COUNT_MASK } from './census-window.ts'
import type { Qcow2Parts } from './parts.ts'
import { readRefcountTable } from './refcount-table.ts'
import type { RootTable } from './root-table.ts'
import { strayCounts } from './stray-counts.ts'
import { TablePlaces } from './table-places.ts'
import { findTables } from './table-survey.ts'

/** Wrong clusters whose guest ranges are looked up in a second walk. */
const EXPLAINED = 1000

/**
 * Compares the references that exist with the counts that are stored, and looks at every entry on the way.
 *
 * Findings name the place in the file and, where guest data is concerned, the range of the disk.
 */
export function* checkQcow2(parts: Qcow2Parts, report: CheckReport): Io<void> {
  const { header, mapping, bitmaps } = parts
  checkFlags(parts, report)
  checkUnreadable(parts, report)
  const table = yield* readRefcountTable(mapping.store, header, mapping.space)
  const census = new Census(parts, table, (finding) => report.add(finding))
  // Behind the last cluster that is counted or referred to there is nothing, however long the file says it is. Packed data
  // may claim more sectors than there are, and those are its own.
  const clusters = (): number => Math.min(Math.max(census.clusters, census.packedEnd), census.reach)
  const wrong = new Map<number, { stored: number; counted: number; told: boolean }>()
  for (let first = 0; first < clusters(); ) {
    const count = census.windowFrom(first, clusters())
    const window = yield* census.count(first, count, (done, total) =>
      report.advance((first + (count * done) / total) / clusters(), 1),
    )
    compareWindow(window, header.clusterSize, wrong, report)
    first = census.nextFrom(first + count)
  }
  const behind = Math.max(clusters(), census.highest + 1)
  if (wrong.size > 0) yield* explain(census, wrong, header.clusterSize, report)
  yield* strayCounts(parts, table, behind, (number, stored) =>
    just(noteWrong(number, stored, 0, header.clusterSize, report)),
  )
  if (report.counts.error === 0) yield* checkPlaces(parts, table, report)
  for (const bitmap of bitmaps.list()) {
    if (bitmap.consistent) continue
    report.add({
      code: 'BITMAP_INCONSISTENT',
      severity: 'warning',
      structure: 'bitmap directory',
      message: `bitmap "${bitmap.name}" was not saved by its last writer: whoever asks it must treat everything as changed`,
    })
  }
}

/** What keeps a writer away is damage, even where the counts agree with it: two tables in one place, counted twice. */
function* checkPlaces(parts: Qcow2Parts, table: RootTable, report: CheckReport): Io<void> {
  try {
    yield* findTables(parts, table, true, new TablePlaces(parts.header.clusterSize))
  } catch (error) {
    if (!isVdiskError(error, 'CORRUPT')) throw error
    const { structure = '', at } = error.where
    report.add({ code: 'TABLES_OVERLAP', severity: 'error', structure, at, message: error.message })
  }
}

function checkFlags({ header }: Qcow2Parts, report: CheckReport): void {
  if (header.has('corrupt')) {
    report.add({
      code: 'MARKED_CORRUPT',
      severity: 'error',
      structure: 'header',
      at: 72,
      message: 'the image is marked as corrupt: an earlier writer found its tables damaged',
    })
  }
  if (header.has('dirty')) {
    report.add({
      code: 'MARKED_DIRTY',
      severity: 'warning',
      structure: 'header',
      at: 72,
      message:
        'the image was not closed: its counts are out of date, and are made anew when it is next opened for writing',
    })
  }
}

/** Tables of which nothing can be read: what they refer to will look lost. */
function checkUnreadable({ bitmaps, snapshots }: Qcow2Parts, report: CheckReport): void {
  // After a writer that knows no bitmaps nobody counts on their directory, and data may lie there.
  const told = [
    ['SNAPSHOT_TABLE_INVALID', snapshots.problem, 'error'],
    ['BITMAP_DIRECTORY_INVALID', bitmaps.problem, bitmaps.isValid ? 'error' : 'warning'],
  ] as const
  for (const [code, problem, severity] of told) {
    if (!problem) continue
    const { structure = '', at } = problem.where
    report.add({ code, severity, structure, at, message: problem.message })
  }
}

/** Counts too low are errors, and remembered until their guest ranges are known; counts too high are leaks. */
function compareWindow(
  window: CensusWindow,
  clusterSize: number,
  wrong: Map<number, { stored: number; counted: number; told: boolean }>,
  report: CheckReport,
): void {
  for (let i = 0; i < window.counted.length; i++) {
    const counted = window.counted[i] as number
    const stored = (window.stored[i] as number) & COUNT_MASK
    if (counted === stored || (counted > COUNT_MASK && stored === COUNT_MASK)) continue
    const number = window.first + i
    if (counted > stored && wrong.size < EXPLAINED) {
      wrong.set(number, { stored, counted, told: false })
      continue
    }
    noteWrong(number, stored, counted, clusterSize, report)
  }
}

function noteWrong(number: number, stored: number, counted: number, clusterSize: number, report: CheckReport): void {
  report.add({
    code: counted > stored ? 'REFCOUNT_TOO_LOW' : 'LEAKED_CLUSTER',
    severity: counted > stored ? 'error' : 'leak',
    structure: 'refcount block',
    at: number * clusterSize,
    message: sentence(stored, counted),
  })
}

/** Walks once more, to say whose data the wrong clusters hold. */
function* explain(
  census: Census,
  wrong: Map<number, { stored: number; counted: number; told: boolean }>,
  clusterSize: number,
  report: CheckReport,
): Io<void> {
  yield* census.revisit(({ cluster, guestOffset: guest, structure }) => {
    const found = wrong.get(cluster)
    if (!found) return
    found.told = true
    report.add({
      code: found.stored === 0 ? 'REFCOUNT_MISSING' : 'REFCOUNT_TOO_LOW',
      severity: 'error',
      structure: `refcount block; referred to by ${structure}`,
      at: cluster * clusterSize,
      guest: guest === undefined ? undefined : { offset: guest, length: clusterSize },
      message: sentence(found.stored, found.counted),
    })
  })
}

function sentence(stored: number, counted: number): string {
  return counted > stored
    ? `a cluster is referred to ${times(counted)} but counted ${times(stored)}: the next write may overwrite it`
    : `a cluster is counted ${times(stored)} but referred to ${times(counted)}: its room is lost`
}

function times(count: number): string {
  return count === 0 ? 'not at all' : count === 1 ? 'once' : `${count} times`
}
