import { createHash } from 'node:crypto'
import { crc32 } from './crc32.ts'
import { crc64 } from './crc64.ts'
import { unpackLzma2 } from './lzma2.ts'

/** The .xz format: streams of blocks, each packed with LZMA2, and an index of them. ["The .xz File Format", 1.2.1] */

/** bytes of a stream's header and of its footer [2.1.1, 2.1.2] */
export const XZ_HEADER = 12

const MAGIC = [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0]
const FOOTER_MAGIC = [0x59, 0x5a]
const LZMA2 = 0x21
/** Other filters that a block may have been sent through. [5.3] */
const OTHER_FILTERS: Readonly<Record<number, string>> = { 3: 'delta', 4: 'x86', 5: 'PowerPC', 7: 'ARM', 9: 'SPARC' }
/** bytes of a check by its kind [2.1.1.2] */
const CHECK_BYTES = [0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64]

export function isXz(head: Uint8Array): boolean {
  return MAGIC.every((byte, i) => head[i] === byte)
}

/** The kind of check that the blocks of a stream have. @throws RangeError for what is no header of a stream [2.1.1] */
export function readXzHeader(bytes: Uint8Array): number {
  if (bytes.length < XZ_HEADER || !isXz(bytes)) throw new RangeError('no xz stream begins here')
  const view = viewOf(bytes)
  if (crc32(bytes.subarray(6, 8)) !== view.getUint32(8, true)) throw new RangeError('the xz header is damaged')
  const [reserved, check] = [bytes[6] as number, bytes[7] as number]
  if (reserved !== 0 || check > 15) throw new RangeError('the xz stream is of a version that is not known')
  return check
}

/** The length of the index before a footer, and the kind of check. @throws RangeError for what is no footer [2.1.2] */
export function readXzFooter(bytes: Uint8Array): { indexLength: number; check: number } {
  const view = viewOf(bytes)
  const isFooter = FOOTER_MAGIC.every((byte, i) => bytes[10 + i] === byte)
  if (!isFooter || crc32(bytes.subarray(4, 10)) !== view.getUint32(0, true)) {
    throw new RangeError('no xz stream ends where it should')
  }
  return { indexLength: (view.getUint32(4, true) + 1) * 4, check: (bytes[9] as number) & 15 }
}

/** A block as the index has it. [4.3] */
export interface XzRecord {
  /** bytes without padding */
  readonly storedLength: number
  /** bytes that it unpacks to */
  readonly length: number
}

/** @throws RangeError if it is damaged [4] */
export function* readXzIndex(index: Uint8Array): Generator<XzRecord> {
  const end = index.length - 4
  if (index[0] !== 0 || crc32(index.subarray(0, end)) !== viewOf(index).getUint32(end, true)) {
    throw new RangeError('the xz index is damaged')
  }
  const records = readNumber(index, 1)
  let { at } = records
  for (let i = 0; i < records.value; i++) {
    const stored = readNumber(index, at)
    const plain = readNumber(index, stored.at)
    at = plain.at
    if (at > end || stored.value < 5) throw new RangeError('the xz index is damaged')
    yield { storedLength: stored.value, length: plain.value }
  }
}

/** bytes of a block with its padding [3.3] */
export function paddedXzBlock(storedLength: number): number {
  return Math.ceil(storedLength / 4) * 4
}

/**
 * Unpacks the block that begins at `at`, and compares its check.
 *
 * @param target what the block fills exactly
 * @returns where it ends, its padding included
 * @throws RangeError if it is damaged, or packed with more than LZMA2
 */
export function unpackXzBlock(bytes: Uint8Array, at: number, check: number, target: Uint8Array): number {
  const header = bytes.subarray(at, at + ((bytes[at] as number) + 1) * 4)
  const end = unpackLzma2(bytes, at + header.length, target, readBlockHeader(header))
  const checkAt = at + paddedXzBlock(end - at)
  const checkBytes = bytes.subarray(checkAt, checkAt + (CHECK_BYTES[check] as number))
  const wanted = checkOf(check, target)
  if (checkBytes.length !== CHECK_BYTES[check] || (wanted && Buffer.compare(wanted, checkBytes) !== 0)) {
    throw new RangeError('its checksum is wrong')
  }
  return checkAt + checkBytes.length
}

/** Unpacks one stream that fills `target`. @throws RangeError if it is damaged */
export function unpackXz(bytes: Uint8Array, target: Uint8Array): void {
  const check = readXzHeader(bytes)
  const lengths = blockLengths(bytes, target.length)
  let at = XZ_HEADER
  let done = 0
  for (const length of lengths) {
    at = unpackXzBlock(bytes, at, check, target.subarray(done, done + length))
    done += length
  }
}

/** How much each block of one stream holds. */
function blockLengths(bytes: Uint8Array, total: number): number[] {
  if (bytes.length < 2 * XZ_HEADER) throw new RangeError('it ends in the middle of an xz stream')
  const footerAt = bytes.length - XZ_HEADER
  const { indexLength } = readXzFooter(bytes.subarray(footerAt))
  if (indexLength > footerAt - XZ_HEADER) throw new RangeError('the xz index is damaged')
  const lengths = Array.from(readXzIndex(bytes.subarray(footerAt - indexLength, footerAt)), ({ length }) => length)
  const sum = lengths.reduce((left, right) => left + right, 0)
  if (sum !== total) throw new RangeError(`it holds ${sum} bytes instead of ${total}`)
  return lengths
}

/** @returns the size of the dictionary [3.1, 5.3.1] */
function readBlockHeader(header: Uint8Array): number {
  const end = header.length - 4
  if (end < 4 || crc32(header.subarray(0, end)) !== viewOf(header).getUint32(end, true)) {
    throw new RangeError('the header of an xz block is damaged')
  }
  const flags = header[1] as number
  let at = 2
  if (flags & 0x40) at = readNumber(header, at).at
  if (flags & 0x80) at = readNumber(header, at).at
  const filter = readNumber(header, at)
  if ((flags & 3) !== 0 || filter.value !== LZMA2) {
    throw new RangeError(
      `it is packed with a filter that is not supported (${OTHER_FILTERS[filter.value] ?? filter.value})`,
    )
  }
  const properties = readNumber(header, filter.at)
  const bits = header[properties.at] ?? 41
  if (properties.value !== 1 || bits > 40) throw new RangeError('the header of an xz block is damaged')
  return bits === 40 ? 2 ** 32 - 1 : (2 | (bits & 1)) * 2 ** (Math.floor(bits / 2) + 11)
}

/** undefined: the kind of check is not known, and nothing is compared */
function checkOf(check: number, bytes: Uint8Array): Uint8Array | undefined {
  const found = Buffer.alloc(CHECK_BYTES[check] as number)
  if (check === 1) found.writeUInt32LE(crc32(bytes))
  else if (check === 4) found.writeBigUInt64LE(crc64(bytes))
  else if (check === 10) return createHash('sha256').update(bytes).digest()
  else return check === 0 ? found : undefined
  return found
}

/** A number of seven bits a byte, the lowest first. [1.2] */
function readNumber(bytes: Uint8Array, at: number): { value: number; at: number } {
  let value = 0
  for (let i = 0; i < 9; i++) {
    const byte = bytes[at + i]
    if (byte === undefined) break
    value += (byte & 0x7f) * 2 ** (7 * i)
    if (byte < 0x80) return { value, at: at + i + 1 }
  }
  throw new RangeError('a number of the xz format does not end')
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}
