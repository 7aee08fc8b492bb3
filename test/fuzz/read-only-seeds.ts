import zlib from 'node:zlib'
import { MemoryStore } from '../../lib/io/memory.ts'
import type { ByteStore } from '../../lib/io/store.ts'
import { patternFor } from '../model/history.ts'
import { CraftedFile } from '../support/crafted-file.ts'
import { CLUSTER, L1_AT, L2_AT, qcowBytes } from '../support/qcow-file.ts'
import type { Random } from '../support/random.ts'
import { type Anatomy, type Field, Numbers, type Part, sampled, setField } from './anatomy.ts'
import { only, type Seed } from './seeds.ts'

/** Formats that are only read: a header, and tables that say where the rest is. */
interface Plan {
  readonly order: 'big' | 'little'
  readonly unit: number
  /** where fields of the header stand, by their width */
  readonly header: Readonly<Record<1 | 4 | 8, readonly number[]>>
  readonly headerLength: number
  /** tables of entries, as they lie in the seeds */
  readonly tables: readonly { readonly at: number; readonly count: number; readonly width: 4 | 8 }[]
  /** values that entries of the format have where they say something of their own */
  readonly marks: readonly bigint[]
  /** what a piece holds that an entry leads to, in other ways than those of writers */
  readonly pieces?: ((random: Random) => Uint8Array) | undefined
}

function anatomyOf(plan: Plan): (store: ByteStore, random: Random) => Anatomy {
  return (store, random) => {
    const numbers = new Numbers(store, plan.order)
    const fields: Field[] = []
    const parts: Part[] = [{ at: 0, length: Math.min(plan.headerLength, numbers.size) }]
    for (const width of [1, 4, 8] as const) {
      for (const at of plan.header[width]) if (at + width <= numbers.size) fields.push({ at, width, role: 'number' })
    }
    const entries: Field[] = []
    for (const { at, count, width } of plan.tables) {
      for (const index of sampled(count, random, 30)) {
        if (at + (index + 1) * width <= numbers.size) entries.push({ at: at + index * width, width, role: 'place' })
      }
      if (at + count * width <= numbers.size) parts.push({ at, length: count * width })
    }
    const size = BigInt(numbers.size)
    return {
      order: plan.order,
      unit: plan.unit,
      fields: [...fields, ...entries],
      parts,
      sums: [],
      // Entries that share a place, lie just inside or outside of the file, or mean something else.
      special: (by) => {
        if (entries.length === 0) return []
        const target = by.pick(entries)
        if (plan.pieces && by.chance(0.3)) {
          const hex = Buffer.from(plan.pieces(by)).toString('hex')
          return [{ do: 'put', at: Number(numbers.wide(target.at, target.width)), hex }]
        }
        const other = by.pick(entries)
        const values = [
          numbers.wide(other.at, other.width),
          size,
          size - 1n,
          size - BigInt(plan.unit),
          0n,
          ...plan.marks,
        ]
        return [setField(target, by.pick(values), plan.order)]
      },
    }
  }
}

const QCOW: Plan = {
  order: 'big',
  unit: 512,
  header: { 1: [32, 33], 4: [0, 4, 16, 20, 36], 8: [8, 24, 40] },
  headerLength: 64,
  tables: [
    { at: L1_AT, count: 1, width: 8 },
    { at: L2_AT, count: 40, width: 8 },
  ],
  marks: [1n << 63n, (1n << 63n) | (1n << 52n), (1n << 63n) - 1n],
}

const QED: Plan = {
  order: 'little',
  unit: 4096,
  header: { 1: [], 4: [0, 4, 8, 12, 56, 60], 8: [16, 24, 32, 40, 48] },
  headerLength: 64,
  tables: [
    { at: 4096, count: 4, width: 8 },
    { at: 8192, count: 20, width: 8 },
  ],
  marks: [1n, 2n, 4096n, 8192n],
}

