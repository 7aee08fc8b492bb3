import { createHash } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { crc32 } from '../../../lib/bytes/crc32.ts'
import { crc64 } from '../../../lib/bytes/crc64.ts'
import { unpackLzma2 } from '../../../lib/bytes/lzma2.ts'
import { isXz, readXzFooter, readXzHeader, readXzIndex, unpackXz } from '../../../lib/bytes/xz.ts'

const CONTENT = Buffer.from('thirteen byte')
const MAGIC = [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0]

function summed(bytes: Uint8Array): Buffer {
  const sum = Buffer.alloc(4)
  sum.writeUInt32LE(crc32(bytes))
  return Buffer.concat([bytes, sum])
}

const padded = (bytes: Uint8Array): Buffer => Buffer.concat([bytes, Buffer.alloc(-bytes.length & 3)])

/** What a stream is made of, where that is not what is usual. ["The .xz File Format", 1.2.1] */
interface Parts {
  /** kind of check, and its bytes behind the block [2.1.1.2] */
  check?: number
  sum?: Uint8Array
  /** of the block's header, between its length and its sum [3.1] */
  blockHeader?: readonly number[]
  /** of the index, between its first byte and its padding [4] */
  index?: readonly number[]
  /** the LZMA2 stream */
  packed?: Uint8Array
}

const STORED = Buffer.concat([Buffer.from([1, 0, CONTENT.length - 1]), CONTENT, Buffer.from([0])])

function stream({ check = 0, sum = new Uint8Array(0), blockHeader, index, packed = STORED }: Parts = {}): Buffer {
  const head = blockHeader ?? [0, 0x21, 1, 0]
  const block = padded(Buffer.from([0, ...head]))
  block[0] = block.length / 4
  const body = Buffer.concat([summed(block), packed])
  const records = summed(padded(Buffer.from([0, ...(index ?? [1, body.length + sum.length, CONTENT.length])])))
  const flags = Buffer.from([0, check])
  const backward = Buffer.alloc(4)
  backward.writeUInt32LE(records.length / 4 - 1)
  const footer = Buffer.concat([backward, flags])
  const footerSum = summed(footer).subarray(6)
  return Buffer.concat([
    Buffer.from(MAGIC),
    summed(flags),
    padded(body),
    sum,
    records,
    footerSum,
    footer,
    Buffer.from('YZ'),
  ])
}

function unpack(bytes: Uint8Array, length = CONTENT.length): string {
  const target = new Uint8Array(length)
  unpackXz(bytes, target)
  return Buffer.from(target).toString()
}

/** The same bytes, some of them others. */
function changed(bytes: Buffer, at: number, ...values: number[]): Buffer {
  const copy = Buffer.from(bytes)
  copy.set(values, at < 0 ? bytes.length + at : at)
  return copy
}

