import type { Struct, StructValue } from '../lib/bytes/struct.ts'
import { type Io, isVdiskError, messageOf } from '../lib/index.ts'
import { FALLOCATE } from '../lib/io/sys.ts'
import { attributesOf, type Ownership, permissionsOf } from './attributes.ts'
import { entryValues, listFolder, VALID_SECONDS } from './directory.ts'
import { errnoOf } from './errno.ts'
import { findNext } from './extents.ts'
import { type Frame, FramePool } from './frame.ts'
import * as wire from './protocol.ts'
import type { DiskFile, Node, Tree } from './tree.ts'

const { OPCODE, ERRNO, REPLY_HEADER, REQUEST_HEADER } = wire

export interface SessionOptions {
  readonly owner: Ownership
  /** Receives the words of errors of which the kernel only gets a number. */
  readonly log: (message: string) => void
}

/** What we ask for, if the kernel offers it. Lock requests are left out, so the kernel keeps locks by itself. */
const WANTED =
  wire.FLAG.ASYNC_READ |
  wire.FLAG.BIG_WRITES |
  wire.FLAG.DO_READDIRPLUS |
  wire.FLAG.READDIRPLUS_AUTO |
  wire.FLAG.ASYNC_DIO |
  wire.FLAG.PARALLEL_DIROPS |
  wire.FLAG.MAX_PAGES

/** Requests that the kernel has in flight without anybody waiting for them, and from where on it slows down. */
const MAX_BACKGROUND = 64
const CONGESTION = 48

/** Seconds since 1970 that may be set: far enough, and exact as a number in milliseconds. */
const LATEST = 2 ** 40

/** Reply buffers: most answers fit in the small ones. */
const SMALL_REPLY = REPLY_HEADER + (128 << 10)
const LARGE_REPLY = REPLY_HEADER + wire.MAX_TRANSFER

/** The names in a folder are the mount's own; the kernel asks before it has heard of that. */
const FIXED_NAMES = new Set<number>([
  OPCODE.SYMLINK,
  OPCODE.MKNOD,
  OPCODE.MKDIR,
  OPCODE.UNLINK,
  OPCODE.RMDIR,
  OPCODE.RENAME,
  OPCODE.RENAME2,
  OPCODE.LINK,
  OPCODE.CREATE,
  OPCODE.TMPFILE,
])

const OPCODE_NAMES = new Map(Object.entries(OPCODE).map(([name, opcode]) => [opcode as number, name]))

/**
 * The conversation with the kernel about one mount: request bytes in, reply bytes out.
 *
 * There is no descriptor here and no order: each request is a computation of its own, which may have to wait for its
 * device while others go on. Handlers return the bytes of payload they put behind the reply's header, or a negative
 * error number.
 */
export class Session {
  private readonly tree: Tree
  private readonly owner: Ownership
  private readonly log: (message: string) => void
  private readonly small = new FramePool(SMALL_REPLY, 32)
  private readonly large = new FramePool(LARGE_REPLY, 16)

  constructor(tree: Tree, options: SessionOptions) {
    this.tree = tree
    this.owner = options.owner
    this.log = options.log
  }

  /**
   * Answers one request.
   *
   * @param request stays the request's own until this is done: what a WRITE brings is written from it, without a copy
   * @returns the reply, to be given to `recycle` once it is sent; undefined for requests that have none
   */
  *handle(request: Frame): Io<Frame | undefined> {
    const { view } = request
    const opcode = wire.opcodeOf(view)
    const room = opcode === OPCODE.READ ? wire.transferSize(view) : 0
    const reply = (room + REPLY_HEADER <= SMALL_REPLY ? this.small : this.large).take()
    let result: number | undefined
    try {
      if (opcode === OPCODE.READ) result = yield* this.read(request, reply)
      else if (opcode === OPCODE.WRITE) result = yield* this.write(request, reply)
      else result = yield* this.answer(opcode, request, reply)
    } catch (error) {
      result = -errnoOf(error)
      this.report(opcode, view, error)
    }
    if (result === undefined) {
      this.recycle(reply)
      return undefined
    }
    reply.length = REPLY_HEADER + Math.max(0, result)
    wire.encodeReplyHeader(reply.view, reply.length, Math.min(0, result), view)
    return reply
  }

