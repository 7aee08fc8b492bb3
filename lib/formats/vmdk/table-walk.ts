import { type Io, type Pace, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import type { GrainDirectory } from './grain-directory.ts'

/** Bytes of tables read at a time. */
const STRIDE = 256 << 10

/** Neighbouring grain tables as they lie in the file, and their copies. */
export interface TableGroup {
  /** number of the first */
  readonly first: number
  readonly count: number
  /** bytes in the file where the first lies; 0: the directory names none; undefined: it names an impossible place */
  readonly ownAt: number | undefined
  readonly copyAt: number | undefined
  /** entries of all tables of the group, one table after the other; undefined where there is nothing to read */
  readonly own: DataView | undefined
  readonly copy: DataView | undefined
}

/**
 * A walk over all tables, some at a time; those that neither the directory nor its copy names are left out, and those that
 * say nothing, as do their copies.
 */
export class TableWalk {
  private readonly store: ByteStore
  private readonly directory: GrainDirectory
  private readonly pace: Pace
  private readonly own: Uint8Array
  private readonly copy: Uint8Array
  /** the table that comes next */
  next = 0

  constructor(store: ByteStore, directory: GrainDirectory, pace: Pace) {
    this.store = store
    this.directory = directory
    this.pace = pace
    const { tables, tableBytes } = directory.header
    const length = Math.min(STRIDE, tables * tableBytes)
    this.own = new Uint8Array(length)
    this.copy = new Uint8Array(directory.copy ? length : 0)
  }

  /** The next group; undefined at the end. What it holds is valid until the one after it is asked for. */
  *group(): Io<TableGroup | undefined> {
    for (;;) {
      const group = yield* this.nextGroup()
      const isWhole = group?.own && (group.copy || !this.directory.copy)
      if (!isWhole || !isEmpty(group.own) || !isEmpty(group.copy)) return group
    }
  }

  private *nextGroup(): Io<TableGroup | undefined> {
    const { directory } = this
    const { tables, tableBytes } = directory.header
    yield* this.pace.keep()
    while (this.next < tables && directory.ownPlace(this.next) === 0 && !directory.copyPlace(this.next)) this.next++
    if (this.next >= tables) return undefined
    const first = this.next
    const [ownAt, copyAt] = [directory.ownPlace(first), directory.copyPlace(first)]
    const most = Math.min(tables - first, STRIDE / tableBytes)
    let count = 1
    while (count < most && this.follows(first + count, ownAt, copyAt, count * tableBytes)) count++
    this.next = first + count
    return {
      first,
      count,
      ownAt,
      copyAt,
      own: yield* this.read(this.own, ownAt, count * tableBytes),
      copy: yield* this.read(this.copy, copyAt, count * tableBytes),
    }
  }

  /** Whether a table lies behind the ones before it, and its copy behind theirs. */
  private follows(table: number, ownAt: number | undefined, copyAt: number | undefined, distance: number): boolean {
    const fits = (place: number | undefined, start: number | undefined): boolean =>
      start ? place === start + distance : place === start
    return fits(this.directory.ownPlace(table), ownAt) && fits(this.directory.copyPlace(table), copyAt)
  }

  private *read(buffer: Uint8Array, at: number | undefined, length: number): Io<DataView | undefined> {
    if (!at) return undefined
    const bytes = buffer.subarray(0, length)
    const segment = this.store.segment && (yield* settle(this.store.segment(at)))
    if (segment?.kind === 'hole' && segment.length >= length) bytes.fill(0)
    else yield* settle(this.store.read(at, bytes))
    return new DataView(bytes.buffer, bytes.byteOffset, length)
  }
}

const NOTHING = Buffer.alloc(STRIDE)

function isEmpty(view: DataView | undefined): boolean {
  return (
    !view ||
    NOTHING.compare(
      new Uint8Array(view.buffer, view.byteOffset, view.byteLength),
      0,
      view.byteLength,
      0,
      view.byteLength,
    ) === 0
  )
}
