import { roundUp } from '../../bytes/align.ts'
import { VdiskError } from '../../errors.ts'
import { type Io, Pace, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { readPaxRecords } from './pax.ts'
import { BLOCK, checksumOf, type TarHeader, TYPE, tarHeader, WITHOUT_CONTENT } from './tar-layout.ts'

/** One entry of an archive. */
export interface Member {
  /** as the archive has it: a word to compare with, never a path */
  readonly name: string
  /** other: a folder, a link, a device. sparse: a file with holes left out, in one of GNU tar's ways */
  readonly kind: 'file' | 'sparse' | 'other'
  /** byte of the archive at which the header begins; that of a further header for the same member counts */
  readonly headerAt: number
  /** byte of the archive at which the content begins */
  readonly at: number
  /** bytes of content */
  readonly length: number
}

export interface Archive {
  readonly members: readonly Member[]
  /** the two blocks of zeros that end an archive are there */
  readonly ended: boolean
}

/** Members of one archive: an appliance has a dozen. */
const MOST_MEMBERS = 4096
/** Bytes of a further header, and so of a name. */
const LONGEST_EXTRA = 64 << 10

/** What further headers said of the member that follows. */
interface Extra {
  readonly name?: string | undefined
  readonly length?: number | undefined
  readonly sparse?: boolean | undefined
  readonly from?: number | undefined
}

/**
 * Reads the headers of an archive, and nothing of what lies between.
 *
 * @throws VdiskError CORRUPT where a header cannot be right or the file ends inside a member, LIMIT_EXCEEDED,
 * UNSUPPORTED for what changes the meaning of all that follows
 */
export function* readArchive(store: ByteStore, signal?: AbortSignal): Io<Archive> {
  const size = yield* settle(store.size())
  const members: Member[] = []
  const pace = new Pace(signal)
  const block = new Uint8Array(BLOCK)
  let extra: Extra = {}
  for (let at = 0; at < size; ) {
    yield* pace.keep()
    if (at + BLOCK > size) throw damaged(store.name, at, 'it ends inside a header')
    yield* settle(store.read(at, block))
    if (block.every((byte) => byte === 0)) return { members, ended: true }
    const header = tarHeader.decode(block)
    assertChecksum(store.name, at, block, header)
    const type = String.fromCharCode(header.type)
    const stated = WITHOUT_CONTENT.includes(type) ? 0 : numberOf(store.name, at, header.size)
    const content = at + BLOCK
    const length = isExtra(type) ? stated : (extra.length ?? stated)
    if (content + length > size) throw damaged(store.name, at, `it ends at ${size}, inside a member of ${length} bytes`)
    if (isExtra(type)) {
      extra = { from: at, ...extra, ...(yield* readExtra(store, type, content, length)) }
    } else {
      if (members.length === MOST_MEMBERS) throw tooMany(store.name)
      const name = extra.name ?? nameOf(header)
      members.push({ name, kind: kindOf(type, extra), headerAt: extra.from ?? at, at: content, length })
      extra = {}
    }
    at = content + roundUp(length, BLOCK)
  }
  return { members, ended: false }
}

/** The name in the first header, as far as that tells it; undefined: it is no archive. */
export function firstMemberOf(head: Uint8Array): string | undefined {
  if (head.length < BLOCK) return undefined
  const { magic, name } = tarHeader.decode(head)
  return Buffer.from(magic).toString('latin1').startsWith('ustar') ? textOf(name) : undefined
}

function isExtra(type: string): boolean {
  return [TYPE.paxHeader, TYPE.globalHeader, TYPE.longName, TYPE.longLink].some((one) => one === type)
}

function kindOf(type: string, extra: Extra): Member['kind'] {
  if (extra.sparse || type === TYPE.sparse) return 'sparse'
  return [TYPE.file, TYPE.oldFile, TYPE.contiguous].some((one) => one === type) ? 'file' : 'other'
}

function* readExtra(store: ByteStore, type: string, at: number, length: number): Io<Extra> {
  if (length > LONGEST_EXTRA) {
    throw new VdiskError('LIMIT_EXCEEDED', {
      message: `Cannot read ${store.name}: a header of its archive has ${length} bytes, more than ${LONGEST_EXTRA}`,
      where: { file: store.name, structure: 'tar header', at },
    })
  }
  const bytes = new Uint8Array(length)
  yield* settle(store.read(at, bytes))
  if (type === TYPE.longLink) return {}
  if (type === TYPE.longName) return { name: textOf(bytes) }
  const records = readPaxRecords(store.name, at, bytes)
  const size = records.get('size')
  if (type === TYPE.globalHeader && (size !== undefined || records.has('path'))) {
    throw new VdiskError('UNSUPPORTED', {
      message: `Cannot read ${store.name}: its archive gives one name or size to all members that follow`,
      where: { file: store.name, structure: 'pax header', at, section: 'pax Header Block' },
      advice: 'Pack it anew: tar --format=ustar',
    })
  }
  if (type === TYPE.globalHeader) return {}
  if (size !== undefined && !/^\d{1,15}$/.test(size)) throw damaged(store.name, at, 'the size of a member is no number')
  return {
    ...(records.has('path') ? { name: records.get('path') } : {}),
    ...(size === undefined ? {} : { length: Number(size) }),
    ...([...records.keys()].some((key) => key.startsWith('GNU.sparse.')) ? { sparse: true } : {}),
  }
}

function nameOf({ name, prefix, magic }: TarHeader): string {
  // GNU tar keeps other things where POSIX has the prefix.
  const before = magic[5] === 0 ? textOf(prefix) : ''
  return before === '' ? textOf(name) : `${before}/${textOf(name)}`
}

function textOf(bytes: Uint8Array): string {
  const end = bytes.indexOf(0)
  return Buffer.from(end < 0 ? bytes : bytes.subarray(0, end)).toString('utf8')
}

/** An octal number, or a binary one of GNU tar. */
function numberOf(file: string, at: number, field: Uint8Array): number {
  const binary = ((field[0] as number) & 0x80) !== 0
  let value = 0
  if (binary) {
    for (const [index, byte] of field.entries()) value = value * 256 + (index === 0 ? byte & 0x7f : byte)
  } else {
    const text = textOf(field).trim()
    value = text === '' ? 0 : /^[0-7]+$/.test(text) ? Number.parseInt(text, 8) : Number.NaN
  }
  if (Number.isSafeInteger(value)) return value
  throw damaged(file, at, 'the size of a member cannot be read')
}

/** Some old programs added signed bytes. */
function assertChecksum(file: string, at: number, block: Uint8Array, { checksum }: TarHeader): void {
  const stated = numberOf(file, at, checksum)
  const sum = checksumOf(block)
  const high = block.reduce((count, byte, index) => count + (byte > 127 && (index < 148 || index > 155) ? 1 : 0), 0)
  if (stated !== sum && stated !== sum - 256 * high) {
    throw damaged(file, at, 'the checksum of a header is wrong', 'ustar Interchange Format')
  }
}

function damaged(file: string, at: number, why: string, section = 'ustar Interchange Format'): VdiskError {
  return new VdiskError('CORRUPT', {
    message: `Cannot read the archive ${file}: ${why}`,
    where: { file, structure: 'tar header', at, section },
    advice: 'Get the file again: this copy is damaged.',
  })
}

function tooMany(file: string): VdiskError {
  return new VdiskError('LIMIT_EXCEEDED', {
    message: `Cannot read ${file}: its archive has more than ${MOST_MEMBERS} members`,
    where: { file, structure: 'tar header' },
  })
}
