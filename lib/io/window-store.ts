import type { Awaitable } from './io.ts'
import { type ByteStore, type FileStamp, pastEnd, readOnly, type Segment, type Wrapping } from './store.ts'

/** Which part of a store a window shows. */
export interface Window {
  /** byte of the store at which it begins */
  readonly at: number
  /** bytes; undefined: all that follows, which can be written where the store can */
  readonly length: number | undefined
  readonly wrapping?: Wrapping | undefined
  /** the store belongs to whoever has the window, and is closed with it */
  readonly owned?: boolean | undefined
}

/** A part of another store as a store of its own, whose places count from its beginning. */
export class WindowStore implements ByteStore {
  readonly name: string
  readonly writable: boolean
  readonly wrapping?: Wrapping
  private readonly inner: ByteStore
  private readonly at: number
  private readonly length: number | undefined
  private readonly owned: boolean

  constructor(inner: ByteStore, { at, length, wrapping, owned = false }: Window) {
    this.inner = inner
    this.name = inner.name
    this.at = at
    this.length = length
    this.writable = inner.writable && length === undefined
    this.owned = owned
    if (wrapping) this.wrapping = wrapping
  }

  size(): Awaitable<number> {
    if (this.length !== undefined) return this.length
    const size = this.inner.size()
    return size instanceof Promise ? size.then((all) => this.behind(all)) : this.behind(size)
  }

  read(at: number, target: Uint8Array): Awaitable<void> {
    if (this.length !== undefined && at + target.length > this.length) {
      throw pastEnd(this.name, at, target.length, this.length)
    }
    return this.inner.read(this.at + at, target)
  }

  write(at: number, source: Uint8Array): Awaitable<void> {
    this.assertWritable()
    return this.inner.write(this.at + at, source)
  }

  truncate(size: number): Awaitable<void> {
    this.assertWritable()
    return this.inner.truncate(this.at + size)
  }

  grow(size: number): Awaitable<void> {
    this.assertWritable()
    return this.inner.grow(this.at + size)
  }

  flush(): Awaitable<void> {
    if (this.writable) return this.inner.flush()
  }

  close(): Awaitable<void> {
    if (this.owned) return this.inner.close()
  }

  segment(at: number): Awaitable<Segment> {
    const rest = (this.length ?? Number.MAX_SAFE_INTEGER) - at
    const found = this.inner.segment?.(this.at + at)
    const cut = ({ kind, length }: Segment): Segment => ({ kind, length: Math.min(length, rest) })
    if (found === undefined) return { kind: 'data', length: rest }
    return found instanceof Promise ? found.then(cut) : cut(found)
  }

  occupied(): Awaitable<number> {
    return this.length ?? this.size()
  }

  /** Of the store that it is a part of: what is written there is written here. */
  stamp(): FileStamp {
    return this.inner.stamp?.() ?? { size: this.length ?? 0, modified: 0n, inode: 0n, born: 0n }
  }

  fileId(): string {
    return this.inner.fileId?.() ?? this.name
  }

  standsFor(other: ByteStore): boolean {
    if (!(other instanceof WindowStore) || other.at !== this.at || other.length !== this.length) return false
    return this.inner.standsFor?.(other.inner) ?? false
  }

  private behind(size: number): number {
    return Math.max(0, size - this.at)
  }

  private assertWritable(): void {
    if (!this.writable) throw readOnly(this.name)
  }
}
