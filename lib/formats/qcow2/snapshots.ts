import { ceilDiv } from '../../bytes/align.ts'
import type { InternalSnapshots, Layer, SnapshotInfo } from '../../contracts/layer.ts'
import { messageOf, VdiskError, whatItHas } from '../../errors.ts'
import { type Io, just, settle } from '../../io/io.ts'
import type { Room } from '../../io/retirement.ts'
import type { ByteStore } from '../../io/store.ts'
import type { Qcow2Editor } from './editor.ts'
import type { Header } from './header.ts'
import { switchL1 } from './l1-switch.ts'
import { LIMIT } from './layout.ts'
import { Mapping } from './mapping.ts'
import { addReferences, releaseReferences, setCopiedFlags } from './references.ts'
import { RootTable } from './root-table.ts'
import { decodeEntry, encodeEntry, readReadable, readTable, type Snapshot } from './snapshot-table.ts'

/**
 * Internal snapshots. ["Snapshots"]
 *
 * A snapshot is a copy of the L1 table, and one more reference on everything below it. In each operation the counts
 * rise first, then the header switches in one sector, then counts fall: a crash between leaves leaks at most.
 */

/** Where the L1 table of a snapshot lies. */
export interface SnapshotTable {
  readonly id: string
  readonly at: number
  readonly entries: number
  /** bytes that the guest saw */
  readonly diskSize: number
  /** why it cannot be used; undefined where nothing speaks against it */
  readonly flaw: string | undefined
}

interface Known {
  readonly tables: readonly SnapshotTable[]
  readonly sound: readonly SnapshotTable[]
  /** the first of each id */
  readonly byId: ReadonlyMap<string, SnapshotTable>
}

/** Gives room for a table of so many bytes. */
type Take = (length: number) => Io<number>

type View = (l1: RootTable, snapshot: { readonly name: string; readonly diskSize: number }) => Layer

export class Snapshots implements InternalSnapshots {
  edit?: NonNullable<InternalSnapshots['edit']>
  /** why the table could not be read to its end; the disk itself can be */
  problem: VdiskError | undefined
  private readonly header: Header
  private readonly store: ByteStore
  private view: View | undefined
  private snapshots: Snapshot[]
  /** what is told of those, kept: who asks for one after the other asks thousands of times */
  private known: Known | undefined

  private constructor(header: Header, store: ByteStore, snapshots: Snapshot[], problem?: VdiskError) {
    this.header = header
    this.store = store
    this.snapshots = snapshots
    this.problem = problem
  }

  /** Reads the snapshot table. @throws VdiskError CORRUPT, LIMIT_EXCEEDED */
  static *open(header: Header, store: ByteStore): Io<Snapshots> {
    return new Snapshots(header, store, yield* readTable(header, store))
  }

  /** For whoever can do without those of which nothing can be read, and all behind them. */
  static *openReadable(header: Header, store: ByteStore): Io<Snapshots> {
    const { snapshots, problem } = yield* readReadable(header, store)
    return new Snapshots(header, store, snapshots, problem)
  }

  /** Says how an L1 table becomes a layer that shows it. */
  showBy(view: View): void {
    this.view = view
  }

  /** From here on snapshots can be made, reverted to and deleted. */
  attach(layer: Qcow2Editor): void {
    // Clusters in a data file are not counted, so they cannot be shared. ["External data file bit"]
    if (this.header.hasDataFile) return
    this.edit = {
      create: (name, signal) => this.create(layer, name, signal),
      revert: (idOrName, signal) => this.revert(layer, idOrName, signal),
      delete: (idOrName) => this.delete(layer, idOrName),
    }
  }

  list(): SnapshotInfo[] {
    return this.snapshots.map(({ id, name, seconds, diskSize, vmStateSize }) => ({
      id,
      name,
      created: seconds,
      diskSize,
      vmStateSize,
    }))
  }

