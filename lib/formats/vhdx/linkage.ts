import { normalizeGuid, ZERO_GUID } from '../../bytes/guid.ts'
import type { Identity, MergedMark, NewParent, ParentLink, ParentRecord } from '../../contracts/identity.ts'
import {
  decodeIdentity,
  decodeParentRecord,
  encodeIdentity,
  encodeParentRecord,
  isObject,
  parseJson,
} from '../../contracts/link-document.ts'
import { standInGuid } from '../../contracts/stand-in.ts'
import { VdiskError } from '../../errors.ts'
import { spotIn } from './damage.ts'
import { ParentLocator } from './locator.ts'

/**
 * What the keys of a parent locator say. [2.6.2.6.3]
 *
 * `parent_linkage` is the DataWriteGuid that the parent had when the child was made; `parent_linkage2` is a second one
 * that is accepted while the child is merged into the parent, because the parent's changes then. [note 12] Windows
 * fills the second in with zeros when it mounts a child; that says nothing.
 *
 * Over a parent of another format stands a key of ours, `vdisk_link`, with what that format cannot say. Only vdisk
 * opens such a child. Keys of ours besides: `vdisk_merged`, `vdisk_replaced`. docs/vhdx-parent-keys.md
 */
const KEY = {
  linkage: 'parent_linkage',
  linkage2: 'parent_linkage2',
  relativePath: 'relative_path',
  volumePath: 'volume_path',
  absolutePath: 'absolute_win32_path',
  link: 'vdisk_link',
  merged: 'vdisk_merged',
  replaced: 'vdisk_replaced',
} as const

/** In the order in which they are to be tried. */
const PATHS = [KEY.relativePath, KEY.volumePath, KEY.absolutePath] as const

const LINK_VERSION = 1

/** A parent of another format, as `vdisk_link` has it. */
interface ForeignLink {
  readonly format: string
  readonly identity: Identity | undefined
  /** also accepted, while a merge is under way */
  readonly next: Identity | undefined
  readonly merging: boolean
  readonly record: ParentRecord
}

/** Who the parent is, as the child has it. */
export function parentLinkOf(locator: ParentLocator): ParentLink {
  const references = PATHS.map((key) => locator.get(key)).filter((path) => path !== undefined && path !== '')
  const common = { references: references as string[], replaced: decodeIdentity(parseJson(locator.get(KEY.replaced))) }
  const written = locator.get(KEY.link)
  if (written === undefined) {
    const linkage = guidIn(locator, KEY.linkage)
    const linkage2 = guidIn(locator, KEY.linkage2)
    const expects = [linkage, linkage2 === linkage ? undefined : linkage2].flatMap((value) =>
      value === undefined ? [] : [guidIdentity(value)],
    )
    return { ...common, format: 'vhdx', expects, record: undefined, merging: expects.length > 1 }
  }
  const link = decodeLink(written)
  // A record that cannot be read says nothing of the format; and nothing is guessed.
  if (!link) return { ...common, format: undefined, expects: [], record: undefined, merging: false }
  const expects = [link.identity, link.next].filter((one) => one !== undefined)
  return { ...common, format: link.format, expects, record: link.record, merging: link.merging }
}

/** Whether the content went elsewhere. */
export function mergedMarkOf(locator: ParentLocator): MergedMark | undefined {
  const mark = parseJson(locator.get(KEY.merged))
  if (!isObject(mark) || typeof mark.into !== 'string' || typeof mark.at !== 'number') return undefined
  return { into: mark.into, at: mark.at }
}

/** What is wrong with the keys, in words; for the check. */
export function complaintsAbout(locator: ParentLocator): string[] {
  const complaints: string[] = []
  if (guidIn(locator, KEY.linkage) === undefined) complaints.push(`it has no ${KEY.linkage} that is a GUID`)
  const second = locator.get(KEY.linkage2)
  if (second !== undefined && normalizeGuid(second) === undefined) complaints.push(`its ${KEY.linkage2} is no GUID`)
  if (!PATHS.some((key) => locator.get(key))) complaints.push('it has no path to the parent')
  const link = locator.get(KEY.link)
  if (link !== undefined && !decodeLink(link)) complaints.push(`its ${KEY.link} cannot be read`)
  return complaints
}

/**
 * The same without what can be mended for certain: a second linkage that is no GUID goes, one that stands alone takes
 * the place of the first, since the parent is accepted by it already.
 */
export function mendedLinkage(locator: ParentLocator): ParentLocator {
  const second = locator.get(KEY.linkage2)
  if (second !== undefined && normalizeGuid(second) === undefined) return locator.with({ [KEY.linkage2]: undefined })
  const accepted = guidIn(locator, KEY.linkage2)
  if (accepted === undefined || guidIn(locator, KEY.linkage) !== undefined) return locator
  return locator.with({ [KEY.linkage]: braced(accepted), [KEY.linkage2]: undefined })
}

/**
 * A locator that points at `parent`.
 *
 * @param before what stood there; that a layer was merged away stays true whoever its parent is
 */
export function locatorFor(file: string, parent: NewParent, before: ParentLocator | undefined): ParentLocator {
  const isVhdx = parent.format === 'vhdx'
  if (isVhdx && parent.identity?.kind !== 'guid') throw new TypeError('A VHDX parent is known by a GUID')
  const link = isVhdx
    ? undefined
    : { format: parent.format, identity: parent.identity, next: undefined, merging: false, record: parent.record }
  return new ParentLocator(new Map()).with({
    // It must be there; over another format nobody compares it.
    [KEY.linkage]: braced(isVhdx ? (parent.identity as Identity).value : standInGuid(parent)),
    [KEY.relativePath]: relativePath(file, parent.path),
    [KEY.absolutePath]: win32Path(parent.absolutePath),
    [KEY.link]: link && encodeLink(link),
    [KEY.merged]: before?.get(KEY.merged),
    [KEY.replaced]: parent.replaces && JSON.stringify(encodeIdentity(parent.replaces)),
  })
}

