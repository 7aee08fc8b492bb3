import { ascii, bits64, bytes, struct, u32, u64 } from '../../../bytes/struct.ts'
import { SECTOR } from '../layout.ts'

/** Header of an extent of ESX, little-endian, four sectors. ["ESXi Host Sparse Extents"] */
export const cowdHeader = struct(
  'COWD header',
  { size: 4 * SECTOR, order: 'little' },
  {
    magic: ascii(0, 4), // "COWD"
    version: u32(4), // 1
    flags: u32(8), // 3
    capacity: u32(12), // sectors
    grainSize: u32(16), // sectors, a power of two; 1 usually
    directoryOffset: u32(20), // sectors
    directoryEntries: u32(24),
    freeSector: u32(28), // the first behind all grains and tables
    parentName: bytes(32, 1024), // of old versions
    generation: u32(1060),
    name: bytes(1064, 60),
    description: bytes(1124, 512),
    savedGeneration: u32(1636),
    unclean: u32(1648), // 1 while it is written
  },
)

export const COWD = { version: 1, flags: 3, tableEntries: 4096, mostGrain: 2048 } as const

/**
 * Constant header of a space-efficient extent, little-endian. There is no document; the names are those of public readers.
 * All places and sizes are sectors.
 */
export const seSparseHeader = struct(
  'seSparse header',
  { size: SECTOR, order: 'little' },
  {
    magic: bits64(0), // 0xcafebabe
    version: bits64(8), // 0x0000000200000001
    capacity: u64(16),
    grainSize: u64(24), // 8
    grainTableSize: u64(32), // 64
    flags: bits64(40), // 0
    volatileHeaderOffset: u64(80),
    volatileHeaderSize: u64(88),
    journalHeaderOffset: u64(96),
    journalHeaderSize: u64(104),
    journalOffset: u64(112),
    journalSize: u64(120),
    directoryOffset: u64(128),
    directorySize: u64(136),
    tablesOffset: u64(144),
    tablesSize: u64(152),
    freeBitmapOffset: u64(160),
    freeBitmapSize: u64(168),
    backmapOffset: u64(176),
    backmapSize: u64(184),
    grainsOffset: u64(192),
    grainsSize: u64(200),
  },
)

/** The part of the header that changes. */
export const seVolatileHeader = struct(
  'seSparse volatile header',
  { size: SECTOR, order: 'little' },
  {
    magic: bits64(0), // 0xcafecafe
    freeTable: u64(8),
    nextTransaction: u64(16),
    replayJournal: bits64(24), // not 0: changes wait in a journal of which nothing is known
  },
)

export const SE_SPARSE = {
  magic: 0xcafebaben,
  volatileMagic: 0xcafecafen,
  version: 0x0000000200000001n,
  grainSize: 8,
  tableSize: 64,
} as const
/** Bytes of an entry of a directory or a table. */
export const SE_ENTRY = 8

/** The upper half of the entry of a table that is there; the lower one is its number. */
const TABLE_PRESENT = 0x10000000

/** Number of a grain table; undefined: it is not there; 'bad': the entry can be neither. */
export function decodeDirectoryEntry(high: number, low: number): number | undefined | 'bad' {
  if (high === 0 && low === 0) return undefined
  return high === TABLE_PRESENT ? low : 'bad'
}

export type SeGrain = { readonly kind: 'silent' | 'zero' | 'bad' } | { readonly kind: 'data'; readonly number: number }

/**
 * Entry of a grain table: four bits say what it is; of the grain's number the lowest twelve bits come next, and then all
 * others.
 */
export function decodeTableEntry(high: number, low: number): SeGrain {
  switch (high >>> 28) {
    case 0:
      return { kind: high === 0 && low === 0 ? 'silent' : 'bad' }
    case 1: // given up by the guest
    case 2:
      return { kind: 'zero' }
    case 3: {
      const lowest = (high >>> 16) & 0xfff
      return { kind: 'data', number: ((high & 0xffff) * 2 ** 32 + low) * 4096 + lowest }
    }
    default:
      return { kind: 'bad' }
  }
}
