import type { ByteStore } from '../../lib/io/store.ts'
import type { Random } from '../support/random.ts'
import { KIB, MIB } from '../support/vhdx-file.ts'
import { type Anatomy, type Field, Numbers, type Part, sampled, setField } from './anatomy.ts'
import type { Edit, LoggedEntry, LogUpdate, Sum } from './edits.ts'

const HEADERS = [64 * KIB, 128 * KIB]
const TABLES = [192 * KIB, 256 * KIB]
/** Bits of a BAT entry that are no place. [MS-VHDX] 2.5.1 */
const STATE = 7n
const ENTRY_FLAGS = 0xfffffn
/** First halves of the region GUIDs, as they are read little-endian. */
const BAT_REGION = 0x2dc27766
const METADATA_REGION = 0x8b7ca206
const LOCATOR_ITEM = 0xa8d35f2d

/** Walks a VHDX file as far as it makes sense. It knows the format by itself and believes everything. */
export function vhdxAnatomy(store: ByteStore, random: Random): Anatomy {
  const walk = new Walk(store, random)
  walk.file()
  return {
    order: 'little',
    unit: MIB,
    fields: walk.fields,
    parts: walk.parts,
    sums: [...HEADERS.map((at) => sumOf(at, 4 * KIB)), ...TABLES.map((at) => sumOf(at, 64 * KIB))],
    special: (by) => walk.special(by),
  }
}

function sumOf(at: number, length: number): Sum {
  return { at, length, sumAt: at + 4, kind: 'crc32c' }
}

class Walk {
  readonly fields: Field[] = []
  readonly parts: Part[] = []
  private readonly random: Random
  private readonly numbers: Numbers
  private readonly log: Part
  private readonly entries: number[] = []
  private bat = 3 * MIB
  private metadata = 2 * MIB

  constructor(store: ByteStore, random: Random) {
    this.random = random
    this.numbers = new Numbers(store, 'little')
    const { numbers } = this
    const current = numbers.u64(HEADERS[0] as number) > numbers.u64(HEADERS[1] as number) ? HEADERS[0] : HEADERS[1]
    const [at, length] = [numbers.u64((current as number) + 72), numbers.u32((current as number) + 68)]
    this.log = { at: at < numbers.size ? at : MIB, length: Math.max(MIB, Math.min(length, 8 * MIB)) }
  }

  file(): void {
    this.part(0, 520)
    for (const at of HEADERS) {
      this.part(at, 80)
      for (const [within, width] of [
        [0, 4],
        [8, 8],
        [64, 2],
        [66, 2],
        [68, 4],
      ] as const)
        this.field(at + within, width)
      for (const guid of [16, 32, 48]) this.field(at + guid, 8)
      this.field(at + 72, 8, 'place')
    }
    for (const at of TABLES) this.walkRegions(at)
    this.walkMetadata()
    this.walkBat()
    this.part(this.log.at, 4 * KIB)
    for (const [within, width] of [
      [8, 4],
      [12, 4],
      [16, 8],
      [24, 4],
      [48, 8],
      [56, 8],
    ] as const) {
      this.field(this.log.at + within, width)
    }
  }

  /** Logs that ask for anything, entries that share a place, both headers or tables changed alike. */
  special(random: Random): Edit[] {
    const kind = random.below(10)
    if (kind < 6) return this.pendingLog(random)
    if (kind < 8 && this.entries.length > 0) {
      const state = BigInt(random.pick([0, 1, 2, 3, 4, 5, 6, 6, 7, 7]))
      const at = random.pick(this.entries)
      const place = this.numbers.wide(random.pick(this.entries), 8) & ~STATE
      return [setField({ at, width: 8, role: 'entry' }, place | state, 'little')]
    }
    const [from, to] = random.chance(0.5) ? HEADERS : TABLES
    const length = from === HEADERS[0] ? 4 * KIB : 64 * KIB
    return [{ do: 'copy', from: from as number, length, at: to as number }]
  }

  /** A log by the book, but for what it asks for. [MS-VHDX] 2.3.1 */
  private pendingLog(random: Random): Edit[] {
    const guid = Buffer.from(random.bytes(16)).toString('hex')
    const marks = HEADERS.flatMap((at): Edit[] => [
      { do: 'put', at: at + 48, hex: guid },
      { do: 'sum', ...sumOf(at, 4 * KIB) },
    ])
    const entries: LoggedEntry[] = []
    const sound = random.chance(0.6)
    const odd = (value: number): number => (sound || random.chance(0.7) ? value : this.anyNumber(random))
    const begin = random.pick([0, 0, 0, 4 * KIB, this.log.length - 4 * KIB])
    const first = 1 + random.below(1000)
    for (let at = begin, i = 0; i < 1 + random.below(3); i++) {
      const updates = Array.from({ length: random.pick([0, 1, 1, 2, 3, 130]) }, () => this.update(random, sound))
      entries.push({
        at: odd(at),
        sequence: odd(first + i),
        tail: odd(begin),
        flushed: odd(this.numbers.size),
        last: odd(this.numbers.size),
        updates,
      })
      const sectors = Math.ceil((updates.length + 2) / 128) + updates.filter((update) => 'like' in update).length
      at = (at + sectors * 4 * KIB) % this.log.length
    }
    return [...marks, { do: 'log', at: this.log.at, length: this.log.length, entries }]
  }

