import type { ByteStore } from '../../lib/io/store.ts'
import type { Random } from '../support/random.ts'
import { type Anatomy, type Field, Numbers, type Part, sampled, setField } from './anatomy.ts'
import type { Edit } from './edits.ts'
import { markupIn } from './markup-anatomy.ts'

/** Walks Apple's images as far as they make sense. It knows the formats by itself and believes everything. */

const SECTOR = 512
/** Bytes of a file in which tables are looked for. */
const LOOKED_AT = 1 << 20
/** What a property list cannot say, or should not. */
const ODD_VALUES = [
  '0',
  '1',
  '511',
  '512',
  '513',
  '8192',
  '-1',
  '1e9',
  '99999999999999999999',
  '9007199254740992',
  '0x10',
  '',
  '&lt;',
  '&x;',
  '<dict/>',
  '<key>size</key>',
  '<integer>512</integer>',
  '<!-- -->',
]
const RUN_KINDS = [0, 1, 2, 0x7ffffffe, 0x80000004, 0x80000005, 0x80000006, 0x80000007, 0x80000008, 0xffffffff]

class Found {
  readonly numbers: Numbers
  readonly fields: Field[] = []
  readonly parts: Part[] = []

  constructor(store: ByteStore) {
    this.numbers = new Numbers(store, 'big')
  }

  field(at: number, width: Field['width'], role: Field['role'] = 'number', flags?: bigint): void {
    if (at >= 0 && at + width <= this.numbers.size) this.fields.push({ at, width, role, ...(flags ? { flags } : {}) })
  }

  part(at: number, length: number): void {
    const inside = Math.min(length, this.numbers.size - at)
    if (at >= 0 && inside > 0) this.parts.push({ at, length: inside })
  }

  anatomy(unit: number, special: (random: Random) => Edit[] = () => []): Anatomy {
    return { order: 'big', unit, fields: this.fields, parts: this.parts, sums: [], special }
  }
}

/** UDIF: the trailer, and tables that stand in a resource fork, not in XML. */
export function dmgAnatomy(store: ByteStore, random: Random): Anatomy {
  const found = new Found(store)
  const { numbers } = found
  const trailer = numbers.size - SECTOR
  found.part(trailer, SECTOR)
  for (const at of [24, 40, 216]) found.field(trailer + at, 8, 'place')
  for (const at of [16, 32, 48, 224, 492]) found.field(trailer + at, 8)
  for (const at of [4, 8, 60, 80, 88, 352, 360]) found.field(trailer + at, 4)
  const runs: number[] = []
  const fork = numbers.u64(trailer + 40)
  if (fork > 0) {
    found.part(fork, 256)
    for (let at = 0; at < 16; at += 4) found.field(fork + at, 4)
    const map = fork + numbers.u32(fork + 4)
    found.part(map, 64)
    for (const at of [24, 28, 34, 36]) found.field(map + at, 2)
    for (const at of [42, 54]) found.field(map + at, 4)
    for (const table of tablesIn(store, numbers.size)) {
      found.part(table, 204)
      for (const at of [8, 16, 24]) found.field(table + at, 8)
      for (const at of [0, 64, 72, 200]) found.field(table + at, 4)
      for (const i of sampled(Math.min(numbers.u32(table + 200), 1000), random)) {
        const run = table + 204 + 40 * i
        runs.push(run)
        found.part(run, 40)
        found.part(numbers.u64(run + 24), Math.min(numbers.u64(run + 32), 1 << 16))
        found.field(run, 4)
        found.field(run + 24, 8, 'place')
        for (const at of [8, 16, 32]) found.field(run + at, 8)
      }
    }
  }
  const list = { at: numbers.u64(trailer + 216), length: numbers.u64(trailer + 224) }
  const markup = fork > 0 ? undefined : markupIn(store, ODD_VALUES, list)
  for (const part of markup?.parts ?? []) found.part(part.at, part.length)
  return found.anatomy(SECTOR, (by) => {
    if (markup) return by.chance(0.5) ? markup.special(by) : listedRun(store, list, by)
    if (runs.length === 0) return []
    const field: Field = { at: by.pick(runs), width: 4, role: 'number' }
    return [setField(field, BigInt(by.pick(RUN_KINDS)), 'big')]
  })
}

