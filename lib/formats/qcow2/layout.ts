import { TWO_32 } from '../../bytes/align.ts'
import { bits64, struct, u8, u16, u32, u64 } from '../../bytes/struct.ts'

/**
 * qcow2 on disk: structures, constants and bit fields, big-endian.
 *
 * Sections are those of "The qcow2 image file format" in the QEMU documentation (docs/interop/qcow2).
 */

export const MAGIC = 0x514649fb // "QFI\xfb"
export const SECTOR = 512

/** Header of version 2, and the beginning of version 3. ["Header"] */
export const headerV2 = struct(
  'qcow2 header',
  { size: 72, order: 'big' },
  {
    magic: u32(0),
    version: u32(4), // 2 or 3
    backingFileOffset: u64(8), // bytes; 0: no backing file
    backingFileSize: u32(16), // bytes, at most 1023
    clusterBits: u32(20), // 9 to 21
    size: u64(24), // bytes of the virtual disk
    cryptMethod: u32(32), // 0 none, 1 AES, 2 LUKS
    l1Size: u32(36), // entries
    l1TableOffset: u64(40),
    refcountTableOffset: u64(48),
    refcountTableClusters: u32(56),
    snapshotCount: u32(60),
    snapshotsOffset: u64(64),
  },
)

/** What version 3 adds. Offsets count from the start of the file. ["Header"] */
export const headerV3 = struct(
  'qcow2 header, version 3',
  { size: 104, order: 'big' },
  {
    incompatible: bits64(72),
    compatible: bits64(80),
    autoclear: bits64(88),
    refcountOrder: u32(96), // refcount width is 1 << order bits
    headerLength: u32(100), // bytes, a multiple of 8
  },
)

/** The one additional field so far. ["Additional fields"] */
export const COMPRESSION_TYPE_AT = 104
export const HEADER_LENGTH_V2 = 72
export const HEADER_LENGTH_V3 = 104
/** What we write: room for the compression type and its padding. */
export const HEADER_LENGTH_CURRENT = 112

export const INCOMPATIBLE = { dirty: 1n, corrupt: 2n, externalData: 4n, compressionType: 8n, extendedL2: 16n } as const
export const COMPATIBLE = { lazyRefcounts: 1n } as const
export const AUTOCLEAR = {
  bitmaps: 1n,
  rawExternalData: 2n,
  /** Ours: the generation in the linkage extension is that of the content. docs/linkage-extension.md */
  linkage: 1n << 63n,
} as const

/** Feature names as QEMU writes them: type (0 incompatible, 1 compatible, 2 autoclear), bit, name. ["Feature name table"] */
export const FEATURE_NAMES: readonly (readonly [number, number, string])[] = [
  [0, 0, 'dirty bit'],
  [0, 1, 'corrupt bit'],
  [0, 2, 'external data file'],
  [0, 3, 'compression type'],
  [0, 4, 'extended L2 entries'],
  [1, 0, 'lazy refcounts'],
  [2, 0, 'bitmaps'],
  [2, 1, 'raw external data'],
  [2, 63, 'vdisk linkage'],
]

/** Header extension types. ["Header extensions"] */
export const EXTENSION = {
  end: 0,
  backingFormat: 0xe2792aca,
  featureNames: 0x6803f857,
  bitmaps: 0x23852875,
  encryption: 0x0537be77,
  dataFile: 0x44415441,
  /** Ours, "vdlk". docs/linkage-extension.md */
  linkage: 0x76646c6b,
} as const

/** Bounds beyond which an image is refused before anything is allocated: QEMU's own, so that it can open what we make. */
export const LIMIT = {
  minClusterBits: 9,
  maxClusterBits: 21,
  l1Bytes: 32 << 20,
  refcountTableBytes: 8 << 20,
  snapshots: 65536,
  snapshotTableBytes: 64 << 20,
  snapshotExtraBytes: 1024,
  bitmaps: 65535,
  bitmapDirectoryBytes: 64 << 20,
  bitmapBytes: 512 << 20,
  bitmapBits: 2 ** 29,
  bitmapNameBytes: 1023,
  minGranularityBits: 9,
  maxGranularityBits: 31,
  backingNameBytes: 1023,
  /** host offsets have 56 bits */
  fileBytes: 2 ** 56,
} as const

