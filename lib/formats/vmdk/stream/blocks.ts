import { type Io, settle } from '../../../io/io.ts'
import type { ByteStore } from '../../../io/store.ts'
import { MARKER, SECTOR } from '../layout.ts'
import { GRAIN_MARKER_BYTES, mostStored, readGrainMarker } from './grain-codec.ts'

/**
 * One block of a stream, by its marker alone. ["Stream-Optimized Compressed Sparse Extents", "Each marker and its
 * associated block"] Places are bytes in the file.
 */
export type StreamBlock =
  | { readonly kind: 'grain'; readonly at: number; readonly next: number; readonly sector: number }
  | {
      readonly kind: 'table' | 'directory' | 'footer' | 'end' | 'other'
      readonly at: number
      readonly next: number
      /** where what is behind the marker begins */
      readonly content: number
    }

/** What a stream says of itself in its header. */
export interface StreamShape {
  /** sectors */
  readonly capacity: number
  /** sectors */
  readonly grainSize: number
}

const KINDS: ReadonlyMap<number, 'table' | 'directory' | 'footer' | 'end' | 'other'> = new Map([
  [MARKER.endOfStream, 'end'],
  [MARKER.grainTable, 'table'],
  [MARKER.grainDirectory, 'directory'],
  [MARKER.footer, 'footer'],
  [MARKER.progress, 'other'],
] as const)
/** A marker as far as its type. */
const PEEKED = 16
const TYPE_AT = 12

/** The block that begins at a place; undefined: what lies there can be none. @param end bytes of the file */
export function* blockAt(store: ByteStore, at: number, end: number, shape: StreamShape): Io<StreamBlock | undefined> {
  if (at + PEEKED > end) return undefined
  const bytes = new Uint8Array(PEEKED)
  yield* settle(store.read(at, bytes))
  const { sector, size } = readGrainMarker(bytes)
  if (size > 0) {
    const next = sectorEnd(at + GRAIN_MARKER_BYTES + size)
    const { capacity, grainSize } = shape
    const fits = sector < capacity && sector % grainSize === 0 && size <= mostStored(grainSize * SECTOR)
    // A file may be cut behind the last byte that counts.
    return fits && at + GRAIN_MARKER_BYTES + size <= end ? { kind: 'grain', at, next, sector } : undefined
  }
  const kind = KINDS.get(new DataView(bytes.buffer).getUint32(TYPE_AT, true))
  const content = at + SECTOR
  const next = content + sector * SECTOR
  return kind !== undefined && next <= end ? { kind, at, next, content } : undefined
}

function sectorEnd(at: number): number {
  return Math.ceil(at / SECTOR) * SECTOR
}
