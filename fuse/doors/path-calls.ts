import type { Struct, StructValue } from '../../lib/bytes/struct.ts'
import type { Io } from '../../lib/index.ts'
import { type Frame, framePool } from '../protocol/frame.ts'
import * as messages from '../protocol/messages.ts'
import * as wire from '../protocol/protocol.ts'
import type { Session } from '../protocol/session.ts'
import type { DiskFile, Node, Tree } from '../tree/tree.ts'

const { CHANGES, ERRNO, OPCODE, OPEN_FOR, REPLY_HEADER, REQUEST_HEADER } = wire

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

/** What should become of a file. */
export interface Wishes {
  readonly size?: number
  readonly mode?: number
  readonly uid?: number
  readonly gid?: number
  readonly accessed?: number
  readonly modified?: number
}

export interface PathCallsOptions {
  /** nothing of any file is kept by the kernel. With this library it is that for a whole mount, or not at all */
  readonly direct: boolean
  readonly log: (message: string) => void
}

/** A file that a program has open. It stays the same, whatever becomes of its name. */
interface OpenFile {
  readonly node: Node
  /** the session's name for it */
  readonly handle: number
  readonly writing: boolean
  /** what a text said when it was opened */
  readonly text: Uint8Array | undefined
}

/** Idle request buffers that are kept. */
const KEPT = 8

/** Numbers of open files are positive numbers of 32 bits. */
const LAST_HANDLE = 2 ** 31 - 1

/** Texts are read in pieces of so many bytes. */
const TEXT_PART = 16 << 10

const TWO_32 = 2 ** 32

/**
 * The files of a mount as libfuse asks for them: by path, or by the number of an open file.
 *
 * Every call is put to the session in the kernel's words. So what a mount does, what it refuses and with which number,
 * and what the log says of it are decided there, for all doors alike.
 *
 * Whatever can fail answers with a negative error number instead.
 */
export class PathCalls {
  private readonly tree: Tree
  private readonly session: Session
  private readonly options: PathCallsOptions
  private readonly requests = framePool(wire.REQUEST_ROOM, KEPT)
  private readonly opened = new Map<number, OpenFile>()
  private lastHandle = 0

  constructor(tree: Tree, session: Session, options: PathCallsOptions) {
    this.tree = tree
    this.session = session
    this.options = options
  }

  *stat(path: string): Io<Stat | number> {
    const node = this.find(path)
    const wish = structure(messages.getAttributesIn, { flags: 0, handle: 0 })
    const found = yield* this.ask(OPCODE.GETATTR, node, wish, statIn)
    if (node?.kind !== 'text' || typeof found === 'number') return found
    // Programs read as far as the size says. It must be that of the text which they have open.
    const latest = [...this.opened.values()].findLast((file) => file.node === node)
    const text = latest?.text ?? (yield* this.textOf(node))
    return typeof text === 'number' ? text : { ...found, size: text.length }
  }

  /** The names in a folder, without `.` and `..`. */
  names(path: string): string[] | number {
    const node = this.find(path)
    if (node?.kind !== 'folder') return node ? -ERRNO.ENOTDIR : -ERRNO.ENOENT
    return [...node.children.keys()]
  }

  /** @param flags as open(2) has them @returns the number by which later calls name the open file */
  *open(path: string, flags: number): Io<number> {
    const node = this.find(path)
    if (!node) return -ERRNO.ENOENT
    const writing = (flags & OPEN_FOR.MASK) !== OPEN_FOR.READING
    if (node.kind === 'file' && this.clashes(node, writing)) return -ERRNO.EBUSY
    const handle = yield* this.openNode(node, flags)
    if (handle < 0) return handle
    const text = node.kind === 'text' ? yield* this.readText(node, handle) : undefined
    if (typeof text === 'number') return text
    do this.lastHandle = (this.lastHandle % LAST_HANDLE) + 1
    while (this.opened.has(this.lastHandle))
    this.opened.set(this.lastHandle, { node, handle, writing, text })
    return this.lastHandle
  }

  /** @returns bytes read: fewer than there is room for only where the file ends */
  *read(handle: number, target: Uint8Array, offset: number): Io<number> {
    const file = this.opened.get(handle)
    if (file?.text) return copyFrom(file.text, offset, target)
    let done = 0
    while (done < target.length) {
      const part = target.subarray(done, done + wire.MAX_TRANSFER)
      const count = yield* this.readNode(file?.node, file?.handle ?? 0, part, offset + done)
      if (count < 0) return count
      done += count
      if (count < part.length) break
    }
    return done
  }

  /** @returns bytes written: fewer than were given only where the disk ends */
  *write(handle: number, source: Uint8Array, offset: number): Io<number> {
    const file = this.opened.get(handle)
    let done = 0
    while (done < source.length) {
      const part = source.subarray(done, done + wire.MAX_TRANSFER)
      const fill = (request: Frame): number => {
        request.bytes.set(part, wire.WRITE_PAYLOAD)
        return transfer(request, file?.handle ?? 0, offset + done, part.length) + part.length
      }
      const count = yield* this.ask(OPCODE.WRITE, file?.node, fill, (reply) => wire.writtenOf(reply.view))
      // What was written before a failure is written, and said so: the failure comes again with what is left.
      if (count < 0) return done > 0 ? done : count
      done += count
      if (count < part.length) break
    }
    return done
  }

