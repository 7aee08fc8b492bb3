import type { Image } from '../../contracts/image.ts'
import type { InternalSnapshots, Json } from '../../contracts/layer.ts'
import { throwIfCancelled } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { BundleFiles, BundleStore } from './bundle-files.ts'
import { BundleSnapshots, type StateTree } from './bundle-snapshots.ts'
import { corrupt, refusal, unsupported } from './damage.ts'
import type { Descriptor, ImageEntry, StorageEntry } from './descriptor.ts'
import { withSize } from './descriptor-edit.ts'
import { readDescriptor, replaceDescriptor } from './descriptor-file.ts'
import { ParallelsLayer, type WritableDisk, WritableParallelsLayer } from './layer.ts'
import { SECTOR } from './layout.ts'
import { ExpandingPart, writable } from './part.ts'
import { Storage } from './storage.ts'

/** Unit of a plain disk: what file systems have as one. */
const PLAIN_UNIT = 4096

/**
 * A bundle: a folder with a descriptor, and image files for each state and each range of the disk. [prl-xml]
 *
 * Its tree of states changes by one step, after which the new descriptor has the name of the old one:
 *
 *   files of the state that was written are closed → new image files → F → new descriptor, under another name → F
 *   → folder → it takes the name of the old one → folder → files that nothing names any more are removed
 *
 * Until that step nothing that the old descriptor names is changed, so that a crash leaves the old states or the new ones, and
 * files that nobody names at worst.
 */
export class Bundle implements WritableDisk, StateTree {
  readonly name: string
  readonly image: Image
  readonly files: BundleFiles
  readonly store: ByteStore
  /** what is there now */
  descriptor: Descriptor
  storages: readonly Storage[] = []
  private readonly snapshotTree: BundleSnapshots
  private readonly stores: ByteStore[]

  private constructor(image: Image, descriptor: Descriptor, mode: 'read' | 'write') {
    this.name = image.name
    this.image = image
    this.descriptor = descriptor
    this.files = new BundleFiles(image)
    this.stores = [image.store]
    this.store = new BundleStore(image.store, () => this.files.all.map(({ store }) => store))
    this.snapshotTree = new BundleSnapshots(this, mode)
  }

  static *open(image: Image, access: 'inspect' | 'read'): Io<ParallelsLayer<Bundle>> {
    const bundle = new Bundle(image, yield* readDescriptor(image), 'read')
    if (access === 'read') yield* bundle.begin('read')
    return new ParallelsLayer(bundle)
  }

  static *openForWriting(image: Image): Io<WritableParallelsLayer> {
    const bundle = new Bundle(image, yield* readDescriptor(image), 'write')
    yield* bundle.begin('write')
    return new WritableParallelsLayer(bundle)
  }

  get size(): number {
    return this.descriptor.size
  }

  get clusterSize(): number {
    const sizes = this.storages.map(({ top }) => top.clusterSize ?? PLAIN_UNIT)
    return sizes.length === 0 ? this.firstStorage.clusterSize : Math.max(...sizes)
  }

  get snapshots(): InternalSnapshots {
    return this.snapshotTree
  }

  get bitmaps(): ExpandingPart['extension'] {
    const [only, ...more] = this.storages
    return more.length === 0 && only?.top instanceof ExpandingPart ? only.top.extension : undefined
  }

  get open(): readonly ByteStore[] {
    return [...this.files.all.map(({ store }) => store), ...this.stores]
  }

  get details(): { readonly [key: string]: Json } {
    const { descriptor } = this
    const types = new Set(descriptor.storages.map(({ images }) => images.get(descriptor.top)?.type))
    return {
      type: `bundle, ${types.has('Plain') ? 'plain' : 'expanding'}${descriptor.storages.length > 1 ? ', split' : ''}`,
      clusterSize: this.firstStorage.clusterSize,
      top: descriptor.top,
      states: [...descriptor.shots.values()].map(({ guid, parent }) => ({ guid, parent: parent ?? null })),
      files: descriptor.storages.flatMap(({ images }) => [...images.values()].map(({ file }) => file)),
    }
  }

