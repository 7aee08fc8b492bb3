import type { Io } from '../../../io/io.ts'
import type { Bat } from '../bat.ts'
import { PAYLOAD } from '../layout.ts'
import { bitsOf } from './guest-ranges.ts'
import type { Mending } from './mending.ts'

/** Clears bits of sectors behind the end of the disk: they mean nothing, and would show something if it grew. [2.4] */
export function* mendLastBits(mending: Mending, bat: Bat): Io<void> {
  const { geometry } = bat
  const block = geometry.blocks - 1
  if (block < 0 || !geometry.hasParent || (yield* bat.entry(block)).state !== PAYLOAD.partiallyPresent) return
  const bits = yield* bitsOf(bat, block)
  const first = geometry.usedOf(block) / geometry.sectorSize
  if (!bits || bits.count(first) === 0) return
  bits.fill(first, bits.length, false)
  const at = yield* bat.bitsPlace(block)
  const message = 'the bits of sectors behind the end of the disk were cleared'
  mending.tell({ code: 'BITS_PAST_END', structure: 'sector bitmap', at, message })
  yield* mending.begin('metadata')
  yield* mending.amend([{ at, bytes: bits.bytes }])
  bat.tables.drop(at, bits.bytes.length)
}
