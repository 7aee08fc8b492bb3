import { NumberSet } from '../../../bytes/number-set.ts'
import { CheckReport } from '../../../contracts/check-report.ts'
import { type Image, imageWith } from '../../../contracts/image.ts'
import type { RepairReport } from '../../../contracts/repair.ts'
import { reasonOf, VdiskError } from '../../../errors.ts'
import { type Io, Pace } from '../../../io/io.ts'
import { Census } from '../census.ts'
import { checkQcow2 } from '../check.ts'
import { featureNameTable } from '../header.ts'
import { WritableQcow2Layer } from '../layer.ts'
import { AUTOCLEAR, EXTENSION, INCOMPATIBLE } from '../layout.ts'
import { openParts } from '../open.ts'
import type { Qcow2Parts } from '../parts.ts'
import { readRefcountTable } from '../refcount-table.ts'
import { Refcounts } from '../refcounts.ts'
import { setCopiedFlags } from '../references.ts'
import type { RootTable } from '../root-table.ts'
import { mendContents } from './contents.ts'
import { compareCounts, countAnew, lowerCounts, raiseCounts } from './counts.ts'
import { separate } from './cross-links.ts'
import { Survey } from './survey.ts'
import { RepairWork } from './work.ts'

/**
 * Repair of a qcow2 image, step by step; each leaves an image that is no worse than before, wherever a crash cuts it short.
 *
 *   1. The header, without what is damaged and can be missed.
 *   2. Pointers that cannot be right go, or are cleared of what makes them so. That can only leave room behind that is
 *      counted too often. → F
 *   3. Counts that are too low rise; where their table is unusable all are made anew behind everything, and one sector of the
 *      header switches. → F  From here on nothing in use can be taken for free, and there is an allocator to rely on.
 *   4. Snapshots and bitmaps that are of no use are dropped: a new list, durable, then the header names it.
 *   5. Clusters in use twice are copied: copy and count → F → pointer → F.
 *   6. Counts that are too high fall, now that no pointer on the medium needs them. Flags for writing in place follow them.
 *   7. Only when a check finds nothing any more the marks go that say "dirty" and "corrupt".
 *
 * What is begun twice finds done what was done. New room is only taken where nothing at all refers to, not even past the end
 * of the file. [“Host cluster management”]
 */
export function* repairQcow2(image: Image, report: RepairReport): Io<void> {
  if (report.scope === 'leaks') yield* assertNothingButLeaks(image)
  const damage: VdiskError[] = []
  const parts = yield* openParts(imageWith(image, { leaveOut: (one) => damage.push(one) }), 'repair')
  assertDataFileNamed(parts)
  const { header, mapping } = parts
  const root = yield* readRefcountTable(mapping.store, header, mapping.space)
  yield* assertCountable(parts, root)
  const refcounts = new Refcounts(mapping.store, header, root, mapping.space, mapping.places)
  const work = new RepairWork(parts, new WritableQcow2Layer(parts, refcounts), report)
  yield* mendHeader(work, damage)
  const survey = new Survey(work)
  yield* survey.run()
  yield* mendContents(work, (at) => countOf(work, survey, at))
  if (report.count > 0) yield* work.layer.flush()
  yield* mendCounts(work, survey)
  yield* settleFlags(work)
  if (report.count > 0) yield* work.layer.seal()
}

/**
 * What looks lost may be what a damaged entry should lead to: as long as there is damage, no room is given back.
 *
 * @throws VdiskError REFUSED
 */
function* assertNothingButLeaks(image: Image): Io<void> {
  const report = new CheckReport()
  yield* checkQcow2(
    yield* openParts(imageWith(image, { leaveOut: (damage) => refuseLeaks(image, reasonOf(damage)) }), 'repair'),
    report,
  )
  const error = report.findings.find(({ severity }) => severity === 'error')
  if (error) refuseLeaks(image, error.message)
}

