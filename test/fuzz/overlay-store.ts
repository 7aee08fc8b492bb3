import type { ByteStore, Segment } from '../../lib/io/store.ts'
import { pastEnd } from '../../lib/io/store.ts'

const PAGE = 4096

/** The bytes of a file as pages of 4 KiB by number; a page that is not there is zero. Nobody changes them. */
export interface Frozen {
  readonly size: number
  readonly pages: ReadonlyMap<number, Uint8Array>
}

/**
 * Takes a store's content once, so that thousands of overlays can share it. Pages of zeros are left out, and holes not
 * looked at: they begin and end at pages.
 */
export function freeze(store: ByteStore): Frozen {
  const size = store.size() as number
  const pages = new Map<number, Uint8Array>()
  const zeros = new Uint8Array(PAGE)
  for (let at = 0; at < size; ) {
    const segment = store.segment?.(at) as Segment | undefined
    if (segment?.kind === 'hole') {
      at += segment.length
      continue
    }
    const page = new Uint8Array(PAGE)
    void store.read(at, page.subarray(0, Math.min(PAGE, size - at)))
    if (Buffer.compare(page, zeros) !== 0) pages.set(at / PAGE, page)
    at += PAGE
  }
  return { size, pages }
}

/**
 * A store in memory over bytes that stay as they are: what is written lies in pages of its own. To begin anew costs
 * nothing, however large the file is.
 */
export class OverlayStore implements ByteStore {
  readonly name: string
  writable = true
  private readonly base: Frozen
  /** null: a hole, whatever the base has there */
  private readonly pages = new Map<number, Uint8Array | null>()
  /** bytes of the base that still count; what was cut off and grown again is zero */
  private kept: number
  private length: number

  constructor(name: string, base: Frozen) {
    this.name = name
    this.base = base
    this.kept = base.size
    this.length = base.size
  }

  /** bytes of memory that this overlay takes */
  get taken(): number {
    return this.pages.size * PAGE
  }

  /** What it holds now, for overlays upon it. The pages are shared: nobody may write to this one any more. */
  frozen(): Frozen {
    const pages = new Map<number, Uint8Array>()
    for (const [number, page] of this.base.pages) {
      if (number * PAGE < this.kept) pages.set(number, page)
    }
    for (const [number, page] of this.pages) {
      if (page) pages.set(number, page)
      else pages.delete(number)
    }
    return { size: this.length, pages }
  }

  size(): number {
    return this.length
  }

  read(at: number, target: Uint8Array): void {
    if (at + target.length > this.length) throw pastEnd(this.name, at, target.length, this.length)
    for (let done = 0; done < target.length; ) {
      const number = Math.floor((at + done) / PAGE)
      const within = at + done - number * PAGE
      const count = Math.min(PAGE - within, target.length - done)
      const page = this.page(number)
      if (page) target.set(page.subarray(within, within + count), done)
      else target.fill(0, done, done + count)
      done += count
    }
  }

  write(at: number, source: Uint8Array): void {
    for (let done = 0; done < source.length; ) {
      const number = Math.floor((at + done) / PAGE)
      const within = at + done - number * PAGE
      const count = Math.min(PAGE - within, source.length - done)
      this.own(number).set(source.subarray(done, done + count), within)
      done += count
    }
    this.length = Math.max(this.length, at + source.length)
  }

  truncate(size: number): void {
    if (size < this.length) {
      for (const number of this.pages.keys()) if (number * PAGE >= size) this.pages.delete(number)
      if (size % PAGE !== 0 && this.page(Math.floor(size / PAGE))) {
        this.own(Math.floor(size / PAGE)).fill(0, size % PAGE)
      }
      this.kept = Math.min(this.kept, Math.ceil(size / PAGE) * PAGE)
    }
    this.length = size
  }

  grow(size: number): void {
    this.length = Math.max(this.length, size)
  }

  deallocate(at: number, length: number): void {
    const end = Math.min(at + length, this.length)
    // Page by page of those that there are: the range may be a hole of terabytes.
    for (const number of new Set([...this.pages.keys(), ...this.base.pages.keys()])) {
      const from = Math.max(at - number * PAGE, 0)
      const to = Math.min(end - number * PAGE, PAGE)
      if (from >= to || !this.page(number)) continue
      if (to - from === PAGE) this.pages.set(number, null)
      else this.own(number).fill(0, from, to)
    }
  }

  segment(at: number): Segment {
    const number = Math.floor(at / PAGE)
    const present = this.page(number) !== undefined
    if (!present) {
      const next = this.nextPage(number)
      return { kind: 'hole', length: Math.min(next === undefined ? this.length : next * PAGE, this.length) - at }
    }
    return { kind: 'data', length: Math.min((number + 1) * PAGE, this.length) - at }
  }

  occupied(): number {
    return (this.base.pages.size + this.pages.size) * PAGE
  }

  flush(): void {}

  close(): void {}

  private page(number: number): Uint8Array | undefined {
    const own = this.pages.get(number)
    if (own !== undefined) return own ?? undefined
    return number * PAGE < this.kept ? this.base.pages.get(number) : undefined
  }

  private nextPage(after: number): number | undefined {
    let next: number | undefined
    const consider = (number: number): void => {
      if (number > after && (next === undefined || number < next)) next = number
    }
    for (const number of [...this.pages.keys(), ...this.base.pages.keys()]) if (this.page(number)) consider(number)
    return next
  }

  private own(number: number): Uint8Array {
    let page = this.pages.get(number)
    if (!page) {
      page = this.page(number)?.slice() ?? new Uint8Array(PAGE)
      this.pages.set(number, page)
    }
    return page
  }
}
