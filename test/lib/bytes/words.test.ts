import { expect, test } from 'vitest'
import { littleEndian, littleEndianWords } from '../../../lib/bytes/words.ts'

test('numbers are read from little-endian bytes, wherever in their memory they lie', () => {
  const memory = new Uint8Array(16)
  const bytes = memory.subarray(4, 12)
  bytes.set([0x78, 0x56, 0x34, 0x12, 0xef, 0xcd, 0xab, 0x89])
  expect([...littleEndianWords(bytes)]).toEqual([0x12345678, 0x89abcdef])
  expect(littleEndianWords(bytes.subarray(0, 0))).toHaveLength(0)
})

test('what is changed among the numbers is changed in the bytes', () => {
  const bytes = new Uint8Array(8)
  const words = littleEndianWords(bytes)
  words[1] = 0x01020304
  expect([...littleEndian(bytes)]).toEqual([0, 0, 0, 0, 4, 3, 2, 1])
})
