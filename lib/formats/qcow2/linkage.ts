import { crc32cWithin } from '../../bytes/crc32c.ts'
import { normalizeGuid, randomGuid, ZERO_GUID } from '../../bytes/guid.ts'
import { bits64, bytes, guid, struct, u8, u16, u32, u64 } from '../../bytes/struct.ts'
import type { Identity, MergedMark, NewParent, ParentLink, ParentRecord } from '../../contracts/identity.ts'
import type { ForeignWriter } from '../../contracts/layer.ts'
import { standInForIdentity } from '../../contracts/stand-in.ts'
import type { FileStamp } from '../../io/store.ts'
import type { Header } from './header.ts'
import { AUTOCLEAR, EXTENSION } from './layout.ts'

/**
 * The linkage extension: who this image is, and whom it was made over. docs/linkage-extension.md
 *
 * qcow2 has neither. Other programs keep the extension as they find it, and clear our autoclear bit when they open
 * the image for writing: so a generation that is not marked current has been overtaken. What writes past the format
 * (dd, a copy over it) is seen by the file's time, which we set to a whole second when we close, and write down.
 */
const VERSION = 1
const FLAG = { merging: 1, merged: 2, parentRecord: 4, parentStamp: 8, parentSample: 16, parentRacy: 32 } as const
const PARENT_KIND = { none: 0, generation: 1, guid: 2, standIn: 3 } as const
/** Bytes of the name of the file that took the content over; longer names are cut. */
const MERGED_NAME = 112

/** Some four million writing sessions lead there; from there the next is still a safe integer. */
const MAX_GENERATION = Number.MAX_SAFE_INTEGER - 2 ** 32
/** The latest second that a date can name. */
const MAX_SECONDS = 8.64e12

const layout = struct(
  'vdisk linkage extension',
  { size: 200, order: 'big' },
  {
    version: u16(0),
    flags: u16(2),
    checksum: u32(4), // CRC-32C of the whole payload, this field taken as 0
    uuid: guid(8), // the disk, for all its generations
    generation: u64(24), // rises with each state of the content
    closedInode: bits64(32), // the file as it was closed last; all 0: in use, or closed badly
    closedBorn: bits64(40), // nanoseconds
    closedAt: u64(48), // seconds
    parentKind: u8(56),
    parentUuid: guid(64),
    parentGeneration: u64(80),
    nextParentUuid: guid(88), // also accepted, while a merge into the parent is under way
    nextParentGeneration: u64(104),
    parentSize: u64(112), // bytes of the parent's disk
    stampSize: u64(120),
    stampModified: bits64(128), // nanoseconds
    stampInode: bits64(136),
    stampBorn: bits64(144), // nanoseconds
    sample: bytes(152, 16),
    mergedAt: u64(168), // seconds since 1970
    replacedUuid: guid(176), // the parent expected before a user accepted another
    replacedGeneration: u64(192),
  },
)

type Fields = ReturnType<typeof layout.decode>

/** The extension of one image, decoded; changes are in memory until `store` puts them into the header. */
export class Linkage {
  private readonly fields: Fields
  private mergedInto: string
  /** drawn when it is first asked for: who only reads needs none */
  private drawn: number | undefined

  private constructor(fields: Fields, mergedInto: string) {
    this.fields = fields
    this.mergedInto = mergedInto
  }

  /** A new disk. */
  static make(uuid: string): Linkage {
    const fields = layout.decode(new Uint8Array(layout.size))
    return new Linkage({ ...fields, version: VERSION, uuid, generation: 1 }, '')
  }

  /** The extension of a header; undefined if there is none, or none that can be read. */
  static of(header: Header): Linkage | undefined {
    const data = header.extension(EXTENSION.linkage)
    const fields = data && readable(data)
    if (!fields) return undefined
    const name = Buffer.from(data.subarray(layout.size)).toString('utf8').replace(/\0+$/, '')
    return new Linkage(fields, name)
  }

  /** Whether the extension of a header is damaged, where `of` found none; one of a later version is only unknown. */
  static isDamaged(header: Header): boolean {
    const data = header.extension(EXTENSION.linkage)
    return data !== undefined && (data.length < layout.size || layout.decode(data).version === VERSION)
  }

  /** Puts the present state into the header; writing that is the caller's. */
  store(header: Header): void {
    const name = Buffer.from(this.mergedInto, 'utf8').subarray(0, MERGED_NAME)
    const data = new Uint8Array(layout.size + name.length)
    layout.encode({ ...this.fields, checksum: 0 }, data)
    data.set(name, layout.size)
    layout.patch(data, { checksum: checksumOf(data) })
    header.setExtension(EXTENSION.linkage, data)
  }

