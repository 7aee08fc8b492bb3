import { isPowerOfTwo } from '../bytes/align.ts'
import { ascii, struct, u16, u32, u64 } from '../bytes/struct.ts'
import type { Inspector } from '../contracts/inspection.ts'
import type { BoundedStore } from '../io/bounded-store.ts'
import { just } from '../io/io.ts'

/** Apple's formats beside UDIF. There are no documents; fields are named as their readers name them. */

const SECTOR = 512

function begins({ head }: BoundedStore, magic: string): boolean {
  return Buffer.from(head.subarray(0, magic.length)).toString('latin1') === magic
}

/** Header of a .sparseimage, big-endian; a table of bands follows at 64. */
const sparseHeader = struct(
  'sparse image header',
  { size: 64, order: 'big' },
  {
    magic: ascii(0, 4), // "sprs"
    version: u32(4), // 3
    bandSectors: u32(8),
    sectors: u32(16), // of the disk
  },
)
const MOST_BAND_SECTORS = 1 << 17

export const sparseImage: Inspector = {
  name: 'sparseimage',
  recognizes: (file) => just(begins(file, 'sprs')),
  *inspect(file, inspection) {
    const place = { structure: 'header', at: 0 }
    const bytes = yield* file.peek(0, sparseHeader.size)
    if (!bytes) return inspection.truncated(place)
    const { version, bandSectors, sectors } = sparseHeader.decode(bytes)
    inspection.size = sectors * SECTOR
    if (version !== 3)
      inspection.add('UNKNOWN_VERSION', place, `It is of version ${version} of the format; 3 is known.`)
    if (bandSectors === 0 || bandSectors > MOST_BAND_SECTORS) {
      inspection.add('DAMAGED', place, `Bands of ${bandSectors} sectors cannot be.`)
    }
  },
}

/** A .sparsebundle is a folder; this is the file in it that describes it. */
export const sparseBundle: Inspector = {
  name: 'sparsebundle',
  recognizes: ({ head }) =>
    just(Buffer.from(head.subarray(0, 4096)).toString('latin1').includes('com.apple.diskimage.sparsebundle')),
  *inspect(_file, inspection) {
    inspection.add('EXTERNAL_DATA', { structure: 'Info.plist', at: 0 }, 'It only describes a bundle of files.')
    yield* just(undefined)
  },
}

/** Header of an ASIF image, big-endian. */
const asifHeader = struct(
  'ASIF header',
  { size: 112, order: 'big' },
  {
    magic: ascii(0, 4), // "shdw"
    version: u32(4), // 1
    firstDirectoryAt: u64(16), // bytes; of the two the one with the higher version counts
    secondDirectoryAt: u64(24),
    sectors: u64(48), // of the disk
    mostSectors: u64(56), // to which it can grow
    chunkSize: u32(64), // bytes
    blockSize: u16(68), // bytes of a sector
    segmentCount: u16(70),
  },
)
const MOST_CHUNK = 1 << 30

export const asif: Inspector = {
  name: 'asif',
  recognizes: (file) => just(begins(file, 'shdw')),
  *inspect(file, inspection) {
    const place = { structure: 'header', at: 0 }
    const bytes = yield* file.peek(0, asifHeader.size)
    if (!bytes) return inspection.truncated(place)
    const { version, sectors, mostSectors, chunkSize, blockSize, segmentCount, ...directories } =
      asifHeader.decode(bytes)
    if (version !== 1) {
      return inspection.add('UNKNOWN_VERSION', place, `It is of version ${version} of the format; 1 is known.`)
    }
    inspection.size = sectors * blockSize
    if (sectors > mostSectors) {
      inspection.add('DAMAGED', place, `A disk of ${sectors} sectors, ${mostSectors} at most, cannot be.`)
    }
    const isSane = isPowerOfTwo(blockSize) && blockSize >= SECTOR && chunkSize % blockSize === 0
    if (!isSane || chunkSize === 0 || chunkSize > MOST_CHUNK) {
      inspection.add('DAMAGED', place, `Chunks of ${chunkSize} bytes in blocks of ${blockSize} cannot be.`)
    }
    if (segmentCount > 1) inspection.add('EXTERNAL_DATA', place, `The disk lies in ${segmentCount} files.`)
    for (const at of [directories.firstDirectoryAt, directories.secondDirectoryAt]) {
      if (at >= file.length) inspection.truncated({ structure: 'directory', at })
    }
  },
}

/** Version 2 says so at the beginning, version 1 at the end. */
export const encryptedImage: Inspector = {
  name: 'encrypted-dmg',
  recognizes: (file) =>
    just(begins(file, 'encrcdsa') || Buffer.from(file.tail.subarray(-8)).toString('latin1') === 'cdsaencr'),
  *inspect(_file, inspection) {
    inspection.add('ENCRYPTED', { structure: 'header', at: 0 }, 'It is an encrypted image of macOS.')
    yield* just(undefined)
  },
}
