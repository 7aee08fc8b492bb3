import { type Chain, type Device, type Io, type ResolvedExtent, type SnapshotInfo, VdiskError } from '../lib/index.ts'

/** Snapshots whose tables are held at once; who looks at more waits for some to be read again. */
const KEPT = 8

/** The internal snapshots of a disk, each opened when somebody looks at it. */
export class SnapshotViews {
  private readonly chain: () => Chain
  /** by id, least recently used first */
  private readonly views = new Map<string, { readonly whole: Chain; readonly view: Chain }>()

  /** @param chain the disk as it is now: its layers may be exchanged */
  constructor(chain: () => Chain) {
    this.chain = chain
  }

  list(): readonly SnapshotInfo[] {
    return this.chain().layers.at(-1)?.snapshots?.list() ?? []
  }

  deviceOf(snapshot: SnapshotInfo): Device {
    return new SnapshotDevice(this, snapshot, this.chain())
  }

  /** @throws VdiskError NOT_FOUND if the snapshot is there no more, CORRUPT if its tables are damaged */
  *view(snapshot: SnapshotInfo): Io<Chain> {
    const { id } = snapshot
    const whole = this.chain()
    // What it held may belong to somebody else by now.
    if (!this.list().some((other) => isSame(other, snapshot))) {
      this.views.delete(id)
      throw new VdiskError('NOT_FOUND', {
        message: `Cannot read snapshot "${snapshot.name}" of ${whole.name}: it was deleted`,
        where: { file: whole.name, structure: 'snapshot table' },
      })
    }
    const held = this.views.get(id)
    const view = held?.whole === whole ? held.view : yield* whole.viewOfSnapshot(id)
    this.views.delete(id)
    this.views.set(id, { whole, view })
    const [oldest] = this.views.keys()
    if (this.views.size > KEPT && oldest !== undefined) this.views.delete(oldest)
    return view
  }
}

/** Whether two descriptions are of one snapshot: an id may be given again after it was deleted. */
export function isSame(a: SnapshotInfo, b: SnapshotInfo): boolean {
  return a.id === b.id && a.name === b.name && a.created === b.created && a.diskSize === b.diskSize
}

/** An internal snapshot as a disk for reading. */
class SnapshotDevice implements Device {
  readonly name: string
  readonly size: number
  readonly writable = false
  readonly granularity: number
  private readonly views: SnapshotViews
  private readonly snapshot: SnapshotInfo

  constructor(views: SnapshotViews, snapshot: SnapshotInfo, { name, granularity }: Chain) {
    this.views = views
    this.snapshot = snapshot
    this.name = `${name}, snapshot ${snapshot.name}`
    this.size = snapshot.diskSize
    this.granularity = granularity
  }

  *map(offset: number, length: number): Io<ResolvedExtent> {
    const view = yield* this.views.view(this.snapshot)
    return yield* view.map(offset, length)
  }

  *read(offset: number, target: Uint8Array): Io<void> {
    const view = yield* this.views.view(this.snapshot)
    yield* view.read(offset, target)
  }

  write(): Io<void> {
    throw this.refusal()
  }

  erase(): Io<void> {
    throw this.refusal()
  }

  *flush(): Io<void> {}

  private refusal(): VdiskError {
    return new VdiskError('READ_ONLY', {
      message: `Cannot write ${this.name}: a snapshot stays as it is`,
      where: { file: this.name },
    })
  }
}
