import type { Extent } from '../../contracts/extent.ts'
import type { Identity, MergedMark, ParentLink } from '../../contracts/identity.ts'
import type { Json, Layer, LinkEditor, Packer, Reservation, WritableLayer } from '../../contracts/layer.ts'
import { throwIfCancelled, VdiskError } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { type ExtentFile, isWritableExtent, type WritableExtentFile } from './extent-file.ts'
import { linkEditor } from './link-editor.ts'
import { contentIdentity, mergedMarkOf, parentLinkOf } from './linkage.ts'
import type { VmdkParts } from './parts.ts'
import { clearImage, resizeImage } from './resize.ts'
import { Session } from './session.ts'

/** Granule of an image whose files are not looked at. */
const UNKNOWN_GRANULE = 65536

/** What the database says of the disk that a user may want to know. ["The Disk Database"] */
const OF_DISK = {
  adapterType: 'ddb.adapterType',
  hardwareVersion: 'ddb.virtualHWVersion',
  uuid: 'ddb.uuid',
  longContentId: 'ddb.longContentID',
} as const

/** A VMDK image for reading. */
export class VmdkLayer implements Layer {
  readonly format = 'vmdk'
  readonly name: string
  readonly store: ByteStore
  protected readonly parts: VmdkParts
  private last: ExtentFile | undefined

  constructor(parts: VmdkParts) {
    this.parts = parts
    this.name = parts.image.name
    this.store = parts.image.store
  }

  get size(): number {
    return this.parts.size
  }

  get granularity(): number {
    const { extents } = this.parts
    return extents.length === 0 ? UNKNOWN_GRANULE : Math.max(...extents.map((extent) => extent.granularity))
  }

  get identity(): Identity | undefined {
    const { cid } = this.parts.descriptor
    return cid === undefined ? undefined : contentIdentity(cid)
  }

  get parent(): ParentLink | undefined {
    return parentLinkOf(this.parts.descriptor)
  }

  get merged(): MergedMark | undefined {
    return mergedMarkOf(this.parts.descriptor)
  }

  get details(): { readonly [key: string]: Json } {
    const { descriptor, extents, isMonolithic } = this.parts
    const files = isMonolithic ? [] : descriptor.extents.flatMap(({ file }) => file ?? [])
    const ofDisk = Object.entries(OF_DISK).flatMap(([name, key]) => {
      const value = descriptor.get(key)
      return value === undefined ? [] : [[name, value]]
    })
    return {
      subformat: descriptor.get('createType') ?? '',
      ...(files.length > 0 ? { files: files.map((file) => descriptor.decode(file)) } : {}),
      ...extents[0]?.details,
      ...Object.fromEntries(ofDisk),
    }
  }

  get neighbours(): readonly ByteStore[] {
    return this.parts.extents.flatMap(({ store }) => (store && store !== this.store ? store : []))
  }

  /** For the check: it reads tables past what `map` shows. */
  get structure(): VmdkParts {
    return this.parts
  }

  *map(offset: number, length: number): Io<Extent> {
    const extent = this.extentAt(offset)
    return yield* extent.map(offset, Math.min(length, extent.start + extent.length - offset))
  }

  *close(): Io<void> {
    let failure: unknown
    for (const close of [
      ...this.parts.extents.map((extent) => () => extent.close()),
      () => settle(this.store.close()),
    ]) {
      try {
        yield* close()
      } catch (error) {
        failure ??= error
      }
    }
    if (failure) throw failure
  }

  /** The part of the disk that holds `offset`. */
  protected extentAt(offset: number): ExtentFile {
    const { last } = this
    if (last && offset >= last.start && offset < last.start + last.length) return last
    const { extents } = this.parts
    let [low, high] = [0, extents.length]
    while (low < high - 1) {
      const middle = (low + high) >>> 1
      if ((extents[middle] as ExtentFile).start <= offset) low = middle
      else high = middle
    }
    const found = extents[low]
    if (!found)
      throw new VdiskError('REFUSED', { message: `Cannot read ${this.name}: only what it says of itself was opened` })
    this.last = found
    return found
  }
}

/** A VMDK image for reading and writing. What precedes the first change is told in `Session`; each extent keeps its order. */
export class WritableVmdkLayer extends VmdkLayer implements WritableLayer {
  readonly session: Session
  /** undefined where a part of the disk is never silent, so that no parent could show */
  readonly links: LinkEditor | undefined

  constructor(parts: VmdkParts) {
    super(parts)
    this.session = new Session(parts)
    this.links = parts.extents.every((extent) => isWritableExtent(extent) && extent.showParent)
      ? linkEditor(this)
      : undefined
  }

  get nextIdentity(): Identity {
    return this.session.nextIdentity
  }

  /** Of a disk that is one stream of packed grains; such a one has no other way to be written. */
  get packer(): Packer | undefined {
    const [extent, ...others] = this.parts.extents
    const packer = extent && others.length === 0 && isWritableExtent(extent) ? extent.packer : undefined
    return packer && { ...packer, store: (offset, packed) => this.storePacked(packer, offset, packed) }
  }

  *reserve(offset: number, length: number): Io<Reservation> {
    const extent = this.writableAt(offset)
    if (!this.session.contentHasBegun) yield* this.session.beginContent()
    return yield* extent.reserve(offset, Math.min(length, extent.start + extent.length - offset))
  }

  *erase(offset: number, length: number, reveal: 'zero' | 'parent'): Io<number> {
    const extent = this.extentAt(offset)
    const wanted = Math.min(length, extent.start + extent.length - offset)
    const found = yield* extent.map(offset, wanted)
    // What reads so already stays as it is, also where it cannot be written.
    if (found.kind === (reveal === 'parent' && this.parent ? 'parent' : 'zero')) return found.length
    const writable = this.writableAt(offset)
    yield* this.session.beginContent()
    return yield* writable.erase(offset, wanted, reveal)
  }

  *flush(): Io<void> {
    for (const extent of this.parts.extents) if (isWritableExtent(extent)) yield* extent.flush()
  }

  *resize(size: number, parentSize: number, signal?: AbortSignal): Io<void> {
    yield* resizeImage(this, size, parentSize, signal)
  }

  *clear(size: number, signal?: AbortSignal): Io<void> {
    throwIfCancelled(signal)
    yield* clearImage(this, size)
  }

  override *close(): Io<void> {
    try {
      for (const extent of this.parts.extents) if (isWritableExtent(extent)) yield* extent.end()
    } finally {
      yield* super.close()
    }
  }

  private *storePacked(packer: Packer, offset: number, packed: Uint8Array): Io<void> {
    yield* this.session.beginContent()
    yield* packer.store(offset, packed)
  }

  /** @throws VdiskError READ_ONLY for a part that the descriptor calls so, or that has no file */
  private writableAt(offset: number): WritableExtentFile {
    const extent = this.extentAt(offset)
    if (isWritableExtent(extent)) return extent
    throw new VdiskError('READ_ONLY', {
      message: `Cannot write ${this.name} at ${offset}: its descriptor says that this part of the disk is not to be written`,
      where: { file: this.name, structure: 'descriptor', offset },
      advice: 'Make a copy that can be written: vdisk convert IMAGE COPY --format vmdk',
    })
  }
}
