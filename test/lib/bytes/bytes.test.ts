import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { isPowerOfTwo, join64, roundDown, roundUp } from '../../../lib/bytes/align.ts'
import { Bitmap } from '../../../lib/bytes/bitmap.ts'
import { crc32 } from '../../../lib/bytes/crc32.ts'
import { crc32c, crc32cWithin } from '../../../lib/bytes/crc32c.ts'
import {
  guidFromBytes,
  guidFromMixedEndian,
  guidInNamespace,
  guidToBytes,
  guidToMixedEndian,
  namedGuid,
  normalizeGuid,
  randomGuid,
} from '../../../lib/bytes/guid.ts'
import { formatSize, parseSize } from '../../../lib/bytes/size.ts'
import { printSeed, randomTest } from '../../support/random.ts'

printSeed()

describe('CRC-32C', () => {
  // RFC 3720, B.4
  test.each([
    ['zeros', new Uint8Array(32), 0x8a9136aa],
    ['ones', new Uint8Array(32).fill(0xff), 0x62a8ab43],
    ['ascending', Uint8Array.from({ length: 32 }, (_, i) => i), 0x46dd794e],
    ['the digits', Buffer.from('123456789'), 0xe3069283],
    ['nothing', new Uint8Array(0), 0],
  ])('of %s is the published value', (_, data, expected) => {
    expect(crc32c(data)).toBe(expected)
  })

  test('continues where it stopped', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), fc.nat(200), (data, cut) => {
        const at = Math.min(cut, data.length)
        expect(crc32c(data.subarray(at), crc32c(data.subarray(0, at)))).toBe(crc32c(data))
      }),
    )
  })
})

describe('CRC-32C of what is mostly zeros', () => {
  /** Bit by bit, as the standard defines it. */
  function slowly(data: Uint8Array): number {
    let crc = 0xffffffff
    for (const byte of data) {
      crc ^= byte
      for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0x82f63b78 : 0)
    }
    return ~crc >>> 0
  }

  test('is that of the definition, wherever something stands among the zeros', () => {
    const islands = fc.array(fc.tuple(fc.nat(9000), fc.uint8Array({ minLength: 1, maxLength: 40 })), { maxLength: 4 })
    fc.assert(
      fc.property(fc.nat(9000), fc.nat(7), islands, (length, shift, written) => {
        // Away from the begin of its memory: no word may have to be aligned.
        const data = new Uint8Array(shift + length).subarray(shift)
        for (const [at, bytes] of written) data.set(bytes.subarray(0, Math.max(0, length - at)), Math.min(at, length))
        expect(crc32c(data)).toBe(slowly(data))
      }),
    )
  })

  test('counts its own place as zeros, and leaves the bytes as they are', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 4, maxLength: 5000 }), fc.nat(5000), (data, place) => {
        const at = place % (data.length - 3)
        const before = data.slice()
        const cleared = data.slice().fill(0, at, at + 4)
        expect(crc32cWithin(data, at)).toBe(crc32c(cleared))
        expect(data).toEqual(before)
      }),
    )
  })
})

describe('CRC-32', () => {
  // The check value of every catalogue, and those of gzip(1).
  test.each([
    ['the digits', Buffer.from('123456789'), 0xcbf43926],
    ['zeros', new Uint8Array(32), 0x190a55ad],
    ['nothing', new Uint8Array(0), 0],
  ])('of %s is the published value', (_, data, expected) => {
    expect(crc32(data)).toBe(expected)
  })

  test('continues where it stopped', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), fc.nat(200), (data, cut) => {
        const at = Math.min(cut, data.length)
        expect(crc32(data.subarray(at), crc32(data.subarray(0, at)))).toBe(crc32(data))
      }),
    )
  })
})

describe('GUIDs', () => {
  const guid = '2dc27766-f623-4200-9d64-115e9bfd4a08'

  test('keep their groups little-endian in Microsoft order', () => {
    expect(Buffer.from(guidToMixedEndian(guid)).toString('hex')).toBe('6677c22d23f600429d64115e9bfd4a08')
    expect(guidFromMixedEndian(guidToMixedEndian(guid))).toBe(guid)
  })

  test('keep their bytes as written elsewhere', () => {
    expect(guidFromBytes(guidToBytes(guid))).toBe(guid)
  })

  test('are read in any case, with braces or without', () => {
    expect(normalizeGuid(`{${guid.toUpperCase()}}`)).toBe(guid)
    expect(normalizeGuid('not a guid')).toBeUndefined()
  })

  test('of a name in a namespace are those that everybody makes', () => {
    // RFC 9562, A.2
    const dns = '6ba7b810-9dad-11d1-80b4-00c04fd430c8'
    expect(guidInNamespace(dns, Buffer.from('www.example.com'))).toBe('5df41881-3aed-3515-88a7-2f4a814cf09e')
  })

  test('are random, or the same for the same name', () => {
    expect(randomGuid()).not.toBe(randomGuid())
    expect(randomGuid()).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab]/)
    expect(namedGuid('a')).toBe(namedGuid('a'))
    expect(namedGuid('a')).not.toBe(namedGuid('b'))
  })
})

