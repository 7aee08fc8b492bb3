import type { Extent } from '../../contracts/extent.ts'
import type { Identity, ParentLink } from '../../contracts/identity.ts'
import type { Json, Layer, LinkEditor, Reservation, WritableLayer } from '../../contracts/layer.ts'
import { isVdiskError, throwIfCancelled } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { Allocation } from './allocation.ts'
import { clearImage } from './clear.ts'
import { detailsOf } from './details.ts'
import type { VhdEditor } from './editor.ts'
import { linkEditor } from './link-editor.ts'
import { fileIdentity, parentLinkOf } from './linkage.ts'
import type { VhdParts } from './parts.ts'
import { resizeImage } from './resize.ts'
import type { Space } from './space.ts'
import { WriteBack } from './write-back.ts'

/** A dynamic or differencing VHD image for reading. */
export class VhdLayer implements Layer {
  readonly format = 'vhd'
  readonly merged = undefined
  readonly name: string
  readonly store: ByteStore
  protected readonly parts: VhdParts

  constructor(parts: VhdParts) {
    this.parts = parts
    this.name = parts.image.name
    this.store = parts.image.store
  }

  get size(): number {
    return this.parts.table.shape.size
  }

  get granularity(): number {
    return this.parts.table.blockSize
  }

  /** It names the file; no program changes it when it writes, and children would not be found if one did. */
  get identity(): Identity {
    return fileIdentity(this.parts.footer.fields.uniqueId)
  }

  get parent(): ParentLink | undefined {
    const { table, header, names } = this.parts
    return table.shape.hasParent ? parentLinkOf(header, names) : undefined
  }

  get details(): { readonly [key: string]: Json } {
    const { footer, table, batmap } = this.parts
    return { ...detailsOf(footer), blockSize: table.blockSize, ...(batmap ? { batmap: true } : {}) }
  }

  /** For the check: it reads tables past what `map` shows. */
  get structure(): VhdParts {
    return this.parts
  }

  map(offset: number, length: number): Io<Extent> {
    return this.parts.table.map(offset, length)
  }

  *close(): Io<void> {
    yield* settle(this.store.close())
  }
}

/** The same for reading and writing. The order in which things become durable is told in `WriteBack`. */
export class WritableVhdLayer extends VhdLayer implements WritableLayer, VhdEditor {
  readonly links: LinkEditor
  readonly space: Space
  readonly allocation: Allocation
  private readonly writeBack: WriteBack
  /** when the file was last changed before it was opened; undefined from the first change of content on */
  private lastChange: bigint | undefined

  constructor(parts: VhdParts, space: Space) {
    super(parts)
    this.space = space
    this.writeBack = new WriteBack(parts.table, space)
    this.allocation = new Allocation(parts.table, space, this.writeBack)
    this.links = linkEditor(this)
    this.lastChange = this.store.stamp?.().modified
  }

  get nextIdentity(): Identity {
    return this.identity
  }

  *reserve(offset: number, length: number): Io<Reservation> {
    if (!this.space.hasBegun) yield* this.space.begin()
    this.lastChange = undefined
    return yield* this.allocation.reserve(offset, length)
  }

  *erase(offset: number, length: number, reveal: 'zero' | 'parent'): Io<number> {
    const untouched = yield* this.allocation.untouched(offset, length, reveal)
    if (untouched > 0) return untouched
    yield* this.space.begin()
    this.lastChange = undefined
    yield* this.forgetBatmap()
    return yield* this.allocation.erase(offset, length, reveal)
  }

  *flush(): Io<void> {
    if (this.space.hasBegun) yield* this.writeBack.flush()
  }

  *resize(size: number, parentSize: number, signal?: AbortSignal): Io<void> {
    this.lastChange = undefined
    yield* resizeImage(this, size, parentSize, signal)
  }

  *clear(size: number, signal?: AbortSignal): Io<void> {
    throwIfCancelled(signal)
    this.lastChange = undefined
    yield* clearImage(this, size)
  }

  override *close(): Io<void> {
    try {
      if (this.space.hasBegun) {
        yield* this.writeBack.end()
        if (this.lastChange === undefined || this.space.footers.hasGrown) yield* this.space.trim()
        this.putBackTime()
      }
    } finally {
      yield* super.close()
    }
  }

  /** Children know the file by the time when its content changed last. Where only its own link did, that is as before. */
  private putBackTime(): void {
    if (this.lastChange === undefined) return
    try {
      this.store.setModified?.(this.lastChange)
    } catch (error) {
      // Whoever may write to a file need not own it, and only who does may set its time.
      if (!isVdiskError(error, 'REFUSED')) throw error
    }
  }

  /** A block that was whole may lose sectors, or its room. */
  private *forgetBatmap(): Io<void> {
    yield* this.parts.batmap?.clear(this.store) ?? settle(undefined)
  }
}
