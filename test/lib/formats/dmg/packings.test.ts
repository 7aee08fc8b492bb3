import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { unpackAdc } from '../../../../lib/formats/dmg/adc.ts'
import { unpackLzfse } from '../../../../lib/formats/dmg/lzfse.ts'
import { readPackedHeader } from '../../../../lib/formats/dmg/lzfse-header.ts'
import { packAdc } from '../../../support/crafted-dmg.ts'
import { LZFSE_VECTORS, type LzfseVector, lzfseContent } from '../../../support/lzfse-content.ts'
import { packableDisk } from '../../../support/packed-disks.ts'
import { printSeed, Random, randomTest } from '../../../support/random.ts'

printSeed()

type Unpack = (packed: Uint8Array, target: Uint8Array) => void

function vector(name: LzfseVector): Buffer {
  return fs.readFileSync(path.join(import.meta.dirname, '../../../../testdata/lzfse', `${name}.lzfse`))
}

function unpacked(unpack: Unpack, packed: Uint8Array, length: number): Uint8Array {
  const target = new Uint8Array(length)
  unpack(packed, target)
  return target
}

function hex(text: string): Uint8Array {
  return Buffer.from(text.replaceAll(' ', ''), 'hex')
}

/** Whatever is damaged: an error of the decoder's own, or bytes; never anything else, and never more than there is room. */
function expectBounded(unpack: Unpack, packed: Uint8Array, length: number): void {
  const random = new Random(7)
  for (let times = 0; times < 400; times++) {
    const damaged = Uint8Array.from(packed)
    for (let edits = 1 + random.below(3); edits > 0; edits--) damaged[random.below(damaged.length)] = random.below(256)
    const cut = random.chance(0.2) ? damaged.subarray(0, random.below(damaged.length)) : damaged
    try {
      unpacked(unpack, cut, length)
    } catch (error) {
      expect(error).toBeInstanceOf(RangeError)
    }
  }
}

