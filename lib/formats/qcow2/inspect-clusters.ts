import type { Inspection } from '../../contracts/inspection.ts'
import type { BoundedStore } from '../../io/bounded-store.ts'
import type { Io } from '../../io/io.ts'
import type { Header } from './header.ts'
import { COMPRESSED, COPIED, decodeCompressed, offsetOf } from './layout.ts'

/** Bytes of the L1 table that are looked at, L2 tables that are picked from it, and bytes of each. */
const L1_BYTES = 64 << 10
const TABLES = 16
const L2_BYTES = 4096

/** Packed clusters that tell something together, and how many times its room a cluster may unpack to before they do. */
const ENOUGH = 16
const RATIO = 100

/** What a sample of clusters holds. */
interface Sample {
  /** places of clusters that say that nobody else uses them */
  readonly owned: Set<number>
  /** where packed clusters lie, in bytes of the file; the length may reach into the next one */
  readonly packed: { readonly at: number; readonly length: number }[]
}

/**
 * Looks at some of the clusters, spread over the disk: whether they unpack beyond measure, lie in the file, and are
 * each used once. It takes the same for every size of disk, and `check` looks at them all.
 */
export function* inspectClusters(file: BoundedStore, header: Header, inspection: Inspection): Io<void> {
  const sample: Sample = { owned: new Set(), packed: [] }
  for (const at of yield* pickTables(file, header)) {
    const table = yield* file.peek(at, Math.min(header.clusterSize, L2_BYTES))
    const flaw = table ? flawIn(table, file.length, header, sample) : 'It lies outside the file.'
    if (flaw === undefined) continue
    inspection.add('DAMAGED', { structure: 'L2 table', at, section: 'Cluster mapping' }, flaw)
    return
  }
  const unpacked = sample.packed.length * header.clusterSize
  const stored = storedIn(sample)
  if (sample.packed.length < ENOUGH || unpacked < RATIO * stored) return
  const place = { structure: 'packed clusters', section: 'Compressed Clusters Descriptor' }
  const message = `Of ${sample.packed.length} packed clusters that were looked at, ${stored} bytes unpack to ${unpacked}.`
  inspection.add('PACKED_TIGHTLY', place, message)
}

/** Bytes that packed clusters take: each as far as the next one, and two in one place but once. */
function storedIn({ packed }: Sample): number {
  const sorted = packed.toSorted((a, b) => a.at - b.at)
  return sorted.reduce((sum, { at, length }, i) => sum + Math.min(length, (sorted[i + 1]?.at ?? Infinity) - at), 0)
}

/** Places of some L2 tables. */
function* pickTables(file: BoundedStore, { l1TableOffset, l1Size }: Header): Io<number[]> {
  const l1 = yield* file.peek(l1TableOffset, Math.min(l1Size * 8, L1_BYTES))
  if (!l1) return []
  const view = new DataView(l1.buffer, l1.byteOffset, l1.length)
  const places: number[] = []
  for (let at = 0; at < l1.length; at += 8) {
    const place = offsetOf(view.getUint32(at), view.getUint32(at + 4))
    if (place !== 0) places.push(place)
  }
  const step = Math.max(1, Math.floor(places.length / TABLES))
  return places.filter((_, i) => i % step === 0).slice(0, TABLES)
}

/** Takes the entries of a table into the sample. @returns what is wrong with one of them */
function flawIn(table: Uint8Array, fileSize: number, header: Header, sample: Sample): string | undefined {
  const view = new DataView(table.buffer, table.byteOffset, table.length)
  for (let at = 0; at < table.length; at += header.l2EntrySize) {
    const [high, low] = [view.getUint32(at), view.getUint32(at + 4)]
    if ((high & COMPRESSED) !== 0) {
      const { at: place, storedLength: length } = decodeCompressed(high, low, header.clusterBits)
      if (place >= fileSize) return `It names a packed cluster at ${place}, past the end of the file.`
      sample.packed.push({ at: place, length })
      continue
    }
    const place = offsetOf(high, low)
    if (place === 0) continue
    if (place >= fileSize) return `It names a cluster at ${place}, past the end of the file.`
    if ((high & COPIED) === 0) continue
    if (sample.owned.has(place)) return `The cluster at ${place} is used twice, and said to be used once.`
    sample.owned.add(place)
  }
  return undefined
}
