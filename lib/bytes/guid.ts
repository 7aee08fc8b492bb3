import { createHash, randomBytes } from 'node:crypto'

/**
 * GUIDs as people read them (lower case, no braces) and as the two kinds of disk formats store them.
 *
 * Microsoft's formats store the first three groups little-endian ("mixed-endian"); everyone else stores the bytes in
 * the order they are written. [RFC 4122, 4.1.2; MS-DTYP 2.3.4]
 */
export const ZERO_GUID = '00000000-0000-0000-0000-000000000000'

const FORM = /^\{?([0-9a-f]{8})-([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{12})\}?$/i

/** A random (version 4) GUID. */
export function randomGuid(): string {
  return formatVersioned(randomBytes(16), 4)
}

/** The GUID that a name stands for: the same name always gives the same one. [RFC 9562, 5.8: version 8, SHA-256] */
export function namedGuid(name: string): string {
  return formatVersioned(createHash('sha256').update(name).digest().subarray(0, 16), 8)
}

/** The GUID of a name within a namespace, as others make it too. [RFC 9562, 5.3: version 3, MD5] */
export function guidInNamespace(namespace: string, name: Uint8Array): string {
  return formatVersioned(createHash('md5').update(guidToBytes(namespace)).update(name).digest(), 3)
}

/** `{...}` or plain, any case, to the plain lower-case form; undefined if it is none. */
export function normalizeGuid(text: string): string | undefined {
  const match = FORM.exec(text.trim())
  return match ? match.slice(1).join('-').toLowerCase() : undefined
}

/** Reads a GUID whose bytes stand in written order. */
export function guidFromBytes(bytes: Uint8Array): string {
  const hex = Buffer.from(bytes.buffer, bytes.byteOffset, 16).toString('hex')
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`
}

/** The 16 bytes of a GUID in written order. */
export function guidToBytes(guid: string): Uint8Array {
  return Buffer.from(guid.replaceAll('-', ''), 'hex')
}

/** Reads a GUID in Microsoft's mixed-endian order. */
export function guidFromMixedEndian(bytes: Uint8Array): string {
  const hex = Buffer.from(bytes.buffer, bytes.byteOffset, 16).toString('hex')
  const byte = (at: number): string => hex.slice(at * 2, at * 2 + 2)
  const first = byte(3) + byte(2) + byte(1) + byte(0)
  return `${first}-${byte(5)}${byte(4)}-${byte(7)}${byte(6)}-${hex.slice(16, 20)}-${hex.slice(20)}`
}

/** The 16 bytes of a GUID in Microsoft's mixed-endian order. */
export function guidToMixedEndian(guid: string): Uint8Array {
  const bytes = guidToBytes(guid)
  for (const [start, end] of GROUPS) bytes.subarray(start, end).reverse()
  return bytes
}

/** The groups that are stored little-endian. */
const GROUPS = [
  [0, 4],
  [4, 6],
  [6, 8],
] as const

function formatVersioned(bytes: Uint8Array, version: number): string {
  bytes[6] = ((bytes[6] as number) & 0x0f) | (version << 4)
  bytes[8] = ((bytes[8] as number) & 0x3f) | 0x80
  return guidFromBytes(bytes)
}
