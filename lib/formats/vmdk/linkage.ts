import type { Identity, MergedMark, NewParent, ParentLink, ParentRecord } from '../../contracts/identity.ts'
import {
  decodeIdentity,
  decodeParentRecord,
  encodeIdentity,
  encodeParentRecord,
  isObject,
  parseJson,
} from '../../contracts/link-document.ts'
import { standInCid } from '../../contracts/stand-in.ts'
import { VdiskError } from '../../errors.ts'
import { spotIn } from './damage.ts'
import type { Descriptor } from './descriptor.ts'
import { NO_PARENT } from './layout.ts'

/**
 * What a descriptor says of its parent. ["The Header", parentCID and parentFileNameHint]
 *
 * `parentCID` is the CID that the parent had when the child was made. Keys of ours in the disk database, which other
 * programs keep and do not read, hold what the format cannot say: `ddb.vdisk.link` the parent's format, size, stamp and
 * sample, and a second identity that is accepted while the child is merged into it; `ddb.vdisk.merged` where
 * the content went; `ddb.vdisk.replaced` what was expected before a user accepted another parent. Over a parent of
 * another format, `parentCID` is made of its identity; only vdisk opens such a child.
 */
const KEY = { link: 'ddb.vdisk.link', merged: 'ddb.vdisk.merged', replaced: 'ddb.vdisk.replaced' } as const

const LINK_VERSION = 1

interface StoredLink {
  readonly format: string
  readonly identity: Identity | undefined
  /** also accepted, while a merge is under way */
  readonly next: Identity | undefined
  readonly merging: boolean
  /** undefined: of before anything was known of a VMDK parent but its id */
  readonly record: ParentRecord | undefined
}

/** Who the parent is, as the child has it; undefined: it has none. */
export function parentLinkOf(descriptor: Descriptor): ParentLink | undefined {
  const { parentCid, parentHint } = descriptor
  if (parentCid === undefined) return undefined
  const common = {
    references: parentHint === undefined ? [] : [parentHint],
    replaced: decodeIdentity(parseJson(readKey(descriptor, KEY.replaced))),
  }
  const link = linkIn(descriptor)
  // A note that does not fit the id is older than that: another program has linked the child since.
  if (!link || cidOfParent(link) !== parentCid) {
    return { ...common, format: 'vmdk', expects: [contentIdentity(parentCid)], record: undefined, merging: false }
  }
  const expects = [link.identity, link.next].filter((one) => one !== undefined)
  return { ...common, format: link.format, expects, record: link.record, merging: link.merging }
}

/** Whether the content went elsewhere. */
export function mergedMarkOf(descriptor: Descriptor): MergedMark | undefined {
  const mark = parseJson(readKey(descriptor, KEY.merged))
  if (!isObject(mark) || typeof mark.into !== 'string' || typeof mark.at !== 'number') return undefined
  return { into: mark.into, at: mark.at }
}

/** The descriptor pointed at `parent`; that a layer was merged away stays true whoever its parent is. */
export function linkedTo(descriptor: Descriptor, parent: NewParent): Descriptor {
  const { format, identity, record } = parent
  const isVmdk = format === 'vmdk'
  if (isVmdk && identity?.kind !== 'cid') throw noContentId(descriptor.file, parent.path)
  const link: StoredLink = { format, identity, next: undefined, merging: false, record }
  refuseName(descriptor, parent.path)
  return descriptor.with({
    parentCID: cidOfParent(link),
    parentFileNameHint: parent.path,
    [KEY.link]: encodeLink(link),
    [KEY.replaced]: parent.replaces && escaped(JSON.stringify(encodeIdentity(parent.replaces))),
  })
}

/** The descriptor without a parent. */
export function unlinked(descriptor: Descriptor): Descriptor {
  const nothing = { [KEY.link]: undefined, [KEY.replaced]: undefined }
  return descriptor.with({ parentCID: NO_PARENT, parentFileNameHint: undefined, ...nothing })
}

/** From now on the parent is accepted as it is now, and as `next`. */
export function beginMerge(descriptor: Descriptor, now: Identity | undefined, next: Identity | undefined): Descriptor {
  const { format, record } = storedLinkOf(descriptor)
  const link: StoredLink = { format, identity: now, next, merging: true, record }
  return descriptor.with({ parentCID: cidOfParent(link), [KEY.link]: encodeLink(link) })
}

/**
 * The parent is what the merge left, and the content of this layer is history. Where there was nothing to take over the
 * parent is who it was.
 */
