import { struct, u16, u32, u64 } from '../lib/bytes/struct.ts'

/**
 * The words of the kernel's FUSE protocol, as <linux/fuse.h> has them.
 *
 * Every request begins with a header of 40 bytes, every reply with one of 16. The tables below describe what follows
 * the header; offsets count from its end. Reads and writes are decoded by hand further down: they come a hundred
 * thousand times a second. The protocol is in the byte order of the machine, which is little-endian wherever Node runs
 * but on s390x; there, mounting is refused.
 */

/** [linux/fuse.h, enum fuse_opcode] */
export const OPCODE = {
  LOOKUP: 1,
  FORGET: 2,
  GETATTR: 3,
  SETATTR: 4,
  SYMLINK: 6,
  MKNOD: 8,
  MKDIR: 9,
  UNLINK: 10,
  RMDIR: 11,
  RENAME: 12,
  LINK: 13,
  OPEN: 14,
  READ: 15,
  WRITE: 16,
  STATFS: 17,
  RELEASE: 18,
  FSYNC: 20,
  FLUSH: 25,
  INIT: 26,
  OPENDIR: 27,
  READDIR: 28,
  RELEASEDIR: 29,
  FSYNCDIR: 30,
  ACCESS: 34,
  CREATE: 35,
  INTERRUPT: 36,
  DESTROY: 38,
  BATCH_FORGET: 42,
  FALLOCATE: 43,
  READDIRPLUS: 44,
  RENAME2: 45,
  LSEEK: 46,
  SYNCFS: 50,
  TMPFILE: 51,
} as const

/** Linux's numbers, whatever system this runs on: they go over the wire. [asm-generic/errno.h] */
export const ERRNO = {
  EPERM: 1,
  ENOENT: 2,
  EIO: 5,
  ENXIO: 6,
  EBUSY: 16,
  ENOTDIR: 20,
  EISDIR: 21,
  EINVAL: 22,
  ENOSPC: 28,
  EROFS: 30,
  ENOSYS: 38,
  EPROTO: 71,
  EOPNOTSUPP: 95,
  ENOTCONN: 107,
  ECANCELED: 125,
} as const

/** What the two sides agree on at INIT. [linux/fuse.h, "INIT request/reply flags"] */
export const FLAG = {
  /** several reads of one file at a time */
  ASYNC_READ: 1 << 0,
  /** writes larger than a page */
  BIG_WRITES: 1 << 5,
  /** READDIR may bring the attributes along, where the kernel thinks it is worth it */
  DO_READDIRPLUS: 1 << 13,
  READDIRPLUS_AUTO: 1 << 14,
  /** direct reads and writes do not wait for one another */
  ASYNC_DIO: 1 << 15,
  PARALLEL_DIROPS: 1 << 18,
  /** requests of up to `maxPages` pages instead of 32 */
  MAX_PAGES: 1 << 22,
} as const

/** The pages of a file stay in the kernel's cache when it is opened again. [FOPEN_KEEP_CACHE] */
export const KEEP_CACHE = 1 << 1

/** [FATTR_*]: which fields of SETATTR are meant. */
export const CHANGES = {
  MODE: 1 << 0,
  UID: 1 << 1,
  GID: 1 << 2,
  SIZE: 1 << 3,
  MTIME: 1 << 5,
  MTIME_NOW: 1 << 8,
} as const

/** [lseek(2)] */
export const SEEK = { DATA: 3, HOLE: 4 } as const

/** File types in the upper bits of a mode. [inode(7)] */
export const TYPE = { DIRECTORY: 0o040000, FILE: 0o100000 } as const

/** Access mode of open(2). */
export const OPEN_FOR = { MASK: 3, READING: 0 } as const

/** Write access of access(2). */
export const MAY_WRITE = 2

export const MAJOR = 7
/** The version whose layouts these are (Linux 5.2). */
export const MINOR = 31
/** Since 7.23 (Linux 3.15) the answer to INIT has its present size; older kernels are refused. */
export const OLDEST_MINOR = 23

/** Bytes of the header before a request, and before a reply. */
export const REQUEST_HEADER = 40
export const REPLY_HEADER = 16
/** Where the payload of a WRITE begins: behind the header and fuse_write_in. */
export const WRITE_PAYLOAD = REQUEST_HEADER + 40

/** Largest payload of a READ or WRITE, and how many pages that is. */
export const MAX_TRANSFER = 1 << 20
export const MAX_PAGES = MAX_TRANSFER / 4096
/** Bytes of room that every request fits in: what the kernel demands for `MAX_TRANSFER`, and a page to spare. */
export const REQUEST_ROOM = MAX_TRANSFER + 4096

