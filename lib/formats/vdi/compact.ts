import { type Io, settle } from '../../io/io.ts'
import type { VdiEditor } from './editor.ts'
import { ENTRY, ZERO } from './layout.ts'

const PIECE = 1 << 20
/** Bytes of blocks that closing an image moves at most, unless the format demands more. */
export const CLOSING_MOVES = 1 << 30

/**
 * Closes up gaps: blocks from the end of the file move into them, and the file becomes shorter. Programs take the header's
 * count for the number of blocks that are there, and put the next one behind; and there may be no more than the disk has.
 *
 *   copies → F → entries → F → count and end of the file → F
 *
 * Nobody reads or writes meanwhile, and no room is on its way to being free.
 *
 * @param most bytes that move, beyond what must
 */
export function* compact(editor: VdiEditor, most: number): Io<void> {
  const { blocks: map, space, store } = editor
  const { header } = map
  const { blockCount, blockSize } = header.fields
  const inUse = space.inUse
  const needed = Math.max(0, space.count - blockCount)
  const moves = Math.min(space.count - inUse, Math.max(needed, Math.floor(most / blockSize)))
  const targets = space.gaps(inUse)
  const last = space.count - moves
  const movers: { block: number; from: number }[] = []
  if (moves > 0) {
    yield* map.walk(0, blockCount, (view, first, count) => {
      for (let i = 0; i < count; i++) {
        const from = view.getUint32(i * ENTRY, true)
        if (from < ZERO && from >= Math.max(last, inUse)) movers.push({ block: first + i, from })
      }
    })
  }
  const moved = movers.map((mover) => ({ ...mover, to: targets.next().value as number }))
  for (const { block, from, to } of moved) {
    yield* space.occupy(to)
    yield* copyBlock(editor, from, to)
    yield* editor.allocation.setEntries(block, block + 1, () => to, noWait)
  }
  if (moved.length > 0) yield* editor.writeBack.commit()
  for (const { from } of moved) space.free({ first: from, count: 1 })
  const { count } = space
  if (count !== header.fields.blocksAllocated) yield* header.write(store, { blocksAllocated: count })
  yield* space.room.trim()
  yield* settle(store.flush())
}

/** Room without readers need not wait to be free. */
export function noWait(): void {}

/** Copies a block of the file over another one, which reads as zero. */
export function* copyBlock({ blocks, store }: VdiEditor, from: number, to: number): Io<void> {
  const { header, space } = blocks
  const [source, target] = [header.placeOf(from), header.placeOf(to)]
  const length = Math.min(header.fields.blockSize, space.end - source)
  const copied = store.copyFrom && (yield* settle(store.copyFrom(store, source, target, length, true)))
  if (copied !== undefined) return
  const buffer = new Uint8Array(Math.min(PIECE, length))
  for (let done = 0; done < length; done += buffer.length) {
    const part = buffer.subarray(0, Math.min(buffer.length, length - done))
    yield* settle(store.read(source + done, part))
    if (part.some((byte) => byte !== 0)) yield* settle(store.write(target + done, part))
  }
}
