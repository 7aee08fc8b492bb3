import { ceilDiv } from '../../bytes/align.ts'
import { formatSize } from '../../bytes/size.ts'
import { VdiskError } from '../../errors.ts'
import { type Io, Pace } from '../../io/io.ts'
import { adopt, copyBat, type NewBat, type Rewrite } from './bat-move.ts'
import type { VhdxEditor } from './editor.ts'
import { BAT_ENTRY, LIMIT, PAYLOAD, setBatEntry } from './layout.ts'

/**
 * Changes the disk's size, durably and in one step: one log entry with the new size, and with the region table where
 * the BAT had to move. [2.6.2.2, 2.2.3]
 *
 * What lies past the old size, left over by whoever shrank the disk before, is made to say nothing before the disk
 * grows over it; what lies past the new size is given up after the disk has shrunk.
 */
export function* resizeImage(
  layer: VhdxEditor,
  size: number,
  parentSize: number,
  signal: AbortSignal | undefined,
): Io<void> {
  const { geometry } = layer.structure
  if (size === geometry.size) return
  refuseImpossibleSize(layer, size)
  yield* layer.session.beginContent()
  if (size > geometry.size) yield* grow(layer, size, parentSize, new Pace(signal))
  else yield* shrink(layer, size)
}

function* grow(layer: VhdxEditor, size: number, parentSize: number, pace: Pace): Io<void> {
  const { geometry, bat, metadata } = layer.structure
  const { blockSize } = geometry
  const first = geometry.blocks
  const end = ceilDiv(size, blockSize)
  // Only a parent that reaches further would show in the new range.
  const hidden = geometry.hasParent ? Math.min(end, ceilDiv(parentSize, blockSize)) : 0
  yield* coverTail(layer, size, parentSize)
  const length = geometry.isFixed ? (end - first) * blockSize : 0
  const room = length > 0 ? yield* layer.space.allocate(length) : 0
  try {
    let moved: NewBat | undefined
    const entries = geometry.entryCount(size)
    if (entries * BAT_ENTRY > bat.regions.bat.length) {
      const rewrite: Rewrite = (view, index, count) => {
        for (let i = 0; i < count; i++) {
          const owner = geometry.ownerOf(index + i)
          if (!('block' in owner) || owner.block < first) continue
          const place = room + (owner.block - first) * blockSize
          if (length > 0) setBatEntry(view, i * BAT_ENTRY, PAYLOAD.fullyPresent, place)
          else setBatEntry(view, i * BAT_ENTRY, owner.block < hidden ? PAYLOAD.zero : PAYLOAD.notPresent, 0)
        }
      }
      moved = yield* copyBat(layer, entries, rewrite, pace)
    } else {
      // Entries behind the last block may be left of a larger disk: what they hold must not come back.
      const known = geometry.entryCount()
      const lastChunk = Math.min(known, geometry.bitmapEntryOf(geometry.chunkOf(first)))
      yield* layer.allocation.clearEntries(geometry.entryOf(first), lastChunk, pace)
      yield* layer.allocation.clearEntries(known, entries, pace)
      for (let block = first; block < hidden; ) {
        yield* pace.keep()
        block = yield* layer.allocation.setBlocks(block, hidden, PAYLOAD.zero)
      }
      for (let block = first; length > 0 && block < end; ) {
        yield* pace.keep()
        block = yield* layer.allocation.setPresent(block, end, room + (block - first) * blockSize)
      }
    }
    yield* adopt(layer, metadata.withSize(size), moved)
  } catch (error) {
    if (length > 0) layer.space.release(room, length)
    throw error
  }
}

/** What the last block holds behind the end of the disk becomes zero, and its own. */
function* coverTail(layer: VhdxEditor, size: number, parentSize: number): Io<void> {
  const { geometry, bat } = layer.structure
  const { blockSize, sectorSize } = geometry
  const before = geometry.size
  const start = before % blockSize
  if (start === 0) return
  const block = Math.floor(before / blockSize)
  const { state, place } = yield* bat.entry(block)
  const from = start / sectorSize
  const to = Math.min(blockSize, size - block * blockSize) / sectorSize
  if (state === PAYLOAD.fullyPresent) {
    yield* layer.space.blank(place + start, blockSize - start)
  } else if (state === PAYLOAD.partiallyPresent) {
    yield* layer.space.blank(place + start, blockSize - start)
    yield* layer.allocation.setBits(block, from, to, true)
  } else if (state === PAYLOAD.notPresent && geometry.hasParent && parentSize > before) {
    yield* layer.allocation.makePartial(block, from, to)
  }
}

function* shrink(layer: VhdxEditor, size: number): Io<void> {
  const { geometry, bat, metadata } = layer.structure
  const { blockSize, sectorSize, chunkRatio, hasParent } = geometry
  const end = geometry.blocks
  yield* adopt(layer, metadata.withSize(size))
  const first = ceilDiv(size, blockSize)
  const pace = new Pace()
  for (let block = first; block < end; ) {
    yield* pace.keep()
    block = yield* layer.allocation.setBlocks(block, end, PAYLOAD.notPresent)
  }
  for (let chunk = ceilDiv(first, chunkRatio); hasParent && chunk * chunkRatio < end; chunk++) {
    yield* pace.keep()
    yield* layer.allocation.dropBitmap(chunk)
  }
  const last = Math.floor(size / blockSize)
  if (size % blockSize !== 0 && (yield* bat.entry(last)).state === PAYLOAD.partiallyPresent) {
    const from = (size % blockSize) / sectorSize
    yield* layer.allocation.setBits(last, from, geometry.sectorsPerBlock, false)
  }
  yield* layer.commit()
}

/** @throws VdiskError REFUSED if a VHDX disk cannot have `size` bytes */
export function refuseImpossibleSize(layer: VhdxEditor, size: number): void {
  const { sectorSize } = layer.structure.geometry
  if (size > LIMIT.diskBytes) {
    throw new VdiskError('REFUSED', {
      message: `Cannot make ${layer.name} ${formatSize(size)} large: a VHDX disk has at most 64 TiB`,
      where: { file: layer.name },
      advice: 'Convert it to qcow2, which can be larger.',
    })
  }
  if (size % sectorSize !== 0) {
    throw new VdiskError('REFUSED', {
      message: `Cannot make ${layer.name} ${size} bytes large: its sectors have ${sectorSize} bytes`,
      where: { file: layer.name },
      advice: `Give a multiple of ${sectorSize}.`,
    })
  }
}
