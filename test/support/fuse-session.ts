import { expect } from 'vitest'
import type { Frame } from '../../fuse/protocol/frame.ts'
import { openIn, openOut } from '../../fuse/protocol/messages.ts'
import { OPCODE } from '../../fuse/protocol/protocol.ts'
import { Session } from '../../fuse/protocol/session.ts'
import { Tree } from '../../fuse/tree/tree.ts'
import { runSync } from '../../lib/index.ts'
import { frameOf, requestBytes } from './fuse-messages.ts'
import { MemoryDevice } from './memory-device.ts'

/** The id of the disk in the folder of the mount. */
export const DISK = 2

/** What programs open files for. [open(2)] */
export const READING = 0
export const WRITING = 2

export interface SessionShape {
  /** bytes */
  readonly size?: number
  readonly writable?: boolean
  readonly shared?: boolean
  readonly mode?: number
  readonly name?: string
}

/** A session over a disk in memory, with nothing around it: bytes in, bytes out. */
export function makeSession(shape: SessionShape = {}) {
  const device = new MemoryDevice(shape.size ?? 65536, shape)
  const tree = Tree.ofFolder()
  const file = tree.addFile(shape.name ?? 'disk.raw', device)
  const log: string[] = []
  const owner = { uid: 1000, gid: 100, shared: shape.shared ?? false, mode: shape.mode }
  const session = new Session(tree, { owner, log: (message) => log.push(message) })
  /** The whole reply, in a copy. */
  const ask = (message: Uint8Array): Buffer => {
    const reply = runSync(session.handle(frameOf(message))) as Frame
    const bytes = Buffer.from(reply.bytes.subarray(0, reply.length))
    session.recycle(reply)
    return bytes
  }
  /** Opens a file. @returns what OPEN answers, or its negative error number */
  const open = (id: number, flags: number) => {
    const reply = ask(requestBytes(OPCODE.OPEN, id, openIn.encode({ flags })))
    const error = errorOf(reply)
    return error === 0 ? openOut.decode(bodyOf(reply)) : error
  }
  return { device, tree, file, session, log, ask, open }
}

/** The error of a reply: 0 or a negative number. It must say its own length. */
export function errorOf(reply: Buffer): number {
  expect(reply.readUInt32LE(0)).toBe(reply.length)
  return reply.readInt32LE(4)
}

export const bodyOf = (reply: Buffer): Buffer => reply.subarray(16)

/** FLUSH, FSYNC or RELEASE of an open file. */
export function ofHandle(opcode: number, id: number, handle: number): Uint8Array {
  const body = Buffer.alloc(24)
  body.writeBigUInt64LE(BigInt(handle), 0)
  return requestBytes(opcode, id, body)
}

/** A promise that a test keeps when it wants to. */
export function deferred(): { promise: Promise<void>; resolve: () => void } {
  let resolve = (): void => {}
  const promise = new Promise<void>((done) => {
    resolve = done
  })
  return { promise, resolve }
}