  /** FLUSH or FSYNC of an open file. */
  *settle(opcode: number, handle: number): Io<number> {
    const file = this.opened.get(handle)
    return yield* this.ask(opcode, file?.node, (request) => ofHandle(request, file?.handle ?? 0), nothing)
  }

  /** The last program that had an open file has closed it. */
  *release(handle: number): Io<number> {
    const file = this.opened.get(handle)
    this.opened.delete(handle)
    return yield* this.releaseNode(file?.node, file?.handle ?? 0)
  }

  /** Whether a program may do what the mask of access(2) says. */
  *access(path: string, mask: number): Io<number> {
    return yield* this.ask(OPCODE.ACCESS, this.find(path), structure(messages.accessIn, { mask }), nothing)
  }

  /** truncate(2), chmod(2), chown(2), utimensat(2), as far as a disk has them. Times in milliseconds. */
  *change(path: string, wishes: Wishes): Io<number> {
    const { size, mode, uid, gid, accessed, modified } = wishes
    const wish = structure(messages.setAttributesIn, {
      valid:
        (size === undefined ? 0 : CHANGES.SIZE) |
        (mode === undefined ? 0 : CHANGES.MODE) |
        (uid === undefined ? 0 : CHANGES.UID) |
        (gid === undefined ? 0 : CHANGES.GID) |
        (accessed === undefined ? 0 : CHANGES.ATIME) |
        (modified === undefined ? 0 : CHANGES.MTIME),
      size: exact(size ?? 0),
      mode: mode ?? 0,
      uid: uid ?? 0,
      gid: gid ?? 0,
      accessed: seconds(accessed),
      accessedNanos: nanos(accessed),
      modified: seconds(modified),
      modifiedNanos: nanos(modified),
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

  /**
   * Whether a file must not be open beside those that are: what the kernel keeps of one would not show what is written
   * through another. One after the other is no harm: what is kept is forgotten when a file is opened.
   */
  private clashes(file: DiskFile, writing: boolean): boolean {
    if (this.options.direct) return false
    const other = [...this.opened.values()].find(
      (one) => one.node !== file && (writing || one.writing) && one.node.kind === 'file' && overlap(one.node, file),
    )
    if (!other) return false
    this.options.log(
      `Cannot open ${file.name}: ${other.node.name} is open, and shows the same bytes. Close that first; or unmount and ` +
        'mount again: partitions that are there from the beginning can be used beside their disk',
    )
    return true
  }

  private *openNode(node: Node, flags: number): Io<number> {
    const wish = structure(messages.openIn, { flags })
    return yield* this.ask(OPCODE.OPEN, node, wish, (reply) => bodyOf(reply, messages.openOut).handle)
  }

  private *releaseNode(node: Node | undefined, handle: number): Io<number> {
    return yield* this.ask(OPCODE.RELEASE, node, (request) => ofHandle(request, handle), nothing)
  }

  /** @param target at most as large as one request can fill */
  private *readNode(node: Node | undefined, handle: number, target: Uint8Array, offset: number): Io<number> {
    const fill = (request: Frame): number => transfer(request, handle, offset, target.length)
    return yield* this.ask(OPCODE.READ, node, fill, (reply) => {
      const bytes = reply.part(REPLY_HEADER, reply.length - REPLY_HEADER)
      target.set(bytes)
      return bytes.length
    })
  }

  /** What a text says at this moment. */
  private *textOf(node: Node): Io<Uint8Array | number> {
    const handle = yield* this.openNode(node, OPEN_FOR.READING)
    if (handle < 0) return handle
    const text = yield* this.readText(node, handle)
    yield* this.releaseNode(node, handle)
    return text
  }

  private *readText(node: Node, handle: number): Io<Uint8Array | number> {
    const parts: Uint8Array[] = []
    for (let at = 0; ; ) {
      const part = new Uint8Array(TEXT_PART)
      const count = yield* this.readNode(node, handle, part, at)
      if (count < 0) return count
      if (count === 0) return Buffer.concat(parts)
      parts.push(part.subarray(0, count))
      at += count
    }
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
    this.requests.giveBack(request)
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

/** What FLUSH, FSYNC and RELEASE begin with. */
function ofHandle(request: Frame, handle: number): number {
  return structure(messages.handleIn, { handle })(request)
}

function overlap(one: DiskFile, other: DiskFile): boolean {
  const sameContent = one.content === other.content
  return sameContent && one.start < other.start + other.device.size && other.start < one.start + one.device.size
}

function copyFrom(text: Uint8Array, offset: number, target: Uint8Array): number {
  const part = text.subarray(offset, offset + target.length)
  target.set(part)
  return part.length
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

function seconds(time = 0): number {
  return exact(Math.floor(time / 1000))
}

function nanos(time = 0): number {
  return (time % 1000) * 1e6
}

/** What is larger than every disk, and later than every time that may be set, needs not be told apart. */
function exact(value: number): number {
  return Math.min(value, Number.MAX_SAFE_INTEGER)
}

function milliseconds(wholeSeconds: number, rest: number): number {
  return wholeSeconds * 1000 + Math.floor(rest / 1e6)
}
