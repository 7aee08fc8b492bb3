import { ceilDiv } from '../../bytes/align.ts'
import type { Extent } from '../../contracts/extent.ts'
import type {
  InternalSnapshots,
  Json,
  Layer,
  Reservation,
  StoredBitmaps,
  WritableLayer,
} from '../../contracts/layer.ts'
import { throwIfCancelled } from '../../errors.ts'
import { type Io, just, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import type { Storage } from './storage.ts'

/** What a layer is made of: one image file, or a bundle of them. */
export interface Disk {
  readonly name: string
  /** stands for the whole: its time changes when any file of the disk does */
  readonly store: ByteStore
  /** bytes that the guest sees */
  readonly size: number
  readonly clusterSize: number
  /** in order of the disk, without gaps */
  readonly storages: readonly Storage[]
  readonly details: { readonly [key: string]: Json }
  readonly bitmaps: StoredBitmaps | undefined
  readonly snapshots: InternalSnapshots | undefined
  /** Every file that is open, the one that was opened first last. */
  readonly open: readonly ByteStore[]
}

/** A disk that can be written. */
export interface WritableDisk extends Disk {
  resize(size: number, signal: AbortSignal | undefined, readsEnded: () => Io<void>): Io<void>
  flush(): Io<void>
  /** Leaves files that count as closed. */
  end(): Io<void>
}

/** A Parallels disk for reading. GUIDs name states, and do not change with the content: so it has no identity. */
export class ParallelsLayer<D extends Disk = Disk> implements Layer {
  readonly format = 'parallels'
  readonly identity = undefined
  readonly parent = undefined
  readonly merged = undefined
  readonly disk: D

  constructor(disk: D) {
    this.disk = disk
  }

  get name(): string {
    return this.disk.name
  }

  get store(): ByteStore {
    return this.disk.store
  }

  get size(): number {
    return this.disk.size
  }

  get granularity(): number {
    return this.disk.clusterSize
  }

  get details(): { readonly [key: string]: Json } {
    return this.disk.details
  }

  get bitmaps(): StoredBitmaps | undefined {
    return this.disk.bitmaps
  }

  get snapshots(): InternalSnapshots | undefined {
    return this.disk.snapshots
  }

  map(offset: number, length: number): Io<Extent> {
    const storage = this.storageAt(offset)
    const within = offset - storage.start
    return storage.map(within, Math.min(length, storage.length - within))
  }

  *close(): Io<void> {
    for (const store of this.disk.open) yield* settle(store.close())
  }

  protected storageAt(offset: number): Storage {
    const { storages } = this.disk
    let [low, high] = [0, storages.length - 1]
    while (low < high) {
      const middle = ceilDiv(low + high, 2)
      if ((storages[middle] as Storage).start <= offset) low = middle
      else high = middle - 1
    }
    return storages[low] as Storage
  }
}

/** A Parallels disk for reading and writing. The order in which things become durable is told in `Session` and `Bundle`. */
export class WritableParallelsLayer extends ParallelsLayer<WritableDisk> implements WritableLayer {
  readonly nextIdentity = undefined;

  *reserve(offset: number, length: number): Io<Reservation> {
    const storage = this.storageAt(offset)
    const within = offset - storage.start
    const room = yield* storage.reserve(within, Math.min(length, storage.length - within))
    if (storage.start === 0) return room
    const fills = room.fills.map((fill) => ({ ...fill, offset: fill.offset + storage.start }))
    return { ...room, fills }
  }

  /** Nothing lies below the disk: to show that, or zeros, is the same. */
  *erase(offset: number, length: number): Io<number> {
    const storage = this.storageAt(offset)
    const within = offset - storage.start
    return yield* storage.erase(within, Math.min(length, storage.length - within))
  }

  flush(): Io<void> {
    return this.disk.flush()
  }

  *resize(size: number, _parentSize: number, signal?: AbortSignal, readsEnded = () => just(undefined)): Io<void> {
    throwIfCancelled(signal)
    yield* this.disk.resize(size, signal, readsEnded)
  }

  override *close(): Io<void> {
    try {
      yield* this.disk.end()
    } finally {
      yield* super.close()
    }
  }
}
