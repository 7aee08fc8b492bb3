import { createHash } from 'node:crypto'
import type { Identity, ParentLink, ParentRecord } from '../contracts/identity.ts'
import type { Layer } from '../contracts/layer.ts'
import { isStandIn } from '../contracts/stand-in.ts'
import type { Io } from '../io/io.ts'
import type { FileStamp } from '../io/store.ts'

/**
 * Does this child belong to that parent?
 *
 * verified: the parent's own identity is the one the child was linked to. consistent: nothing contradicts, but the
 * parent has no identity that would prove it. unverifiable: the files hold nothing to compare. mismatch: they
 * contradict each other, and reading on would mix two states of a disk.
 */
export type Level = 'verified' | 'consistent' | 'unverifiable' | 'mismatch'

/** What exactly was found, in the words that Windows' disk service uses where it has one. */
export type LinkReason =
  | 'PARENT_ID_MISMATCH'
  | 'PARENT_MODIFIED'
  | 'PARENT_SIZE_MISMATCH'
  | 'PARENT_COPIED'
  | 'PARENT_TIMESTAMP_MISMATCH'
  | 'MERGE_UNDER_WAY'
  | 'IDENTITY_UNVERIFIABLE'

export interface Verdict {
  readonly level: Level
  readonly reason: LinkReason | undefined
  /** a sentence that ends what "child → parent" begins */
  readonly message: string
  readonly expected: string | undefined
  readonly found: string | undefined
}

/** The two identities of a verdict in brackets, where they say something. */
export function identitiesOf({ found, expected }: Verdict): string {
  if (expected === undefined || found === expected) return ''
  return ` (it is ${found ?? 'without identity'}, expected ${expected})`
}

/** What to do about a child whose parent does not match. */
export function adviceOnMismatch(child: Layer): string {
  return child.merged
    ? `This layer was merged into ${child.merged.into}: use that file.`
    : 'Bring back the parent as it was, or read with --verify=warn and expect damage. If you know that the parent is right: vdisk relink IMAGE --parent FILE --accept-modified'
}

/**
 * Compares what `child` expects with what `parent` is. The one place that compares identities.
 *
 * @param sample reads a sample of the parent's disk; undefined where that cannot be read whole
 */
export function* judgeLink(child: Layer, parent: Layer, sample: (() => Io<string>) | undefined): Io<Verdict> {
  const link = child.parent as ParentLink
  if (link.expects.length === 0) return yield* judgeRecord(link, parent, sample)
  const verdict = judgeIdentity(link, parent)
  if (parent.identity?.weak && verdict.level === 'verified') return yield* judgeWeak(link, parent, sample)
  const stoodIn = verdict.level === 'mismatch' && !parent.identity && (yield* isStoodIn(link, parent, sample))
  return stoodIn ? { ...verdict, level: 'consistent', reason: 'PARENT_COPIED', message: LIKE_ITS_PARENT } : verdict
}

const LIKE_ITS_PARENT = 'the parent is the disk the child was made over, as far as samples tell'

const CHANGING = 'a merge, or a relink of the parent, was begun, and has not ended'

function judgeIdentity(link: ParentLink, parent: Layer): Verdict {
  const found = parent.identity
  const expected = (link.expects[0] as Identity).value
  const say = (level: Level, reason: LinkReason | undefined, message: string): Verdict => ({
    level,
    reason,
    message,
    expected,
    found: found?.value,
  })
  if (!found) return say('mismatch', 'PARENT_ID_MISMATCH', 'the parent has no identity, but the child expects one')
  if (!link.expects.some((one) => isSame(one, found))) {
    return sameDisk(link.expects, found)
      ? say('mismatch', 'PARENT_MODIFIED', 'the parent was written to after the child was made')
      : say('mismatch', 'PARENT_ID_MISMATCH', 'the parent is another disk, or was written to after the child was made')
  }
  if (link.merging) return say('consistent', 'MERGE_UNDER_WAY', CHANGING)
  if (!found.current) {
    const seen = link.record?.stamp
    const now = linkStampOf(parent)
    return seen && now && sameFile(seen, now) && unchanged(seen, now)
      ? say('consistent', undefined, 'another program wrote to the parent, and the child was linked to it after that')
      : say('mismatch', 'PARENT_MODIFIED', 'another program wrote to the parent after the child was made')
  }
  if (link.record && link.record.size !== parent.size) return say('mismatch', ...resized(link.record, parent))
  return say('verified', undefined, 'the identities agree')
}

function isSame(expected: Identity, found: Identity): boolean {
  return (expected.kind === found.kind && expected.value === found.value) || isStandIn(expected, found, undefined)
}

/** A parent without identity, whose child has a stand-in for one, and nothing else: it has lost its linkage record. */
function* isStoodIn(link: ParentLink, parent: Layer, sample: (() => Io<string>) | undefined): Io<boolean> {
  if (!sample || link.record) return false
  const record = { size: parent.size, stamp: undefined, sample: yield* sample() }
  return link.expects.some((expected) => isStandIn(expected, undefined, record))
}

/** The parent's identity is the one that is expected; but there are programs that write without changing it. */
function* judgeWeak(link: ParentLink, parent: Layer, sample: (() => Io<string>) | undefined): Io<Verdict> {
  const agree = { level: 'consistent', expected: link.expects[0]?.value, found: parent.identity?.value } as const
  const { record } = link
  if (!record) return { ...agree, ...judgeTime(link, parent) }
  const verdict = yield* judgeRecord(link, parent, sample)
  if (verdict.level === 'unverifiable') {
    return { ...agree, reason: undefined, message: 'the identities agree; the file is another one' }
  }
  if (verdict.level !== 'consistent') return verdict
  const whole = verdict.reason === undefined
  return {
    ...agree,
    level: whole ? 'verified' : 'consistent',
    reason: verdict.reason,
    message: whole ? 'the identities agree, and the file was not written to since the child was made' : verdict.message,
  }
}