  /** Whether every snapshot says how large the disk was. ["Snapshots", extra data] */
  get allKnowSize(): boolean {
    return this.snapshots.every(({ knowsSize }) => knowsSize)
  }

  /** L1 tables of all snapshots, for whoever counts references. */
  tables(): readonly SnapshotTable[] {
    return this.know().tables
  }

  /** Those that can be used. */
  soundTables(): readonly SnapshotTable[] {
    return this.know().sound
  }

  tableOf(id: string): SnapshotTable | undefined {
    return this.know().byId.get(id)
  }

  /** Nobody uses the snapshots of these indexes in `tables`. @param why by index, ends a sentence about each */
  distrust(why: ReadonlyMap<number, string>): void {
    if (why.size === 0) return
    this.replace(this.snapshots.map((one, index) => ({ ...one, flaw: one.flaw ?? why.get(index) })))
  }

  /** bytes of the snapshot table */
  get tableLength(): number {
    return this.snapshots.reduce((sum, { bytes }) => sum + bytes.length, 0)
  }

  *open(idOrName: string): Io<Layer> {
    const snapshot = this.find(idOrName)
    return (this.view as View)(yield* this.readL1(snapshot), snapshot)
  }

  private *create(layer: Qcow2Editor, name: string, signal?: AbortSignal): Io<SnapshotInfo> {
    const { refcounts, mapping } = layer.walk
    if (name === '' || Buffer.byteLength(name) > 255) throw this.refuse(name, 'a name has 1 to 255 bytes')
    if (this.snapshots.length >= LIMIT.snapshots) throw this.refuse(name, `there are ${this.snapshots.length} already`)
    if (refcounts.maxCount < 2) {
      throw this.refuse(
        name,
        'reference counts of 1 bit cannot count a cluster twice',
        'Convert the image with -o refcount_bits=16.',
      )
    }
    yield* layer.session.beginMetadata()
    yield* layer.flush()
    const { l1 } = mapping
    yield* addReferences(layer.walk, l1, signal)
    const { snapshot, at } = yield* this.prepare(layer, l1, (take) => this.layOut(layer, name, take, signal))
    yield* this.switchTable(layer, [...this.snapshots, snapshot], at)
    mapping.places.addRange(snapshot.l1TableOffset, l1.bytes.length)
    return this.list().at(-1) as SnapshotInfo
  }

  /**
   * Drops the snapshots that cannot be used, and what could not be read of the table; the others stay. What only they
   * referred to, and the old table, is not given up here.
   */
  *dropUnusable(layer: Qcow2Editor): Io<void> {
    const rest = this.snapshots.filter(({ flaw }) => flaw === undefined)
    const at = yield* this.prepare(layer, undefined, (take) => this.writeTable(layer, rest, take))
    yield* this.nameTable(layer, rest, at)
    this.problem = undefined
  }

  private *revert(layer: Qcow2Editor, idOrName: string, signal?: AbortSignal): Io<void> {
    const { refcounts } = layer.walk
    const snapshot = this.find(idOrName)
    yield* layer.session.beginContent()
    yield* layer.flush()
    const source = yield* this.readL1(snapshot)
    yield* addReferences(layer.walk, source, signal)
    const entries = Math.max(source.length, ceilDiv(snapshot.diskSize, this.header.l2Span), 1)
    const next = yield* this.prepare(layer, source, (take) => this.shareTable(layer, source, entries, take, signal))
    yield* switchL1(layer, next, snapshot.diskSize)
    yield* setCopiedFlags(layer.walk, next, (number) => refcounts.get(number))
    yield* layer.flush()
  }

