import { ZERO_GUID } from '../../bytes/guid.ts'
import type { Extent } from '../../contracts/extent.ts'
import type { Identity, ParentLink } from '../../contracts/identity.ts'
import type { Image } from '../../contracts/image.ts'
import type { Json, Layer, LinkEditor, Reservation, WritableLayer } from '../../contracts/layer.ts'
import { throwIfCancelled } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { Allocation } from './allocation.ts'
import type { BlockMap } from './block-map.ts'
import { CLOSING_MOVES, compact } from './compact.ts'
import type { VdiEditor } from './editor.ts'
import { TYPE } from './layout.ts'
import { linkEditor } from './link-editor.ts'
import { clearImage, nobodyReads, resizeImage } from './resize.ts'
import { identityOf, Session } from './session.ts'
import type { Space } from './space.ts'
import { WriteBack } from './write-back.ts'

/** A VDI image for reading. */
export class VdiLayer implements Layer {
  readonly format = 'vdi'
  readonly merged = undefined
  readonly name: string
  readonly store: ByteStore
  readonly blocks: BlockMap

  constructor(image: Image, blocks: BlockMap) {
    this.name = image.name
    this.store = image.store
    this.blocks = blocks
  }

  get size(): number {
    return this.blocks.header.fields.size
  }

  get granularity(): number {
    return this.blocks.header.fields.blockSize
  }

  get identity(): Identity | undefined {
    const { created, modified } = this.blocks.header.fields
    return created === ZERO_GUID ? undefined : identityOf(created, modified)
  }

  /** The format knows a parent by its GUIDs alone: it has no path, and nothing at all where a program left them empty. */
  get parent(): ParentLink | undefined {
    if (!this.blocks.header.isChild) return undefined
    const { linkage, parentModified } = this.blocks.header.fields
    const expects = linkage === ZERO_GUID ? [] : [identityOf(linkage, parentModified)]
    return { references: [], format: 'vdi', expects, record: undefined, merging: false, replaced: undefined }
  }

  get details(): { readonly [key: string]: Json } {
    const { header } = this.blocks
    const { type, version, blockSize, blocksAllocated, comment, created, modified } = header.fields
    const { linkage, parentModified } = header.fields
    return {
      type: nameOf(type),
      version: `${version >>> 16}.${version & 0xffff}`,
      blockSize,
      blocksAllocated,
      created,
      modified,
      ...(header.isChild ? { linkage, parentModified } : {}),
      ...(comment === '' ? {} : { comment: comment.replace(/\0.*$/s, '') }),
    }
  }

  map(offset: number, length: number): Io<Extent> {
    return this.blocks.map(offset, length)
  }

  *close(): Io<void> {
    yield* settle(this.store.close())
  }
}

/**
 * A VDI image for reading and writing.
 *
 * The order in which things become durable is told in `WriteBack`; what precedes the first change, in `Session`.
 */
export class WritableVdiLayer extends VdiLayer implements WritableLayer, VdiEditor {
  readonly session: Session
  readonly space: Space
  readonly allocation: Allocation
  readonly writeBack: WriteBack

  constructor(image: Image, blocks: BlockMap, space: Space) {
    super(image, blocks)
    this.space = space
    this.session = new Session(blocks.header, this.store)
    this.writeBack = new WriteBack(this.store, blocks.header, blocks.tables, space)
    this.allocation = new Allocation(blocks, space, this.store, this.writeBack)
  }

  /** Undefined for a static image: all of its disk is its own. */
  get links(): LinkEditor | undefined {
    return this.blocks.header.isFixed ? undefined : linkEditor(this)
  }

  get nextIdentity(): Identity {
    return this.session.nextIdentity
  }

  *reserve(offset: number, length: number): Io<Reservation> {
    if (!this.session.hasBegun) yield* this.session.begin()
    return yield* this.allocation.reserve(offset, length)
  }

  *erase(offset: number, length: number, reveal: 'zero' | 'parent'): Io<number> {
    const untouched = yield* this.allocation.untouched(offset, length, reveal)
    if (untouched > 0) return untouched
    yield* this.session.begin()
    return yield* this.allocation.erase(offset, length, reveal)
  }

  *flush(): Io<void> {
    if (this.session.hasBegun) yield* this.writeBack.flush()
  }

  *resize(size: number, parentSize: number, signal?: AbortSignal, readsEnded: () => Io<void> = nobodyReads): Io<void> {
    yield* resizeImage(this, { size, parentSize, signal, readsEnded })
  }

  *clear(size: number, signal?: AbortSignal): Io<void> {
    throwIfCancelled(signal)
    yield* clearImage(this, size)
  }

  override *close(): Io<void> {
    try {
      yield* this.end()
    } finally {
      yield* super.close()
    }
  }

  /** Leaves a file without gaps, all of it durable. */
  private *end(): Io<void> {
    if (!this.session.hasBegun) return
    yield* this.flush()
    // What was given up needs one more round to be free.
    while (!this.space.givenUp.isEmpty) yield* this.flush()
    yield* compact(this, CLOSING_MOVES)
  }
}

/** The name of a type; others than these are refused when a file is opened. */
function nameOf(type: number): string {
  const [name] = Object.entries(TYPE).find(([, value]) => value === type) as [string, number]
  return name
}
