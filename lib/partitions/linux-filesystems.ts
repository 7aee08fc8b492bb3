import { isPowerOfTwo } from '../bytes/align.ts'
import { ascii, bytes, guid, struct, u8, u16, u32, u64, utf16 } from '../bytes/struct.ts'
import type { Io } from '../io/io.ts'
import { type Filesystem, type FilesystemType, filesOf, labelOf, otherThanFiles } from './filesystem.ts'
import type { Pieces } from './pieces.ts'

const KIB = 1024

/** Superblock of ext2, ext3 and ext4, at 1024. [Linux, Documentation/filesystems/ext4/super.rst] */
export const extSuperblock = struct(
  'ext4 superblock',
  { size: 1024, order: 'little' },
  {
    inodeCount: u32(0x0),
    blockCountLow: u32(0x4),
    firstDataBlock: u32(0x14),
    logBlockSize: u32(0x18), // the block size is 1024 << this
    blocksPerGroup: u32(0x20),
    inodesPerGroup: u32(0x28),
    magic: u16(0x38),
    compatible: u32(0x5c),
    incompatible: u32(0x60),
    readOnlyCompatible: u32(0x64),
    uuid: guid(0x68),
    volumeName: bytes(0x78, 16),
  },
)
const EXT_MAGIC = 0xef53
const HAS_JOURNAL = 0x4
const JOURNAL_DEVICE = 0x8
/** What drivers of ext2 and ext3 understand; whoever needs more is ext4. */
const OLD_INCOMPATIBLE = 0x2 | 0x4 | 0x10
const OLD_READ_ONLY_COMPATIBLE = 0x1 | 0x2 | 0x4
const EXT_LARGEST_LOG_BLOCK = 6

export function* probeExt(pieces: Pieces): Io<Filesystem | undefined> {
  const sector = yield* pieces.read(KIB, extSuperblock.size)
  if (!sector) return undefined
  const found = extSuperblock.decode(sector)
  if (found.magic !== EXT_MAGIC || found.logBlockSize > EXT_LARGEST_LOG_BLOCK) return undefined
  const { inodeCount, blockCountLow, blocksPerGroup, inodesPerGroup, firstDataBlock } = found
  if (inodeCount === 0 || blockCountLow === 0 || inodesPerGroup === 0 || firstDataBlock > 1) return undefined
  // A group has one block of bits, so many clusters at most.
  if (blocksPerGroup === 0 || inodesPerGroup > 8 * (KIB << found.logBlockSize)) return undefined
  if (found.incompatible & JOURNAL_DEVICE) return undefined
  return filesOf(extVersion(found), { label: labelOf(found.volumeName), uuid: found.uuid })
}

function extVersion(found: ReturnType<typeof extSuperblock.decode>): FilesystemType {
  const isNew =
    (found.incompatible & ~OLD_INCOMPATIBLE) !== 0 || (found.readOnlyCompatible & ~OLD_READ_ONLY_COMPATIBLE) !== 0
  if (isNew) return 'ext4'
  return found.compatible & HAS_JOURNAL ? 'ext3' : 'ext2'
}

/** Superblock of XFS, at 0. [XFS Algorithms and Data Structures, "Superblocks"] */
export const xfsSuperblock = struct(
  'XFS superblock',
  { size: 264, order: 'big' },
  {
    magic: ascii(0, 4), // "XFSB"
    blockSize: u32(4), // bytes
    blockCount: u64(8),
    uuid: guid(32),
    groupBlocks: u32(84),
    groupCount: u32(88),
    sectorSize: u16(102), // bytes
    volumeName: bytes(108, 12),
    logBlockSize: u8(120),
    logSectorSize: u8(121),
  },
)

export function* probeXfs(pieces: Pieces): Io<Filesystem | undefined> {
  const sector = yield* pieces.read(0, xfsSuperblock.size)
  if (!sector) return undefined
  const found = xfsSuperblock.decode(sector)
  if (found.magic !== 'XFSB' || found.logBlockSize > 16 || found.blockSize !== 1 << found.logBlockSize) return undefined
  if (found.sectorSize !== 1 << found.logSectorSize || found.sectorSize < 512) return undefined
  if (found.blockCount === 0 || found.blockCount > found.groupBlocks * found.groupCount) return undefined
  return filesOf('xfs', { label: labelOf(found.volumeName), uuid: found.uuid })
}

