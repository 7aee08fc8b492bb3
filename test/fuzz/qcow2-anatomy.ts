import type { ByteStore } from '../../lib/io/store.ts'
import { FIELD } from '../support/crafted-qcow2.ts'
import type { Random } from '../support/random.ts'
import { type Anatomy, type Field, Numbers, type Part, sampled, setField } from './anatomy.ts'
import type { Edit } from './edits.ts'

/** Bits of table entries that are no place: 0-8 and 56-63. ["Cluster mapping"] */
const ENTRY_FLAGS = 0xff000000000001ffn
const BITMAPS = 0x23852875
const PLACES = ['backingFileOffset', 'l1TableOffset', 'refcountTableOffset', 'snapshotsOffset']
const KNOWN_EXTENSIONS = [0, 0xe2792aca, 0x6803f857, BITMAPS, 0x0537be77, 0x44415441, 0x76646c6b]
/** Tables that are looked into, and clusters of data that are noted, at most. */
const MOST_TABLES = 6

/** Walks a qcow2 image as far as it makes sense. It knows the format by itself and believes everything. */
export function qcow2Anatomy(store: ByteStore, random: Random): Anatomy {
  const walk = new Walk(store, random)
  walk.header()
  return {
    order: 'big',
    unit: walk.cluster,
    fields: walk.fields,
    parts: walk.parts,
    sums: [],
    special: (by) => walk.special(by),
  }
}

class Walk {
  readonly fields: Field[] = []
  readonly parts: Part[] = []
  readonly cluster: number
  private readonly random: Random
  private readonly numbers: Numbers
  private readonly entry: number
  private readonly extensions: Part[] = []
  private readonly entries: number[] = []

  constructor(store: ByteStore, random: Random) {
    this.random = random
    this.numbers = new Numbers(store, 'big')
    const bits = this.numbers.u32(20)
    this.cluster = 2 ** (bits >= 9 && bits <= 21 ? bits : 12)
    this.entry = this.numbers.u64(72) & 16 ? 16 : 8
  }

  header(): void {
    const { numbers } = this
    for (const [name, [at, width]] of Object.entries(FIELD)) {
      this.fields.push({ at, width, role: PLACES.includes(name) ? 'place' : 'number' })
    }
    this.fields.push({ at: 0, width: 4, role: 'number' })
    this.part(0, 112)
    this.walkExtensions(numbers.u32(4) >= 3 ? numbers.u32(100) : 72)
    this.part(numbers.u64(8), numbers.u32(16))
    this.walkL1(numbers.u64(40), numbers.u32(36))
    this.walkRefcounts(numbers.u64(48), numbers.u32(56) * this.cluster)
    this.walkSnapshots(numbers.u64(64), numbers.u32(60))
  }

  /** Extensions more, twice, or longer than they are; entries that share a place; compressed data moved about. */
  special(random: Random): Edit[] {
    const kind = random.below(5)
    const extension = random.pick(this.extensions)
    if (kind === 0 && extension) {
      const last = this.extensions.at(-1) as Part
      return [{ do: 'copy', from: extension.at, length: extension.length, at: last.at + last.length }]
    }
    if (kind === 1 && extension) {
      return [setField({ at: extension.at, width: 4, role: 'number' }, BigInt(random.pick(KNOWN_EXTENSIONS)), 'big')]
    }
    if (kind === 2 && this.entries.length > 1) {
      return [{ do: 'copy', from: random.pick(this.entries), length: 8, at: random.pick(this.entries) }]
    }
    if (kind === 3 && this.entries.length > 0) return this.compress(random)
    const bit = 1n << BigInt(random.below(5))
    const features = { at: 72 + random.below(3) * 8, width: 8, role: 'number' } as const
    return [setField(features, this.numbers.wide(features.at, 8) ^ bit, 'big')]
  }

  /** Calls a cluster compressed, or gives one that is another place and length. ["Compressed Clusters Descriptor"] */
  private compress(random: Random): Edit[] {
    const at = random.pick(this.entries)
    const offsetBits = BigInt(62 - (Math.log2(this.cluster) - 8))
    const place = BigInt(random.below(Math.max(1, Math.min(this.numbers.size, 2 ** 31))))
    const sectors = BigInt(random.pick([0, 1, 2, 3, 7, 255]))
    const value = (1n << 62n) | (BigInt.asUintN(62, sectors << offsetBits) | BigInt.asUintN(Number(offsetBits), place))
    return [setField({ at, width: 8, role: 'entry' }, value, 'big')]
  }

