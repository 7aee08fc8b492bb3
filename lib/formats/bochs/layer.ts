import { Bitmap } from '../../bytes/bitmap.ts'
import type { Extent } from '../../contracts/extent.ts'
import type { ParentLink } from '../../contracts/identity.ts'
import type { Image } from '../../contracts/image.ts'
import type { Json, Layer } from '../../contracts/layer.ts'
import { VdiskError } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import { paddedTables } from '../../io/padded-tables.ts'
import type { ByteStore } from '../../io/store.ts'
import { TableCache } from '../../io/table-cache.ts'
import { type BochsFields, ENTRY, NOT_ALLOCATED, SECTOR, SUBTYPE } from './layout.ts'

const CACHE = 8 << 20
const PAGE = 512
/** Extents that one answer takes together at most. */
const MOST_STEPS = 1 << 16
/** How the name of a log ends; what is before names the image that it changes. */
const LOG_ENDING = '.redolog'

/** A Bochs image for reading: a catalog of extents, each with a bitmap of the sectors that were written. */
export class BochsLayer implements Layer {
  readonly format = 'bochs'
  readonly identity = undefined
  readonly merged = undefined
  readonly name: string
  readonly store: ByteStore
  readonly fields: BochsFields
  /** bytes in the file */
  readonly end: number
  private readonly tables: TableCache

  constructor(image: Image, fields: BochsFields, end: number) {
    this.name = image.name
    this.store = image.store
    this.fields = fields
    this.end = end
    this.tables = new TableCache(paddedTables(image.store, end), { pageSize: PAGE, capacity: CACHE })
  }

  get size(): number {
    return this.fields.size
  }

  get granularity(): number {
    return SECTOR
  }

  /** A log of changes lies beside the image that it changes, and has its name with an ending; nothing in it says more. */
  get parent(): ParentLink | undefined {
    if (this.fields.subtype === SUBTYPE.growing) return undefined
    const file = this.name.split('/').at(-1) as string
    const references = file.endsWith(LOG_ENDING) ? [file.slice(0, -LOG_ENDING.length)] : []
    return { references, format: undefined, expects: [], record: undefined, merging: false, replaced: undefined }
  }

  get details(): { readonly [key: string]: Json } {
    const { subtype, version, extentSize } = this.fields
    return { subtype, version: `${version >>> 16}.${version & 0xffff}`, extentSize }
  }

  /** Bytes of an extent in the file: its bitmap, then its sectors. */
  get stride(): number {
    return this.fields.bitmapBytes + this.fields.extentSize
  }

  /** @throws VdiskError CORRUPT for an entry that cannot be right. @see [redolog_t::read] */
  *map(offset: number, length: number): Io<Extent> {
    const { extentSize } = this.fields
    const silent = this.parent === undefined ? 'zero' : 'parent'
    const extent = Math.floor(offset / extentSize)
    const start = offset % extentSize
    const entry = yield* this.entry(extent)
    let run = Math.min(length, extentSize - start)
    if (entry === NOT_ALLOCATED) {
      for (let steps = 1; run < length && steps < MOST_STEPS; steps++) {
        if ((yield* this.entry(extent + steps)) !== NOT_ALLOCATED) break
        run += extentSize
      }
      return { kind: silent, length: Math.min(length, run) }
    }
    const complaint = this.complaintAbout(entry)
    if (complaint !== undefined) throw this.bad(extent, complaint)
    const place = this.placeOf(entry)
    const first = Math.floor(start / SECTOR)
    const byte = place + (first >>> 3)
    const page = this.tables.peek(byte) ?? (yield* this.tables.load(byte))
    const bits = new Bitmap(page.bytes)
    const bit = (byte - page.at) * 8 + (first & 7)
    const wanted = Math.ceil((start + run) / SECTOR) - first
    const alike = bits.runEnd(bit, Math.min(bits.length, bit + wanted)) - bit
    run = Math.min(run, (first + alike) * SECTOR - start)
    if (!bits.has(bit)) return { kind: silent, length: run }
    const at = place + this.fields.bitmapBytes + start
    if (at + run > this.end) throw this.bad(extent, `has sectors at ${at}, past the end of the file`)
    return { kind: 'data', length: run, store: this.store, at }
  }

  /** The entry of an extent in the catalog. */
  *entry(extent: number): Io<number> {
    const at = this.fields.headerSize + extent * ENTRY
    // Entries may stand across two pages, where the header has an odd length.
    const parts = [0, 0, 0, 0]
    for (let i = 0; i < ENTRY; i++) {
      const page = this.tables.peek(at + i) ?? (yield* this.tables.load(at + i))
      parts[i] = page.bytes[at + i - page.at] as number
    }
    return Buffer.from(parts).readUInt32LE(0)
  }

  /** Bytes in the file of the bitmap of an extent. */
  placeOf(entry: number): number {
    return this.fields.dataAt + entry * this.stride
  }

  /** What is wrong with the place of an extent, in words. Its last sectors may never have been written. */
  complaintAbout(entry: number): string | undefined {
    const place = this.placeOf(entry)
    return place + this.fields.bitmapBytes > this.end ? `would lie at ${place}, past the end of the file` : undefined
  }

  bad(extent: number, why: string): VdiskError {
    const { headerSize, extentSize } = this.fields
    return new VdiskError('CORRUPT', {
      message: `Cannot read ${this.name}: extent ${extent} ${why}`,
      where: {
        file: this.name,
        structure: 'catalog',
        index: extent,
        at: headerSize + extent * ENTRY,
        offset: extent * extentSize,
        section: 'redolog_t::read',
      },
      advice: 'See how far the damage goes: vdisk check IMAGE',
    })
  }

  *close(): Io<void> {
    yield* settle(this.store.close())
  }
}