  /** @param stamp the file as it is now; undefined where a store has none */
  identity(header: Header, stamp: FileStamp | undefined): Identity {
    const { uuid, generation } = this.fields
    return { kind: 'generation', value: `${uuid}/${generation}`, current: this.isCurrent(header, stamp) }
  }

  /** @param stamp as for `identity` */
  foreignWriter(header: Header, stamp: FileStamp | undefined): ForeignWriter {
    if (header.version !== 3 || !stamp) return 'unknown'
    if ((header.autoclear & AUTOCLEAR.linkage) === 0n) return 'conforming'
    return this.isCurrent(header, stamp) ? 'none' : 'other'
  }

  /** What `identity` becomes with the next change of content. */
  nextIdentity(): Identity {
    return { kind: 'generation', value: `${this.fields.uuid}/${this.next}`, current: true }
  }

  private get next(): number {
    this.drawn ??= generationAfter(this.fields.generation)
    return this.drawn
  }

  /** Another state of the disk begins. */
  advance(header: Header): void {
    this.fields.generation = this.next
    this.drawn = undefined
    if (header.version === 3) header.autoclear |= AUTOCLEAR.linkage
  }

  /** From here on until `close` the file's time says nothing. */
  open(): void {
    Object.assign(this.fields, { closedInode: 0n, closedBorn: 0n, closedAt: 0 })
  }

  /** The file's time will be set to `seconds`. */
  close(stamp: FileStamp, seconds: number): void {
    Object.assign(this.fields, { closedInode: stamp.inode, closedBorn: stamp.born, closedAt: seconds })
  }

  /** The link to the parent; `references` and `format` come from the header's own fields. */
  parentLink(references: readonly string[], format: string | undefined): ParentLink {
    return {
      references,
      format,
      expects: this.expectedParents(),
      record: this.parentRecord(),
      merging: (this.fields.flags & FLAG.merging) !== 0,
      replaced: this.replacedParent(),
    }
  }

  setParent(parent: NewParent | undefined): void {
    const { fields } = this
    fields.flags &= ~FLAG.merging
    Object.assign(fields, parentFields(parent?.identity), { nextParentUuid: ZERO_GUID, nextParentGeneration: 0 })
    const { parentUuid, parentGeneration } = parentFields(parent?.replaces)
    Object.assign(fields, { replacedUuid: parentUuid, replacedGeneration: parentGeneration })
    this.setRecord(parent?.record)
  }

  beginMerge(now: Identity | undefined, next: Identity | undefined): void {
    this.fields.flags |= FLAG.merging
    const { parentUuid, parentGeneration } = parentFields(next)
    Object.assign(this.fields, parentFields(now), {
      nextParentUuid: parentUuid,
      nextParentGeneration: parentGeneration,
    })
  }

  /** @param room bytes that the header has left for the name; a longer one is cut */
  endMerge(mark: MergedMark, parent: Pick<NewParent, 'identity' | 'record'> | undefined, room: number): void {
    const { fields } = this
    if (parent) this.setRecord(parent.record)
    fields.flags = (fields.flags & ~FLAG.merging) | FLAG.merged
    // Where there was nothing to take over the parent is who it was.
    const [first] = this.expectedParents()
    const left = parentFields(parent?.identity)
    const isAsBefore =
      first !== undefined && identityOf(left.parentKind, left.parentUuid, left.parentGeneration)?.value === first.value
    if (fields.nextParentUuid !== ZERO_GUID && !isAsBefore) {
      fields.parentUuid = fields.nextParentUuid
      fields.parentGeneration = fields.nextParentGeneration
    }
    Object.assign(fields, { nextParentUuid: ZERO_GUID, nextParentGeneration: 0, mergedAt: mark.at })
    this.mergedInto = Buffer.from(mark.into, 'utf8').subarray(0, Math.max(0, room)).toString('utf8')
  }

  get merged(): MergedMark | undefined {
    return this.fields.flags & FLAG.merged ? { into: this.mergedInto, at: this.fields.mergedAt } : undefined
  }

  private setRecord(record: ParentRecord | undefined): void {
    const { fields } = this
    fields.flags &= ~(FLAG.parentRecord | FLAG.parentStamp | FLAG.parentSample | FLAG.parentRacy)
    fields.parentSize = record?.size ?? 0
    if (record) fields.flags |= FLAG.parentRecord | (record.racy ? FLAG.parentRacy : 0)
    const stamp = record?.stamp
    if (stamp) {
      fields.flags |= FLAG.parentStamp
      Object.assign(fields, {
        stampSize: stamp.size,
        stampModified: stamp.modified,
        stampInode: stamp.inode,
        stampBorn: stamp.born,
      })
    }
    if (record?.sample !== undefined) {
      fields.flags |= FLAG.parentSample
      fields.sample = Buffer.from(record.sample, 'hex')
    }
  }