/** From now on the parent is accepted as it is now, and as `next`. @throws VdiskError CORRUPT */
export function beginMerge(
  file: string,
  locator: ParentLocator,
  now: Identity | undefined,
  next: Identity | undefined,
): ParentLocator {
  const link = foreignLink(file, locator)
  if (link) {
    return locator.with({
      [KEY.linkage]: braced(standInGuid({ identity: now, record: link.record })),
      [KEY.link]: encodeLink({ ...link, identity: now, next, merging: true }),
    })
  }
  if (now?.kind !== 'guid' || next?.kind !== 'guid') throw new TypeError('A VHDX parent is known by a GUID')
  return locator.with({ [KEY.linkage]: braced(now.value), [KEY.linkage2]: braced(next.value) })
}

/**
 * The parent is what the merge left, and the content of this layer is history. Where there was nothing to take over the
 * parent is who it was.
 *
 * @throws VdiskError CORRUPT
 */
export function endMerge(
  file: string,
  locator: ParentLocator,
  mark: MergedMark,
  parent: Pick<NewParent, 'identity' | 'record'> | undefined,
): ParentLocator {
  const merged = JSON.stringify({ into: mark.into, at: mark.at })
  const link = foreignLink(file, locator)
  if (link) {
    const isAsBefore = link.identity !== undefined && link.identity.value === parent?.identity?.value
    const identity = isAsBefore ? link.identity : (link.next ?? link.identity)
    const record = parent?.record ?? link.record
    return locator.with({
      [KEY.linkage]: braced(standInGuid({ identity, record })),
      [KEY.link]: encodeLink({ ...link, identity, record, next: undefined, merging: false }),
      [KEY.merged]: merged,
    })
  }
  const isAsBefore = parent?.identity !== undefined && parent.identity.value === guidIn(locator, KEY.linkage)
  const next = isAsBefore ? undefined : guidIn(locator, KEY.linkage2)
  return locator.with({
    ...(next === undefined ? {} : { [KEY.linkage]: braced(next) }),
    [KEY.linkage2]: undefined,
    [KEY.merged]: merged,
  })
}

/** The link to a parent of another format; undefined over a VHDX parent. */
function foreignLink(file: string, locator: ParentLocator): ForeignLink | undefined {
  const written = locator.get(KEY.link)
  const link = written === undefined ? undefined : decodeLink(written)
  if (written === undefined || link) return link
  throw new VdiskError('CORRUPT', {
    message: `Cannot change the link of ${file} to its parent: its ${KEY.link} cannot be read`,
    where: spotIn(file, { structure: 'parent locator', section: '2.6.2.6.3' }),
    advice: 'Point the image at its parent again: vdisk relink IMAGE --parent FILE',
  })
}

function guidIn(locator: ParentLocator, key: string): string | undefined {
  const guid = normalizeGuid(locator.get(key) ?? '')
  return guid === ZERO_GUID ? undefined : guid
}

function guidIdentity(value: string): Identity {
  return { kind: 'guid', value, current: true }
}

/** Lower case in braces. [2.6.2.6.3] */
function braced(guid: string): string {
  return `{${guid}}`
}

/** With backslashes, and a first part that makes plain that it is a path. [2.6.2.6.3] */
function relativePath(file: string, path: string): string {
  if (path.includes('\\')) {
    throw new VdiskError('REFUSED', {
      message: `Cannot link ${file} to "${path}": a path in a VHDX file cannot hold a backslash`,
      where: spotIn(file, { structure: 'parent locator', section: '2.6.2.6.3' }),
      advice: 'Rename the parent, or the folder it is in.',
    })
  }
  const windows = path.replaceAll('/', '\\')
  return windows.startsWith('..\\') ? windows : `.\\${windows}`
}

/**
 * The last place to look: an extended-length path. [2.6.2.6.3]
 *
 * A path of another system gets the same form. Windows finds nothing under it, as it should; libvhdi knows this key
 * alone and takes the last part of it; and vdisk finds the file by it where the user maps its beginning.
 */
function win32Path(path: string): string | undefined {
  if (path.startsWith('\\\\?\\')) return path
  if (/^[a-z]:[\\/]/i.test(path)) return `\\\\?\\${path.replaceAll('/', '\\')}`
  if (path.startsWith('\\\\')) return `\\\\?\\UNC\\${path.slice(2)}`
  // A backslash in a name of another system would be taken for a border between names.
  return path.includes('\\') ? undefined : `\\\\?\\${path.replaceAll('/', '\\')}`
}

// --- vdisk_link: a small JSON document, read with distrust. ---

function encodeLink(link: ForeignLink): string {
  return JSON.stringify({
    version: LINK_VERSION,
    format: link.format,
    identity: encodeIdentity(link.identity),
    ...encodeParentRecord(link.record),
    ...(link.merging ? { merging: true, next: encodeIdentity(link.next) } : {}),
  })
}

function decodeLink(text: string): ForeignLink | undefined {
  const link = parseJson(text)
  if (!isObject(link) || link.version !== LINK_VERSION) return undefined
  const { format } = link
  const record = decodeParentRecord(link)
  if (typeof format !== 'string' || !record) return undefined
  return {
    format,
    identity: decodeIdentity(link.identity),
    next: decodeIdentity(link.next),
    merging: link.merging === true,
    record,
  }
}
