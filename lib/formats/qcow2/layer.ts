import { roundDown } from '../../bytes/align.ts'
import { randomGuid, ZERO_GUID } from '../../bytes/guid.ts'
import type { Extent } from '../../contracts/extent.ts'
import type { Identity, MergedMark, NewParent, ParentLink } from '../../contracts/identity.ts'
import type {
  InternalSnapshots,
  Json,
  Layer,
  LinkEditor,
  Packer,
  Reservation,
  WritableLayer,
} from '../../contracts/layer.ts'
import { type Io, settle, Turns } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { Allocation } from './allocation.ts'
import { BitmapEditing } from './bitmap-editing.ts'
import type { Bitmaps } from './bitmaps.ts'
import { clearImage } from './clear.ts'
import { CompressedWriter } from './compressed-writer.ts'
import { ALGORITHMS, packerOf } from './compression.ts'
import type { Qcow2Editor } from './editor.ts'
import type { Header } from './header.ts'
import { COMPATIBLE, EXTENSION } from './layout.ts'
import { Linkage } from './linkage.ts'
import type { Mapping } from './mapping.ts'
import type { Qcow2Parts } from './parts.ts'
import type { Refcounts } from './refcounts.ts'
import type { WalkParts } from './references.ts'
import { resizeImage } from './resize.ts'
import { Session } from './session.ts'
import { WriteBack } from './write-back.ts'

/** Bytes of changed tables after which they are written back without being asked. */
const CHANGES = 16 << 20

/** Which snapshot a layer shows. */
export interface SnapshotView {
  readonly name: string
  readonly diskSize: number
}

/** A qcow2 image for reading. Where things lie is `Mapping`'s to say; who it is and whose child, the header's. */
export class Qcow2Layer implements Layer {
  readonly format = 'qcow2'
  readonly name: string
  readonly store: ByteStore
  readonly snapshots: InternalSnapshots
  readonly bitmaps: Bitmaps
  protected readonly header: Header
  protected readonly mapping: Mapping
  protected readonly parts: Qcow2Parts
  private readonly snapshot: SnapshotView | undefined

  /** @param snapshot the image as one of its snapshots has it; it shares tables and stores, and closes nothing */
  constructor(parts: Qcow2Parts, snapshot?: SnapshotView) {
    this.parts = parts
    this.snapshot = snapshot
    this.name = snapshot ? `${parts.image.name}#${snapshot.name}` : parts.image.name
    this.store = parts.image.store
    this.header = parts.header
    this.mapping = parts.mapping
    this.snapshots = parts.snapshots
    this.bitmaps = parts.bitmaps
  }

  get size(): number {
    return this.snapshot?.diskSize ?? this.header.size
  }

  get granularity(): number {
    return this.header.clusterSize
  }

  get neighbours(): readonly ByteStore[] | undefined {
    const { dataStore, store } = this.mapping
    return dataStore === store ? undefined : [dataStore]
  }

  get identity(): Identity | undefined {
    return this.asFarAsSeen(this.parts.linkage?.identity(this.header, this.store.stamp?.()))
  }

  /** Who writes to the data file alone changes nothing here. */
  protected asFarAsSeen(identity: Identity | undefined): Identity | undefined {
    return identity && this.header.hasDataFile ? { ...identity, weak: 'data' } : identity
  }

  get parent(): ParentLink | undefined {
    return parentLinkOf(this.header, this.parts.linkage)
  }

  get merged(): MergedMark | undefined {
    return this.parts.linkage?.merged
  }

  get details(): { readonly [key: string]: Json } {
    return detailsOf(this.header)
  }

  /** For the check: it reads tables past what `map` shows. */
  get structure(): Qcow2Parts {
    return this.parts
  }

  map(offset: number, length: number): Io<Extent> {
    return this.mapping.map(offset, length)
  }

  *close(): Io<void> {
    if (!this.snapshot) yield* closeStores(this.mapping)
  }
}

/**
 * A qcow2 image for reading and writing.
 *
 * The order in which things become durable is told in `WriteBack`; what precedes the first change, in `Session`.
 */
export class WritableQcow2Layer extends Qcow2Layer implements WritableLayer, Qcow2Editor {
  readonly links: LinkEditor
  readonly refcounts: Refcounts
  readonly allocation: Allocation
  readonly session: Session
  private readonly writeBack: WriteBack
  private readonly resizing = new Turns()
  private compressed: CompressedWriter | undefined

  constructor(parts: Qcow2Parts, refcounts: Refcounts) {
    super(parts)
    this.refcounts = refcounts
    this.session = new Session(this.header, this.store, parts.linkage, this.bitmaps)
    this.allocation = new Allocation(this.mapping, refcounts, () => this.header.backingName !== undefined)
    this.writeBack = new WriteBack(this.mapping, refcounts, this.allocation)
    this.bitmaps.attach(this)
    // Version 2 has no bit by which a writer that knows no bitmaps could say so. ["Header", autoclear_features]
    if (this.header.version === 3) this.bitmaps.edit = new BitmapEditing(this)
    parts.snapshots.attach(this)
    this.links = this.linkEditor()
  }

  override get identity(): Identity | undefined {
    const stamp = this.session.contentChanged ? undefined : this.store.stamp?.()
    return this.asFarAsSeen(this.session.linkage?.identity(this.header, stamp))
  }

  override get parent(): ParentLink | undefined {
    return parentLinkOf(this.header, this.session.linkage)
  }

  override get merged(): MergedMark | undefined {
    return this.session.linkage?.merged
  }

  get nextIdentity(): Identity | undefined {
    return this.session.isAnnounced ? this.identity : this.asFarAsSeen(this.session.linkage?.nextIdentity())
  }

