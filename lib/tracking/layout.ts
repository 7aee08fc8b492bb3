import { crc32 } from '../bytes/crc32.ts'
import { ascii, bits64, bytes, guid, struct, u16, u32, u64 } from '../bytes/struct.ts'

/** The tracking sidecar of an image, `IMAGE.vdisk-track`. [docs/tracking-sidecar.md] */
export const VERSION = 1

/** Everything is written in pages of so many bytes; each has a checksum, so a page that was torn is known. */
export const PAGE = 4096

/** Bytes of a page before what it holds. */
export const PAGE_HEADER = 16

/** Counters in a page, and regions in a page of intents. */
export const COUNTERS = (PAGE - PAGE_HEADER) / 4
export const REGIONS = (PAGE - PAGE_HEADER) * 8

/** Bytes of the disk that one bit of the intents stands for, at least. */
export const REGION = 4 << 20

/** Where things are. What is not written is a hole, and reads as zero. */
export const PLACE = {
  /** two copies */
  superblock: 0,
  /** two copies of each page, side by side */
  intents: 64 << 10,
  counters: 128 << 20,
} as const

export const LIMIT = {
  /** bytes of the disk: as far as the room for intents goes */
  disk: Math.floor((PLACE.counters - PLACE.intents) / (2 * PAGE)) * REGIONS * REGION,
  granularity: { least: 4096, most: 4 << 20 },
  consumers: 32,
  /** bytes of UTF-8 */
  consumerName: 64,
  reason: 256,
  shrinks: 16,
  epoch: 0xffff_ffff,
} as const

/**
 * clean: all is folded, and the stamp is that of the image
 * open: somebody writes, or was killed while writing
 * lost: changes were made that are not in it
 * moved: the disk goes on in another file, and its record beside that
 */
export type State = 'clean' | 'open' | 'lost' | 'moved'
export const STATES: readonly State[] = ['clean', 'open', 'lost', 'moved']

export const MAGIC = 'VDSKTRAK'

/** The older of two copies is written; the one that is whole and has the higher sequence counts. */
export const superblock = struct(
  'tracking superblock',
  { size: PAGE, order: 'big' },
  {
    magic: ascii(0, 8), // "VDSKTRAK"
    version: u32(8),
    checksum: u32(12), // CRC-32 of the page, this field taken as 0
    sequence: u64(16),
    trackId: guid(24), // another one whenever something may have been missed
    granularity: u32(40), // bytes of the disk that share a counter
    state: u32(44),
    epoch: u32(48), // of changes made from now on; from 1
    shrinkCount: u32(52),
    diskSize: u64(56), // bytes
    began: u64(64), // milliseconds since 1970, of this trackId
    // The image's file as it was when nobody wrote to it any more.
    stampSize: u64(72),
    stampModified: bits64(80), // nanoseconds since 1970, as all of these
    stampChanged: bits64(88),
    stampInode: bits64(96),
    stampBorn: bits64(104),
    content: bytes(112, 32), // who the content is: SHA-256 over the identities of the chain
    next: bytes(144, 32), // the same for what writing makes of it
    ownInode: bits64(176), // the sidecar's: a copy of it is none
    ownBorn: bits64(184),
    consumerCount: u16(192),
    reasonLength: u16(194), // bytes
    reason: bytes(196, LIMIT.reason), // UTF-8: why the trackId is not the one before
    required: u32(452), // 1: what cannot be tracked is not written; 0: it is, and all counts as changed
    firstEpoch: u32(456), // of this trackId: epochs only rise, so older counters and tokens are below it
    shrinks: bytes(512, LIMIT.shrinks * 12),
    guardGranularity: u32(704), // bytes per bit of the guard; 0: there is none
    guardId: ascii(708, 8), // how its name ends
    guardSize: u64(720), // bytes of the disk when it was begun
    guardContent: bytes(728, 32), // who the content was then; all zero: it was not begun
    consumers: bytes(1024, LIMIT.consumers * 88),
  },
)

/** The disk became smaller in an epoch: what lies behind that size may have changed then, however it grew again. */
export const shrinkRecord = struct('record of a shrinking', { size: 12, order: 'big' }, { epoch: u32(0), size: u64(4) })

export const consumerRecord = struct(
  'record of a consumer',
  { size: 88, order: 'big' },
  {
    epoch: u32(0), // of its last token
    nameLength: u32(4), // bytes
    at: u64(8), // milliseconds since 1970
    size: u64(16), // bytes of the disk at its last token
    name: bytes(24, LIMIT.consumerName), // UTF-8
  },
)

/** Before the bits of a page of intents; the higher sequence counts. */
export const intentHeader = struct(
  'page of intents',
  { size: PAGE_HEADER, order: 'big' },
  { checksum: u32(0), number: u32(4), sequence: u64(8) },
)

/** Before the counters of a page, which are little-endian, as most machines are that scan them. */
export const counterHeader = struct(
  'page of counters',
  { size: PAGE_HEADER, order: 'big' },
  { checksum: u32(0), number: u32(4), highest: u32(8) }, // the highest counter of the page
)

const NOTHING = new Uint8Array(PAGE)

/** Whether a page was never written. */
export function isHole(page: Uint8Array): boolean {
  return Buffer.compare(page, NOTHING) === 0
}

/** CRC-32 of a page that holds it at `at`, where it counts as 0. */
export function checksumOf(page: Uint8Array, at: number): number {
  return crc32(page.subarray(at + 4), crc32(new Uint8Array(4), crc32(page.subarray(0, at))))
}

/** The page with its checksum in place. */
export function sealed(page: Uint8Array, at: number): Uint8Array {
  new DataView(page.buffer, page.byteOffset).setUint32(at, checksumOf(page, at))
  return page
}