  /** Takes a reply back: its bytes have left. */
  recycle(reply: Frame): void {
    if (reply.bytes.length === LARGE_REPLY) this.large.give(reply)
    else this.small.give(reply)
  }

  /** Everything written through this mount is durable. */
  *flush(): Io<void> {
    for (const file of this.tree.files()) yield* this.flushFile(file)
  }

  /** At the end of the disk reads get shorter, and past it empty. */
  private *read(request: Frame, reply: Frame): Io<number> {
    const file = this.tree.node(wire.nodeIdOf(request.view))
    if (file?.kind !== 'file') return file ? -ERRNO.EISDIR : -ERRNO.ENOENT
    const offset = wire.transferOffset(request.view)
    const length = Math.min(wire.transferSize(request.view), file.device.size - offset)
    if (length <= 0) return 0
    if (length > wire.MAX_TRANSFER) return -ERRNO.EINVAL
    yield* file.device.read(offset, reply.part(REPLY_HEADER, length))
    return length
  }

  /** A disk does not grow: writes end where it ends, as on a block device. */
  private *write(request: Frame, reply: Frame): Io<number> {
    const file = this.tree.node(wire.nodeIdOf(request.view))
    if (file?.kind !== 'file') return file ? -ERRNO.EISDIR : -ERRNO.ENOENT
    const offset = wire.transferOffset(request.view)
    const size = wire.transferSize(request.view)
    if (wire.WRITE_PAYLOAD + size > request.length) return -ERRNO.EINVAL
    const length = Math.min(size, file.device.size - offset)
    if (length <= 0) return size === 0 ? wire.encodeWritten(reply.view, 0) : -ERRNO.ENOSPC
    try {
      yield* file.device.write(offset, request.part(wire.WRITE_PAYLOAD, length))
    } finally {
      // Afterwards, and after a failure too: a flush that ran meanwhile has not covered it.
      file.touch()
    }
    return wire.encodeWritten(reply.view, length)
  }

  /** Everything that is rare. */
  private *answer(opcode: number, request: Frame, reply: Frame): Io<number | undefined> {
    switch (opcode) {
      case OPCODE.FORGET:
      case OPCODE.BATCH_FORGET:
        return undefined
      case OPCODE.INTERRUPT:
        // Nothing here is worth breaking off: the request it speaks of is answered as if nobody had asked.
        return undefined
      case OPCODE.INIT:
        return this.init(request, reply)
      case OPCODE.SYNCFS:
      case OPCODE.DESTROY:
        yield* this.flush()
        return 0
    }
    const node = this.tree.node(wire.nodeIdOf(request.view))
    if (!node) return -ERRNO.ENOENT
    switch (opcode) {
      case OPCODE.LOOKUP:
        return yield* this.lookUp(node, request, reply)
      case OPCODE.GETATTR:
        return yield* this.attributes(node, reply)
      case OPCODE.SETATTR:
        return yield* this.setAttributes(node, request, reply)
      case OPCODE.OPEN:
        return this.open(node, request, reply)
      case OPCODE.OPENDIR:
        return node.kind === 'folder' ? this.put(reply, wire.openOut, { handle: 0, openFlags: 0 }) : -ERRNO.ENOTDIR
      case OPCODE.READDIR:
      case OPCODE.READDIRPLUS:
        return yield* this.list(node, opcode, request, reply)
      case OPCODE.STATFS:
        return this.statistics(reply)
      case OPCODE.ACCESS:
        return this.access(node, request)
      case OPCODE.FLUSH:
        // A program that closes a file is told by the result whether its data has arrived; others need not wait.
        return node.kind === 'file' && node.unflushed ? yield* this.flushFile(node) : 0
      case OPCODE.FSYNC:
        return node.kind === 'file' ? yield* this.flushFile(node) : 0
      case OPCODE.FALLOCATE:
        return yield* this.allocate(node, request)
      case OPCODE.LSEEK:
        return yield* this.seek(node, request, reply)
      case OPCODE.RELEASE:
      case OPCODE.RELEASEDIR:
      case OPCODE.FSYNCDIR:
        return 0
      default:
        // ENOSYS: the kernel does without, and does not ask again.
        return FIXED_NAMES.has(opcode) ? -ERRNO.EPERM : -ERRNO.ENOSYS
    }
  }

