import type { ByteStore } from '../../lib/io/store.ts'
import type { Random } from '../support/random.ts'
import { type Anatomy, type Field, Numbers, type Part, sampled, setField } from './anatomy.ts'
import type { Edit } from './edits.ts'

const SECTOR = 512
const HEADER_LENGTH = 1024
const COOKIE = 0x636f6e6563746978n // "conectix"
const ABSENT = 0xffffffff
/** Numbers of a footer: place and width. Size, type, features, version, geometry, creator. */
const FOOTER_FIELDS = [
  [8, 4],
  [12, 4],
  [28, 4],
  [40, 8],
  [48, 8],
  [56, 2],
  [58, 1],
  [59, 1],
  [60, 4],
  [64, 4],
  [84, 1],
  [85, 1],
] as const
/** Numbers of a dynamic disk header. */
const HEADER_FIELDS = [
  [0, 4],
  [24, 4],
  [28, 4],
  [32, 4],
  [36, 4],
  [40, 8],
  [56, 4],
  [64, 2],
] as const

/** Walks a VHD file as far as it makes sense. It knows the format by itself and believes everything. */
export function vhdAnatomy(store: ByteStore, random: Random): Anatomy {
  const walk = new Walk(store, random)
  walk.file()
  return {
    order: 'big',
    unit: SECTOR,
    fields: walk.fields,
    parts: walk.parts,
    sums: walk.sums.map(({ at, length, sumAt }) => ({ at, length, sumAt, kind: 'ones-complement' })),
    special: (by) => walk.special(by),
  }
}

class Walk {
  readonly fields: Field[] = []
  readonly parts: Part[] = []
  readonly sums: { at: number; length: number; sumAt: number }[] = []
  private readonly random: Random
  private readonly numbers: Numbers
  private readonly entries: number[] = []
  private readonly footers: number[]
  private header = SECTOR

  constructor(store: ByteStore, random: Random) {
    this.random = random
    this.numbers = new Numbers(store, 'big')
    const { size } = this.numbers
    this.footers = [size - SECTOR, 0].filter((at) => this.numbers.wide(at, 8) === COOKIE)
  }

  file(): void {
    for (const at of this.footers) {
      this.part(at, SECTOR)
      this.field(at + 16, 8, 'place')
      for (const [within, width] of FOOTER_FIELDS) this.field(at + within, width)
      this.sums.push({ at, length: SECTOR, sumAt: at + 64 })
      const place = this.numbers.u64(at + 16)
      if (place < this.numbers.size) this.header = place
    }
    if (this.footers.length < 2) return
    this.walkHeader()
  }

  /** Entries that share a place, or lie where something else does; one footer laid over the other; bits of a bitmap. */
  special(random: Random): Edit[] {
    const kind = random.below(4)
    if (kind === 0 || this.entries.length === 0) {
      const [from = 0, at = 0] = random.chance(0.5) ? this.footers : [...this.footers].reverse()
      return [{ do: 'copy', from, length: SECTOR, at }]
    }
    const at = random.pick(this.entries)
    const other = this.numbers.u32(random.pick(this.entries))
    if (kind === 1) return [setField({ at, width: 4, role: 'number' }, BigInt(other), 'big')]
    if (kind === 2) {
      const near = random.pick([other + 1, other - 1, other + 8, 0, 1, 2, 3, 4])
      return [setField({ at, width: 4, role: 'number' }, BigInt(Math.max(0, near)), 'big')]
    }
    const hex = Buffer.from(random.bytes(8)).toString('hex')
    return other === ABSENT ? [] : [{ do: 'put', at: other * SECTOR + random.below(64), hex }]
  }

  private walkHeader(): void {
    const { header: at, numbers } = this
    this.part(at, HEADER_LENGTH)
    this.sums.push({ at, length: HEADER_LENGTH, sumAt: at + 36 })
    this.field(at + 16, 8, 'place')
    for (const [within, width] of HEADER_FIELDS) this.field(at + within, width)
    for (let index = 0; index < 8; index++) this.walkLocator(at + 576 + index * 24)
    const table = numbers.u64(at + 16)
    const count = Math.min(numbers.u32(at + 28), 1 << 20)
    const block = numbers.u32(at + 32)
    this.part(table, count * 4)
    for (const index of sampled(count, this.random)) {
      const entry = table + index * 4
      this.entries.push(entry)
      this.field(entry, 4)
      const place = numbers.u32(entry)
      if (place !== ABSENT) this.part(place * SECTOR, SECTOR + Math.min(block, 65536))
    }
  }

  private walkLocator(at: number): void {
    for (const within of [0, 4, 8]) this.field(at + within, 4)
    this.field(at + 16, 8, 'place')
    const length = this.numbers.u32(at + 8)
    if (length > 0 && length < 65536) this.part(this.numbers.u64(at + 16), length)
  }

  private part(at: number, length: number): void {
    if (at >= 0 && length > 0 && at + length <= this.numbers.size) this.parts.push({ at, length })
  }

  private field(at: number, width: Field['width'], role: Field['role'] = 'number'): void {
    if (at >= 0 && at + width <= this.numbers.size) this.fields.push({ at, width, role })
  }
}
