import { Frame } from '../../fuse/protocol/frame.ts'
import { REQUEST_HEADER, REQUEST_ROOM } from '../../fuse/protocol/protocol.ts'

/** Bytes from hexadecimal digits; blanks and line ends are for the reader. */
export function hex(digits: string): Uint8Array {
  return Buffer.from(digits.replace(/\s/g, ''), 'hex')
}

/** A frame that holds a message, in a buffer as large as the kernel's requests may be. */
export function frameOf(message: Uint8Array): Frame {
  const frame = new Frame(REQUEST_ROOM)
  frame.bytes.set(message)
  frame.length = message.length
  return frame
}

/** A request with its header: what the kernel sends for process 1 of user 0. */
export function requestBytes(opcode: number, nodeId: number, body: Uint8Array | string = '', unique = 2): Uint8Array {
  const payload = typeof body === 'string' ? hex(body) : body
  const message = Buffer.alloc(REQUEST_HEADER + payload.length)
  message.writeUInt32LE(message.length, 0)
  message.writeUInt32LE(opcode, 4)
  message.writeBigUInt64LE(BigInt(unique), 8)
  message.writeBigUInt64LE(BigInt(nodeId), 16)
  message.writeUInt32LE(1, 32)
  message.set(payload, REQUEST_HEADER)
  return message
}

/** The body of a READ, or the head of a WRITE. */
export function transfer(offset: number, size: number): Buffer {
  const body = Buffer.alloc(40)
  body.writeBigUInt64LE(BigInt(offset), 8)
  body.writeUInt32LE(size, 16)
  return body
}

export function writeBody(offset: number, payload: Uint8Array): Buffer {
  return Buffer.concat([transfer(offset, payload.length), payload])
}
