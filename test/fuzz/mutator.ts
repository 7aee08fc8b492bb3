import type { ByteStore } from '../../lib/io/store.ts'
import type { Random } from '../support/random.ts'
import { type Anatomy, type Field, Numbers, type Part, setField } from './anatomy.ts'
import type { Edit } from './edits.ts'

/** Numbers at which code goes wrong: the ends of every width, signs, and the last one that a double holds exactly. */
const SMALL: readonly bigint[] = [0n, 1n, 2n, 3n, 7n, 8n, 9n, 16n, 21n, 22n, 63n, 64n, 255n, 511n, 512n, 513n, 1023n]
const MIDDLE: readonly bigint[] = [1024n, 2047n, 2048n, 4095n, 4096n, 65535n, 65536n]
const BITS: readonly bigint[] = [20n, 31n, 32n, 40n, 46n, 47n, 53n, 56n, 62n, 63n, 64n]
const LARGE = BITS.flatMap((bits) => [(1n << bits) - 512n, (1n << bits) - 1n, 1n << bits, (1n << bits) + 1n])
const BOUNDARIES: readonly bigint[] = [...SMALL, ...MIDDLE, ...LARGE]

/** Bytes that mean something to some reader. */
const WORDS = [
  '514649fb',
  '7668647866696c65',
  '68656164',
  '72656769',
  '6d65746164617461',
  '6c6f6765',
  '55aa',
  '4546492050415254',
]

/** Files get no longer than this, as holes. */
const LONGEST = 2 ** 42

/** Chance that a checksum over what was changed is made to fit: without it nobody looks at what lies behind. */
const MENDED = 0.93

/** Damages an image: some edits, by what is known of its structure or by nothing but bytes. */
export function mutate(store: ByteStore, anatomy: Anatomy, random: Random): Edit[] {
  if (store.size() === 0) return []
  const edits = mutation(new Damage(store, anatomy, random), random)
  const touched = edits.flatMap((edit) => ('at' in edit ? [edit.at] : []))
  const mended: Edit[] = []
  for (const sum of anatomy.sums) {
    const covers = touched.some((place) => place >= sum.at && place < sum.at + sum.length)
    if (!covers || !random.chance(MENDED)) continue
    mended.push({ do: 'sum', ...sum })
    // It may lie in a header that has a checksum itself.
    touched.push(sum.sumAt)
  }
  return [...edits, ...mended]
}

function mutation(damage: Damage, random: Random): Edit[] {
  const kind = random.below(100)
  if (kind < 26) return damage.boundary()
  if (kind < 40) return damage.place()
  if (kind < 50) return damage.flags()
  if (kind < 56) return damage.nudge()
  if (kind < 64) return damage.exchange()
  if (kind < 69) return damage.overlap()
  if (kind < 74) return damage.move()
  if (kind < 78) return damage.resize()
  if (kind < 86) return damage.bytes()
  return damage.special()
}

class Damage {
  private readonly anatomy: Anatomy
  private readonly random: Random
  private readonly numbers: Numbers

  constructor(store: ByteStore, anatomy: Anatomy, random: Random) {
    this.anatomy = anatomy
    this.random = random
    this.numbers = new Numbers(store, anatomy.order)
  }

  boundary(): Edit[] {
    const field = this.field()
    return field ? [this.set(field, this.random.pick(BOUNDARIES))] : []
  }

  /** A place is put where something else is, or beside it, or past the end. */
  place(): Edit[] {
    const field = this.field(({ role }) => role !== 'number')
    if (!field) return this.boundary()
    const { unit } = this.anatomy
    const { size } = this.numbers
    const target = this.random.pick([
      () => this.part().at,
      () => this.part().at,
      () => this.part().at + unit,
      () => this.part().at + this.random.pick([1, 8, 511, 512, unit / 2]),
      () => Math.floor(size / unit) * unit,
      () => Math.ceil(size / unit) * unit,
      () => size - unit,
      () => (1 + this.random.below(64)) * unit,
    ])()
    return [this.set(field, (BigInt(Math.max(0, Math.floor(target))) & ~(field.flags ?? 0n)) | this.flagsOf(field))]
  }

  flags(): Edit[] {
    const field = this.field(({ role }) => role === 'entry')
    if (!field?.flags) return this.nudge()
    const bits = Array.from({ length: 64 }, (_, bit) => 1n << BigInt(bit)).filter((bit) => (field.flags ?? 0n) & bit)
    return [this.set(field, this.value(field) ^ this.random.pick(bits))]
  }

