import fs from 'node:fs'
import { VdiskError } from '../errors.ts'
import { copyByKernel, copyByThread } from './file-copy.ts'
import { fileError, flushError, ioError, nativeError, openError } from './file-errors.ts'
import type { FileStore, OpenFileOptions } from './files.ts'
import type { Awaitable } from './io.ts'
import { type LockRole, lockImage } from './lock.ts'
import { type ByteStore, type FileStamp, pastEnd, readOnly, type Segment } from './store.ts'
import { ERRNO, FALLOCATE, sys } from './sys.ts'

/**
 * From this length on a transfer asks the page cache first, even where it may block: what the medium has to bring goes
 * to the thread pool, so that several come at once. Below it the system call costs less than the way to a thread and
 * back (about 1 us against 35 us).
 */
const POOLED = 128 * 1024

/**
 * From these lengths on a transfer goes to the pool in any case. A file takes one writer at a time, so threads cannot
 * help with writes; and while one writes, others can read. A read of 1 MiB, as many programs make them, is done at once:
 * the way to a thread and back would add a tenth or more.
 */
const LONG = { read: 2 << 20, write: 4 << 20 } as const

/** As above, where others are served meanwhile: what takes a fraction of a millisecond is done at once. */
const LONG_MEANWHILE = (1 << 20) + 1

/** A write that took so many milliseconds shows that the system is short of room for what waits to be written. */
const SLOW = 20

/** For so many milliseconds afterwards all writes go to the pool, where others are served meanwhile. */
const CROWDED = 2000

/** From this length on a copy between files is done on another thread; the way there and back takes some 0.1 ms. */
const HANDED_OVER = 1 << 20

/** A file system whose files are nothing but page cache: there is no medium to wait for, and it refuses not to wait. [statfs(2)] */
const TMPFS = 0x01021994

/** File systems that copy by sharing blocks, or where the data is: Btrfs, XFS, bcachefs, ZFS, OCFS2, NFS, SMB, Ceph, and overlays that may lie on one. */
const SHARING = new Set([
  0x9123683e, 0x58465342, 0xca451a4e, 0x2fc12fc1, 0x7461636f, 0x6969, 0xff534d42, 0xfe534d42, 0x00c36400, 0x794c7630,
])

/** A file or block device of this machine. */
export class HostFile implements FileStore {
  readonly name: string
  readonly writable: boolean
  private readonly fd: number
  private readonly defer: boolean
  private readonly durable: boolean
  private readonly lock: LockRole | undefined
  private readonly id: string
  /** a block device, not a file */
  readonly isDevice: boolean
  private poison: VdiskError | undefined
  private closed = false
  /** of a file that was written to and is closed */
  private lastStamp: FileStamp | undefined
  private hastening = false
  /** until when, by `performance.now()`, writes may take long */
  private crowdedUntil = 0
  /** the kernel's number for its file system, 0 where it has none; undefined while nobody had to know */
  private type: number | undefined

  private constructor(name: string, fd: number, options: OpenFileOptions) {
    this.name = name
    this.fd = fd
    this.writable = options.write ?? false
    this.defer = options.waiting === 'defer'
    this.durable = options.durable ?? true
    this.lock = options.lock
    const stat = this.attempt('look at', 0, () => fs.fstatSync(fd, { bigint: true }))
    this.id = `${stat.dev}:${stat.ino}`
    this.isDevice = stat.isBlockDevice()
    if (!stat.isFile() && !this.isDevice) {
      throw new VdiskError('REFUSED', {
        message: `Cannot open ${name}: ${stat.isDirectory() ? 'it is a directory' : 'it is neither a regular file nor a block device'}`,
        where: { file: name },
        advice: stat.isDirectory()
          ? 'Name an image file in it.'
          : 'Images are read and written at any place; what comes through a pipe must be saved to a file first.',
      })
    }
    if (stat.size > BigInt(Number.MAX_SAFE_INTEGER)) {
      throw new VdiskError('LIMIT_EXCEEDED', {
        message: `Cannot open ${name}: it has ${stat.size} bytes, and no place behind ${Number.MAX_SAFE_INTEGER} can be read`,
        where: { file: name },
        advice: 'No medium holds as much: it is almost all a hole. Copy what it holds to a shorter file.',
      })
    }
  }

