import type { FileRoom } from '../../contracts/file-room.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { type BitmapFeature, encodeExtension, type OtherFeature, placesIn } from './extension.ts'
import type { Header } from './header.ts'
import { L1_ONES, L1_ZEROS, SECTOR } from './layout.ts'
import type { Tracked } from './tracking.ts'

/**
 * Writes a format extension into room of its own; it counts when the header names it. ["Format Extension"]
 *
 * @returns all clusters that it has, its own first; none if there is nothing to save, or it does not fit any more
 */
export function* saveExtension(
  header: Header,
  space: FileRoom,
  store: ByteStore,
  { bitmaps, others }: { bitmaps: readonly Tracked[]; others: readonly OtherFeature[] },
): Io<number[]> {
  if (bitmaps.length + others.length === 0) return []
  const saved: BitmapFeature[] = []
  for (const tracked of bitmaps) saved.push(yield* saveBitmap(header, space, store, tracked))
  const named = saved.flatMap(({ entries }) => placesIn(entries))
  const cluster = encodeExtension(header.clusterSize, [...saved, ...others])
  if (!cluster) {
    for (const place of named) space.free(place, header.clusterSize)
    return []
  }
  const at = yield* space.allocate(header.clusterSize)
  yield* settle(store.write(at, cluster))
  return [at, ...named]
}

/** What can be said in the L1 table takes no cluster. ["Dirty bitmaps feature"] */
function* saveBitmap(
  { clusterSize }: Header,
  space: FileRoom,
  store: ByteStore,
  { feature, bits }: Tracked,
): Io<BitmapFeature> {
  const entries: bigint[] = []
  for (let at = 0; at < bits.bytes.length; at += clusterSize) {
    const part = bits.bytes.subarray(at, at + clusterSize)
    if (part.every((byte) => byte === 0)) entries.push(L1_ZEROS)
    else if (part.every((byte) => byte === 0xff)) entries.push(L1_ONES)
    else {
      const place = yield* space.allocate(clusterSize)
      yield* settle(store.write(place, part))
      entries.push(BigInt(place / SECTOR))
    }
  }
  return { ...feature, entries }
}
