import type { Identity, MergedMark, NewParent, ParentLink } from '../contracts/identity.ts'
import type { Image, SideFile } from '../contracts/image.ts'
import { isWritable, type Layer, type LinkEditor, type WritableLayer } from '../contracts/layer.ts'
import type { Io } from '../io/io.ts'
import type { ByteStore } from '../io/store.ts'
import { addLine, bindingOf, LinkRecord, linkTo, type RecordedLink, type RecordState } from './link-record.ts'

/** The linkage record beside a layer's file. */
export interface RecordBeside {
  readonly file: string
  readonly state: Exclude<RecordState, 'none'>
}

/**
 * The layer of an image, with what the linkage record beside it says of its parent; the layer as it is where nothing lies
 * beside it and nothing ever will.
 */
export function* withLinkRecord(layer: Layer, image: Image): Io<Layer> {
  const file = image.linkRecord
  if (!file) return layer
  const record = yield* LinkRecord.read(file, layer.format, layer.parent)
  if (isWritable(layer)) return layer.parent ? new WritableRecordedLayer(layer, file, record) : layer
  return record.state === 'none' ? layer : new RecordedLayer(layer, file, record)
}

/** The layer that the driver opened. */
export function nativeLayer(layer: Layer): Layer {
  return layer instanceof RecordedLayer ? layer.native : layer
}

/** What lies beside the file of a layer; undefined: nothing. */
export function recordBeside(layer: Layer): RecordBeside | undefined {
  return layer instanceof RecordedLayer ? layer.beside : undefined
}

/** What passes a layer on leaves nothing out. */
type Whole<T> = { [Key in keyof Required<T>]: T[Key] }

/** A layer whose file has a linkage record beside it. All but the link is the driver's. */
class RecordedLayer<Native extends Layer = Layer> implements Whole<Layer> {
  readonly native: Native
  readonly format: string
  readonly name: string
  readonly store: ByteStore
  protected readonly file: SideFile
  protected link: RecordedLink | undefined
  private readonly state: RecordState

  constructor(native: Native, file: SideFile, { link, state }: LinkRecord) {
    this.native = native
    this.format = native.format
    this.name = native.name
    this.store = native.store
    this.file = file
    this.link = link
    this.state = state
  }

  get neighbours(): Layer['neighbours'] {
    return this.native.neighbours
  }

  get snapshots(): Layer['snapshots'] {
    return this.native.snapshots
  }

  get bitmaps(): Layer['bitmaps'] {
    return this.native.bitmaps
  }

  get size(): number {
    return this.native.size
  }

  get granularity(): number {
    return this.native.granularity
  }

  get identity(): Identity | undefined {
    return this.native.identity
  }

  get details(): Layer['details'] {
    return this.native.details
  }

  get parent(): ParentLink | undefined {
    const own = this.native.parent
    if (!own || !this.link) return own
    const { path, format, expects, record, merging, replaced } = this.link
    const references = path === undefined ? own.references : [...new Set([path, ...own.references])]
    return { references, format: format ?? own.format, expects, record, merging, replaced }
  }

  get merged(): MergedMark | undefined {
    return this.link?.merged ?? this.native.merged
  }

  get beside(): RecordBeside | undefined {
    const { state } = this
    return state === 'none' ? undefined : { file: this.file.name, state }
  }

  map(offset: number, length: number): ReturnType<Layer['map']> {
    return this.native.map(offset, length)
  }

  close(): Io<void> {
    return this.native.close()
  }
}

class WritableRecordedLayer extends RecordedLayer<WritableLayer> implements Whole<WritableLayer> {
  readonly links: LinkEditor | undefined
  readonly clear: WritableLayer['clear']

  constructor(native: WritableLayer, file: SideFile, record: LinkRecord) {
    super(native, file, record)
    // What the format itself has room for needs no record; one that holds all the same is from before.
    this.links = native.links?.complete && !record.link ? native.links : native.links && this.editor(native.links)
    this.clear = native.clear?.bind(native)
  }

  get flat(): boolean {
    return this.native.flat === true
  }

  get packer(): WritableLayer['packer'] {
    return this.native.packer
  }

  get nextIdentity(): Identity | undefined {
    return this.native.nextIdentity
  }

  reserve(offset: number, length: number): ReturnType<WritableLayer['reserve']> {
    return this.native.reserve(offset, length)
  }

  erase(offset: number, length: number, reveal: 'zero' | 'parent'): Io<number> {
    return this.native.erase(offset, length, reveal)
  }

  flush(): Io<void> {
    return this.native.flush()
  }

  resize(...how: Parameters<WritableLayer['resize']>): Io<void> {
    return this.native.resize(...how)
  }

  private editor(links: LinkEditor): LinkEditor {
    return {
      setParent: (parent) => this.setParent(links, parent),
      beginMerge: (now, next) =>
        this.relabel({ expects: [now, next].filter((one) => one !== undefined), merging: true }),
      endMerge: (mark, parent) => this.relabel(this.afterMerge(mark, parent)),
    }
  }

  private *setParent(links: LinkEditor, parent: NewParent | undefined): Io<void> {
    const { file } = this
    if (!parent || links.complete) {
      yield* links.setParent(parent)
      file.remove()
      this.link = undefined
      return
    }
    const link = linkTo(parent, this.link)
    // It holds as soon as the image itself says another thing than now; should that be the same, the second line decides.
    yield* addLine(file, { unless: this.binding() }, link)
    yield* links.setParent(parent)
    yield* addLine(file, { link: this.binding() }, link)
    this.link = link
  }

  /** A change that the image itself has no place for. */
  private *relabel(change: Partial<RecordedLink>): Io<void> {
    const link = { ...(this.link ?? ownLink(this.native)), ...change }
    yield* addLine(this.file, { link: this.binding() }, link)
    this.link = link
  }

  /** Where there was nothing to take over the parent is who it was. */
  private afterMerge(
    merged: MergedMark,
    parent: Pick<NewParent, 'identity' | 'record'> | undefined,
  ): Partial<RecordedLink> {
    const { expects, record } = this.link ?? ownLink(this.native)
    const [first, second] = expects
    const isAsBefore = first !== undefined && first.value === parent?.identity?.value
    const left = isAsBefore ? first : (second ?? first)
    return { expects: left ? [left] : [], record: parent?.record ?? record, merging: false, merged }
  }

  private binding(): string {
    const { format, parent } = this.native
    if (!parent) throw new TypeError(`${this.name} does not call itself a child`)
    return bindingOf(format, parent)
  }
}

/** What an image itself says of its parent, for a record that begins with it. */
function ownLink({ parent, merged }: Layer): RecordedLink {
  if (!parent) throw new TypeError('only a child has a link')
  const { format, expects, record, merging, replaced } = parent
  return { format, path: undefined, expects, record, merging, replaced, merged }
}
