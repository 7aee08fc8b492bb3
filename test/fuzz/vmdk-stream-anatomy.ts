import zlib from 'node:zlib'
import type { ByteStore } from '../../lib/io/store.ts'
import type { Random } from '../support/random.ts'
import { type Anatomy, type Field, Numbers, type Part, sampled, setField } from './anatomy.ts'
import type { Edit } from './edits.ts'

const SECTOR = 512
/** Blocks of a stream that are looked at. */
const MOST = 64
const AT_END = 0xffffffffffffffffn
const MARKERS = [0n, 1n, 2n, 3n, 4n, 5n, 0xffffffffn]

/** A block between two markers, as the walk from front to back finds it. */
interface Block {
  readonly at: number
  readonly next: number
  /** bytes that are packed; 0: it is no grain */
  readonly packed: number
}

/**
 * Walks a stream of packed grains both ways: from marker to marker, and from footer to directory to tables. It knows the
 * format by itself and believes everything. ["Stream-Optimized Compressed Sparse Extents"]
 *
 * @param line damages the descriptor
 */
export function streamAnatomy(store: ByteStore, random: Random, line: (random: Random) => Edit): Anatomy {
  const walk = new Walk(store)
  walk.header(0)
  walk.header(walk.numbers.size - 2 * SECTOR)
  walk.part(SECTOR, 20 * SECTOR)
  walk.blocks()
  walk.directory(random)
  return {
    order: 'little',
    unit: SECTOR,
    fields: walk.fields,
    parts: walk.parts,
    sums: [],
    special: (by) => (by.chance(0.15) ? [line(by)] : walk.special(by)),
  }
}

class Walk {
  readonly numbers: Numbers
  readonly fields: Field[] = []
  readonly parts: Part[] = []
  private readonly found: Block[] = []
  private readonly grains: Block[] = []
  private readonly tableEntries: number[] = []
  private readonly directoryEntries: number[] = []

  constructor(store: ByteStore) {
    this.numbers = new Numbers(store, 'little')
  }

  /** The header, or the footer, which repeats it. */
  header(at: number): void {
    this.part(at, 80)
    for (const within of [4, 8, 44]) this.field(at + within, 4)
    for (const within of [12, 20, 28, 36, 48, 56, 64]) this.field(at + within, 8)
    this.field(at + 72, 1)
    this.field(at + 77, 2)
  }

  blocks(): void {
    let at = this.numbers.u64(64) * SECTOR
    for (let i = 0; i < MOST && at > 0 && at < this.numbers.size; i++) {
      const size = this.numbers.u32(at + 8)
      const next =
        size > 0 ? Math.ceil((at + 12 + size) / SECTOR) * SECTOR : at + SECTOR + this.numbers.u64(at) * SECTOR
      const block = { at, next, packed: size }
      this.found.push(block)
      this.part(at, 16)
      this.field(at, 8)
      this.field(at + 8, 4)
      if (size > 0) {
        this.grains.push(block)
        this.part(at, next - at)
        // The head of zlib's stream, its first block, and its checksum.
        for (let within = 0; within < 4; within++) this.field(at + 12 + within, 1)
        this.field(at + 12 + size - 4, 4)
      } else this.field(at + 12, 4)
      at = next
    }
  }

  directory(random: Random): void {
    const footer = this.numbers.wide(56, 8) === AT_END ? this.numbers.size - 2 * SECTOR : 0
    const at = this.numbers.u64(footer + 56) * SECTOR
    const perTable = Math.max(1, this.numbers.u32(44))
    const count = Math.min(1 << 16, Math.ceil(this.numbers.u64(12) / Math.max(1, this.numbers.u64(20)) / perTable))
    this.part(at, Math.min(4096, count * 4))
    for (const index of sampled(count, random)) {
      const entry = at + index * 4
      this.field(entry, 4)
      this.directoryEntries.push(entry)
      const table = this.numbers.u32(entry) * SECTOR
      if (table === 0 || table >= this.numbers.size) continue
      this.part(table, perTable * 4)
      for (const grain of sampled(Math.min(perTable, 512), random, 12)) {
        this.field(table + grain * 4, 4)
        this.tableEntries.push(table + grain * 4)
      }
    }
  }

  special(random: Random): Edit[] {
    const kind = random.below(10)
    if (kind < 3) return this.entry(random)
    if (kind < 5) return this.marker(random)
    if (kind < 7) return this.grain(random)
    if (kind === 7) return this.footer(random)
    if (kind === 8) return this.cut(random)
    return this.repeated(random)
  }