/** Whether an image is one that is expected: exact, or near: the same disk in another state. */
export function fitOf(expects: readonly Identity[], found: Identity | undefined): 'exact' | 'near' | undefined {
  if (!found) return undefined
  if (expects.some((one) => isSame(one, found))) return 'exact'
  return sameDisk(expects, found) ? 'near' : undefined
}

/** What the time of the parent's file tells where the child has noted that, and no more. A copy may have another time. */
function judgeTime({ modified }: ParentLink, parent: Layer): Pick<Verdict, 'level' | 'reason' | 'message'> {
  const now = linkStampOf(parent)
  if (modified === undefined || !now) {
    const message = 'the identities agree; whether it was written to since cannot be told'
    return { level: 'consistent', reason: undefined, message }
  }
  if (Number(now.modified / 1_000_000_000n) === modified) {
    const message = 'the identities agree, and so does the time when the parent file was last changed'
    return { level: 'verified', reason: undefined, message }
  }
  const message =
    'the identities agree, but the parent file was last changed at another time than the child has noted: it was copied, or written to by another program'
  return { level: 'consistent', reason: 'PARENT_TIMESTAMP_MISMATCH', message }
}

/** Identities that count states begin with the disk they count. */
function sameDisk(expects: readonly Identity[], found: Identity): boolean {
  const disk = (identity: Identity): string => identity.value.split('/')[0] as string
  return found.kind === 'generation' && expects.some((one) => one.kind === found.kind && disk(one) === disk(found))
}

function* judgeRecord(link: ParentLink, parent: Layer, sample: (() => Io<string>) | undefined): Io<Verdict> {
  const say = (level: Level, reason: LinkReason | undefined, message: string): Verdict => ({
    level,
    reason,
    message,
    expected: link.record?.sample,
    found: undefined,
  })
  if (link.merging) return say('consistent', 'MERGE_UNDER_WAY', CHANGING)
  const { record } = link
  if (!record)
    return say('unverifiable', 'IDENTITY_UNVERIFIABLE', 'the child holds nothing by which to know its parent')
  if (record.size !== parent.size) return say('mismatch', ...resized(record, parent))
  const now = linkStampOf(parent)
  const sure = record.stamp && now && sameFile(record.stamp, now)
  if (sure && !unchanged(record.stamp, now)) {
    return say('mismatch', 'PARENT_MODIFIED', 'the parent file was written to after the child was made')
  }
  const untouched = 'the parent file was not written to since the child was made'
  // A time can be set to what it was, and two changes may share one.
  const touched = sure && record.stamp?.changed !== undefined && record.stamp.changed !== now.changed
  const doubtful = record.racy || touched
  if (sure && !(doubtful && sample && record.sample)) return say('consistent', undefined, untouched)
  if (record.sample === undefined || !sample) {
    return say('unverifiable', 'IDENTITY_UNVERIFIABLE', 'the parent lies in another file than the child was made over')
  }
  const found = yield* sample()
  if (found !== record.sample) {
    const message = sure
      ? 'the parent file was written to after the child was made'
      : 'the parent is not the disk the child was made over'
    return { ...say('mismatch', sure ? 'PARENT_MODIFIED' : 'PARENT_ID_MISMATCH', message), found }
  }
  const copied = 'the parent is a copy of the file the child was made over, as far as samples tell'
  return { ...(sure ? say('consistent', undefined, untouched) : say('consistent', 'PARENT_COPIED', copied)), found }
}

function resized(record: ParentRecord, parent: Layer): [LinkReason, string] {
  return ['PARENT_SIZE_MISMATCH', `the parent had ${record.size} bytes, now it has ${parent.size}`]
}

/**
 * The stamp of all files in which a layer's content lies; undefined: the medium does not tell. Of several, it is that of the
 * first, with a digest of all of them as time and in place of what cannot be set: it says whether they changed, not when.
 */
export function stampOf({ store, neighbours = [] }: Pick<Layer, 'store' | 'neighbours'>): FileStamp | undefined {
  const stamp = store.stamp?.()
  if (!stamp || neighbours.length === 0) return stamp
  const all = [store, ...neighbours].map((one) => one.stamp?.())
  const digestOf = (parts: readonly unknown[]): bigint =>
    BigInt(`0x${createHash('sha256').update(parts.join(' ')).digest('hex').slice(0, 15)}`)
  return {
    ...stamp,
    size: all.reduce((sum, one) => sum + (one?.size ?? 0), 0),
    modified: digestOf(all.flatMap((one) => [one?.size, one?.modified, one?.inode])),
    changed: digestOf(all.map((one) => one?.changed)),
  }
}

/**
 * The stamp by which a child knows the files of its parent. Where those that know the format change the identity in the image's
 * own file, only the others are looked at: what else changes in that one, such as a link, says nothing about the content.
 */
export function linkStampOf(layer: Layer): FileStamp | undefined {
  const [first, ...more] = layer.neighbours ?? []
  if (layer.identity?.weak !== 'data' || !first) return stampOf(layer)
  return stampOf({ store: first, neighbours: more })
}

function sameFile(a: FileStamp, b: FileStamp): boolean {
  return a.inode === b.inode && a.born === b.born
}

function unchanged(a: FileStamp, b: FileStamp): boolean {
  return a.size === b.size && a.modified === b.modified
}
