import { formatSize } from '../../bytes/size.ts'
import type { Extent } from '../../contracts/extent.ts'
import type { Reservation } from '../../contracts/layer.ts'
import { type Io, just, Pace, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { writeZeros } from '../../io/zeros.ts'
import { corrupt, leaveOut, unsupported } from './damage.ts'
import type { ExtentFile, ExtentOpening, WritableExtentFile } from './extent-file.ts'
import { SECTOR } from './layout.ts'

/** Bytes per granule: the block size of most file systems, so that erasing gives room back. */
const GRANULE = 4096
const SECTION = 'The Extent Descriptions'

const NOTHING_KNOWN: { kind: 'data' | 'hole'; start: number; end: number } = { kind: 'hole', start: 0, end: 0 }

/** A part of the disk that lies in a file byte for byte, from some place on. @throws VdiskError CORRUPT if the file ends before */
export function* openFlat(opening: ExtentOpening): Io<ExtentFile> {
  const { image, line, length, store } = opening
  if (!store) {
    throw unsupported(image.name, 'a flat part of it names no file', { structure: 'descriptor', section: SECTION })
  }
  const at = line.offset * SECTOR
  const end = yield* settle(store.size())
  if (end < at + length) {
    const why = `${store.name} ends at ${formatSize(end)}, the descriptor says that the disk goes on there up to ${formatSize(at + length)}`
    const damage = corrupt(image.name, why, { structure: 'descriptor', section: SECTION })
    if (opening.access === 'write') throw damage
    leaveOut(image, damage)
  }
  return opening.access === 'write' ? new WritableFlatExtent(opening, store, at) : new FlatExtent(opening, store, at)
}

class FlatExtent implements ExtentFile {
  readonly start: number
  length: number
  readonly granularity = GRANULE
  readonly details = {}
  readonly store: ByteStore
  /** bytes in the file where the extent begins */
  protected readonly at: number
  /** the segment met last: places start .. end-1 are `kind` */
  protected known = NOTHING_KNOWN

  constructor({ start, length }: ExtentOpening, store: ByteStore, at: number) {
    this.start = start
    this.length = length
    this.store = store
    this.at = at
  }

  *map(offset: number, length: number): Io<Extent> {
    const at = this.at + offset - this.start
    if (at < this.known.start || at >= this.known.end) {
      const segment = yield* settle(this.store.segment?.(at) ?? { kind: 'data' as const, length: this.length })
      this.known = { kind: segment.kind, start: at, end: at + segment.length }
    }
    const run = Math.min(length, this.known.end - at)
    return this.known.kind === 'hole'
      ? { kind: 'zero', length: run }
      : { kind: 'data', length: run, store: this.store, at }
  }

  *check(): Io<void> {}

  *close(): Io<void> {
    yield* settle(this.store.close())
  }
}

/** There is nothing to keep in step: writes go to their place, and a flush is the file's. */
class WritableFlatExtent extends FlatExtent implements WritableExtentFile {
  private changed = false;

  *reserve(offset: number, length: number): Io<Reservation> {
    return {
      length,
      store: this.store,
      at: this.at + offset - this.start,
      zeroed: false,
      fills: [],
      publish: () => just(this.noteWrite()),
      abandon: () => just(this.noteWrite()),
    }
  }

  /** It has no parent that could show. */
  *erase(offset: number, length: number): Io<number> {
    if (!this.store.deallocate) return 0
    this.changed = true
    yield* settle(this.store.deallocate(this.at + offset - this.start, length))
    this.known = NOTHING_KNOWN
    return length
  }

  *flush(): Io<void> {
    if (!this.changed) return
    this.changed = false
    try {
      yield* settle(this.store.flush())
    } catch (error) {
      this.changed = true
      throw error
    }
  }

  *resize(length: number): Io<void> {
    const [before, after, size] = [this.at + this.length, this.at + length, yield* settle(this.store.size())]
    this.known = NOTHING_KNOWN
    if (length < this.length) {
      this.length = length
      // Behind it another part of the disk may lie.
      if (before === size) yield* settle(this.store.truncate(after))
    } else {
      const stale = Math.min(size, after) - before
      if (stale > 0) yield* blank(this.store, before, stale)
      yield* settle(this.store.grow(after))
    }
    yield* settle(this.store.flush())
    this.length = length
  }

  *end(): Io<void> {
    yield* this.flush()
  }

  /** A write makes data of holes; what is known as data stays so. */
  private noteWrite(): void {
    this.changed = true
    if (this.known.kind === 'hole') this.known = NOTHING_KNOWN
  }
}

function* blank(store: ByteStore, at: number, length: number): Io<void> {
  if (store.deallocate) yield* settle(store.deallocate(at, length))
  else yield* writeZeros(store, at, length, new Pace())
}
