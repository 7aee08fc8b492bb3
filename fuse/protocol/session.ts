import type { Struct, StructValue } from '../../lib/bytes/struct.ts'
import { type Io, isVdiskError, messageOf, VdiskError } from '../../lib/index.ts'
import type { DiskFile, Folder, Node, TextFile, Tree } from '../tree/tree.ts'
import { attributesOf, type Ownership, validSecondsOf } from './attributes.ts'
import { entryValues, listFolder } from './directory.ts'
import { allocate, copyRange, flushContent, seek } from './disk-requests.ts'
import { errnoOf } from './errno.ts'
import { type Frame, framePool } from './frame.ts'
import { greet, isSpoken } from './greeting.ts'
import { Handles } from './handles.ts'
import * as messages from './messages.ts'
import * as wire from './protocol.ts'
import { setAttributes } from './set-attributes.ts'

const { OPCODE, ERRNO, REPLY_HEADER, REQUEST_HEADER } = wire

export interface SessionOptions {
  readonly owner: Ownership
  /** Receives the words of errors of which the kernel only gets a number. */
  readonly log: (message: string) => void
}

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
  private readonly small = framePool(SMALL_REPLY, 32)
  private readonly large = framePool(LARGE_REPLY, 16)
  private readonly handles = new Handles()

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
    // What is shorter than a header has no number under which it could be answered.
    if (request.length < REQUEST_HEADER) return undefined
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
    if (reply.bytes.length === LARGE_REPLY) this.large.giveBack(reply)
    else this.small.giveBack(reply)
  }

  /** Everything written through this mount is durable. */
  *flush(): Io<void> {
    const contents = new Set(this.tree.files().map((file) => file.content))
    for (const content of contents) yield* flushContent(content)
  }

  /** At the end of the disk reads get shorter, and past it empty. */
  private *read(request: Frame, reply: Frame): Io<number> {
    if (request.length < wire.WRITE_PAYLOAD) return -ERRNO.EINVAL
    const file = this.tree.node(wire.nodeIdOf(request.view))
    if (file?.kind !== 'file') return file ? this.readOther(file, request, reply) : -ERRNO.ENOENT
    const offset = wire.transferOffset(request.view)
    const length = Math.min(wire.transferSize(request.view), file.device.size - offset)
    if (length <= 0) return 0
    if (length > wire.MAX_TRANSFER) return -ERRNO.EINVAL
    yield* file.device.read(offset, reply.part(REPLY_HEADER, length))
    const { activity } = file.content
    activity.reads++
    activity.readBytes += length
    return length
  }

  private readOther(node: Node, request: Frame, reply: Frame): number {
    if (node.kind === 'folder') return -ERRNO.EISDIR
    const text = this.handles.textOf(wire.transferHandle(request.view))
    if (!text) return -ERRNO.EBADF
    const offset = wire.transferOffset(request.view)
    const length = Math.min(wire.transferSize(request.view), text.length - offset, SMALL_REPLY - REPLY_HEADER)
    if (length <= 0) return 0
    reply.part(REPLY_HEADER, length).set(text.subarray(offset, offset + length))
    return length
  }

  /** A disk does not grow: writes end where it ends, as on a block device. */
  private *write(request: Frame, reply: Frame): Io<number> {
    const size = wire.transferSize(request.view)
    if (wire.WRITE_PAYLOAD + size > request.length) return -ERRNO.EINVAL
    const file = this.tree.node(wire.nodeIdOf(request.view))
    if (file?.kind !== 'file') return file ? (file.kind === 'text' ? -ERRNO.EROFS : -ERRNO.EISDIR) : -ERRNO.ENOENT
    const offset = wire.transferOffset(request.view)
    const length = Math.min(size, file.device.size - offset)
    if (length <= 0) return size === 0 ? wire.encodeWritten(reply.view, 0) : -ERRNO.ENOSPC
    try {
      yield* file.device.write(offset, request.part(wire.WRITE_PAYLOAD, length))
    } finally {
      // Afterwards, and after a failure too: a flush that ran meanwhile has not covered it.
      file.touch()
    }
    const { activity } = file.content
    activity.writes++
    activity.writtenBytes += length
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
    if (node.kind === 'folder') return yield* this.answerFolder(opcode, node, request, reply)
    const shared = yield* this.answerAny(opcode, node, request, reply)
    if (shared !== undefined) return shared
    switch (opcode) {
      case OPCODE.OPEN:
        return yield* this.open(node, request, reply)
      case OPCODE.FLUSH:
        return yield* this.close(node, this.take(request, messages.handleIn).handle)
      case OPCODE.RELEASE:
        return yield* this.release(node, this.take(request, messages.handleIn).handle)
      case OPCODE.FSYNC:
        return node.kind === 'file' ? yield* flushContent(node.content) : 0
      case OPCODE.LOOKUP:
      case OPCODE.OPENDIR:
      case OPCODE.READDIR:
      case OPCODE.READDIRPLUS:
        return -ERRNO.ENOTDIR
    }
    return node.kind === 'file' ? yield* this.answerDisk(opcode, node, request, reply) : refusalOf(opcode)
  }

  /** What may be asked of every node. @returns undefined if it is something else */
  private *answerAny(opcode: number, node: Node, request: Frame, reply: Frame): Io<number | undefined> {
    switch (opcode) {
      case OPCODE.GETATTR:
        return yield* this.attributes(node, request, reply)
      case OPCODE.SETATTR: {
        const wish = this.take(request, messages.setAttributesIn)
        const refused = setAttributes(node, wish, this.owner, this.log)
        return refused < 0 ? refused : yield* this.putAttributes(node, reply)
      }
      case OPCODE.STATFS:
        return this.statistics(reply)
      case OPCODE.ACCESS: {
        // The kernel checks permission bits by itself.
        const { mask } = this.take(request, messages.accessIn)
        const readOnly = node.kind === 'text' || (node.kind === 'file' && !node.device.writable)
        return (mask & wire.MAY_WRITE) !== 0 && readOnly ? -ERRNO.EROFS : 0
      }
    }
    return undefined
  }

  private *answerFolder(opcode: number, folder: Folder, request: Frame, reply: Frame): Io<number> {
    const shared = yield* this.answerAny(opcode, folder, request, reply)
    if (shared !== undefined) return shared
    switch (opcode) {
      case OPCODE.LOOKUP:
        return yield* this.lookUp(folder, request, reply)
      case OPCODE.OPENDIR:
        return this.put(reply, messages.openOut, { handle: 0, openFlags: 0 })
      case OPCODE.READDIR:
      case OPCODE.READDIRPLUS: {
        const { offset, size } = this.take(request, messages.readDirectoryIn)
        const room = reply.part(REPLY_HEADER, Math.min(size, SMALL_REPLY - REPLY_HEADER)).fill(0)
        return yield* listFolder(folder, offset, room, opcode === OPCODE.READDIRPLUS ? this.owner : undefined)
      }
      case OPCODE.OPEN:
      case OPCODE.FALLOCATE:
      case OPCODE.LSEEK:
        return -ERRNO.EISDIR
      case OPCODE.RELEASEDIR:
      case OPCODE.FSYNCDIR:
      case OPCODE.FLUSH:
      case OPCODE.FSYNC:
      case OPCODE.RELEASE:
        return 0
    }
    return refusalOf(opcode)
  }

  private *answerDisk(opcode: number, file: DiskFile, request: Frame, reply: Frame): Io<number> {
    switch (opcode) {
      case OPCODE.FALLOCATE: {
        const { offset, length, mode } = this.take(request, messages.fallocateIn)
        return yield* allocate(file, offset, length, mode)
      }
      case OPCODE.LSEEK: {
        const { offset, whence } = this.take(request, messages.lseekIn)
        const found = yield* seek(file, offset, whence)
        return found < 0 ? found : this.put(reply, messages.lseekOut, { offset: found })
      }
      case OPCODE.COPY_FILE_RANGE: {
        const { from, targetNode, to, length, flags } = this.take(request, messages.copyRangeIn)
        const target = this.tree.node(targetNode)
        if (target?.kind !== 'file' || flags !== 0) return -ERRNO.EINVAL
        const copied = yield* copyRange({ file, offset: from }, { file: target, offset: to }, length)
        return copied < 0 ? copied : this.put(reply, messages.writeOut, { size: copied })
      }
    }
    return refusalOf(opcode)
  }

  private init(request: Frame, reply: Frame): number {
    const offer = this.take(request, messages.initIn)
    if (!isSpoken(offer)) {
      const spoken = `FUSE ${offer.major}.${offer.minor}, 7.${wire.OLDEST_MINOR} is needed`
      this.log(`Cannot serve this kernel: it speaks ${spoken}`)
      return -ERRNO.EPROTO
    }
    const more = (offer.flags & wire.FLAG.INIT_EXT) !== 0 ? this.take(request, messages.moreFlagsIn) : undefined
    return this.put(reply, messages.initOut, greet(offer, more?.flags2 ?? 0))
  }

  private *lookUp(folder: Folder, request: Frame, reply: Frame): Io<number> {
    // The name ends with a zero byte.
    if (request.length === REQUEST_HEADER || request.bytes[request.length - 1] !== 0) return -ERRNO.EINVAL
    const name = Buffer.from(request.part(REQUEST_HEADER, request.length - REQUEST_HEADER - 1)).toString('utf8')
    const child = folder.children.get(name)
    if (!child) return -ERRNO.ENOENT
    return this.put(reply, messages.entryOut, entryValues(child, yield* attributesOf(child, this.owner)))
  }

  /** Of a text that is open, the size is that of what the program will read. */
  private *attributes(node: Node, request: Frame, reply: Frame): Io<number> {
    const { flags, handle } = this.take(request, messages.getAttributesIn)
    const text = node.kind === 'text' && flags & wire.OF_HANDLE ? this.handles.textOf(handle) : undefined
    return yield* this.putAttributes(node, reply, text?.length)
  }

  private *putAttributes(node: Node, reply: Frame, size?: number): Io<number> {
    const attributes = yield* attributesOf(node, this.owner)
    const values = { validSeconds: validSecondsOf(node), ...attributes, size: size ?? attributes.size }
    return this.put(reply, messages.attributesOut, values)
  }

  private *open(node: DiskFile | TextFile, request: Frame, reply: Frame): Io<number> {
    const opened = yield* this.handles.open(node, this.take(request, messages.openIn).flags)
    if (typeof opened !== 'number') return this.put(reply, messages.openOut, opened)
    if (opened === -ERRNO.EBUSY) {
      this.log(
        `Cannot open ${node.name} for writing: another file that shows the same bytes is in use. Close that first`,
      )
    }
    return opened
  }

  /** A program that closes a file is told by the result whether its data has arrived; who only read need not wait. */
  private *close(node: DiskFile | TextFile, handle: number): Io<number> {
    if (node.kind !== 'file' || !this.handles.mayWrite(handle)) return 0
    if (node.unflushed) yield* flushContent(node.content)
    if (node.onClose) yield* node.onClose()
    return 0
  }

  /** Devices of the kernel let go of a file without closing it first. */
  private *release(node: DiskFile | TextFile, handle: number): Io<number> {
    this.handles.release(node, handle)
    if (node.kind === 'file' && this.handles.mayWrite(handle) && node.onClose) yield* node.onClose()
    return 0
  }

  /** A full file system as large as the largest disk in it: nothing can be added. */
  private statistics(reply: Frame): number {
    const files = this.tree.files()
    return this.put(reply, messages.statfsOut, {
      blocks: Math.ceil(files.reduce((most, file) => Math.max(most, file.device.size), 0) / 4096),
      freeBlocks: 0,
      availableBlocks: 0,
      files: files.length,
      freeFiles: 0,
      blockSize: 4096,
      nameLength: 255,
      fragmentSize: 4096,
    })
  }

  /** @throws VdiskError OUT_OF_RANGE if the request is too short */
  private take<F>(request: Frame, layout: Struct<F>): StructValue<F> {
    const length = request.length - REQUEST_HEADER
    if (length >= layout.size) return layout.decode(request.part(REQUEST_HEADER, layout.size))
    throw new VdiskError('OUT_OF_RANGE', {
      message: `Cannot read a request of the kernel: its ${layout.name} has ${length} bytes, not ${layout.size}`,
    })
  }

  /** Puts a structure behind the reply's header. What no field covers is zero, not what the buffer held before. */
  private put<F>(reply: Frame, layout: Struct<F>, values: StructValue<F>): number {
    layout.encode(values, reply.part(REPLY_HEADER, layout.size).fill(0))
    return layout.size
  }

  private report(opcode: number, view: DataView, error: unknown): void {
    const transfer = opcode === OPCODE.READ || opcode === OPCODE.WRITE
    const place = transfer ? ` of ${wire.transferSize(view)} bytes at ${wire.transferOffset(view)}` : ''
    const what = `${OPCODE_NAMES.get(opcode) ?? `request ${opcode}`}${place}`
    const advice = isVdiskError(error) && error.advice ? ` ${error.advice}` : ''
    // What is not one of our errors is a mistake of ours: its stack belongs in the log.
    const words = isVdiskError(error) ? messageOf(error) : ((error as Error).stack ?? messageOf(error))
    this.log(`${what} failed: ${words}.${advice}`)
    const node = this.tree.node(wire.nodeIdOf(view))
    if (node?.kind === 'file') node.content.activity.fail(what, error)
  }
}

/** ENOSYS: the kernel does without, and does not ask again. */
function refusalOf(opcode: number): number {
  return FIXED_NAMES.has(opcode) ? -ERRNO.EPERM : -ERRNO.ENOSYS
}
