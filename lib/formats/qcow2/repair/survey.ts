import { NumberSet } from '../../../bytes/number-set.ts'
import { reasonOf } from '../../../errors.ts'
import { type Io, settle } from '../../../io/io.ts'
import type { StoredBitmap } from '../bitmap-directory.ts'
import { BITMAP_FLAG, EXTENSION, RESERVED_LOW } from '../layout.ts'
import { blockOffset } from '../refcount-table.ts'
import { RootTable } from '../root-table.ts'
import { countEntries } from './contents.ts'
import { doubtRootEntry, dropRootEntry, mendRoot, rootAt, writeRoot } from './roots.ts'
import type { RepairWork } from './work.ts'

/**
 * Finds out where tables lie, and which of two has to go where they lie in the same cluster.
 *
 * The disk's own tables come first, for they hold what cannot be made again; then snapshots, then bitmaps; reference counts
 * come last, for they can always be made anew. Against that order an L2 table gives way if most of what it would hold cannot
 * be right: then the entry that leads there is wrong, and not the other table.
 */
export class Survey {
  /** bitmaps that are of no use, with the reason; they are to be dropped */
  readonly uselessBitmaps = new Map<StoredBitmap, string>()
  /** bitmaps that were not saved when the image was opened: the repair itself may mark more */
  private readonly unsaved: ReadonlySet<StoredBitmap>
  /** bitmaps whose tables are noted in the places of the image, with the clusters of their data */
  private readonly placedBitmaps = new Map<StoredBitmap, NumberSet>()
  private placedSnapshotTable: number | undefined
  /** why no bitmap at all is of use */
  uselessDirectory: string | undefined
  /** why the counts must be made anew in a table of their own */
  uselessCounts: string | undefined
  /** L2 tables that two entries of the disk lead to */
  readonly twice = new NumberSet()
  /** places of L2 tables that were kept where something else is said to lie */
  private readonly contested = new NumberSet()
  private placedBlocks: readonly number[] = []
  private isRefcountTablePlaced = false
  private readonly work: RepairWork

  constructor(work: RepairWork) {
    this.work = work
    this.unsaved = new Set(work.parts.bitmaps.entries.filter(({ flags }) => flags & BITMAP_FLAG.inUse))
  }

  /** Goes through all tables; entries that lead to none are mended at once. */
  *run(): Io<void> {
    const { mapping } = this.work
    mapping.places.addRange(0, 1)
    mapping.places.addRange(mapping.l1.at, mapping.l1.bytes.length)
    yield* mendRoot(this.work, { l1: mapping.l1, snapshot: undefined }, (at) => {
      this.twice.add(at / this.work.header.clusterSize)
    })
    yield* this.addSnapshots()
    yield* this.addBitmaps()
    yield* this.addCounts()
  }

  /** Whether all tables lie where they can. */
  get isFine(): boolean {
    const { uselessBitmaps, uselessCounts, uselessDirectory, twice, work } = this
    const hasSnapshots = !work.parts.snapshots.problem && work.parts.snapshots.tables().every(({ flaw }) => !flaw)
    return uselessBitmaps.size + twice.size === 0 && !uselessCounts && !uselessDirectory && hasSnapshots
  }

  /** The counts that are there will be replaced: where they lie is no place of a table any more. */
  forgetCounts(): void {
    const { places } = this.work.mapping
    if (this.isRefcountTablePlaced) places.removeRange(this.work.refcounts.root.at)
    for (const at of this.placedBlocks) places.removeBlock(at)
  }

  /** The snapshots have a table in another place. */
  forgetSnapshotTable(): void {
    if (this.placedSnapshotTable !== undefined) this.work.mapping.places.removeRange(this.placedSnapshotTable)
  }

  /** The useless bitmaps are gone, or all of them. */
  forgetBitmaps(all: boolean): void {
    for (const [entry, data] of this.placedBitmaps) {
      if (!all && !this.uselessBitmaps.has(entry)) continue
      if (entry.tableSize > 0) this.work.mapping.places.removeRange(entry.tableOffset)
      for (const number of data.values()) this.work.bitmapData.delete(number)
    }
  }

  private *addSnapshots(): Io<void> {
    const { snapshots, header } = this.work.parts
    const hasRoom = yield* this.claim(header.snapshotsOffset, snapshots.tableLength)
    if (hasRoom && snapshots.tableLength > 0) this.placedSnapshotTable = header.snapshotsOffset
    const distrusted = new Map<number, string>()
    for (const [index, { at, entries, flaw }] of snapshots.tables().entries()) {
      if (!hasRoom) distrusted.set(index, 'the snapshot table lies where another table does')
      else if (flaw === undefined && !(yield* this.claim(at, entries * 8))) {
        distrusted.set(index, `its L1 table at ${at} lies where another table does`)
      }
    }
    snapshots.distrust(distrusted)
    for (let index = 1; ; index++) {
      const root = yield* rootAt(this.work, index)
      if (!root) return
      yield* mendRoot(this.work, root, () => {})
    }
  }

