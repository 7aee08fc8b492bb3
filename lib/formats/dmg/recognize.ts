import { ENCRYPTED_HEAD, ENCRYPTED_TAIL, SECTOR, TRAILER_SIGNATURE } from './layout.ts'

/** @param tail the last 512 bytes */
export function hasTrailer(tail: Uint8Array): boolean {
  return tail.length === SECTOR && textOf(tail.subarray(0, TRAILER_SIGNATURE.length)) === TRAILER_SIGNATURE
}

/** Whether it is an encrypted image of macOS, of whatever format inside. */
export function isEncrypted(head: Uint8Array, tail: Uint8Array): boolean {
  return (
    textOf(head.subarray(0, ENCRYPTED_HEAD.length)) === ENCRYPTED_HEAD ||
    textOf(tail.subarray(-ENCRYPTED_TAIL.length)) === ENCRYPTED_TAIL
  )
}

function textOf(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('latin1')
}
