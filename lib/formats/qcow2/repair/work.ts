import { NumberSet } from '../../../bytes/number-set.ts'
import type { DoubtfulRange, NewRepaired, RepairReport } from '../../../contracts/repair.ts'
import { type Io, Pace } from '../../../io/io.ts'
import type { Header } from '../header.ts'
import type { WritableQcow2Layer } from '../layer.ts'
import type { Mapping } from '../mapping.ts'
import type { Qcow2Parts } from '../parts.ts'
import type { Refcounts } from '../refcounts.ts'
import type { RootTable } from '../root-table.ts'
import type { SnapshotTable } from '../snapshots.ts'

/** An L1 table: the disk's, or a snapshot's. */
export interface Root {
  readonly l1: RootTable
  readonly snapshot: SnapshotTable | undefined
}

/** An image under repair. Nothing is written before the first change is told. */
export class RepairWork {
  readonly parts: Qcow2Parts
  readonly layer: WritableQcow2Layer
  readonly report: RepairReport
  /** clusters with the data of bitmaps: no table, but no place for anything else */
  readonly bitmapData = new NumberSet()
  /** one for all walks over tables: there may be thousands of snapshots, each with a small one */
  readonly pace: Pace

  constructor(parts: Qcow2Parts, layer: WritableQcow2Layer, report: RepairReport) {
    this.parts = parts
    this.layer = layer
    this.report = report
    this.pace = new Pace(parts.image.signal)
  }

  get header(): Header {
    return this.parts.header
  }

  get mapping(): Mapping {
    return this.parts.mapping
  }

  get refcounts(): Refcounts {
    return this.layer.refcounts
  }

  /**
   * Comes before each change: notes it, and makes durable what must precede it. Where the guest may see the difference the
   * image becomes another state of itself, and bitmaps that record note the range.
   */
  *change(repaired: NewRepaired): Io<void> {
    const { doubtful } = repaired
    this.report.add(repaired)
    if (!doubtful) return yield* this.layer.session.beginMetadata()
    yield* this.layer.session.beginContent()
    if (doubtful.snapshot === undefined) this.parts.bitmaps.mark(doubtful.offset, doubtful.length)
  }

  /** A range of a root's disk as far as the disk reaches; undefined past its end, where only the state of a machine lies. */
  range(snapshot: SnapshotTable | undefined, offset: number, length: number): DoubtfulRange | undefined {
    const size = snapshot ? snapshot.diskSize : this.header.size
    if (offset >= size) return undefined
    return { offset, length: Math.min(length, size - offset), snapshot: snapshot?.id }
  }

  /** Whether a cluster can begin there: in the file, and behind the header. */
  isPlace(at: number): boolean {
    const { clusterSize } = this.header
    return at % clusterSize === 0 && at >= clusterSize && at < this.mapping.space.length
  }

  /** Whether one of the clusters that `length` bytes at `at` touch is taken by a table, or by a bitmap. */
  isTaken(at: number, length: number): boolean {
    const { clusterSize } = this.header
    for (let number = Math.floor(at / clusterSize); number * clusterSize < at + length; number++) {
      if (this.mapping.places.holds(number * clusterSize) || this.bitmapData.has(number)) return true
    }
    return false
  }

  /** The file has bytes up to `end`, zeros where there were none. */
  *lengthenTo(end: number): Io<void> {
    const { space } = this.mapping
    space.end = Math.max(space.end, end)
    yield* space.lengthen(0, end)
  }
}
