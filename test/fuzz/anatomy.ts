import type { ByteStore } from '../../lib/io/store.ts'
import type { Random } from '../support/random.ts'
import type { Edit, Sum } from './edits.ts'

/** A number in a file that a reader believes, or ought not to. */
export interface Field {
  /** bytes from the start of the file */
  readonly at: number
  readonly width: 1 | 2 | 4 | 8
  /** place: bytes in the file. entry: a place with flags in the bits of `flags`. number: all else */
  readonly role: 'place' | 'entry' | 'number'
  readonly flags?: bigint
}

/** A run of bytes with a meaning of its own: a header, a table, a cluster of data. */
export interface Part {
  readonly at: number
  readonly length: number
}

/** What a mutator must know of an image in order to damage it where it hurts. */
export interface Anatomy {
  readonly order: 'big' | 'little'
  /** bytes to which places are aligned */
  readonly unit: number
  readonly fields: readonly Field[]
  readonly parts: readonly Part[]
  readonly sums: readonly Sum[]
  /** Damage that only this format knows. */
  special(random: Random): Edit[]
}

/** Reads numbers of a file that may end anywhere: what is not there is zero. */
export class Numbers {
  readonly size: number
  private readonly store: ByteStore
  private readonly order: 'big' | 'little'

  constructor(store: ByteStore, order: 'big' | 'little') {
    this.store = store
    this.order = order
    this.size = store.size() as number
  }

  u16(at: number): number {
    return Number(this.wide(at, 2))
  }

  u32(at: number): number {
    return Number(this.wide(at, 4))
  }

  /** Inexact beyond 2^53, where it is a place in no file. */
  u64(at: number): number {
    return Number(this.wide(at, 8))
  }

  wide(at: number, width: number): bigint {
    if (!(at >= 0 && at + width <= this.size)) return 0n
    const bytes = new Uint8Array(width)
    void this.store.read(at, bytes)
    if (this.order === 'little') bytes.reverse()
    return bytes.reduce((value, byte) => (value << 8n) | BigInt(byte), 0n)
  }
}

/** The edit that sets a field; the value is cut to its width. */
export function setField({ at, width }: Field, value: bigint, order: 'big' | 'little'): Edit {
  const hex = BigInt.asUintN(width * 8, value)
    .toString(16)
    .padStart(width * 2, '0')
  return { do: 'put', at, hex: order === 'big' ? hex : Buffer.from(hex, 'hex').reverse().toString('hex') }
}

/** Some of many: a walk over a table that may be huge looks at its beginning, its end, and what chance has. */
export function* sampled(count: number, random: Random, most = 24): Iterable<number> {
  if (count <= most) {
    for (let index = 0; index < count; index++) yield index
    return
  }
  for (let index = 0; index < 8; index++) yield index
  for (let left = most - 10; left > 0; left--) yield random.below(count)
  yield count - 2
  yield count - 1
}
