import zlib from 'node:zlib'
import { ceilDiv } from '../../bytes/align.ts'
import type { Extent } from '../../contracts/extent.ts'
import type { ParentLink } from '../../contracts/identity.ts'
import type { Image } from '../../contracts/image.ts'
import type { Json, Layer } from '../../contracts/layer.ts'
import { type ErrorCode, VdiskError, type Where } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import { paddedTables } from '../../io/padded-tables.ts'
import type { ByteStore } from '../../io/store.ts'
import { TableCache } from '../../io/table-cache.ts'
import { COMPRESSED_HIGH, CRYPT, decodeCompressed, ENTRY, header, LIMIT, MAGIC, VERSION } from './layout.ts'

const CACHE = 16 << 20
const PAGE = 512
const SECTION = 'QCowHeader'
/** Entries that one answer takes together at most. */
const MOST_STEPS = 1 << 16

export type QcowFields = ReturnType<typeof header.decode>

/** An entry of an L2 table, decoded. */
export type Entry =
  | { readonly kind: 'absent' }
  | { readonly kind: 'plain'; readonly at: number }
  | { readonly kind: 'packed'; readonly at: number; readonly storedLength: number }
  /** it leads where nothing of the kind can be; `why` in words, `at` is its own place */
  | { readonly kind: 'bad'; readonly why: string; readonly at: number }

/** A qcow image of version 1, for reading: L1 table, L2 tables, clusters that may be compressed. */
export class QcowLayer implements Layer {
  readonly format = 'qcow'
  readonly identity = undefined
  readonly merged = undefined
  readonly name: string
  readonly store: ByteStore
  readonly fields: QcowFields
  readonly clusterSize: number
  /** bytes in the file */
  readonly end: number
  private readonly backing: string | undefined
  private readonly tables: TableCache

  constructor(image: Image, opened: { fields: QcowFields; backing: string | undefined; end: number }) {
    this.name = image.name
    this.store = image.store
    this.fields = opened.fields
    this.backing = opened.backing
    this.end = opened.end
    this.clusterSize = 2 ** opened.fields.clusterBits
    this.tables = new TableCache(paddedTables(image.store, opened.end), { pageSize: PAGE, capacity: CACHE })
  }

  get size(): number {
    return this.fields.size
  }

  get granularity(): number {
    return this.clusterSize
  }

  /** A name, and nothing of its format: that is never guessed. */
  get parent(): ParentLink | undefined {
    if (this.backing === undefined) return undefined
    const references = [this.backing]
    return { references, format: undefined, expects: [], record: undefined, merging: false, replaced: undefined }
  }

  get details(): { readonly [key: string]: Json } {
    return { version: VERSION, clusterSize: this.clusterSize }
  }

  /** Bytes of the disk that one L2 table maps. */
  get tableSpan(): number {
    return 2 ** (this.fields.clusterBits + this.fields.l2Bits)
  }

  /** @throws VdiskError CORRUPT for an entry that cannot be right. @see [get_cluster_offset] */
  *map(offset: number, length: number): Io<Extent> {
    const { clusterSize } = this
    const start = offset % clusterSize
    const first = yield* this.entry(offset)
    if (first.kind === 'bad') throw this.complaint(first, offset)
    if (first.kind === 'packed') return this.packedExtent(first, start, Math.min(length, clusterSize - start))
    let run = clusterSize - start
    for (let steps = 0; run < length && steps < MOST_STEPS; steps++) {
      const next = offset + run
      const table = yield* this.tableAt(next)
      if (first.kind === 'absent' && table === 0) {
        run += this.tableSpan - (next % this.tableSpan)
        continue
      }
      const entry = yield* this.entry(next)
      const goesOn =
        first.kind === 'plain' ? entry.kind === 'plain' && entry.at === first.at + start + run : entry.kind === 'absent'
      if (!goesOn) break
      run += clusterSize
    }
    run = Math.min(run, length)
    if (first.kind === 'plain') return { kind: 'data', length: run, store: this.store, at: first.at + start }
    return { kind: this.backing === undefined ? 'zero' : 'parent', length: run }
  }

  /** Where the L2 table of a place on the disk lies; 0: there is none. */
  *tableAt(offset: number): Io<number> {
    return yield* this.number(this.fields.l1At + Math.floor(offset / this.tableSpan) * ENTRY)
  }

  /** The entry of the cluster at `offset`. */
  *entry(offset: number): Io<Entry> {
    const table = yield* this.tableAt(offset)
    if (table === 0) return { kind: 'absent' }
    const index = Math.floor((offset % this.tableSpan) / this.clusterSize)
    if (table % ENTRY !== 0) return { kind: 'bad', why: `its L2 table would lie at ${table}`, at: table }
    if (table + 2 ** this.fields.l2Bits * ENTRY > this.end) {
      return { kind: 'bad', why: `its L2 table, at ${table}, lies past the end of the file`, at: table }
    }
    const at = table + index * ENTRY
    const page = this.tables.peek(at) ?? (yield* this.tables.load(at))
    return this.decode(page.view.getUint32(at - page.at), page.view.getUint32(at - page.at + 4), offset, at)
  }

  /** What is wrong with a cluster, as an error. */
  complaint({ why, at }: { why: string; at: number }, offset: number): VdiskError {
    const where = { structure: 'L2 table', at, offset }
    return refusal('CORRUPT', this.name, `its cluster for ${offset} cannot be found: ${why}`, where)
  }

  *close(): Io<void> {
    yield* settle(this.store.close())
  }

