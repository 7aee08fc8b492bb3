import { NumberSet } from '../../../bytes/number-set.ts'
import { type Io, settle } from '../../../io/io.ts'
import { COMPRESSED, COPIED, decodeCompressed, offsetOf } from '../layout.ts'
import { ENTRY_FLAW, type EntryFlaw } from '../mapping.ts'
import { type Entry, mendEntry, placeMeant } from './entries.ts'
import { dropRootEntry, rootAt, writeRoot } from './roots.ts'
import type { RepairWork, Root } from './work.ts'

/** What a repair finds wrong with an entry: what a reader does, and what only a writer minds. */
type Flaw = EntryFlaw | 'packedCopied'

/** The findings of the check that they are, and how they are told. */
const FLAWS: Readonly<Record<Flaw, readonly [code: string, why: string]>> = {
  reserved: ['L2_ENTRY_RESERVED', ENTRY_FLAW.reserved],
  unaligned: ['L2_ENTRY_INVALID', ENTRY_FLAW.unaligned],
  contradictory: ['SUBCLUSTER_INVALID', ENTRY_FLAW.contradictory],
  placeless: ['SUBCLUSTER_INVALID', ENTRY_FLAW.placeless],
  misplaced: ['DATA_FILE_MISMATCH', ENTRY_FLAW.misplaced],
  pastEnd: ['L2_ENTRY_INVALID', ENTRY_FLAW.pastEnd],
  inTable: ['DATA_OVERLAPS_TABLE', ENTRY_FLAW.inTable],
  packedInDataFile: ['COMPRESSED_WITH_DATA_FILE', ENTRY_FLAW.packedInDataFile],
  packedReserved: ['L2_ENTRY_RESERVED', ENTRY_FLAW.packedReserved],
  packedCopied: ['COMPRESSED_COPIED', 'is compressed and flagged as writable in place'],
}

/** A table that was looked at: whether it is none, and the first and last of its entries that were mended. */
interface Verdict {
  readonly lost: boolean
  readonly mended: readonly [first: number, last: number] | undefined
}

/** Wrong entries from which on a table is judged by how many are right: of a few each is mended. */
const MANY = 16

/** How often the file says that the cluster at `at` is in use. */
export type CountAt = (at: number) => Io<number>

/**
 * Mends the entries of all L2 tables, of the disk and of snapshots.
 *
 * A table of which much, and more than is right, is wrong is none: the entry that leads there goes, and one range is doubtful instead
 * of a cluster here and there that happens to look right.
 */
export function* mendContents(work: RepairWork, countAt: CountAt): Io<void> {
  const seen = new NumberSet()
  /** only what was not in order, for there may be millions of tables */
  const verdicts = new Map<number, Verdict>()
  for (let n = 0; ; n++) {
    const root = yield* rootAt(work, n)
    if (!root) return
    for (let index = 0; index < root.l1.length; index++) {
      const at = root.l1.offset(index)
      if (at === 0) continue
      if (seen.has(at)) yield* repeatVerdict(work, root, index, verdicts.get(at))
      else {
        seen.add(at)
        const verdict = yield* mendTable(work, root, index, countAt)
        if (verdict) verdicts.set(at, verdict)
      }
      yield* work.layer.relieve()
      yield* work.pace.keep()
      work.report.advance(index, root.l1.length)
    }
    if (root.snapshot) yield* writeRoot(work, root)
  }
}

/** How many entries of the L2 table at `at`, which some L1 entry may lead to, can and cannot be right. */
export function* countEntries(work: RepairWork, at: number): Io<{ flawed: number; sound: number }> {
  const { clusterSize, l2EntrySize } = work.header
  const bytes = new Uint8Array(clusterSize)
  const present = Math.min(clusterSize, work.mapping.space.length - at)
  yield* settle(work.mapping.store.read(at, bytes.subarray(0, present)))
  const view = new DataView(bytes.buffer)
  let [flawed, sound] = [0, 0]
  for (let within = 0; within < clusterSize; within += l2EntrySize) {
    if (isEmpty(work, view, within)) continue
    if (flawOf(work, view, within, undefined) === undefined) sound++
    else flawed++
  }
  return { flawed, sound }
}

/** @returns undefined if the table was in order */
function* mendTable(work: RepairWork, root: Root, index: number, countAt: CountAt): Io<Verdict | undefined> {
  yield* completeTable(work, root, index)
  const { flawed, sound } = yield* lookAt(work, root, index)
  if (flawed.length === 0) return undefined
  if (flawed.length >= MANY && flawed.length > sound) {
    yield* loseTable(work, root, index)
    return { lost: true, mended: undefined }
  }
  for (const one of flawed) yield* mendOne(work, root, index, one, countAt)
  const [first, last] = [flawed[0], flawed.at(-1)] as [Flawed, Flawed]
  return { lost: false, mended: [first.entry, last.entry] }
}

/** Another way leads to a table that was looked at before. */
function* repeatVerdict(work: RepairWork, root: Root, index: number, verdict: Verdict | undefined): Io<void> {
  if (verdict?.lost) return yield* loseTable(work, root, index)
  if (!verdict?.mended) return
  const { clusterSize, l2Span } = work.header
  const [first, last] = verdict.mended
  yield* work.change({
    code: 'L2_TABLE_SHARED',
    structure: nameOfTable(root),
    at: root.l1.offset(index),
    doubtful: work.range(root.snapshot, index * l2Span + first * clusterSize, (last - first + 1) * clusterSize),
    message: 'it is a table in which entries were mended that lie here too',
  })
}

function* loseTable(work: RepairWork, root: Root, index: number): Io<void> {
  const at = root.l1.offset(index)
  yield* dropRootEntry(work, root, index, `leads to ${at}, where most of what a table would say cannot be right`)
  work.mapping.places.forgetL2(at)
}

