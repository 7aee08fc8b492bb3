import { roundUp } from '../../bytes/align.ts'
import type { Io } from '../../io/io.ts'
import { adopt, emptyBat } from './bat-move.ts'
import type { VhdxEditor } from './editor.ts'
import { refuseImpossibleSize } from './resize.ts'

/**
 * Empties the disk, durably and in one step: one log entry with the region table, which names a BAT without entries,
 * and with the size. [2.2.3, 2.6.2.2] Nobody reads or writes meanwhile.
 *
 * @param size bytes; rounded up to sectors, as for a new image
 */
export function* clearImage(layer: VhdxEditor, size: number): Io<void> {
  const { structure, space } = layer
  const { geometry, metadata, bat } = structure
  if (geometry.isFixed) throw new TypeError(`${layer.name} is a fixed file, whose blocks stay present`)
  const after = roundUp(size, geometry.sectorSize)
  refuseImpossibleSize(layer, after)
  yield* layer.session.beginContent()
  // What is on its way to being free must not be given up once more below.
  yield* drain(layer)
  const entries = geometry.entryCount(after)
  const first = yield* emptyBat(layer, entries)
  const blocks = space.usedOutside([...bat.regions.all, first])
  yield* adopt(layer, metadata.withSize(after), first)
  for (const { at, length } of blocks) space.release(at, length)
  yield* drain(layer)
  // The new table may lie behind all that was given up: in front the file can become short.
  const second = yield* emptyBat(layer, entries)
  if (second.at < first.at) yield* adopt(layer, [], second)
  else space.free(second.at, second.length)
}

function* drain(layer: VhdxEditor): Io<void> {
  while (!layer.space.givenUp.isEmpty) yield* layer.flush()
}
