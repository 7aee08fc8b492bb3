import { pastEnd, type Segment } from '../../lib/io/store.ts'

/** Bytes per page: what a state copies when it differs from the one below it. */
export const PAGE = 4096

const ZEROS = new Uint8Array(PAGE)

/** Pages begin at multiples of this many bytes of their memory, so that they can be looked at in words. */
const WORD = 4

/**
 * A file in memory that shares what it has in common with another one: pages are copied when they are first changed.
 *
 * So a crash state costs the pages in which it differs, however large the file is. What a file was forked from must not
 * change while the fork is in use.
 */
export class PagedFile {
  /** by number; undefined: a hole. Those behind the last one are holes too */
  private pages: (Uint8Array | undefined)[]
  /** the list is that of the file below, until a page is changed */
  private isForked: boolean
  /** pages that were changed since the fork; true: their bytes are nobody else's */
  private readonly own = new Map<number, boolean>()
  private length: number
  /** what it was forked from */
  readonly below: PagedFile | undefined
  /** a number that its pages decide, for whoever works it out; undefined: they have changed since */
  hash: number | undefined
  /** nanoseconds since 1970 of the last change */
  modified: bigint

  constructor(below?: PagedFile) {
    this.below = below
    this.hash = below?.hash
    this.pages = below?.pages ?? []
    this.isForked = below !== undefined
    this.length = below?.length ?? 0
    this.modified = below?.modified ?? 0n
  }

  get size(): number {
    return this.length
  }

  /** Numbers of the pages that were changed since the fork. */
  get changed(): Iterable<number> {
    return this.own.keys()
  }

  /** The page as it is; undefined: a hole. Not to be changed. */
  page(number: number): Uint8Array | undefined {
    return this.pages[number]
  }

  read(name: string, at: number, target: Uint8Array): void {
    if (at + target.length > this.length) throw pastEnd(name, at, target.length, this.length)
    for (let done = 0; done < target.length; ) {
      const within = (at + done) % PAGE
      const count = Math.min(target.length - done, PAGE - within)
      const page = this.pages[(at + done - within) / PAGE]
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

  /** The same of bytes that never change: whole pages of them are not copied, where they lie as pages do. */
  keep(at: number, source: Uint8Array): void {
    for (let done = 0; done < source.length; ) {
      const within = (at + done) % PAGE
      const count = Math.min(source.length - done, PAGE - within)
      const piece = source.subarray(done, done + count)
      const number = (at + done - within) / PAGE
      if (count === PAGE && piece.byteOffset % WORD === 0) this.replace(number, piece, false)
      else this.ownPage(number).set(piece, within)
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
      if (this.pages[number] !== undefined) {
        if (count === PAGE) this.replace(number, undefined, false)
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
    const { pages } = this
    const first = Math.floor(at / PAGE)
    const last = Math.ceil(this.length / PAGE)
    const isHole = pages[first] === undefined
    let end = first + 1
    while (end < last && (pages[end] === undefined) === isHole) end++
    return { kind: isHole ? 'hole' : 'data', length: Math.min(end * PAGE, this.length) - at }
  }

  /** The whole content, for small files. */
  bytes(): Uint8Array {
    const all = new Uint8Array(this.length)
    this.read('', 0, all)
    return all
  }

  private ownPage(number: number): Uint8Array {
    this.hash = undefined
    const present = this.pages[number]
    if (present !== undefined && this.own.get(number)) return present
    const page = copyOf(present ?? ZEROS)
    this.replace(number, page, true)
    return page
  }

  /** @param isOwn nobody else has the bytes of the page */
  private replace(number: number, page: Uint8Array | undefined, isOwn: boolean): void {
    this.hash = undefined
    if (this.isForked) {
      this.pages = this.pages.slice()
      this.isForked = false
    }
    // A list with gaps would be a slow one.
    while (this.pages.length < number) this.pages.push(undefined)
    this.pages[number] = page
    this.own.set(number, isOwn)
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
