import { ceilDiv, roundUp } from '../../bytes/align.ts'
import { formatSize } from '../../bytes/size.ts'
import type { UnitRun } from '../../bytes/unit-map.ts'
import { VdiskError } from '../../errors.ts'
import { type Io, Pace, settle } from '../../io/io.ts'
import type { VdiEditor } from './editor.ts'
import { ENTRY, FREE, LIMIT, SECTOR, ZERO } from './layout.ts'
import { adoptMap, roomForMap, writeMap } from './map-move.ts'

/** Entries per write. */
const STRIDE = 1 << 16

export interface Resizing {
  /** bytes */
  readonly size: number
  /** bytes of the parent's disk; 0 without one */
  readonly parentSize: number
  readonly signal: AbortSignal | undefined
  /** waits until the reads that began before have ended */
  readonly readsEnded: () => Io<void>
}

/**
 * Changes the disk's size, durably and in one step: one sector with the new size, and with the place of the map where that
 * had to move. Entries behind the last block, left over from a larger disk, are written anew before the disk grows over
 * them; what lies past the new size is given up after the disk has shrunk.
 */
export function* resizeImage(editor: VdiEditor, resizing: Resizing): Io<void> {
  const { size } = resizing
  const { fields } = editor.blocks.header
  if (size === fields.size) return
  refuseImpossibleSize(editor, size)
  yield* editor.session.begin()
  yield* editor.writeBack.commit()
  if (size > fields.size) yield* grow(editor, resizing)
  else yield* shrink(editor, size)
}

/** Empties the disk, durably and in one step: a map without entries, and the size. Nobody reads or writes meanwhile. */
export function* clearImage(editor: VdiEditor, size: number): Io<void> {
  refuseImpossibleSize(editor, size)
  yield* editor.session.begin()
  yield* editor.writeBack.commit()
  const { blocks: map, space } = editor
  const { blockSize } = map.header.fields
  const blockCount = ceilDiv(size, blockSize)
  const place = yield* roomForMap(editor, blockCount, nobodyReads)
  yield* orGiveBack(editor, [{ first: 0, count: place.shift }], function* () {
    yield* writeMap(editor, blockCount, place, () => FREE)
    yield* adoptMap(editor, place, { size, blockCount })
  })
  space.freeAll()
}

/** For operations that have the image to themselves. */
export function* nobodyReads(): Io<void> {}

/** @throws VdiskError REFUSED if a VDI disk cannot have `size` bytes */
export function refuseImpossibleSize({ name, blocks: map }: VdiEditor, size: number): void {
  const most = Math.min(LIMIT.diskBytes, (LIMIT.mapBytes / ENTRY) * map.header.fields.blockSize)
  const refuse = (why: string, advice: string): never => {
    const message = `Cannot make ${name} ${formatSize(size)} large: ${why}`
    throw new VdiskError('REFUSED', { message, where: { file: name }, advice })
  }
  if (size > most)
    refuse(`with its blocks it can have ${formatSize(most)}`, 'Convert it to qcow2, which can be larger.')
  if (size % SECTOR !== 0) refuse(`${size} bytes are no whole sectors`, `Give a multiple of ${SECTOR}.`)
}

