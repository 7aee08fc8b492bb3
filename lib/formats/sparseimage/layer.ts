import type { Extent } from '../../contracts/extent.ts'
import type { Image } from '../../contracts/image.ts'
import type { Json, Layer } from '../../contracts/layer.ts'
import { VdiskError } from '../../errors.ts'
import { type Io, just, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import type { Bands, OddEntry } from './bands.ts'
import { VERSION } from './layout.ts'

/** Bands that one extent spans at most, so that a look-up takes no longer than others. */
const JOINED = 1024

/** A sparse image, for reading. */
export class SparseImageLayer implements Layer {
  readonly format = 'sparseimage'
  readonly identity = undefined
  readonly parent = undefined
  readonly merged = undefined
  readonly name: string
  readonly store: ByteStore
  readonly size: number
  readonly bands: Bands
  /** where the file ends */
  readonly end: number
  readonly odd: readonly OddEntry[]

  constructor(image: Image, shape: { bands: Bands; size: number; end: number; odd: readonly OddEntry[] }) {
    this.name = image.name
    this.store = image.store
    this.bands = shape.bands
    this.size = shape.size
    this.end = shape.end
    this.odd = shape.odd
  }

  get granularity(): number {
    return this.bands.bandSize
  }

  get details(): { readonly [key: string]: Json } {
    return { version: VERSION, bandSize: this.bands.bandSize }
  }

  map(offset: number, length: number): Io<Extent> {
    return just(this.extent(offset, length))
  }

  *close(): Io<void> {
    yield* settle(this.store.close())
  }

  private extent(offset: number, length: number): Extent {
    const { bands } = this
    const { bandSize } = bands
    const first = Math.floor(offset / bandSize)
    const place = bands.placeOf(first)
    const most = Math.min(first + JOINED, Math.ceil((offset + length) / bandSize))
    let last = first + 1
    const goesOn = (band: number): boolean =>
      bands.placeOf(band) === (place === undefined ? undefined : place + (band - first) * bandSize)
    while (last < most && goesOn(last)) last++
    const run = Math.min(length, last * bandSize - offset)
    if (place === undefined) return { kind: 'zero', length: run }
    const at = place + offset - first * bandSize
    const there = Math.min(run, this.end - at)
    if (there <= 0) throw this.pastEnd(offset, at)
    return { kind: 'data', length: there, store: this.store, at }
  }

  private pastEnd(offset: number, at: number): VdiskError {
    return new VdiskError('CORRUPT', {
      message: `Cannot read ${this.name}: what lies at ${offset} of its disk would be past the end of the file`,
      where: { file: this.name, structure: 'band', at, offset, section: 'HeaderNode' },
      advice: 'If there is another copy of the file, use it: this one is cut off.',
    })
  }
}
