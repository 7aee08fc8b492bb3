import type { Struct, StructValue } from '../lib/bytes/struct.ts'
import type { Io } from '../lib/index.ts'
import { type Frame, FramePool } from './frame.ts'
import * as messages from './messages.ts'
import * as wire from './protocol.ts'
import type { Session } from './session.ts'
import type { Node, Tree } from './tree.ts'

const { CHANGES, ERRNO, OPCODE, REPLY_HEADER, REQUEST_HEADER } = wire

/** What `stat` shows. Sizes in bytes, `blocks` of 512; times in milliseconds since 1970. */
export interface Stat {
  readonly mode: number
  readonly uid: number
  readonly gid: number
  readonly size: number
  readonly ino: number
  readonly nlink: number
  readonly blksize: number
  readonly blocks: number
  readonly atime: number
  readonly mtime: number
  readonly ctime: number
}

/** What `statvfs` shows, in numbers of 32 bits. */
export interface Statistics {
  /** bytes */
  readonly bsize: number
  readonly frsize: number
  /** of `frsize` bytes */
  readonly blocks: number
  readonly files: number
  readonly namemax: number
}

/** Idle request buffers that are kept. */
const KEPT = 8

const TWO_32 = 2 ** 32

/**
 * The files of a mount by path, as libfuse asks for them.
 *
 * Every call is put to the session in the kernel's words. So what a mount does, what it refuses and with which number,
 * and what the log says of it are decided there, for all doors alike.
 *
 * Whatever can fail answers with a negative error number instead.
 */
export class PathCalls {
  private readonly tree: Tree
  private readonly session: Session
  private readonly requests = new FramePool(wire.REQUEST_ROOM, KEPT)

  constructor(tree: Tree, session: Session) {
    this.tree = tree
    this.session = session
  }

  *stat(path: string): Io<Stat | number> {
    const wish = structure(messages.getAttributesIn, { flags: 0, handle: 0 })
    return yield* this.ask(OPCODE.GETATTR, this.find(path), wish, statIn)
  }

  /** The names in a folder, without `.` and `..`. */
  names(path: string): string[] | number {
    const node = this.find(path)
    if (node?.kind !== 'folder') return node ? -ERRNO.ENOTDIR : -ERRNO.ENOENT
    return [...node.children.keys()]
  }

  /** @param flags as open(2) has them @returns the number by which later calls name the open file */
  *open(path: string, flags: number): Io<number> {
    const wish = structure(messages.openIn, { flags })
    return yield* this.ask(OPCODE.OPEN, this.find(path), wish, (reply) => bodyOf(reply, messages.openOut).handle)
  }

  /** @returns bytes read: fewer than there is room for only where the disk ends */
  *read(path: string, handle: number, target: Uint8Array, offset: number): Io<number> {
    const node = this.find(path)
    let done = 0
    while (done < target.length) {
      const size = Math.min(target.length - done, wire.MAX_TRANSFER)
      const count = yield* this.ask(
        OPCODE.READ,
        node,
        (request) => transfer(request, handle, offset + done, size),
        (reply) => {
          const bytes = reply.part(REPLY_HEADER, reply.length - REPLY_HEADER)
          target.set(bytes, done)
          return bytes.length
        },
      )
      if (count < 0) return count
      done += count
      if (count < size) break
    }
    return done
  }

  /** @returns bytes written: fewer than were given only where the disk ends */
  *write(path: string, handle: number, source: Uint8Array, offset: number): Io<number> {
    const node = this.find(path)
    let done = 0
    while (done < source.length) {
      const piece = source.subarray(done, done + wire.MAX_TRANSFER)
      const count = yield* this.ask(
        OPCODE.WRITE,
        node,
        (request) => {
          request.bytes.set(piece, wire.WRITE_PAYLOAD)
          return transfer(request, handle, offset + done, piece.length) + piece.length
        },
        (reply) => wire.writtenOf(reply.view),
      )
      // What was written before the end of the disk is written, and said so.
      if (count < 0) return done > 0 ? done : count
      done += count
      if (count < piece.length) break
    }
    return done
  }

  /** FLUSH, FSYNC or RELEASE of an open file. */
  *settle(opcode: number, path: string, handle: number): Io<number> {
    return yield* this.ask(opcode, this.find(path), (request) => ofHandle(request, handle), nothing)
  }

  /** Whether a program may do what the mask of access(2) says. */
  *access(path: string, mask: number): Io<number> {
    return yield* this.ask(OPCODE.ACCESS, this.find(path), structure(messages.accessIn, { mask }), nothing)
  }

