import zlib from 'node:zlib'

/** Streams of xz and frames of zstd that tests put together: their bytes are stored in them as they are. */

/** What a stream says that is not so. */
export interface XzLies {
  /** kind of check that the header names; the footer says that there is none */
  readonly headerCheck?: number
  /** bytes of the index, as the footer has it */
  readonly indexLength?: number
  /** bytes of the block, as the index has them */
  readonly storedLength?: number
}

/** A stream of one block, without a check; of none where there is no content. ["The .xz File Format", 2, 3, 4] */
export function xzStream(content: Uint8Array | undefined, lies: XzLies = {}): Buffer {
  const block = content ? xzBlock(content) : Buffer.alloc(0)
  const records = content ? [1, ...xzNumber(lies.storedLength ?? block.length), ...xzNumber(content.length)] : [0]
  const index = withSum(padded(Buffer.from([0, ...records])))
  const magic = Buffer.from([0xfd, 0x37, 0x7a, 0x58, 0x5a, 0])
  const header = Buffer.concat([magic, withSum(Buffer.from([0, lies.headerCheck ?? 0]))])
  const footer = Buffer.alloc(6)
  footer.writeUInt32LE((lies.indexLength ?? index.length) / 4 - 1)
  const sum = withSum(footer).subarray(6)
  return Buffer.concat([header, padded(block), index, sum, footer, Buffer.from('YZ')])
}

/** LZMA2 in one chunk that is stored, up to 64 KiB. */
function xzBlock(content: Uint8Array): Buffer {
  const head = withSum(Buffer.from([2, 0, 0x21, 1, 0, 0, 0, 0]))
  const length = content.length - 1
  return Buffer.concat([head, Buffer.from([1, length >> 8, length & 255]), content, Buffer.from([0])])
}

function xzNumber(value: number): number[] {
  const bytes: number[] = []
  let rest = value
  for (; rest > 127; rest = Math.floor(rest / 128)) bytes.push((rest % 128) + 128)
  return [...bytes, rest]
}

function withSum(bytes: Buffer): Buffer {
  const sum = Buffer.alloc(4)
  sum.writeUInt32LE(zlib.crc32(bytes))
  return Buffer.concat([bytes, sum])
}

function padded(bytes: Buffer): Buffer {
  return Buffer.concat([bytes, Buffer.alloc(-bytes.length & 3)])
}

/** A frame of one block that is stored, and tells its length. [RFC 8878, 3.1.1] */
export function zstdFrame(content: Uint8Array): Buffer {
  return Buffer.concat([zstdHeader(content.length), zstdBlock('stored', content.length, true), content])
}

/** A frame of zeros, in blocks that say how often a byte is repeated. @param size whole blocks of 128 KiB, and a rest */
export function zstdZeros(size: number): Buffer {
  const parts = [zstdHeader(size)]
  const most = 128 << 10
  for (let at = 0; at < size; at += most) {
    const length = Math.min(most, size - at)
    parts.push(zstdBlock('repeated', length, at + length === size), Buffer.alloc(1))
  }
  return Buffer.concat(parts)
}

/** @param length bytes that it unpacks to; undefined: it does not tell, and has a window of 1 MiB */
export function zstdHeader(length: number | undefined): Buffer {
  const header = Buffer.alloc(length === undefined ? 6 : 9)
  header.writeUInt32LE(0xfd2fb528)
  if (length === undefined) header.set([0, 10 << 3], 4)
  else header.set([0xa0], 4)
  if (length !== undefined) header.writeUInt32LE(length, 5)
  return header
}

export function zstdBlock(kind: 'stored' | 'repeated', length: number, isLast: boolean): Buffer {
  const header = Buffer.alloc(3)
  header.writeUIntLE(length * 8 + (kind === 'repeated' ? 2 : 0) + (isLast ? 1 : 0), 0, 3)
  return header
}

/** The frame that ends a file and says how long the others are. [zstd seekable format] */
export function zstdSeekTable(frames: readonly { readonly stored: number; readonly length: number }[]): Buffer {
  const table = Buffer.alloc(8 + frames.length * 8 + 9)
  table.writeUInt32LE(0x184d2a5e, 0)
  table.writeUInt32LE(table.length - 8, 4)
  for (const [i, { stored, length }] of frames.entries()) {
    table.writeUInt32LE(stored, 8 + 8 * i)
    table.writeUInt32LE(length, 12 + 8 * i)
  }
  table.writeUInt32LE(frames.length, table.length - 9)
  table.writeUInt32LE(0x8f92eab1, table.length - 4)
  return table
}
