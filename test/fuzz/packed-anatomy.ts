import zlib from 'node:zlib'
import type { ByteStore } from '../../lib/io/store.ts'
import type { Random } from '../support/random.ts'
import { type Anatomy, type Field, Numbers, type Part, sampled } from './anatomy.ts'
import type { Edit, Sum } from './edits.ts'

/** Walks packed files as far as they make sense. It knows the formats by itself and believes everything. */

/** Members, blocks or frames that are looked at. */
const MOST = 24

class Found {
  readonly numbers: Numbers
  readonly fields: Field[] = []
  readonly parts: Part[] = []
  readonly sums: Sum[] = []

  constructor(store: ByteStore, order: 'big' | 'little') {
    this.numbers = new Numbers(store, order)
  }

  u8(at: number): number {
    return Number(this.numbers.wide(at, 1))
  }

  field(at: number, width: Field['width']): void {
    if (at >= 0 && at + width <= this.numbers.size) this.fields.push({ at, width, role: 'number' })
  }

  /** Bytes of which each means something. */
  bytes(at: number, length: number): void {
    for (let i = 0; i < length; i++) this.field(at + i, 1)
  }

  part(at: number, length: number): void {
    const inside = Math.min(length, this.numbers.size - at)
    if (at >= 0 && inside > 0) this.parts.push({ at, length: inside })
  }

  sum(at: number, length: number, sumAt: number): void {
    if (at >= 0 && length > 0) this.sums.push({ at, length, sumAt, kind: 'crc32' })
  }

  anatomy(order: 'big' | 'little', unit: number, special: Anatomy['special']): Anatomy {
    return { order, unit, fields: this.fields, parts: this.parts, sums: this.sums, special }
  }
}

/** Members: of BGZF each tells its length, another goes to the end of the file. [RFC 1952] */
export function gzipAnatomy(store: ByteStore): Anatomy {
  const found = new Found(store, 'little')
  const { size } = found.numbers
  const members: number[] = []
  for (let at = 0; at < size && members.length < MOST && found.numbers.u16(at) === 0x8b1f; ) {
    members.push(at)
    const isBlock = (found.u8(at + 3) & 4) !== 0 && found.numbers.u16(at + 12) === 0x4342
    const end = isBlock ? at + found.numbers.u16(at + 16) + 1 : size
    found.bytes(at, 4)
    for (const within of isBlock ? [10, 12, 14, 16] : [10]) found.field(at + within, 2)
    for (const within of [8, 4]) found.field(end - within, 4)
    found.part(at, 18)
    found.part(at + 18, end - at - 26)
    found.part(at, end - at)
    at = end
  }
  return found.anatomy('little', 1, (by) => [
    { do: 'put', at: by.pick(members) ?? 0, hex: Buffer.from(oddMember(by)).toString('hex') },
  ])
}

/** Members that hold nothing, or very much, or have all that a header can have. */
function oddMember(random: Random): Uint8Array {
  const kind = random.below(4)
  if (kind === 0) return zlib.gzipSync(new Uint8Array(0))
  if (kind === 1) return zlib.gzipSync(new Uint8Array(1 << random.below(21)))
  if (kind === 2) return Buffer.from([0x1f, 0x8b, 8, 0x1f, 0, 0, 0, 0, 0, 3, 2, 0, 1, 1, 0x61, 0, 0x62, 0, 0, 0])
  return zlib.gzipSync(random.bytes(random.below(300)), { level: 0 })
}

/** A header, then bits: only the first block begins at a byte, and the last thing ends near one. */
export function bzip2Anatomy(store: ByteStore, random: Random): Anatomy {
  const found = new Found(store, 'big')
  const { size } = found.numbers
  found.bytes(3, 1)
  found.bytes(4, 6)
  found.field(10, 4)
  // Randomised or not, the row that is the content, the bytes that occur, the choice of codes, and the codes.
  found.bytes(14, 90)
  found.bytes(size - 11, 11)
  found.part(0, 18)
  found.part(14, 90)
  found.part(size - 11, 11)
  for (const piece of sampled(Math.floor(size / 64), random)) found.part(piece * 64, 64)
  const streams = headsOf(store, 'BZh')
  for (const at of streams) {
    found.part(at, size - at)
    found.bytes(at, 18)
  }
  return found.anatomy('big', 1, (by): Edit[] => [
    { do: 'copy', from: by.pick(streams) ?? 0, length: 4 + by.below(size), at: by.below(size) },
  ])
}

function headsOf(store: ByteStore, word: string): number[] {
  const bytes = Buffer.alloc(Math.min(store.size() as number, 1 << 20))
  void store.read(0, bytes)
  const places: number[] = []
  for (let at = bytes.indexOf(word); at >= 0 && places.length < MOST; at = bytes.indexOf(word, at + 1)) places.push(at)
  return places
}

