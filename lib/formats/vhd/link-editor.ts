import type { NewParent } from '../../contracts/identity.ts'
import type { LinkEditor } from '../../contracts/layer.ts'
import { type Io, just, Pace } from '../../io/io.ts'
import type { VhdEditor } from './editor.ts'
import { replaceHeader } from './header-change.ts'
import { SECTOR, TYPE } from './layout.ts'
import { parentFields } from './linkage.ts'
import { locatorsFor } from './locators.ts'

/** Changes of the link to the parent, each with one footer. ["Dynamic Disk Header Format"] */
export function linkEditor(layer: VhdEditor): LinkEditor {
  return {
    setParent: (parent) => (parent ? link(layer, parent) : unlink(layer)),
    // The file has no place for merges: the record beside it has.
    beginMerge: () => just(undefined),
    endMerge: () => just(undefined),
  }
}

/** A file that had no parent becomes a differencing one: what is not present in it is the parent's from then on. */
function* link(layer: VhdEditor, parent: NewParent): Io<void> {
  const { structure, name } = layer
  yield* layer.space.begin()
  yield* layer.flush()
  yield* replaceHeader(
    layer,
    (dataAt) => {
      const { locators, data } = locatorsFor(name, parent, dataAt)
      return { header: structure.header.with(parentFields(parent), locators), data }
    },
    (footer) => footer.with({ type: TYPE.differencing }),
  )
  structure.table.shape.hasParent = true
}

/**
 * Takes the parent away: what it showed reads as zero from then on.
 *
 * The sectors that blocks do not have are then given to them as zeros: by the specification their bits say the same, but
 * there are programs that do not look at the bits of a dynamic disk.
 */
function* unlink(layer: VhdEditor): Io<void> {
  const { structure, space } = layer
  const { table } = structure
  if (!table.shape.hasParent) return
  yield* space.begin()
  yield* layer.flush()
  const header = structure.header.with(parentFields(undefined), [])
  yield* replaceHeader(
    layer,
    () => ({ header, data: new Uint8Array(0) }),
    (footer) => footer.with({ type: TYPE.dynamic }),
  )
  table.shape.hasParent = false
  yield* completeBlocks(layer)
  yield* layer.flush()
}

function* completeBlocks({ structure: { table }, space, allocation }: VhdEditor): Io<void> {
  const pace = new Pace()
  const { blockSize, bitmapSize } = table
  for (let offset = 0; offset < table.shape.size; ) {
    yield* pace.keep()
    const extent = yield* table.map(offset, table.shape.size - offset)
    const block = Math.floor(offset / blockSize)
    const at = extent.kind === 'zero' ? yield* table.blockAt(block) : undefined
    if (at !== undefined) {
      const start = offset - block * blockSize
      yield* space.blank(at + bitmapSize + start, extent.length)
      yield* allocation.markSectors(block, at, start / SECTOR, (start + extent.length) / SECTOR)
    }
    offset += extent.length
  }
}
