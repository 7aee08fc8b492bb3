import type { ByteStore } from '../../lib/io/store.ts'
import type { Random } from '../support/random.ts'
import { type Anatomy, type Field, Numbers, type Part, sampled, setField } from './anatomy.ts'
import type { Edit, Sum } from './edits.ts'
import { markupIn } from './markup-anatomy.ts'

const SECTOR = 512
const BAT = 64

/** Walks an expanding image of Parallels as far as it makes sense. It knows the format by itself and believes everything. */
export function parallelsAnatomy(store: ByteStore, random: Random): Anatomy {
  const numbers = new Numbers(store, 'little')
  const fields: Field[] = []
  const parts: Part[] = []
  const entries: number[] = []
  const field = (at: number, width: Field['width'], role: Field['role'] = 'number'): void => {
    if (at + width <= numbers.size) fields.push({ at, width, role })
  }
  const part = (at: number, length: number): void => {
    const inside = Math.min(length, numbers.size - at)
    if (at >= 0 && inside > 0) parts.push({ at, length: inside })
  }
  const clusterSize = Math.min(numbers.u32(28), 2 ** 20) * SECTOR || SECTOR
  const unit = numbers.u32(12) === 0x74784563 ? clusterSize : SECTOR
  part(0, BAT)
  for (const at of [16, 20, 24, 28, 32, 44, 48, 52]) field(at, 4)
  field(36, 8)
  field(56, 8)
  const count = Math.min(numbers.u32(32), 2 ** 20)
  part(BAT, count * 4)
  for (const index of sampled(count, random, 30)) {
    const at = BAT + index * 4
    field(at, 4)
    entries.push(at)
    const place = numbers.u32(at) * unit
    if (place > 0) part(place, Math.min(clusterSize, 4096))
  }
  const extension = numbers.u64(56) * SECTOR
  const sums: Sum[] = []
  // A checksum over a huge cluster would be all that there is time for.
  if (extension > 0 && clusterSize <= 1 << 20 && extension + clusterSize <= numbers.size) {
    part(extension, 256)
    for (let at = extension; at < extension + 104; at += 8) field(at, 8)
    for (const within of [40, 44, 72, 76]) field(extension + within, 4)
    sums.push({ at: extension + 24, length: clusterSize - 24, sumAt: extension + 8, kind: 'md5' })
  }
  return { order: 'little', unit, fields, parts, sums, special: (by) => special(by, { entries, numbers, count }) }
}

/** Entries that share a place, lie beside one, or lead to the header, the BAT, the extension, or nowhere. */
function special(
  random: Random,
  { entries, numbers, count }: { entries: readonly number[]; numbers: Numbers; count: number },
): Edit[] {
  if (entries.length === 0) return []
  const [at, other] = [random.pick(entries), numbers.u32(random.pick(entries))]
  const end = Math.floor(numbers.size / SECTOR)
  const value = random.pick([
    other,
    other,
    other + 1,
    other - 1,
    1,
    0,
    end,
    end - 1,
    count,
    numbers.u32(48),
    numbers.u32(56),
  ])
  return [setField({ at, width: 4, role: 'number' }, BigInt(Math.max(0, value)), 'little')]
}

/** What a descriptor cannot say, or should not. */
const ODD = ['0', '1', '-1', '99999999999999', 'Plain', '&amp;', '&x;', '../x', '<x/>', '{}', 'DiskDescriptor.xml']

/** A descriptor is text: what stands between its tags is exchanged, doubled, or taken away. */
export function descriptorAnatomy(store: ByteStore): Anatomy {
  const { parts, special: damage } = markupIn(store, ODD)
  return { order: 'little', unit: 1, fields: [], parts, sums: [], special: damage }
}