describe('LZFSE', () => {
  test.each(LZFSE_VECTORS)('%s unpacks as its own program would', (name) => {
    const content = lzfseContent(name)
    expect(Buffer.compare(unpacked(unpackLzfse, vector(name), content.length), content)).toBe(0)
  })

  test('all kinds of blocks one after the other', () => {
    const parts = LZFSE_VECTORS.map((name) => vector(name).subarray(0, -4))
    const content = Buffer.concat(LZFSE_VECTORS.map((name) => lzfseContent(name)))
    const packed = Buffer.concat([...parts, Buffer.from('bvx$')])
    expect(Buffer.compare(unpacked(unpackLzfse, packed, content.length), content)).toBe(0)
  })

  test('a block whose tables are not packed', () => {
    const packed = vector('text')
    const header = readPackedHeader(packed)
    const plain = Buffer.alloc(770)
    plain.write('bvx1', 'latin1')
    const numbers = [header.literalCount, header.matchCount, header.literalBytes, header.matchBytes]
    for (const [i, number] of numbers.entries()) plain.writeUInt32LE(number, 12 + 4 * i)
    plain.writeInt32LE(-header.literalUnused, 28)
    plain.writeInt32LE(-header.matchUnused, 40)
    const words = [
      ...header.literalStates,
      0,
      0,
      ...header.matchStates,
      ...header.counts.flatMap((counts) => [...counts]),
    ]
    for (const [i, word] of words.entries()) if (i < 4 || i > 5) plain.writeUInt16LE(word, 32 + 2 * i)
    const content = lzfseContent('text')
    const block = Buffer.concat([plain, packed.subarray(header.length)])
    expect(Buffer.compare(unpacked(unpackLzfse, block, content.length), content)).toBe(0)
  })

  test.each([
    ['bvx1', 'of tables that are not packed', 'bvx1', 769],
    ['bvx2', 'of packed ones', 'bvx2', 31],
  ])('a header (%s) %s that is cut off is damage', (_, __, magic, length) => {
    const block = Buffer.alloc(length)
    block.write(magic, 'latin1')
    expect(() => unpacked(unpackLzfse, block, 10)).toThrow('it ends in the middle of an LZFSE header')
  })

  test('a header with numbers that no block has is damage; tables may be empty', () => {
    const packed = Buffer.from(vector('text'))
    const header = (change: (bytes: Buffer) => void): Buffer => {
      const bytes = Buffer.from(packed)
      change(bytes)
      return bytes
    }
    // The number of literals is no multiple of four. [lzfse_encode_base.h, lzfse_compressed_block_header_v2]
    const odd = header((bytes) => bytes.writeUInt8((bytes.readUInt8(8) & 0xfc) | 1, 8))
    expect(() => readPackedHeader(odd)).toThrow('an LZFSE header cannot be')
    for (const length of [31, packed.length + 1])
      expect(() => readPackedHeader(header((bytes) => bytes.writeUInt32LE(length, 24)))).toThrow('is too long')
    const bare = readPackedHeader(header((bytes) => bytes.writeUInt32LE(32, 24)))
    expect(bare.counts.every((counts) => counts.every((count) => count === 0))).toBe(true)
  })

  test('LZVN codes of every kind', () => {
    const stream = (payload: Uint8Array, raw: number): Uint8Array => {
      const head = Buffer.alloc(12)
      head.write('bvxn', 'latin1')
      head.writeUInt32LE(raw, 4)
      head.writeUInt32LE(payload.length, 8)
      return Buffer.concat([head, payload, Buffer.from('bvx$')])
    }
    const end = '06 00000000000000'
    const cases: [string, string][] = [
      [`e3 616263 ${end}`, 'abc'],
      [`e3 616263 18 03 ${end}`, 'abcabcabc'],
      [`e3 616263 40 03 64 ${end}`, 'abcdbcd'],
      [`e3 616263 40 03 64 46 65 ${end}`, lz('abc', ['d', 3, 3], ['e', 3, 3])],
      [`e3 616263 07 0300 ${end}`, lz('abc', ['', 3, 3])],
      [`e3 616263 a9 0d00 64 ${end}`, lz('abc', ['d', ((1 << 2) | 1) + 3, 3])],
      [`e3 616263 18 03 f2 ${end}`, lz('abc', ['', 6, 3], ['', 2, 3])],
      [`e3 616263 18 03 f0 01 0e ${end}`, lz('abc', ['', 6, 3], ['', 17, 3])],
      [`e0 01 ${'61'.repeat(17)} ${end}`, 'a'.repeat(17)],
    ]
    for (const [payload, text] of cases) {
      const found = unpacked(unpackLzfse, stream(hex(payload), text.length), text.length)
      expect(Buffer.from(found).toString(), payload).toBe(text)
    }
    for (const bad of ['70', '1e', 'd0', 'e3 6162', '18 03', 'e3 616263 18 04']) {
      expect(() => unpacked(unpackLzfse, stream(hex(`${bad} ${end}`), 9), 9), bad).toThrow(RangeError)
    }
  })

  test('damage of every kind is bounded', () => {
    for (const name of LZFSE_VECTORS) expectBounded(unpackLzfse, vector(name), lzfseContent(name).length)
  })
})

/** What codes make: literals, then bytes from a distance before. */
function lz(begin: string, ...codes: readonly (readonly [string, number, number])[]): string {
  let text = begin
  for (const [literals, match, distance] of codes) {
    text += literals
    for (let i = 0; i < match; i++) text += text[text.length - distance]
  }
  return text
}

describe('ADC', () => {
  test('codes of every kind', () => {
    const cases: [string, string][] = [
      ['82 616263', 'abc'],
      ['82 616263 00 02', 'abcabc'],
      ['82 616263 0c 00', 'abccccccc'],
      ['82 616263 41 0002', 'abcabcab'],
    ]
    for (const [packed, text] of cases) {
      expect(Buffer.from(unpacked(unpackAdc, hex(packed), text.length)).toString(), packed).toBe(text)
    }
    for (const bad of ['', '82 6162', '00 00', '82 616263 00 05']) {
      expect(() => unpacked(unpackAdc, hex(bad), 9), bad).toThrow(RangeError)
    }
  })

  randomTest('disks of all kinds', (random) => {
    const content = packableDisk(random, 200_000)
    expect(Buffer.compare(unpacked(unpackAdc, packAdc(content), content.length), content)).toBe(0)
    expectBounded(unpackAdc, packAdc(content.subarray(0, 5000)), 5000)
  })
})
