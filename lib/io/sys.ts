import { constants, existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { VdiskError } from '../errors.ts'

/**
 * The system calls that Node lacks, through koffi. The only file that knows koffi, and the only one with POSIX in it.
 *
 * koffi is optional. Where it is absent, or the system is not Linux, `sys()` is undefined and callers do without:
 * holes are not seen, room is not given back, images are not locked, and only root can mount.
 */
export interface Sys {
  /** Reads what the page cache holds. @returns bytes read, or -errno (-EAGAIN: the medium would have to be asked) */
  readCached(fd: number, at: number, target: Uint8Array): number
  /** Where data (or a hole) begins at or after `at`. @returns a place, or -errno (-ENXIO: none before the end) */
  seekData(fd: number, at: number): number
  seekHole(fd: number, at: number): number
  /** The end of a file or block device. */
  seekEnd(fd: number): number
  /** @param mode a combination of FALLOCATE @returns 0 or -errno */
  fallocate(fd: number, mode: number, at: number, length: number): Promise<number>
  /** Sets the time of the last change; that of the last access stays. @returns 0 or -errno */
  setModified(fd: number, nanoseconds: bigint): number
  /** Begins to write what is dirty in the file to the medium, and does not wait for it. @returns 0 or -errno */
  startWriting(fd: number): Promise<number>
  /** @returns bytes copied, or -errno. `Later` does it on a thread, which costs some 0.1 ms. */
  copyFileRange(from: number, fromAt: number, to: number, toAt: number, length: number): number
  copyFileRangeLater(from: number, fromAt: number, to: number, toAt: number, length: number): Promise<number>
  /** Takes (or drops) a shared lock of one byte that belongs to the open file, not the process. @returns 0 or -errno */
  lockByte(fd: number, byte: number, take: boolean): number
  /** Whether somebody else's lock stands against an exclusive lock of this byte. */
  byteIsHeld(fd: number, byte: number): boolean
  /** read(2). @returns bytes, or -errno */
  read(fd: number, target: Uint8Array): number
  /** Waits, all of this thread, until there is something to read, or for so many milliseconds at most. @returns whether there is */
  waitReadable(fd: number, milliseconds: number): boolean
  /**
   * From now on `read` answers -EAGAIN where it would have to wait. With `signal`, what arrives from now on raises a
   * SIGIO besides, for which there must be a handler: without one it ends the process.
   *
   * @returns 0 or -errno
   */
  setNonBlocking(fd: number, signal: boolean): number
  /** A connected pair of Unix sockets, neither of which a child inherits unless it is handed over. */
  socketPair(): [number, number]
  /**
   * Receives one byte and the file descriptor sent with it, which no child inherits; undefined if the other side closed
   * without sending.
   */
  receiveDescriptor(socket: number): Promise<number | undefined>
}

export const FALLOCATE = { KEEP_SIZE: 1, PUNCH_HOLE: 2, ZERO_RANGE: 16 } as const

export const ERRNO = {
  ENOENT: 2,
  EINTR: 4,
  EIO: 5,
  ENXIO: 6,
  EAGAIN: 11,
  EINVAL: 22,
  EFBIG: 27,
  ENOSPC: 28,
  ENODEV: 19,
  EXDEV: 18,
  ENOSYS: 38,
  EOPNOTSUPP: 95,
  EDQUOT: 122,
  ENOLCK: 37,
} as const

let loaded: Sys | null | undefined

/** The native calls, or undefined where there are none. */
export function sys(): Sys | undefined {
  if (loaded === undefined) loaded = process.platform === 'linux' && !process.env.VDISK_NO_NATIVE ? load() : null
  return loaded ?? undefined
}

const SEEK_END = 2
const SEEK_DATA = 3
const SEEK_HOLE = 4
const RWF_NOWAIT = 8
const SYNC_FILE_RANGE_WRITE = 2
const F_OFD_GETLK = 36
const F_OFD_SETLK = 37
const F_RDLCK = 0
const F_WRLCK = 1
const F_UNLCK = 2
const AF_UNIX = 1
const SOCK_STREAM = 1
const SOCK_CLOEXEC = 0x80000
const MSG_CMSG_CLOEXEC = 0x40000000
const F_SETFL = 4
const POLLIN = 1
const F_SETOWN = 8
const O_ASYNC = 0x2000
const UTIME_OMIT = 0x3ffffffen
const BILLION = 1_000_000_000n
/** A control message holding one descriptor: a header of 16 bytes, then the descriptor. [cmsg(3), 64-bit] */
const CMSG_DESCRIPTOR_AT = 16

type Native = (...args: unknown[]) => number
type NativeAsync = { async(...args: unknown[]): void }

/** The loader of programs of musl, a C library for which koffi has a file of its own; by architecture. */
const MUSL: Partial<Record<string, string>> = { x64: '/lib/ld-musl-x86_64.so.1', arm64: '/lib/ld-musl-aarch64.so.1' }

/**
 * koffi without its JavaScript, which only looks for the native part, for 5 ms of every start, and warns of names that
 * nobody uses here. It is that of this koffi: another package may bring another one. Where it is not in its usual place,
 * koffi itself looks for it.
 */
function nativeKoffi(): unknown {
  const require = createRequire(import.meta.url)
  const { arch } = process
  const musl = MUSL[arch]
  if (musl !== undefined && !existsSync(musl)) {
    try {
      return createRequire(require.resolve('koffi'))(`@koromix/koffi-linux-${arch}/linux_${arch}/koffi.node`)
    } catch {}
  }
  return require('koffi')
}

function load(): Sys | null {
  // biome-ignore lint/suspicious/noExplicitAny: koffi is optional, so its types may not be there to import
  let koffi: any
  // biome-ignore lint/suspicious/noExplicitAny: as above
  let libc: any
  try {
    koffi = nativeKoffi()
    libc = koffi.load(null)
  } catch {
    return null
  }
  // Without names: koffi keeps those for the whole process, which may load this file twice.
  const flock = koffi.struct({ type: 'short', whence: 'short', start: 'int64_t', len: 'int64_t', pid: 'int' })
  const iovecType = koffi.struct({ base: 'void *', len: 'size_t' })
  const msghdr = koffi.struct({
    name: 'void *',
    namelen: 'uint32_t',
    iov: koffi.pointer(iovecType),
    iovlen: 'size_t',
    control: 'void *',
    controllen: 'size_t',
    flags: 'int',
  })
  const preadv2: Native = libc.func('int64_t preadv2(int fd, void *iov, int count, int64_t at, int flags)')
  const lseek: Native = libc.func('int64_t lseek(int fd, int64_t at, int whence)')
  const fallocate: NativeAsync = libc.func('int fallocate(int fd, int mode, int64_t at, int64_t length)')
  const syncFileRange: NativeAsync = libc.func(
    'int sync_file_range(int fd, int64_t at, int64_t length, uint32_t flags)',
  )
  const copyFileRange: Native & NativeAsync = libc.func(
    'int64_t copy_file_range(int from, _Inout_ int64_t *fromAt, int to, _Inout_ int64_t *toAt, size_t length, uint32_t flags)',
  )
  const futimens: Native = libc.func('int futimens(int fd, void *times)')
  const fcntlLock: Native = libc.func('fcntl', 'int', ['int', 'int', koffi.inout(koffi.pointer(flock))])
  const fcntl: Native = libc.func('fcntl', 'int', ['int', 'int', 'int'])
  const read: Native = libc.func('int64_t read(int fd, void *buffer, size_t count)')
  const poll: Native = libc.func('int poll(void *fds, unsigned long count, int milliseconds)')
  const socketpair: Native = libc.func('int socketpair(int domain, int type, int protocol, _Out_ int *pair)')
  const recvmsg: NativeAsync = libc.func('recvmsg', 'int64_t', ['int', koffi.inout(koffi.pointer(msghdr)), 'int'])

  const orErrno = (result: number): number => (Number(result) < 0 ? -koffi.errno() : Number(result))
  /** An asynchronous call runs on a thread of the pool; its errno is read in the callback, where koffi keeps it. */
  const later = (call: NativeAsync, ...args: unknown[]): Promise<number> =>
    new Promise((resolve, reject) => {
      call.async(...args, (error: Error | null, result: number) => {
        if (error) reject(error)
        else resolve(orErrno(result))
      })
    })

  const iovec = new DataView(new ArrayBuffer(16))
  const iovecBytes = new Uint8Array(iovec.buffer)
  /** int fd; short events; short revents [poll(2)] */
  const pollfd = new DataView(new ArrayBuffer(8))
  const pollfdBytes = new Uint8Array(pollfd.buffer)
  pollfd.setInt16(4, POLLIN, true)
  return {
    readCached(fd, at, target) {
      iovec.setBigUint64(0, koffi.address(target), true)
      iovec.setUint32(8, target.length, true)
      return orErrno(preadv2(fd, iovecBytes, 1, at, RWF_NOWAIT))
    },
    seekData: (fd, at) => orErrno(lseek(fd, at, SEEK_DATA)),
    seekHole: (fd, at) => orErrno(lseek(fd, at, SEEK_HOLE)),
    seekEnd: (fd) => orErrno(lseek(fd, 0, SEEK_END)),
    fallocate: (fd, mode, at, length) => later(fallocate, fd, mode, at, length),
    setModified(fd, nanoseconds) {
      // Two pairs of seconds and nanoseconds: of the last access, of the last change. [utimensat(2)]
      const seconds = nanoseconds / BILLION
      const times = new BigInt64Array([0n, UTIME_OMIT, seconds, nanoseconds - seconds * BILLION])
      return orErrno(futimens(fd, new Uint8Array(times.buffer)))
    },
    startWriting: (fd) => later(syncFileRange, fd, 0, 0, SYNC_FILE_RANGE_WRITE),
    copyFileRange: (from, fromAt, to, toAt, length) => orErrno(copyFileRange(from, [fromAt], to, [toAt], length, 0)),
    copyFileRangeLater: (from, fromAt, to, toAt, length) => later(copyFileRange, from, [fromAt], to, [toAt], length, 0),
    lockByte(fd, byte, take) {
      const lock = { type: take ? F_RDLCK : F_UNLCK, whence: 0, start: byte, len: 1, pid: 0 }
      return orErrno(fcntlLock(fd, F_OFD_SETLK, lock))
    },
    byteIsHeld(fd, byte) {
      const lock = { type: F_WRLCK, whence: 0, start: byte, len: 1, pid: 0 }
      return fcntlLock(fd, F_OFD_GETLK, lock) === 0 && lock.type !== F_UNLCK
    },
    read: (fd, target) => orErrno(read(fd, target, target.length)),
    waitReadable(fd, milliseconds) {
      pollfd.setInt32(0, fd, true)
      return poll(pollfdBytes, 1, milliseconds) > 0
    },
    setNonBlocking(fd, signal) {
      if (signal) orErrno(fcntl(fd, F_SETOWN, process.pid))
      return orErrno(fcntl(fd, F_SETFL, constants.O_NONBLOCK | (signal ? O_ASYNC : 0)))
    },
    socketPair() {
      const pair = [-1, -1]
      const result = orErrno(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
      if (result < 0) throw failed('make a pair of sockets', result)
      return pair as [number, number]
    },
    async receiveDescriptor(socket) {
      const control = Buffer.alloc(64)
      const message = {
        name: null,
        namelen: 0,
        iov: [{ base: Buffer.alloc(1), len: 1 }],
        iovlen: 1,
        control,
        controllen: control.length,
        flags: 0,
      }
      const received = await later(recvmsg, socket, message, MSG_CMSG_CLOEXEC)
      if (received < 0) throw failed('receive a descriptor', received)
      return received === 0 || message.controllen < CMSG_DESCRIPTOR_AT + 4
        ? undefined
        : control.readInt32LE(CMSG_DESCRIPTOR_AT)
    },
  }
}

function failed(what: string, result: number): VdiskError {
  return new VdiskError('IO', { message: `Cannot ${what}: errno ${-result}` })
}
