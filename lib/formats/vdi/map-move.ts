import { ceilDiv, roundUp } from '../../bytes/align.ts'
import { VdiskError } from '../../errors.ts'
import { type Io, Pace, settle } from '../../io/io.ts'
import { copyBlock, noWait } from './compact.ts'
import type { VdiEditor } from './editor.ts'
import type { HeaderFields } from './header.ts'
import { ALIGNMENT, ENTRY, SECTOR, ZERO } from './layout.ts'

/** Entries per write. */
const STRIDE = 1 << 16
/** Places in the header have 32 bits. */
const FURTHEST = 2 ** 32 - 1

/** Where a new map lies, and where the blocks begin then: all their numbers are smaller by `shift`. */
export interface NewMap {
  readonly mapAt: number
  readonly dataAt: number
  readonly shift: number
}

/** Gives the entry of each block of a new map: of what the old one has there, or of nothing. */
export type Rewrite = (block: number, entry: number | undefined) => number

/**
 * Finds room for a map: a gap before or behind the present one, or the place of the first blocks, which move away then.
 * For readers must find the map before the blocks, and so the blocks begin further behind. [offData]
 *
 * @param readsEnded waits until the reads that began before have ended: then nobody is on the way to what moved
 */
export function* roomForMap(editor: VdiEditor, entries: number, readsEnded: () => Io<void>): Io<NewMap> {
  const { header } = editor.blocks
  const { mapAt, dataAt } = header.fields
  const length = roundUp(entries * ENTRY, SECTOR)
  const behind = roundUp(Math.max(header.mapEnd, SECTOR), SECTOR)
  if (behind + length <= dataAt) return { mapAt: behind, dataAt, shift: 0 }
  if (SECTOR + length <= Math.min(mapAt, dataAt)) return { mapAt: SECTOR, dataAt, shift: 0 }
  // Some more than is needed, so that the next time it fits.
  const shift = ceilDiv(behind + roundUp(length, ALIGNMENT) - dataAt, header.stride)
  const moved = dataAt + shift * header.stride
  if (moved > FURTHEST) throw tooFar(editor.name)
  yield* evacuate(editor, shift, readsEnded)
  return { mapAt: behind, dataAt: moved, shift }
}

/**
 * Writes a new map, durably; nothing points there yet.
 *
 * @param blocks entries of the new map
 */
export function* writeMap(
  editor: VdiEditor,
  blocks: number,
  { mapAt, shift }: NewMap,
  rewrite: Rewrite,
  pace = new Pace(),
): Io<void> {
  const { blocks: map, store, space } = editor
  const known = Math.min(blocks, map.header.fields.blockCount)
  yield* space.room.reach(mapAt + blocks * ENTRY)
  const moved = (entry: number): number => (entry < ZERO ? entry - shift : entry)
  for (let first = 0; first < blocks; first += STRIDE) {
    yield* pace.keep()
    const count = Math.min(STRIDE, blocks - first)
    const target = new DataView(new ArrayBuffer(count * ENTRY))
    yield* map.walk(first, Math.min(known, first + count), (view, block, part) => {
      for (let i = 0; i < part; i++) {
        const entry = rewrite(block + i, view.getUint32(i * ENTRY, true))
        target.setUint32((block + i - first) * ENTRY, moved(entry), true)
      }
    })
    for (let block = Math.max(first, known); block < first + count; block++) {
      target.setUint32((block - first) * ENTRY, moved(rewrite(block, undefined)), true)
    }
    yield* settle(store.write(mapAt + first * ENTRY, new Uint8Array(target.buffer)))
  }
  yield* settle(store.flush())
}

/** Makes the new map true together with other fields: one sector, durable when it returns. */
export function* adoptMap(
  editor: VdiEditor,
  { mapAt, dataAt, shift }: NewMap,
  fields: Partial<HeaderFields>,
): Io<void> {
  const { blocks: map, space, store } = editor
  const { header, tables } = map
  const old = { at: header.fields.mapAt, length: header.mapEnd - header.fields.mapAt }
  const blocksAllocated = Math.max(0, space.count - shift)
  yield* header.write(store, { ...fields, mapAt, dataAt, blocksAllocated })
  // These three belong together: pages of what lay at either place may still be in memory.
  space.shift(shift)
  tables.drop(old.at, old.length)
  tables.drop(mapAt, header.mapEnd - mapAt)
  yield* settle(store.flush())
}

/** The first `count` blocks of the file move behind the others; nobody has their old places any more. */
function* evacuate(editor: VdiEditor, count: number, readsEnded: () => Io<void>): Io<void> {
  const { blocks: map, space, allocation, writeBack } = editor
  // What is on its way to being free would be punched later, where the map lies then.
  while (!space.givenUp.isEmpty) {
    yield* readsEnded()
    yield* writeBack.flush()
  }
  const homes = new Map<number, number>()
  yield* map.walk(0, map.header.fields.blockCount, (view, first, entries) => {
    for (let i = 0; i < entries; i++) {
      const entry = view.getUint32(i * ENTRY, true)
      if (entry < count) homes.set(first + i, entry)
    }
  })
  for (const [block, from] of homes) {
    const { first: to } = yield* space.allocate(1, count)
    yield* copyBlock(editor, from, to)
    yield* allocation.setEntries(block, block + 1, () => to, noWait)
  }
  yield* space.room.reach(map.header.placeOf(count))
  yield* writeBack.commit()
  yield* readsEnded()
}

function tooFar(file: string): VdiskError {
  return new VdiskError('REFUSED', {
    message: `Cannot change ${file}: its block map would have to move where a VDI header cannot point`,
    where: { file, structure: 'block map' },
    advice: 'Convert it: vdisk convert IMAGE COPY --format vdi',
  })
}