const BOCHS: Plan = {
  order: 'little',
  unit: 512,
  header: { 1: [0, 32, 48], 4: [64, 68, 72, 76, 80, 84], 8: [88] },
  headerLength: 96,
  tables: [{ at: 512, count: 8, width: 4 }],
  marks: [0xffffffffn, 0xfffffffen, 1n],
}

const CLOOP: Plan = {
  order: 'big',
  unit: 512,
  header: { 1: [11, 12, 13, 14], 4: [128, 132], 8: [] },
  headerLength: 136,
  tables: [{ at: 136, count: 9, width: 8 }],
  marks: [136n, 208n],
  // Streams of more than a block, less, or none.
  pieces: (random) => zlib.deflateSync(new Uint8Array(random.pick([0, 1, 8191, 8192, 8193, 1 << 20]))),
}

/** Images of the formats that are only read, put together by hand. */
export function readOnlySeeds(format: 'qcow' | 'qed' | 'bochs' | 'cloop'): Seed[] {
  const make = { qcow: qcowImage, qed: qedImage, bochs: bochsImage, cloop: cloopImage }[format]
  const plan = { qcow: QCOW, qed: QED, bochs: BOCHS, cloop: CLOOP }[format]
  const store = new MemoryStore('image', { content: make() })
  return [{ name: format, format, files: only(store), anatomy: anatomyOf(plan) }]
}

function qcowImage(): Uint8Array {
  const content = (i: number): Uint8Array => patternFor(i * CLUSTER, CLUSTER, i + 1)
  return qcowBytes(
    Array.from({ length: 40 }, (_, i) =>
      i % 4 === 3 ? undefined : i % 4 === 1 ? { packed: new Uint8Array(CLUSTER).fill(i) } : { plain: content(i) },
    ),
    40 * CLUSTER - 512,
  )
}

function qedImage(): Uint8Array {
  const cluster = 4096
  const file = new CraftedFile(23 * cluster, 'little').text(0, 'QED\0').u32(4, cluster).u32(8, 1).u32(12, 1)
  file
    .u64(40, cluster)
    .u64(48, 600 * cluster)
    .u64(cluster, 2 * cluster)
  for (let i = 0; i < 20; i++) {
    file.u64(2 * cluster + i * 8 * 3, (3 + i) * cluster).put((3 + i) * cluster, patternFor(i * cluster, cluster, i + 1))
    file.u64(2 * cluster + i * 8 * 3 + 8, i % 2)
  }
  return file.bytes
}

function bochsImage(): Uint8Array {
  const [extent, stride, data] = [8192, 512 + 8192, 512 + 8 * 4]
  const file = new CraftedFile(data + 4 * stride, 'little').text(0, 'Bochs Virtual HD Image').text(32, 'Redolog')
  file
    .text(48, 'Growing')
    .u32(64, 0x20000)
    .u32(68, 512)
    .u32(72, 8)
    .u32(76, 2)
    .u32(80, extent)
    .u64(88, 8 * extent)
  for (let i = 0; i < 8; i++) file.u32(512 + i * 4, i % 2 === 0 ? i / 2 : 0xffffffff)
  for (let i = 0; i < 4; i++) {
    file.u8(data + i * stride, 0x5a + i).u8(data + i * stride + 1, 0xff)
    file.put(data + i * stride + 512, patternFor(i * extent, extent, i + 1))
  }
  return file.bytes
}

function cloopImage(): Uint8Array {
  const size = 8192
  const blocks = Array.from({ length: 8 }, (_, i) =>
    zlib.deflateSync(i % 2 === 0 ? patternFor(i * size, size, i + 1) : new Uint8Array(size).fill(i)),
  )
  const begin = 136 + 9 * 8
  const file = new CraftedFile(begin, 'big').text(0, '#!/bin/sh\n#V2.0 Format\n').u32(128, size).u32(132, 8)
  let at = begin
  for (const [i, block] of blocks.entries()) {
    file.u64(136 + i * 8, at)
    at += block.length
  }
  file.u64(136 + 8 * 8, at)
  return Buffer.concat([file.bytes, ...blocks])
}