/** Where the file ends inside a table, the rest of it holds nothing. */
function* completeTable(work: RepairWork, root: Root, index: number): Io<void> {
  const { clusterSize, l2EntrySize, l2Span } = work.header
  const at = root.l1.offset(index)
  const present = work.mapping.space.length - at
  if (present >= clusterSize) return
  const from = index * l2Span + Math.floor(present / l2EntrySize) * clusterSize
  yield* work.change({
    code: 'L2_TABLE_TRUNCATED',
    structure: nameOfTable(root),
    at,
    doubtful: work.range(root.snapshot, from, (index + 1) * l2Span - from),
    message: 'the file ends inside the table: what is missing of it holds nothing now',
  })
  yield* work.lengthenTo(at + clusterSize)
}

/** An entry of an L2 table that cannot be right. */
interface Flawed {
  /** its index in the table */
  readonly entry: number
  readonly flaw: Flaw
}

function* lookAt(work: RepairWork, root: Root, index: number): Io<{ flawed: Flawed[]; sound: number }> {
  const { mapping } = work
  const { clusterSize, l2EntrySize } = work.header
  const at = root.l1.offset(index)
  const flawed: Flawed[] = []
  let sound = 0
  for (let done = 0; done < clusterSize; done += mapping.tables.pageSize) {
    const { view, bytes } = yield* mapping.loadTable(at + done, index)
    for (let within = 0; within < bytes.length; within += l2EntrySize) {
      if (isEmpty(work, view, within)) continue
      const entry = (done + within) / l2EntrySize
      const flaw = flawOf(work, view, within, (index * clusterSize) / l2EntrySize + entry)
      if (flaw === undefined) sound++
      else flawed.push({ entry, flaw })
    }
  }
  return { flawed, sound }
}

/** @param cluster of the guest; undefined where it is not known */
function flawOf(work: RepairWork, view: DataView, within: number, cluster: number | undefined): Flaw | undefined {
  // The place in a data file depends on the cluster.
  if (cluster === undefined && work.header.hasDataFile) return undefined
  const flaw = work.mapping.flawOf(view, within, cluster ?? 0)
  if (flaw !== undefined) return flaw
  const high = view.getUint32(within)
  if (high & COMPRESSED && high & COPIED) return 'packedCopied'
  return leadsIntoBitmap(work, high, view.getUint32(within + 4)) ? 'inTable' : undefined
}

/** A reader does not know where the data of bitmaps lies. */
function leadsIntoBitmap(work: RepairWork, high: number, low: number): boolean {
  if (work.bitmapData.size === 0) return false
  if ((high & COMPRESSED) === 0) return work.isTaken(offsetOf(high, low), 1) && offsetOf(high, low) !== 0
  const { at, storedLength } = decodeCompressed(high, low, work.header.clusterBits)
  return work.isTaken(at, storedLength)
}

function* mendOne(work: RepairWork, root: Root, index: number, { entry, flaw }: Flawed, countAt: CountAt): Io<void> {
  const { mapping, header } = work
  const { clusterSize, l2EntrySize, l2Span, clusterBits, version, hasDataFile, extendedL2: extended } = header
  const at = root.l1.offset(index) + entry * l2EntrySize
  const guestOffset = index * l2Span + entry * clusterSize
  const loaded = yield* mapping.loadTable(at, index)
  const before = decode(loaded.view, at - loaded.at, extended)
  const meant = placeMeant(before, clusterBits)
  const isCounted = !hasDataFile && work.isPlace(meant) && (yield* countAt(meant)) > 0
  const isRoom = (place: number, length: number): boolean => isRoomForData(work, place, length)
  const mended = mendEntry(before, { version, extended, hasDataFile, clusterBits, guestOffset, isRoom, isCounted })
  const [code, why] = FLAWS[flaw]
  yield* work.change({
    code,
    structure: nameOfTable(root),
    at,
    doubtful: mended.doubtful ? work.range(root.snapshot, guestOffset, clusterSize) : undefined,
    message: `an entry ${why}: ${mended.done}`,
  })
  // The change may have waited: the page is asked for again, and changed before the next wait.
  const page = yield* mapping.loadTable(at, index)
  encode(page.view, at - page.at, mended, extended)
  mapping.tables.touch(page, at - page.at, l2EntrySize)
}

/** In the file, behind the header, and nothing else there. Packed data may end behind the end of the file. */
function isRoomForData(work: RepairWork, at: number, length: number): boolean {
  const { clusterSize } = work.header
  const end = work.mapping.space.length
  return at >= clusterSize && at < end && !work.isTaken(at, Math.min(length, end - at))
}

function isEmpty({ header }: RepairWork, view: DataView, within: number): boolean {
  if (view.getUint32(within) !== 0 || view.getUint32(within + 4) !== 0) return false
  return !header.extendedL2 || (view.getUint32(within + 8) === 0 && view.getUint32(within + 12) === 0)
}

function decode(view: DataView, within: number, extended: boolean): Entry {
  return {
    high: view.getUint32(within),
    low: view.getUint32(within + 4),
    zero: extended ? view.getUint32(within + 8) : 0,
    allocated: extended ? view.getUint32(within + 12) : 0,
  }
}

function encode(view: DataView, within: number, entry: Entry, extended: boolean): void {
  view.setUint32(within, entry.high)
  view.setUint32(within + 4, entry.low)
  if (!extended) return
  view.setUint32(within + 8, entry.zero)
  view.setUint32(within + 12, entry.allocated)
}

function nameOfTable({ snapshot }: Root): string {
  return snapshot ? `L2 table of snapshot ${snapshot.id}` : 'L2 table'
}
