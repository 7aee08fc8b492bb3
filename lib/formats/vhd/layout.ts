import { roundUp } from '../../bytes/align.ts'
import { ascii, bytes, guid, struct, u8, u16, u32, u64 } from '../../bytes/struct.ts'

/**
 * VHD on disk. Sections are those of the "Virtual Hard Disk Image Format Specification" 1.0 (2006). All numbers are
 * big-endian; sectors have 512 bytes, and nobody above this file has heard of them but as the unit of bitmaps.
 */
export const SECTOR = 512

export const COOKIE = 'conectix'
export const HEADER_COOKIE = 'cxsparse'
export const VERSION = 0x00010000
/** `dataOffset` where nothing follows: eight bytes of ones, as a number that is not exact */
export const NOWHERE = 2 ** 64
/** Before 2004 footers had a byte less. ["Hard Disk Footer Format", note] */
export const SHORT_FOOTER = 511

/** ["Hard Disk Footer Format", "Disk Type"] */
export const TYPE = { fixed: 2, dynamic: 3, differencing: 4 } as const

/** Seconds from 1970 to 2000, from where on all times count. ["Hard Disk Footer Format", "Time Stamp"] */
export const EPOCH = 946684800

/** Footer, in the last sector; a copy of it in the first where the disk is not fixed. ["Hard Disk Footer Format"] */
export const footer = struct(
  'VHD footer',
  { size: SECTOR, order: 'big' },
  {
    cookie: ascii(0, 8), // "conectix"
    features: u32(8), // bit 0 temporary, bit 1 always set
    version: u32(12), // 0x00010000
    dataOffset: u64(16), // bytes: where the dynamic disk header lies; all ones in a fixed disk
    timeStamp: u32(24), // when it was made
    creator: ascii(28, 4),
    creatorVersion: u32(32),
    creatorHost: ascii(36, 4),
    originalSize: u64(40), // bytes, when it was made
    currentSize: u64(48), // bytes
    cylinders: u16(56),
    heads: u8(58),
    sectors: u8(59),
    type: u32(60), // TYPE
    checksum: u32(64), // ones' complement of the byte sum, this field taken as 0
    uniqueId: guid(68), // by which children know it
    savedState: u8(84), // 1: the machine is suspended
    hidden: u8(85), // XenServer's: only others are built upon it
  },
)

/** Dynamic disk header. ["Dynamic Disk Header Format"] */
export const dynamicHeader = struct(
  'VHD dynamic disk header',
  { size: 1024, order: 'big' },
  {
    cookie: ascii(0, 8), // "cxsparse"
    tableOffset: u64(16), // bytes: where the BAT starts
    version: u32(24), // 0x00010000
    entryCount: u32(28), // BAT entries; the specification's "Max Table Entries"
    blockSize: u32(32), // bytes of payload, without its sector bitmap
    checksum: u32(36), // as in the footer
    parentId: guid(40), // unique id in the parent's footer; zero if there is none
    parentTime: u32(56), // when the parent's file was last changed, seconds since 2000
    parentName: bytes(64, 512), // UTF-16, big-endian
  },
)

/** Eight of them lie at 576 of the header. ["Parent Locator Entries"] */
export const parentLocator = struct(
  'VHD parent locator',
  { size: 24, order: 'big' },
  {
    platform: ascii(0, 4), // PLATFORMS; zeros: unused
    dataSpace: u32(4), // room for the data: sectors by the specification, bytes by all who write it
    dataLength: u32(8), // bytes
    dataOffset: u64(16), // bytes in the file
  },
)
export const LOCATORS_AT = 576
export const LOCATOR_COUNT = 8

/**
 * Header of XenServer's batmap, in the sector behind the BAT: a bit for each block, set where all of its sectors are
 * present, so that its sector bitmap need not be read.
 */
export const batmapHeader = struct(
  'VHD batmap header',
  { size: SECTOR, order: 'big' },
  {
    cookie: ascii(0, 8), // "tdbatmap"
    mapOffset: u64(8), // bytes in the file
    mapSectors: u32(16),
    version: u32(20),
    checksum: u32(24), // ones' complement of the byte sum of the map
  },
)
export const BATMAP_COOKIE = 'tdbatmap'

export const ENTRY = 4
/** A BAT entry of a block that has no room; else it counts sectors. ["Block Allocation Table and Data Blocks"] */
export const ABSENT = 0xffffffff

export const LIMIT = {
  /** bytes of a disk: what Windows makes at most */
  diskBytes: 2040 * 2 ** 30,
  /** bytes of a file: entries count sectors, and the last number means something else */
  fileBytes: ABSENT * SECTOR,
  /** bytes of a BAT: a disk of 2040 GiB has an eighth of it with the usual blocks of 2 MiB */
  tableBytes: 32 << 20,
  minBlock: 4096,
  maxBlock: 256 << 20,
  /** bytes of a parent locator's data */
  locatorBytes: 64 << 10,
} as const

/** The ones' complement of the sum of all bytes, four of which are taken as 0. */
export function checksumOf(structure: Uint8Array, checksumAt: number): number {
  let sum = 0
  for (const byte of structure) sum += byte
  for (let at = checksumAt; at < checksumAt + 4; at++) sum -= structure[at] as number
  return ~sum >>> 0
}

/** A part of the file that is no block: its place and length in bytes. */
export interface Structure {
  readonly name: string
  readonly at: number
  readonly length: number
}

/** Bytes of a BAT: whole sectors. */
export function tableLength(entries: number): number {
  return Math.max(SECTOR, roundUp(entries * ENTRY, SECTOR))
}
