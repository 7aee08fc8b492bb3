import type { Inspection } from '../../contracts/inspection.ts'
import type { BoundedStore } from '../../io/bounded-store.ts'
import type { Io } from '../../io/io.ts'
import type { Header } from './header.ts'
import { offsetOf } from './layout.ts'

/** Bytes that are looked at where the image ends. */
const PIECE = 4096

/**
 * Looks whether something lies behind the last cluster that is counted. It may be left over from what was deleted, or
 * have been put there: no reader of the image ever sees it.
 */
export function* inspectEnd(file: BoundedStore, header: Header, inspection: Inspection): Io<void> {
  const end = yield* endOf(file, header)
  if (end === undefined || end >= file.length) return
  const start = yield* file.peek(end, Math.min(PIECE, file.length - end))
  const behind = [start ?? new Uint8Array(0), file.tail.subarray(-Math.min(file.tail.length, file.length - end))]
  if (behind.every((bytes) => bytes.every((byte) => byte === 0))) return
  const place = { structure: 'clusters', at: end, section: 'Host cluster management' }
  inspection.add('TRAILING_DATA', place, `${file.length - end} bytes follow behind the last cluster in use.`)
}

/** Where the last cluster ends that is counted, by the last block of counts; undefined where that cannot be told. */
function* endOf(file: BoundedStore, header: Header): Io<number | undefined> {
  const { clusterSize, refcountTableOffset, refcountTableClusters, refcountOrder } = header
  // Counts that are not kept up to date tell nothing.
  if (header.has('dirty') || header.has('corrupt')) return undefined
  const table = yield* file.peek(refcountTableOffset, refcountTableClusters * clusterSize)
  if (!table) return undefined
  const index = lastUsed(table, 8)
  if (index === undefined) return undefined
  const view = new DataView(table.buffer, table.byteOffset + index * 8, 8)
  const block = yield* file.peek(offsetOf(view.getUint32(0), view.getUint32(4)), clusterSize)
  const perBlock = (clusterSize * 8) / 2 ** refcountOrder
  // Counts of less than a byte: to the byte is near enough, since a file ends with a cluster.
  const width = Math.max(1, 2 ** refcountOrder / 8)
  const last = block && lastUsed(block, width)
  if (last === undefined) return undefined
  const counted = refcountOrder < 3 ? (last + 1) * 2 ** (3 - refcountOrder) : last + 1
  return (index * perBlock + counted) * clusterSize
}

/** Index of the last entry that is not zero. @param width bytes of an entry */
function lastUsed(table: Uint8Array, width: number): number | undefined {
  const at = table.findLastIndex((byte) => byte !== 0)
  return at === -1 ? undefined : Math.floor(at / width)
}