/** Streams from the end: footer, index, blocks, header; zeros between them. ["The .xz File Format", 2] */
export function xzAnatomy(store: ByteStore, random: Random): Anatomy {
  const found = new Found(store, 'little')
  let end = found.numbers.size
  for (let streams = 0; streams < MOST && end > 0; streams++) {
    for (let words = 0; words < MOST && end > 4 && found.numbers.u32(end - 4) === 0; words++) end -= 4
    const footer = end - 12
    const indexLength = (found.numbers.u32(footer + 4) + 1) * 4
    const index = footer - indexLength
    if (index <= 0) break
    found.part(footer, 12)
    found.field(footer + 4, 4)
    found.bytes(footer, 12)
    found.sum(footer + 4, 6, footer)
    found.part(index, indexLength)
    for (const within of sampled(indexLength - 4, random)) found.bytes(index + within, 1)
    found.sum(index, indexLength - 4, index + indexLength - 4)
    const lengths = [...recordsAt(found, index, indexLength)]
    let at = index - lengths.reduce((total, length) => total + length, 0)
    const header = at - 12
    found.part(header, 12)
    found.bytes(header, 12)
    found.sum(header + 6, 2, header + 8)
    for (const length of lengths.slice(0, MOST)) {
      block(found, at, length)
      at += length
    }
    if (header <= 0) break
    end = header
  }
  return found.anatomy('little', 4, (by) => [
    { do: 'put', at: 4 * by.below(Math.max(1, found.numbers.size / 4)), hex: '00'.repeat(by.pick([4, 8, 12])) },
  ])
}

/** Bytes of each block, with padding, as the index has them. */
function* recordsAt(found: Found, index: number, length: number): Generator<number> {
  let at = index + 1
  const number = (): number => {
    let value = 0
    for (let i = 0; i < 8 && at < index + length; i++) {
      const byte = found.u8(at++)
      value += (byte & 0x7f) * 2 ** (7 * i)
      if (byte < 0x80) break
    }
    return value
  }
  for (let left = Math.min(number(), 1000); left > 0 && at < index + length; left--) {
    yield Math.ceil(number() / 4) * 4
    number()
  }
}

/** A block: its header, and the chunks of LZMA2 in it, each with its kind and lengths. [3.1, 5.3.1] */
function block(found: Found, at: number, length: number): void {
  const header = (found.u8(at) + 1) * 4
  found.part(at, header)
  found.bytes(at, Math.min(header, 32))
  found.sum(at, header - 4, at + header - 4)
  found.part(at + header, length - header)
  for (let chunk = at + header; chunk < at + length; ) {
    const control = found.u8(chunk)
    if (control === 0) break
    const isPacked = control >= 0x80
    const head = isPacked ? 5 + (control >= 0xc0 ? 1 : 0) : 3
    const lengthAt = chunk + (isPacked ? 3 : 1)
    found.bytes(chunk, head)
    // What the range coder begins with decides all that follows.
    found.part(chunk, head + 8)
    chunk += head + found.u8(lengthAt) * 256 + found.u8(lengthAt + 1) + 1
  }
}

/** Frames with their blocks, frames to skip, and at the end perhaps a table of them. [RFC 8878, 3.1] */
export function zstdAnatomy(store: ByteStore): Anatomy {
  const found = new Found(store, 'little')
  const { numbers } = found
  const { size } = numbers
  const frames: number[] = []
  for (let at = 0; at < size && frames.length < MOST; ) {
    frames.push(at)
    found.part(at, 18)
    if ((numbers.u32(at) & 0xfffffff0) >>> 0 === 0x184d2a50) {
      found.field(at, 4)
      found.field(at + 4, 4)
      at += 8 + numbers.u32(at + 4)
    } else at = frame(found, at)
  }
  if (numbers.u32(size - 4) === 0x8f92eab1) seekTable(found)
  return found.anatomy('little', 1, (by): Edit[] => {
    const [from, to] = [by.pick(frames) ?? 0, by.pick(frames) ?? 0]
    return [{ do: 'copy', from, length: 1 + by.below(size - from), at: to }]
  })
}

/** @returns where it ends */
function frame(found: Found, at: number): number {
  const descriptor = found.u8(at + 4)
  const isSingle = (descriptor & 0x20) !== 0
  const more = ([0, 1, 2, 4][descriptor & 3] as number) + ([isSingle ? 1 : 0, 2, 4, 8][descriptor >>> 6] as number)
  const header = 5 + (isSingle ? 0 : 1) + more
  found.bytes(at, header)
  let next = at + header
  for (let blocks = 0; blocks < MOST && next < found.numbers.size; blocks++) {
    const head = found.u8(next) | (found.numbers.u16(next + 1) << 8)
    found.bytes(next, 3)
    // The kinds of literals and of tables, and the first of their bits.
    found.bytes(next + 3, 12)
    found.part(next, 16)
    next += 3 + (((head >>> 1) & 3) === 1 ? 1 : head >>> 3)
    if (head & 1) break
  }
  return next + (descriptor & 4 ? 4 : 0)
}

function seekTable(found: Found): void {
  const { size } = found.numbers
  const count = Math.min(found.numbers.u32(size - 9), 1000)
  const entry = found.u8(size - 5) & 0x80 ? 12 : 8
  found.field(size - 9, 4)
  found.bytes(size - 5, 5)
  found.part(size - 9 - count * entry, count * entry + 9)
  for (let i = 0; i < Math.min(count, MOST); i++) {
    for (const within of [0, 4]) found.field(size - 9 - (i + 1) * entry + within, 4)
  }
}
