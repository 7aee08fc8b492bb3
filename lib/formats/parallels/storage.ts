import type { Extent } from '../../contracts/extent.ts'
import type { Reservation } from '../../contracts/layer.ts'
import type { VdiskError } from '../../errors.ts'
import type { Io } from '../../io/io.ts'
import { corrupt } from './damage.ts'
import { type Part, writable } from './part.ts'

/** A range of the disk, and the image files that hold it: one, or one for each state of a snapshot tree's branch. */
export class Storage {
  /** bytes on the disk */
  readonly start: number
  /** root first, top last */
  readonly parts: readonly Part[]
  private bytes: number

  constructor(start: number, length: number, parts: readonly Part[]) {
    this.start = start
    this.bytes = length
    this.parts = parts
  }

  /** bytes of the disk that it holds */
  get length(): number {
    return this.bytes
  }

  get top(): Part {
    return this.parts.at(-1) as Part
  }

  map(offset: number, length: number): Io<Extent> {
    const isWhole = this.parts.length === 1 && this.top.size >= this.bytes
    return isWhole ? this.top.map(offset, length) : this.find(this.parts.length - 1, offset, length)
  }

  reserve(offset: number, length: number): Io<Reservation> {
    return writable(this.top).reserve(offset, length)
  }

  /** @returns bytes done from `offset` on; 0: none */
  *erase(offset: number, length: number): Io<number> {
    if (this.parts.length === 1) return yield* writable(this.top).erase(offset, length, true)
    const below = yield* this.find(this.parts.length - 2, offset, length)
    return yield* writable(this.top).erase(offset, below.length, below.kind === 'zero')
  }

  *resize(size: number, readsEnded: () => Io<void>): Io<void> {
    yield* writable(this.top).resize(size, readsEnded)
    this.bytes = size
  }

  /** The same, as the parts up to one of them have it. */
  upTo(parts: readonly Part[]): Storage {
    return new Storage(this.start, this.bytes, parts)
  }

  /** Asks the parts from `from` down who speaks about `offset`. */
  private *find(from: number, offset: number, length: number): Io<Extent> {
    let rest = length
    for (let i = from; i >= 0; i--) {
      const part = this.parts[i] as Part
      if (offset >= part.size) throw tooShort(part, offset)
      const extent = yield* part.map(offset, Math.min(rest, part.size - offset))
      if (extent.kind !== 'parent') return extent
      rest = extent.length
    }
    return { kind: 'zero', length: rest }
  }
}

/** Only salvage opens such a part: what it should hold there nobody knows. */
function tooShort({ name, size }: Part, offset: number): VdiskError {
  const why = `what lies ${offset} bytes behind its beginning is missing: it holds ${size} bytes, less than its storage`
  return corrupt(name, why, { structure: 'header', section: 'Header' })
}