  private init(request: Frame, reply: Frame): number {
    const offer = this.take(request, wire.initIn)
    if (offer.major < wire.MAJOR || (offer.major === wire.MAJOR && offer.minor < wire.OLDEST_MINOR)) {
      this.log(
        `Cannot serve this kernel: it speaks FUSE ${offer.major}.${offer.minor}, 7.${wire.OLDEST_MINOR} is needed`,
      )
      return -ERRNO.EPROTO
    }
    return this.put(reply, wire.initOut, {
      major: wire.MAJOR,
      // A kernel of a later major version sees ours, and asks again in our language.
      minor: offer.major > wire.MAJOR ? wire.MINOR : Math.min(offer.minor, wire.MINOR),
      maxReadahead: offer.maxReadahead,
      flags: (offer.flags & WANTED) >>> 0,
      maxBackground: MAX_BACKGROUND,
      congestionThreshold: CONGESTION,
      maxWrite: wire.MAX_TRANSFER,
      timeGranularity: 1,
      maxPages: wire.MAX_PAGES,
    })
  }

  private *lookUp(node: Node, request: Frame, reply: Frame): Io<number> {
    if (node.kind !== 'folder') return -ERRNO.ENOTDIR
    // The name ends with a zero byte.
    const name = Buffer.from(request.part(REQUEST_HEADER, request.length - REQUEST_HEADER - 1)).toString('utf8')
    const child = node.children.get(name)
    if (!child) return -ERRNO.ENOENT
    return this.put(reply, wire.entryOut, entryValues(child.id, yield* attributesOf(child, this.owner)))
  }

  private *attributes(node: Node, reply: Frame): Io<number> {
    const attributes = yield* attributesOf(node, this.owner)
    return this.put(reply, wire.attributesOut, { validSeconds: VALID_SECONDS, ...attributes })
  }

  /**
   * Times may be set, and everything to what it is. A size may not: to answer yes and keep the bytes would let a
   * program that truncates and then skips holes leave old bytes where it meant zeros.
   */
  private *setAttributes(node: Node, request: Frame, reply: Frame): Io<number> {
    const wish = this.take(request, wire.setAttributesIn)
    const wants = (change: number): boolean => (wish.valid & change) !== 0
    const { CHANGES } = wire
    if (wants(CHANGES.MODE) && (wish.mode & 0o7777) !== permissionsOf(node, this.owner)) return -ERRNO.EPERM
    if (wants(CHANGES.UID) && wish.uid !== this.owner.uid) return -ERRNO.EPERM
    if (wants(CHANGES.GID) && wish.gid !== this.owner.gid) return -ERRNO.EPERM
    if (node.kind === 'file') {
      if (wants(CHANGES.SIZE) && wish.size !== node.device.size) {
        this.log(`Cannot make ${node.device.name} ${wish.size} bytes long through its mount: the disk has a fixed size`)
        return -ERRNO.EPERM
      }
      if (wants(CHANGES.MTIME)) {
        // Times before 1970 arrive as huge numbers.
        if (wish.modified > LATEST) return -ERRNO.EINVAL
        node.modified = wants(CHANGES.MTIME_NOW) ? Date.now() : wish.modified * 1000 + wish.modifiedNanos / 1e6
      }
    }
    return yield* this.attributes(node, reply)
  }

  private open(node: Node, request: Frame, reply: Frame): number {
    if (node.kind !== 'file') return -ERRNO.EISDIR
    const { flags } = this.take(request, wire.openIn)
    const reading = (flags & wire.OPEN_FOR.MASK) === wire.OPEN_FOR.READING
    if (!reading && !node.device.writable) return -ERRNO.EROFS
    // Nobody else writes to the disk while it is mounted, so what the kernel has of it stays true between openings.
    return this.put(reply, wire.openOut, { handle: 0, openFlags: wire.KEEP_CACHE })
  }

