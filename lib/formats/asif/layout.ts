import { ascii, guid, struct, u16, u32, u64 } from '../../bytes/struct.ts'

/**
 * ASIF, the sparse images of macOS 26. There is no document of Apple's; sections and fields are named as readers of the
 * format name them.
 *
 * One of two directories counts, that of the higher version. It names tables, and those name chunks of the disk.
 */

export const SIGNATURE = 'shdw'
export const VERSION = 1
export const SECTOR = 512

export const LIMIT = { chunkBytes: 1 << 30, diskBytes: 2 ** 53 - SECTOR } as const

/** Header, big-endian. [asif_header] */
export const header = struct(
  'ASIF header',
  { size: 112, order: 'big' },
  {
    signature: ascii(0, 4), // "shdw"
    version: u32(4), // 1
    firstDirectoryAt: u64(16), // bytes
    secondDirectoryAt: u64(24),
    guid: guid(32),
    sectors: u64(48), // of the disk
    mostSectors: u64(56), // to which it can grow
    chunkSize: u32(64), // bytes
    sectorSize: u16(68), // bytes
    segmentCount: u16(70), // files that the disk lies in
  },
)

/** What a directory begins with, big-endian; an entry of 64 bits for each table follows. [Directory] */
export const directoryHeader = struct('ASIF directory', { size: 8, order: 'big' }, { version: u64(0) })

/** Bytes of an entry: of a directory the chunk of a table, of a table that of data. 0: there is none. [Table] */
export const ENTRY = 8
/** Bits of the higher half of an entry that belong to the number; those above say what was changed lately. */
export const NUMBER_HIGH = 0x7fffff

/** How tables are divided. */
export interface Geometry {
  readonly chunkSize: number
  /** entries of data after which one of another kind stands, which tells of them what was written */
  readonly group: number
  /** chunks of the disk that a table has */
  readonly chunksPerTable: number
}

/** @returns undefined if there is no such division */
export function geometryOf(chunkSize: number, sectorSize: number): Geometry | undefined {
  const isSane =
    sectorSize >= SECTOR &&
    sectorSize % SECTOR === 0 &&
    chunkSize > 0 &&
    chunkSize <= LIMIT.chunkBytes &&
    chunkSize % sectorSize === 0
  if (!isSane) return undefined
  const group = 4 * sectorSize
  const groups = Math.floor(chunkSize / ENTRY / (group + 1))
  return groups > 0 ? { chunkSize, group, chunksPerTable: groups * group } : undefined
}

/** Where the entry of a table's chunk is, in bytes from the table. */
export function entryOf(chunk: number, { group }: Geometry): number {
  return (chunk + Math.floor(chunk / group)) * ENTRY
}
