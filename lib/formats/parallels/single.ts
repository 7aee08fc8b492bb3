import type { Image } from '../../contracts/image.ts'
import type { Json, StoredBitmaps } from '../../contracts/layer.ts'
import type { Io } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { ParallelsLayer, type WritableDisk, WritableParallelsLayer } from './layer.ts'
import { type ExpandingPart, openExpanding, openExpandingForWriting, writable } from './part.ts'
import { Storage } from './storage.ts'

/** A single expanding image: by itself a disk. */
export class SingleDisk implements WritableDisk {
  readonly name: string
  readonly store: ByteStore
  readonly part: ExpandingPart
  readonly storages: readonly Storage[]
  readonly snapshots = undefined

  constructor(image: Image, part: ExpandingPart) {
    this.name = image.name
    this.store = image.store
    this.part = part
    this.storages = [new Storage(0, part.size, [part])]
  }

  get size(): number {
    return this.part.size
  }

  get clusterSize(): number {
    return this.part.clusterSize
  }

  get bitmaps(): StoredBitmaps | undefined {
    return this.part.extension
  }

  get details(): { readonly [key: string]: Json } {
    return { type: 'expanding', ...detailsOf(this.part) }
  }

  get open(): readonly ByteStore[] {
    return [this.store]
  }

  resize(size: number, _signal: AbortSignal | undefined, readsEnded: () => Io<void>): Io<void> {
    return (this.storages[0] as Storage).resize(size, readsEnded)
  }

  flush(): Io<void> {
    return writable(this.part).flush()
  }

  end(): Io<void> {
    return writable(this.part).end()
  }
}

export function* openSingle(image: Image): Io<ParallelsLayer<SingleDisk>> {
  return new ParallelsLayer(new SingleDisk(image, yield* openExpanding(image.name, image.store, 'zero')))
}

export function* openSingleForWriting(image: Image): Io<WritableParallelsLayer> {
  const part = yield* openExpandingForWriting(image.name, image.store, 'zero', image.signal)
  return new WritableParallelsLayer(new SingleDisk(image, part))
}

/** What a user may want to know about an expanding image. */
export function detailsOf({ bat: { header }, extension }: ExpandingPart): { readonly [key: string]: Json } {
  return {
    magic: header.fields.magic,
    clusterSize: header.clusterSize,
    dataOffset: header.dataAt,
    closed: !header.isOpened,
    ...(header.isEmpty ? { empty: true } : {}),
    ...(extension ? { extensionFeatures: extension.bitmaps.length + extension.others.length } : {}),
  }
}
