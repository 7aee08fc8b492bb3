import { ceilDiv } from '../../../bytes/align.ts'
import { NumberSet } from '../../../bytes/number-set.ts'
import { VdiskError } from '../../../errors.ts'
import { type Io, just, Pace } from '../../../io/io.ts'
import { Census } from '../census.ts'
import { COUNT_MASK } from '../census-window.ts'
import type { Header } from '../header.ts'
import { LIMIT } from '../layout.ts'
import { clustersInUse, recount } from '../rebuild.ts'
import { RootTable } from '../root-table.ts'
import { strayCounts } from '../stray-counts.ts'
import type { RepairWork } from './work.ts'

/** Clusters that may turn out to be in use twice, which are looked at one by one; what is beyond is counted, and no more. */
const SUSPECTS = 1 << 20

/** How the stored counts differ from the references. */
export interface Comparison {
  /** clusters counted less often than they are referred to */
  readonly low: number
  readonly high: number
  /** clusters with several references of which not all are counted, or that an entry calls its own against its count */
  readonly suspects: NumberSet
}

/** Compares the references that there are with the counts that are stored. */
export function* compareCounts(work: RepairWork): Io<Comparison> {
  const { parts, refcounts } = work
  const clusters = yield* clustersInUse(parts, refcounts)
  const suspects = new NumberSet()
  let [low, high] = [0, 0]
  const note = (_: unknown, cluster?: number): void => {
    if (cluster !== undefined && suspects.size < SUSPECTS) suspects.add(cluster)
  }
  const census = new Census(parts, refcounts.root, note, new Pace(parts.image.signal))
  for (let first = 0; first < clusters; ) {
    const count = census.windowFrom(first, clusters)
    const window = yield* census.count(first, count, (done, total) => work.report.advance(done, total))
    // Behind it nothing is counted or referred to: the file may be one hole of many terabytes.
    const end = Math.min(count, census.reach - first)
    for (let i = 0; i < end; i++) {
      const counted = window.counted[i] as number
      const stored = (window.stored[i] as number) & COUNT_MASK
      if (counted === stored || (counted > COUNT_MASK && stored === COUNT_MASK)) continue
      if (counted > stored) low++
      else high++
      if (counted > stored && counted > 1 && suspects.size < SUSPECTS) suspects.add(first + i)
    }
    first = census.nextFrom(first + count)
  }
  yield* strayCounts(parts, refcounts.root, clusters, () => just(void high++))
  return { low, high, suspects }
}

/** Counts that are too low rise, durably: nothing that is in use can be taken for free any more. */
export function* raiseCounts(work: RepairWork, low: number): Io<void> {
  yield* work.change({
    code: 'REFCOUNT_TOO_LOW',
    structure: 'refcount block',
    message: `${clusters(low)} counted less often than referred to: the counts say now what is so`,
  })
  yield* recount(work.parts, work.refcounts, yield* clustersInUse(work.parts, work.refcounts), 'raise')
}

/** Counts that are too high fall. Nothing on the medium may refer any more to what becomes free. */
export function* lowerCounts(work: RepairWork, high: number): Io<void> {
  yield* work.change({
    code: 'LEAKED_CLUSTER',
    structure: 'refcount block',
    message: `${clusters(high)} counted more often than referred to: what nobody uses is free again`,
  })
  yield* recount(work.parts, work.refcounts, yield* clustersInUse(work.parts, work.refcounts))
}

/**
 * Makes all counts anew in a table of their own, behind everything that the file holds or that anything refers to; the
 * header names it when it is complete. Until then the old counts stay as they are, and where they lay is free afterwards.
 */
export function* countAnew(work: RepairWork, why: string): Io<void> {
  const { parts, refcounts, header } = work
  const { clusterSize, refcountTableOffset: at } = header
  const first = yield* clustersInUse(parts, refcounts)
  const tableClusters = tableFor(first, header)
  const message = `the reference counts cannot be used, ${why}: they are made anew in another place`
  yield* work.change({ code: 'REFCOUNT_TABLE_INVALID', structure: 'refcount table', at, message })
  refcounts.beginAnew(new RootTable(first * clusterSize, new Uint8Array(tableClusters * clusterSize)))
  yield* recount(parts, refcounts, first + tableClusters)
  yield* refcounts.adopt()
}

/**
 * Clusters of a table that counts `first` clusters, and what comes behind them: table and blocks.
 *
 * @throws VdiskError LIMIT_EXCEEDED where that is more than a table may have
 */
function tableFor(first: number, { file, clusterSize, refcountOrder }: Header): number {
  const perBlock = (clusterSize * 8) / 2 ** refcountOrder
  let [blocks, tableClusters] = [0, 0]
  // Until they fit each other.
  for (let before = -1; before !== blocks; ) {
    before = blocks
    tableClusters = Math.max(1, ceilDiv(blocks * 8, clusterSize))
    blocks = ceilDiv(first + tableClusters + blocks, perBlock)
  }
  if (tableClusters === 1 || tableClusters * clusterSize <= LIMIT.refcountTableBytes) return tableClusters
  throw new VdiskError('LIMIT_EXCEEDED', {
    message: `Cannot repair ${file}: its counts have to be made anew, and clusters of ${clusterSize} bytes are too small to count ${first * clusterSize} bytes`,
    where: { file, structure: 'refcount table', section: 'Host cluster management' },
    advice: 'What it holds can be saved: vdisk convert IMAGE COPY --format qcow2',
  })
}

function clusters(count: number): string {
  return count === 1 ? 'a cluster is' : `${count} clusters are`
}
