import { crc32c } from '../bytes/crc32c.ts'
import { namedGuid } from '../bytes/guid.ts'
import type { Identity, MergedMark, NewParent, ParentLink, ParentRecord } from '../contracts/identity.ts'
import type { Image, SideFile } from '../contracts/image.ts'
import type { Layer } from '../contracts/layer.ts'
import {
  decodeIdentity,
  decodeParentRecord,
  encodeIdentity,
  encodeParentRecord,
  isObject,
  parseJson,
} from '../contracts/link-document.ts'
import { VdiskError } from '../errors.ts'
import type { Io } from '../io/io.ts'

/**
 * The linkage record, `IMAGE.vdisk-link`: what an image's format cannot say of its link to its parent. docs/linkage-record.md
 *
 * Lines of text, each a state of the link, the newest last. A line is bound to what the image itself said of its parent
 * when it was written, so the image decides which one holds, and both change in one step: a line for the link that is
 * about to be made stands there before the image changes, and says nothing until it has. What another program does to the
 * link makes all lines stale. An image that does not call itself a child is none, whatever lies beside it.
 */
const VERSION = 1
/** Bytes: more is no record of ours. */
const LIMIT = 65536
/** Bytes from which on old lines are dropped. */
const FULL = 32768
/** Bytes of a name in a record; longer ones no system has. */
const LONGEST_NAME = 4096
/** The latest second that a date can name. */
const MAX_SECONDS = 8.64e12

/** In place of the text of what cannot be read; no line of ours. */
const UNREADABLE = 'unreadable'

/** What a line says. */
export interface RecordedLink {
  /** undefined: the format does not say it, and no one else did */
  readonly format: string | undefined
  /** the parent's path from the image's folder; undefined: only the image names it */
  readonly path: string | undefined
  /** who the parent is; a second one while a merge is under way */
  readonly expects: readonly Identity[]
  readonly record: ParentRecord | undefined
  readonly merging: boolean
  readonly replaced: Identity | undefined
  readonly merged: MergedMark | undefined
}

/** link: holds while the image's own link is this one. unless: holds, as the last line, once it is not this one any more. */
type Binding = { readonly link: string } | { readonly unless: string }

interface Line {
  readonly binding: Binding
  readonly link: RecordedLink
}

/** What is beside an image: nothing; a record, of which a line holds or none does; or something that cannot be read as one. */
export type RecordState = 'none' | 'holds' | 'stale' | 'damaged'

/** The record of one image, as it was read. */
export class LinkRecord {
  readonly state: RecordState
  /** the line that holds */
  readonly link: RecordedLink | undefined

  private constructor(state: RecordState, link?: RecordedLink) {
    this.state = state
    this.link = link
  }

  /** The record of an image of some format. @param own what the image itself says of its parent; undefined: it is no child */
  static *read(file: SideFile, format: string, own: ParentLink | undefined): Io<LinkRecord> {
    const text = yield* textOf(file)
    if (text === undefined) return new LinkRecord('none')
    const lines = linesOf(text)
    if (lines.length === 0) return new LinkRecord('damaged')
    const line = own && lineFor(lines, bindingOf(format, own))
    return line ? new LinkRecord('holds', line.link) : new LinkRecord('stale')
  }
}

/** What an image itself says of its parent, as a digest. */
export function bindingOf(format: string, own: ParentLink): string {
  const expects = own.expects.map(({ kind, value }) => [kind, value])
  return namedGuid(JSON.stringify(['vdisk link', format, own.format ?? null, own.references, expects]))
}

/** Binds the record of an image that was just made to the parent it was made over. */
export function* recordParent(file: SideFile, { format, parent: own }: Layer, parent: NewParent): Io<void> {
  if (!own) throw new TypeError(`${file.name}: a ${format} image with a parent does not call itself a child`)
  yield* addLine(file, { link: bindingOf(format, own) }, linkTo(parent, undefined))
}

/** @param before that a layer was merged away stays true whoever its parent is */
export function linkTo(parent: NewParent, before: RecordedLink | undefined): RecordedLink {
  const { format, path, identity, record, replaces: replaced } = parent
  const expects = identity ? [identity] : []
  return { format, path, expects, record, merging: false, replaced, merged: before?.merged }
}

/** Adds a state of the link, durably. */
export function* addLine(file: SideFile, binding: Binding, link: RecordedLink): Io<void> {
  yield* addEncoded(file, encode({ binding, link }))
}

