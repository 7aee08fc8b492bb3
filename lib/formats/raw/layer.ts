import { type Range, Ranges } from '../../bytes/ranges.ts'
import type { Extent } from '../../contracts/extent.ts'
import type { Image } from '../../contracts/image.ts'
import type { Layer, Reservation, WritableLayer } from '../../contracts/layer.ts'
import { type Io, just, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'

/** Bytes per granule: the block size of most file systems, so that erasing gives room back. */
const GRANULE = 4096

const NOWHERE: Range = { start: 0, end: 0 }

/** Runs of data that are remembered: more are forgotten together, for in so many pieces a file is rarely met twice at one place. */
const MOST_RUNS = 4096

/** Offsets up to `end` are of one kind. */
interface Run {
  readonly kind: 'data' | 'hole'
  readonly end: number
}

/**
 * The bytes of a disk in order. There is nothing to keep in step, so writes go straight to the store and `flush` is
 * the store's. Holes of the file are extents of zeros.
 *
 * To ask a file system what lies at a place may take longer than to read it. So runs of data are remembered: should another
 * program make a hole of one, it reads as zero all the same. Of holes only the one met last is, for those may be written to.
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
  /** runs of data that were met */
  protected data = new Ranges()
  /** the hole that was met last */
  protected hole = NOWHERE
  /** how many there were */
  protected writes = 0

  constructor(image: Image, size: number) {
    this.name = image.name
    this.store = image.store
    this.bytes = size
  }

  get size(): number {
    return this.bytes
  }

  *map(offset: number, length: number): Io<Extent> {
    const { kind, end } = this.remembered(offset) ?? (yield* this.explore(offset))
    const run = Math.min(length, end - offset)
    return kind === 'hole' ? { kind: 'zero', length: run } : { kind, length: run, store: this.store, at: offset }
  }

  private remembered(offset: number): Run | undefined {
    const data = this.data.around(offset)
    if (data) return { kind: 'data', end: data.end }
    const { start, end } = this.hole
    return offset >= start && offset < end ? { kind: 'hole', end } : undefined
  }

  /** Asks what lies at a place. */
  private *explore(offset: number): Io<Run> {
    const { writes } = this
    const rest = this.bytes - offset
    const { kind, length } = yield* settle(this.store.segment?.(offset) ?? { kind: 'data' as const, length: rest })
    const end = offset + length
    // A hole that was written to meanwhile is none.
    if (kind === 'hole' && writes === this.writes) this.hole = { start: offset, end }
    if (kind === 'data') {
      if (this.data.count >= MOST_RUNS) this.data = new Ranges()
      this.data.add({ start: offset, end })
    }
    return { kind, end }
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
    this.data.remove({ start: offset, end: offset + length })
    return length
  }

  *flush(): Io<void> {
    yield* settle(this.store.flush())
  }

  *resize(size: number): Io<void> {
    const before = this.bytes
    // Whoever reads meanwhile is not led past the end of the file.
    this.bytes = Math.min(before, size)
    this.forget()
    try {
      yield* settle(this.store.truncate(size))
    } catch (error) {
      this.bytes = before
      throw error
    }
    yield* settle(this.store.flush())
    this.bytes = size
    this.forget()
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
    this.writes++
    this.hole = NOWHERE
  }

  private forget(): void {
    this.noteWrite()
    this.data = new Ranges()
  }
}
