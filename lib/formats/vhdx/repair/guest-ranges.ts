import { Bitmap } from '../../../bytes/bitmap.ts'
import { isVdiskError } from '../../../errors.ts'
import { type Io, settle } from '../../../io/io.ts'
import type { Bat } from '../bat.ts'
import { BAT_ENTRY, PAYLOAD, stateOf } from '../layout.ts'
import type { Range } from './mending.ts'

/** Ranges that are named one by one; more are named as one that covers them. */
const NAMED = 16

/** The range of the disk that a block is. */
export function rangeOf({ geometry }: Bat, block: number): Range {
  return { offset: block * geometry.blockSize, length: geometry.usedOf(block) }
}

/** The bits of a block's sectors; undefined if its sector bitmap cannot be read. */
export function* bitsOf(bat: Bat, block: number): Io<Bitmap | undefined> {
  try {
    const bytes = new Uint8Array(bat.geometry.sectorsPerBlock / 8)
    yield* settle(bat.view.read(yield* bat.bitsPlace(block), bytes))
    return new Bitmap(bytes)
  } catch (error) {
    if (isVdiskError(error, 'CORRUPT')) return undefined
    throw error
  }
}

/** The ranges of the disk that a partially present block itself holds; all of it if that is not known. */
export function* presentRanges(bat: Bat, block: number): Io<Range[]> {
  const bits = yield* bitsOf(bat, block)
  if (!bits) return [rangeOf(bat, block)]
  const { blockSize, sectorSize } = bat.geometry
  const ranges: Range[] = []
  for (const { start, length, set } of bits.runs(0, Math.ceil(bat.geometry.usedOf(block) / sectorSize))) {
    if (set) ranges.push({ offset: block * blockSize + start * sectorSize, length: length * sectorSize })
  }
  return fewOf(ranges)
}

/** The ranges of the disk that the bits of a chunk decide about: its partially present blocks. */
export function* decidedRanges(bat: Bat, chunk: number): Io<Range[]> {
  const { chunkRatio, blocks } = bat.geometry
  const first = chunk * chunkRatio
  const last = Math.min(blocks, first + chunkRatio) - 1
  const start = bat.geometry.entryOf(first)
  const ranges: Range[] = []
  yield* bat.walk(start, bat.geometry.entryOf(last) + 1, (view, index, count) => {
    for (let i = 0; i < count; i++) {
      if (stateOf(view.getUint32(i * BAT_ENTRY, true)) !== PAYLOAD.partiallyPresent) continue
      ranges.push(rangeOf(bat, first + index + i - start))
    }
  })
  return fewOf(ranges)
}

/** Ranges to be named: those of neighbours as one, and not too many. */
export function fewOf(ranges: readonly Range[]): Range[] {
  const joined: Range[] = []
  for (const { offset, length } of ranges) {
    const last = joined.at(-1)
    if (last && last.offset + last.length === offset) joined.splice(-1, 1, { ...last, length: last.length + length })
    else joined.push({ offset, length })
  }
  const [first, last] = [joined[0], joined.at(-1)]
  if (!first || !last || joined.length <= NAMED) return joined
  return [{ offset: first.offset, length: last.offset + last.length - first.offset }]
}
