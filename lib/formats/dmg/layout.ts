import { ascii, struct, u16, u32, u64 } from '../../bytes/struct.ts'

/**
 * UDIF, the format of Apple's .dmg files. There is no document of Apple's; sections are the names that readers of the format
 * agree on, and fields are named as there.
 *
 * A property list near the end has a table for each part of the disk. A table has runs of sectors; a run is packed, plain or zeros.
 */

export const SECTOR = 512
export const TRAILER_SIGNATURE = 'koly'
export const TABLE_SIGNATURE = 'mish'
export const VERSION = 4
/** Encrypted images of version 2 begin so, those of version 1 end so. */
export const ENCRYPTED_HEAD = 'encrcdsa'
export const ENCRYPTED_TAIL = 'cdsaencr'
export const CRC32 = 2

export const LIMIT = {
  /** bytes of the list: some 60 for each run */
  listBytes: 16 << 20,
  /** runs of one image; programs make them of 256 KiB or more */
  runs: 1 << 18,
  /** bytes of one packed run, packed and unpacked: programs make them of 1 MiB at most */
  runBytes: 16 << 20,
  diskBytes: 2 ** 53 - SECTOR,
} as const

/** Trailer, big-endian, the last 512 bytes. [UDIFResourceFile] */
export const trailer = struct(
  'UDIF trailer',
  { size: SECTOR, order: 'big' },
  {
    signature: ascii(0, 4), // "koly"
    version: u32(4), // 4
    headerSize: u32(8), // bytes, 512
    dataForkAt: u64(24), // bytes; runs count from here
    dataForkLength: u64(32),
    resourceForkAt: u64(40), // bytes; the list as images before the XML had it
    resourceForkLength: u64(48),
    segmentNumber: u32(56), // from 1
    segmentCount: u32(60), // files that the disk lies in; 0 and 1 are the same
    dataChecksumKind: u32(80), // 2: CRC-32
    dataChecksum: u32(88), // of the data fork
    listAt: u64(216), // bytes: the XML
    listLength: u64(224),
    masterChecksumKind: u32(352),
    masterChecksum: u32(360), // of the checksums of all tables
    sectorCount: u64(492), // of the disk
  },
)

/** Table of runs, big-endian; the runs follow. [BLKXTable] */
export const tableHeader = struct(
  'UDIF table',
  { size: 204, order: 'big' },
  {
    signature: ascii(0, 4), // "mish"
    version: u32(4), // 1
    firstSector: u64(8), // of the disk
    sectorCount: u64(16),
    dataAt: u64(24), // bytes from the data fork; its runs count from there
    checksumKind: u32(64),
    checksum: u32(72), // of what the table's sectors hold
    runCount: u32(200),
  },
)

/** A run of sectors, big-endian. [BLKXChunkEntry] */
export const runEntry = struct(
  'UDIF run',
  { size: 40, order: 'big' },
  {
    kind: u32(0),
    firstSector: u64(8), // of the table
    sectorCount: u64(16),
    at: u64(24), // bytes
    storedLength: u64(32),
  },
)

/** Kinds of runs. */
export const KIND = {
  zeros: 0,
  plain: 1,
  /** nothing was ever written there */
  ignored: 2,
  comment: 0x7ffffffe,
  adc: 0x80000004,
  zlib: 0x80000005,
  bzip2: 0x80000006,
  lzfse: 0x80000007,
  xz: 0x80000008,
  end: 0xffffffff,
} as const

/** Header of a resource fork, big-endian. [Inside Macintosh: More Macintosh Toolbox, "Resource Fork Format"] */
export const forkHeader = struct(
  'resource fork header',
  { size: 16, order: 'big' },
  {
    dataAt: u32(0), // bytes in the fork
    mapAt: u32(4),
  },
)

/** Resource map, big-endian. [the same] */
export const forkMap = struct(
  'resource map',
  { size: 30, order: 'big' },
  {
    typesAt: u16(24), // bytes in the map: the list of types, which begins with its count
    typeCount: u16(28), // less one
  },
)

/** A type of resources, big-endian. [the same] */
export const forkType = struct(
  'resource type',
  { size: 8, order: 'big' },
  {
    name: ascii(0, 4), // "blkx": tables
    count: u16(4), // less one
    referencesAt: u16(6), // bytes in the list of types
  },
)

/** Where a resource is, big-endian. [the same] */
export const forkReference = struct(
  'resource reference',
  { size: 12, order: 'big' },
  {
    dataAt: u32(4), // bytes from the data of the fork, in the lower 24 bits; its length stands there first
  },
)
