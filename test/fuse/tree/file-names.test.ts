import { expect, test } from 'vitest'
import { fileNameOf, freeName } from '../../../fuse/tree/file-names.ts'

test('a file name has no part of a path in it, nothing that moves a cursor, and not too many bytes', () => {
  expect(fileNameOf('1-before / after', '.raw')).toBe('1-before _ after.raw')
  expect(fileNameOf('../../etc/passwd\0\n\x1b[2J', '.raw')).toBe('.._.._etc_passwd___[2J.raw')
  const long = fileNameOf(`7-${'ü'.repeat(300)}`, '.raw')
  expect(Buffer.byteLength(long)).toBeLessThanOrEqual(255)
  expect(long).toMatch(/^7-ü+\.raw$/)
  // No half of a character at the end.
  expect(fileNameOf('😀'.repeat(100), '.raw')).toBe(`${'😀'.repeat(62)}.raw`)
})

test('a name that is taken gets a number, before its ending', () => {
  const taken = new Set(['a.raw', 'a-2.raw', 'b', '.hidden'])
  const free = (name: string): string => freeName(name, (other) => taken.has(other))
  expect(free('c.raw')).toBe('c.raw')
  expect(free('a.raw')).toBe('a-3.raw')
  expect(free('b')).toBe('b-2')
  expect(free('.hidden')).toBe('.hidden-2')
  const longest = `${'x'.repeat(251)}.raw`
  taken.add(longest)
  expect(free(longest)).toMatch(/^x{235}-2\.raw$/)
})
