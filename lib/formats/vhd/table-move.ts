import { type Io, type Pace, settle } from '../../io/io.ts'
import { Batmap } from './batmap.ts'
import type { VhdEditor } from './editor.ts'
import { ENTRY, SECTOR, tableLength } from './layout.ts'

/** Entries per write. */
const STRIDE = 1 << 16

/** Room for a BAT of so many entries, none of which says anything, and for the batmap behind it. Nothing points there yet. */
export function* emptyTable({ space, store, structure }: VhdEditor, entries: number): Io<number> {
  const { batmap } = structure
  const length = tableLength(entries)
  const at = yield* space.allocate(length + (batmap ? Batmap.lengthFor(entries) : 0))
  const ones = new Uint8Array(Math.min(length, STRIDE * ENTRY)).fill(0xff)
  for (let done = 0; done < length; done += ones.length) {
    yield* settle(store.write(at + done, ones.subarray(0, length - done)))
  }
  if (batmap) yield* settle(store.write(at + length, batmap.emptyFor(entries, at + length)))
  return at
}

/**
 * Gives the BAT more entries: a copy takes its place, durably, with one sector of the header.
 *
 * @param pace whoever waits for it may end it before that
 */
export function* enlargeTable(layer: VhdEditor, entries: number, pace: Pace): Io<void> {
  const { store, structure } = layer
  const { table, footer } = structure
  const at = yield* emptyTable(layer, entries)
  const bytes = new Uint8Array(STRIDE * ENTRY)
  for (let first = 0; first < table.blocks; first += STRIDE) {
    yield* pace.keep()
    const end = Math.min(table.blocks, first + STRIDE)
    yield* table.walk(first, end, (view, index, count) => {
      bytes.set(new Uint8Array(view.buffer, view.byteOffset, count * ENTRY), (index - first) * ENTRY)
    })
    yield* settle(store.write(at + first * ENTRY, bytes.subarray(0, (end - first) * ENTRY)))
  }
  // What the copy points at must be durable before it is.
  yield* settle(store.flush())
  const header = structure.header.with({ tableOffset: at, entryCount: entries })
  yield* settle(store.write(footer.fields.dataOffset, header.bytes.subarray(0, SECTOR)))
  yield* settle(store.flush())
  structure.header = header
  yield* adoptTable(layer)
}

/** The mapping goes by the BAT that the header names now. */
export function* adoptTable({ store, structure, space }: VhdEditor): Io<void> {
  const { table, header, batmap } = structure
  const { tableOffset, entryCount } = header.fields
  const before = table.shape.tableAt
  table.entries.drop(before, tableLength(table.shape.entryCount))
  table.entries.drop(tableOffset, tableLength(entryCount))
  table.shape.tableAt = tableOffset
  table.shape.entryCount = entryCount
  table.forgetAll()
  if (batmap) structure.batmap = yield* Batmap.read(store, tableOffset, entryCount, space.footers.end)
}
