import { type Io, settle } from './io.ts'
import type { ByteStore } from './store.ts'

/** Smallest unit in which a change is written back: what a disk writes whole. */
const SECTOR = 512

/** Where tables lie: a file, or whatever leads to places in one. */
export type TableStore = Pick<ByteStore, 'read' | 'write'>

/** A piece of a metadata table in memory. `changed` has one bit for each of its sectors that the store does not have yet. */
export interface Page {
  /** bytes, a multiple of the page size */
  readonly at: number
  readonly bytes: Uint8Array
  readonly view: DataView
  changed: number
  used: boolean
  /** rounds that have taken changes of this page and not yet written them; until then it may not be forgotten */
  taken: number
}

/** Changed table bytes as they stood when they were taken: one entry for each run of neighbouring sectors. */
export interface Batch {
  readonly runs: readonly { readonly at: number; readonly bytes: Uint8Array }[]
  readonly pages: readonly { readonly page: Page; readonly changed: number }[]
}

/**
 * A bounded cache of metadata tables: pages of a store, read when first asked for, forgotten when long unused.
 *
 * It knows nothing of formats or of order. Changed pages stay until their owner takes the changes and writes them in
 * the order the format demands; only changed sectors are written, so that an update of eight bytes costs 512, not a
 * cluster. Taking copies the bytes: what changes afterwards belongs to the next round.
 */
export class TableCache {
  readonly pageSize: number
  private readonly store: TableStore
  private readonly capacity: number
  private readonly pages = new Map<number, Page>()
  private readonly loading = new Map<number, Promise<Page>>()
  private readonly changedPages = new Set<Page>()
  private last: Page | undefined

  /**
   * @param pageSize bytes, a power of two from 512 to 16384; tables are multiples of it
   * @param capacity bytes to keep, changed pages not counted
   */
  constructor(store: TableStore, { pageSize, capacity }: { pageSize: number; capacity: number }) {
    this.store = store
    this.pageSize = pageSize
    this.capacity = Math.max(4, Math.floor(capacity / pageSize))
  }

  /** The page that holds byte `at`, if it is here: the fast way. */
  peek(at: number): Page | undefined {
    const last = this.last
    if (last && at >= last.at && at < last.at + this.pageSize) return last
    const page = this.pages.get(Math.floor(at / this.pageSize))
    if (page) {
      page.used = true
      this.last = page
    }
    return page
  }

  /** Where the first page that is in memory begins, from `at` on; `end` if there is none before. */
  nextHeld(at: number, end: number): number {
    let next = end
    for (const page of this.pages.values()) if (page.at < next && page.at + this.pageSize > at) next = page.at
    return Math.max(at, next)
  }

  /** The page that holds byte `at`, read if need be. @throws VdiskError OUT_OF_RANGE, IO */
  *load(at: number): Io<Page> {
    const here = this.peek(at)
    if (here) return here
    const number = Math.floor(at / this.pageSize)
    const underway = this.loading.get(number)
    if (underway) return (yield underway) as Page
    const page = newPage(number * this.pageSize, this.pageSize)
    const reading = this.store.read(page.at, page.bytes)
    if (!(reading instanceof Promise)) return this.keep(number, page)
    const arrival = reading
      // A page made fresh while this one was read is the truth; the bytes read are older.
      .then(() => this.pages.get(number) ?? this.keep(number, page))
      .finally(() => this.loading.delete(number))
    this.loading.set(number, arrival)
    return (yield arrival) as Page
  }

  /** A page of zeros for a table that is being made: nothing is read, all of it counts as changed. */
  fresh(at: number): Page {
    const number = Math.floor(at / this.pageSize)
    const before = this.pages.get(number)
    if (before) this.forget(number, before)
    const page = this.keep(number, newPage(number * this.pageSize, this.pageSize))
    this.touch(page, 0, this.pageSize)
    return page
  }

  /** Marks bytes of a page as changed. */
  touch(page: Page, within: number, length: number): void {
    for (let sector = within >>> 9; sector <= (within + length - 1) >>> 9; sector++) page.changed |= 1 << sector
    this.changedPages.add(page)
  }

  /** Bytes of pages that wait to be written. */
  get changedBytes(): number {
    return this.changedPages.size * this.pageSize
  }

  /** Takes the changes of the pages that `wanted` picks (default: all). Each batch ends in `write` or `putBack`. */
  take(wanted: (page: Page) => boolean = () => true): Batch {
    const pages = [...this.changedPages].filter(wanted).sort((a, b) => a.at - b.at)
    const batch = { runs: joinSectors(pages), pages: pages.map((page) => ({ page, changed: page.changed })) }
    for (const page of pages) {
      page.changed = 0
      page.taken++
      this.changedPages.delete(page)
    }
    return batch
  }

  /** Writes a batch. If that fails its changes count as not written, so that nothing is forgotten. */
  *write(batch: Batch): Io<void> {
    try {
      for (const { at, bytes } of batch.runs) yield* settle(this.store.write(at, bytes))
    } catch (error) {
      this.putBack(batch)
      throw error
    }
    for (const { page } of batch.pages) page.taken--
  }

  /** Gives a batch back unwritten: an earlier step of the same round failed. */
  putBack(batch: Batch): void {
    for (const { page, changed } of batch.pages) {
      page.taken--
      page.changed |= changed
      if (this.pages.get(Math.floor(page.at / this.pageSize)) === page) this.changedPages.add(page)
    }
  }

  /** Forgets pages of a range, changes and all: the table is gone. */
  drop(at: number, length: number): void {
    for (let number = Math.floor(at / this.pageSize); number * this.pageSize < at + length; number++) {
      const page = this.pages.get(number)
      if (page) this.forget(number, page)
    }
  }

  private keep(number: number, page: Page): Page {
    if (this.pages.size >= this.capacity) this.evict()
    this.pages.set(number, page)
    this.last = page
    return page
  }

  private forget(number: number, page: Page): void {
    this.pages.delete(number)
    this.changedPages.delete(page)
    if (this.last === page) this.last = undefined
  }

  /** Second chance: pages used since the last sweep go to the back once, changed pages always stay. */
  private evict(): void {
    let looks = this.pages.size
    for (const [number, page] of this.pages) {
      if (looks-- === 0) return
      if (page.changed === 0 && page.taken === 0 && !page.used) {
        this.forget(number, page)
        if (this.pages.size < this.capacity) return
        continue
      }
      page.used = false
      this.pages.delete(number)
      this.pages.set(number, page)
    }
  }
}

function newPage(at: number, size: number): Page {
  const bytes = new Uint8Array(size)
  return { at, bytes, view: new DataView(bytes.buffer), changed: 0, used: true, taken: 0 }
}

/** Copies the changed sectors of pages that are in order of place; neighbours become one run. */
function joinSectors(pages: readonly Page[]): Batch['runs'] {
  const runs: { at: number; parts: Uint8Array[]; length: number }[] = []
  for (const page of pages) {
    for (let within = 0; within < page.bytes.length; within += SECTOR) {
      if ((page.changed & (1 << (within >>> 9))) === 0) continue
      const part = page.bytes.subarray(within, within + SECTOR)
      const last = runs.at(-1)
      if (last && last.at + last.length === page.at + within) {
        last.parts.push(part)
        last.length += SECTOR
      } else {
        runs.push({ at: page.at + within, parts: [part], length: SECTOR })
      }
    }
  }
  return runs.map(({ at, parts }) => ({ at, bytes: Buffer.concat(parts) }))
}
