import { type Io, settle } from '../../io/io.ts'
import type { Header } from './header.ts'
import type { Qcow2Parts } from './parts.ts'
import { blockOffset, readCount } from './refcount-table.ts'
import type { RootTable } from './root-table.ts'

/** Host clusters taken at a time, so many that an image of 1 TiB needs one turn: 64 MiB for their counts. */
const WINDOW = 16 << 20

/** Clusters of which none has a refcount block, at most, that a window goes on over: there may be nothing at all. */
const UNCOUNTED = 4 << 20

/** In `stored`: the cluster holds a table, so no guest data may lie there. */
export const IS_TABLE = 0x8000
/** Counts end here; higher ones are not told apart. */
export const COUNT_MASK = 0x7fff

export interface CensusWindow {
  /** number of the first host cluster */
  readonly first: number
  /** references found, by cluster */
  readonly counted: Uint16Array
  /** counts of the file, and whether a table lies there */
  readonly stored: Uint16Array
}

/** Clusters that one refcount block counts. */
export function countsPerBlock({ clusterSize, refcountOrder }: Header): number {
  return (clusterSize * 8) / 2 ** refcountOrder
}

/**
 * How many of the clusters first .. end-1 one window takes. A file may be a hole of many terabytes between two refcount blocks,
 * or behind the last one: what refers to a cluster there is seen by the walk over this window, and gets one of its own.
 */
export function windowFrom(first: number, end: number, header: Header, table: RootTable): number {
  const perBlock = countsPerBlock(header)
  const most = Math.min(end, first + WINDOW)
  let counted = first
  for (let index = Math.floor(first / perBlock); index < table.length; index++) {
    if (index * perBlock >= Math.min(most, counted + UNCOUNTED)) break
    if (blockOffset(table, index) !== 0) counted = (index + 1) * perBlock
  }
  return Math.min(most, Math.max(counted, first + UNCOUNTED)) - first
}

/** Reads the counts of a window from the file; where the refcount table leads to no block, they stay zero. */
export function* readStored(
  { header, mapping: { store, space } }: Qcow2Parts,
  table: RootTable,
  { first, stored }: CensusWindow,
): Io<void> {
  const { clusterSize } = header
  const perBlock = countsPerBlock(header)
  const block = new Uint8Array(clusterSize)
  const view = new DataView(block.buffer)
  for (let index = Math.floor(first / perBlock); index * perBlock < first + stored.length; index++) {
    const at = index < table.length ? blockOffset(table, index) : 0
    if (at % clusterSize !== 0 || at < clusterSize || at >= space.length) continue
    const present = Math.min(clusterSize, space.length - at)
    yield* settle(store.read(at, block.subarray(0, present)))
    block.fill(0, present)
    const from = Math.max(0, first - index * perBlock)
    const to = Math.min(perBlock, first + stored.length - index * perBlock)
    for (let i = from; i < to; i++) {
      stored[index * perBlock + i - first] = Math.min(COUNT_MASK, readCount(view, i, 2 ** header.refcountOrder))
    }
  }
}