  /** @throws VdiskError NOT_FOUND, REFUSED, IN_USE, READ_ONLY or IO */
  static open(file: string, options: OpenFileOptions = {}): HostFile {
    const { O_RDONLY, O_RDWR, O_CREAT, O_EXCL } = fs.constants
    // Windows knows neither of these two.
    const [O_NOFOLLOW, O_NONBLOCK] = [fs.constants.O_NOFOLLOW | 0, fs.constants.O_NONBLOCK | 0]
    let flags = options.write ? O_RDWR : O_RDONLY
    if (options.create === 'new') flags |= O_CREAT | O_EXCL
    if (options.create === 'replace') flags |= O_CREAT
    if (options.noFollow) flags |= O_NOFOLLOW
    let fd: number
    try {
      // O_NONBLOCK: a FIFO given as an image must not hang the open; it means nothing to files.
      fd = fs.openSync(file, flags | O_NONBLOCK, 0o644)
    } catch (error) {
      throw openError(file, error as NodeJS.ErrnoException, options)
    }
    try {
      const opened = new HostFile(options.name ?? file, fd, options)
      if (options.lock) lockImage(fd, options.name ?? file, options.lock)
      // Emptied only once the lock is ours: O_TRUNC at open would destroy an image that somebody uses.
      if (options.create === 'replace' && !opened.isDevice) opened.truncate(0)
      return opened
    } catch (error) {
      fs.closeSync(fd)
      // Nobody but this call knows that it was made.
      if (options.create === 'new') removeQuietly(file)
      throw error
    }
  }

  size(): number {
    if (!this.isDevice) return this.attempt('measure', 0, () => fs.fstatSync(this.fd).size)
    const end = sys()?.seekEnd(this.fd)
    if (end !== undefined && end >= 0) return end
    throw new VdiskError('UNSUPPORTED', {
      message: `Cannot measure ${this.name}: the size of a block device needs the koffi package`,
      where: { file: this.name },
      advice: 'Run: npm install koffi',
    })
  }

  read(at: number, target: Uint8Array): Awaitable<void> {
    if (target.length >= (this.defer ? LONG_MEANWHILE : LONG.read)) return this.readPooled(at, target, 0)
    const cachedOnly = this.defer || target.length >= POOLED
    let done = 0
    while (done < target.length) {
      const rest = done === 0 ? target : target.subarray(done)
      const count = cachedOnly ? this.readCached(at + done, rest) : this.readBlocking(at + done, rest)
      if (count < 0) return this.readPooled(at, target, done)
      if (count === 0) throw pastEnd(this.name, at, target.length, this.size())
      done += count
    }
  }

  write(at: number, source: Uint8Array): Awaitable<void> {
    if (!this.writable) throw readOnly(this.name)
    if (source.length >= (this.defer ? LONG_MEANWHILE : LONG.write)) return this.writePooled(at, source)
    if (!this.defer) return this.writeHere(at, source)
    const begun = performance.now()
    if (begun < this.crowdedUntil) return this.writePooled(at, source)
    this.writeHere(at, source)
    if (performance.now() - begun > SLOW) this.crowdedUntil = begun + CROWDED
  }

  truncate(size: number): void {
    if (!this.writable) throw readOnly(this.name)
    if (this.isDevice) {
      if (size <= this.size()) return
      throw new VdiskError('NO_SPACE', {
        message: `Cannot make ${this.name} ${size} bytes long: it is a device of ${this.size()} bytes`,
        where: { file: this.name, at: size },
        advice: 'Use a larger device, or make the disk smaller first: vdisk resize IMAGE SIZE --shrink',
      })
    }
    this.attempt('resize', size, () => fs.ftruncateSync(this.fd, size))
  }

  grow(size: number): void {
    if (size > this.size()) this.truncate(size)
  }

  flush(): Awaitable<void> {
    if (this.poison) throw this.poison
    if (!this.writable || !this.durable) return
    if (!this.defer) {
      try {
        fs.fdatasyncSync(this.fd)
        return
      } catch (error) {
        throw this.poisonWith(error as NodeJS.ErrnoException)
      }
    }
    return new Promise((resolve, reject) => {
      fs.fdatasync(this.fd, (error) => (error ? reject(this.poisonWith(error)) : resolve()))
    })
  }

  /** Asks only once at a time. A file that is closed meanwhile loses nothing: the call writes what is dirty anyway. */
  hasten(): void {
    if (this.hastening || !this.durable) return
    const begun = sys()?.startWriting(this.fd)
    if (!begun) return
    this.hastening = true
    const end = (): void => {
      this.hastening = false
    }
    void begun.then(end, end)
  }

