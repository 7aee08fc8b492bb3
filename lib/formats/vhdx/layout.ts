import { join64, TWO_32 } from '../../bytes/align.ts'
import { ascii, bits64, mixedGuid, struct, u16, u32, u64 } from '../../bytes/struct.ts'

/**
 * VHDX on disk: structures, constants and bit fields, little-endian.
 *
 * Sections are those of [MS-VHDX], "Virtual Hard Disk v2 (VHDX) File Format", v20240423.
 */

const KIB = 1024
/** Everything in the file is aligned to this, and most things are multiples of it. [2.1] */
export const MIB = 1 << 20
/** What one log descriptor updates, and what the log is made of. [2.3.1] */
export const LOG_SECTOR = 4096

/** "vhdxfile" at offset 0; the rest of the first 64 KiB is never written again. [2.2.1] */
export const FILE_SIGNATURE = 'vhdxfile'
export const CREATOR_AT = 8
/** bytes of UTF-16 */
export const CREATOR_LENGTH = 512
export const HEADER_PLACES = [64 * KIB, 128 * KIB] as const
export const REGION_TABLE_PLACES = [192 * KIB, 256 * KIB] as const
export const REGION_TABLE_SIZE = 64 * KIB
/** The log may not touch what lies before: the file identifier, and the headers by which the log is found. [2.2, 2.3] */
export const LOGGED_FROM = REGION_TABLE_PLACES[0]
/** The first 1 MiB belongs to the header section. [2.2] */
export const HEADER_SECTION = MIB

/** Header, 4 KiB; the reserved rest is zero. [2.2.2] */
export const header = struct(
  'VHDX header',
  { size: 4096, order: 'little' },
  {
    signature: ascii(0, 4), // "head"
    checksum: u32(4), // CRC-32C of the 4 KiB, this field taken as 0
    sequenceNumber: bits64(8), // the higher one is current
    fileWriteGuid: mixedGuid(16), // changes before anything is written in a session
    dataWriteGuid: mixedGuid(32), // changes before what the guest sees changes
    logGuid: mixedGuid(48), // zero: nothing to replay
    logVersion: u16(64), // 0
    version: u16(66), // 1
    logLength: u32(68), // bytes, a multiple of 1 MiB
    logOffset: u64(72), // bytes, a multiple of 1 MiB
  },
)

/** Region table header; up to 2047 entries follow. [2.2.3.1] */
export const regionTableHeader = struct(
  'VHDX region table header',
  { size: 16, order: 'little' },
  {
    signature: ascii(0, 4), // "regi"
    checksum: u32(4), // CRC-32C of the 64 KiB, this field taken as 0
    entryCount: u32(8),
  },
)

/** [2.2.3.2] */
export const regionTableEntry = struct(
  'VHDX region table entry',
  { size: 32, order: 'little' },
  {
    guid: mixedGuid(0),
    fileOffset: u64(16), // bytes, a multiple of 1 MiB
    length: u32(24), // bytes, a multiple of 1 MiB
    required: u32(28), // bit 0: who does not know this region may not open the file
  },
)

export const REGION = {
  bat: '2dc27766-f623-4200-9d64-115e9bfd4a08',
  metadata: '8b7ca206-4790-4b9a-b8fe-575f050f886e',
} as const

/** Log entry header; descriptors follow in the same sector. [2.3.1.1] */
export const logEntryHeader = struct(
  'VHDX log entry header',
  { size: 64, order: 'little' },
  {
    signature: ascii(0, 4), // "loge"
    checksum: u32(4), // CRC-32C of the whole entry, this field taken as 0
    entryLength: u32(8), // bytes, a multiple of 4 KiB
    tail: u32(12), // bytes from the start of the log to the first entry of the sequence that ends here
    sequenceNumber: bits64(16), // one more than the entry before; never 0
    descriptorCount: u32(24),
    logGuid: mixedGuid(32), // the header's when the entry was written
    flushedFileOffset: u64(48), // bytes that the file had, durably
    lastFileOffset: u64(56), // bytes that all structures fit into
  },
)

/** Descriptors have 32 bytes each; their sectors hold 128, the first one two less for the header. [2.3.1] */
export const LOG_DESCRIPTOR = 32
export const LOG_ENTRY = 0x65676f6c // "loge" [2.3.1.1]
export const ZERO_DESCRIPTOR = 0x6f72657a // "zero" [2.3.1.2]
export const DATA_DESCRIPTOR = 0x63736564 // "desc" [2.3.1.3]
export const DATA_SECTOR = 0x61746164 // "data" [2.3.1.4]
/** Bytes of an update that the descriptor holds, because the data sector has its own marks there. [2.3.1.3] */
export const LEADING = 8
export const TRAILING = 4

/** Sectors that `count` descriptors take, the entry header included. */
export function descriptorSectors(count: number): number {
  return Math.ceil((count + 2) / 128)
}

