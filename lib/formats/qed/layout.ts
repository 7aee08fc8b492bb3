import { bits64, struct, u32, u64 } from '../../bytes/struct.ts'

/** QED, an early rival of qcow2. Sections are those of docs/interop/qed_spec in the QEMU documentation; little-endian. */

export const MAGIC = 0x00444551 // "QED\0"
/** ["Header", features] */
export const FEATURE = { backingFile: 1n, needsCheck: 2n, backingIsRaw: 4n } as const
export const KNOWN_FEATURES = FEATURE.backingFile | FEATURE.needsCheck | FEATURE.backingIsRaw
export const CLUSTER = { least: 1 << 12, most: 1 << 26 } as const
/** clusters of a table */
export const TABLE = { least: 1, most: 16 } as const
export const ENTRY = 8
/** An entry of an L2 table: the cluster reads as zero. ["Tables"] */
export const ZERO_CLUSTER = 1
export const LONGEST_NAME = 1023

/** ["Header"] */
export const header = struct(
  'QED header',
  { size: 64, order: 'little' },
  {
    magic: u32(0),
    clusterSize: u32(4), // bytes
    tableSize: u32(8), // clusters, of L1 and L2 tables
    headerSize: u32(12), // clusters
    features: bits64(16), // FEATURE: who does not know one must not open the file
    l1At: u64(40), // bytes
    size: u64(48), // bytes of the disk
    backingAt: u32(56), // bytes, of the name of the backing file
    backingLength: u32(60),
  },
)

export type QedFields = ReturnType<typeof header.decode>
