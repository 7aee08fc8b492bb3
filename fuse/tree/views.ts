import {
  type Chain,
  type Device,
  type Io,
  type ResolvedExtent,
  type SnapshotInfo,
  VdiskError,
} from '../../lib/index.ts'

/** A layer of a chain. */
type Layer = Chain['layers'][number]

/** Snapshots whose tables are held at once; who looks at more waits for some to be read again. */
const KEPT = 8

/**
 * Earlier states of a disk, as disks for reading: as each layer left it, and as internal snapshots have it.
 *
 * The chain may be another one from one read to the next, since layers can be exchanged; so each use looks for the view
 * anew. What is gone by then can be read no more.
 */
export class Views {
  private readonly chain: () => Chain
  private readonly layers = new WeakMap<Chain, Map<Layer, Chain>>()
  /** by id, least recently used first */
  private readonly snapshots = new Map<string, { readonly whole: Chain; readonly view: Chain }>()

  /** @param chain the disk as it is made up now */
  constructor(chain: () => Chain) {
    this.chain = chain
  }

  /** The disk as it was when `layer` was the top. */
  ofLayer(layer: Layer): Device {
    const { name, granularity } = layer
    const find = (): Chain => this.findLayer(layer)
    return new View({ name, granularity, size: () => layer.size }, find)
  }

  listSnapshots(): readonly SnapshotInfo[] {
    return this.chain().layers.at(-1)?.snapshots?.list() ?? []
  }

  ofSnapshot(snapshot: SnapshotInfo): Device {
    const { granularity, name } = this.chain()
    const find = (): Io<Chain> => this.findSnapshot(snapshot)
    return new View({ name: `${name}, snapshot ${snapshot.name}`, granularity, size: () => snapshot.diskSize }, find)
  }

  private findLayer(layer: Layer): Chain {
    const whole = this.chain()
    const views = this.layers.get(whole) ?? new Map<Layer, Chain>()
    this.layers.set(whole, views)
    const view = views.get(layer)
    if (view) return view
    const depth = whole.layers.indexOf(layer)
    if (depth < 0) throw goneFrom(whole, `layer ${layer.name}: it is no part of the disk any more`)
    const made = whole.viewAt(depth)
    views.set(layer, made)
    return made
  }

  private *findSnapshot(snapshot: SnapshotInfo): Io<Chain> {
    const { id, name } = snapshot
    const whole = this.chain()
    // What it held may belong to somebody else by now.
    if (!this.listSnapshots().some((other) => isSame(other, snapshot))) {
      this.snapshots.delete(id)
      throw goneFrom(whole, `snapshot "${name}": it was deleted`)
    }
    const held = this.snapshots.get(id)
    const view = held?.whole === whole ? held.view : yield* whole.viewOfSnapshot(id)
    this.snapshots.delete(id)
    this.snapshots.set(id, { whole, view })
    const [oldest] = this.snapshots.keys()
    if (this.snapshots.size > KEPT && oldest !== undefined) this.snapshots.delete(oldest)
    return view
  }
}

/** An id may be given again after it was deleted. */
function isSame(a: SnapshotInfo, b: SnapshotInfo): boolean {
  return a.id === b.id && a.name === b.name && a.created === b.created && a.diskSize === b.diskSize
}

function goneFrom({ name }: Chain, what: string): VdiskError {
  return new VdiskError('NOT_FOUND', { message: `Cannot read ${what}`, where: { file: name } })
}

/** A disk for reading that has to be found before each use. */
class View implements Device {
  readonly name: string
  readonly writable = false
  readonly granularity: number
  private readonly find: () => Chain | Io<Chain>
  private readonly sizeNow: () => number

  constructor(shape: { name: string; granularity: number; size: () => number }, find: () => Chain | Io<Chain>) {
    this.name = shape.name
    this.granularity = shape.granularity
    this.sizeNow = shape.size
    this.find = find
  }

  get size(): number {
    return this.sizeNow()
  }

  *map(offset: number, length: number): Io<ResolvedExtent> {
    const view = yield* this.found()
    return yield* view.map(offset, length)
  }

  *read(offset: number, target: Uint8Array): Io<void> {
    const view = yield* this.found()
    yield* view.read(offset, target)
  }

  write(): Io<void> {
    throw this.refusal()
  }

  erase(): Io<void> {
    throw this.refusal()
  }

  *flush(): Io<void> {}

  private *found(): Io<Chain> {
    const view = this.find()
    return 'layers' in view ? view : yield* view
  }

  private refusal(): VdiskError {
    return new VdiskError('READ_ONLY', {
      message: `Cannot write ${this.name}: an earlier state of a disk stays as it is`,
      where: { file: this.name },
    })
  }
}