describe('a bitmap', () => {
  randomTest('finds the end of runs that are long, wherever its bytes lie in others', (random) => {
    const size = 40_000
    const shift = random.below(8)
    const bitmap = new Bitmap(new Uint8Array(size / 8 + shift).subarray(shift), size)
    const naive = new Array<boolean>(size).fill(false)
    for (let i = 0; i < 40; i++) {
      const start = random.below(size)
      const end = Math.min(size, start + random.pick([1, 9, 33, 2000, 9000]))
      const set = random.chance(0.5)
      bitmap.fill(start, end, set)
      naive.fill(set, start, end)
    }
    for (let start = 0; start < size; ) {
      const different = naive.indexOf(!naive[start], start)
      const wanted = different < 0 ? size : different
      expect([start, bitmap.runEnd(start, size)]).toEqual([start, wanted])
      const earlier = start + 1 + random.below(wanted - start)
      expect([start, bitmap.runEnd(start, earlier)]).toEqual([start, earlier])
      start = wanted
    }
  })

  test('agrees with an array of booleans', () => {
    const change = fc.record({ start: fc.nat(300), length: fc.nat(90), set: fc.boolean() })
    fc.assert(
      fc.property(fc.array(change, { maxLength: 12 }), (changes) => {
        const bitmap = Bitmap.empty(333)
        const naive = new Array<boolean>(333).fill(false)
        for (const { start, length, set } of changes) {
          const end = Math.min(333, start + length)
          bitmap.fill(start, end, set)
          naive.fill(set, start, end)
        }
        const unfolded = [...bitmap.runs()].flatMap(({ length, set }) => new Array<boolean>(length).fill(set))
        expect(unfolded).toEqual(naive)
        expect(bitmap.count()).toBe(naive.filter(Boolean).length)
        expect(naive.every((set, bit) => bitmap.has(bit) === set)).toBe(true)
      }),
    )
  })

  test('gives runs as long as they are', () => {
    const bitmap = Bitmap.empty(64)
    bitmap.fill(10, 50)
    expect([...bitmap.runs()]).toEqual([
      { start: 0, length: 10, set: false },
      { start: 10, length: 40, set: true },
      { start: 50, length: 14, set: false },
    ])
  })
})

describe('numbers', () => {
  test('round to multiples, exactly up to 2^53', () => {
    expect(roundUp(2 ** 52 + 1, 512)).toBe(2 ** 52 + 512)
    expect(roundDown(2 ** 52 + 511, 512)).toBe(2 ** 52)
    expect(roundUp(1024, 512)).toBe(1024)
  })

  test('join from two halves', () => {
    expect(join64(1, 2)).toBe(4294967298)
    expect(join64(0x80000000, 0)).toBeGreaterThan(Number.MAX_SAFE_INTEGER)
  })

  test('are powers of two or not', () => {
    expect([1, 2, 512, 2 ** 40].every(isPowerOfTwo)).toBe(true)
    expect([0, 3, -2, 1.5, Number.NaN, Number.POSITIVE_INFINITY].some(isPowerOfTwo)).toBe(false)
  })
})

describe('sizes', () => {
  test.each([
    ['4096', 4096],
    ['10G', 10 * 2 ** 30],
    ['1.5M', 1572864],
    ['64T', 64 * 2 ** 40],
    ['3 KiB', 3072],
    ['2mb', 2097152],
  ])('%s is %i bytes', (text, bytes) => expect(parseSize(text)).toBe(bytes))

  test.each(['', 'G', '-1', '1.0000001K', '9E99', '10X', '0x10', '16P0'])('%j is no size', (text) => {
    expect(parseSize(text)).toBeUndefined()
  })

  test('are told in the unit that fits', () => {
    expect([0, 512, 1536, 2 ** 30, 70368744177664].map(formatSize)).toEqual([
      '0 B',
      '512 B',
      '1.5 KiB',
      '1 GiB',
      '64 TiB',
    ])
  })
})
