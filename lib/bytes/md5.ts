import { createHash } from 'node:crypto'

/** The MD5 digest of bytes, 16 bytes: a checksum, in formats that have it as one. [RFC 1321] */
export function md5(bytes: Uint8Array): Uint8Array {
  return createHash('md5').update(bytes).digest()
}