  private *addBitmaps(): Io<void> {
    const { bitmaps, header, mapping } = this.work.parts
    const { directory } = bitmaps
    if (!directory) {
      if (bitmaps.problem) this.uselessDirectory = reasonOf(bitmaps.problem)
      else if (header.extension(EXTENSION.bitmaps))
        this.uselessDirectory = 'a program that knows no bitmaps has written since'
      return
    }
    if (!(yield* this.claim(directory.at, directory.length))) {
      this.uselessDirectory = 'their directory lies where another table does'
      return
    }
    for (const entry of bitmaps.entries) {
      if (entry.problem !== undefined) {
        this.uselessBitmaps.set(entry, entry.problem)
        continue
      }
      const bytes = new Uint8Array(entry.tableSize * 8)
      yield* settle(mapping.store.read(entry.tableOffset, bytes))
      const table = new RootTable(entry.tableOffset, bytes)
      const data = this.bitmapFlaw(table) ?? (yield* this.claimBitmap(entry, table))
      if (typeof data === 'string') {
        this.uselessBitmaps.set(entry, data)
        continue
      }
      this.placedBitmaps.set(entry, data)
      for (const number of data.values()) this.work.bitmapData.add(number)
      if (this.unsaved.has(entry) && this.work.report.scope === 'all')
        this.uselessBitmaps.set(entry, 'it was not saved by its last writer')
    }
  }

  private bitmapFlaw(table: RootTable): string | undefined {
    for (let i = 0; i < table.length; i++) {
      const at = table.offset(i)
      const reserved = table.high(i) >>> 24 !== 0 || (table.low(i) & (at === 0 ? RESERVED_LOW : 0x1ff)) !== 0
      if (reserved || (at !== 0 && !this.work.isPlace(at))) return `entry ${i} of its table cannot be right`
    }
    return undefined
  }

  /** @returns why it cannot have the room that it names */
  private *claimBitmap({ tableOffset, tableSize }: StoredBitmap, table: RootTable): Io<NumberSet | string> {
    const { clusterSize } = this.work.header
    if (!(yield* this.claim(tableOffset, tableSize * 8))) return 'its table lies where another table does'
    const data = new NumberSet()
    for (let i = 0; i < table.length; i++) {
      const at = table.offset(i)
      if (at === 0) continue
      if (data.has(at / clusterSize) || (yield* this.isHeld(at))) {
        this.work.mapping.places.removeRange(tableOffset)
        return `its data at ${at} lies where something else does`
      }
      data.add(at / clusterSize)
    }
    return data
  }

  private *addCounts(): Io<void> {
    const { header, mapping, refcounts } = this.work
    const { root } = refcounts
    const { clusterSize } = header
    const useless = (why: string): void => {
      this.uselessCounts ??= why
    }
    if (root.length === 0) return useless('there is no table of them')
    if (root.at + root.bytes.length > mapping.space.length) useless('the file ends inside their table')
    this.isRefcountTablePlaced = yield* this.claim(root.at, root.bytes.length)
    if (!this.isRefcountTablePlaced) useless('their table lies where another table does')
    const placed: number[] = []
    for (let index = 0; index < root.length; index++) {
      const at = blockOffset(root, index)
      if (at === 0) continue
      if (!this.work.isPlace(at)) useless(`entry ${index} of their table leads to ${at}, where no block can be`)
      else if (at + clusterSize > mapping.space.length) useless('the file ends inside a block of them')
      else if (yield* this.isHeld(at)) useless(`their block at ${at} lies where another table does`)
      else {
        mapping.places.addBlock(at)
        placed.push(at)
      }
    }
    this.placedBlocks = placed
    if (blockOffset(root, 0) === 0) useless('the header is not counted')
  }

  /** Takes room for a table. @returns false if another table lies there */
  private *claim(at: number, length: number): Io<boolean> {
    const { clusterSize } = this.work.header
    for (let place = at; place < at + length; place += clusterSize) if (yield* this.isHeld(place)) return false
    return this.work.mapping.places.addRange(at, length)
  }

  /**
   * Whether a table lies there. An L2 table of which more is wrong than right does not count: the entries that say so go.
   * One that counts is kept, and whatever it describes is doubtful: it may be the other that is right.
   */
  private *isHeld(at: number): Io<boolean> {
    const { mapping, header, bitmapData } = this.work
    if (!this.work.isTaken(at, 1)) return false
    if (mapping.places.holdsOther(at) || bitmapData.has(at / header.clusterSize)) return true
    const { flawed, sound } = yield* countEntries(this.work, at)
    const isTable = flawed <= sound
    if (isTable && this.contested.has(at)) return true
    this.contested.add(at)
    for (let index = 0; ; index++) {
      const root = yield* rootAt(this.work, index)
      if (!root) break
      for (let i = 0; i < root.l1.length; i++) {
        if (root.l1.offset(i) !== at) continue
        if (isTable) yield* doubtRootEntry(this.work, root, i)
        else yield* dropRootEntry(this.work, root, i, `leads to ${at}, where another table lies`)
      }
      if (root.snapshot) yield* writeRoot(this.work, root)
    }
    if (!isTable) mapping.places.forgetL2(at)
    return isTable
  }
}