  private walkExtensions(start: number): void {
    for (let at = start, left = 12; left > 0 && at + 8 <= this.cluster; left--) {
      const [type, length] = [this.numbers.u32(at), this.numbers.u32(at + 4)]
      this.fields.push({ at, width: 4, role: 'number' }, { at: at + 4, width: 4, role: 'number' })
      this.extensions.push({ at, length: 8 + Math.min(Math.ceil(length / 8) * 8, 1024) })
      if (type === 0 || length > this.cluster) return
      this.part(at, 8 + length)
      if (type === BITMAPS) this.walkBitmaps(at + 8)
      else for (let word = 0; word < Math.min(length, 64); word += 4) this.field(at + 8 + word, 4)
      at += 8 + Math.ceil(length / 8) * 8
    }
  }

  private walkL1(at: number, count: number): void {
    this.part(at, Math.min(count * 8, this.cluster))
    let tables = MOST_TABLES
    for (const index of sampled(Math.min(count, 2 ** 22), this.random)) {
      this.entryField(at + index * 8)
      const table = this.placeIn(at + index * 8)
      if (table > 0 && tables-- > 0) this.walkL2(table)
    }
  }

  private walkL2(at: number): void {
    this.part(at, this.cluster)
    let clusters = MOST_TABLES
    for (const index of sampled(this.cluster / this.entry, this.random)) {
      const place = at + index * this.entry
      this.entryField(place)
      this.entries.push(place)
      if (this.entry === 16) this.field(place + 8, 8)
      const data = this.placeIn(place)
      if (data > 0 && clusters-- > 0) this.part(data, this.cluster)
    }
  }

  private walkRefcounts(at: number, length: number): void {
    this.part(at, Math.min(length, this.cluster))
    let tables = 3
    for (const index of sampled(Math.min(length / 8, 2 ** 20), this.random, 12)) {
      this.entryField(at + index * 8)
      const block = this.placeIn(at + index * 8)
      if (block === 0 || tables-- <= 0) continue
      this.part(block, this.cluster)
      for (const word of sampled(this.cluster / 2, this.random)) this.field(block + word * 2, 2)
    }
  }

  private walkSnapshots(start: number, count: number): void {
    for (let at = start, left = Math.min(count, 4); left > 0; left--) {
      this.fields.push({ at, width: 8, role: 'place' })
      this.field(at + 8, 4)
      for (const within of [12, 14]) this.field(at + within, 2)
      for (const within of [32, 36]) this.field(at + within, 4)
      const extra = this.numbers.u32(at + 36)
      if (extra >= 16) for (const within of [40, 48]) this.field(at + within, 8)
      const length = 40 + Math.min(extra, 1024) + this.numbers.u16(at + 12) + this.numbers.u16(at + 14)
      this.part(at, length)
      if (left > 2) this.walkL1(this.numbers.u64(at), this.numbers.u32(at + 8))
      at += Math.ceil(length / 8) * 8
    }
  }

  private walkBitmaps(extension: number): void {
    this.field(extension, 4)
    this.field(extension + 8, 8)
    this.fields.push({ at: extension + 16, width: 8, role: 'place' })
    const start = this.numbers.u64(extension + 16)
    for (let at = start, left = Math.min(this.numbers.u32(extension), 4); left > 0; left--) {
      this.fields.push({ at, width: 8, role: 'place' })
      for (const [within, width] of [
        [8, 4],
        [12, 4],
        [16, 1],
        [17, 1],
        [18, 2],
        [20, 4],
      ] as const) {
        this.field(at + within, width)
      }
      const table = this.numbers.u64(at)
      this.part(table, this.cluster)
      for (let index = 0; index < Math.min(this.numbers.u32(at + 8), 4); index++) this.entryField(table + index * 8)
      at += Math.ceil((24 + Math.min(this.numbers.u32(at + 20), 1024) + this.numbers.u16(at + 18)) / 8) * 8
    }
  }

  private placeIn(at: number): number {
    const place = Number(this.numbers.wide(at, 8) & ~ENTRY_FLAGS)
    return place < this.numbers.size ? place : 0
  }

  private entryField(at: number): void {
    if (at + 8 <= this.numbers.size) this.fields.push({ at, width: 8, role: 'entry', flags: ENTRY_FLAGS })
  }

  private field(at: number, width: Field['width']): void {
    if (at + width <= this.numbers.size) this.fields.push({ at, width, role: 'number' })
  }

  private part(at: number, length: number): void {
    const inside = Math.min(length, this.numbers.size - at)
    if (inside > 0) this.parts.push({ at, length: inside })
  }
}