function refuseLeaks({ name }: Image, why: string): never {
  throw new VdiskError('REFUSED', {
    message: `Cannot give back lost room of ${name}: it is damaged (${why}), and what looks lost may be what is missed`,
    where: { file: name },
    advice: 'Repair everything: vdisk check IMAGE --repair. To see what that would do: --dry-run',
  })
}

function assertDataFileNamed({ header }: Qcow2Parts): void {
  if (!header.hasDataFile || header.extension(EXTENSION.dataFile)) return
  throw new VdiskError('CORRUPT', {
    message: `Cannot repair ${header.file}: its data lies in another file, and it does not say in which`,
    where: { file: header.file, structure: 'header extension', section: 'External data file bit' },
  })
}

/**
 * A width of counts that cannot say how often clusters are shared was never right, and what snapshots and packed data share
 * could not be counted by any repair. What the disk alone uses twice is given copies.
 *
 * @throws VdiskError CORRUPT
 */
function* assertCountable(parts: Qcow2Parts, root: RootTable): Io<void> {
  const { header, snapshots } = parts
  const most = 2 ** (2 ** header.refcountOrder) - 1
  if (most >= 0xffff && most > snapshots.tables().length) return
  const over = new NumberSet()
  const census = new Census(parts, root, () => {}, new Pace(parts.image.signal))
  for (let first = 0; first < census.clusters; ) {
    const count = census.windowFrom(first, census.clusters)
    const { counted } = yield* census.count(first, count, () => {})
    const end = Math.min(count, census.reach - first)
    for (let i = 0; i < end; i++) if ((counted[i] as number) > most) over.add(first + i)
    first = census.nextFrom(first + count)
  }
  if (over.size === 0) return
  let isShared = false
  yield* census.revisit(({ cluster, kind, snapshot }) => {
    isShared ||= over.has(cluster) && (kind === 'packed' || snapshot !== undefined)
  })
  if (!isShared) return
  throw new VdiskError('CORRUPT', {
    message: `Cannot repair ${header.file}: its counts have ${2 ** header.refcountOrder} bits, too few for what snapshots or packed data share`,
    where: { file: header.file, structure: 'header', at: 96, section: 'Header, refcount_order' },
    advice: 'What it holds can be saved: vdisk convert IMAGE COPY --format qcow2',
  })
}

/** What the header was read without it is written without; names of features are made anew where extensions were lost. */
function* mendHeader(work: RepairWork, damage: readonly VdiskError[]): Io<void> {
  const { header } = work
  // The others are told when they are mended.
  const own = damage.filter(
    ({ where }) => where.structure !== 'bitmap directory' && where.structure !== 'snapshot table',
  )
  const concerns = (structure: string): boolean => own.some(({ where }) => where.structure === structure)
  // All of it before the first change is noted, which writes the header.
  if (concerns('header extension')) header.setExtension(EXTENSION.featureNames, featureNameTable())
  if (concerns('linkage extension')) {
    header.setExtension(EXTENSION.linkage, undefined)
    header.autoclear &= ~AUTOCLEAR.linkage
  }
  for (const one of own) {
    const { structure = 'header', at } = one.where
    yield* work.change({ code: 'CANNOT_BE_RIGHT', structure, at, message: `${reasonOf(one)}: it is left out` })
  }
}

/** The stored count of a cluster; where counts cannot be used nothing is known, and nothing is taken for in use. */
function* countOf({ refcounts, header }: RepairWork, survey: Survey, at: number): Io<number> {
  return survey.uselessCounts === undefined ? yield* refcounts.get(at / header.clusterSize) : 0
}

function* mendCounts(work: RepairWork, survey: Survey): Io<void> {
  const { low, high: before, suspects } = yield* compareCounts(work)
  if (work.report.count + low + before === 0 && survey.isFine) return
  for (const number of survey.twice.values()) suspects.add(number)
  if (survey.uselessCounts !== undefined) {
    survey.forgetCounts()
    yield* countAnew(work, survey.uselessCounts)
  } else if (low > 0) yield* raiseCounts(work, low)
  yield* dropSnapshots(work, survey)
  yield* dropBitmaps(work, survey)
  yield* separate(work, suspects)
  const { high, low: left } = yield* compareCounts(work)
  // Where some are too high, those that are too low are made right with them.
  if (high > 0) yield* lowerCounts(work, high)
  else if (left > 0) yield* raiseCounts(work, left)
}

