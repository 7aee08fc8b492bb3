import type { Access } from '../contracts/driver.ts'
import { type Image, imageWith } from '../contracts/image.ts'
import type { Layer } from '../contracts/layer.ts'
import { throwIfCancelled, VdiskError } from '../errors.ts'
import { type Io, settle } from '../io/io.ts'
import type { ByteStore, FileStamp } from '../io/store.ts'
import { textBeside } from './link-record.ts'
import { UnpackedCache } from './unpacked.ts'

/** Bytes of unpacked granules kept for all chains of a pool. */
const UNPACKED = 16 << 20

export interface LayerPoolOptions {
  /** bytes of unpacked granules to keep, for all chains together; default 16 MiB */
  readonly unpackedBytes?: number | undefined
}

/** A layer that a pool holds, for whoever shows what there is. */
export interface PooledLayer {
  readonly name: string
  readonly format: string
  /** the disks it is a layer of, by the names of their top images */
  readonly users: readonly string[]
}

/** A file that a layer names besides its parent, as it was found when the layer was opened. */
interface Neighbour {
  readonly reference: string
  readonly id: string | undefined
}

interface Entry {
  readonly format: string
  readonly store: ByteStore
  /** as it was before anything was read */
  readonly stamp: FileStamp | undefined
  /** what the linkage record beside it said */
  readonly record: string | undefined
  readonly neighbours: Neighbour[]
  readonly users: string[]
  /** undefined while it is being opened */
  layer: Layer | undefined
  /** settles when it is open, or cannot be opened */
  readonly ready: Promise<void>
  /** whoever has it keeps it; nobody gets it any more */
  stale: boolean
}

/**
 * What the chains of one process share: layers for reading, each file opened once, and one cache of unpacked granules.
 *
 * A chain that needs a file for reading asks the gate for it as ever; what the gate admitted is exchanged for the layer
 * that is open already, if it is the same file (device and inode), held by the same kind of lock, read in the same way
 * and not written to since. So a name that may not be followed is refused to each chain by its own rules, and a file that
 * was put into the place of another is another layer. The layer keeps its lock until the last chain has let it go.
 *
 * Layers for writing are never shared; the pool knows them to say who is in the way of whom.
 */
export class LayerPool {
  /** what chains keep their unpacked granules in */
  readonly unpacked: UnpackedCache
  private readonly entries = new Set<Entry>()
  private readonly byLayer = new Map<Layer, Entry>()
  /** stores of the top layers that are written, with their names */
  private readonly writers = new Map<ByteStore, string>()

  constructor(options: LayerPoolOptions = {}) {
    this.unpacked = new UnpackedCache(options.unpackedBytes ?? UNPACKED)
  }

  /** The layers for reading that are open now. */
  held(): PooledLayer[] {
    return [...this.byLayer].map(([layer, { format, users }]) => ({ name: layer.name, format, users: [...users] }))
  }

  /**
   * The layer of an image for reading: one that is open already, or the one that `open` opens.
   *
   * The image's store is the pool's from here on; on failure it is still the caller's.
   *
   * @param user the disk that wants it; `release` is told the same
   */
  *take(image: Image, format: string, user: string, open: (image: Image) => Io<Layer>): Io<Layer> {
    const record = yield* textBeside(image)
    for (;;) {
      const entry = this.find(image.store, format, record)
      if (!entry) return yield* this.openNew(image, { format, record, user }, open)
      if (!entry.layer) {
        yield entry.ready
        throwIfCancelled(image.signal)
      } else if (yield* this.borrow(entry, image, user)) {
        yield* settle(image.store.close())
        return entry.layer
      }
    }
  }

  /** Lets a layer of a chain go, whether it is shared or not. The last one to let it go closes it. */
  *release(layer: Layer, user: string): Io<void> {
    const entry = this.byLayer.get(layer)
    if (entry) {
      entry.users.splice(entry.users.indexOf(user), 1)
      if (entry.users.length > 0) return
      // Before anything waits: who comes now opens the file anew.
      this.entries.delete(entry)
      this.byLayer.delete(layer)
    }
    this.unpacked.forget(layer.store)
    try {
      yield* layer.close()
    } finally {
      this.writers.delete(layer.store)
    }
  }