export function endMerge(
  descriptor: Descriptor,
  mark: MergedMark,
  parent: Pick<NewParent, 'identity' | 'record'> | undefined,
): Descriptor {
  const link = storedLinkOf(descriptor)
  const isAsBefore = link.identity !== undefined && link.identity.value === parent?.identity?.value
  const identity = isAsBefore ? link.identity : (link.next ?? link.identity)
  const record = parent?.record ?? link.record
  const ended: StoredLink = { format: link.format, identity, next: undefined, merging: false, record }
  return descriptor.with({
    parentCID: cidOfParent(ended),
    [KEY.link]: encodeLink(ended),
    [KEY.merged]: escaped(JSON.stringify({ into: mark.into, at: mark.at })),
  })
}

/** What is wrong with the link, in words; for the check. */
export function complaintsAbout(descriptor: Descriptor): string[] {
  const complaints: string[] = []
  if (descriptor.parentCid === undefined) return complaints
  if (descriptor.parentCid === NO_PARENT) complaints.push('it names a parent, but not its content id')
  if (descriptor.parentHint === undefined) complaints.push('it has a parent, but does not say which file that is')
  if (descriptor.get(KEY.link) !== undefined && !linkIn(descriptor)) complaints.push(`its ${KEY.link} cannot be read`)
  return complaints
}

/** The descriptor without a note of ours that cannot be read: the parent is then a VMDK, known by its id. */
export function withoutUnreadableLink(descriptor: Descriptor): Descriptor {
  const isBad = descriptor.get(KEY.link) !== undefined && !linkIn(descriptor)
  return isBad ? descriptor.with({ [KEY.link]: undefined }) : descriptor
}

/** The link with all that is known of it, of a disk that has a parent. */
function storedLinkOf(descriptor: Descriptor): StoredLink {
  const { format, expects, merging, record } = parentLinkOf(descriptor) as ParentLink & { format: string }
  const [identity, next] = expects
  return { format, identity, next, merging, record }
}

/** What stands as `parentCID`: the id of a VMDK, or what stands for a parent of another format. */
function cidOfParent(link: StoredLink): string {
  if (link.format === 'vmdk') return link.identity?.value ?? NO_PARENT
  const record = link.record ?? { size: 0, stamp: undefined, sample: undefined }
  return standInCid({ identity: link.identity, record }).toString(16).padStart(8, '0')
}

function linkIn(descriptor: Descriptor): StoredLink | undefined {
  const link = parseJson(readKey(descriptor, KEY.link))
  if (!isObject(link) || link.version !== LINK_VERSION || typeof link.format !== 'string') return undefined
  return {
    format: link.format,
    identity: decodeIdentity(link.identity),
    next: decodeIdentity(link.next),
    merging: link.merging === true,
    record: decodeParentRecord(link),
  }
}

function encodeLink({ format, identity, next, merging, record }: StoredLink): string {
  return escaped(
    JSON.stringify({
      version: LINK_VERSION,
      format,
      identity: encodeIdentity(identity),
      ...(record ? encodeParentRecord(record) : {}),
      ...(merging ? { merging: true, next: encodeIdentity(next) } : {}),
    }),
  )
}

function readKey(descriptor: Descriptor, key: string): string | undefined {
  return descriptor
    .get(key)
    ?.replace(/\|([0-9a-f]{2})/gi, (_, code: string) => String.fromCharCode(Number.parseInt(code, 16)))
}

/** As VMware writes characters that a value in quotes cannot hold; and JSON's own way for all that is not ASCII. */
function escaped(json: string): string {
  return json
    .replace(/["|]/g, (sign) => `|${sign.charCodeAt(0).toString(16).toUpperCase()}`)
    .replace(/[^\x20-\x7e]/g, (sign) => `\\u${sign.charCodeAt(0).toString(16).padStart(4, '0')}`)
}

/** Whoever edits a flat extent as the raw disk that it is leaves the content id as it was; so does who crashes before it is written. */
export function contentIdentity(cid: string): Identity {
  return { kind: 'cid', value: cid, current: true, weak: true }
}

function refuseName(descriptor: Descriptor, path: string): void {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
  const why = /["\u0000-\u001f]/.test(path)
    ? 'a name in a descriptor can hold no quotes and no control characters'
    : /[^\x20-\x7e]/.test(path) && !/^utf-?8$/i.test(descriptor.get('encoding') ?? 'utf-8')
      ? `its descriptor is written in ${descriptor.get('encoding')}`
      : undefined
  if (why === undefined) return
  throw new VdiskError('REFUSED', {
    message: `Cannot link ${descriptor.file} to "${path}": ${why}`,
    where: spotIn(descriptor.file, { structure: 'descriptor', section: 'The Header' }),
    advice: 'Rename the parent, or the folder it is in.',
  })
}

function noContentId(file: string, parent: string): VdiskError {
  return new VdiskError('REFUSED', {
    message: `Cannot link ${file} to "${parent}": that has no content id by which it could be known again`,
    where: spotIn(file, { structure: 'descriptor', section: 'The Header' }),
    advice: 'Mend the parent first: vdisk check PARENT --repair',
  })
}
