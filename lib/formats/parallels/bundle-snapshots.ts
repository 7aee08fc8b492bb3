import { normalizeGuid, randomGuid } from '../../bytes/guid.ts'
import type { Image } from '../../contracts/image.ts'
import type { InternalSnapshots, Layer, SnapshotInfo } from '../../contracts/layer.ts'
import { throwIfCancelled, VdiskError } from '../../errors.ts'
import { type Io, Pace, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import type { BundleFiles } from './bundle-files.ts'
import { makeExpanding } from './create.ts'
import { refusal } from './damage.ts'
import type { Descriptor, ImageEntry, StorageEntry } from './descriptor.ts'
import { noteOf, without, withSnapshot, withTopUpon } from './descriptor-edit.ts'
import { type Disk, ParallelsLayer } from './layer.ts'
import { openExpandingForWriting, type WritableExpandingPart } from './part.ts'
import { Storage } from './storage.ts'

/** What a bundle does for its tree of states. */
export interface StateTree {
  readonly name: string
  readonly image: Image
  readonly store: ByteStore
  readonly files: BundleFiles
  readonly size: number
  readonly clusterSize: number
  /** what is there now */
  readonly descriptor: Descriptor
  /** The storages as a state has them. */
  storagesOf(guid: string, access?: 'read' | 'write'): Io<Storage[]>
  /** Goes on with what the descriptor says. */
  arrange(access: 'read' | 'write'): Io<void>
  /** Lets a new descriptor take the place of the old one, in one step. */
  replaceDescriptor(text: string): Io<void>
  flush(): Io<void>
  /** Leaves the files of the state that is written as closed ones. */
  end(): Io<void>
}

/** The tree of states of a bundle. A snapshot is every state but the one that is written; its id is its GUID. */
export class BundleSnapshots implements InternalSnapshots {
  readonly edit?: NonNullable<InternalSnapshots['edit']>
  private readonly bundle: StateTree

  constructor(bundle: StateTree, mode: 'read' | 'write') {
    this.bundle = bundle
    if (mode === 'read') return
    this.edit = {
      create: (name, signal) => this.create(name, signal),
      revert: (idOrName, signal) => this.revert(idOrName, signal),
      delete: (idOrName) => this.delete(idOrName),
    }
  }

  list(): SnapshotInfo[] {
    const { descriptor } = this.bundle
    const depths = new Map([...descriptor.shots.keys()].map((guid) => [guid, descriptor.branchOf(guid).length]))
    return [...descriptor.shots.keys()]
      .filter((guid) => guid !== descriptor.top)
      .sort((a, b) => (depths.get(a) as number) - (depths.get(b) as number))
      .map((guid) => this.infoOf(descriptor, guid))
  }

  *open(idOrName: string): Io<Layer> {
    const { bundle } = this
    const { id } = this.find(idOrName)
    const storages = yield* bundle.storagesOf(id)
    const { name, store, size, clusterSize } = bundle
    const disk: Disk = {
      name,
      store,
      size,
      clusterSize,
      storages,
      details: {},
      bitmaps: undefined,
      snapshots: undefined,
      open: [],
    }
    return new ParallelsLayer(disk)
  }

  private *create(name: string, signal: AbortSignal | undefined): Io<SnapshotInfo> {
    const { bundle } = this
    const { descriptor } = bundle
    throwIfCancelled(signal)
    if (name === '' || name.length > 1000)
      throw refusal(bundle.name, 'keep a snapshot in', 'its name is empty or too long')
    if (this.list().some((known) => known.name === name)) {
      throw refusal(bundle.name, 'keep a snapshot in', `it has one called "${name}" already`, 'Choose another name.')
    }
    // It will not be written again.
    yield* bundle.end()
    const frozen = randomGuid()
    const created = Math.floor(Date.now() / 1000)
    yield* this.withNewFiles(signal, (made) =>
      bundle.replaceDescriptor(withSnapshot(descriptor, frozen, made, { name, created })),
    )
    yield* bundle.arrange('write')
    return this.infoOf(bundle.descriptor, frozen)
  }

  private *revert(idOrName: string, signal: AbortSignal | undefined): Io<void> {
    const { bundle } = this
    const { descriptor } = bundle
    const { id } = this.find(idOrName)
    throwIfCancelled(signal)
    yield* bundle.flush()
    yield* this.withNewFiles(signal, (made) => bundle.replaceDescriptor(withTopUpon(descriptor, id, made)))
    yield* bundle.arrange('write')
    yield* this.dropUnnamed(descriptor)
  }

  /**
   * Takes a state out of the tree. What it holds goes over to the one state that is built upon it, in a new file, for neither of
   * the two may change before they are given up together.
   */
  private *delete(idOrName: string): Io<void> {
    const { bundle } = this
    const { descriptor } = bundle
    const { id, name } = this.find(idOrName)
    const [heir, ...others] = descriptor.childrenOf(id)
    if (others.length > 0) {
      const names = [heir, ...others].map((shot) => this.infoOf(descriptor, shot?.guid as string).name).join(', ')
      throw refusal(
        bundle.name,
        `delete snapshot "${name}" of`,
        `several states are built upon it: ${names}`,
        'Delete all but one of them first.',
      )
    }
    if (heir) {
      yield* bundle.end()
      const stacks = yield* bundle.storagesOf(heir.guid, 'write')
      const fill = (part: WritableExpandingPart, i: number): Io<void> => mergeInto(part, stacks[i] as Storage)
      const replace = (files: string[]): Io<void> =>
        bundle.replaceDescriptor(without(descriptor, id, { guid: heir.guid, files }))
      yield* this.withNewFiles(undefined, replace, fill)
    } else yield* bundle.replaceDescriptor(without(descriptor, id, undefined))
    yield* bundle.arrange('write')
    yield* this.dropUnnamed(descriptor)
  }

  /** Makes an image file for each storage, durably, and lets them be named; if that fails they are removed. */
  private *withNewFiles(
    signal: AbortSignal | undefined,
    name: (files: string[]) => Io<void>,
    fill?: (part: WritableExpandingPart, index: number) => Io<void>,
  ): Io<void> {
    const { bundle } = this
    const { image, files, descriptor } = bundle
    const made: string[] = []
    try {
      for (const [i, entry] of descriptor.storages.entries()) {
        throwIfCancelled(signal)
        const file = newFileName(bundle.name, i)
        const store = yield* image.neighbour(file, 'create')
        made.push(file)
        const size = entry.end - entry.start
        const header = { size, clusterSize: clusterSizeFor(entry), kind: 'extended' as const }
        yield* makeExpanding(store, header)
        const part = yield* openExpandingForWriting(store.name, store, 'parent')
        files.add(file, part)
        if (!fill) continue
        yield* fill(part, i)
        yield* part.end()
      }
      throwIfCancelled(signal)
      yield* name(made)
    } catch (error) {
      // If the descriptor was replaced, and that could not be told durable, it names them.
      const isNamed = bundle.descriptor !== descriptor
      for (const file of isNamed ? [] : made) {
        yield* files.close(file)
        yield* image.removeNeighbour?.(file) ?? []
      }
      throw error
    }
  }

  /** Removes files that the descriptor before named, and this one does not. */
  private *dropUnnamed(before: Descriptor): Io<void> {
    const { image, files, descriptor } = this.bundle
    const named = new Set(filesOf(descriptor))
    for (const file of filesOf(before)) {
      if (named.has(file)) continue
      yield* files.close(file)
      // Of what lies elsewhere only the name is gone.
      if (!/[\\/]/.test(file)) yield* image.removeNeighbour?.(file) ?? []
    }
  }

  private find(idOrName: string): SnapshotInfo {
    const guid = normalizeGuid(idOrName)
    const all = this.list()
    const found = all.find(({ id }) => id === guid) ?? all.find(({ name }) => name === idOrName)
    if (found) return found
    const { name } = this.bundle
    throw new VdiskError('NOT_FOUND', {
      message: `Cannot find snapshot "${idOrName.slice(0, 100)}" in ${name}: it has none of that name or GUID`,
      where: { file: name },
      advice: 'See what there is: vdisk snapshot list IMAGE',
    })
  }

  private infoOf(descriptor: Descriptor, guid: string): SnapshotInfo {
    const { name = guid, created = 0 } = noteOf(descriptor, guid) ?? {}
    return { id: guid, name, created, diskSize: descriptor.size, vmStateSize: 0 }
  }
}

/** Copies what the two uppermost parts of a storage hold, as the whole storage reads there, into a part that is empty. */
function* mergeInto(target: WritableExpandingPart, stack: Storage): Io<void> {
  const { clusterSize } = target
  const own = new Storage(stack.start, stack.length, stack.parts.slice(-2))
  const buffer = new Uint8Array(clusterSize)
  const pace = new Pace()
  for (let offset = 0; offset < stack.length; ) {
    yield* pace.keep()
    const length = Math.min(clusterSize - (offset % clusterSize), stack.length - offset)
    const extent = yield* own.map(offset, stack.length - offset)
    if (extent.kind === 'zero' && extent.length >= length) {
      const end = offset + extent.length
      offset = end === stack.length ? end : end - (end % clusterSize)
      continue
    }
    const start = offset - (offset % clusterSize)
    const cluster = buffer.subarray(0, Math.min(clusterSize, stack.length - start))
    yield* readStorage(stack, start, cluster)
    const room = yield* target.reserve(start, cluster.length)
    yield* settle(room.store.write(room.at, cluster))
    yield* room.publish()
    offset = start + cluster.length
  }
}

function* readStorage(storage: Storage, offset: number, target: Uint8Array): Io<void> {
  for (let done = 0; done < target.length; ) {
    const extent = yield* storage.map(offset + done, target.length - done)
    const part = target.subarray(done, done + extent.length)
    if (extent.kind === 'data') yield* settle(extent.store.read(extent.at, part))
    else part.fill(0)
    done += extent.length
  }
}

function filesOf(descriptor: Descriptor): string[] {
  return descriptor.storages.flatMap(({ images }) => [...images.values()].map(({ file }: ImageEntry) => file))
}

/** The cluster size that all images of a storage should have; a plain one may say nothing sensible. */
function clusterSizeFor({ clusterSize }: StorageEntry): number {
  return clusterSize > 0 ? clusterSize : 1 << 20
}

/** A name as Parallels Desktop makes them: the bundle's, the number of the storage, a GUID. */
export function newFileName(descriptorName: string, storage: number): string {
  const folder = descriptorName.split(/[\\/]/).at(-2) ?? ''
  // Other names may not pass the gate.
  const stem =
    /^[\p{L}\p{N}][\p{L}\p{N}\p{P}\p{S} ]{0,99}$/u.test(folder) && !/[:\ufffd]/.test(folder) ? folder : 'disk.hdd'
  return `${stem}.${storage}.{${randomGuid()}}.hds`
}
