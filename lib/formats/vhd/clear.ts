import { ceilDiv, roundUp } from '../../bytes/align.ts'
import type { Io } from '../../io/io.ts'
import type { VhdEditor } from './editor.ts'
import { replaceHeader } from './header-change.ts'
import { ABSENT, ENTRY, SECTOR } from './layout.ts'
import { refuseImpossibleSize } from './resize.ts'
import { adoptTable, emptyTable } from './table-move.ts'

/**
 * Empties the disk, durably and in one step: the footer gets the size, and points at a header that names a BAT without
 * entries. Nobody reads or writes meanwhile.
 *
 * @param size bytes; rounded up to sectors, as for a new image
 */
export function* clearImage(layer: VhdEditor, size: number): Io<void> {
  const { structure, space } = layer
  const { table } = structure
  const after = roundUp(size, SECTOR)
  refuseImpossibleSize(layer.name, after)
  yield* space.begin()
  yield* layer.flush()
  const blocks = yield* placesOfBlocks(layer)
  const entryCount = ceilDiv(after, table.blockSize)
  const tableOffset = yield* emptyTable(layer, entryCount)
  const header = structure.header.with({ tableOffset, entryCount })
  yield* replaceHeader(
    layer,
    () => ({ header, data: new Uint8Array(0) }),
    (footer) => footer.ofSize(after),
  )
  table.shape.size = after
  yield* adoptTable(layer)
  for (const at of blocks) space.releaseBlock(at)
}

function* placesOfBlocks({ structure: { table } }: VhdEditor): Io<number[]> {
  const places: number[] = []
  yield* table.walk(0, table.blocks, (view, _index, count) => {
    for (let i = 0; i < count; i++) {
      const entry = view.getUint32(i * ENTRY)
      if (entry !== ABSENT) places.push(entry * SECTOR)
    }
  })
  return places
}