function* dropSnapshots(work: RepairWork, survey: Survey): Io<void> {
  const { snapshots, header } = work.parts
  const useless = snapshots.tables().filter(({ flaw }) => flaw !== undefined)
  if (useless.length === 0 && !snapshots.problem) return
  const change = { code: 'SNAPSHOT_TABLE_INVALID', structure: 'snapshot table', at: header.snapshotsOffset }
  for (const { id, flaw } of useless) {
    yield* work.change({ ...change, message: `snapshot ${id} cannot be right: ${flaw}. It is dropped` })
  }
  if (snapshots.problem) {
    const message = `${reasonOf(snapshots.problem)}: what follows in the table is dropped`
    yield* work.change({ ...change, message })
  }
  survey.forgetSnapshotTable()
  yield* snapshots.dropUnusable(work.layer)
}

function* dropBitmaps(work: RepairWork, survey: Survey): Io<void> {
  const { bitmaps, mapping } = work.parts
  const { uselessDirectory, uselessBitmaps } = survey
  if (uselessDirectory === undefined && uselessBitmaps.size === 0) return
  const { directory } = bitmaps
  const at = directory?.at
  if (uselessDirectory !== undefined) {
    const message = `no bitmap can be used, ${uselessDirectory}: they are dropped`
    yield* work.change({ code: 'BITMAP_DIRECTORY_INVALID', structure: 'bitmap directory', at, message })
  }
  for (const [{ name, entryAt }, why] of uselessBitmaps) {
    const message = `bitmap "${name}" cannot be used: ${why}. It is dropped`
    yield* work.change({ code: 'BITMAP_INVALID', structure: 'bitmap directory', at: entryAt, message })
  }
  const all = uselessDirectory !== undefined
  yield* bitmaps.drop(all ? new Set(bitmaps.entries) : new Set(uselessBitmaps.keys()))
  survey.forgetBitmaps(all)
  if (directory && !all) mapping.places.removeRange(directory.at)
}

/** Flags that follow the counts, and marks that follow the check. */
function* settleFlags(work: RepairWork): Io<void> {
  const { header, parts, layer, mapping, refcounts } = work
  let found = yield* errorsOf(parts)
  if (found.includes('COPIED_FLAG_WRONG')) {
    const message = `${times(found.filter((code) => code === 'COPIED_FLAG_WRONG').length)} flagged as writable in place, or not, against what the counts say: the flags follow them now`
    yield* work.change({ code: 'COPIED_FLAG_WRONG', structure: 'L2 table', message })
    yield* setCopiedFlags(layer.walk, mapping.l1, (number) => refcounts.get(number), parts.image.signal)
    yield* layer.flush()
    found = yield* errorsOf(parts)
  }
  const marks = (['dirty', 'corrupt'] as const).filter((mark) => header.has(mark))
  if (marks.length === 0 || found.some((code) => code !== 'MARKED_CORRUPT')) return
  for (const mark of marks) {
    const code = mark === 'dirty' ? 'MARKED_DIRTY' : 'MARKED_CORRUPT'
    yield* work.change({
      code,
      structure: 'header',
      at: 72,
      message: `the image was marked as ${mark}: nothing is wrong any more, and the mark is taken off`,
    })
    header.incompatible &= ~INCOMPATIBLE[mark]
  }
  yield* layer.flush()
  yield* header.write(mapping.store)
}

function* errorsOf(parts: Qcow2Parts): Io<string[]> {
  const codes: string[] = []
  const report = new CheckReport()
  yield* checkQcow2(parts, report)
  for (const { code, severity } of report.findings) if (severity === 'error') codes.push(code)
  return codes
}

function times(count: number): string {
  return count === 1 ? 'an entry is' : `${count} entries are`
}