  /** truncate(2), chmod(2), chown(2), utimensat(2), as far as a disk has them. @param wishes `modified` in milliseconds */
  *change(path: string, wishes: { size?: number; mode?: number; uid?: number; gid?: number; modified?: number }) {
    const { size, mode, uid, gid, modified } = wishes
    const wish = structure(messages.setAttributesIn, {
      valid:
        (size === undefined ? 0 : CHANGES.SIZE) |
        (mode === undefined ? 0 : CHANGES.MODE) |
        (uid === undefined ? 0 : CHANGES.UID) |
        (gid === undefined ? 0 : CHANGES.GID) |
        (modified === undefined ? 0 : CHANGES.MTIME),
      accessed: 0,
      accessedNanos: 0,
      size: exact(size ?? 0),
      mode: mode ?? 0,
      uid: uid ?? 0,
      gid: gid ?? 0,
      modified: exact(Math.floor((modified ?? 0) / 1000)),
      modifiedNanos: ((modified ?? 0) % 1000) * 1e6,
    })
    return yield* this.ask(OPCODE.SETATTR, this.find(path), wish, nothing)
  }

  *statistics(): Io<Statistics | number> {
    return yield* this.ask(OPCODE.STATFS, this.tree.root, nothing, (reply) => {
      const found = bodyOf(reply, messages.statfsOut)
      // The count must fit in 32 bits, which 16 TiB do not: larger blocks then.
      const scale = 2 ** Math.max(0, Math.ceil(Math.log2((found.blocks + 1) / TWO_32)))
      const bsize = found.fragmentSize * scale
      const blocks = Math.ceil(found.blocks / scale)
      return { bsize, frsize: bsize, blocks, files: found.files, namemax: found.nameLength }
    })
  }

  /** Everything that would make, remove or rename something. @param opcode the request that says so */
  *rearrange(opcode: number): Io<number> {
    return yield* this.ask(opcode, this.tree.root, nothing, nothing)
  }

  private find(path: string): Node | undefined {
    let node: Node | undefined = this.tree.root
    for (const name of path.split('/')) {
      if (name !== '') node = node?.kind === 'folder' ? node.children.get(name) : undefined
    }
    return node
  }

  /**
   * @param fill writes what follows the request's header, and tells how many bytes that is
   * @param take picks from the reply what is wanted: afterwards its bytes are another's
   * @returns what was taken, or a negative error number
   */
  private *ask<T>(
    opcode: number,
    node: Node | undefined,
    fill: (request: Frame) => number,
    take: (reply: Frame) => T,
  ): Io<T | number> {
    if (!node) return -ERRNO.ENOENT
    const request = this.requests.take()
    request.length = REQUEST_HEADER + fill(request)
    wire.encodeRequestHeader(request.view, opcode, request.length, node.id)
    const reply = yield* this.session.handle(request)
    this.requests.give(request)
    if (!reply) return 0
    const error = wire.errorOf(reply.view)
    const taken = error === 0 ? take(reply) : error
    this.session.recycle(reply)
    return taken
  }
}

/** A request without a body; an answer of which nothing is wanted. */
const nothing = (): number => 0

function structure<F>(layout: Struct<F>, values: StructValue<F>): (request: Frame) => number {
  return (request) => {
    layout.encode(values, request.part(REQUEST_HEADER, layout.size).fill(0))
    return layout.size
  }
}

function transfer(request: Frame, handle: number, offset: number, size: number): number {
  wire.encodeTransfer(request.view, handle, offset, size)
  return wire.WRITE_PAYLOAD - REQUEST_HEADER
}

function ofHandle(request: Frame, handle: number): number {
  wire.encodeHandle(request.view, handle)
  return 8
}

function bodyOf<F>(reply: Frame, layout: Struct<F>): StructValue<F> {
  return layout.decode(reply.part(REPLY_HEADER, layout.size))
}

function statIn(reply: Frame): Stat {
  const found = bodyOf(reply, messages.attributesOut)
  return {
    mode: found.mode,
    uid: found.uid,
    gid: found.gid,
    size: found.size,
    ino: found.inode,
    nlink: found.links,
    blksize: found.blockSize,
    blocks: found.blocks,
    atime: milliseconds(found.accessed, found.accessedNanos),
    mtime: milliseconds(found.modified, found.modifiedNanos),
    ctime: milliseconds(found.changed, found.changedNanos),
  }
}

/** What is larger than every disk, and later than every time that may be set, needs not be told apart. */
function exact(value: number): number {
  return Math.min(value, Number.MAX_SAFE_INTEGER)
}

function milliseconds(seconds: number, nanos: number): number {
  return seconds * 1000 + Math.floor(nanos / 1e6)
}