  /** Closing again does nothing: the number of a closed descriptor may be another file's by then. */
  close(): void {
    if (this.closed) return
    // While it is still locked: so that nobody else's write is taken for ours.
    if (this.writable) this.lastStamp = this.stamp()
    this.closed = true
    try {
      fs.closeSync(this.fd)
    } catch (error) {
      // The descriptor is gone in any case; a network file system says here what it could not write.
      if (this.writable) throw fileError('close', this.name, error as NodeJS.ErrnoException)
    }
  }

  /** Without native calls, or on a file system without holes, the range is overwritten with zeros. */
  async deallocate(at: number, length: number): Promise<void> {
    if (!this.writable) throw readOnly(this.name)
    const within = Math.min(length, this.size() - at)
    if (within <= 0) return
    const result = await this.fallocate(FALLOCATE.PUNCH_HOLE | FALLOCATE.KEEP_SIZE, at, within)
    if (result === 0) return
    const zeros = new Uint8Array(Math.min(within, 1 << 20))
    for (let done = 0; done < within; done += zeros.length) {
      await this.write(at + done, zeros.subarray(0, Math.min(zeros.length, within - done)))
    }
  }

  async discard(at: number, length: number): Promise<void> {
    await sys()?.fallocate(this.fd, FALLOCATE.PUNCH_HOLE | FALLOCATE.KEEP_SIZE, at, length)
  }

  async allocate(at: number, length: number): Promise<void> {
    if (!this.writable) throw readOnly(this.name)
    const result = await this.fallocate(0, at, length)
    if (result === 0) return
    if (result === undefined || result === -ERRNO.EOPNOTSUPP || result === -ERRNO.ENOSYS) {
      throw new VdiskError('UNSUPPORTED', {
        message: `Cannot reserve room for ${this.name}: this system offers no way to do it without writing`,
        where: { file: this.name, at },
      })
    }
    throw ioError('allocate', this.name, at, nativeError(result))
  }

  segment(at: number): Segment {
    const size = this.size()
    // Another program may have cut the file short since it was opened.
    if (at >= size) throw pastEnd(this.name, at, 1, size)
    const data = sys()?.seekData(this.fd, at)
    if (data === -ERRNO.ENXIO || (data !== undefined && data >= size)) return { kind: 'hole', length: size - at }
    if (data === undefined || data < 0) return { kind: 'data', length: size - at }
    if (data > at) return { kind: 'hole', length: data - at }
    const hole = sys()?.seekHole(this.fd, at) ?? size
    return { kind: 'data', length: Math.max(1, Math.min(hole < 0 ? size : hole, size) - at) }
  }

  occupied(): number {
    const stat = this.attempt('measure', 0, () => fs.fstatSync(this.fd))
    // Windows has no block counts; there the size is the nearest truth.
    return stat.blocks === undefined ? stat.size : stat.blocks * 512
  }

  /**
   * What may be shared, or moved inside a server, the kernel copies: it may take no time and no room. Elsewhere it copies
   * as a program does, 64 KiB at a time, and stands in line with other writers of the file by spinning: a thread that reads
   * and writes half a MiB at a time is done a tenth sooner beside another.
   */
  async copyFrom(
    source: ByteStore,
    from: number,
    at: number,
    length: number,
    sparse = false,
  ): Promise<number | undefined> {
    if (!(source instanceof HostFile)) return undefined
    const copy = { from: { fd: source.fd, store: source }, to: { fd: this.fd, store: this }, fromAt: from, at, length }
    const byThread = !this.defer && (sparse || length >= HANDED_OVER)
    if (!sparse && !(byThread && !this.sharesRoom())) {
      const here = !this.defer && length < (this.sharesRoom() ? LONG.write : HANDED_OVER)
      const copied = await copyByKernel(copy, here)
      if (copied !== undefined) return copied
    }
    return byThread ? await copyByThread(copy, sparse) : undefined
  }

  /** Whether a copy by the kernel may take no time and no room here: then it is not worth the way to a thread. */
  private sharesRoom(): boolean {
    this.type ??= typeOf(this.fd)
    return this.type === 0 || SHARING.has(this.type)
  }

  stamp(): FileStamp {
    if (this.closed && this.lastStamp) return this.lastStamp
    const stat = this.attempt('look at', 0, () => fs.fstatSync(this.fd, { bigint: true }))
    const { mtimeNs: modified, ctimeNs: changed, birthtimeNs: born, ino: inode } = stat
    return { size: Number(stat.size), modified, inode, born, changed }
  }

  restamp(seconds: number): void {
    if (this.poison) throw this.poison
    this.attempt('touch', 0, () => fs.futimesSync(this.fd, seconds, seconds))
    if (!this.durable) return
    try {
      fs.fsyncSync(this.fd)
    } catch (error) {
      throw this.poisonWith(error as NodeJS.ErrnoException)
    }
  }