/** Bitmaps extension. ["Bitmaps extension"] */
export const bitmapsExtension = struct(
  'qcow2 bitmaps extension',
  { size: 24, order: 'big' },
  { count: u32(0), reserved: u32(4), directorySize: u64(8), directoryOffset: u64(16) },
)

/** Bitmap directory entry, before its variable part. ["Bitmap directory"] */
export const bitmapEntry = struct(
  'qcow2 bitmap directory entry',
  { size: 24, order: 'big' },
  {
    tableOffset: u64(0),
    tableSize: u32(8), // entries
    flags: u32(12),
    type: u8(16), // 1: dirty tracking
    granularityBits: u8(17),
    nameSize: u16(18),
    extraDataSize: u32(20),
  },
)

export const BITMAP_FLAG = { inUse: 1, auto: 2, extraDataCompatible: 4 } as const
/** A table entry without a cluster whose bits are all ones. ["Bitmap table"] */
export const BITMAP_ALL_ONES = 1

/** Snapshot table entry, before its variable part. ["Snapshots"] */
export const snapshotEntry = struct(
  'qcow2 snapshot table entry',
  { size: 40, order: 'big' },
  {
    l1TableOffset: u64(0),
    l1Size: u32(8), // entries
    idSize: u16(12),
    nameSize: u16(14),
    seconds: u32(16),
    nanoseconds: u32(20),
    guestClock: bits64(24), // nanoseconds the guest had run
    vmStateSize32: u32(32),
    extraDataSize: u32(36),
  },
)

/** Extra data of a snapshot, as far as it is known. ["Snapshots"] */
export const snapshotExtra = struct(
  'qcow2 snapshot extra data',
  { size: 24, order: 'big' },
  { vmStateSize: u64(0), diskSize: u64(8), instructionCount: bits64(16) },
)

// --- Table entries. They stay as two 32-bit halves: that costs half of what BigInt does. ---

/** High half: the cluster may be written in place, its refcount is one. ["L1 table entry", "L2 table entry"] */
export const COPIED = 0x80000000
/** High half: the cluster is compressed. ["L2 table entry"] */
export const COMPRESSED = 0x40000000
/** Low half: the cluster reads as zero. ["Standard Cluster Descriptor"] */
export const READS_AS_ZERO = 1

const OFFSET_HIGH = 0x00ffffff
const OFFSET_LOW = 0xfffffe00
/** Bits that a standard entry may not have: 1-8 and 56-61. */
export const RESERVED_HIGH = 0x3f000000
export const RESERVED_LOW = 0x1fe
/** Bits that an L1 entry may not have: 0-8 and 56-62. ["L1 table entry"] */
export const L1_RESERVED_HIGH = 0x7f000000
export const L1_RESERVED_LOW = 0x1ff

/** Host offset of an L1 or standard L2 entry: bits 9 to 55. */
export function offsetOf(high: number, low: number): number {
  return (high & OFFSET_HIGH) * TWO_32 + ((low & OFFSET_LOW) >>> 0)
}

/** Where the data of a compressed cluster lies. ["Compressed Clusters Descriptor"] */
export function decodeCompressed(high: number, low: number, clusterBits: number): { at: number; storedLength: number } {
  const offsetBits = 62 - (clusterBits - 8)
  const highBits = offsetBits - 32 // 17 to 29 of the offset's bits lie in the high half
  const at = (high & ((1 << highBits) - 1)) * TWO_32 + (low >>> 0)
  const additionalSectors = (high & 0x3fffffff) >>> highBits
  return { at, storedLength: (additionalSectors + 1) * SECTOR - (at % SECTOR) }
}

/** The entry of a compressed cluster, as its two halves. */
export function encodeCompressed(at: number, storedLength: number, clusterBits: number): [number, number] {
  const highBits = 62 - (clusterBits - 8) - 32
  const additionalSectors = Math.floor((at + storedLength - 1) / SECTOR) - Math.floor(at / SECTOR)
  const high = (COMPRESSED | (additionalSectors << highBits) | Math.floor(at / TWO_32)) >>> 0
  return [high, at % TWO_32]
}
