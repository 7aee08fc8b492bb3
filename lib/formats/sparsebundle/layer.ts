import type { Extent } from '../../contracts/extent.ts'
import type { Image } from '../../contracts/image.ts'
import type { Json, Layer } from '../../contracts/layer.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import type { BandFiles } from './band-files.ts'
import type { Description } from './layout.ts'

/** A sparse bundle, for reading. */
export class SparseBundleLayer implements Layer {
  readonly format = 'sparsebundle'
  readonly identity = undefined
  readonly parent = undefined
  readonly merged = undefined
  readonly name: string
  readonly store: ByteStore
  readonly size: number
  readonly granularity: number
  readonly files: BandFiles

  constructor(image: Image, { bandSize, size }: Description, files: BandFiles) {
    this.name = image.name
    this.store = image.store
    this.size = size
    this.granularity = bandSize
    this.files = files
  }

  get details(): { readonly [key: string]: Json } {
    return { bandSize: this.granularity }
  }

  *map(offset: number, length: number): Io<Extent> {
    const { granularity, files } = this
    const band = Math.floor(offset / granularity)
    const within = offset - band * granularity
    const run = Math.min(length, granularity - within)
    const there = (yield* files.lengthOf(band)) - within
    if (there <= 0) return { kind: 'zero', length: run }
    return { kind: 'data', length: Math.min(run, there), store: files, at: offset }
  }

  *close(): Io<void> {
    try {
      yield* settle(this.files.close())
    } finally {
      yield* settle(this.store.close())
    }
  }
}
