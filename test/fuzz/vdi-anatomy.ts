import type { ByteStore } from '../../lib/io/store.ts'
import type { Random } from '../support/random.ts'
import { type Anatomy, type Field, Numbers, type Part, sampled, setField } from './anatomy.ts'
import type { Edit } from './edits.ts'

const SECTOR = 512
/** Fields of the header by where they stand: numbers of 32 bits, and one of 64. [VDIHEADER1PLUS] */
const NUMBERS = [64, 68, 72, 76, 80, 360, 376, 380, 384, 388, 456, 460, 464, 468]
const PLACES = [340, 344]
const SIZE_AT = 368
const GUIDS = [392, 408, 424, 440]

/** Walks a VDI file as far as it makes sense. It knows the format by itself and believes everything. */
export function vdiAnatomy(store: ByteStore, random: Random): Anatomy {
  const numbers = new Numbers(store, 'little')
  const fields: Field[] = []
  const parts: Part[] = []
  const field = (at: number, width: Field['width'], role: Field['role'] = 'number'): void => {
    if (at + width <= numbers.size) fields.push({ at, width, role })
  }
  const part = (at: number, length: number): void => {
    const inside = Math.min(length, numbers.size - at)
    if (at >= 0 && inside > 0) parts.push({ at, length: inside })
  }
  part(0, SECTOR)
  for (const at of NUMBERS) field(at, 4)
  for (const at of PLACES) field(at, 4, 'place')
  field(SIZE_AT, 8)
  for (const at of GUIDS) field(at, 8)
  const [mapAt, dataAt, count] = [numbers.u32(340), numbers.u32(344), numbers.u32(384)]
  part(mapAt, Math.min(count * 4, 64 << 10))
  const entries: number[] = []
  for (const index of sampled(count, random, 40)) {
    const at = mapAt + index * 4
    field(at, 4)
    if (at + 4 <= numbers.size) entries.push(at)
  }
  const stride = Math.max(SECTOR, numbers.u32(376) + numbers.u32(380))
  for (const number of sampled(numbers.u32(388), random, 12)) part(dataAt + number * stride, Math.min(stride, 64 << 10))
  return { order: 'little', unit: SECTOR, fields, parts, sums: [], special: (by) => special(entries, numbers, by) }
}

/** Entries that share a place, or name one just beside what there is; counts and places that do not fit to each other. */
function special(entries: readonly number[], numbers: Numbers, random: Random): Edit[] {
  const put = (at: number, value: number): Edit => setField({ at, width: 4, role: 'number' }, BigInt(value), 'little')
  const kind = random.below(5)
  if (kind < 3 && entries.length > 1) {
    const last = numbers.u32(388)
    const other = numbers.u32(random.pick(entries))
    return [
      put(random.pick(entries), random.pick([other, last, last - 1, last + 1, 0, 0xfffffffd, 0xfffffffe, 0xffffffff])),
    ]
  }
  if (kind === 3)
    return [
      put(340, random.pick([0, 72, 456, 512, 516, 1024, numbers.u32(344) - 4])),
      put(384, random.pick([0, 1, 127, 128, 129, 4096])),
    ]
  return [
    put(76, random.pick([1, 2, 3, 4])),
    put(388, random.pick([0, 1, numbers.u32(384), numbers.u32(384) + 1, 0xffffffff])),
  ]
}
