import type { ByteStore } from '../../lib/io/store.ts'
import type { Random } from '../support/random.ts'
import { type Anatomy, type Field, Numbers, type Part } from './anatomy.ts'
import { bytesOf, type Edit, type Sum } from './edits.ts'

const BLOCK = 512
/** Members that are looked at. */
const MOST = 40
/** Bytes of a member's text in which values are looked for. */
const LOOKED_AT = 16 << 10

/** Texts in a header, by where they stand, and how long they may be. */
const TEXTS = {
  name: { at: 0, length: 100 },
  size: { at: 124, length: 12 },
  checksum: { at: 148, length: 8 },
  type: { at: 156, length: 1 },
  magic: { at: 257, length: 8 },
  prefix: { at: 345, length: 155 },
} as const

const NAMES = [
  'disk.raw',
  'machine.ovf',
  'machine.mf',
  'machine.cert',
  '../../etc/passwd',
  '/dev/sda',
  'a/./b',
  '',
  'x'.repeat(100),
]
const SIZES = [
  '0',
  '1',
  '777',
  '1000',
  '77777777777',
  '00000000000',
  '-1',
  '8',
  ' 17',
  '1e9',
  '\x80\0\0\0\0\0\0\0\0\0\x10\0',
  '\xff'.repeat(12),
]
const TYPES = ['0', '\0', '1', '2', '5', '7', 'D', 'K', 'L', 'S', 'V', 'g', 'x', 'z']
/** What may stand between quotes, or behind an equals sign. */
const VALUES = [
  '0',
  '1',
  '-1',
  '99999999999999999999',
  'gzip',
  'file0',
  'file1',
  'disk.raw',
  '../x',
  'http://x/y',
  '%',
  '%2e%2e/x',
  '&amp;',
  '&x;',
  'byte * 2^99',
  'byte * 2^30',
  'SHA512',
  '<',
]

/** Walks an appliance, an archive of texts and disks, as far as it makes sense. It believes everything. */
export function ovaAnatomy(store: ByteStore): Anatomy {
  const numbers = new Numbers(store, 'big')
  const fields: Field[] = []
  const parts: Part[] = []
  const sums: Sum[] = []
  const headers: number[] = []
  const values: Part[] = []
  for (let at = 0; at + BLOCK <= numbers.size && headers.length < MOST; ) {
    const header = Buffer.from(bytesOf(store, at, BLOCK))
    if (header[0] === 0) break
    headers.push(at)
    sums.push({ at, length: BLOCK, sumAt: at + TEXTS.checksum.at, kind: 'tar' })
    parts.push({ at, length: BLOCK }, ...Object.values(TEXTS).map((text) => ({ ...text, at: at + text.at })))
    for (const within of [0, 124, 135, 156, 257, 263, 345]) fields.push({ at: at + within, width: 1, role: 'number' })
    const length = Number.parseInt(header.toString('latin1', 124, 135), 8) || 0
    const content = Math.min(length, numbers.size - at - BLOCK)
    if (content > 0) {
      parts.push({ at: at + BLOCK, length: content })
      values.push(...valuesIn(store, at + BLOCK, Math.min(content, LOOKED_AT)))
    }
    at += BLOCK + Math.ceil(length / BLOCK) * BLOCK
  }
  return { order: 'big', unit: BLOCK, fields, parts: [...parts, ...values.slice(0, 200)], sums, special }

  function special(random: Random): Edit[] {
    const value = random.pick(values)
    if (value && random.chance(0.5))
      return [put(value.at, random.pick(VALUES).slice(0, value.length).padEnd(value.length))]
    const at = random.pick(headers) ?? 0
    const kind = random.below(5)
    if (kind === 0) return [put(at + TEXTS.size.at, random.pick(SIZES).padEnd(12, '\0'))]
    if (kind === 1) return [put(at + TEXTS.type.at, random.pick(TYPES))]
    if (kind === 2) return [put(at + TEXTS.name.at, random.pick(NAMES).padEnd(100, '\0'))]
    const from = random.pick(headers) ?? 0
    if (kind === 3) return [{ do: 'copy', from, length: BLOCK * (1 + random.below(4)), at }]
    return [{ do: 'copy', from: from + TEXTS.name.at, length: TEXTS.name.length, at }]
  }
}

/** Texts between quotes or tags, and behind equals signs: of a descriptor, a manifest, or a pax header. */
function valuesIn(store: ByteStore, at: number, length: number): Part[] {
  const text = Buffer.from(bytesOf(store, at, length)).toString('latin1')
  return [...text.matchAll(/(?<==")[^"]+|(?<=>)[^<>\s][^<>]*|(?<==)[^"\s][^\n]*/g)].map(({ index, 0: value }) => {
    return { at: at + index, length: value.length }
  })
}

function put(at: number, text: string): Edit {
  return { do: 'put', at, hex: Buffer.from(text, 'latin1').toString('hex') }
}