  /** A disk of no storage would have no state, and is no disk. */
  private get firstStorage(): StorageEntry {
    return this.descriptor.storages[0] as StorageEntry
  }

  /** The storages as a state has them. */
  *storagesOf(guid: string, access: 'read' | 'write' = 'read'): Io<Storage[]> {
    const branch = this.descriptor.branchOf(guid)
    const storages: Storage[] = []
    for (const entry of this.descriptor.storages) {
      const parts = []
      for (const one of branch) {
        const image = entry.images.get(one) as ImageEntry
        const part = yield* this.files.open(image, one === this.descriptor.top ? access : 'read')
        this.refuseShort(part.size, image, entry)
        parts.push(part)
      }
      storages.push(new Storage(entry.start, entry.end - entry.start, parts))
    }
    return storages
  }

  /** Opens what the descriptor says, for the first time. */
  private *begin(access: 'read' | 'write'): Io<void> {
    try {
      yield* this.arrange(access)
      if (access === 'write') this.refuseUnwritable()
    } catch (error) {
      // The descriptor itself is closed by whoever has opened it.
      for (const { store } of this.files.all) yield* settle(store.close())
      throw error
    }
  }

  /** Goes on with what the descriptor says. */
  *arrange(access: 'read' | 'write'): Io<void> {
    this.storages = yield* this.storagesOf(this.descriptor.top, access)
  }

  *flush(): Io<void> {
    for (const { top } of this.storages) yield* writable(top).flush()
  }

  *end(): Io<void> {
    for (const { top } of this.storages) yield* writable(top).end()
  }

  *resize(size: number, signal: AbortSignal | undefined, readsEnded: () => Io<void>): Io<void> {
    throwIfCancelled(signal)
    const { storages, name } = this
    const last = storages.at(-1) as Storage
    if (this.descriptor.shots.size > 1) {
      const advice = 'Delete them first: vdisk snapshot delete IMAGE NAME'
      throw refusal(name, 'resize', 'its snapshots have the old size', advice, 'UNSUPPORTED')
    }
    if (size % SECTOR !== 0) throw refusal(name, 'resize', 'its sectors have 512 bytes', 'Give a multiple of 512.')
    if (size <= last.start && storages.length > 1) {
      const advice = 'Convert it to a smaller one.'
      throw refusal(name, 'resize', 'files of the split disk would have to go', advice, 'UNSUPPORTED')
    }
    // A file that holds more than the descriptor says is sound; one that holds less is not.
    if (size > this.size) yield* last.resize(size - last.start, readsEnded)
    yield* this.replaceDescriptor(withSize(this.descriptor, size))
    if (last.length > size - last.start) yield* last.resize(size - last.start, readsEnded)
  }

  *replaceDescriptor(text: string): Io<void> {
    const { store, descriptor } = yield* replaceDescriptor(this.image, text)
    this.stores.push(store)
    this.descriptor = descriptor
  }

  private refuseShort(size: number, { file }: ImageEntry, { start, end }: StorageEntry): void {
    if (size >= end - start) return
    const why = `its file "${file.slice(0, 200)}" holds ${size} bytes of the ${end - start} that its storage has`
    const advice = 'Read what is there with --salvage, or mend it: vdisk check IMAGE --repair'
    const fault = corrupt(this.name, why, { structure: 'DiskDescriptor.xml', section: 'StorageData element' }, advice)
    if (!this.image.leaveOut) throw fault
    this.image.leaveOut(fault)
  }

  private refuseUnwritable(): void {
    const unit = this.clusterSize
    const odd = this.storages.find(({ start, top }) => start % unit !== 0 || unit % (top.clusterSize ?? unit) !== 0)
    if (!odd) return
    const why = 'its files do not begin where a cluster does, so that two writes could meet in one'
    throw unsupported(this.name, why, { structure: 'DiskDescriptor.xml' }, 'Convert it: vdisk convert')
  }
}
