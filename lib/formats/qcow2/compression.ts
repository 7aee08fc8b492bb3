import zlib from 'node:zlib'
import type { Packed } from '../../contracts/extent.ts'
import { VdiskError } from '../../errors.ts'
import type { Io } from '../../io/io.ts'
import { loadZstd, type Zstd } from '../../io/zstd.ts'
import type { Header } from './header.ts'

/**
 * Compressed clusters: raw deflate with a window of 4 KiB, or one zstd frame. ["Compressed Clusters Descriptor"]
 *
 * The stored length is a count of sectors, so what follows the stream is of no meaning. Output is bounded by one
 * cluster before it is made.
 */
export const ALGORITHMS = ['zlib', 'zstd'] as const
const ZSTD = 1

/** Loaded before the first image that needs it is open, so that unpacking never waits. */
let zstd: Zstd | undefined

/** The window that QEMU's reader has. */
const WINDOW_BITS = 12

/** Makes ready what unpacking and packing this image needs. @throws VdiskError UNSUPPORTED where zstd is missing */
export function* prepareCompression(header: Header): Io<void> {
  if (header.compressionType === ZSTD) zstd = (yield loadZstd()) as Zstd
}

/** Unpacks one cluster. */
export function unpackerOf(header: Header): Packed['unpack'] {
  const { clusterSize } = header
  const fail = (why: string, cause?: unknown): never => {
    throw new VdiskError('CORRUPT', {
      message: `Cannot unpack a compressed cluster of ${header.file}: ${why}`,
      where: { file: header.file, structure: 'compressed cluster', section: 'Compressed Clusters Descriptor' },
      advice: 'See which part of the disk is concerned: vdisk check IMAGE',
      cause,
    })
  }
  const unpack = header.compressionType === ZSTD ? unzstd : inflate
  return (stored) => {
    let unpacked: Uint8Array
    try {
      unpacked = unpack(stored, clusterSize)
    } catch (error) {
      return fail('its stream is damaged', error)
    }
    return unpacked.length === clusterSize
      ? unpacked
      : fail(`it holds ${unpacked.length} bytes instead of ${clusterSize}`)
  }
}

/** Packs one cluster, on another thread where the library can; undefined if that gains nothing. */
export function packerOf(header: Header): (granule: Uint8Array) => Promise<Uint8Array | undefined> {
  const worthwhile = (packed: Uint8Array): Uint8Array | undefined =>
    packed.length < header.clusterSize ? packed : undefined
  if (header.compressionType === ZSTD) return async (granule) => worthwhile((zstd as Zstd).compress(granule))
  return (granule) =>
    new Promise((resolve, reject) => {
      const options = { windowBits: WINDOW_BITS, memLevel: 9 }
      zlib.deflateRaw(granule, options, (error, packed) => (error ? reject(error) : resolve(worthwhile(packed))))
    })
}

function inflate(stored: Uint8Array, clusterSize: number): Uint8Array {
  // A stream counts as whole once it has made a cluster, even if its end mark was never written.
  return zlib.inflateRawSync(stored, { maxOutputLength: clusterSize, finishFlush: zlib.constants.Z_SYNC_FLUSH })
}

function unzstd(stored: Uint8Array, clusterSize: number): Uint8Array {
  return (zstd as Zstd).decompress(stored, clusterSize)
}