/** A field of a table that stands in XML as base64, which keeps its length. */
function listedRun(store: ByteStore, { at, length }: Part, random: Random): Edit[] {
  const inside = Math.min(length, LOOKED_AT, (store.size() as number) - at)
  if (inside <= 0) return []
  const bytes = Buffer.alloc(inside)
  void store.read(at, bytes)
  const tables = [...bytes.toString('latin1').matchAll(/<data>\s*([0-9A-Za-z+/=]{200,})\s*<\/data>/g)]
  const picked = random.pick(tables)
  if (!picked) return []
  const [all, text] = picked as unknown as readonly [string, string]
  const table = Buffer.from(text, 'base64')
  const run = 204 + 40 * random.below(Math.max(1, Math.floor((table.length - 204) / 40)))
  const other = 204 + 40 * random.below(Math.max(1, Math.floor((table.length - 204) / 40)))
  const [field, width] = random.pick([
    [8, 8],
    [16, 8],
    [24, 8],
    [64, 4],
    [72, 4],
    [200, 4],
    [run, 4],
    [run + 8, 8],
    [run + 16, 8],
    [run + 24, 8],
    [run + 32, 8],
  ] as const)
  if (field + width > table.length || other + 40 > table.length) return []
  if (width === 4) table.writeUInt32BE(random.pick([...RUN_KINDS, table.length, 1 << 20]) >>> 0, field)
  else {
    const now = table.readBigUInt64BE(field)
    const values = [0n, 1n, now + 1n, now - 1n, now * 2n, table.readBigUInt64BE(other + 8), 1n << 44n, 1n << 53n, -1n]
    table.writeBigUInt64BE(BigInt.asUintN(64, random.pick(values)), field)
  }
  const place = at + picked.index + all.indexOf(text)
  return [{ do: 'put', at: place, hex: Buffer.from(table.toString('base64'), 'latin1').toString('hex') }]
}

function tablesIn(store: ByteStore, size: number): number[] {
  const bytes = Buffer.alloc(Math.min(size, LOOKED_AT))
  void store.read(size - bytes.length, bytes)
  const tables: number[] = []
  for (let at = bytes.indexOf('mish'); at >= 0 && tables.length < 8; at = bytes.indexOf('mish', at + 1)) {
    tables.push(size - bytes.length + at)
  }
  return tables
}

export function sparseImageAnatomy(store: ByteStore, random: Random): Anatomy {
  const found = new Found(store)
  const { numbers } = found
  const band = Math.max(SECTOR, numbers.u32(8) * SECTOR)
  found.field(20, 8, 'place')
  for (const at of [4, 8, 16]) found.field(at, 4)
  found.field(28, 8)
  let at = 0
  for (let nodes = 0; nodes < 4; nodes++) {
    const [tableAt, rooms] = nodes === 0 ? [64, 1008] : [at + 56, 1010]
    found.part(at, 4096)
    if (nodes > 0) {
      found.field(at, 4)
      found.field(at + 12, 8, 'place')
    }
    for (const room of sampled(rooms, random)) {
      found.field(tableAt + 4 * room, 4)
      found.part(at + 4096 + room * band, 4096)
    }
    const next = numbers.u64(at + (nodes === 0 ? 20 : 12))
    if (next === 0 || next >= numbers.size) break
    at = next
  }
  return found.anatomy(4096)
}

export function asifAnatomy(store: ByteStore, random: Random): Anatomy {
  const found = new Found(store)
  const { numbers } = found
  const chunk = Math.max(4096, numbers.u32(64))
  found.part(0, 112)
  for (const at of [16, 24]) found.field(at, 8, 'place')
  for (const at of [48, 56, 72]) found.field(at, 8)
  for (const at of [0, 4, 64]) found.field(at, 4)
  for (const at of [68, 70]) found.field(at, 2)
  for (const directory of [numbers.u64(16), numbers.u64(24)]) {
    found.part(directory, 64)
    found.field(directory, 8)
    for (let table = 0; table < 3; table++) {
      found.field(directory + 8 + 8 * table, 8)
      const tableAt = numbers.u64(directory + 8 + 8 * table) * chunk
      if (tableAt === 0 || tableAt >= numbers.size) continue
      found.part(tableAt, 4096)
      for (const entry of sampled(2100, random)) found.field(tableAt + 8 * entry, 8, 'entry', 0xff80_0000_0000_0000n)
    }
  }
  return found.anatomy(chunk)
}

/** A property list: what can be wrong stands in its text. */
export function bundleAnatomy(store: ByteStore): Anatomy {
  const found = new Found(store)
  const markup = markupIn(store, ODD_VALUES)
  for (const { at, length } of markup.parts) found.part(at, length)
  return found.anatomy(8, (random) => markup.special(random))
}

/** A band is plain bytes: only how long it is can be wrong. */
export function bandAnatomy(store: ByteStore): Anatomy {
  const found = new Found(store)
  found.part(0, found.numbers.size)
  return found.anatomy(SECTOR, (random) => [
    { do: 'resize', size: random.pick([0, 1, 511, 512, 8191, 8192, 8193, 1 << 20, 2 ** 41]) },
  ])
}

/** What a bundle has where an encrypted one has its keys. */
export function tokenAnatomy(store: ByteStore): Anatomy {
  const found = new Found(store)
  found.part(0, found.numbers.size)
  return found.anatomy(1, (random) => [
    {
      do: 'put',
      at: 0,
      hex: Buffer.from('encrcdsa')
        .subarray(0, random.pick([7, 8]))
        .toString('hex'),
    },
    { do: 'resize', size: random.pick([0, 7, 8, 9, 2 ** 40]) },
  ])
}
