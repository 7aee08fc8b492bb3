import type { Io } from '../../io/io.ts'
import type { Qcow2Editor } from './editor.ts'
import { releaseReferences } from './references.ts'
import type { RootTable } from './root-table.ts'
import type { TablePlaces } from './table-places.ts'

/**
 * Gives the disk another L1 table and another size, durably and in one step: the sector of the header that holds both.
 * What only the old table referred to is released then, so a crash leaves leaks at most. If the header could not be
 * written, nobody knows which one the medium has: then what `next` refers to stays counted, and so does its own place.
 *
 * @param next durable, as are the counts of all it refers to
 */
export function* switchL1(layer: Qcow2Editor, next: RootTable, size: number): Io<void> {
  const { mapping, refcounts } = layer.walk
  const { header } = mapping
  const old = mapping.l1
  const before = header.size
  const resizes = size !== before
  if (resizes) yield* layer.bitmaps.beginResize()
  yield* header.change(layer.store, { l1TableOffset: next.at, l1Size: next.length, size })
  mapping.l1 = next
  replaceTables(mapping.places, old, next)
  if (resizes) layer.bitmaps.resized(before)
  layer.bitmaps.mark(0, size)
  yield* releaseReferences(layer.walk, old)
  refcounts.release(old.at, old.bytes.length)
  while (!refcounts.givenUp.isEmpty) yield* layer.flush()
}

/** The disk has other tables now; those it had may be a snapshot's. */
function replaceTables(places: TablePlaces, old: RootTable, next: RootTable): void {
  if (old.length > 0) places.removeRange(old.at)
  places.addRange(next.at, next.bytes.length)
  for (let i = 0; i < old.length; i++) if (old.offset(i) !== 0) places.share(old.offset(i))
  for (let i = 0; i < next.length; i++) if (next.offset(i) !== 0) places.addL2(next.offset(i))
}
