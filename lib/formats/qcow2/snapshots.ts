import { ceilDiv, roundUp } from '../../bytes/align.ts'
import type { InternalSnapshots, Layer, SnapshotInfo } from '../../contracts/layer.ts'
import { VdiskError } from '../../errors.ts'
import { type Io, just, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import type { Qcow2Editor } from './editor.ts'
import type { Header } from './header.ts'
import { LIMIT, snapshotEntry, snapshotExtra } from './layout.ts'
import { Mapping } from './mapping.ts'
import { addReferences, releaseReferences, setCopiedFlags } from './references.ts'
import { RootTable } from './root-table.ts'

/**
 * Internal snapshots. ["Snapshots"]
 *
 * A snapshot is a copy of the L1 table, and one more reference on everything below it. In each operation the counts
 * rise first, then the header switches in one sector, then counts fall: a crash between leaves leaks at most.
 */

interface Snapshot {
  readonly id: string
  readonly name: string
  readonly l1TableOffset: number
  readonly l1Size: number
  readonly seconds: number
  readonly diskSize: number
  readonly vmStateSize: number
  /** the entry as it is in the file, with everything that we do not know */
  readonly bytes: Uint8Array
}

type View = (l1: RootTable, snapshot: { readonly name: string; readonly diskSize: number }) => Layer

export class Snapshots implements InternalSnapshots {
  edit?: NonNullable<InternalSnapshots['edit']>
  private readonly header: Header
  private readonly store: ByteStore
  private view: View | undefined
  private snapshots: Snapshot[]

  private constructor(header: Header, store: ByteStore, snapshots: Snapshot[]) {
    this.header = header
    this.store = store
    this.snapshots = snapshots
  }

  /** Reads the snapshot table. @throws VdiskError CORRUPT, LIMIT_EXCEEDED */
  static *open(header: Header, store: ByteStore): Io<Snapshots> {
    return new Snapshots(header, store, yield* readTable(header, store))
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
      create: (name) => this.create(layer, name),
      revert: (idOrName) => this.revert(layer, idOrName),
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

  /** L1 tables of all snapshots, for whoever counts references. */
  tables(): { readonly id: string; readonly at: number; readonly entries: number }[] {
    return this.snapshots.map(({ id, l1TableOffset, l1Size }) => ({ id, at: l1TableOffset, entries: l1Size }))
  }

  /** bytes of the snapshot table */
  get tableLength(): number {
    return this.snapshots.reduce((sum, { bytes }) => sum + bytes.length, 0)
  }

  *open(idOrName: string): Io<Layer> {
    const snapshot = this.find(idOrName)
    return (this.view as View)(yield* this.readL1(snapshot), snapshot)
  }

  private *create(layer: Qcow2Editor, name: string): Io<SnapshotInfo> {
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
    yield* addReferences(layer.walk, l1)
    const place = yield* refcounts.allocate(Math.max(1, ceilDiv(l1.bytes.length, this.header.clusterSize)), true)
    const copy = new RootTable(place.at, new Uint8Array(l1.bytes.length))
    for (let i = 0; i < l1.length; i++) copy.set(i, l1.offset(i))
    yield* settle(this.store.write(copy.at, copy.bytes))
    // Every cluster is shared now; the active tables must say so before the snapshot exists, or a write in place
    // would change it.
    yield* setCopiedFlags(layer.walk, l1, () => just(2))
    yield* layer.flush()
    const now = Date.now()
    const bytes = encodeEntry({
      id: String(1 + Math.max(0, ...this.snapshots.map(({ id }) => Number(id) || 0))),
      name,
      l1TableOffset: copy.at,
      l1Size: copy.length,
      milliseconds: now,
      diskSize: this.header.size,
    })
    const snapshot = decodeEntry(this.header, bytes, 0)
    yield* this.switchTable(layer, [...this.snapshots, snapshot])
    refcounts.protect(copy.at, copy.bytes.length)
    return this.list().at(-1) as SnapshotInfo
  }

  private *revert(layer: Qcow2Editor, idOrName: string): Io<void> {
    const { mapping, refcounts } = layer.walk
    const snapshot = this.find(idOrName)
    yield* layer.session.beginContent()
    yield* layer.flush()
    const source = yield* this.readL1(snapshot)
    yield* addReferences(layer.walk, source)
    const needed = Math.max(source.length, ceilDiv(snapshot.diskSize, this.header.l2Span), 1)
    const place = yield* refcounts.allocate(ceilDiv(needed * 8, this.header.clusterSize), true)
    const next = new RootTable(place.at, new Uint8Array(needed * 8))
    for (let i = 0; i < source.length; i++) next.set(i, source.offset(i))
    // Shared by snapshot and disk, all of it: no flag may say otherwise when the tables become the active ones.
    yield* setCopiedFlags(layer.walk, next, () => just(2))
    yield* settle(this.store.write(next.at, next.bytes))
    next.take()
    yield* layer.flush()
    const old = mapping.l1
    const oldSize = this.header.size
    this.header.l1TableOffset = next.at
    this.header.l1Size = next.length
    this.header.size = snapshot.diskSize
    yield* this.header.write(this.store)
    mapping.l1 = next
    refcounts.protect(next.at, next.bytes.length)
    refcounts.unprotect(old.at, old.bytes.length)
    // Tables that both have stay protected: taken off first, put on again after.
    for (const at of tablesOf(old)) refcounts.unprotect(at, this.header.clusterSize)
    for (const at of tablesOf(next)) refcounts.protect(at, this.header.clusterSize)
    layer.bitmaps.mark(0, Math.max(oldSize, snapshot.diskSize))
    yield* releaseReferences(layer.walk, old)
    refcounts.release(old.at, old.bytes.length)
    while (refcounts.hasUnretired) yield* layer.flush()
    yield* setCopiedFlags(layer.walk, next, (number) => refcounts.get(number))
    yield* layer.flush()
  }

  private *delete(layer: Qcow2Editor, idOrName: string): Io<void> {
    const { mapping, refcounts } = layer.walk
    const snapshot = this.find(idOrName)
    yield* layer.session.beginMetadata()
    yield* layer.flush()
    const l1 = yield* this.readL1(snapshot)
    yield* this.switchTable(
      layer,
      this.snapshots.filter((other) => other !== snapshot),
    )
    yield* releaseReferences(layer.walk, l1)
    refcounts.unprotect(l1.at, l1.bytes.length)
    refcounts.release(l1.at, Math.max(1, l1.bytes.length))
    while (refcounts.hasUnretired) yield* layer.flush()
    // What only the disk uses now may be written in place again.
    yield* setCopiedFlags(layer.walk, mapping.l1, (number) => refcounts.get(number))
    yield* layer.flush()
  }

  /** The new table is durable, then the header points at it, then the old one is given up. */
  private *switchTable(layer: Qcow2Editor, snapshots: Snapshot[]): Io<void> {
    const { refcounts } = layer.walk
    const old = { at: this.header.snapshotsOffset, length: this.tableLength }
    const table = Buffer.concat(snapshots.map(({ bytes }) => bytes))
    let at = 0
    if (table.length > 0) {
      at = (yield* refcounts.allocate(ceilDiv(table.length, this.header.clusterSize), true)).at
      yield* settle(this.store.write(at, table))
      yield* layer.flush()
    }
    this.header.snapshotsOffset = at
    this.header.snapshotCount = snapshots.length
    yield* this.header.write(this.store)
    this.snapshots = snapshots
    if (table.length > 0) refcounts.protect(at, table.length)
    if (old.length > 0) {
      refcounts.unprotect(old.at, old.length)
      refcounts.release(old.at, old.length)
    }
  }

  private *readL1(snapshot: Snapshot): Io<RootTable> {
    const { l1TableOffset: at, l1Size, id } = snapshot
    const fileSize = yield* settle(this.store.size())
    if (l1Size * 8 > LIMIT.l1Bytes || at % this.header.clusterSize !== 0 || at + l1Size * 8 > fileSize) {
      throw new VdiskError('CORRUPT', {
        message: `Cannot use snapshot ${id} of ${this.header.file}: its L1 table of ${l1Size} entries would lie at ${at}`,
        where: { file: this.header.file, structure: 'snapshot table', at, section: 'Snapshots' },
        advice: 'See how far the damage goes: vdisk check IMAGE',
      })
    }
    return yield* Mapping.readL1(this.store, at, l1Size)
  }

  /** By id first, as qemu-img does; then by name. */
  private find(idOrName: string): Snapshot {
    const found =
      this.snapshots.find(({ id }) => id === idOrName) ?? this.snapshots.find(({ name }) => name === idOrName)
    if (found) return found
    const known = this.snapshots.map(({ id, name }) => `${name} (${id})`).join(', ')
    throw new VdiskError('NOT_FOUND', {
      message: `Cannot find snapshot "${idOrName}" in ${this.header.file}`,
      where: { file: this.header.file, structure: 'snapshot table' },
      advice: known ? `It has: ${known}.` : 'It has no snapshots.',
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

/** Where the L2 tables below an L1 table lie. */
function* tablesOf(l1: RootTable): Generator<number> {
  for (let i = 0; i < l1.length; i++) if (l1.offset(i) !== 0) yield l1.offset(i)
}

function* readTable(header: Header, store: ByteStore): Io<Snapshot[]> {
  if (header.snapshotCount === 0) return []
  const fileSize = yield* settle(store.size())
  const available = Math.min(fileSize - header.snapshotsOffset, LIMIT.snapshotTableBytes)
  const snapshots: Snapshot[] = []
  // The table tells its length entry by entry, so it is read in pieces, never more than there is.
  let window = new Uint8Array(0)
  for (let at = 0; snapshots.length < header.snapshotCount; ) {
    const length = entryLength(window.subarray(at))
    if (length !== undefined && at + length <= window.length) {
      // The file may end right behind the last entry, before what pads it to eight bytes.
      const entry = new Uint8Array(roundUp(length, 8))
      entry.set(window.subarray(at, at + length))
      snapshots.push(decodeEntry(header, entry, snapshots.length))
      at += entry.length
      continue
    }
    if (window.length >= available) throw badEntry(header, snapshots.length, 'it leaves the table')
    window = new Uint8Array(Math.min(available, Math.max(65536, window.length * 2)))
    yield* settle(store.read(header.snapshotsOffset, window))
  }
  return snapshots
}

/** bytes of the entry that `bytes` begin with, without padding; undefined if not even its fixed part is there */
function entryLength(bytes: Uint8Array): number | undefined {
  if (bytes.length < snapshotEntry.size) return undefined
  const { extraDataSize, idSize, nameSize } = snapshotEntry.decode(bytes)
  return snapshotEntry.size + extraDataSize + idSize + nameSize
}

function decodeEntry(header: Header, bytes: Uint8Array, index: number): Snapshot {
  const fields = snapshotEntry.decode(bytes)
  if (fields.extraDataSize > LIMIT.snapshotExtraBytes) throw badEntry(header, index, 'its extra data is too large')
  const extra = new Uint8Array(snapshotExtra.size)
  extra.set(bytes.subarray(snapshotEntry.size, snapshotEntry.size + Math.min(fields.extraDataSize, extra.length)))
  const { vmStateSize, diskSize } = snapshotExtra.decode(extra)
  const idAt = snapshotEntry.size + fields.extraDataSize
  const text = (at: number, length: number): string => Buffer.from(bytes.subarray(at, at + length)).toString('utf8')
  return {
    id: text(idAt, fields.idSize),
    name: text(idAt + fields.idSize, fields.nameSize),
    l1TableOffset: fields.l1TableOffset,
    l1Size: fields.l1Size,
    seconds: fields.seconds,
    diskSize: fields.extraDataSize >= 16 ? diskSize : header.size,
    vmStateSize: fields.extraDataSize >= 8 ? vmStateSize : fields.vmStateSize32,
    bytes: bytes.slice(),
  }
}

function encodeEntry(snapshot: {
  id: string
  name: string
  l1TableOffset: number
  l1Size: number
  milliseconds: number
  diskSize: number
}): Uint8Array {
  const id = Buffer.from(snapshot.id, 'utf8')
  const name = Buffer.from(snapshot.name, 'utf8')
  const length = snapshotEntry.size + snapshotExtra.size + id.length + name.length
  const bytes = new Uint8Array(roundUp(length, 8))
  snapshotEntry.patch(bytes, {
    l1TableOffset: snapshot.l1TableOffset,
    l1Size: snapshot.l1Size,
    idSize: id.length,
    nameSize: name.length,
    seconds: Math.floor(snapshot.milliseconds / 1000),
    nanoseconds: (snapshot.milliseconds % 1000) * 1_000_000,
    extraDataSize: snapshotExtra.size,
  })
  // No VM state, and no instruction count: -1 says that recording was off.
  const extra = { vmStateSize: 0, diskSize: snapshot.diskSize, instructionCount: 0xffffffffffffffffn }
  bytes.set(snapshotExtra.encode(extra), snapshotEntry.size)
  bytes.set(id, snapshotEntry.size + snapshotExtra.size)
  bytes.set(name, snapshotEntry.size + snapshotExtra.size + id.length)
  return bytes
}

function badEntry(header: Header, index: number, why: string): VdiskError {
  return new VdiskError('CORRUPT', {
    message: `Cannot read the snapshots of ${header.file}: entry ${index} cannot be right, ${why}`,
    where: { file: header.file, structure: 'snapshot table', index, at: header.snapshotsOffset, section: 'Snapshots' },
    advice: 'See how far the damage goes: vdisk check IMAGE',
  })
}
