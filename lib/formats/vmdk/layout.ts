import { ascii, bits64, bytes, struct, u8, u16, u32, u64 } from '../../bytes/struct.ts'

/** VMDK on disk. Sections are those of VMware's "Virtual Disk Format 5.0". */

export const SECTOR = 512
export const SPARSE_MAGIC = 'KDMV'
/** An extent of ESX, whose descriptor is always another file. ["ESX Server Sparse Extents"] */
export const ESX_MAGIC = 'COWD'
/** The same of vSphere 6.5 and later: 0xcafebabe as 64 bits, little-endian. */
export const SE_SPARSE_MAGIC = Buffer.from('bebafeca00000000', 'hex')

/** Header of a sparse extent, little-endian; also its footer. ["Hosted Sparse Extents"] */
export const sparseHeader = struct(
  'VMDK sparse extent header',
  { size: SECTOR, order: 'little' },
  {
    magic: ascii(0, 4), // "KDMV"
    version: u32(4), // 1 to 3
    flags: u32(8), // FLAG
    capacity: u64(12), // sectors
    grainSize: u64(20), // sectors, a power of two
    descriptorOffset: u64(28), // sectors; 0: none
    descriptorSize: u64(36), // sectors
    entriesPerTable: u32(44), // 512
    redundantDirectoryOffset: u64(48), // sectors
    directoryOffset: bits64(56), // sectors; all ones: see the footer
    overhead: u64(64), // sectors before the first grain
    unclean: u8(72),
    lineEnds: bytes(73, 4), // "\n \r\n", to find what was copied as text
    compression: u16(77), // 0 none, 1 deflate
  },
)

export const FLAG = {
  lineEnds: 1,
  redundantDirectory: 2,
  zeroedGrains: 4,
  compressed: 0x10000,
  markers: 0x20000,
} as const
/** Line ends, redundant directory, zeroed grains; compressed grains, markers. */
export const KNOWN_FLAGS = 0x00030007
export const LINE_ENDS = '\n \r\n'
export const DIRECTORY_AT_END = 0xffffffffffffffffn

/** What programs write; others are mentioned nowhere but could be. */
export const TABLE_ENTRIES = [128, 256, 512]
/** Bytes of an entry of a grain directory or a grain table: a sector of the file. */
export const ENTRY = 4
/** Entries of a grain table that name no grain. 1 only where the header's flag says so. */
export const GRAIN_ENTRY = { silent: 0, zero: 1 } as const

/** A marker in a stream of grains, one sector. ["Stream-Optimized Compressed Sparse Extents"] */
export const marker = struct(
  'VMDK marker',
  { size: SECTOR, order: 'little' },
  { value: u64(0), size: u32(8), type: u32(12), rest: bytes(16, SECTOR - 16) },
)
/** The last is not in the specification; newer writers put it in to tell how far they are. */
export const MARKER = { endOfStream: 0, grainTable: 1, grainDirectory: 2, footer: 3, progress: 4 } as const

/** A descriptor has its place right behind the header, and readers stop at so many bytes. */
export const DESCRIPTOR_SECTOR = 1
export const MOST_DESCRIPTOR_BYTES = 1 << 20
/** The directory, and its copy as well, are in memory: enough for 128 TiB in grains of 64 KiB. */
export const MOST_DIRECTORY_BYTES = 16 << 20
/** Grain tables that are looked at. */
export const TABLES_SAMPLED = 8
/** sectors */
export const GRAIN = { least: 8, most: 1 << 21 } as const

/** `parentCID` of a disk that has no parent. ["The Header"] */
export const NO_PARENT = 'ffffffff'
/** How a descriptor in a file of its own begins. */
export const DESCRIPTOR_MAGIC = '# disk descriptorfile'
/** Parts of a disk; of 2 GiB each they make 8 TiB. */
export const MOST_EXTENTS = 4096
/** Disks that are a device of the host. ["The Header", createType] */
export const DEVICE_TYPES = [
  'fullDevice',
  'partitionedDevice',
  'vmfsRaw',
  'vmfsRDM',
  'vmfsRDMP',
  'vmfsRawDeviceMap',
  'vmfsPassthroughRawDeviceMap',
]
/** Bytes of the disk in one piece of a split disk: as VMware makes them, 2 GiB less 1 MiB. */
export const MOST_SPLIT = 2047 << 20
/** Bytes of the disk in a sparse file: tables name sectors by 32 bits, and they need room themselves. */
export const MOST_SPARSE = 2 ** 41 - 2 ** 34
