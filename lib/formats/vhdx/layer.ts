import { ZERO_GUID } from '../../bytes/guid.ts'
import type { Extent } from '../../contracts/extent.ts'
import type { FileRoom } from '../../contracts/file-room.ts'
import type { Identity, MergedMark, ParentLink } from '../../contracts/identity.ts'
import type { Json, Layer, LinkEditor, Reservation, WritableLayer } from '../../contracts/layer.ts'
import { throwIfCancelled } from '../../errors.ts'
import { type Io, just, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { Allocation, nothing } from './allocation.ts'
import { clearImage } from './clear.ts'
import type { VhdxEditor } from './editor.ts'
import { Edits } from './edits.ts'
import { linkEditor } from './link-editor.ts'
import { mergedMarkOf, parentLinkOf } from './linkage.ts'
import { LogWriter } from './log-writer.ts'
import type { VhdxParts } from './parts.ts'
import { resizeImage } from './resize.ts'
import { Session } from './session.ts'
import { StructureLock } from './structure-lock.ts'
import { WriteBack } from './write-back.ts'

/** A VHDX image for reading. */
export class VhdxLayer implements Layer {
  readonly format = 'vhdx'
  readonly name: string
  readonly store: ByteStore
  protected readonly parts: VhdxParts

  constructor(parts: VhdxParts) {
    this.parts = parts
    this.name = parts.image.name
    this.store = parts.image.store
  }

  get size(): number {
    return this.parts.geometry.size
  }

  get granularity(): number {
    return this.parts.geometry.blockSize
  }

  /** The current header's: another writer may have left a different one in the other. [2.2.2] */
  get identity(): Identity | undefined {
    const { dataWriteGuid: value } = this.parts.headers
    return value === ZERO_GUID ? undefined : { kind: 'guid', value, current: true }
  }

  get parent(): ParentLink | undefined {
    return this.parts.locator && parentLinkOf(this.parts.locator)
  }

  get merged(): MergedMark | undefined {
    return this.parts.locator && mergedMarkOf(this.parts.locator)
  }

  get details(): { readonly [key: string]: Json } {
    const { metadata, headers, pendingLog } = this.parts
    return {
      type: metadata.hasParent ? 'differencing' : metadata.leavesBlocksAllocated ? 'fixed' : 'dynamic',
      blockSize: metadata.blockSize,
      logicalSectorSize: metadata.logicalSectorSize,
      physicalSectorSize: metadata.physicalSectorSize,
      virtualDiskId: metadata.virtualDiskId,
      fileWriteGuid: headers.fileWriteGuid,
      logSize: headers.logLength,
      ...(pendingLog ? { pendingLogEntries: pendingLog.entries } : {}),
    }
  }

  /** For the check: it reads tables past what `map` shows. */
  get structure(): VhdxParts {
    return this.parts
  }

  map(offset: number, length: number): Io<Extent> {
    return this.parts.bat.map(offset, length)
  }

  *close(): Io<void> {
    yield* settle(this.store.close())
  }
}

/**
 * A VHDX image for reading and writing.
 *
 * The order in which things become durable is told in `WriteBack`; what precedes the first change, in `Session`.
 */
export class WritableVhdxLayer extends VhdxLayer implements WritableLayer, VhdxEditor {
  readonly links: LinkEditor
  readonly session: Session
  readonly edits: Edits
  readonly space: FileRoom
  readonly allocation: Allocation
  readonly lock = new StructureLock()
  private readonly writeBack: WriteBack
  /** the end of a reservation that publishes nothing */
  private readonly leave = (): Io<void> => just(this.lock.leave())

  /** @param fileWriteGuid what the headers call this opening of the file */
  constructor(parts: VhdxParts, space: FileRoom, fileWriteGuid: string) {
    super(parts)
    const { bat, headers } = parts
    this.space = space
    this.session = new Session(headers, this.store, space, fileWriteGuid)
    this.writeBack = new WriteBack(this.store, bat.tables, space, new LogWriter(this.store, headers))
    this.edits = new Edits(this.name, bat.tables, this.writeBack)
    this.allocation = new Allocation(bat, this.edits, space, this.store)
    this.links = linkEditor(this)
  }

  get nextIdentity(): Identity {
    return this.session.nextIdentity
  }

  *reserve(offset: number, length: number): Io<Reservation> {
    if (!this.session.contentHasBegun) yield* this.session.beginContent()
    if (!this.lock.tryEnter()) yield* this.lock.enter()
    try {
      return this.counted(yield* this.allocation.reserve(offset, length))
    } catch (error) {
      this.lock.leave()
      throw error
    }
  }

  *erase(offset: number, length: number, reveal: 'zero' | 'parent'): Io<number> {
    const untouched = yield* this.allocation.untouched(offset, length, reveal)
    if (untouched > 0) return untouched
    yield* this.session.beginContent()
    yield* this.lock.enter()
    try {
      return yield* this.allocation.erase(offset, length, reveal)
    } finally {
      this.lock.leave()
    }
  }

  *flush(): Io<void> {
    if (this.session.hasBegun) yield* this.writeBack.flush()
  }

  *commit(): Io<void> {
    yield* this.writeBack.relieve()
  }

  *resize(size: number, parentSize: number, signal?: AbortSignal): Io<void> {
    yield* this.lock.alone(() => resizeImage(this, size, parentSize, signal))
  }

  *clear(size: number, signal?: AbortSignal): Io<void> {
    throwIfCancelled(signal)
    yield* this.lock.alone(() => clearImage(this, size))
  }

  /** Leaves a file that counts as cleanly closed, and open. */
  *end(): Io<void> {
    if (this.session.hasBegun) yield* this.writeBack.end()
  }

  override *close(): Io<void> {
    try {
      yield* this.end()
    } finally {
      yield* super.close()
    }
  }

  /** A use of the structure ends when the reservation does, however that is. */
  private counted(room: Reservation): Reservation {
    const { lock, leave } = this
    const { length, store, at, zeroed, fills } = room
    // Most writes find their room there: they cost no more than they must.
    if (room.publish === nothing) return { length, store, at, zeroed, fills, publish: leave, abandon: leave }
    const ending = function* (end: Io<void>): Io<void> {
      try {
        yield* end
      } finally {
        lock.leave()
      }
    }
    const publish = (): Io<void> => ending(room.publish())
    return { length, store, at, zeroed, fills, publish, abandon: () => ending(room.abandon()) }
  }
}
