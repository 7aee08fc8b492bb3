import type { ByteStore } from '../../lib/io/store.ts'
import type { Random } from '../support/random.ts'
import { type Anatomy, type Field, Numbers, type Part, setField } from './anatomy.ts'
import type { Edit, Sum } from './edits.ts'

const SECTOR = 512
/** Where file systems keep what they are known by, from the start of their partition. */
const SUPERBLOCKS = [0, 3, 32, 54, 510, 1024, 1080, 4086, 32769, 65536 + 64]
/** Bytes that file systems, containers and images are known by. */
const MAGICS: readonly string[] = [
  '53ef',
  '58465342',
  '5f42485266535f4d',
  '4e54465320202020',
  '4558464154202020',
  '46415433322020',
  '4344303031',
  '1020f5f2',
  '68737173',
  '4c554b53babe',
  '4c4142454c4f4e45',
  '5377617053504143453200',
  '514649fb',
  '7668647866696c65',
  '4b444d56',
  '636f6e6563746978',
  '7f10dabe',
  '51454400',
  '2321',
  '504b0304',
]

/** A disk as its guest left it: a partition table, and what lies at the beginning of partitions. */
export function diskAnatomy(store: ByteStore): Anatomy {
  const numbers = new Numbers(store, 'little')
  const fields: Field[] = []
  const parts: Part[] = []
  const sums: Sum[] = []
  const field = (at: number, width: Field['width']): void => {
    if (at + width <= numbers.size) fields.push({ at, width, role: 'number' })
  }
  const part = (at: number, length: number): void => {
    const inside = Math.min(length, numbers.size - at)
    if (at >= 0 && inside > 0) parts.push({ at, length: inside })
  }
  const bootRecord = (at: number, depth: number, first = at): void => {
    part(at, SECTOR)
    field(at + 510, 2)
    for (let slot = 0; slot < 4; slot++) {
      const entry = at + 446 + slot * 16
      for (const within of [0, 4]) field(entry + within, 1)
      for (const within of [8, 12]) field(entry + within, 4)
      const start = (numbers.u32(entry + 8) * SECTOR) % (numbers.size + 1)
      if ([5, 15, 0x85].includes(Number(numbers.wide(entry + 4, 1))) && depth < 6)
        bootRecord(start + (depth ? first : 0), depth + 1, depth ? first : start)
      else if (start > 0) for (const within of SUPERBLOCKS) part(start + within, 64)
    }
  }
  bootRecord(0, 0)
  for (const size of [SECTOR, 4096]) {
    for (const at of [size, numbers.size - size]) gpt(at, size)
  }
  for (const at of SUPERBLOCKS) part(at, 256)
  return { order: 'little', unit: SECTOR, fields, parts, sums, special: (by) => special(by) }

  function gpt(at: number, sector: number): void {
    if (numbers.wide(at, 8) !== 0x5452415020494645n) return
    part(at, 92)
    for (const [within, width] of [
      [8, 4],
      [12, 4],
      [24, 8],
      [32, 8],
      [40, 8],
      [48, 8],
      [72, 8],
      [80, 4],
      [84, 4],
      [88, 4],
    ] as const) {
      field(at + within, width)
    }
    const [entries, count, size] = [numbers.u64(at + 72) * sector, numbers.u32(at + 80), numbers.u32(at + 84)]
    for (let slot = 0; slot < Math.min(count, 6); slot++) {
      part(entries + slot * size, 128)
      for (const within of [0, 32, 40, 48]) field(entries + slot * size + within, 8)
    }
    if (count * size <= 1 << 17) sums.push({ at: entries, length: count * size, sumAt: at + 88, kind: 'crc32' })
    sums.push({ at, length: Math.min(Math.max(numbers.u32(at + 12), 92), 512), sumAt: at + 16, kind: 'crc32' })
  }

  /** A magic number where somebody may look for it, and numbers behind it. */
  function special(random: Random): Edit[] {
    const start = random.pick([0, 64 * SECTOR, 2048 * SECTOR, random.pick(parts)?.at ?? 0])
    const at = start + random.pick(SUPERBLOCKS)
    return [
      { do: 'put', at, hex: random.pick(MAGICS) },
      setField({ at: at + 8 + random.below(60), width: 4, role: 'number' }, BigInt(random.below(70000)), 'little'),
    ]
  }
}