  private decode(high: number, low: number, offset: number, at: number): Entry {
    if (high === 0 && low === 0) return { kind: 'absent' }
    if ((high & COMPRESSED_HIGH) !== 0) {
      const packed = decodeCompressed(high, low, this.fields.clusterBits)
      const isThere = packed.storedLength > 0 && packed.at + packed.storedLength <= this.end
      if (isThere) return { kind: 'packed', ...packed }
      return { kind: 'bad', why: `its packed bytes at ${packed.at} do not lie in the file`, at }
    }
    const place = high * 2 ** 32 + low
    const used = Math.min(this.clusterSize, this.size - (offset - (offset % this.clusterSize)))
    if (place + used > this.end) return { kind: 'bad', why: `its place, ${place}, is past the end of the file`, at }
    if (place < header.size) return { kind: 'bad', why: `its place, ${place}, is that of the header`, at }
    return { kind: 'plain', at: place }
  }

  private packedExtent(
    { at, storedLength }: { at: number; storedLength: number },
    skip: number,
    length: number,
  ): Extent {
    const { store, clusterSize } = this
    const unpack = (stored: Uint8Array): Uint8Array => this.unpack(stored, at)
    return { kind: 'packed', length, skip, packed: { store, at, storedLength, length: clusterSize, unpack } }
  }

  /** Raw deflate, of one whole cluster. [decompress_buffer] */
  private unpack(stored: Uint8Array, at: number): Uint8Array {
    let unpacked: Uint8Array
    try {
      const { Z_SYNC_FLUSH } = zlib.constants
      unpacked = zlib.inflateRawSync(stored, { maxOutputLength: this.clusterSize, finishFlush: Z_SYNC_FLUSH })
    } catch (cause) {
      throw refusal(
        'CORRUPT',
        this.name,
        'the stream of a compressed cluster is damaged',
        { structure: 'cluster', at },
        cause,
      )
    }
    if (unpacked.length === this.clusterSize) return unpacked
    const why = `a compressed cluster holds ${unpacked.length} bytes instead of ${this.clusterSize}`
    throw refusal('CORRUPT', this.name, why, { structure: 'cluster', at })
  }

  private *number(at: number): Io<number> {
    const page = this.tables.peek(at) ?? (yield* this.tables.load(at))
    return page.view.getUint32(at - page.at) * 2 ** 32 + page.view.getUint32(at - page.at + 4)
  }
}

/** @throws VdiskError CORRUPT, UNSUPPORTED, LIMIT_EXCEEDED */
export function* openQcow(image: Image): Io<QcowLayer> {
  const { name, store } = image
  const end = yield* settle(store.size())
  const place = { structure: 'header', at: 0 }
  if (end < header.size) throw refusal('CORRUPT', name, 'the file ends before its header does', place)
  const bytes = new Uint8Array(header.size)
  yield* settle(store.read(0, bytes))
  const fields = header.decode(bytes)
  const { magic, version, clusterBits, l2Bits, cryptMethod, size, l1At } = fields
  if (magic !== MAGIC || version !== VERSION) throw refusal('CORRUPT', name, 'it is no qcow image of version 1', place)
  const { bits } = LIMIT
  const fits = clusterBits >= bits.leastCluster && clusterBits <= bits.mostCluster
  if (!fits || l2Bits < bits.leastL2 || l2Bits > bits.mostL2) {
    const why = `clusters of 2^${clusterBits} bytes and tables of 2^${l2Bits} entries cannot be`
    throw refusal('CORRUPT', name, why, place)
  }
  if (cryptMethod !== CRYPT.none) throw encrypted(name, cryptMethod)
  const length = ceilDiv(size, 2 ** (clusterBits + l2Bits)) * ENTRY
  if (size > LIMIT.diskBytes || length > LIMIT.l1Bytes) {
    throw refusal('LIMIT_EXCEEDED', name, `its L1 table would have ${length} bytes`, { structure: 'header', at: 24 })
  }
  const table = { structure: 'L1 table', at: l1At }
  if (l1At + length > end) throw refusal('CORRUPT', name, 'its L1 table lies past the end of the file', table)
  if (l1At % ENTRY !== 0) throw refusal('CORRUPT', name, `its L1 table would lie at ${l1At}`, table)
  if (l1At < header.size) throw refusal('CORRUPT', name, 'its L1 table lies over the header', table)
  return new QcowLayer(image, { fields, backing: yield* backingOf(name, store, fields, end), end })
}

function* backingOf(file: string, store: ByteStore, fields: QcowFields, end: number): Io<string | undefined> {
  const { backingAt, backingLength } = fields
  if (backingAt === 0) return undefined
  const place = { structure: 'header', at: 8 }
  if (backingLength > LIMIT.name || backingLength === 0) {
    throw refusal('CORRUPT', file, `the name of its backing file would have ${backingLength} bytes`, place)
  }
  if (backingAt + backingLength > end) {
    throw refusal('CORRUPT', file, 'the name of its backing file lies past the end of the file', place)
  }
  const bytes = new Uint8Array(backingLength)
  yield* settle(store.read(backingAt, bytes))
  return Buffer.from(bytes).toString('utf8')
}

function encrypted(file: string, method: number): VdiskError {
  return new VdiskError('UNSUPPORTED', {
    message: `Cannot read ${file}: its content is encrypted, by method ${method}`,
    where: { file, structure: 'header', at: 36, section: SECTION },
    advice: 'Decrypt it with the program that made it: qemu-img convert',
  })
}

function refusal(code: ErrorCode, file: string, why: string, where: Where, cause?: unknown): VdiskError {
  return new VdiskError(code, {
    message: `Cannot read ${file}: ${why}`,
    where: { file, section: SECTION, ...where },
    advice: 'If there is another copy of the file, use the one that opens.',
    cause,
  })
}