/** The id of the node that is mounted. */
export const ROOT_ID = 1

const LITTLE = 'little' as const

/** fuse_init_in; kernels of 7.36 and later send 48 bytes more. */
export const initIn = struct(
  'fuse_init_in',
  { size: 16, order: LITTLE },
  { major: u32(0), minor: u32(4), maxReadahead: u32(8), flags: u32(12) },
)

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

export const setAttributesIn = struct(
  'fuse_setattr_in',
  { size: 88, order: LITTLE },
  {
    valid: u32(0), // which of the others are meant: CHANGES
    size: u64(16),
    modified: u64(40),
    modifiedNanos: u32(60),
    mode: u32(68),
    uid: u32(76),
    gid: u32(80),
  },
)

export const openIn = struct('fuse_open_in', { size: 8, order: LITTLE }, { flags: u32(0) })

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

/** fuse_flush_in, fuse_fsync_in and fuse_release_in alike, as far as they are looked at. */
export const handleIn = struct('fuse_release_in', { size: 24, order: LITTLE }, { handle: u64(0), flags: u32(8) })

export const fallocateIn = struct(
  'fuse_fallocate_in',
  { size: 32, order: LITTLE },
  { offset: u64(8), length: u64(16), mode: u32(24) },
)

export const lseekIn = struct('fuse_lseek_in', { size: 24, order: LITTLE }, { offset: u64(8), whence: u32(16) })

export const lseekOut = struct('fuse_lseek_out', { size: 8, order: LITTLE }, { offset: u64(0) })

export const accessIn = struct('fuse_access_in', { size: 8, order: LITTLE }, { mask: u32(0) })

// The hot path: READ and WRITE have their offset and size in the same places. [fuse_read_in, fuse_write_in]

const TWO_32 = 4294967296

export function opcodeOf(request: DataView): number {
  return request.getUint32(4, true)
}

/** Node ids are ours and small: one with a high half is not one of them. */
export function nodeIdOf(request: DataView): number {
  return request.getUint32(20, true) === 0 ? request.getUint32(16, true) : 0
}

/** Bytes on the disk. Beyond 2^53 it is inexact, and past the end of every disk. */
export function transferOffset(request: DataView): number {
  return request.getUint32(REQUEST_HEADER + 12, true) * TWO_32 + request.getUint32(REQUEST_HEADER + 8, true)
}

/** Bytes to read or write. */
export function transferSize(request: DataView): number {
  return request.getUint32(REQUEST_HEADER + 16, true)
}

/** fuse_write_out: how many bytes were taken. */
export function encodeWritten(reply: DataView, size: number): number {
  reply.setUint32(REPLY_HEADER, size, true)
  reply.setUint32(REPLY_HEADER + 4, 0, true)
  return 8
}

/** fuse_out_header. @param errno 0, or a negative error number @param length bytes of the whole reply */
export function encodeReplyHeader(reply: DataView, length: number, errno: number, request: DataView): void {
  reply.setUint32(0, length, true)
  reply.setInt32(4, errno, true)
  // The request's unique number comes back as it was.
  reply.setUint32(8, request.getUint32(8, true), true)
  reply.setUint32(12, request.getUint32(12, true), true)
}

// The other side of the table: requests as the kernel writes them, for a door that is asked by path.

/** fuse_in_header, from nobody in particular. @param length bytes of the whole request */
export function encodeRequestHeader(request: DataView, opcode: number, length: number, nodeId: number): void {
  request.setUint32(0, length, true)
  request.setUint32(4, opcode, true)
  // Whoever asks waits for this answer: a number to tell it from others is not needed, and neither is who asks.
  for (let at = 8; at < REQUEST_HEADER; at += 4) request.setUint32(at, 0, true)
  request.setUint32(16, nodeId, true)
}

/** fuse_read_in, or fuse_write_in, of 40 bytes both. @param offset bytes on the disk @param size bytes to read or write */
export function encodeTransfer(request: DataView, handle: number, offset: number, size: number): void {
  for (let at = REQUEST_HEADER; at < WRITE_PAYLOAD; at += 4) request.setUint32(at, 0, true)
  request.setUint32(REQUEST_HEADER, handle, true)
  request.setUint32(REQUEST_HEADER + 8, offset % TWO_32, true)
  request.setUint32(REQUEST_HEADER + 12, Math.floor(offset / TWO_32), true)
  request.setUint32(REQUEST_HEADER + 16, size, true)
}

/** 0, or a negative error number. */
export function errorOf(reply: DataView): number {
  return reply.getInt32(4, true)
}

/** Bytes that a WRITE has taken. */
export function writtenOf(reply: DataView): number {
  return reply.getUint32(REPLY_HEADER, true)
}
