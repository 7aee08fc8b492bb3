import { crc32cWithin } from '../bytes/crc32c.ts'
import { ascii, bits64, bytes, guid, struct, u16, u32, u64 } from '../bytes/struct.ts'

/** The undo journal of an image, `IMAGE.vdisk-undo`. [docs/undo-journal.md] */
export const VERSION = 1

/** Old content is kept, and new content noted, in units of so many bytes: what a medium writes as a whole. */
export const SECTOR = 512

/** Bytes of the words that say what was done; longer ones are cut. */
export const MAX_WORDS = 400

export const LIMIT = {
  /** bytes in the body of a batch */
  body: 16 << 20,
  /** files that one verb writes */
  files: 16,
  records: 1 << 18,
  /** bytes that follow a record */
  payload: 1 << 20,
  /** sectors in one record of checksums, and so the bytes of old content in one record of that */
  run: 128,
  /** bytes of the name of a file */
  name: 4096,
  /** bytes in a file: beyond it no number is exact */
  size: Number.MAX_SAFE_INTEGER,
} as const

/** At 0, one sector. Written again as batches become durable; everything behind it is only ever appended. */
export const header = struct(
  'undo journal header',
  { size: SECTOR, order: 'big' },
  {
    magic: ascii(0, 8), // "VDSKUNDO"
    version: u32(8),
    checksum: u32(12), // CRC-32C of the sector, this field taken as 0
    id: guid(16), // in every batch too: what was left by another journal is none of this one
    begun: u64(32), // milliseconds since 1970
    batches: u64(40), // so many, at least, are durable: where one of them is missing, the journal is damaged
    wordsLength: u16(48), // bytes
    words: bytes(64, MAX_WORDS), // UTF-8
  },
)

export const MAGIC = { header: 'VDSKUNDO', batch: 'VDUNDOBA' } as const

/** At a multiple of 512. Its records follow; the next batch begins at the next multiple of 512. */
export const batchHeader = struct(
  'undo journal batch',
  { size: 64, order: 'big' },
  {
    magic: ascii(0, 8), // "VDUNDOBA"
    id: guid(8),
    number: u64(24), // from 0
    bodyLength: u64(32), // bytes
    bodyChecksum: u32(40), // CRC-32C
    checksum: u32(44), // CRC-32C of these 64 bytes, this field taken as 0
  },
)

export const recordHeader = struct(
  'undo journal record',
  { size: 24, order: 'big' },
  {
    kind: u16(0),
    file: u16(2), // number of the file
    payload: u32(4), // bytes that follow
    at: bits64(8),
    length: bits64(16),
  },
)

/** What a record says; `at` and `length` are bytes in the file unless it says otherwise. */
export const KIND = {
  /** a file that is written: `at` is its size, `length` its modification time in nanoseconds, the payload its name */
  file: 1,
  /** the payload lay there */
  old: 2,
  /** zeros lay there */
  oldZero: 3,
  /** the payload holds a CRC-32C for each sector that is about to be written */
  noted: 4,
  /** may read as zero from now on */
  notedZero: 5,
  /** the file may be `at` bytes long from now on */
  size: 6,
  /** the verb has ended and left the file with `at` bytes and a modification time of `length` nanoseconds */
  end: 7,
  /** its undoing was begun */
  undoing: 8,
} as const

/** The same structure with its checksum in place. */
export function sealed(encoded: Uint8Array, checksumAt: number): Uint8Array {
  new DataView(encoded.buffer, encoded.byteOffset).setUint32(checksumAt, crc32cWithin(encoded, checksumAt))
  return encoded
}
