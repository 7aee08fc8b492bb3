import { ascii, mixedGuid, struct, u32, u64 } from '../../bytes/struct.ts'

/**
 * VDI, the format of VirtualBox. There is no document: fields are named as in VirtualBox' VDICore.h, and cited by the
 * name of their structure there. Everything is little-endian; offsets count from the begin of the file.
 */

export const SIGNATURE = 0xbeda107f
/** Where the signature stands. [VDIPREHEADER, u32Signature] */
export const SIGNATURE_AT = 64
/** What a file begins with, for eyes only. */
export const FILE_INFO = '<<< Oracle VM VirtualBox Disk Image >>>\n'

/** The current version, 1.1, and that of the first releases, whose header has no places of map and data. [u32Version] */
export const VERSION = { current: 0x00010001, first: 0x00000002 } as const

/** [VDIIMAGETYPE] */
export const TYPE = { dynamic: 1, fixed: 2, undo: 3, differencing: 4 } as const

export const SECTOR = 512
/** bytes of an entry of the block map */
export const ENTRY = 4
/** The block has no room: what it reads as is the parent's, or zero. [VDI_IMAGE_BLOCK_FREE] */
export const FREE = 0xffffffff
/** The block has no room, and reads as zero. [VDI_IMAGE_BLOCK_ZERO] */
export const ZERO = 0xfffffffe

export const LIMIT = {
  /** bytes of a block map: a disk of 128 TiB has as much */
  mapBytes: 512 << 20,
  block: { least: SECTOR, most: 1 << 30 },
  /** of files that we make */
  newBlock: { least: 4096, most: 256 << 20 },
  diskBytes: 128 * 2 ** 40,
} as const

/** Bytes of the header structure without, and with, the geometry at its end; from the 72nd byte on. [cbHeader] */
export const HEADER_LENGTH = { least: 384, known: 400 } as const
export const HEADER_AT = 72
/** Where VirtualBox has map and data: on borders of as many bytes. [VDI_DATA_ALIGN] */
export const ALIGNMENT = 1 << 20

/** The first sector of version 1.1. [VDIPREHEADER, VDIHEADER1PLUS] */
export const header = struct(
  'VDI header',
  { size: SECTOR, order: 'little' },
  {
    fileInfo: ascii(0, 64), // FILE_INFO
    signature: u32(SIGNATURE_AT), // SIGNATURE
    version: u32(68), // VERSION
    headerLength: u32(72), // bytes: HEADER_LENGTH
    type: u32(76), // TYPE
    flags: u32(80),
    comment: ascii(84, 256),
    mapAt: u32(340), // bytes: the block map
    dataAt: u32(344), // bytes: the first block
    sectorSize: u32(360), // bytes, 512
    size: u64(368), // bytes of the disk
    blockSize: u32(376), // bytes, a power of two
    blockExtra: u32(380), // bytes before each block
    blockCount: u32(384), // of the disk
    blocksAllocated: u32(388), // in the file
    created: mixedGuid(392), // of the image
    modified: mixedGuid(408), // of its present content
    linkage: mixedGuid(424), // `created` of the parent
    parentModified: mixedGuid(440), // `modified` of the parent
    cylinders: u32(456), // geometry, 0: to be found out
    heads: u32(460),
    sectors: u32(464),
    geometrySectorSize: u32(468), // bytes, 512
  },
)

/** The first sector of the first version: map and data follow the header at once. [VDIHEADER0] */
export const firstHeader = struct(
  'VDI header',
  { size: SECTOR, order: 'little' },
  {
    signature: u32(SIGNATURE_AT),
    version: u32(68),
    type: u32(72),
    size: u64(352),
    blockSize: u32(360),
    blockCount: u32(364),
    blocksAllocated: u32(368),
    created: mixedGuid(372),
    modified: mixedGuid(388),
    linkage: mixedGuid(404),
  },
)
/** bytes of that header: the map begins behind it */
export const FIRST_HEADER_LENGTH = 420
