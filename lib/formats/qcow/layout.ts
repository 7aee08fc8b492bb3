import { struct, u8, u32, u64 } from '../../bytes/struct.ts'

/** qcow version 1, the ancestor of qcow2. Fields are named as in QEMU's block/qcow.c; everything is big-endian. */

export const MAGIC = 0x514649fb // "QFI\xfb"
export const VERSION = 1
export const CRYPT = { none: 0, aes: 1 } as const
export const ENTRY = 8

export const LIMIT = {
  /** of clusters, and of entries of L2 tables */
  bits: { leastCluster: 9, mostCluster: 16, leastL2: 6, mostL2: 13 },
  l1Bytes: 32 << 20,
  /** bytes of the name of a backing file */
  name: 1023,
  diskBytes: 2 ** 53,
} as const

/** Header. [QCowHeader] */
export const header = struct(
  'qcow header',
  { size: 48, order: 'big' },
  {
    magic: u32(0),
    version: u32(4), // 1
    backingAt: u64(8), // bytes; 0: no backing file
    backingLength: u32(16),
    size: u64(24), // bytes of the disk
    clusterBits: u8(32),
    l2Bits: u8(33), // entries of an L2 table
    cryptMethod: u32(36), // CRYPT
    l1At: u64(40), // bytes
  },
)

/** The cluster is compressed: its place and length share the entry. [QCOW_OFLAG_COMPRESSED] */
export const COMPRESSED_HIGH = 0x80000000

/** What an entry of a compressed cluster says: the highest bits below the flag are the length, the others the place. */
export function decodeCompressed(high: number, low: number, clusterBits: number): { at: number; storedLength: number } {
  const lengthShift = 31 - clusterBits
  const placeHigh = high & (2 ** lengthShift - 1)
  return {
    at: placeHigh * 2 ** 32 + low,
    storedLength: (high >>> lengthShift) & (2 ** clusterBits - 1),
  }
}
