import { ascii, bits64, bytes, guid, struct, u32, u64 } from '../../bytes/struct.ts'

/**
 * An expanding image file (`.hds`, `.hdd`): header, BAT, clusters. All numbers are little-endian. Sections are those of
 * docs/interop/parallels in the QEMU documentation; what programs do beside it is said where it matters.
 */

export const SECTOR = 512

/** 'classic': BAT entries and the size count sectors in 32 bits. 'extended': entries count clusters, the size has 64 bits. */
export const MAGIC = { classic: 'WithoutFreeSpace', extended: 'WithouFreSpacExt' } as const
export type Kind = keyof typeof MAGIC

export const VERSION = 2

/** Whether the last writer closed the file. Parallels Desktop writes other values too ("pd17", "pd22"), when it closes. */
export const IN_USE = { opened: 0x746f6e59, closed: 0x312e3276, unknown: 0 } as const

/** The image is to be considered clear, whatever its BAT says. */
export const EMPTY = 1

/** Header. ["Header"] */
export const headerLayout = struct(
  'Parallels header',
  { size: 64, order: 'little' },
  {
    magic: ascii(0, 16),
    version: u32(16), // 2
    heads: u32(20), // geometry, for the guest
    cylinders: u32(24),
    clusterSectors: u32(28), // "tracks"
    entryCount: u32(32), // of the BAT
    sectors: u64(36), // of the disk
    inUse: u32(44), // IN_USE
    dataAt: u32(48), // sectors; 0: behind the BAT
    flags: u32(52), // EMPTY
    extensionAt: u64(56), // sectors; 0: none
  },
)

/** Entries of the BAT lie behind the header, four bytes each; 0: the cluster is not there. ["BAT"] */
export const BAT_AT = 64
export const BAT_ENTRY = 4

/** Head of the format extension. ["Format Extension"] */
export const extensionHead = struct(
  'format extension',
  { size: 24, order: 'little' },
  {
    magic: bits64(0), // EXTENSION_MAGIC
    checksum: bytes(8, 16), // MD5 of the rest of the cluster
  },
)
export const EXTENSION_MAGIC = 0xab234cef23dcea87n

/** Head of a feature in the extension; its data follows, padded to 8 bytes. */
export const featureHead = struct(
  'extension feature',
  { size: 24, order: 'little' },
  {
    magic: bits64(0), // FEATURE
    flags: bits64(8), // FEATURE_FLAG
    dataLength: u32(16), // bytes
  },
)
export const FEATURE = { end: 0n, bitmap: 0x20385fae252cb34an } as const
/** necessary: who cannot load the feature must not change the file; transit: who does not know it keeps it. */
export const FEATURE_FLAG = { necessary: 1n, transit: 2n } as const

/** Data of a dirty bitmap; the L1 table follows, eight bytes an entry. ["Dirty bitmaps feature"] */
export const bitmapHead = struct(
  'dirty bitmap',
  { size: 32, order: 'little' },
  {
    sectors: u64(0), // of the disk
    id: guid(8),
    granularity: u32(24), // sectors for each bit
    entryCount: u32(28), // of the L1 table
  },
)
/** L1 entries that are no place: all bits of that cluster are 0, or 1. */
export const L1_ZEROS = 0n
export const L1_ONES = 1n

export const LIMIT = {
  /** entries of a BAT: 512 MiB of it, 128 TiB of clusters of the usual size */
  entries: 2 ** 27,
  /** sectors of a cluster, as QEMU has it */
  clusterSectors: Math.floor((2 ** 31 - 1) / 513),
  /** what a BAT entry can say */
  entry: 2 ** 32 - 1,
  /** sectors before the data, as far as the header can say */
  dataAt: 2 ** 32 - 1,
  /** clusters of a file whose use is counted: 32 MiB of memory */
  counted: 2 ** 28,
  /** bytes of one dirty bitmap, of what can be kept true */
  bitmapBytes: 16 << 20,
  bitmaps: 64,
} as const