describe('an xz stream', () => {
  const crc64Of = (): Buffer => {
    const sum = Buffer.alloc(8)
    sum.writeBigUInt64LE(crc64(CONTENT))
    return sum
  }
  test.each<[string, Parts]>([
    ['no check', {}],
    ['a CRC-32', { check: 1, sum: summed(CONTENT).subarray(-4) }],
    ['a CRC-64', { check: 4, sum: crc64Of() }],
    ['a SHA-256', { check: 10, sum: createHash('sha256').update(CONTENT).digest() }],
    ['a check of a kind that nobody has made yet, which is passed over', { check: 15, sum: Buffer.alloc(64, 5) }],
    [
      'the lengths of its block in the header of that, and a dictionary of any size',
      { blockHeader: [0xc0, 17, 13, 0x21, 1, 40] },
    ],
  ])('with %s is unpacked', (_, parts) => {
    expect(unpack(stream(parts))).toBe(CONTENT.toString())
  })

  const whole = stream()
  test.each<[string, Uint8Array, string]>([
    ['nothing', Buffer.alloc(0), 'no xz stream begins here'],
    ['another format', Buffer.alloc(100, 7), 'no xz stream begins here'],
    ['a header alone', whole.subarray(0, 12), 'in the middle'],
    ['less than a header and a footer', whole.subarray(0, 23), 'in the middle'],
    ['a header whose sum is wrong', changed(whole, 8, 1), 'the xz header is damaged'],
    [
      'a version that is not known',
      Buffer.concat([Buffer.from(MAGIC), summed(Buffer.from([1, 0])), whole.subarray(12)]),
      'of a version',
    ],
    [
      'a check of no kind',
      Buffer.concat([Buffer.from(MAGIC), summed(Buffer.from([0, 16])), whole.subarray(12)]),
      'of a version',
    ],
    ['no footer', changed(whole, -1, 0), 'no xz stream ends'],
    ['a footer whose sum is wrong', changed(whole, -12, 1), 'no xz stream ends'],
    ['an index that is no index', stream({ index: [1, 23, 13] }).fill(1, 44, 45), 'damaged'],
    ['an index of a block that cannot be so short', stream({ index: [1, 4, 13] }), 'the xz index is damaged'],
    ['an index with a number that has no end', stream({ index: Array(11).fill(0x80) }), 'does not end'],
    ['an index of more blocks than it has', stream({ index: [5, 29, 13, 29] }), 'damaged'],
    ['an index of another length', stream({ index: [1, 29, 12] }), 'it holds 12 bytes instead of 13'],
    ['a block whose header is damaged', changed(whole, 14, 0x22), 'the header of an xz block is damaged'],
    ['a block whose header has no room for its sum', changed(whole, 12, 0), 'the header of an xz block is damaged'],
    ['a block of several filters', stream({ blockHeader: [1, 0x21, 1, 0] }), 'not supported (33)'],
    ['a block that went through another filter', stream({ blockHeader: [0, 4, 0, 0] }), 'not supported (x86)'],
    ['a block of a filter nobody knows', stream({ blockHeader: [0, 0x50, 0, 0] }), 'not supported (80)'],
    ['a block with too many properties', stream({ blockHeader: [0, 0x21, 2, 0] }), 'an xz block is damaged'],
    ['a block of an impossible dictionary', stream({ blockHeader: [0, 0x21, 1, 41] }), 'an xz block is damaged'],
    ['a block with other bytes', stream({ check: 1, sum: Buffer.alloc(4) }), 'its checksum is wrong'],
  ])('%s is refused', (_, bytes, why) => {
    expect(() => unpack(bytes)).toThrow(RangeError)
    expect(() => unpack(bytes)).toThrow(why)
  })

  test('an index longer than what is before it is refused', () => {
    const short = stream()
    const footer = Buffer.alloc(6)
    footer.writeUInt32LE(1000)
    const end = Buffer.concat([summed(footer).subarray(6), footer, Buffer.from('YZ')])
    expect(() => unpack(Buffer.concat([short.subarray(0, -12), end]))).toThrow('the xz index is damaged')
  })

  test('is known by its first bytes, and by its last', () => {
    expect([isXz(whole), isXz(whole.subarray(1)), isXz(whole.subarray(0, 5))]).toEqual([true, false, false])
    expect(readXzHeader(stream({ check: 10 }))).toBe(10)
    expect(readXzFooter(stream({ check: 4 }).subarray(-12))).toEqual({ indexLength: 8, check: 4 })
    expect([...readXzIndex(summed(Buffer.from([0, 2, 8, 0x80, 1, 9, 3, 0])))]).toEqual([
      { storedLength: 8, length: 128 },
      { storedLength: 9, length: 3 },
    ])
  })
})

describe('LZMA2', () => {
  const unpacked = (packed: readonly number[], length: number): string => {
    const target = new Uint8Array(length)
    expect(unpackLzma2(Uint8Array.from(packed), 0, target, 4096)).toBe(packed.length)
    return Buffer.from(target).toString()
  }

  test('chunks that are stored follow each other', () => {
    expect(unpacked([1, 0, 1, 97, 98, 2, 0, 0, 99, 1, 0, 0, 100, 0], 4)).toBe('abcd')
  })

  test.each<[string, readonly number[], string]>([
    ['nothing', [], 'in the middle'],
    ['no end', [1, 0, 1, 97, 98], 'in the middle'],
    ['a length that is cut off', [1, 0], 'in the middle'],
    ['bytes that are cut off', [1, 0, 1, 97], 'in the middle'],
    ['a chunk of a kind nobody knows', [3, 0, 1, 97, 98, 0], 'of kind 3'],
    ['a first chunk that goes on', [2, 0, 1, 97, 98, 0], 'goes on with another'],
    ['a packed first chunk that goes on', [0x80, 0, 1, 0, 4, 0, 0, 0, 0, 0, 0], 'goes on with another'],
    ['packed bytes without properties', [1, 0, 0, 97, 0x80, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0], 'lacks its properties'],
    ['packed bytes of too few', [0xe0, 0, 1, 0, 3, 0x5d, 0, 0, 0, 0, 0], 'in the middle'],
    ['packed bytes that are cut off', [0xe0, 0, 1, 0, 9, 0x5d, 0, 0], 'in the middle'],
    ['properties that are cut off', [0xe0, 0, 1, 0, 9], 'in the middle'],
    ['more than there is room for', [1, 0, 2, 97, 98, 99, 0], 'more than it should'],
    ['less than it should', [1, 0, 0, 97, 0], 'it holds 1 bytes instead of 2'],
  ])('%s is refused', (_, packed, why) => {
    const target = new Uint8Array(2)
    expect(() => unpackLzma2(Uint8Array.from(packed), 0, target, 4096)).toThrow(RangeError)
    expect(() => unpackLzma2(Uint8Array.from(packed), 0, target, 4096)).toThrow(why)
  })
})
