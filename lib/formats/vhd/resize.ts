import { ceilDiv } from '../../bytes/align.ts'
import { formatSize } from '../../bytes/size.ts'
import { VdiskError } from '../../errors.ts'
import { type Io, Pace } from '../../io/io.ts'
import { NO_ROOM } from './allocation.ts'
import type { VhdEditor } from './editor.ts'
import { ABSENT, ENTRY, LIMIT, SECTOR } from './layout.ts'
import { enlargeTable } from './table-move.ts'

/**
 * Changes the disk's size, durably and in one step: the footer, one sector, states it. ["Current Size"]
 *
 * What lies past the old size, left over by whoever shrank the disk before, is made to say nothing before the disk grows
 * over it; what lies past the new size is given up after the disk has shrunk.
 */
export function* resizeImage(
  layer: VhdEditor,
  size: number,
  parentSize: number,
  signal: AbortSignal | undefined,
): Io<void> {
  const { table } = layer.structure
  if (size === table.shape.size) return
  refuseImpossibleSize(layer.name, size)
  yield* layer.space.begin()
  yield* layer.structure.batmap?.clear(layer.store) ?? none()
  if (size > table.shape.size) yield* grow(layer, size, parentSize, new Pace(signal))
  else yield* shrink(layer, size)
}

function* grow(layer: VhdEditor, size: number, parentSize: number, pace: Pace): Io<void> {
  const { table } = layer.structure
  const { blockSize, shape } = table
  const entries = ceilDiv(size, blockSize)
  const first = table.blocks
  // What is on its way to the old table must be there before it is copied.
  yield* layer.flush()
  yield* coverTail(layer, size, parentSize)
  yield* clearStale(layer, first, Math.min(entries, shape.entryCount), pace)
  yield* layer.flush()
  if (entries > shape.entryCount) yield* enlargeTable(layer, entries, pace)
  // Only a parent that reaches further would show in the new range; and there is no way to hide it but by blocks.
  const hidden = shape.hasParent ? Math.min(size, parentSize) : 0
  for (let offset = first * blockSize; offset < hidden; offset += blockSize) {
    yield* pace.keep()
    yield* layer.allocation.coverBlock(offset / blockSize)
  }
  yield* layer.flush()
  yield* setSize(layer, size)
}

/** What the last block holds behind the end of the disk becomes zero, and its own. */
function* coverTail(layer: VhdEditor, size: number, parentSize: number): Io<void> {
  const { table } = layer.structure
  const { blockSize, bitmapSize, shape } = table
  const block = Math.floor(shape.size / blockSize)
  const start = shape.size % blockSize
  if (start === 0) return
  const at = yield* table.blockAt(block)
  const end = Math.min(blockSize, size - block * blockSize)
  if (at !== undefined) {
    yield* layer.space.blank(at + bitmapSize + start, blockSize - start)
    yield* layer.allocation.markSectors(block, at, start / SECTOR, end / SECTOR)
  } else if (shape.hasParent && parentSize > shape.size) {
    yield* layer.allocation.newBlock(block, start, end - start)
  }
}

/** Entries behind the last block are of a disk that was larger once. */
function* clearStale(layer: VhdEditor, first: number, end: number, pace: Pace): Io<void> {
  const stale: number[] = []
  yield* layer.structure.table.walk(first, Math.max(first, end), (view, index, count) => {
    for (let i = 0; i < count; i++) if (view.getUint32(i * ENTRY) !== ABSENT) stale.push(index + i)
  })
  for (const block of stale) {
    yield* pace.keep()
    yield* layer.allocation.setEntry(block, NO_ROOM)
  }
}

function* shrink(layer: VhdEditor, size: number): Io<void> {
  const { table } = layer.structure
  const { blockSize } = table
  const end = table.blocks
  yield* layer.flush()
  yield* setSize(layer, size)
  const pace = new Pace()
  for (let block = ceilDiv(size, blockSize); block < end; block++) {
    const at = yield* table.blockAt(block)
    if (at === undefined) continue
    yield* pace.keep()
    yield* layer.allocation.setEntry(block, NO_ROOM)
    layer.space.releaseBlock(at)
  }
  yield* layer.flush()
}

function* setSize({ structure, space }: VhdEditor, size: number): Io<void> {
  const { table } = structure
  yield* space.changeFooter((footer) => footer.ofSize(size))
  structure.footer = space.footers.current
  table.shape.size = size
  table.forgetAll()
}

/** @throws VdiskError REFUSED if a VHD disk cannot have `size` bytes */
export function refuseImpossibleSize(file: string, size: number): void {
  if (size > LIMIT.diskBytes) {
    throw new VdiskError('REFUSED', {
      message: `Cannot make ${file} ${formatSize(size)} large: a VHD disk has at most 2040 GiB`,
      where: { file },
      advice: 'Convert it to VHDX, which can be larger.',
    })
  }
  if (size % SECTOR !== 0) {
    throw new VdiskError('REFUSED', {
      message: `Cannot make ${file} ${size} bytes large: its sectors have ${SECTOR} bytes`,
      where: { file },
      advice: `Give a multiple of ${SECTOR}.`,
    })
  }
}

function* none(): Io<void> {}
