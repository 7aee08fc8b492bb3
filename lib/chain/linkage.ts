import type { Identity, ParentLink } from '../contracts/identity.ts'
import type { Layer } from '../contracts/layer.ts'
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
  if (link.expects.length > 0) return judgeIdentity(link, parent)
  return yield* judgeRecord(link, parent, sample)
}

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
  if (!link.expects.some((one) => one.kind === found.kind && one.value === found.value)) {
    return sameDisk(link, found)
      ? say('mismatch', 'PARENT_MODIFIED', 'the parent was written to after the child was made')
      : say('mismatch', 'PARENT_ID_MISMATCH', 'the parent is another disk, or was written to after the child was made')
  }
  if (link.merging) return say('consistent', 'MERGE_UNDER_WAY', 'a merge of the child into the parent was begun')
  if (!found.current) {
    const seen = link.record?.stamp
    const now = parent.store.stamp?.()
    return seen && now && sameFile(seen, now) && unchanged(seen, now)
      ? say('consistent', undefined, 'another program wrote to the parent, and the child was linked to it after that')
      : say('mismatch', 'PARENT_MODIFIED', 'another program wrote to the parent after the child was made')
  }
  if (link.record && link.record.size !== parent.size) {
    return say(
      'mismatch',
      'PARENT_SIZE_MISMATCH',
      `the parent had ${link.record.size} bytes, now it has ${parent.size}`,
    )
  }
  return say('verified', undefined, 'the identities agree')
}

/** Identities that count states begin with the disk they count. */
function sameDisk(link: ParentLink, found: Identity): boolean {
  const disk = (identity: Identity): string => identity.value.split('/')[0] as string
  return found.kind === 'generation' && link.expects.some((one) => one.kind === found.kind && disk(one) === disk(found))
}

function* judgeRecord(link: ParentLink, parent: Layer, sample: (() => Io<string>) | undefined): Io<Verdict> {
  const say = (level: Level, reason: LinkReason | undefined, message: string): Verdict => ({
    level,
    reason,
    message,
    expected: link.record?.sample,
    found: undefined,
  })
  if (link.merging) return say('consistent', 'MERGE_UNDER_WAY', 'a merge of the child into the parent was begun')
  const { record } = link
  if (!record)
    return say('unverifiable', 'IDENTITY_UNVERIFIABLE', 'the child holds nothing by which to know its parent')
  if (record.size !== parent.size) {
    return say('mismatch', 'PARENT_SIZE_MISMATCH', `the parent had ${record.size} bytes, now it has ${parent.size}`)
  }
  const now = parent.store.stamp?.()
  if (record.stamp && now && sameFile(record.stamp, now)) {
    return unchanged(record.stamp, now)
      ? say('consistent', undefined, 'the parent file was not written to since the child was made')
      : say('mismatch', 'PARENT_MODIFIED', 'the parent file was written to after the child was made')
  }
  if (record.sample === undefined || !sample) {
    return say('unverifiable', 'IDENTITY_UNVERIFIABLE', 'the parent lies in another file than the child was made over')
  }
  const found = yield* sample()
  const verdict =
    found === record.sample
      ? say(
          'consistent',
          'PARENT_COPIED',
          'the parent is a copy of the file the child was made over, as far as samples tell',
        )
      : say('mismatch', 'PARENT_ID_MISMATCH', 'the parent is not the disk the child was made over')
  return { ...verdict, found }
}

function sameFile(a: FileStamp, b: FileStamp): boolean {
  return a.inode === b.inode && a.born === b.born
}

function unchanged(a: FileStamp, b: FileStamp): boolean {
  return a.size === b.size && a.modified === b.modified
}