  setModified(nanoseconds: bigint): void {
    const result = sys()?.setModified(this.fd, nanoseconds)
    if (result !== undefined && result !== 0) throw ioError('touch', this.name, 0, nativeError(result))
    this.attempt('touch', 0, () => {
      const seconds = Number(nanoseconds / 1_000_000_000n) + Number(nanoseconds % 1_000_000_000n) / 1e9
      if (result === undefined) fs.futimesSync(this.fd, seconds, seconds)
      if (this.durable) fs.fsyncSync(this.fd)
    })
  }

  fileId(): string {
    return this.id
  }

  standsFor(other: ByteStore): boolean {
    if (!(other instanceof HostFile) || other.id !== this.id) return false
    return other.lock === this.lock && other.defer === this.defer && other.writable === this.writable
  }

  /** @returns 0 or -errno; undefined without native calls */
  private async fallocate(mode: number, at: number, length: number): Promise<number | undefined> {
    for (;;) {
      const result = await sys()?.fallocate(this.fd, mode, at, length)
      if (result !== -ERRNO.EINTR) return result
    }
  }

  /** Bytes at hand from the page cache; -1 where the pool must be asked. */
  private readCached(at: number, target: Uint8Array): number {
    if (this.type === TMPFS) return this.readBlocking(at, target)
    const count = sys()?.readCached(this.fd, at, target)
    if (count === -ERRNO.EOPNOTSUPP) {
      this.type ??= typeOf(this.fd)
      if (this.type === TMPFS) return this.readBlocking(at, target)
    }
    return count === undefined || count < 0 ? -1 : count
  }

  private readBlocking(at: number, target: Uint8Array): number {
    return this.attempt('read', at, () => fs.readSync(this.fd, target, 0, target.length, at))
  }

  private writeHere(at: number, source: Uint8Array): void {
    for (let done = 0; done < source.length; ) {
      const write = (): number => fs.writeSync(this.fd, source, done, source.length - done, at + done)
      done += this.progress(this.attempt('write', at, write), at)
    }
  }

  private async readPooled(at: number, target: Uint8Array, from: number): Promise<void> {
    for (let done = from; done < target.length; ) {
      const count = await this.pooled('read', at, (end) =>
        fs.read(this.fd, target, done, target.length - done, at + done, end),
      )
      if (count === 0) throw pastEnd(this.name, at, target.length, this.size())
      done += count
    }
  }

  private async writePooled(at: number, source: Uint8Array): Promise<void> {
    for (let done = 0; done < source.length; ) {
      const count = await this.pooled('write', at, (end) =>
        fs.write(this.fd, source, done, source.length - done, at + done, end),
      )
      done += this.progress(count, at)
    }
  }

  /** Bytes of a write that was cut short. @throws VdiskError IO if there are none: it would never end */
  private progress(count: number, at: number): number {
    if (count === 0) throw ioError('write', this.name, at, { message: 'the system takes nothing and does not say why' })
    return count
  }

  /** A call that may be interrupted by a signal before it has done anything; then it is made again. */
  private attempt<T>(verb: string, at: number, work: () => T): T {
    for (;;) {
      try {
        return work()
      } catch (error) {
        const failure = error as NodeJS.ErrnoException
        if (failure.code !== 'EINTR') throw ioError(verb, this.name, at, failure)
      }
    }
  }

  /** The same on a thread of the pool. @returns bytes */
  private pooled(
    verb: string,
    at: number,
    transfer: (end: (error: NodeJS.ErrnoException | null, count: number) => void) => void,
  ): Promise<number> {
    return new Promise((resolve, reject) => {
      const begin = (): void =>
        transfer((error, count) => {
          if (error?.code === 'EINTR') begin()
          else if (error) reject(ioError(verb, this.name, at, error))
          else resolve(count)
        })
      begin()
    })
  }

  /** After a failed flush the kernel may have dropped the dirty pages: a later success would mean nothing. */
  private poisonWith(error: NodeJS.ErrnoException): VdiskError {
    this.poison ??= flushError(this.name, error)
    return this.poison
  }
}

/** The failure that made it necessary is the one to tell. */
function removeQuietly(file: string): void {
  try {
    fs.rmSync(file, { force: true })
  } catch (error) {
    void error
  }
}

/** The kernel's number for the file system that holds an open file; 0 where it has none. */
function typeOf(fd: number): number {
  try {
    return fs.statfsSync(`/proc/self/fd/${fd}`).type
  } catch {
    return 0
  }
}
