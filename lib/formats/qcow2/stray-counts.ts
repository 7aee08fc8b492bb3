import { NumberSet } from '../../bytes/number-set.ts'
import { type Io, Pace, settle } from '../../io/io.ts'
import { countsPerBlock } from './census-window.ts'
import type { Qcow2Parts } from './parts.ts'
import { blockOffset, readCount } from './refcount-table.ts'
import type { RootTable } from './root-table.ts'

/** Bytes of counts that are looked at together. */
const PIECE = 512
const ZEROS = Buffer.alloc(PIECE)

/**
 * Tells each cluster from `first` on that is counted, of a file where nothing refers to any of them: the file ends before
 * it. Harmless until the file grows that far; then its room is lost.
 */
export function* strayCounts(
  { header, mapping: { store, space }, image }: Qcow2Parts,
  table: RootTable,
  first: number,
  visit: (number: number, count: number) => Io<void>,
): Io<void> {
  const { clusterSize } = header
  const perBlock = countsPerBlock(header)
  const pace = new Pace(image.signal)
  const bits = 2 ** header.refcountOrder
  const perPiece = (PIECE * 8) / bits
  const block = new Uint8Array(clusterSize)
  const view = new DataView(block.buffer)
  // A table may lead to one block many times: then it is wrong in a way that is told elsewhere.
  const seen = new NumberSet()
  for (let index = Math.floor(first / perBlock); index < table.length; index++) {
    const at = blockOffset(table, index)
    if (at % clusterSize !== 0 || at < clusterSize || at >= space.length || seen.has(at)) continue
    seen.add(at)
    yield* pace.keep()
    const present = Math.min(clusterSize, space.length - at)
    yield* settle(store.read(at, block.subarray(0, present)))
    block.fill(0, present)
    for (let i = Math.max(0, first - index * perBlock); i < perBlock; i++) {
      // Most counts behind the end of a file are zero.
      const at = (i * bits) / 8
      if (i % perPiece === 0 && ZEROS.compare(block, at, at + PIECE) === 0) {
        i += perPiece - 1
        continue
      }
      const count = readCount(view, i, bits)
      if (count !== 0) yield* visit(index * perBlock + i, count)
    }
  }
}