  private *delete(layer: Qcow2Editor, idOrName: string): Io<void> {
    const { mapping, refcounts } = layer.walk
    const snapshot = this.find(idOrName)
    yield* layer.session.beginMetadata()
    yield* layer.flush()
    const l1 = yield* this.readL1(snapshot)
    const rest = this.snapshots.filter((other) => other !== snapshot)
    const at = yield* this.prepare(layer, undefined, (take) => this.writeTable(layer, rest, take))
    yield* this.switchTable(layer, rest, at)
    yield* releaseReferences(layer.walk, l1)
    if (l1.length > 0) mapping.places.removeRange(l1.at)
    refcounts.release(l1.at, l1.bytes.length)
    while (!refcounts.givenUp.isEmpty) yield* layer.flush()
    // What only the disk uses now may be written in place again.
    yield* setCopiedFlags(layer.walk, mapping.l1, (number) => refcounts.get(number))
    yield* layer.flush()
  }

  /**
   * Does what must be durable before the header switches. Counts have risen for all below `l1`, and `take` gives room
   * for tables; if the work fails, both are taken back, since nothing on the medium leads there.
   *
   * That ends with the switch itself: if the header could not be written, nobody knows which one the medium has. Then
   * counts stay too high, which is a leak; too low would be the ruin of what is counted.
   */
  private *prepare<T>(layer: Qcow2Editor, l1: RootTable | undefined, work: (take: Take) => Io<T>): Io<T> {
    const { refcounts } = layer.walk
    const { clusterSize } = this.header
    const rooms: Room[] = []
    const take = function* (length: number): Io<number> {
      // A table of no entries has no place.
      if (length === 0) return 0
      const { at } = yield* refcounts.allocate(ceilDiv(length, clusterSize), true)
      rooms.push({ at, length })
      return at
    }
    try {
      return yield* work(take)
    } catch (error) {
      yield* this.takeBack(layer, l1, rooms)
      throw error
    }
  }

  private *takeBack(layer: Qcow2Editor, l1: RootTable | undefined, rooms: readonly Room[]): Io<void> {
    const { mapping, refcounts } = layer.walk
    for (const { at, length } of rooms) refcounts.release(at, length)
    try {
      if (l1) yield* releaseReferences(layer.walk, l1)
      while (!refcounts.givenUp.isEmpty) yield* layer.flush()
      if (l1) yield* setCopiedFlags(layer.walk, mapping.l1, (number) => refcounts.get(number))
      yield* layer.flush()
    } catch (error) {
      // The error that made us go back is the one to tell. What could not be taken back is a leak.
      void messageOf(error)
    }
  }

  /** Whatever a new snapshot consists of, durable. @returns its entry, and where the snapshot table lies that has it */
  private *layOut(
    layer: Qcow2Editor,
    name: string,
    take: Take,
    signal: AbortSignal | undefined,
  ): Io<{ snapshot: Snapshot; at: number }> {
    const { mapping } = layer.walk
    const { l1 } = mapping
    const copy = new RootTable(yield* take(l1.bytes.length), new Uint8Array(l1.bytes.length))
    for (let i = 0; i < l1.length; i++) copy.set(i, l1.offset(i))
    yield* settle(this.store.write(copy.at, copy.bytes))
    // Every cluster is shared now; the active tables must say so before the snapshot exists, or a write in place
    // would change it.
    yield* setCopiedFlags(layer.walk, l1, () => just(2), signal)
    yield* layer.flush()
    const bytes = encodeEntry({
      id: this.freshId(),
      name,
      l1TableOffset: copy.at,
      l1Size: copy.length,
      milliseconds: Date.now(),
      diskSize: this.header.size,
    })
    const snapshot = decodeEntry(this.header, bytes, mapping.space.end)
    return { snapshot, at: yield* this.writeTable(layer, [...this.snapshots, snapshot], take) }
  }

  /** The L1 table of a snapshot once more, durable, for the disk to go on with. */
  private *shareTable(
    layer: Qcow2Editor,
    source: RootTable,
    entries: number,
    take: Take,
    signal: AbortSignal | undefined,
  ): Io<RootTable> {
    const next = new RootTable(yield* take(entries * 8), new Uint8Array(entries * 8))
    for (let i = 0; i < source.length; i++) next.set(i, source.offset(i))
    // Shared by snapshot and disk, all of it: no flag may say otherwise when the tables become the active ones.
    yield* setCopiedFlags(layer.walk, next, () => just(2), signal)
    yield* settle(this.store.write(next.at, next.bytes))
    next.take()
    yield* layer.flush()
    return next
  }

