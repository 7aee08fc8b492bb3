import { ascii, struct, u32, u64 } from '../../bytes/struct.ts'

/**
 * Apple's .sparseimage files: the disk in bands, in the order in which they were first written. There is no document of
 * Apple's; sections are the names that readers of the format agree on.
 *
 * The file is a chain of nodes. Each has a table that says which band of the disk each of the bands behind it is.
 */

export const SIGNATURE = 'sprs'
export const VERSION = 3
export const SECTOR = 512
/** bytes of a node; the bands of its table follow */
export const NODE_SIZE = 4096

export const LIMIT = {
  bandSectors: 1 << 17,
  /** bands of a disk; with 1 MiB each, as programs make them, a disk of 4 TiB */
  bands: 1 << 22,
} as const

/** First node, big-endian; its table follows. [HeaderNode] */
export const header = struct(
  'sparse image header',
  { size: 64, order: 'big' },
  {
    signature: ascii(0, 4), // "sprs"
    version: u32(4), // 3
    bandSectors: u32(8),
    lowSectors: u32(16), // of the disk, the lower 32 bits
    nextNodeAt: u64(20), // bytes; 0: there is none
    sectors: u64(28), // of the disk; 0: only the field above tells
  },
)

/** A further node, big-endian; its table follows. [IndexNode] */
export const indexNode = struct(
  'sparse image index node',
  { size: 56, order: 'big' },
  {
    signature: ascii(0, 4), // "sprs"
    number: u32(4), // from 1
    nextNodeAt: u64(12), // bytes; 0: there is none
  },
)

/** Bytes of an entry of a table: the band of the disk, from 1; 0: that room is unused. */
export const ENTRY = 4
