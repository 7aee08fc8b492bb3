import { ceilDiv } from '../../bytes/align.ts'
import { VdiskError } from '../../errors.ts'
import { type Io, just, Pace, settle } from '../../io/io.ts'
import { Census } from './census.ts'
import { COUNT_MASK } from './census-window.ts'
import { INCOMPATIBLE } from './layout.ts'
import type { Qcow2Parts } from './parts.ts'
import type { Refcounts } from './refcounts.ts'
import { setCopiedFlags } from './references.ts'
import { strayCounts } from './stray-counts.ts'

/** Bytes of changed counts that are held at most. */
const CHANGES = 16 << 20

/** Counts set between two looks at the clock. */
const STRIDE = 4096

/** Bytes by which a crash may leave the shortest file too short. */
const UNFLUSHED = 1 << 30

/** How far the tables of a file of `length` bytes may reach when it was not closed: not all of it need be durable. */
export function reachAfterCrash(length: number): number {
  return length + Math.max(length, UNFLUSHED)
}

/**
 * Makes the reference counts anew from the references, for an image that was not closed under lazy refcounts.
 * ["Header", dirty bit]
 *
 * Then the flags for writing in place are made to fit the counts: a cluster that is found in use twice must not be
 * written in place.
 */
export function* rebuildRefcounts(parts: Qcow2Parts, refcounts: Refcounts): Io<void> {
  const { header, mapping } = parts
  const { signal } = parts.image
  const clusters = yield* clustersInUse(parts, refcounts)
  assertNear(parts, clusters)
  yield* recount(parts, refcounts, clusters)
  const walk = { mapping, refcounts, relieve: () => just(undefined) }
  yield* setCopiedFlags(walk, mapping.l1, (number) => refcounts.get(number), signal)
  yield* mapping.tables.write(mapping.tables.take())
  for (const { at, bytes } of mapping.l1.take()) yield* settle(mapping.store.write(at, bytes))
  yield* settle(mapping.store.flush())
  header.incompatible &= ~INCOMPATIBLE.dirty
  yield* header.write(mapping.store)
}

/** Clusters up to the last one that there is, or that anything refers to. */
export function* clustersInUse(parts: Qcow2Parts, refcounts: Refcounts): Io<number> {
  const survey = new Census(parts, refcounts.root, () => {}, new Pace(parts.image.signal))
  yield* survey.count(0, Math.min(1, survey.clusters), () => {})
  return Math.max(survey.clusters, survey.highest + 1)
}

/**
 * Sets the counts to what the references say, durably.
 *
 * New refcount blocks go behind everything that any table refers to, even where that lies past the end of the file:
 * a block placed on a mapped cluster would be read by the guest as its data.
 *
 * @param clusters see `clustersInUse`
 * @param how raise: only counts that are too low; what is too high may still have a pointer on the medium
 */
export function* recount(
  parts: Qcow2Parts,
  refcounts: Refcounts,
  clusters: number,
  how: 'exact' | 'raise' = 'exact',
): Io<void> {
  const pace = new Pace(parts.image.signal)
  refcounts.reserveUpTo(clusters)
  for (let first = 0; first < clusters; ) {
    const census = new Census(parts, refcounts.root, () => {}, pace)
    const count = census.windowFrom(first, clusters)
    const { counted, stored } = yield* census.count(first, count, () => {})
    // Where nothing is counted and nothing referred to, all is right: the file may be one hole of many terabytes.
    const end = Math.min(count, census.reach - first)
    for (let i = 0; i < end; i++) {
      if (i % STRIDE === 0) yield* pace.keep()
      const wanted = counted[i] as number
      const known = (stored[i] as number) & COUNT_MASK
      if (wanted === known || (how === 'raise' && wanted < known)) continue
      yield* refcounts.set(first + i, wanted)
      // Nobody relies on counts before the last of them is right, so they need not stay in memory.
      if (refcounts.changedBytes > CHANGES) yield* refcounts.writeChanges()
    }
    yield* refcounts.writeNewBlocks()
    // A table that was outgrown is gone for good; the next window must not find its room in use twice.
    refcounts.givenUp.condemn(refcounts.givenUp.takeReleased())
    refcounts.givenUp.endFlush()
    yield* refcounts.retire()
    first = census.nextFrom(first + count)
  }
  yield* refcounts.writeChanges()
  if (how === 'exact') yield* forgetStrays(parts, refcounts)
  yield* settle(parts.mapping.store.flush())
}

/** Behind the end of the file nothing is in use. */
function* forgetStrays(parts: Qcow2Parts, refcounts: Refcounts): Io<void> {
  const { header, mapping } = parts
  yield* strayCounts(parts, refcounts.root, ceilDiv(mapping.space.end, header.clusterSize), function* (number) {
    yield* refcounts.set(number, 0)
    if (refcounts.changedBytes > CHANGES) yield* refcounts.writeChanges()
  })
  yield* refcounts.writeChanges()
}

/** An entry that leads far beyond is damaged: to keep room for it would take hours, and a file of that length. */
function assertNear({ header, mapping }: Qcow2Parts, clusters: number): void {
  const { length: end } = mapping.space
  if (clusters * header.clusterSize <= reachAfterCrash(end)) return
  throw new VdiskError('CORRUPT', {
    message: `Cannot write ${header.file}: it was not closed, and refers to a place far past its end of ${end} bytes`,
    where: {
      file: header.file,
      structure: 'L2 table',
      at: (clusters - 1) * header.clusterSize,
      section: 'Header, dirty bit',
    },
    advice: 'It can still be read and checked: vdisk check IMAGE. To save what it holds: vdisk convert',
  })
}
