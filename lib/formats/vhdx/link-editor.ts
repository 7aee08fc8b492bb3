import type { NewParent } from '../../contracts/identity.ts'
import type { LinkEditor } from '../../contracts/layer.ts'
import type { Io } from '../../io/io.ts'
import { adopt, copyBat } from './bat-move.ts'
import type { VhdxEditor } from './editor.ts'
import { BAT_ENTRY, BITMAP, MIB, PAYLOAD, placeOf, setBatEntry, stateOf } from './layout.ts'
import { beginMerge, endMerge, locatorFor } from './linkage.ts'
import type { ParentLocator } from './locator.ts'

/** Changes of the parent locator, each in one log entry. [2.6.2.6] */
export function linkEditor(layer: VhdxEditor): LinkEditor {
  const change = function* (work: () => Io<void>): Io<void> {
    yield* layer.session.beginMetadata()
    yield* layer.lock.alone(work)
  }
  return {
    complete: true,
    setParent: (parent) => change(() => (parent ? link(layer, parent) : unlink(layer))),
    beginMerge: (now, next) => change(() => relabel(layer, (locator) => beginMerge(layer.name, locator, now, next))),
    endMerge: (mark, parent) => change(() => relabel(layer, (locator) => endMerge(layer.name, locator, mark, parent))),
  }
}

function* relabel(layer: VhdxEditor, edit: (locator: ParentLocator) => ParentLocator): Io<void> {
  const { metadata, locator } = layer.structure
  if (!locator) throw new TypeError(`${layer.name} has no parent that it could be merged into`)
  yield* adopt(layer, metadata.withLocator(edit(locator).encode(layer.name)))
}

/** A file that had no parent becomes a differencing one: what is not present in it is the parent's from then on. */
function* link(layer: VhdxEditor, parent: NewParent): Io<void> {
  const { metadata, locator, geometry, bat } = layer.structure
  const patches = metadata.withLocator(locatorFor(layer.name, parent, locator).encode(layer.name))
  // Only with a parent does the BAT reach to the entry of its last sector bitmap. [2.5]
  const entries = geometry.entryCount(geometry.size, true)
  if (entries * BAT_ENTRY > bat.regions.bat.length) {
    yield* adopt(layer, patches, yield* copyBat(layer, entries, () => {}))
    return
  }
  yield* layer.allocation.clearEntries(geometry.entryCount(), entries)
  yield* adopt(layer, patches)
}

/**
 * Takes the parent away: what it showed reads as zero from then on.
 *
 * Without a parent no block may be partially present. So the sectors that such blocks do not have are made zero where
 * they would lie, which nobody can see yet; and a new BAT, in which the blocks are fully present, becomes true together
 * with the metadata. [2.5.1.1, 2.5.1.2]
 */
function* unlink(layer: VhdxEditor): Io<void> {
  const { metadata, geometry } = layer.structure
  if (!geometry.hasParent) return
  const bitmaps = yield* completeBlocks(layer)
  if (bitmaps.length === 0) {
    yield* adopt(layer, metadata.withLocator(undefined))
    return
  }
  const moved = yield* copyBat(layer, geometry.entryCount(geometry.size, false), (view, first, count) => {
    for (let i = 0, within = 0; i < count; i++, within += BAT_ENTRY) {
      const low = view.getUint32(within, true)
      const isBlock = 'block' in geometry.ownerOf(first + i)
      if (!isBlock) setBatEntry(view, within, BITMAP.notPresent, 0)
      else if (stateOf(low) === PAYLOAD.partiallyPresent) {
        setBatEntry(view, within, PAYLOAD.fullyPresent, placeOf(view.getUint32(within + 4, true), low))
      }
    }
  })
  yield* adopt(layer, metadata.withLocator(undefined), moved)
  for (const place of bitmaps) {
    layer.structure.bat.tables.drop(place, MIB)
    layer.space.release(place, MIB)
  }
}

/** Blocks looked at between two waits. */
const STRIDE = 1 << 16

/** Zeros in all sectors that partially present blocks do not have. @returns places of the sector bitmap blocks */
function* completeBlocks(layer: VhdxEditor): Io<number[]> {
  const { bat, geometry } = layer.structure
  const bitmaps: number[] = []
  const entries = geometry.entryCount()
  for (let index = 0; index < entries; index += STRIDE) {
    const partial: number[] = []
    yield* bat.walk(index, Math.min(entries, index + STRIDE), (view, first, count) => {
      for (let i = 0, within = 0; i < count; i++, within += BAT_ENTRY) {
        const low = view.getUint32(within, true)
        const owner = geometry.ownerOf(first + i)
        if ('block' in owner) {
          if (stateOf(low) === PAYLOAD.partiallyPresent) partial.push(owner.block)
        } else if (stateOf(low) === BITMAP.present) {
          bitmaps.push(placeOf(view.getUint32(within + 4, true), low))
        }
      }
    })
    for (const block of partial) yield* completeBlock(layer, block)
  }
  return bitmaps
}

function* completeBlock(layer: VhdxEditor, block: number): Io<void> {
  const { bat, geometry } = layer.structure
  const start = block * geometry.blockSize
  const end = start + geometry.usedOf(block)
  const { place } = yield* bat.entry(block)
  for (let offset = start; offset < end; ) {
    const extent = yield* bat.map(offset, end - offset)
    if (extent.kind === 'parent') yield* layer.space.blank(place + offset - start, extent.length)
    offset += extent.length
  }
}
