import { type ByteStore, pastEnd, readOnly, type Segment } from './store.ts'

const PAGE = 65536
/** Pages of a hole that are looked for one by one; from there on all that there are take less time. */
const WALKED = 1024

/** A store in memory, sparse: pages exist once written, so a disk of 64 TiB costs what it holds. For tests and small work. */
export class MemoryStore implements ByteStore {
  readonly name: string
  readonly writable: boolean
  private readonly pages = new Map<number, Uint8Array>()
  private length = 0

  constructor(name = 'memory', options: { content?: Uint8Array; writable?: boolean } = {}) {
    this.name = name
    this.writable = true
    if (options.content) this.write(0, options.content)
    this.writable = options.writable ?? true
  }

  size(): number {
    return this.length
  }

  read(at: number, target: Uint8Array): void {
    if (at + target.length > this.length) throw pastEnd(this.name, at, target.length, this.length)
    for (const [page, within, start, count] of pieces(at, target.length)) {
      const bytes = this.pages.get(page)
      if (bytes) target.set(bytes.subarray(within, within + count), start)
      else target.fill(0, start, start + count)
    }
  }

  write(at: number, source: Uint8Array): void {
    this.assertWritable()
    for (const [page, within, start, count] of pieces(at, source.length)) {
      let bytes = this.pages.get(page)
      if (!bytes) {
        bytes = new Uint8Array(PAGE)
        this.pages.set(page, bytes)
      }
      bytes.set(source.subarray(start, start + count), within)
    }
    this.length = Math.max(this.length, at + source.length)
  }

  truncate(size: number): void {
    this.assertWritable()
    if (size < this.length) this.clear(size, this.length - size)
    this.length = size
  }

  grow(size: number): void {
    if (size > this.length) this.truncate(size)
  }

  deallocate(at: number, length: number): void {
    this.assertWritable()
    this.clear(at, Math.max(0, Math.min(length, this.length - at)))
  }

  segment(at: number): Segment {
    const first = Math.floor(at / PAGE)
    const present = this.pages.has(first)
    let next = first + 1
    while (next * PAGE < this.length && this.pages.has(next) === present) {
      if (!present && next - first >= WALKED) {
        next = this.nextPage(next)
        break
      }
      next++
    }
    return { kind: present ? 'data' : 'hole', length: Math.min(next * PAGE, this.length) - at }
  }

  occupied(): number {
    return this.pages.size * PAGE
  }

  flush(): void {}

  close(): void {}

  /** The whole content, for small stores. */
  bytes(): Uint8Array {
    const all = new Uint8Array(this.length)
    this.read(0, all)
    return all
  }

  /** The first page that is there from one on; without an end if there is none. */
  private nextPage(from: number): number {
    let next = Number.POSITIVE_INFINITY
    for (const page of this.pages.keys()) if (page >= from && page < next) next = page
    return next
  }

  private clear(at: number, length: number): void {
    if (length > PAGE * Math.max(WALKED, this.pages.size)) {
      this.clearFar(at, length)
      return
    }
    for (const [page, within, , count] of pieces(at, length)) {
      if (count === PAGE) this.pages.delete(page)
      else this.pages.get(page)?.fill(0, within, within + count)
    }
  }

  /** The same by the pages that are there: the range may be a hole of exabytes. */
  private clearFar(at: number, length: number): void {
    for (const [page, bytes] of this.pages) {
      const from = Math.max(at - page * PAGE, 0)
      const to = Math.min(at + length - page * PAGE, PAGE)
      if (from >= to) continue
      if (to - from === PAGE) this.pages.delete(page)
      else bytes.fill(0, from, to)
    }
  }

  private assertWritable(): void {
    if (!this.writable) throw readOnly(this.name)
  }
}

/** Cuts a range at page borders: [page, offset in the page, offset in the range, length]. */
function* pieces(at: number, length: number): Generator<[number, number, number, number]> {
  for (let done = 0; done < length; ) {
    const page = Math.floor((at + done) / PAGE)
    const within = at + done - page * PAGE
    const count = Math.min(length - done, PAGE - within)
    yield [page, within, done, count]
    done += count
  }
}
