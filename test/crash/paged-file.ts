import { pastEnd, type Segment } from '../../lib/io/store.ts'

/** Bytes per page: what a state copies when it differs from the one below it. */
export const PAGE = 4096

/** A page that reads as zero and takes no room. Never written to. */
const HOLE = new Uint8Array(PAGE)

/**
 * A file in memory that shares what it has in common with another one: pages are copied when they are first changed.
 *
 * So a crash state costs the pages in which it differs, however large the file is. What a file was forked from must not
 * change while the fork is in use.
 */
export class PagedFile {
  private readonly below: PagedFile | undefined
  private readonly own = new Map<number, Uint8Array>()
  private length: number
  /** nanoseconds since 1970 of the last change */
  modified: bigint

  constructor(below?: PagedFile) {
    // Of forks that changed nothing none is asked.
    this.below = below?.own.size === 0 ? below.below : below
    this.length = below?.length ?? 0
    this.modified = below?.modified ?? 0n
  }

  get size(): number {
    return this.length
  }

  /** Pages that were changed since the fork, by number. */
  get changed(): ReadonlyMap<number, Uint8Array> {
    return this.own
  }

  /** The page as it is; undefined: a hole. Not to be changed. */
  page(number: number): Uint8Array | undefined {
    const page = this.own.get(number) ?? this.below?.page(number)
    return page === HOLE ? undefined : page
  }

  read(name: string, at: number, target: Uint8Array): void {
    if (at + target.length > this.length) throw pastEnd(name, at, target.length, this.length)
    for (let done = 0; done < target.length; ) {
      const within = (at + done) % PAGE
      const count = Math.min(target.length - done, PAGE - within)
      const page = this.page((at + done - within) / PAGE)
      if (page === undefined) target.fill(0, done, done + count)
      else if (count === PAGE) target.set(page, done)
      else target.set(page.subarray(within, within + count), done)
      done += count
    }
  }

  write(at: number, source: Uint8Array): void {
    for (let done = 0; done < source.length; ) {
      const within = (at + done) % PAGE
      const count = Math.min(source.length - done, PAGE - within)
      this.ownPage((at + done - within) / PAGE).set(source.subarray(done, done + count), within)
      done += count
    }
    this.length = Math.max(this.length, at + source.length)
  }

  /** The range reads as zero; the size stays. */
  punch(at: number, length: number): void {
    const end = Math.min(at + length, this.length)
    for (let from = at; from < end; ) {
      const within = from % PAGE
      const count = Math.min(end - from, PAGE - within)
      const number = (from - within) / PAGE
      if (this.page(number) !== undefined) {
        if (count === PAGE) this.own.set(number, HOLE)
        else this.ownPage(number).fill(0, within, within + count)
      }
      from += count
    }
  }

  truncate(size: number): void {
    if (size < this.length) this.punch(size, this.length - size)
    this.length = size
  }

  segment(at: number): Segment {
    const first = Math.floor(at / PAGE)
    const kind = this.page(first) === undefined ? 'hole' : 'data'
    let end = first + 1
    while (end * PAGE < this.length && (this.page(end) === undefined ? 'hole' : 'data') === kind) end++
    return { kind, length: Math.min(end * PAGE, this.length) - at }
  }

  /** The whole content, for small files. */
  bytes(): Uint8Array {
    const all = new Uint8Array(this.length)
    this.read('', 0, all)
    return all
  }

  private ownPage(number: number): Uint8Array {
    const present = this.own.get(number)
    if (present !== undefined && present !== HOLE) return present
    const page = copyOf(present ?? this.below?.page(number) ?? HOLE)
    this.own.set(number, page)
    return page
  }
}

/** Pages that share a piece of memory: a piece for each would keep the collector of garbage busy. */
const TOGETHER = 16
let piece = new Uint8Array(0)
let left = 0

function copyOf(page: Uint8Array): Uint8Array {
  if (left === 0) {
    piece = new Uint8Array(TOGETHER * PAGE)
    left = TOGETHER
  }
  left--
  const copy = piece.subarray(left * PAGE, (left + 1) * PAGE)
  copy.set(page)
  return copy
}