  private isCurrent(header: Header, stamp: FileStamp | undefined): boolean {
    if (header.version === 3 && (header.autoclear & AUTOCLEAR.linkage) === 0n) return false
    const { closedInode, closedBorn, closedAt } = this.fields
    // A file closed by us, in the same place: only the time that we set is its own. A copy has another birth.
    const sameFile = stamp !== undefined && closedAt !== 0 && stamp.inode === closedInode && stamp.born === closedBorn
    return !sameFile || stamp.modified === BigInt(closedAt) * 1_000_000_000n
  }

  private expectedParents(): Identity[] {
    const { parentKind, parentUuid, parentGeneration, nextParentUuid, nextParentGeneration } = this.fields
    const ids = [identityOf(parentKind, parentUuid, parentGeneration)]
    if (nextParentUuid !== ZERO_GUID) ids.push(identityOf(parentKind, nextParentUuid, nextParentGeneration))
    return ids.filter((id) => id !== undefined)
  }

  /** A GUID stands without a generation. */
  private replacedParent(): Identity | undefined {
    const { replacedUuid, replacedGeneration } = this.fields
    if (replacedUuid === ZERO_GUID) return undefined
    return identityOf(
      replacedGeneration > 0 ? PARENT_KIND.generation : PARENT_KIND.guid,
      replacedUuid,
      replacedGeneration,
    )
  }

  private parentRecord(): ParentRecord | undefined {
    const { fields } = this
    if ((fields.flags & FLAG.parentRecord) === 0) return undefined
    return {
      size: fields.parentSize,
      stamp:
        fields.flags & FLAG.parentStamp
          ? { size: fields.stampSize, modified: fields.stampModified, inode: fields.stampInode, born: fields.stampBorn }
          : undefined,
      sample: fields.flags & FLAG.parentSample ? Buffer.from(fields.sample).toString('hex') : undefined,
      ...(fields.flags & FLAG.parentRacy ? { racy: true } : {}),
    }
  }
}

/** Not simply one more: two copies of a file that are both written must not arrive at the same generation. */
function generationAfter(generation: number): number {
  return generation + 1 + Number.parseInt(randomGuid().slice(0, 8), 16)
}

/** Whether every number can be what it says: the checksum keeps out accidents, not inventions. */
function isSane(fields: Fields): boolean {
  const { generation, parentGeneration, nextParentGeneration, replacedGeneration } = fields
  const generations = [generation, parentGeneration, nextParentGeneration, replacedGeneration]
  const times = [fields.closedAt, fields.mergedAt]
  const sizes = [fields.parentSize, fields.stampSize]
  return (
    generations.every((count) => count <= MAX_GENERATION) &&
    times.every((seconds) => seconds <= MAX_SECONDS) &&
    sizes.every((size) => Number.isSafeInteger(size))
  )
}

function identityOf(kind: number, uuid: string, generation: number): Identity | undefined {
  if (kind === PARENT_KIND.generation) return { kind: 'generation', value: `${uuid}/${generation}`, current: true }
  if (kind === PARENT_KIND.guid || kind === PARENT_KIND.standIn) return { kind: 'guid', value: uuid, current: true }
  return undefined
}

function parentFields(identity: Identity | undefined): Pick<Fields, 'parentKind' | 'parentUuid' | 'parentGeneration'> {
  const [uuid = '', generation = ''] = identity?.value.split('/') ?? []
  if (identity?.kind === 'generation' && /^\d{1,16}$/.test(generation)) {
    return { parentKind: PARENT_KIND.generation, parentUuid: uuid, parentGeneration: Number(generation) }
  }
  if (identity?.kind === 'guid' && normalizeGuid(identity.value) === identity.value) {
    return { parentKind: PARENT_KIND.guid, parentUuid: identity.value, parentGeneration: 0 }
  }
  if (identity)
    return { parentKind: PARENT_KIND.standIn, parentUuid: standInForIdentity(identity), parentGeneration: 0 }
  return { parentKind: PARENT_KIND.none, parentUuid: ZERO_GUID, parentGeneration: 0 }
}

/** What the extension says; undefined if that cannot be believed. */
function readable(data: Uint8Array): Fields | undefined {
  if (data.length < layout.size) return undefined
  const fields = layout.decode(data)
  return fields.version === VERSION && fields.checksum === checksumOf(data) && isSane(fields) ? fields : undefined
}

function checksumOf(data: Uint8Array): number {
  return crc32cWithin(data, layout.offsetOf('checksum'))
}