  get packer(): Packer | undefined {
    if (this.header.hasDataFile) return undefined
    this.compressed ??= new CompressedWriter(this.mapping, this.refcounts, this.allocation)
    const { compressed } = this
    return {
      algorithm: ALGORITHMS[this.header.compressionType] as string,
      pack: packerOf(this.header),
      store: (offset, packed) => this.storePacked(compressed, offset, packed),
    }
  }

  *reserve(offset: number, length: number): Io<Reservation> {
    yield* this.session.beginContent()
    if (this.isFull) yield* this.writeBack.relieve()
    const room = yield* this.allocation.reserve(offset, length)
    this.bitmaps.mark(offset, room.length)
    return room
  }

  *erase(offset: number, length: number, reveal: 'zero' | 'parent'): Io<number> {
    yield* this.session.beginContent()
    if (this.isFull) yield* this.writeBack.relieve()
    const done = yield* this.allocation.erase(offset, length, reveal)
    if (done > 0) this.bitmaps.mark(offset, done)
    return done
  }

  *flush(): Io<void> {
    this.compressed?.seal()
    yield* this.writeBack.flush()
  }

  /** For walks over everything that tables refer to. */
  get walk(): WalkParts {
    return { mapping: this.mapping, refcounts: this.refcounts, relieve: () => this.relieve() }
  }

  /** Writes tables back where they take much memory; for work that changes many of them. */
  *relieve(): Io<void> {
    if (this.isFull) yield* this.writeBack.relieve()
  }

  *resize(size: number, parentSize: number, signal?: AbortSignal): Io<void> {
    yield* this.resizing.take(() => resizeImage(this, this.parts, size, { parentSize, signal }))
  }

  *clear(size: number, signal?: AbortSignal): Io<void> {
    yield* this.resizing.take(() => clearImage(this, this.parts, size, signal))
  }

  /** Everything is durable, and the file counts as cleanly closed; it stays open. */
  *seal(): Io<void> {
    yield* this.flush()
    // What was released needs one more round to be counted as free.
    while (!this.refcounts.givenUp.isEmpty) yield* this.flush()
    yield* this.session.end()
  }

  override *close(): Io<void> {
    try {
      // What nobody has written to need not wait for the medium, which may be busy with other files.
      if (this.session.hasBegun || this.hasPending) yield* this.seal()
    } finally {
      yield* super.close()
    }
  }

  private get isFull(): boolean {
    return this.changedBytes > CHANGES
  }

  /** Whether tables or counts are still to be written. */
  private get hasPending(): boolean {
    return this.changedBytes > 0 || !this.refcounts.givenUp.isEmpty
  }

  /** Of tables, in memory alone as yet. */
  private get changedBytes(): number {
    return this.mapping.tables.changedBytes + this.refcounts.changedBytes
  }

  private *storePacked(writer: CompressedWriter, offset: number, packed: Uint8Array): Io<void> {
    yield* this.session.beginContent()
    yield* this.relieve()
    yield* writer.put(offset, packed)
    this.bitmaps.mark(offset, Math.min(this.granularity, this.size - offset))
  }

  private linkEditor(): LinkEditor {
    const { session, header } = this
    /** An image that was never ours gets an identity when its link becomes ours to keep. */
    const change = function* (edit: (linkage: Linkage) => void): Io<void> {
      session.linkage ??= Linkage.make(randomGuid())
      yield* session.beginMetadata()
      edit(session.linkage)
      yield* session.writeLinkage()
    }
    const name = (parent: NewParent | undefined): void => {
      header.backingName = parent?.path
      header.setExtension(EXTENSION.backingFormat, parent && Buffer.from(parent.format, 'utf8'))
    }
    return {
      complete: true,
      *setParent(parent: NewParent | undefined) {
        // A name that does not fit is refused before anything has changed.
        header.tryOut(() => {
          const linkage = session.linkage ?? Linkage.make(ZERO_GUID)
          linkage.store(header)
          name(parent)
        })
        yield* change((linkage) => {
          linkage.setParent(parent)
          name(parent)
        })
      },
      beginMerge: (now, next) => change((linkage) => linkage.beginMerge(now, next)),
      endMerge: (mark, parent) => change((linkage) => linkage.endMerge(mark, parent, roundDown(header.spare, 8))),
    }
  }
}

function parentLinkOf(header: Header, linkage: Linkage | undefined): ParentLink | undefined {
  if (header.backingName === undefined) return undefined
  const format = header.extension(EXTENSION.backingFormat)
  const name = format && Buffer.from(format).toString('utf8')
  return linkage
    ? linkage.parentLink([header.backingName], name)
    : {
        references: [header.backingName],
        format: name,
        expects: [],
        record: undefined,
        merging: false,
        replaced: undefined,
      }
}

function detailsOf(header: Header): { readonly [key: string]: Json } {
  const dataFile = header.extension(EXTENSION.dataFile)
  return {
    compat: header.version === 3 ? '1.1' : '0.10',
    clusterSize: header.clusterSize,
    refcountBits: 2 ** header.refcountOrder,
    compressionType: ALGORITHMS[header.compressionType] as string,
    extendedL2: header.extendedL2,
    lazyRefcounts: (header.compatible & COMPATIBLE.lazyRefcounts) !== 0n,
    dirty: header.has('dirty'),
    corrupt: header.has('corrupt'),
    ...(dataFile ? { dataFile: Buffer.from(dataFile).toString('utf8'), dataFileRaw: header.rawDataFile } : {}),
  }
}

function* closeStores(mapping: Mapping): Io<void> {
  try {
    if (mapping.dataStore !== mapping.store) yield* settle(mapping.dataStore.close())
  } finally {
    yield* settle(mapping.store.close())
  }
}
