import type { CheckReport } from '../../contracts/check-report.ts'
import { type Io, Pace } from '../../io/io.ts'
import type { BochsLayer } from './layer.ts'
import { ENTRY, NOT_ALLOCATED } from './layout.ts'

/** Looks at every entry of the catalog: whether the extent lies in the file, in a place that no other has. */
export function* checkBochs(layer: BochsLayer, report: CheckReport): Io<void> {
  const { size, fields } = layer
  const { extentSize } = fields
  // The catalog has a million entries at most.
  const owners = new Map<number, number>()
  const pace = new Pace()
  for (let extent = 0; extent * extentSize < size; extent++) {
    report.advance(extent * extentSize, size)
    yield* pace.keep()
    const entry = yield* layer.entry(extent)
    if (entry === NOT_ALLOCATED) continue
    const owner = owners.get(entry)
    const misplaced = layer.complaintAbout(entry)
    const why = misplaced ?? (owner === undefined ? undefined : `has the place of extent ${owner}`)
    owners.set(entry, owner ?? extent)
    if (why === undefined) continue
    report.add({
      code: misplaced === undefined ? 'EXTENTS_OVERLAP' : 'EXTENT_MISPLACED',
      severity: 'error',
      structure: 'catalog',
      at: fields.headerSize + extent * ENTRY,
      guest: { offset: extent * extentSize, length: Math.min(extentSize, size - extent * extentSize) },
      message: `extent ${extent} ${why}`,
    })
  }
}
