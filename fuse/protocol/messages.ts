import { bits64, struct, u16, u32, u64 } from '../../lib/bytes/struct.ts'

/**
 * What follows the header of a request or a reply, as <linux/fuse.h> has it; offsets count from the end of the header.
 */

const LITTLE = 'little' as const

/** fuse_init_in; kernels of 7.36 and later send 48 bytes more, which begin with `moreFlagsIn`. */
export const initIn = struct(
  'fuse_init_in',
  { size: 16, order: LITTLE },
  { major: u32(0), minor: u32(4), maxReadahead: u32(8), flags: u32(12) },
)

/** The part of fuse_init_in that is there if INIT_EXT is among its flags. */
export const moreFlagsIn = struct('fuse_init_in', { size: 20, order: LITTLE }, { flags2: u32(16) })

export const initOut = struct(
  'fuse_init_out',
  { size: 64, order: LITTLE },
  {
    major: u32(0),
    minor: u32(4),
    maxReadahead: u32(8), // bytes
    flags: u32(12),
    maxBackground: u16(16), // requests in flight that nobody waits for: readahead, asynchronous writes
    congestionThreshold: u16(18), // from here on the kernel holds readahead back
    maxWrite: u32(20), // bytes of payload
    timeGranularity: u32(24), // nanoseconds
    maxPages: u16(28),
    flags2: u32(32), // read where `flags` has INIT_EXT
  },
)

/** struct fuse_attr, 88 bytes, which other structures hold at `at`. Times are seconds, with nanoseconds apart. */
function attributesAt(at: number) {
  return {
    inode: u64(at),
    size: u64(at + 8),
    blocks: u64(at + 16), // of 512 bytes, whatever blockSize says
    accessed: u64(at + 24),
    modified: u64(at + 32),
    changed: u64(at + 40),
    accessedNanos: u32(at + 48),
    modifiedNanos: u32(at + 52),
    changedNanos: u32(at + 56),
    mode: u32(at + 60),
    links: u32(at + 64),
    uid: u32(at + 68),
    gid: u32(at + 72),
    blockSize: u32(at + 80), // bytes; a power of two
  }
}

/** fuse_attr_out: answers GETATTR and SETATTR. */
export const attributesOut = struct(
  'fuse_attr_out',
  { size: 104, order: LITTLE },
  { validSeconds: u64(0), ...attributesAt(16) },
)

/** fuse_entry_out: answers LOOKUP, and precedes each entry of READDIRPLUS. */
export const entryOut = struct(
  'fuse_entry_out',
  { size: 128, order: LITTLE },
  {
    nodeId: u64(0), // 0 in READDIRPLUS: nothing to remember
    generation: u64(8),
    entryValidSeconds: u64(16),
    attributesValidSeconds: u64(24),
    ...attributesAt(40),
  },
)

export const getAttributesIn = struct(
  'fuse_getattr_in',
  { size: 16, order: LITTLE },
  {
    flags: u32(0),
    handle: u64(8), // if `flags` has OF_HANDLE
  },
)

export const setAttributesIn = struct(
  'fuse_setattr_in',
  { size: 88, order: LITTLE },
  {
    valid: u32(0), // which of the others are meant: CHANGES
    size: u64(16),
    accessed: u64(32),
    modified: u64(40),
    accessedNanos: u32(56),
    modifiedNanos: u32(60),
    mode: u32(68),
    uid: u32(76),
    gid: u32(80),
  },
)

export const openIn = struct('fuse_open_in', { size: 8, order: LITTLE }, { flags: u32(0) })

/** How fuse_release_in, fuse_flush_in and fuse_fsync_in begin. */
export const handleIn = struct('fuse_release_in', { size: 8, order: LITTLE }, { handle: u64(0) })

export const openOut = struct('fuse_open_out', { size: 16, order: LITTLE }, { handle: u64(0), openFlags: u32(8) })

/** fuse_read_in, as READDIR and READDIRPLUS use it. */
export const readDirectoryIn = struct('fuse_read_in', { size: 40, order: LITTLE }, { offset: u64(8), size: u32(16) })

/** What precedes a name in a directory, padded to a multiple of 8 bytes. */
export const directoryEntry = struct(
  'fuse_dirent',
  { size: 24, order: LITTLE },
  {
    inode: u64(0),
    next: u64(8), // offset of the entry behind this one
    nameLength: u32(16), // bytes
    type: u32(20), // the type bits of a mode, shifted right by 12
  },
)

export const statfsOut = struct(
  'fuse_statfs_out',
  { size: 80, order: LITTLE },
  {
    blocks: u64(0), // of `fragmentSize`
    freeBlocks: u64(8),
    availableBlocks: u64(16),
    files: u64(24),
    freeFiles: u64(32),
    blockSize: u32(40),
    nameLength: u32(44),
    fragmentSize: u32(48),
  },
)

export const fallocateIn = struct(
  'fuse_fallocate_in',
  { size: 32, order: LITTLE },
  { offset: u64(8), length: u64(16), mode: u32(24) },
)

export const lseekIn = struct('fuse_lseek_in', { size: 24, order: LITTLE }, { offset: u64(8), whence: u32(16) })

export const lseekOut = struct('fuse_lseek_out', { size: 8, order: LITTLE }, { offset: u64(0) })

export const accessIn = struct('fuse_access_in', { size: 8, order: LITTLE }, { mask: u32(0) })

export const copyRangeIn = struct(
  'fuse_copy_file_range_in',
  { size: 56, order: LITTLE },
  {
    from: u64(8), // bytes in the file of the request
    targetNode: u64(16),
    to: u64(32), // bytes in the other file
    length: u64(40),
    flags: u64(48),
  },
)

/** fuse_write_out: answers COPY_FILE_RANGE too. */
export const writeOut = struct('fuse_write_out', { size: 8, order: LITTLE }, { size: u32(0) })

/** fuse_notify_inval_inode_out */
export const changedNode = struct(
  'fuse_notify_inval_inode_out',
  { size: 24, order: LITTLE },
  {
    inode: bits64(0),
    offset: bits64(8), // signed
    length: bits64(16), // 0: to the end
  },
)

/** fuse_notify_inval_entry_out; the name follows, with a zero byte that is not counted. */
export const changedName = struct(
  'fuse_notify_inval_entry_out',
  { size: 16, order: LITTLE },
  {
    parent: u64(0),
    nameLength: u32(8), // bytes
  },
)
