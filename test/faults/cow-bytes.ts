import type { Segment } from '../../lib/io/store.ts'

const PAGE = 4096

/** Bytes of a file in pages that copies share until one of them changes: a copy costs next to nothing. */
export class CowBytes {
  private readonly pages: Map<number, Uint8Array>
  /** pages that no other copy has */
  private own = new Set<number>()
  private length: number

  constructor(from?: CowBytes) {
    this.pages = new Map(from?.pages)
    this.length = from?.length ?? 0
    // From here on the pages are the other's no more than ours.
    if (from) from.own = new Set()
  }

  get size(): number {
    return this.length
  }

  /** The range lies within the size. */
  read(at: number, target: Uint8Array): void {
    forPages(at, target.length, (page, within, start, count) => {
      const bytes = this.pages.get(page)
      if (bytes) target.set(bytes.subarray(within, within + count), start)
      else target.fill(0, start, start + count)
    })
  }

  write(at: number, source: Uint8Array): void {
    forPages(at, source.length, (page, within, start, count) => {
      this.toChange(page).set(source.subarray(start, start + count), within)
    })
    this.length = Math.max(this.length, at + source.length)
  }

  truncate(size: number): void {
    if (size < this.length) this.clear(size, this.length - size)
    this.length = size
  }

  /** The range reads as zero afterwards. */
  clear(at: number, length: number): void {
    forPages(at, length, (page, within, _start, count) => {
      if (count === PAGE) this.pages.delete(page)
      else if (this.pages.has(page)) this.toChange(page).fill(0, within, within + count)
    })
  }

  segment(at: number): Segment {
    const first = Math.floor(at / PAGE)
    const present = this.pages.has(first)
    let end = (first + 1) * PAGE
    while (end < this.length && this.pages.has(end / PAGE) === present) end += PAGE
    return { kind: present ? 'data' : 'hole', length: Math.min(end, this.length) - at }
  }

  occupied(): number {
    return this.pages.size * PAGE
  }

  private toChange(page: number): Uint8Array {
    const old = this.pages.get(page)
    if (old && this.own.has(page)) return old
    const bytes = old ? old.slice() : new Uint8Array(PAGE)
    this.pages.set(page, bytes)
    this.own.add(page)
    return bytes
  }
}

/** Cuts a range at page borders: page, offset in the page, offset in the range, length. */
function forPages(
  at: number,
  length: number,
  work: (page: number, within: number, start: number, count: number) => void,
): void {
  for (let done = 0; done < length; ) {
    const page = Math.floor((at + done) / PAGE)
    const within = at + done - page * PAGE
    const count = Math.min(length - done, PAGE - within)
    work(page, within, done, count)
    done += count
  }
}