function* grow(editor: VdiEditor, { size, parentSize, signal, readsEnded }: Resizing): Io<void> {
  const { blocks, store, space } = editor
  const { header } = blocks
  const { blockSize, blockCount: first, mapAt, dataAt } = header.fields
  const blockCount = ceilDiv(size, blockSize)
  yield* coverTail(editor)
  // Only a parent that reaches further would show in the new range.
  const hidden = header.isChild ? ceilDiv(parentSize, blockSize) : 0
  const silent = (block: number): number => (block < hidden ? ZERO : FREE)
  const pace = new Pace(signal)
  if (roundUp(mapAt + blockCount * ENTRY, SECTOR) <= dataAt) {
    const runs = header.isFixed ? yield* roomFor(editor, blockCount - first, 0) : []
    const entryOf = header.isFixed ? entriesIn(runs, first) : silent
    yield* orGiveBack(editor, runs, function* () {
      yield* writeEntries(editor, first, blockCount, entryOf, pace)
      yield* settle(store.flush())
      yield* header.write(store, { size, blockCount, blocksAllocated: space.count })
    })
    yield* settle(store.flush())
    return
  }
  const place = yield* roomForMap(editor, blockCount, readsEnded)
  const runs: UnitRun[] = [{ first: 0, count: place.shift }]
  yield* orGiveBack(editor, runs, function* () {
    const added = header.isFixed ? yield* roomFor(editor, blockCount - first, place.shift) : []
    runs.push(...added)
    const entryOf = header.isFixed ? entriesIn(added, first) : silent
    yield* writeMap(editor, blockCount, place, (block, entry) => entry ?? entryOf(block), pace)
    yield* adoptMap(editor, place, { size, blockCount })
  })
}

/** If `work` fails, nothing has come to use these blocks. */
function* orGiveBack(editor: VdiEditor, runs: readonly UnitRun[], work: () => Io<void>): Io<void> {
  try {
    yield* work()
  } catch (error) {
    for (const run of runs) editor.space.free(run)
    throw error
  }
}

/** Room for `count` more blocks of a fixed image, in numbers from `least` on. */
function* roomFor({ space }: VdiEditor, count: number, least: number): Io<UnitRun[]> {
  const runs: UnitRun[] = []
  for (let done = 0; done < count; ) {
    const run = yield* space.allocate(count - done, least)
    runs.push(run)
    done += run.count
  }
  return runs
}

/** Blocks from `first` on, one after the other, into runs. */
function entriesIn(runs: readonly UnitRun[], first: number): (block: number) => number {
  return (block) => {
    let rest = block - first
    for (const run of runs) {
      if (rest < run.count) return run.first + rest
      rest -= run.count
    }
    throw new TypeError(`there is no room for block ${block}`)
  }
}

/** What the last block holds behind the end of the disk becomes zero. */
function* coverTail({ blocks: map, space }: VdiEditor): Io<void> {
  const { blockSize, size } = map.header.fields
  const used = size % blockSize
  const entry = used === 0 ? FREE : yield* map.entry(Math.floor(size / blockSize))
  if (entry >= ZERO) return
  const place = map.header.placeOf(entry)
  yield* space.room.blank(place + used, Math.min(place + blockSize, space.end) - (place + used))
  yield* space.room.reach(place + blockSize)
}

/** Writes entries behind the last block, which nobody reads yet. */
function* writeEntries(
  { blocks: map, store, space }: VdiEditor,
  first: number,
  end: number,
  entryOf: (block: number) => number,
  pace: Pace,
): Io<void> {
  for (let block = first; block < end; block += STRIDE) {
    yield* pace.keep()
    const count = Math.min(STRIDE, end - block)
    const view = new DataView(new ArrayBuffer(count * ENTRY))
    for (let i = 0; i < count; i++) view.setUint32(i * ENTRY, entryOf(block + i), true)
    yield* settle(store.write(map.entryPlace(block), new Uint8Array(view.buffer)))
  }
  space.room.end = Math.max(space.end, map.entryPlace(end))
  map.tables.drop(map.entryPlace(first), (end - first) * ENTRY)
}

function* shrink({ blocks: map, store, space, writeBack }: VdiEditor, size: number): Io<void> {
  const { blockCount: before, blockSize } = map.header.fields
  const blockCount = ceilDiv(size, blockSize)
  yield* map.header.write(store, { size, blockCount })
  yield* settle(store.flush())
  const pace = new Pace()
  for (let block = blockCount; block < before; block += STRIDE) {
    yield* pace.keep()
    yield* map.walk(block, Math.min(before, block + STRIDE), (view, _, count) => {
      for (let i = 0; i < count; i++) {
        const entry = view.getUint32(i * ENTRY, true)
        if (entry < ZERO) space.release(entry)
      }
    })
  }
  yield* writeBack.commit()
}
