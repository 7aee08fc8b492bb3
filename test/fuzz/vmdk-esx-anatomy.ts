import type { ByteStore } from '../../lib/io/store.ts'
import type { Random } from '../support/random.ts'
import { type Anatomy, type Field, Numbers, type Part, sampled, setField } from './anatomy.ts'
import type { Edit } from './edits.ts'

/** Walks the delta disks of ESX as far as they make sense. It knows the formats by itself and believes everything. */

const SECTOR = 512

class Found {
  readonly numbers: Numbers
  readonly fields: Field[] = []
  readonly parts: Part[] = []
  readonly directoryEntries: number[] = []
  readonly tableEntries: number[] = []

  constructor(store: ByteStore) {
    this.numbers = new Numbers(store, 'little')
  }

  field(at: number, width: Field['width']): void {
    if (at >= 0 && at + width <= this.numbers.size) this.fields.push({ at, width, role: 'number' })
  }

  part(at: number, length: number): void {
    const inside = Math.min(length, this.numbers.size - at)
    if (at >= 0 && inside > 0) this.parts.push({ at, length: inside })
  }

  anatomy(unit: number, special: Anatomy['special']): Anatomy {
    return { order: 'little', unit, fields: this.fields, parts: this.parts, sums: [], special }
  }

  set(at: number, width: Field['width'], value: bigint): Edit {
    return setField({ at, width, role: 'number' }, value, 'little')
  }
}

/** A directory, tables of 4096 entries anywhere between the grains, and a header that says where free room begins. */
export function cowdAnatomy(store: ByteStore, random: Random): Anatomy {
  const found = new Found(store)
  const { numbers } = found
  found.part(0, 32)
  found.part(1536, SECTOR)
  for (const at of [4, 8, 12, 16, 20, 24, 28, 1060, 1636, 1648]) found.field(at, 4)
  const grainBytes = Math.min(numbers.u32(16), 1 << 16) * SECTOR
  const directory = numbers.u32(20) * SECTOR
  const count = Math.min(numbers.u32(24), 1 << 16)
  found.part(directory, Math.min(4096, count * 4))
  for (const index of sampled(count, random)) {
    const entry = directory + index * 4
    found.field(entry, 4)
    found.directoryEntries.push(entry)
    const table = numbers.u32(entry) * SECTOR
    if (table === 0 || table >= numbers.size) continue
    found.part(table, 4096 * 4)
    for (const grain of new Set([0, 1, 2, ...sampled(4096, random, 14)])) {
      const at = table + grain * 4
      found.field(at, 4)
      found.tableEntries.push(at)
      const sector = numbers.u32(at)
      if (sector > 0) found.part(sector * SECTOR, grainBytes)
    }
  }
  return found.anatomy(SECTOR, (by) => {
    const end = Math.floor(numbers.size / SECTOR)
    const known = [...found.tableEntries, ...found.directoryEntries].map((at) => numbers.u32(at))
    const place = (known.length > 0 ? by.pick(known) : 0) as number
    const near = Math.max(0, place + by.pick([0, 0, 1, -1, 31, -31, numbers.u32(16)]))
    const value = by.pick([near, near, near, 0, 1, 3, 4, 5, end, end - 1, end + 1, numbers.u32(28), 0xffffffff])
    // Where free room begins decides what is overwritten next.
    if (by.chance(0.25)) return [found.set(28, 4, BigInt(value))]
    const at = by.pick(by.chance(0.3) ? found.directoryEntries : found.tableEntries)
    return at === undefined ? [] : [found.set(at, 4, BigInt(value))]
  })
}

/** Two headers, a directory, tables one behind the other, and grains that are told by their numbers. */
export function seSparseAnatomy(store: ByteStore, random: Random): Anatomy {
  const found = new Found(store)
  const { numbers } = found
  found.part(0, 208)
  for (let at = 0; at < 208; at += 8) found.field(at, 8)
  const second = numbers.u64(80) * SECTOR
  found.part(second, 32)
  for (const within of [0, 8, 16, 24]) found.field(second + within, 8)
  const directory = numbers.u64(128) * SECTOR
  const tables = numbers.u64(144) * SECTOR
  const grains = numbers.u64(192) * SECTOR
  const count = Math.min(Math.ceil(numbers.u64(16) / (8 * 4096)), 4096)
  found.part(directory, count * 8)
  for (const index of sampled(count, random)) {
    const entry = directory + index * 8
    found.field(entry, 8)
    found.directoryEntries.push(entry)
    if (numbers.wide(entry, 8) >> 60n !== 1n) continue
    const table = tables + numbers.u32(entry) * 32768
    found.part(table, 32768)
    for (const grain of sampled(4096, random)) {
      found.field(table + grain * 8, 8)
      found.tableEntries.push(table + grain * 8)
    }
  }
  found.part(grains, 4096)
  return found.anatomy(4096, (by) => {
    const at = by.pick(by.chance(0.2) ? found.directoryEntries : found.tableEntries)
    const other = by.pick(found.tableEntries)
    if (at === undefined || other === undefined) return []
    const kind = BigInt(by.below(16)) << 60n
    const number = by.pick([0n, 1n, 2n, (1n << 48n) - 1n, BigInt(by.below(1 << 16)) << 48n])
    return [found.set(at, 8, by.pick([numbers.wide(other, 8), kind | number, kind]))]
  })
}
