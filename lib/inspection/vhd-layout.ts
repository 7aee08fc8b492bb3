import { ascii, bytes, guid, struct, u8, u16, u32, u64 } from '../bytes/struct.ts'

/** VHD on disk, as far as it is needed to judge a file. Sections are those of the VHD specification 1.0 (2006). */

export const COOKIE = 'conectix'
export const VERSION = 0x00010000
export const TYPE = { fixed: 2, dynamic: 3, differencing: 4 } as const
export const SECTOR = 512
/** Before 2004 footers had a byte less. ["Hard Disk Footer Format", note] */
export const SHORT_FOOTER = 511

/** Footer, big-endian, in the last sector; a copy of it in the first where the disk is not fixed. ["Hard Disk Footer Format"] */
export const footer = struct(
  'VHD footer',
  { size: SECTOR, order: 'big' },
  {
    cookie: ascii(0, 8), // "conectix"
    features: u32(8), // bit 0 temporary, bit 1 always set
    version: u32(12), // 0x00010000
    dataOffset: u64(16), // bytes: where the dynamic disk header lies; all ones in a fixed disk
    creator: ascii(28, 4),
    originalSize: u64(40), // bytes, when it was made
    currentSize: u64(48), // bytes
    cylinders: u16(56),
    heads: u8(58),
    sectors: u8(59),
    type: u32(60), // TYPE
    checksum: u32(64), // ones' complement of the byte sum, this field taken as 0
    savedState: u8(84), // 1: the machine is suspended
  },
)

/** Dynamic disk header, big-endian. ["Dynamic Disk Header Format"] */
export const dynamicHeader = struct(
  'VHD dynamic disk header',
  { size: 1024, order: 'big' },
  {
    cookie: ascii(0, 8), // "cxsparse"
    tableOffset: u64(16), // bytes: where the BAT starts
    version: u32(24), // 0x00010000
    entryCount: u32(28), // BAT entries
    blockSize: u32(32), // bytes of payload, without its sector bitmap
    checksum: u32(36), // as in the footer
    parentId: guid(40), // zero if there is none
    parentName: bytes(64, 512), // UTF-16, big-endian
  },
)

/** Eight of them lie at 576 of the header. ["Parent Locator Entries"] */
export const parentLocator = struct(
  'VHD parent locator',
  { size: 24, order: 'big' },
  {
    platform: u32(0), // 0: unused; else such as "W2ru"
    dataLength: u32(8), // bytes
    dataOffset: u64(16), // bytes in the file
  },
)
export const LOCATORS_AT = 576
export const LOCATOR_COUNT = 8

/** A BAT entry of a block that has no room; else it counts sectors. ["Block Allocation Table and Data Blocks"] */
export const ABSENT = 0xffffffff

/** bytes of a BAT: a disk of 2040 GiB, the largest, has half of it with the usual blocks of 2 MiB */
export const MOST_TABLE_BYTES = 32 << 20

/** The ones' complement of the sum of all bytes, four of which are taken as 0. */
export function checksumOf(structure: Uint8Array, checksumAt: number): number {
  let sum = 0
  for (const [at, byte] of structure.entries()) if (at < checksumAt || at >= checksumAt + 4) sum += byte
  return ~sum >>> 0
}
