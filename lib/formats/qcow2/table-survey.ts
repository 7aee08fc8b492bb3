import { VdiskError } from '../../errors.ts'
import { type Io, Pace, settle } from '../../io/io.ts'
import { LIMIT } from './layout.ts'
import type { Qcow2Parts } from './parts.ts'
import { reachAfterCrash } from './rebuild.ts'
import { blockOffset } from './refcount-table.ts'
import { RootTable } from './root-table.ts'
import type { TablePlaces } from './table-places.ts'

/** Entries between two looks at the clock. */
const STRIDE = 4096

/**
 * Finds where the tables of an image lie, and fills `places` with them, by default those of its mapping.
 *
 * Two tables in one cluster, or one outside the file, cannot be right. Nobody can say which of two is the true one, so
 * a reader leaves the second out: where it is needed the read fails, everything else can still be saved. A writer
 * would ruin the rest.
 *
 * @param strict for writing: whatever cannot be right is an error
 * @throws VdiskError CORRUPT, if strict
 */
export function* findTables(
  parts: Qcow2Parts,
  refcountTable: RootTable,
  strict: boolean,
  places = parts.mapping.places,
): Io<void> {
  const survey = new Survey(parts, strict, places)
  survey.addHeaderTables(refcountTable)
  survey.addSnapshots()
  survey.addBitmaps()
  yield* survey.addBlocks(refcountTable)
  yield* survey.addL2Tables()
  // Only whoever hands out clusters must know the tables that no one but a snapshot uses.
  if (strict) yield* survey.addSnapshotTables()
}

class Survey {
  private readonly parts: Qcow2Parts
  private readonly places: TablePlaces
  private readonly strict: boolean
  private readonly clusterSize: number
  private readonly end: number
  private readonly pace: Pace

  constructor(parts: Qcow2Parts, strict: boolean, places: TablePlaces) {
    this.parts = parts
    this.places = places
    this.strict = strict
    this.clusterSize = parts.header.clusterSize
    const { length } = parts.mapping.space
    this.pace = new Pace(parts.image.signal)
    this.end = parts.header.has('dirty') ? reachAfterCrash(length) : length
  }

  addHeaderTables(refcountTable: RootTable): void {
    const { header, mapping, snapshots } = this.parts
    this.add(0, 1, 'header', 0)
    this.add(refcountTable.at, refcountTable.bytes.length, 'refcount table', refcountTable.at)
    this.add(mapping.l1.at, mapping.l1.bytes.length, 'L1 table', mapping.l1.at)
    this.add(header.snapshotsOffset, snapshots.tableLength, 'snapshot table', header.snapshotsOffset)
  }

  addSnapshots(): void {
    const { header, snapshots } = this.parts
    const distrusted = new Map<number, string>()
    for (const [index, { id, at, entries, flaw }] of snapshots.tables().entries()) {
      const overlaps = flaw === undefined && !this.places.addRange(at, entries * 8)
      const why = overlaps ? `its L1 table at ${at} lies where another table does` : flaw
      if (why === undefined) continue
      this.refuse('snapshot table', header.snapshotsOffset, `snapshot ${id} cannot be right: ${why}`)
      distrusted.set(index, why)
    }
    if (distrusted.size > 0) snapshots.distrust(distrusted)
  }

  addBitmaps(): void {
    const { directory, entries } = this.parts.bitmaps
    if (!directory) return
    this.add(directory.at, directory.length, 'bitmap directory', directory.at)
    for (const entry of entries) {
      if (entry.problem === undefined) {
        this.add(entry.tableOffset, entry.tableSize * 8, `table of bitmap "${entry.name}"`, entry.entryAt)
      }
    }
  }

  *addBlocks(refcountTable: RootTable): Io<void> {
    for (let index = 0; index < refcountTable.length; index++) {
      if (index % STRIDE === 0) yield* this.pace.keep()
      const at = blockOffset(refcountTable, index)
      if (at === 0 || (this.isPlace(at) && this.places.addBlock(at))) continue
      this.refuse(
        'refcount table',
        refcountTable.at + index * 8,
        `entry ${index} leads to ${at}, where no block can be`,
      )
    }
  }

  *addL2Tables(): Io<void> {
    const { mapping } = this.parts
    const { l1 } = mapping
    for (let index = 0; index < l1.length; index++) {
      if (index % STRIDE === 0) yield* this.pace.keep()
      const at = this.strict ? mapping.tableOffset(index) : l1.offset(index)
      if (at === 0 || (this.isPlace(at) && this.places.addL2(at))) continue
      this.refuse('L1 table', l1.at + index * 8, `entry ${index} leads to ${at}, where no table of its own can be`)
    }
  }

  /** As far as memory goes: as many entries as the largest L1 table may have. */
  *addSnapshotTables(): Io<void> {
    let rest = LIMIT.l1Bytes
    for (const { at, entries } of this.parts.snapshots.tables()) {
      if (entries * 8 > rest) return
      rest -= entries * 8
      const bytes = new Uint8Array(entries * 8)
      yield* settle(this.parts.mapping.store.read(at, bytes))
      const l1 = new RootTable(at, bytes)
      for (let index = 0; index < l1.length; index++) {
        if (index % STRIDE === 0) yield* this.pace.keep()
        const table = l1.offset(index)
        if (this.isPlace(table)) this.places.addShared(table)
      }
    }
  }

  private add(at: number, length: number, what: string, toldAt: number): void {
    if (this.places.addRange(at, length)) return
    this.refuse(what, toldAt, `its ${what} lies where another table does`)
  }

  private isPlace(at: number): boolean {
    return at % this.clusterSize === 0 && at >= this.clusterSize && at < this.end
  }

  private refuse(structure: string, at: number, why: string): void {
    if (!this.strict) return
    const { file } = this.parts.header
    throw new VdiskError('CORRUPT', {
      message: `Cannot write ${file}: ${why}`,
      where: { file, structure, at, section: 'Host cluster management' },
      advice: 'It can still be read and checked: vdisk check IMAGE. To save what it holds: vdisk convert',
    })
  }
}