  /** A snapshot table, durable. @returns where; 0 for one of no entries */
  private *writeTable(layer: Qcow2Editor, snapshots: readonly Snapshot[], take: Take): Io<number> {
    const table = Buffer.concat(snapshots.map(({ bytes }) => bytes))
    const at = yield* take(table.length)
    if (table.length === 0) return at
    yield* settle(this.store.write(at, table))
    yield* layer.flush()
    return at
  }

  /** The header points at the new table, then the old one is given up. */
  private *switchTable(layer: Qcow2Editor, snapshots: Snapshot[], at: number): Io<void> {
    const { refcounts, mapping } = layer.walk
    const old = { at: this.header.snapshotsOffset, length: this.tableLength }
    yield* this.nameTable(layer, snapshots, at)
    if (old.length > 0) {
      mapping.places.removeRange(old.at)
      refcounts.release(old.at, old.length)
    }
  }

  private *nameTable(layer: Qcow2Editor, snapshots: Snapshot[], at: number): Io<void> {
    yield* this.header.change(this.store, { snapshotsOffset: at, snapshotCount: snapshots.length })
    this.replace(snapshots)
    layer.walk.mapping.places.addRange(at, this.tableLength)
  }

  private *readL1({ l1TableOffset: at, l1Size, id, flaw }: Snapshot): Io<RootTable> {
    if (flaw !== undefined) {
      throw new VdiskError('CORRUPT', {
        message: `Cannot use snapshot ${id} of ${this.header.file}: ${flaw}`,
        where: { file: this.header.file, structure: 'snapshot table', at, section: 'Snapshots' },
        advice: 'See how far the damage goes: vdisk check IMAGE',
      })
    }
    return yield* Mapping.readL1(this.store, at, l1Size)
  }

  /** One more than the highest that is a plain number: other programs may have named theirs in any way. */
  private freshId(): string {
    let highest = 0
    for (const { id } of this.snapshots) if (/^\d{1,9}$/.test(id)) highest = Math.max(highest, Number(id))
    return String(highest + 1)
  }

  private replace(snapshots: Snapshot[]): void {
    this.snapshots = snapshots
    this.known = undefined
  }

  private know(): Known {
    if (this.known) return this.known
    const tables = this.snapshots.map(({ id, l1TableOffset: at, l1Size: entries, diskSize, flaw }): SnapshotTable => {
      return { id, at, entries, diskSize, flaw }
    })
    const byId = new Map<string, SnapshotTable>()
    for (const table of tables) if (!byId.has(table.id)) byId.set(table.id, table)
    this.known = { tables, sound: tables.filter(({ flaw }) => flaw === undefined), byId }
    return this.known
  }

  /** By id first, as qemu-img does; then by name. */
  private find(idOrName: string): Snapshot {
    const found =
      this.snapshots.find(({ id }) => id === idOrName) ?? this.snapshots.find(({ name }) => name === idOrName)
    if (found) return found
    if (this.problem) throw this.problem
    const known = this.snapshots.map(({ id, name }) => `${name} (${id})`)
    throw new VdiskError('NOT_FOUND', {
      message: `Cannot find snapshot "${idOrName}" in ${this.header.file}`,
      where: { file: this.header.file, structure: 'snapshot table' },
      advice: whatItHas(known, 'snapshots'),
    })
  }

  private refuse(name: string, why: string, advice?: string): VdiskError {
    return new VdiskError('REFUSED', {
      message: `Cannot create snapshot "${name}" in ${this.header.file}: ${why}`,
      where: { file: this.header.file },
      advice,
    })
  }
}