  /** Remembers that a disk writes to an image, until its layer is released or `forgetWriter` is called. */
  noteWriter(image: Image): void {
    this.writers.set(image.store, image.name)
  }

  forgetWriter(store: ByteStore): void {
    this.writers.delete(store)
  }

  /**
   * Looks whether a disk of this pool stands against a file being opened. Locks would find that too, but cannot say who.
   *
   * @param id of the file, as `fileId` of a store has it; undefined where there is none
   * @throws VdiskError IN_USE
   */
  assertFree(id: string | undefined, access: Access, name: string): void {
    if (id === undefined || access === 'inspect') return
    const writer = [...this.writers].find(([store]) => store.fileId?.() === id)?.[1]
    const readers = access === 'write' ? this.readersOf(id) : []
    const why =
      writer !== undefined
        ? `this process writes to it, as the disk ${writer}`
        : readers.length > 0
          ? `this process reads it, as a layer of ${readers.join(', ')}`
          : undefined
    if (why === undefined) return
    throw new VdiskError('IN_USE', {
      message: `Cannot open ${name} for ${access === 'write' ? 'writing' : 'reading'}: ${why}`,
      where: { file: name },
      advice: 'Let go of that first. A file is shared only as long as nobody writes to it.',
    })
  }

  private readersOf(id: string): string[] {
    const ofFile = [...this.entries].filter(({ store }) => store.fileId?.() === id)
    return [...new Set(ofFile.flatMap(({ users }) => users))]
  }

  private find(store: ByteStore, format: string, record: string | undefined): Entry | undefined {
    for (const entry of this.entries) {
      if (entry.stale || entry.format !== format || entry.record !== record || !entry.store.standsFor?.(store)) continue
      if (sameStamp(entry.stamp, store.stamp?.())) return entry
    }
    return undefined
  }

  private *openNew(
    image: Image,
    { format, record, user }: Pick<Entry, 'format' | 'record'> & { readonly user: string },
    open: (image: Image) => Io<Layer>,
  ): Io<Layer> {
    const { store } = image
    let settled!: () => void
    const ready = new Promise<void>((resolve) => {
      settled = resolve
    })
    const stamp = store.stamp?.()
    const opening = { neighbours: [], users: [user], layer: undefined, ready, stale: false }
    const entry: Entry = { format, store, stamp, record, ...opening }
    this.entries.add(entry)
    try {
      const layer = yield* open(noting(image, entry.neighbours))
      entry.layer = layer
      this.byLayer.set(layer, entry)
      return layer
    } finally {
      if (!entry.layer) this.entries.delete(entry)
      settled()
    }
  }

  /**
   * Counts a user of a layer, if the files that it names besides are admitted for this user too, and still the same.
   *
   * @returns false: they are others now
   */
  private *borrow(entry: Entry, image: Image, user: string): Io<boolean> {
    const layer = entry.layer as Layer
    // Before anything waits: it must not be closed meanwhile.
    entry.users.push(user)
    let same = true
    try {
      for (const { reference, id } of entry.neighbours) {
        const store = yield* image.neighbour(reference, 'read')
        same &&= store.fileId?.() === id
        yield* settle(store.close())
      }
    } catch (error) {
      yield* this.release(layer, user)
      throw error
    }
    if (same) return true
    entry.stale = true
    yield* this.release(layer, user)
    return false
  }
}

/** The same image, which notes the files that it is asked for. */
function noting(image: Image, neighbours: Neighbour[]): Image {
  return imageWith(image, {
    *neighbour(reference, access) {
      const store = yield* image.neighbour(reference, access)
      neighbours.push({ reference, id: store.fileId?.() })
      return store
    },
  })
}

function sameStamp(a: FileStamp | undefined, b: FileStamp | undefined): boolean {
  return a?.size === b?.size && a?.modified === b?.modified
}
