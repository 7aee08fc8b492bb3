import { VdiskError } from '../errors.ts'
import { type Awaitable, type Io, settle } from './io.ts'
import { type ByteStore, pastEnd, readOnly } from './store.ts'

/** bytes of the beginning and of the end that are kept */
const HEAD = 64 << 10
const TAIL = 512
/** Bytes that are read in all, besides the two: whatever a file says of itself cannot make it more. */
const MOST = 8 << 20
/** Bytes of one piece: no structure by which a file is judged is larger. */
const LONGEST_PIECE = 1 << 20

/** A file of which only a bounded part is ever read, and nothing written. */
export class BoundedStore implements ByteStore {
  readonly name: string
  readonly writable = false
  /** bytes in the file */
  readonly length: number
  /** the first 64 KiB, or less if there is less */
  readonly head: Uint8Array
  /** the last 512 bytes, or less */
  readonly tail: Uint8Array
  private readonly inner: ByteStore
  private left = MOST

  private constructor(inner: ByteStore, length: number, head: Uint8Array, tail: Uint8Array) {
    this.inner = inner
    this.name = inner.name
    this.length = length
    this.head = head
    this.tail = tail
  }

  static *over(inner: ByteStore): Io<BoundedStore> {
    const length = yield* settle(inner.size())
    const head = new Uint8Array(Math.min(HEAD, length))
    const tail = new Uint8Array(Math.min(TAIL, length))
    yield* settle(inner.read(0, head))
    yield* settle(inner.read(length - tail.length, tail))
    return new BoundedStore(inner, length, head, tail)
  }

  /** @returns undefined if the range does not lie in the file, or is longer than 1 MiB. The bytes are not to be changed */
  *peek(at: number, length: number): Io<Uint8Array | undefined> {
    const lies = Number.isSafeInteger(at) && at >= 0 && length >= 0 && at + length <= this.length
    if (!lies || length > LONGEST_PIECE) return undefined
    if (at + length <= this.head.length) return this.head.subarray(at, at + length)
    const bytes = new Uint8Array(length)
    yield* settle(this.read(at, bytes))
    return bytes
  }

  size(): number {
    return this.length
  }

  /** @throws VdiskError LIMIT_EXCEEDED where more would be read than anybody needs to judge a file */
  read(at: number, target: Uint8Array): Awaitable<void> {
    if (at + target.length > this.length) throw pastEnd(this.name, at, target.length, this.length)
    if (at + target.length <= this.head.length) {
      target.set(this.head.subarray(at, at + target.length))
      return
    }
    if (target.length > this.left) {
      throw new VdiskError('LIMIT_EXCEEDED', {
        message: `Cannot inspect ${this.name}: more than ${MOST} bytes of it would have to be read`,
        where: { file: this.name, at },
      })
    }
    this.left -= target.length
    return this.inner.read(at, target)
  }

  write(): never {
    throw readOnly(this.name)
  }

  truncate(): never {
    throw readOnly(this.name)
  }

  grow(): never {
    throw readOnly(this.name)
  }

  flush(): void {}

  /** The file belongs to whoever opened it. */
  close(): void {}
}