  /** An entry leads to another grain, into one, to a marker or a table, or nowhere. */
  private entry(random: Random): Edit[] {
    const at = random.pick(random.chance(0.2) ? this.directoryEntries : this.tableEntries)
    if (at === undefined) return []
    const block = random.pick(this.found)
    const other = this.numbers.u32(random.pick(this.tableEntries) ?? at)
    const end = Math.floor(this.numbers.size / SECTOR)
    const places = [0, 1, 2, 127, 128, end, end - 1, end + 1, 0xffffffff, other, other + 1, (block?.at ?? 0) / SECTOR]
    return [this.set(at, 4, BigInt(Math.max(0, Math.floor(random.pick(places) as number))))]
  }

  /** A marker says that another grain follows, that something else does, or that more or less of it does. */
  private marker(random: Random): Edit[] {
    const block = random.pick(this.found)
    if (!block) return []
    const other = random.pick(this.found) as Block
    const beyond = BigInt(Math.floor((this.numbers.size - block.at) / SECTOR))
    return random.pick([
      () => [this.set(block.at, 8, this.numbers.wide(other.at, 8))],
      () => [this.set(block.at, 8, this.numbers.wide(block.at, 8) + BigInt(random.pick([1, 127, 128, 65536])))],
      () => [this.set(block.at, 8, random.pick([beyond, beyond - 1n, beyond + 1n, 1n << 55n]) as bigint)],
      () => [this.set(block.at + 8, 4, random.pick([0n, 1n, BigInt(other.packed), 131584n, 131585n]) as bigint)],
      () => [this.set(block.at + 8, 4, 0n), this.set(block.at + 12, 4, random.pick(MARKERS) as bigint)],
    ])()
  }

  /** A sound stream that unpacks to more than a grain, to less, or to another one. */
  private grain(random: Random): Edit[] {
    const block = random.pick(this.grains)
    if (!block) return []
    const length = random.pick([0, 1, 512, 65535, 65536, 65537, 1 << 20, 8 << 20]) as number
    const packed = zlib.deflateSync(Buffer.alloc(length, random.below(256)))
    return [
      this.set(block.at + 8, 4, BigInt(packed.length + random.pick([0, 0, 0, 1, -1]))),
      { do: 'put', at: block.at + 12, hex: packed.toString('hex') },
    ]
  }

  /** The footer comes first, or elsewhere, or says something else than the header. */
  private footer(random: Random): Edit[] {
    const { size } = this.numbers
    const at = Math.max(0, size - 2 * SECTOR)
    return random.pick([
      (): Edit[] => [{ do: 'copy', from: at, length: SECTOR, at: 0 }],
      (): Edit[] => [{ do: 'copy', from: 0, length: SECTOR, at }],
      (): Edit[] => [
        { do: 'copy', from: Math.max(0, at - SECTOR), length: 3 * SECTOR, at: random.pick(this.found)?.at ?? at },
      ],
      (): Edit[] => [{ do: 'resize', size: Math.max(0, size - SECTOR * random.below(6)) }],
      (): Edit[] => [{ do: 'fill', at, length: SECTOR, byte: 0 }],
      (): Edit[] => [this.set(56, 8, this.numbers.wide(at + 56, 8))],
      (): Edit[] => [this.set(8, 4, random.pick([0x10001n, 0x20001n, 0x30005n, 1n, 3n]) as bigint)],
    ])()
  }

  /** It ends behind some block, or in it. */
  private cut(random: Random): Edit[] {
    const block = random.pick(this.found)
    return block ? [{ do: 'resize', size: random.pick([block.at, block.next, block.next - 1, block.at + 14]) }] : []
  }

  /** A block comes once more, over another one or at the end. */
  private repeated(random: Random): Edit[] {
    const [from, to] = [random.pick(this.found), random.pick(this.found)]
    if (!from || !to) return []
    const length = Math.min(from.next - from.at, 1 << 17)
    return [{ do: 'copy', from: from.at, length, at: random.chance(0.7) ? to.at : this.numbers.size }]
  }

  private set(at: number, width: Field['width'], value: bigint): Edit {
    return setField({ at, width, role: 'number' }, value, 'little')
  }

  private field(at: number, width: Field['width']): void {
    if (at >= 0 && at + width <= this.numbers.size) this.fields.push({ at, width, role: 'number' })
  }

  part(at: number, length: number): void {
    const inside = Math.min(length, this.numbers.size - at)
    if (at >= 0 && inside > 0) this.parts.push({ at, length: inside })
  }
}