/** Superblock of btrfs, at 64 KiB. [btrfs documentation, "On-disk format"] */
export const btrfsSuperblock = struct(
  'btrfs superblock',
  { size: 4096, order: 'little' },
  {
    fileSystemUuid: guid(0x20),
    place: u64(0x30), // bytes: where this copy lies
    magic: ascii(0x40, 8), // "_BHRfS_M"
    deviceCount: u64(0x88),
    sectorSize: u32(0x90), // bytes
    nodeSize: u32(0x94), // bytes
    label: bytes(0x12b, 256),
  },
)
const BTRFS_PLACE = 64 * KIB

export function* probeBtrfs(pieces: Pieces): Io<Filesystem | undefined> {
  const block = yield* pieces.read(BTRFS_PLACE, btrfsSuperblock.size)
  if (!block) return undefined
  const found = btrfsSuperblock.decode(block)
  if (found.magic !== '_BHRfS_M' || found.place !== BTRFS_PLACE) return undefined
  if (!isPowerOfTwo(found.sectorSize) || !isPowerOfTwo(found.nodeSize) || found.deviceCount === 0) return undefined
  const names = { label: labelOf(found.label), uuid: found.fileSystemUuid }
  if (found.deviceCount === 1) return filesOf('btrfs', names)
  return otherThanFiles('btrfs', `one of ${found.deviceCount} devices of a btrfs: mount it with all of them`, names)
}

/** Superblock of F2FS, at 1024. [Linux, include/linux/f2fs_fs.h] */
export const f2fsSuperblock = struct(
  'F2FS superblock',
  { size: 1152, order: 'little' },
  {
    magic: u32(0),
    logSectorSize: u32(8),
    logSectorsPerBlock: u32(12),
    logBlockSize: u32(16),
    blockCount: u64(36),
    uuid: guid(108),
    volumeName: utf16(124, 1024),
  },
)
const F2FS_MAGIC = 0xf2f52010

export function* probeF2fs(pieces: Pieces): Io<Filesystem | undefined> {
  const block = yield* pieces.read(KIB, f2fsSuperblock.size)
  if (!block) return undefined
  const found = f2fsSuperblock.decode(block)
  if (found.magic !== F2FS_MAGIC || found.blockCount === 0) return undefined
  if (found.logSectorSize + found.logSectorsPerBlock !== found.logBlockSize) return undefined
  return filesOf('f2fs', { label: found.volumeName, uuid: found.uuid })
}

/** Superblock of squashfs 4, at 0. [Linux, fs/squashfs/squashfs_fs.h] */
export const squashfsSuperblock = struct(
  'squashfs superblock',
  { size: 96, order: 'little' },
  {
    magic: ascii(0, 4), // "hsqs"
    blockSize: u32(12), // bytes
    logBlockSize: u16(22),
    major: u16(28),
    usedBytes: u64(40),
  },
)

export function* probeSquashfs(pieces: Pieces): Io<Filesystem | undefined> {
  const sector = yield* pieces.read(0, squashfsSuperblock.size)
  if (!sector) return undefined
  const found = squashfsSuperblock.decode(sector)
  if (found.magic !== 'hsqs' || found.major !== 4 || found.logBlockSize > 20) return undefined
  if (found.blockSize !== 1 << found.logBlockSize || found.usedBytes < squashfsSuperblock.size) return undefined
  return filesOf('squashfs', {})
}

/** Header of swap space, at 1024; the magic ends the first page, whatever a page is on that machine. [swapon(8)] */
export const swapHeader = struct(
  'swap header',
  { size: 44, order: 'little' },
  {
    version: u32(0), // 1
    lastPage: u32(4),
    uuid: guid(12),
    label: bytes(28, 16),
  },
)
const PAGE_SIZES = [4 * KIB, 8 * KIB, 16 * KIB, 32 * KIB, 64 * KIB]
const SWAP_MAGICS = ['SWAPSPACE2', 'SWAP-SPACE']

export function* probeSwap(pieces: Pieces): Io<Filesystem | undefined> {
  for (const page of PAGE_SIZES) {
    const magic = yield* pieces.read(page - 10, 10)
    const header = yield* pieces.read(KIB, swapHeader.size)
    if (!magic || !header || !SWAP_MAGICS.includes(Buffer.from(magic).toString('latin1'))) continue
    const { version, lastPage, label, uuid } = swapHeader.decode(header)
    // A machine of the other byte order wrote the same number the other way round.
    if ((version !== 1 && version !== 0x1000000) || lastPage === 0) continue
    return otherThanFiles('swap', 'swap space', { label: labelOf(label), uuid })
  }
  return undefined
}
