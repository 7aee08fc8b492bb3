import type { NumberSet } from '../../../bytes/number-set.ts'
import { type Io, Pace, settle } from '../../../io/io.ts'
import { Census, type Reference } from '../census.ts'
import { COMPRESSED, COPIED, offsetOf } from '../layout.ts'
import { nameOf } from './roots.ts'
import type { RepairWork } from './work.ts'

/**
 * Clusters that several places of a disk have in common, although nobody shared them: what is written to the one changes the
 * other. Each gets bytes of its own, as they are now; which of the two wrote them nobody can tell, so both are doubtful.
 *
 * A disk and its snapshots have clusters in common too, but each has them at the same place of its disk. And whoever shares a
 * cluster on purpose counts it as often as it is used, so only those are looked at that were not.
 */

/** Copies that are made before they become durable together. */
const BATCH = 64

/** A reference that has to lead to a cluster of its own. */
interface Link {
  /** where the cluster is that it leads to now */
  readonly from: number
  /** bytes in the file: the L1 or L2 entry */
  readonly at: number
  readonly guestOffset: number
  readonly snapshot: string | undefined
  /** another that leads there too */
  readonly other: Pick<Reference, 'guestOffset' | 'snapshot' | 'at'>
}

/** @param suspects numbers of host clusters; what a copied table leads to is added */
export function* separate(work: RepairWork, suspects: NumberSet): Io<void> {
  if (suspects.size === 0) return
  for (const link of yield* findLinks(work, suspects, 'table')) yield* copyTable(work, link, suspects)
  const links = yield* findLinks(work, suspects, 'data')
  for (let first = 0; first < links.length; first += BATCH) {
    yield* copyData(work, links.slice(first, first + BATCH))
  }
}

/** The first that refers to a cluster keeps it; packed data stays where it is, for it is never written in place. */
function* findLinks(work: RepairWork, suspects: NumberSet, kind: 'table' | 'data'): Io<Link[]> {
  const owners = new Map<number, Reference>()
  const links = new Map<number, Link>()
  const census = new Census(work.parts, work.refcounts.root, () => {}, new Pace(work.parts.image.signal))
  const { clusterSize } = work.header
  const link = (one: Reference, other: Reference): void => {
    if (one.at === undefined || one.guestOffset === undefined) return
    const { at, guestOffset, snapshot } = one
    links.set(at, { from: one.cluster * clusterSize, at, guestOffset, snapshot, other })
  }
  yield* census.revisit((reference) => {
    const { cluster, kind: found, guestOffset } = reference
    if (!suspects.has(cluster) || guestOffset === undefined) return
    if (kind === 'table' ? found !== 'table' : found === 'table') return
    const owner = owners.get(cluster)
    if (!owner) owners.set(cluster, reference)
    else if (owner.guestOffset === guestOffset) return
    else if (found !== 'packed') link(reference, owner)
    else if (owner.kind !== 'packed') {
      link(owner, reference)
      owners.set(cluster, reference)
    }
  })
  return [...links.values()]
}

function* copyTable(work: RepairWork, link: Link, suspects: NumberSet): Io<void> {
  const { header, mapping, refcounts, layer } = work
  const { clusterSize, l2EntrySize, l2Span } = header
  yield* tell(work, link, l2Span, nameOf(link.snapshot), 'L2 table')
  const bytes = yield* readCluster(work, link.from)
  const { at } = yield* refcounts.allocate(1, true)
  // What lay there may have been a table that was given up.
  mapping.tables.drop(at, clusterSize)
  yield* settle(mapping.store.write(at, bytes))
  const view = new DataView(bytes.buffer)
  for (let within = 0; within < clusterSize; within += l2EntrySize) {
    const [high, low] = [view.getUint32(within), view.getUint32(within + 4)]
    if ((high & COMPRESSED) === 0 && offsetOf(high, low) !== 0) suspects.add(offsetOf(high, low) / clusterSize)
  }
  if (link.snapshot === undefined) {
    // The flush makes copy and count durable before it writes the entry.
    mapping.l1.set((link.at - mapping.l1.at) / 8, at, COPIED)
    mapping.places.addL2(at)
    yield* layer.flush()
    return
  }
  yield* layer.flush()
  const entry = new Uint8Array(8)
  new DataView(entry.buffer).setBigUint64(0, BigInt(at))
  yield* settle(mapping.store.write(link.at, entry))
  yield* settle(mapping.store.flush())
  mapping.places.addShared(at)
}

function* copyData(work: RepairWork, links: readonly Link[]): Io<void> {
  const { header, mapping, refcounts, layer } = work
  const copies: { link: Link; at: number }[] = []
  for (const link of links) {
    yield* tell(work, link, header.clusterSize, 'L2 table', 'cluster')
    const bytes = yield* readCluster(work, link.from)
    const { at } = yield* refcounts.allocate(1, true)
    yield* settle(mapping.store.write(at, bytes))
    copies.push({ link, at })
  }
  // The flush makes data and counts durable before it writes the entries.
  for (const { link, at } of copies) {
    const page = yield* mapping.tables.load(link.at)
    const within = link.at - page.at
    const flags = page.view.getUint32(within + 4) & 0x1ff
    page.view.setUint32(within, (Math.floor(at / 2 ** 32) | COPIED) >>> 0)
    page.view.setUint32(within + 4, ((at % 2 ** 32) | flags) >>> 0)
    mapping.tables.touch(page, within, 8)
  }
  yield* layer.flush()
}

/** Both ends are doubtful, and each is told. */
function* tell(work: RepairWork, link: Link, length: number, structure: string, what: string): Io<void> {
  const { guestOffset, snapshot, other, from, at } = link
  const ends = [
    { guestOffset, snapshot, at, done: `the ${what} at ${from} is used here and elsewhere: here it has a copy now` },
    { ...other, done: `the ${what} at ${from} was used here and elsewhere: here it stays` },
  ]
  for (const end of ends) {
    const table = end.snapshot === undefined ? undefined : work.parts.snapshots.tableOf(end.snapshot)
    yield* work.change({
      code: 'CROSS_LINKED',
      structure,
      at: end.at,
      doubtful: work.range(table, end.guestOffset ?? 0, length),
      message: end.done,
    })
  }
}

function* readCluster({ header: { clusterSize }, mapping }: RepairWork, at: number): Io<Uint8Array> {
  const bytes = new Uint8Array(clusterSize)
  const present = Math.max(0, Math.min(clusterSize, mapping.space.length - at))
  if (present > 0) yield* settle(mapping.store.read(at, bytes.subarray(0, present)))
  return bytes
}
