import { type ByteStore, pastEnd } from './store.ts'

const PAGE = 4096

/**
 * What a store would be if it were written to: changes stay in memory, page by page, and the store itself is only read.
 * For showing what a change would do. Who opened the store below closes it.
 */
export class OverlayStore implements ByteStore {
  readonly name: string
  readonly writable = true
  private readonly below: ByteStore
  private readonly pages = new Map<number, Uint8Array>()
  /** bytes of the store below that still count: a truncation hides the rest for good */
  private shown: number
  private length: number

  /** @param size bytes that `below` has */
  constructor(below: ByteStore, size: number) {
    this.name = below.name
    this.below = below
    this.shown = size
    this.length = size
  }

  size(): number {
    return this.length
  }

  async read(at: number, target: Uint8Array): Promise<void> {
    if (at + target.length > this.length) throw pastEnd(this.name, at, target.length, this.length)
    const present = Math.max(0, Math.min(target.length, this.shown - at))
    if (present > 0) await this.below.read(at, target.subarray(0, present))
    target.fill(0, present)
    for (const { page, within, start, count } of pieces(at, target.length)) {
      const bytes = this.pages.get(page)
      if (bytes) target.set(bytes.subarray(within, within + count), start)
    }
  }

  async write(at: number, source: Uint8Array): Promise<void> {
    // What is written counts as it is now, whatever the caller does with the buffer while a page is read.
    const copy = source.slice()
    for (const { page, within, start, count } of pieces(at, copy.length)) {
      const bytes = this.pages.get(page) ?? (await this.pageFromBelow(page))
      bytes.set(copy.subarray(start, start + count), within)
      this.pages.set(page, bytes)
    }
    this.length = Math.max(this.length, at + copy.length)
  }

  async truncate(size: number): Promise<void> {
    if (size < this.length) {
      await this.write(size, new Uint8Array(Math.min(this.length - size, PAGE - (size % PAGE))))
      for (const page of this.pages.keys()) if (page * PAGE >= size) this.pages.delete(page)
      this.shown = Math.min(this.shown, size)
    }
    this.length = size
  }

  grow(size: number): void {
    this.length = Math.max(this.length, size)
  }

  flush(): void {}

  close(): void {}

  fileId(): string {
    return this.below.fileId?.() ?? this.name
  }

  private async pageFromBelow(page: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(PAGE)
    const present = Math.max(0, Math.min(PAGE, this.shown - page * PAGE))
    if (present > 0) await this.below.read(page * PAGE, bytes.subarray(0, present))
    // Somebody may have written to it meanwhile.
    return this.pages.get(page) ?? bytes
  }
}

/** Cuts a range at page borders: page, offset in it, offset in the range, length. */
function* pieces(
  at: number,
  length: number,
): Generator<{ page: number; within: number; start: number; count: number }> {
  for (let start = 0; start < length; ) {
    const page = Math.floor((at + start) / PAGE)
    const within = at + start - page * PAGE
    const count = Math.min(length - start, PAGE - within)
    yield { page, within, start, count }
    start += count
  }
}
