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
    this.below = below
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
    const page = (present ?? this.below?.page(number) ?? HOLE).slice()
    this.own.set(number, page)
    return page
  }
}

/** 52 bits that a page's content and place decide; 0 for zeros, so that a hole and zeros are the same. */
export function pageHash(place: number, page: Uint8Array | undefined): number {
  if (page === undefined) return 0
  const words = new Uint32Array(page.buffer, page.byteOffset, PAGE / 4)
  let [a, b] = [0, 0]
  for (let i = 0; i < words.length; i++) {
    const word = words[i] as number
    if (word === 0) continue
    a = Math.imul(a ^ Math.imul(word ^ i, 0x9e3779b1), 0x85ebca6b)
    a ^= a >>> 15
    b = Math.imul(b + Math.imul(word + i * 0x27d4eb2f, 0xc2b2ae35), 0x165667b1)
    b ^= b >>> 13
  }
  if (a === 0 && b === 0) return 0
  a = Math.imul(a ^ place, 0x2c1b3c6d)
  b = Math.imul(b + place, 0x297a2d39)
  return ((a ^ (a >>> 16)) >>> 0) * 2 ** 20 + ((b ^ (b >>> 12)) & 0xfffff)
}