  /** A little more, a little less, twice as much, another bit. */
  nudge(): Edit[] {
    const field = this.field()
    if (!field) return []
    const value = this.value(field)
    const unit = BigInt(this.anatomy.unit)
    const changed = this.random.pick([
      value + 1n,
      value - 1n,
      value * 2n,
      value / 2n,
      value + unit,
      value - unit,
      value ^ (1n << BigInt(this.random.below(field.width * 8))),
    ])
    return [this.set(field, changed)]
  }

  /** Two fields change places, or one is given twice. */
  exchange(): Edit[] {
    const a = this.field()
    const b = a && this.field(({ width, role }) => width === a.width && role === a.role)
    if (!a || !b) return []
    const twice = [this.set(b, this.value(a))]
    return this.random.chance(0.5) ? twice : [this.set(a, this.value(b)), ...twice]
  }

  /** A part is written over another one. */
  overlap(): Edit[] {
    const [from, to] = [this.part(), this.part()]
    const shift = this.random.pick([0, 0, 8, 512, this.anatomy.unit / 2])
    const length = Math.min(from.length, this.random.pick([from.length, 512, 64]))
    return [{ do: 'copy', from: from.at, length, at: Math.floor(to.at + shift) }]
  }

  /** A part is copied to the end of the file, and some of what points to it follows. */
  move(): Edit[] {
    const part = this.part()
    const { unit } = this.anatomy
    const at = Math.ceil(this.numbers.size / unit) * unit
    if (at > LONGEST) return []
    const length = Math.ceil(part.length / unit) * unit
    const followers = this.anatomy.fields.filter((field) => {
      const mask = ~(field.flags ?? 0n)
      return field.role !== 'number' && (this.value(field) & mask) === BigInt(part.at)
    })
    return [
      { do: 'resize', size: at + length },
      { do: 'copy', from: part.at, length: part.length, at },
      ...followers.slice(0, 3).map((field) => this.set(field, BigInt(at) | this.flagsOf(field))),
    ]
  }

  resize(): Edit[] {
    const { size } = this.numbers
    const part = this.part()
    const wanted = this.random.pick([
      () => part.at,
      () => part.at + part.length,
      () => part.at + this.random.below(part.length + 1),
      () => size - this.random.below(Math.min(size, 8192)),
      () => size - (size % this.anatomy.unit),
      () => size + this.random.pick([1, 512, this.anatomy.unit, 2 ** 30, 2 ** 40]),
      () => this.random.below(4096),
    ])()
    return [{ do: 'resize', size: Math.min(LONGEST, Math.max(0, wanted)) }]
  }

  /** Knows nothing: flips, runs of one byte, rubbish, words that some reader looks for. */
  bytes(): Edit[] {
    const { random } = this
    const part = this.part()
    const at = part.at + random.below(part.length)
    const kind = random.below(4)
    if (kind === 0) {
      return Array.from({ length: 1 + random.below(8) }, (): Edit => {
        const place = part.at + random.below(part.length)
        const flipped = Number(this.numbers.wide(place, 1)) ^ (1 << random.below(8))
        return { do: 'put', at: place, hex: flipped.toString(16).padStart(2, '0') }
      })
    }
    if (kind === 1) {
      const length = random.pick([1, 8, 64, 512, part.length])
      return [{ do: 'fill', at, length: Math.min(length, 65536), byte: random.pick([0, 0xff, 0x80, 1]) }]
    }
    const hex = kind === 2 ? Buffer.from(random.bytes(1 + random.below(32))).toString('hex') : random.pick(WORDS)
    return [{ do: 'put', at, hex }]
  }

  special(): Edit[] {
    return this.anatomy.special(this.random)
  }

  private field(wanted: (field: Field) => boolean = () => true): Field | undefined {
    const fields = this.anatomy.fields
    for (let attempt = 0; attempt < 12; attempt++) {
      const field = this.random.pick(fields)
      if (field && wanted(field)) return field
    }
    return fields.find(wanted)
  }

  private part(): Part {
    return this.random.pick(this.anatomy.parts) ?? { at: 0, length: Math.max(1, Math.min(512, this.numbers.size)) }
  }

  private value(field: Field): bigint {
    return this.numbers.wide(field.at, field.width)
  }

  private flagsOf(field: Field): bigint {
    return this.value(field) & (field.flags ?? 0n)
  }

  private set(field: Field, value: bigint): Edit {
    return setField(field, value, this.anatomy.order)
  }
}
