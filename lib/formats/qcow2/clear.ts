import { ceilDiv, roundUp } from '../../bytes/align.ts'
import { type Io, just, settle } from '../../io/io.ts'
import type { Qcow2Editor } from './editor.ts'
import { switchL1 } from './l1-switch.ts'
import { SECTOR } from './layout.ts'
import type { Qcow2Parts } from './parts.ts'
import { walkReferences } from './references.ts'
import { refuseImpossibleSize } from './resize.ts'
import { RootTable } from './root-table.ts'

/**
 * Empties the disk, durably and in one step: the header names an L1 table without entries. Nobody writes meanwhile.
 *
 * @param size bytes; rounded up to sectors, as for a new image
 * @throws VdiskError CORRUPT, before anything has changed, if an entry cannot be right: to release what it says could
 * take from somebody else what is in use
 */
export function* clearImage(
  layer: Qcow2Editor,
  parts: Qcow2Parts,
  size: number,
  signal: AbortSignal | undefined,
): Io<void> {
  const { header, mapping } = parts
  const after = roundUp(size, SECTOR)
  if (after !== header.size) refuseImpossibleSize(layer, parts, after)
  yield* walkReferences(mapping, mapping.l1, () => just(true), signal)
  yield* layer.session.beginContent()
  yield* layer.flush()
  yield* switchL1(layer, yield* emptyTable(layer, ceilDiv(after, header.l2Span)), after)
  if (mapping.dataStore !== layer.store) yield* emptyDataFile(parts, after)
}

/** An L1 table of no entries has no place. */
function* emptyTable(layer: Qcow2Editor, entries: number): Io<RootTable> {
  if (entries === 0) return new RootTable(0, new Uint8Array(0))
  const { refcounts, granularity } = layer
  const table = new RootTable(
    (yield* refcounts.allocate(ceilDiv(entries * 8, granularity), true)).at,
    new Uint8Array(entries * 8),
  )
  try {
    yield* settle(layer.store.write(table.at, table.bytes))
    yield* layer.flush()
  } catch (error) {
    refcounts.release(table.at, table.bytes.length)
    throw error
  }
  return table
}

/** No table says of the data file any more that there is something in it. */
function* emptyDataFile({ mapping: { dataStore } }: Qcow2Parts, size: number): Io<void> {
  const length = yield* settle(dataStore.size())
  if (length > 0 && dataStore.deallocate) yield* settle(dataStore.deallocate(0, length))
  yield* settle(dataStore.truncate(size))
  yield* settle(dataStore.flush())
}