/** Adds a line, durably; where there are many, those that nothing needs are dropped. */
export function* addEncoded(file: SideFile, line: string): Io<void> {
  const text = yield* textOf(file)
  if (text === undefined) return yield* file.append(Buffer.from(line))
  if (text === UNREADABLE) return yield* file.replace(Buffer.from(line))
  if (text.length + line.length > FULL) return yield* file.replace(Buffer.from(kept(text, line) + line))
  // What was cut short by a crash stays a line by itself.
  yield* file.append(Buffer.from(text === '' || text.endsWith('\n') ? line : `\n${line}`))
}

/** The line that holds as long as the image does not change, if another one is about to be added. */
function kept(text: string, line: string): string {
  const binding = decode(line.trimEnd())?.binding
  const held = binding && lineFor(linesOf(text), 'unless' in binding ? binding.unless : binding.link)
  return held ? encode(held) : ''
}

/** The last line of a record; undefined: there is none. */
export function* lastLine(file: SideFile): Io<string | undefined> {
  const text = yield* textOf(file)
  const last = text === undefined ? undefined : linesOf(text).at(-1)
  return last && encode(last)
}

/** All of the record beside an image; a layer that was opened with another one is another layer. */
export function* textBeside({ linkRecord }: Image): Io<string | undefined> {
  return linkRecord && (yield* textOf(linkRecord))
}

function* textOf(file: SideFile): Io<string | undefined> {
  try {
    const bytes = yield* file.read(LIMIT)
    return bytes && Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('utf8')
  } catch (error) {
    // Whatever took its place, or cannot be read by this user: the image's own link still stands.
    if (error instanceof VdiskError && (error.code === 'REFUSED' || error.code === 'LIMIT_EXCEEDED')) return UNREADABLE
    throw error
  }
}

function lineFor(lines: readonly Line[], own: string): Line | undefined {
  const last = lines.at(-1)
  if (last && 'unless' in last.binding && last.binding.unless !== own) return last
  return lines.findLast(({ binding }) => 'link' in binding && binding.link === own)
}

function linesOf(text: string): Line[] {
  return text.split('\n').flatMap((line) => decode(line) ?? [])
}

function encode({ binding, link }: Line): string {
  const [first, second] = link.expects
  const document = JSON.stringify({
    version: VERSION,
    ...binding,
    at: Math.floor(Date.now() / 1000),
    format: link.format ?? null,
    path: link.path ?? null,
    identity: encodeIdentity(first),
    ...(second ? { next: encodeIdentity(second) } : {}),
    ...(link.record ? { record: encodeParentRecord(link.record) } : {}),
    ...(link.merging ? { merging: true } : {}),
    ...(link.replaced ? { replaced: encodeIdentity(link.replaced) } : {}),
    ...(link.merged ? { merged: { into: link.merged.into, at: link.merged.at } } : {}),
  })
  return `${checksum(document)} ${document}\n`
}

function decode(line: string): Line | undefined {
  const [sum, document] = [line.slice(0, 8), line.slice(9)]
  if (document === '' || sum !== checksum(document)) return undefined
  const fields = parseJson(document)
  if (!isObject(fields) || fields.version !== VERSION) return undefined
  const { link, unless, format, path, merged } = fields
  const binding = typeof link === 'string' ? { link } : typeof unless === 'string' ? { unless } : undefined
  if (!binding) return undefined
  const expects = [decodeIdentity(fields.identity), decodeIdentity(fields.next)].filter((one) => one !== undefined)
  return {
    binding,
    link: {
      format: typeof format === 'string' ? format : undefined,
      path: typeof path === 'string' && path.length <= LONGEST_NAME ? path : undefined,
      expects,
      record: isObject(fields.record) ? decodeParentRecord(fields.record) : undefined,
      merging: fields.merging === true,
      replaced: decodeIdentity(fields.replaced),
      merged: decodeMark(merged),
    },
  }
}

function decodeMark(mark: ReturnType<typeof parseJson>): MergedMark | undefined {
  if (!isObject(mark) || typeof mark.into !== 'string' || mark.into.length > LONGEST_NAME) return undefined
  const { into, at } = mark
  return typeof at === 'number' && at >= 0 && at <= MAX_SECONDS ? { into, at } : undefined
}

function checksum(document: string): string {
  return crc32c(Buffer.from(document)).toString(16).padStart(8, '0')
}
