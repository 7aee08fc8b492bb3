import zlib from 'node:zlib'
import { big64 } from '../../bytes/align.ts'
import type { Extent } from '../../contracts/extent.ts'
import type { Image } from '../../contracts/image.ts'
import type { Json, Layer } from '../../contracts/layer.ts'
import { VdiskError } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import { paddedTables } from '../../io/padded-tables.ts'
import type { ByteStore } from '../../io/store.ts'
import { type Page, TableCache } from '../../io/table-cache.ts'
import { ENTRY, header, VERSION } from './layout.ts'

const CACHE = 4 << 20
const PAGE = 4096

/** Where a block lies, packed; or why it cannot be read, in words. */
export type Place = { readonly at: number; readonly length: number } | { readonly why: string }

/** A compressed loop device, for reading: each block is a stream of its own. */
export class CloopLayer implements Layer {
  readonly format = 'cloop'
  readonly identity = undefined
  readonly parent = undefined
  readonly merged = undefined
  readonly name: string
  readonly store: ByteStore
  readonly granularity: number
  readonly blockCount: number
  private readonly end: number
  private readonly tables: TableCache

  constructor(image: Image, shape: { blockSize: number; blockCount: number; end: number }) {
    this.name = image.name
    this.store = image.store
    this.granularity = shape.blockSize
    this.blockCount = shape.blockCount
    this.end = shape.end
    this.tables = new TableCache(paddedTables(image.store, shape.end), { pageSize: PAGE, capacity: CACHE })
  }

  get size(): number {
    return this.granularity * this.blockCount
  }

  get details(): { readonly [key: string]: Json } {
    return { version: VERSION, blockSize: this.granularity }
  }

  /** @throws VdiskError CORRUPT where the offsets of a block cannot be right */
  *map(offset: number, length: number): Io<Extent> {
    const { granularity, store } = this
    const block = Math.floor(offset / granularity)
    const skip = offset % granularity
    const place = yield* this.placeOf(block)
    if ('why' in place) throw this.bad(block, place.why)
    const unpack = (stored: Uint8Array): Uint8Array => this.unpack(stored, block)
    const packed = { store, at: place.at, storedLength: place.length, length: granularity, unpack }
    return { kind: 'packed', length: Math.min(length, granularity - skip), packed, skip }
  }

  /** Each block reaches to where the next one begins. */
  *placeOf(block: number): Io<Place> {
    const at = yield* this.offsetOf(block)
    const next = yield* this.offsetOf(block + 1)
    if (at < entryPlace(this.blockCount + 1)) return { why: `would lie at ${at}, in the table of offsets` }
    if (next > this.end) return { why: `would reach to ${next}, past the end of the file` }
    if (next <= at) return { why: `would reach from ${at} to ${next}` }
    // What deflate cannot pack it stores, with some bytes to each 16 KiB.
    if (next - at > this.granularity * 2 + PAGE) return { why: `would be ${next - at} bytes of ${this.granularity}` }
    return { at, length: next - at }
  }

  /** Blocks from `block` on that end where it begins, as in a table that is a hole: none of them can be. At least 1. */
  *runFrom(block: number): Io<number> {
    const at = yield* this.offsetOf(block)
    let next = block + 1
    while (next <= this.blockCount) {
      const { view, at: pageAt } = yield* this.pageOf(next)
      const entries = Math.min(this.blockCount + 1 - next, (pageAt + PAGE - entryPlace(next)) / ENTRY)
      let same = 0
      for (let within = entryPlace(next) - pageAt; same < entries && big64(view, within) === at; within += ENTRY) same++
      next += same
      if (same < entries) break
    }
    return Math.max(1, next - 1 - block)
  }

  *close(): Io<void> {
    yield* settle(this.store.close())
  }

  private *offsetOf(block: number): Io<number> {
    const page = yield* this.pageOf(block)
    return big64(page.view, entryPlace(block) - page.at)
  }

  private *pageOf(block: number): Io<Page> {
    const at = entryPlace(block)
    return this.tables.peek(at) ?? (yield* this.tables.load(at))
  }

  private unpack(stored: Uint8Array, block: number): Uint8Array {
    let unpacked: Uint8Array
    try {
      unpacked = zlib.inflateSync(stored, { maxOutputLength: this.granularity })
    } catch (cause) {
      throw this.bad(block, 'is a damaged stream', cause)
    }
    if (unpacked.length === this.granularity) return unpacked
    throw this.bad(block, `holds ${unpacked.length} bytes instead of ${this.granularity}`)
  }

  private bad(block: number, why: string, cause?: unknown): VdiskError {
    return new VdiskError('CORRUPT', {
      message: `Cannot read ${this.name}: block ${block} ${why}`,
      where: {
        file: this.name,
        structure: 'block offsets',
        index: block,
        at: entryPlace(block),
        offset: block * this.granularity,
        section: 'cloop_head',
      },
      advice: 'See how far the damage goes: vdisk check IMAGE',
      cause,
    })
  }
}

/** Byte of the file at which the offset of a block stands. */
export function entryPlace(block: number): number {
  return header.size + block * ENTRY
}
