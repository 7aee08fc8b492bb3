import type { Extent } from '../../contracts/extent.ts'
import type { ParentLink } from '../../contracts/identity.ts'
import type { Image } from '../../contracts/image.ts'
import type { Json, Layer } from '../../contracts/layer.ts'
import { VdiskError } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import { paddedTables } from '../../io/padded-tables.ts'
import type { ByteStore } from '../../io/store.ts'
import { TableCache } from '../../io/table-cache.ts'
import { ENTRY, FEATURE, type QedFields, ZERO_CLUSTER } from './layout.ts'

const CACHE = 16 << 20
const PAGE = 4096
/** Entries that one answer takes together at most. */
const MOST_STEPS = 1 << 16

/** What the tables say of a cluster. `at` of what is bad is the place of the entry. */
export type Entry =
  | { readonly kind: 'absent' | 'zero' }
  | { readonly kind: 'plain'; readonly at: number }
  | { readonly kind: 'bad'; readonly why: string; readonly at: number }

/** A QED image for reading. */
export class QedLayer implements Layer {
  readonly format = 'qed'
  readonly identity = undefined
  readonly merged = undefined
  readonly name: string
  readonly store: ByteStore
  readonly fields: QedFields
  /** bytes in the file */
  readonly end: number
  private readonly backing: string | undefined
  private readonly tables: TableCache

  constructor(image: Image, opened: { fields: QedFields; backing: string | undefined; end: number }) {
    this.name = image.name
    this.store = image.store
    this.fields = opened.fields
    this.backing = opened.backing
    this.end = opened.end
    this.tables = new TableCache(paddedTables(image.store, opened.end), { pageSize: PAGE, capacity: CACHE })
  }

  get size(): number {
    return this.fields.size
  }

  get granularity(): number {
    return this.fields.clusterSize
  }

  /** The file says that its backing file is raw, or nothing of its format: that is never guessed. ["Header", features] */
  get parent(): ParentLink | undefined {
    if (this.backing === undefined) return undefined
    const format = (this.fields.features & FEATURE.backingIsRaw) !== 0n ? 'raw' : undefined
    const references = [this.backing]
    return { references, format, expects: [], record: undefined, merging: false, replaced: undefined }
  }

  get details(): { readonly [key: string]: Json } {
    const { clusterSize, tableSize } = this.fields
    return { clusterSize, tableSize, needsCheck: this.needsCheck }
  }

  /** The last writer did not close it: clusters may be lost, and tables behind the data. ["Consistency checking"] */
  get needsCheck(): boolean {
    return (this.fields.features & FEATURE.needsCheck) !== 0n
  }

  /** bytes of a table */
  get tableBytes(): number {
    return this.fields.tableSize * this.fields.clusterSize
  }

  /** Bytes of the disk that one L2 table maps. */
  get tableSpan(): number {
    return (this.tableBytes / ENTRY) * this.fields.clusterSize
  }

  /** @throws VdiskError CORRUPT for an entry that cannot be right. @see ["Tables"] */
  *map(offset: number, length: number): Io<Extent> {
    const { clusterSize } = this.fields
    const start = offset % clusterSize
    const first = yield* this.entry(offset)
    if (first.kind === 'bad') throw this.complaint(first, offset)
    let run = clusterSize - start
    for (let steps = 0; run < length && steps < MOST_STEPS; steps++) {
      const next = offset + run
      if (first.kind === 'absent' && (yield* this.tableAt(next)) === 0) {
        run += this.tableSpan - (next % this.tableSpan)
        continue
      }
      const entry = yield* this.entry(next)
      if (entry.kind !== first.kind) break
      if (first.kind === 'plain' && entry.kind === 'plain' && entry.at !== first.at + start + run) break
      run += clusterSize
    }
    run = Math.min(run, length)
    if (first.kind === 'plain') return { kind: 'data', length: run, store: this.store, at: first.at + start }
    return { kind: first.kind === 'absent' && this.backing !== undefined ? 'parent' : 'zero', length: run }
  }

  /** Where the L2 table of a place on the disk lies; 0: there is none. */
  *tableAt(offset: number): Io<number> {
    return yield* this.number(this.fields.l1At + Math.floor(offset / this.tableSpan) * ENTRY)
  }

  /** The entry of the cluster at `offset`. */
  *entry(offset: number): Io<Entry> {
    const { clusterSize, l1At } = this.fields
    const table = yield* this.tableAt(offset)
    if (table === 0) return { kind: 'absent' }
    const slot = l1At + Math.floor(offset / this.tableSpan) * ENTRY
    const complaint = this.complaintAbout(table, this.tableBytes)
    if (complaint !== undefined) return { kind: 'bad', why: `its L2 table ${complaint}`, at: slot }
    const at = table + Math.floor((offset % this.tableSpan) / clusterSize) * ENTRY
    const place = yield* this.number(at)
    if (place === 0) return { kind: 'absent' }
    if (place === ZERO_CLUSTER) return { kind: 'zero' }
    const used = Math.min(clusterSize, this.size - (offset - (offset % clusterSize)))
    const why = this.complaintAbout(place, used)
    return why === undefined ? { kind: 'plain', at: place } : { kind: 'bad', why: `it ${why}`, at }
  }

  /** What is wrong with a place that a table names, in words. */
  private complaintAbout(place: number, length: number): string | undefined {
    const { clusterSize, headerSize } = this.fields
    if (place % clusterSize !== 0) return `would lie at ${place}, which is no beginning of a cluster`
    if (place < headerSize * clusterSize) return `would lie at ${place}, in the header`
    return place + length > this.end ? `would lie at ${place}, past the end of the file` : undefined
  }

  /** What is wrong with a cluster, as an error. */
  complaint({ why, at }: { why: string; at: number }, offset: number): VdiskError {
    return new VdiskError('CORRUPT', {
      message: `Cannot read ${this.name}: its cluster for ${offset} cannot be found: ${why}`,
      where: { file: this.name, structure: 'table', at, offset, section: 'Tables' },
      advice: 'See how far the damage goes: vdisk check IMAGE',
    })
  }

  *close(): Io<void> {
    yield* settle(this.store.close())
  }

  private *number(at: number): Io<number> {
    const page = this.tables.peek(at) ?? (yield* this.tables.load(at))
    return page.view.getUint32(at - page.at + 4, true) * 2 ** 32 + page.view.getUint32(at - page.at, true)
  }
}
