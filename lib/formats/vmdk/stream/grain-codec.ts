import zlib from 'node:zlib'
import type { Packed } from '../../../contracts/extent.ts'
import type { ByteStore } from '../../../io/store.ts'
import { badEntry } from '../damage.ts'
import { SECTOR } from '../layout.ts'

/**
 * Packed grains: a marker of twelve bytes, and behind it a zlib stream (RFC 1950, although the specification speaks of the
 * deflate inside). ["Stream-Optimized Compressed Sparse Extents", "Compressed Grain Marker"]
 */
export const GRAIN_MARKER_BYTES = 12
const SIZE_AT = 8
const SECTION = 'Stream-Optimized Compressed Sparse Extents'

/** The fastest levels pack disks to nearly what the slowest do; this is zlib's own choice between them. */
const LEVEL = 6

/** A grain whose place is known. */
export interface GrainPlace {
  readonly store: ByteStore
  /** byte in the file where its marker begins */
  readonly at: number
  /** bytes that are read to unpack it: marker, packed bytes, and whatever follows */
  readonly storedLength: number
  /** sector of the extent that it begins at, by the table */
  readonly sector: number
  /** bytes of a whole grain */
  readonly grainBytes: number
  /** bytes of it that lie on the disk: fewer where that ends inside */
  readonly length: number
}

/** Bytes of a grain: all of it is in memory while any of it is read. Writers make them of 64 KiB. */
export const LARGEST_GRAIN = 4 << 20

/** Bytes that a packed grain can have at most, marker and all, whoever packed it: above it is no longer packed. */
export function mostStored(grainBytes: number): number {
  return 2 * grainBytes + SECTOR
}

/**
 * The grain as what a chain can read. It says itself where it belongs and how long it is: one that says anything else
 * than the table is damaged, and read by nobody.
 */
export function packedGrain(place: GrainPlace): Packed {
  const { store, at, storedLength, length } = place
  return { store, at, storedLength, length, unpack: (stored) => unpackGrain(place, stored) }
}

/** @throws VdiskError CORRUPT */
function unpackGrain({ store, at, sector, grainBytes, length }: GrainPlace, stored: Uint8Array): Uint8Array {
  const fail = (why: string): never => {
    throw badEntry(store.name, why, { structure: 'grain', at, section: SECTION })
  }
  if (stored.length < GRAIN_MARKER_BYTES) fail('it ends inside the marker of a grain')
  const { sector: own, size } = readGrainMarker(stored)
  if (own !== sector) fail(`a grain at ${at} says that it belongs to sector ${own}, its table says ${sector}`)
  if (size === 0 || size > stored.length - GRAIN_MARKER_BYTES) {
    fail(`the grain of sector ${sector} cannot have ${size} packed bytes: there is no room for them`)
  }
  let grain: Uint8Array = stored
  try {
    const packed = stored.subarray(GRAIN_MARKER_BYTES, GRAIN_MARKER_BYTES + size)
    // A little more than a grain: then zlib makes one piece of it, and not many that are put together.
    grain = zlib.inflateSync(packed, { maxOutputLength: grainBytes, chunkSize: grainBytes + SECTOR })
  } catch {
    fail(`the grain of sector ${sector} does not unpack: its stream is damaged`)
  }
  // Some writers leave out what would lie behind the end of the disk.
  if (grain.length < length || (grain.length !== grainBytes && length === grainBytes)) {
    fail(`the grain of sector ${sector} holds ${grain.length} bytes instead of ${grainBytes}`)
  }
  return grain.subarray(0, length)
}

/** The first twelve bytes of a block. With a size of 0 it is no grain. */
export function readGrainMarker(bytes: Uint8Array): { readonly sector: number; readonly size: number } {
  const view = new DataView(bytes.buffer, bytes.byteOffset, GRAIN_MARKER_BYTES)
  return { sector: Number(view.getBigUint64(0, true)), size: view.getUint32(SIZE_AT, true) }
}

/** Packs a whole grain, marker and all, on another thread. It may become longer by that, and is stored so. */
export function packGrain(grain: Uint8Array): Promise<Uint8Array> {
  return new Promise((resolve, reject) => {
    zlib.deflate(grain, { level: LEVEL }, (error, packed) => (error ? reject(error) : resolve(packed)))
  })
}

/** A packed grain as it is stored: behind its marker, and filled up to a sector. */
export function storedGrain(sector: number, packed: Uint8Array): Uint8Array {
  const stored = new Uint8Array(Math.ceil((GRAIN_MARKER_BYTES + packed.length) / SECTOR) * SECTOR)
  const view = new DataView(stored.buffer)
  view.setBigUint64(0, BigInt(sector), true)
  view.setUint32(SIZE_AT, packed.length, true)
  stored.set(packed, GRAIN_MARKER_BYTES)
  return stored
}
