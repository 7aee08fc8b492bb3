import type { Extent } from '../../contracts/extent.ts'
import type { Image } from '../../contracts/image.ts'
import type { Layer, Reservation, WritableLayer } from '../../contracts/layer.ts'
import { type Io, just, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'

/** Bytes per granule: the block size of most file systems, so that erasing gives room back. */
const GRANULE = 4096

const NOTHING_KNOWN: { kind: 'data' | 'hole'; start: number; end: number } = { kind: 'hole', start: 0, end: 0 }

/**
 * The bytes of a disk in order. There is nothing to keep in step, so writes go straight to the store and `flush` is
 * the store's. Holes of the file are extents of zeros, found when first met and remembered one at a time.
 */
export function* openRawLayer(image: Image, write: boolean): Io<Layer | WritableLayer> {
  const size = yield* settle(image.store.size())
  return write ? new WritableRawLayer(image, size) : new RawLayer(image, size)
}

class RawLayer implements Layer {
  readonly format = 'raw'
  readonly granularity = GRANULE
  readonly identity = undefined
  readonly parent = undefined
  readonly merged = undefined
  readonly details = {}
  readonly name: string
  readonly store: ByteStore
  protected bytes: number
  /** the segment met last: offsets start .. end-1 are `kind` */
  protected known = NOTHING_KNOWN

  constructor(image: Image, size: number) {
    this.name = image.name
    this.store = image.store
    this.bytes = size
  }

  get size(): number {
    return this.bytes
  }

  *map(offset: number, length: number): Io<Extent> {
    if (offset < this.known.start || offset >= this.known.end) {
      const segment = yield* settle(
        this.store.segment?.(offset) ?? { kind: 'data' as const, length: this.bytes - offset },
      )
      this.known = { kind: segment.kind, start: offset, end: offset + segment.length }
    }
    const run = Math.min(length, this.known.end - offset)
    return this.known.kind === 'hole'
      ? { kind: 'zero', length: run }
      : { kind: 'data', length: run, store: this.store, at: offset }
  }

  *close(): Io<void> {
    yield* settle(this.store.close())
  }
}

class WritableRawLayer extends RawLayer implements WritableLayer {
  readonly flat = true
  readonly nextIdentity = undefined;

  *reserve(offset: number, length: number): Io<Reservation> {
    return {
      length,
      store: this.store,
      at: offset,
      zeroed: true,
      fills: [],
      publish: () => just(this.noteWrite()),
      abandon: () => just(this.noteWrite()),
    }
  }

  /** Without a parent, showing it and reading as zero are the same. */
  *erase(offset: number, length: number): Io<number> {
    if (!this.store.deallocate) return 0
    yield* settle(this.store.deallocate(offset, length))
    this.known = NOTHING_KNOWN
    return length
  }

  *flush(): Io<void> {
    yield* settle(this.store.flush())
  }

  *resize(size: number): Io<void> {
    const before = this.bytes
    // Whoever reads meanwhile is not led past the end of the file.
    this.bytes = Math.min(before, size)
    this.known = NOTHING_KNOWN
    try {
      yield* settle(this.store.truncate(size))
    } catch (error) {
      this.bytes = before
      throw error
    }
    yield* settle(this.store.flush())
    this.bytes = size
    this.known = NOTHING_KNOWN
  }

  override *close(): Io<void> {
    try {
      yield* this.flush()
    } finally {
      yield* super.close()
    }
  }

  /** A write makes data of holes; what is known as data stays so. */
  private noteWrite(): void {
    if (this.known.kind === 'hole') this.known = NOTHING_KNOWN
  }
}