  /** What sound logs ask for is about tables, and what there was but for one bit; others ask for anything. */
  private update(random: Random, sound: boolean): LogUpdate {
    const tables = [this.bat, this.metadata, this.metadata + 64 * KIB, ...TABLES]
    const at = sound || random.chance(0.4) ? random.pick(tables) : this.anyPlace(random)
    if (random.chance(0.25)) return { at, zeros: sound ? 4 * KIB * (1 + random.below(4)) : this.anyNumber(random) }
    return { at, like: at, flip: random.below(1 << 15) }
  }

  private anyPlace(random: Random): number {
    const { size } = this.numbers
    const places = [
      0,
      4 * KIB,
      ...HEADERS,
      ...TABLES,
      this.log.at,
      this.log.at + 4 * KIB,
      size,
      size - 4 * KIB,
      size + MIB,
    ]
    const anywhere = random.below(Math.max(1, Math.ceil(size / (4 * KIB)))) * 4 * KIB
    return random.pick([...places, anywhere, this.anyNumber(random)])
  }

  private anyNumber(random: Random): number {
    return random.pick([0, 1, 511, 4 * KIB, 4 * KIB + 1, MIB, 2 ** 31, 2 ** 32 - 1, 2 ** 40, 2 ** 53, 2 ** 63, 2 ** 64])
  }

  private walkRegions(at: number): void {
    const count = Math.min(this.numbers.u32(at + 8), 2047)
    this.field(at, 4)
    this.field(at + 8, 4)
    this.part(at, 16 + count * 32)
    for (const index of sampled(count, this.random, 12)) {
      const entry = at + 16 + index * 32
      for (const within of [0, 24, 28]) this.field(entry + within, 4)
      this.field(entry + 16, 8, 'place')
      const place = this.numbers.u64(entry + 16)
      if (!(place > 0 && place < this.numbers.size)) continue
      if (this.numbers.u32(entry) === BAT_REGION) this.bat = place
      if (this.numbers.u32(entry) === METADATA_REGION) this.metadata = place
    }
  }

  private walkMetadata(): void {
    const at = this.metadata
    const count = Math.min(this.numbers.u16(at + 10), 2047)
    this.field(at + 10, 2)
    this.part(at, 32 + count * 32)
    for (const index of sampled(count, this.random, 12)) {
      const entry = at + 32 + index * 32
      for (const within of [0, 16, 20, 24, 28]) this.field(entry + within, 4)
      const item = at + this.numbers.u32(entry + 16)
      const length = this.numbers.u32(entry + 20)
      this.part(item, Math.min(length, 64 * KIB))
      for (let word = 0; word < Math.min(length, 20); word += 4) this.field(item + word, 4)
      if (this.numbers.u32(entry) === LOCATOR_ITEM) this.walkLocator(item)
      if (length === 8) this.field(item, 8)
    }
  }

  private walkLocator(at: number): void {
    this.field(at + 18, 2)
    for (let index = 0; index < Math.min(this.numbers.u16(at + 18), 16); index++) {
      const entry = at + 20 + index * 12
      for (const within of [0, 4]) this.field(entry + within, 4)
      for (const within of [8, 10]) this.field(entry + within, 2)
      this.part(at + this.numbers.u32(entry + 4), this.numbers.u16(entry + 10))
    }
  }

  private walkBat(): void {
    this.part(this.bat, 4 * KIB)
    const present: number[] = []
    for (const index of sampled(Math.min(MIB, this.numbers.size - this.bat) / 8, this.random, 40)) {
      const at = this.bat + Math.floor(index) * 8
      this.fields.push({ at, width: 8, role: 'entry', flags: ENTRY_FLAGS })
      this.entries.push(at)
      const place = Number(this.numbers.wide(at, 8) & ~ENTRY_FLAGS)
      if (place > 0 && place < this.numbers.size && !present.includes(place)) present.push(place)
    }
    for (const place of present) this.part(place, 64 * KIB)
  }

  private field(at: number, width: Field['width'], role: 'place' | 'number' = 'number'): void {
    if (at + width <= this.numbers.size) this.fields.push({ at, width, role })
  }

  private part(at: number, length: number): void {
    const inside = Math.min(length, this.numbers.size - at)
    if (inside > 0) this.parts.push({ at, length: inside })
  }
}
