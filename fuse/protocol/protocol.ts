/**
 * The words of the kernel's FUSE protocol, as <linux/fuse.h> has them.
 *
 * Every request begins with a header of 40 bytes, every reply with one of 16. What follows them is described in
 * `messages.ts`, but for reads and writes, which are decoded here by hand: they come a hundred thousand times a second.
 * The protocol is in the byte order of the machine, which is little-endian wherever Node runs but on s390x; there,
 * mounting is refused.
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
  COPY_FILE_RANGE: 47,
  SYNCFS: 50,
  TMPFILE: 51,
} as const

/** Linux's numbers, whatever system this runs on: they go over the wire. [asm-generic/errno.h] */
export const ERRNO = {
  EPERM: 1,
  ENOENT: 2,
  EIO: 5,
  ENXIO: 6,
  EBADF: 9,
  EBUSY: 16,
  ENODEV: 19,
  ENOTDIR: 20,
  EISDIR: 21,
  EINVAL: 22,
  ENFILE: 23,
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
  /** there are 32 flags more, in a field of their own */
  INIT_EXT: 1 << 30,
} as const

/** The flags beyond the 32nd, shifted into a number of their own. [linux/fuse.h, as above] */
export const FLAG2 = {
  /** files that are open for direct I/O can be mapped into memory all the same (7.39, Linux 6.6) */
  DIRECT_IO_ALLOW_MMAP: 1 << 4,
} as const

/** How an open file is treated. [linux/fuse.h, "Flags returned by the OPEN request"] */
export const OPENED = {
  /** reads and writes come here as they are made; nothing is kept of them, and the size does not matter */
  DIRECT_IO: 1 << 0,
  /** the pages that the kernel has of the file stay valid */
  KEEP_CACHE: 1 << 1,
  /** direct writes need not wait for one another */
  PARALLEL_DIRECT_WRITES: 1 << 6,
} as const

/** Messages that nobody asked for. [linux/fuse.h, enum fuse_notify_code] */
export const NOTIFY = { INVAL_INODE: 2, INVAL_ENTRY: 3 } as const

/** GETATTR was asked of an open file. [FUSE_GETATTR_FH] */
export const OF_HANDLE = 1 << 0

/** [FATTR_*]: which fields of SETATTR are meant. */
export const CHANGES = {
  MODE: 1 << 0,
  UID: 1 << 1,
  GID: 1 << 2,
  SIZE: 1 << 3,
  ATIME: 1 << 4,
  MTIME: 1 << 5,
  ATIME_NOW: 1 << 7,
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
/** Where the payload of a WRITE begins, and a READ ends: behind the header and fuse_write_in or fuse_read_in. */
export const WRITE_PAYLOAD = REQUEST_HEADER + 40

/** Largest payload of a READ or WRITE, and how many pages that is. */
export const MAX_TRANSFER = 1 << 20
export const MAX_PAGES = MAX_TRANSFER / 4096
/** Bytes of room that every request fits in: what the kernel demands for `MAX_TRANSFER`, and a page to spare. */
export const REQUEST_ROOM = MAX_TRANSFER + 4096

/** The id of the node that is mounted. */
export const ROOT_ID = 1

// The hot path: READ and WRITE have their offset and size in the same places. [fuse_read_in, fuse_write_in]

const TWO_32 = 4294967296

export function opcodeOf(request: DataView): number {
  return request.getUint32(4, true)
}

/** Node ids are ours and small: one with a high half is not one of them. */
export function nodeIdOf(request: DataView): number {
  return request.getUint32(20, true) === 0 ? request.getUint32(16, true) : 0
}

/** What OPEN said, of the file that is read. */
export function transferHandle(request: DataView): number {
  return request.getUint32(REQUEST_HEADER, true)
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
