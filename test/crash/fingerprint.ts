import { PAGE, type PagedFile } from './paged-file.ts'

/**
 * Numbers that tell states of a medium apart, without keeping any: 52 bits each. Of 10^6 states two different ones count
 * as one with a chance of one in ten thousand.
 */
const MODULUS = 2 ** 52

/** What a page's content and place decide; 0 for zeros, so that a hole and zeros are the same. */
export function pageHash(place: number, page: Uint8Array | undefined): number {
  if (page === undefined) return 0
  const words = new Uint32Array(page.buffer, page.byteOffset, PAGE / 4)
  let [a, b] = [0, 0]
  for (let i = 0; i < words.length; i++) {
    const word = words[i] as number
    if (word === 0) continue
    a = Math.imul(a ^ Math.imul(word ^ i, 0x9e3779b1), 0x85ebca6b)
    a ^= a >>> 15
    b = Math.imul(b + Math.imul(word + i * 0x27d4eb2f, 0xc2b2ae35), 0x165667b1)
    b ^= b >>> 13
  }
  if (a === 0 && b === 0) return 0
  a = Math.imul(a ^ place, 0x2c1b3c6d)
  b = Math.imul(b + place, 0x297a2d39)
  return joined(a ^ (a >>> 16), b ^ (b >>> 12))
}

/** What the size and the content of a file decide. What it was forked from must not have changed since. */
export function fileHash(file: PagedFile): number {
  return summed(hashOfPages(file) + file.size)
}

function hashOfPages(file: PagedFile): number {
  if (file.hash !== undefined) return file.hash
  const { below } = file
  let hash = below ? hashOfPages(below) : 0
  for (const number of file.changed) {
    hash = summed(hash + pageHash(number, file.page(number)) - pageHash(number, below?.page(number)))
  }
  file.hash = hash
  return hash
}

/** One number out of a number and a further one, 0 or more. */
export function mixed(hash: number, further: number): number {
  let a = Math.imul(((hash % 2 ** 32) | 0) ^ Math.imul((further % 2 ** 32) | 0, 0x9e3779b1), 0x85ebca6b)
  let b = Math.imul(
    ((hash / 2 ** 20) | 0) + Math.imul(((further / 2 ** 20) | 0) ^ (further | 0), 0xc2b2ae35),
    0x165667b1,
  )
  a ^= a >>> 15
  b ^= b >>> 13
  return joined(Math.imul(a ^ b, 0x2c1b3c6d) ^ (b >>> 11), Math.imul(b + a, 0x297a2d39) ^ (a >>> 9))
}

const knownTexts = new Map<string, number>()

/** The number of a text, of which there are few. */
export function textHash(text: string): number {
  let hash = knownTexts.get(text)
  if (hash !== undefined) return hash
  hash = text.length
  for (let i = 0; i < text.length; i++) hash = mixed(hash, text.charCodeAt(i))
  knownTexts.set(text, hash)
  return hash
}

/** The sum of numbers, of which some may have been taken away again. */
export function summed(sum: number): number {
  return ((sum % MODULUS) + MODULUS) % MODULUS
}

function joined(a: number, b: number): number {
  return (a >>> 0) * 2 ** 20 + (b & 0xfffff)
}
