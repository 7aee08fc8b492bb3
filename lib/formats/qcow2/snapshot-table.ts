import { ceilDiv, roundUp } from '../../bytes/align.ts'
import { isVdiskError, VdiskError } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import type { Header } from './header.ts'
import { LIMIT, snapshotEntry, snapshotExtra } from './layout.ts'

/** Bytes of the snapshot table read at a time; longer than any entry. */
const PIECE = 256 << 10

/** An entry of the snapshot table. ["Snapshots"] */
export interface Snapshot {
  readonly id: string
  readonly name: string
  readonly l1TableOffset: number
  readonly l1Size: number
  readonly seconds: number
  readonly diskSize: number
  readonly vmStateSize: number
  /** false: its entry does not say how large the disk was, so it is taken to be as large as the disk is now */
  readonly knowsSize: boolean
  /** why it cannot be used; undefined where nothing speaks against it */
  readonly flaw: string | undefined
  /** the entry as it is in the file, with everything that we do not know */
  readonly bytes: Uint8Array
}

type FixedPart = ReturnType<typeof snapshotEntry.decode>

/** The entries of a snapshot table, and why there are not as many as the header says. */
export interface ReadTable {
  readonly snapshots: Snapshot[]
  readonly problem: VdiskError | undefined
}

/** All entries of a snapshot table. @throws VdiskError CORRUPT, LIMIT_EXCEEDED */
export function* readTable(header: Header, store: ByteStore): Io<Snapshot[]> {
  const snapshots: Snapshot[] = []
  yield* readEntries(header, store, snapshots)
  return snapshots
}

/** The entries before the first that cannot be read. The table tells its length entry by entry, so what follows a damaged one cannot be found. */
export function* readReadable(header: Header, store: ByteStore): Io<ReadTable> {
  const snapshots: Snapshot[] = []
  try {
    yield* readEntries(header, store, snapshots)
  } catch (error) {
    if (!isVdiskError(error, 'CORRUPT')) throw error
    return { snapshots, problem: error }
  }
  return { snapshots, problem: undefined }
}

/** It is read in pieces, never more than there is. */
function* readEntries(header: Header, store: ByteStore, snapshots: Snapshot[]): Io<void> {
  if (header.snapshotCount === 0) return
  const fileSize = yield* settle(store.size())
  const end = Math.min(fileSize, header.snapshotsOffset + LIMIT.snapshotTableBytes)
  let piece = { at: header.snapshotsOffset, bytes: new Uint8Array(0) }
  for (let at = piece.at; snapshots.length < header.snapshotCount; ) {
    const index = snapshots.length
    const rest = piece.bytes.subarray(at - piece.at)
    const fields = rest.length < snapshotEntry.size ? undefined : snapshotEntry.decode(rest)
    const length = fields === undefined ? snapshotEntry.size : entryLength(header, fields, index)
    if (fields !== undefined && length <= rest.length) {
      const whole = roundUp(length, 8)
      // The file may end right behind the last entry, before what pads it to eight bytes.
      const entry = rest.length < whole ? padded(rest, whole) : rest.subarray(0, whole)
      snapshots.push(describe(header, fields, entry, fileSize))
      at += entry.length
      continue
    }
    if (at + length > end) throw badEntry(header, index, 'it leaves the table')
    piece = { at, bytes: new Uint8Array(Math.min(end - at, PIECE)) }
    yield* settle(store.read(at, piece.bytes))
  }
}

/** bytes, without padding */
function entryLength(header: Header, { extraDataSize, idSize, nameSize }: FixedPart, index: number): number {
  if (extraDataSize > LIMIT.snapshotExtraBytes) throw badEntry(header, index, 'its extra data is too large')
  return snapshotEntry.size + extraDataSize + idSize + nameSize
}

/**
 * @param bytes the entry, for the snapshot to keep
 * @param fileSize what an L1 table has to lie within
 */
export function decodeEntry(header: Header, bytes: Uint8Array, fileSize: number): Snapshot {
  return describe(header, snapshotEntry.decode(bytes), bytes, fileSize)
}

function describe(header: Header, fields: FixedPart, bytes: Uint8Array, fileSize: number): Snapshot {
  const { vmStateSize, diskSize } = decodeExtra(bytes, fields.extraDataSize)
  const idAt = snapshotEntry.size + fields.extraDataSize
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const nameAt = idAt + fields.idSize
  // A table of no entries has no place, whatever stands there.
  const l1TableOffset = fields.l1Size === 0 ? 0 : fields.l1TableOffset
  const place = { l1TableOffset, l1Size: fields.l1Size, diskSize: diskSize ?? header.size }
  // Field by field: to spread one object into another takes several times as long, and there may be 65 536.
  return {
    id: text.toString('utf8', idAt, nameAt),
    name: text.toString('utf8', nameAt, nameAt + fields.nameSize),
    l1TableOffset,
    l1Size: place.l1Size,
    seconds: fields.seconds,
    diskSize: place.diskSize,
    vmStateSize: vmStateSize ?? fields.vmStateSize32,
    knowsSize: diskSize !== undefined,
    flaw: flawOf(header, place, fileSize),
    bytes,
  }
}

/** What an entry says in its extra data, of whichever length that is. */
function decodeExtra(entry: Uint8Array, length: number): { vmStateSize?: number; diskSize?: number } {
  if (length < 8) return {}
  const extra = entry.subarray(snapshotEntry.size, snapshotEntry.size + length)
  const { vmStateSize, diskSize } = snapshotExtra.decode(
    length < snapshotExtra.size ? padded(extra, snapshotExtra.size) : extra,
  )
  return length < 16 ? { vmStateSize } : { vmStateSize, diskSize }
}

/** Bytes, with zeros behind them. */
function padded(bytes: Uint8Array, length: number): Uint8Array {
  const longer = new Uint8Array(length)
  longer.set(bytes)
  return longer
}

function flawOf(
  { clusterSize, l2Span }: Header,
  { l1TableOffset: at, l1Size, diskSize }: Pick<Snapshot, 'l1TableOffset' | 'l1Size' | 'diskSize'>,
  fileSize: number,
): string | undefined {
  if (l1Size * 8 > LIMIT.l1Bytes) return `its L1 table would have ${l1Size} entries`
  const hasPlace = at % clusterSize === 0 && at >= clusterSize && at + l1Size * 8 <= fileSize
  if (l1Size > 0 && !hasPlace) return `its L1 table of ${l1Size} entries would lie at ${at}`
  return ceilDiv(diskSize, l2Span) * 8 > LIMIT.l1Bytes ? `its disk would have ${diskSize} bytes` : undefined
}

export function encodeEntry(snapshot: {
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