/** Metadata table header; up to 2047 entries follow. [2.6.1.1] */
export const metadataTableHeader = struct(
  'VHDX metadata table header',
  { size: 32, order: 'little' },
  {
    signature: ascii(0, 8), // "metadata"
    entryCount: u16(10),
  },
)

/** [2.6.1.2] */
export const metadataTableEntry = struct(
  'VHDX metadata table entry',
  { size: 32, order: 'little' },
  {
    itemId: mixedGuid(0),
    offset: u32(16), // bytes from the start of the region, at least 64 KiB; 0 where the item is empty
    length: u32(20), // bytes, at most 1 MiB
    flags: u32(24), // METADATA_FLAG
    reserved: u32(28),
  },
)

export const METADATA_TABLE_SIZE = 64 * KIB
export const METADATA_FLAG = { isUser: 1, isVirtualDisk: 2, isRequired: 4 } as const

/** [2.6.2] */
export const ITEM = {
  fileParameters: 'caa16737-fa36-4d43-b3b6-33f0aa44e76b',
  virtualDiskSize: '2fa54224-cd1b-4876-b211-5dbed83bf4b8',
  virtualDiskId: 'beca12ab-b2e6-4523-93ef-c309e000c746',
  logicalSectorSize: '8141bf1d-a96f-4709-ba47-f233a8faab5f',
  physicalSectorSize: 'cda348c7-445d-4471-9cc9-e9885251c556',
  parentLocator: 'a8d35f2d-b30b-454d-abf7-d3d84834ab0c',
} as const

/** [2.6.2.1] */
export const fileParameters = struct(
  'VHDX file parameters',
  { size: 8, order: 'little' },
  {
    blockSize: u32(0), // bytes of a payload block, a power of two from 1 to 256 MiB
    flags: u32(4), // PARAMETER
  },
)

export const PARAMETER = { leaveBlocksAllocated: 1, hasParent: 2 } as const

/** [2.6.2.6.1] */
export const parentLocatorHeader = struct(
  'VHDX parent locator header',
  { size: 20, order: 'little' },
  {
    locatorType: mixedGuid(0),
    reserved: u16(16),
    keyValueCount: u16(18),
  },
)

/** Offsets count from the start of the locator; text is UTF-16, its length in bytes. [2.6.2.6.2] */
export const parentLocatorEntry = struct(
  'VHDX parent locator entry',
  { size: 12, order: 'little' },
  {
    keyOffset: u32(0),
    valueOffset: u32(4),
    keyLength: u16(8),
    valueLength: u16(10),
  },
)

/** The one type of parent locator that is defined. [2.6.2.6.3] */
export const VHDX_LOCATOR = 'b04aefb7-d19e-4a81-b789-25b8e9445913'

/** Bounds beyond which an image is refused before anything is allocated or walked. */
export const LIMIT = {
  /** [2.6.2.2] */
  diskBytes: 2 ** 46,
  /** [2.6.2.1] */
  minBlock: MIB,
  maxBlock: 256 * MIB,
  /** [2.2.3.1, 2.6.1.1] */
  tableEntries: 2047,
  /** [2.6.1.2] */
  itemBytes: MIB,
  userItems: 1024,
  /** a log that must be replayed is held in memory while that is done */
  replayedLogBytes: 64 * MIB,
  /** a descriptor that zeroes more than any structure has: region lengths have 32 bits */
  zeroedBytes: 2 ** 32,
  /** larger files exist nowhere: 64 TiB of disk, its tables, and as much again */
  fileBytes: 2 ** 47,
} as const

// --- BAT entries. They stay as two 32-bit halves: that costs half of what BigInt does. [2.5.1] ---

export const BAT_ENTRY = 8

/** States of payload blocks. 4 is reserved; 5 was UNMAPPED in the drafts of 2012 and is read as that. [2.5.1.1] */
export const PAYLOAD = {
  notPresent: 0,
  undefined: 1,
  zero: 2,
  unmapped: 3,
  unmappedDraft: 5,
  fullyPresent: 6,
  partiallyPresent: 7,
} as const

/** States of sector bitmap blocks. [2.5.1.2] */
export const BITMAP = { notPresent: 0, present: 6 } as const

const STATE = 7
const RESERVED_LOW = 0x000ffff8
const PLACE_LOW = 0xfff00000

/** Bits 0-2. */
export function stateOf(low: number): number {
  return low & STATE
}

/** Bits 20-63 count MiB, so that without the low bits an entry is the place in bytes. */
export function placeOf(high: number, low: number): number {
  return join64(high, low & PLACE_LOW)
}

/** Bits 3-19 must be zero. */
export function hasReservedBits(low: number): boolean {
  return (low & RESERVED_LOW) !== 0
}

/** Writes an entry. @param place bytes, a multiple of 1 MiB; 0: none */
export function setBatEntry(view: DataView, within: number, state: number, place: number): void {
  view.setUint32(within, ((place % TWO_32) | state) >>> 0, true)
  view.setUint32(within + 4, Math.floor(place / TWO_32), true)
}
