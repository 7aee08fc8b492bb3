import { ceilDiv } from '../../bytes/align.ts'
import type { Extent } from '../../contracts/extent.ts'
import type { FileEnd } from '../../contracts/file-room.ts'
import type { VdiskError } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { type Page, TableCache } from '../../io/table-cache.ts'
import { corrupt } from './damage.ts'
import type { Header } from './header.ts'
import { BAT_AT, BAT_ENTRY } from './layout.ts'
import { ZeroEnded } from './zero-ended.ts'

/** Bytes of BAT kept in memory. A whole BAT can have 512 MiB; it is never held. */
const CACHE = 8 << 20
const PAGE = 4096
/** Bytes read at a time by who walks over all entries. */
const STRIDE = 256 << 10

/** What an image that holds nothing at a place says there. */
export type Silence = 'zero' | 'parent'

/** From guest offsets to places in the file, for reading. ["BAT"] */
export class Bat {
  readonly header: Header
  readonly store: ByteStore
  /** pages of the file's beginning: the header is in the first */
  readonly tables: TableCache
  readonly silence: Silence
  /** replaced by what keeps account of room, where the file is written */
  space: FileEnd
  private readonly view: ByteStore

  constructor(header: Header, store: ByteStore, end: FileEnd, silence: Silence) {
    this.header = header
    this.store = store
    this.space = end
    this.silence = silence
    // The last page of a BAT may reach past the end of a small file.
    this.view = new ZeroEnded(store)
    this.tables = new TableCache(this.view, { pageSize: PAGE, capacity: CACHE })
  }

  get file(): string {
    return this.header.file
  }

  /**
   * Says what lies at `offset`: neighbouring clusters that lie side by side are one answer, as far as one page of the
   * BAT goes; what holds nothing is one answer as far as that goes.
   *
   * @throws VdiskError CORRUPT for an entry that cannot be right
   */
  *map(offset: number, length: number): Io<Extent> {
    if (this.header.isEmpty) return { kind: this.silence, length }
    const { clusterSize, unit } = this.header
    const cluster = Math.floor(offset / clusterSize)
    const start = offset - cluster * clusterSize
    const at = entryPlace(cluster)
    const page = this.tables.peek(at) ?? (yield* this.tables.load(at))
    const entry = page.view.getUint32(at - page.at, true)
    if (entry === 0) return yield* this.silent(page, cluster, start, length)
    const place = this.checkedPlace(cluster, entry)
    const step = clusterSize / unit
    let run = clusterSize - start
    for (let next = cluster + 1; run < length; next++) {
      const within = entryPlace(next) - page.at
      if (within >= page.bytes.length || page.view.getUint32(within, true) !== entry + (next - cluster) * step) break
      if (this.complaintAbout(next, place + (next - cluster) * clusterSize) !== undefined) break
      run += clusterSize
    }
    return { kind: 'data', length: Math.min(run, length), store: this.store, at: place + start }
  }

  /** Where a cluster lies; 0: nowhere. */
  *place(cluster: number): Io<number> {
    const at = entryPlace(cluster)
    const page = this.tables.peek(at) ?? (yield* this.tables.load(at))
    const entry = page.view.getUint32(at - page.at, true)
    return entry === 0 ? 0 : this.checkedPlace(cluster, entry)
  }

  /** Bytes of a cluster that the disk has. */
  usedOf(cluster: number): number {
    const { clusterSize, size } = this.header
    return Math.min(clusterSize, size - cluster * clusterSize)
  }

  /**
   * Visits all entries from `first` on, some at a time, as they are now: changes that are not written yet included. What
   * lies in a hole of the file is zero, and passed over.
   *
   * @param visit may not wait; false ends the walk
   */
  *walk(first: number, end: number, visit: (view: DataView, index: number, count: number) => unknown): Io<void> {
    const { pageSize } = this.tables
    const bytes = new Uint8Array(Math.min(STRIDE, Math.max(0, end - first) * BAT_ENTRY + pageSize))
    for (let index = first; index < end; ) {
      const at = entryPlace(index)
      const empty = yield* this.emptyRun(at, entryPlace(end))
      if (empty >= pageSize) {
        index += Math.floor(empty / BAT_ENTRY)
        continue
      }
      const part = bytes.subarray(0, Math.min(bytes.length - (at % pageSize), (end - index) * BAT_ENTRY))
      yield* settle(this.view.read(at, part))
      for (let page = at - (at % pageSize); page < at + part.length; page += pageSize) {
        const cached = this.tables.peek(page)
        if (!cached) continue
        const from = Math.max(page, at)
        part.set(cached.bytes.subarray(from - page, Math.min(pageSize, at + part.length - page)), from - at)
      }
      const count = part.length / BAT_ENTRY
      if (visit(new DataView(part.buffer, part.byteOffset, part.length), index, count) === false) return
      index += count
    }
  }

  /** What is wrong with a cluster that lies at `place`, in words; undefined: nothing. */
  complaintAbout(cluster: number, place: number): string | undefined {
    if (place < this.header.dataAt) return `points at ${place}, before the data begins`
    if (place + this.usedOf(cluster) > this.space.end) return `points at ${place}, past the end of the file`
    return undefined
  }

  private checkedPlace(cluster: number, entry: number): number {
    const place = entry * this.header.unit
    const complaint = this.complaintAbout(cluster, place)
    if (complaint !== undefined) throw this.badEntry(cluster, complaint)
    return place
  }

  /** Clusters that are not there: within the page they are counted at once, behind it by a walk. */
  private *silent(page: Page, cluster: number, start: number, length: number): Io<Extent> {
    const { clusterSize } = this.header
    const end = cluster + ceilDiv(start + length, clusterSize)
    let next = cluster + 1
    for (; next < end; next++) {
      const within = entryPlace(next) - page.at
      if (within >= page.bytes.length) {
        next = yield* this.silentFrom(next, end)
        break
      }
      if (page.view.getUint32(within, true) !== 0) break
    }
    return { kind: this.silence, length: Math.min(length, (next - cluster) * clusterSize - start) }
  }

  /** The first cluster from `first` on that is there; `end` if none is. */
  private *silentFrom(first: number, end: number): Io<number> {
    let found = end
    yield* this.walk(first, end, (view, index, count) => {
      for (let i = 0; i < count; i++) {
        if (view.getUint32(i * BAT_ENTRY, true) === 0) continue
        found = index + i
        return false
      }
      return true
    })
    return found
  }

  /** Bytes of table from `at` on, before `end`, that neither the file has room for nor memory a page of. */
  private *emptyRun(at: number, end: number): Io<number> {
    if (!this.store.segment || at >= (yield* settle(this.store.size()))) return 0
    const segment = yield* settle(this.store.segment(at))
    return segment.kind === 'data' ? 0 : this.tables.nextHeld(at, Math.min(end, at + segment.length)) - at
  }

  private badEntry(cluster: number, why: string): VdiskError {
    return corrupt(
      this.file,
      `entry ${cluster} of its BAT ${why}`,
      {
        structure: 'BAT',
        index: cluster,
        at: entryPlace(cluster),
        offset: cluster * this.header.clusterSize,
        section: 'BAT',
      },
      'See how far the damage goes: vdisk check IMAGE',
    )
  }
}

/** Bytes in the file of a cluster's entry. */
export function entryPlace(cluster: number): number {
  return BAT_AT + cluster * BAT_ENTRY
}