  private *list(node: Node, opcode: number, request: Frame, reply: Frame): Io<number> {
    if (node.kind !== 'folder') return -ERRNO.ENOTDIR
    const { offset, size } = this.take(request, wire.readDirectoryIn)
    const room = reply.part(REPLY_HEADER, Math.min(size, SMALL_REPLY - REPLY_HEADER)).fill(0)
    return yield* listFolder(node, offset, room, opcode === OPCODE.READDIRPLUS ? this.owner : undefined)
  }

  /** A full file system: nothing can be added to it. */
  private statistics(reply: Frame): number {
    const files = this.tree.files()
    return this.put(reply, wire.statfsOut, {
      blocks: Math.ceil(files.reduce((sum, file) => sum + file.device.size, 0) / 4096),
      freeBlocks: 0,
      availableBlocks: 0,
      files: files.length,
      freeFiles: 0,
      blockSize: 4096,
      nameLength: 255,
      fragmentSize: 4096,
    })
  }

  /** The kernel checks permission bits by itself. */
  private access(node: Node, request: Frame): number {
    const { mask } = this.take(request, wire.accessIn)
    return (mask & wire.MAY_WRITE) !== 0 && node.kind === 'file' && !node.device.writable ? -ERRNO.EROFS : 0
  }

  private *flushFile(file: DiskFile): Io<number> {
    file.unflushed = false
    try {
      yield* file.device.flush()
    } catch (error) {
      file.unflushed = true
      throw error
    }
    return 0
  }

  /** Punching a hole and writing zeros are the same to a disk. Room is taken when data comes, so it cannot be reserved. */
  private *allocate(node: Node, request: Frame): Io<number> {
    if (node.kind !== 'file') return -ERRNO.EISDIR
    const { offset, length, mode } = this.take(request, wire.fallocateIn)
    const kind = mode & ~FALLOCATE.KEEP_SIZE
    const keepSize = (mode & FALLOCATE.KEEP_SIZE) !== 0
    if (kind !== FALLOCATE.ZERO_RANGE && !(kind === FALLOCATE.PUNCH_HOLE && keepSize)) return -ERRNO.EOPNOTSUPP
    const within = Math.min(length, node.device.size - offset)
    if (within < length && !keepSize) return -ERRNO.ENOSPC
    if (within <= 0) return 0
    try {
      yield* node.device.erase(offset, within)
    } finally {
      node.touch()
    }
    return 0
  }

  private *seek(node: Node, request: Frame, reply: Frame): Io<number> {
    if (node.kind !== 'file') return -ERRNO.EISDIR
    const { offset, whence } = this.take(request, wire.lseekIn)
    const { SEEK } = wire
    if (whence !== SEEK.DATA && whence !== SEEK.HOLE) return -ERRNO.EINVAL
    const { size } = node.device
    if (offset >= size) return -ERRNO.ENXIO
    const found = yield* findNext(node.device, offset, whence === SEEK.DATA ? 'data' : 'hole')
    // The end of the file counts as a hole, never as data.
    if (whence === SEEK.DATA && found === size) return -ERRNO.ENXIO
    return this.put(reply, wire.lseekOut, { offset: found })
  }

  private take<F>(request: Frame, layout: Struct<F>): StructValue<F> {
    return layout.decode(request.part(REQUEST_HEADER, request.length - REQUEST_HEADER))
  }

  /** Puts a structure behind the reply's header. What no field covers is zero, not what the buffer held before. */
  private put<F>(reply: Frame, layout: Struct<F>, values: StructValue<F>): number {
    layout.encode(values, reply.part(REPLY_HEADER, layout.size).fill(0))
    return layout.size
  }

  private report(opcode: number, view: DataView, error: unknown): void {
    const transfer = opcode === OPCODE.READ || opcode === OPCODE.WRITE
    const place = transfer ? ` of ${wire.transferSize(view)} bytes at ${wire.transferOffset(view)}` : ''
    const advice = isVdiskError(error) && error.advice ? ` ${error.advice}` : ''
    // What is not one of our errors is a mistake of ours: its stack belongs in the log.
    const words = isVdiskError(error) ? messageOf(error) : ((error as Error).stack ?? messageOf(error))
    this.log(`${OPCODE_NAMES.get(opcode) ?? `request ${opcode}`}${place} failed: ${words}.${advice}`)
  }
}
