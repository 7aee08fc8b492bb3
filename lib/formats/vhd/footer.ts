import type { VdiskError } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { believe, corrupt, FOOTER_SECTION, type Reader, unsupported } from './damage.ts'
import { geometryOf } from './disk-geometry.ts'
import { COOKIE, checksumOf, footer, LIMIT, SECTOR, SHORT_FOOTER, TYPE, VERSION } from './layout.ts'

export type FooterFields = ReturnType<typeof footer.decode>

/** A footer as it stands somewhere: its bytes are kept, whatever other programs put between the fields. */
export class Footer {
  /** 512 of them */
  readonly bytes: Uint8Array
  readonly fields: FooterFields

  constructor(bytes: Uint8Array) {
    this.bytes = bytes
    this.fields = footer.decode(bytes)
  }

  get isFixed(): boolean {
    return this.fields.type === TYPE.fixed
  }

  get isDifferencing(): boolean {
    return this.fields.type === TYPE.differencing
  }

  /** Whether the checksum is right. Early versions of XenServer did not count the byte that hides a disk. */
  get isSound(): boolean {
    const { checksum, creator, hidden } = this.fields
    const sum = checksumOf(this.bytes, footer.offsetOf('checksum'))
    return sum === checksum || (creator === 'tap' && (sum + hidden) >>> 0 === checksum)
  }

  /** The same with some fields changed, and the checksum that belongs to it. */
  with(changes: Partial<FooterFields>): Footer {
    const bytes = this.bytes.slice()
    footer.patch(bytes, changes)
    footer.patch(bytes, { checksum: checksumOf(bytes, footer.offsetOf('checksum')) })
    return new Footer(bytes)
  }

  /** The same for a disk of `size` bytes. Who made it stays, but where the size would not be believed then. */
  ofSize(size: number): Footer {
    const creator = this.sizeIsBelieved ? this.fields.creator : CREATOR
    return this.with({ currentSize: size, ...geometryOf(size), creator })
  }

  /** Whether all programs go by the size that it states. */
  get sizeIsBelieved(): boolean {
    return BELIEVED.includes(this.fields.creator)
  }

  equals(other: Footer): boolean {
    return Buffer.compare(this.bytes, other.bytes) === 0
  }
}

/** Creators of whom QEMU knows that the size they state is the size; for all others it takes the geometry, which may be short of it. */
const BELIEVED: readonly string[] = ['win ', 'qem2', 'd2v ', 'tap', 'CTXS', 'wa']
/** Who makes our disks: the one of those that all versions know. */
export const CREATOR = 'win '

/** A footer, or its copy, and where it is. */
export interface FooterCopy {
  /** bytes in the file */
  readonly at: number
  /** 512, or 511 of old programs */
  readonly length: number
  readonly footer: Footer
}

/** The footers of a file. */
export interface Footers {
  /** the one that counts */
  readonly current: Footer
  readonly tail: FooterCopy | undefined
  readonly head: FooterCopy | undefined
  /** bytes in the file */
  readonly fileSize: number
}

/** Finds both footers, sound or not. Only where a cookie stands there is one. */
export function* findFooters(store: ByteStore): Io<Pick<Footers, 'tail' | 'head' | 'fileSize'>> {
  const fileSize = yield* settle(store.size())
  const last = new Uint8Array(Math.min(SECTOR, fileSize))
  yield* settle(store.read(fileSize - last.length, last))
  const first = new Uint8Array(Math.min(SECTOR, fileSize))
  yield* settle(store.read(0, first))
  const tail = copyIn(last, fileSize - last.length) ?? copyIn(last.subarray(1), fileSize - SHORT_FOOTER)
  const head = copyIn(first, 0)
  return { tail, head: tail?.at === 0 ? undefined : head, fileSize }
}

/** The footer that begins with `bytes`; undefined: none does. */
export function copyIn(bytes: Uint8Array, at: number): FooterCopy | undefined {
  if (bytes.length < SHORT_FOOTER || Buffer.from(bytes.subarray(0, COOKIE.length)).toString('latin1') !== COOKIE) {
    return undefined
  }
  const whole = new Uint8Array(SECTOR)
  whole.set(bytes)
  return { at, length: bytes.length, footer: new Footer(whole) }
}

/**
 * The footer of a file: that at its end, or, if that is lost, the copy at its beginning, which a fixed disk has not.
 * ["Overview"; "Hard Disk Footer Format"]
 *
 * @throws VdiskError NOT_THIS_FORMAT, CORRUPT for a wrong checksum where there is no copy, UNSUPPORTED
 */
export function* readFooters(reader: Reader, store: ByteStore): Io<Footers> {
  const found = yield* findFooters(store)
  const copy = found.head?.footer.isFixed ? undefined : found.head
  const tail = found.tail ?? (copy ? undefined : yield* lostTail(store, found.fileSize))
  const sound = [tail, copy].find((one) => one?.footer.isSound)
  const current = sound ?? tail ?? copy
  if (!current) throw noFooter(reader)
  const spot = { structure: 'footer', at: current.at, section: FOOTER_SECTION }
  if (!sound) believe(reader, 'footer', spot)
  refuseStrange(reader, current)
  return { current: current.footer, tail, head: found.head, fileSize: found.fileSize }
}

/**
 * The footer of a fixed disk behind which the file goes on with nothing but zeros: what is left of a growth that was cut
 * short after the file had become longer.
 */
function* lostTail(store: ByteStore, fileSize: number): Io<FooterCopy | undefined> {
  const end = yield* endOfData(store, fileSize)
  const at = end - (end % SECTOR)
  if (at + SECTOR > fileSize) return undefined
  const sector = new Uint8Array(SECTOR)
  yield* settle(store.read(at, sector))
  const copy = copyIn(sector, at)
  return copy?.footer.isFixed && copy.footer.isSound && copy.footer.fields.currentSize === at ? copy : undefined
}

/** Bytes of zeros that are read in search of what lies before them; holes are passed over. */
const SEARCHED = 16 << 20
const PIECE = 64 << 10

/** Where the zeros begin that end the file, as far as they were searched. */
function* endOfData(store: ByteStore, fileSize: number): Io<number> {
  const bytes = new Uint8Array(PIECE)
  const start = yield* lastDataBefore(store, fileSize)
  for (let end = start; end > Math.max(0, start - SEARCHED); end -= PIECE) {
    const at = Math.max(0, end - PIECE)
    const part = bytes.subarray(0, end - at)
    yield* settle(store.read(at, part))
    const last = part.findLastIndex((byte) => byte !== 0)
    if (last >= 0) return at + last
  }
  return 0
}

/** Where the hole begins that ends the file; the size where there is none. */
function* lastDataBefore(store: ByteStore, fileSize: number): Io<number> {
  if (!store.segment) return fileSize
  let end = 0
  for (let at = 0; at < fileSize; ) {
    const segment = yield* settle(store.segment(at))
    at += segment.length
    if (segment.kind === 'data') end = at
  }
  return Math.min(end, fileSize)
}

function refuseStrange(reader: Reader, { at, footer: { fields } }: FooterCopy): void {
  const { name } = reader
  const { version, type, currentSize } = fields
  const spot = { structure: 'footer', at, section: FOOTER_SECTION }
  if (version !== VERSION) {
    throw unsupported(name, `it is of version ${version >>> 16}.${version & 0xffff} of the format`, spot)
  }
  if (!Object.values<number>(TYPE).includes(type)) throw unsupported(name, `it is a disk of type ${type}`, spot)
  if (currentSize % SECTOR !== 0 || !Number.isSafeInteger(currentSize) || currentSize > LIMIT.fileBytes) {
    throw corrupt(name, `its footer claims a disk of ${currentSize} bytes, which cannot be`, spot)
  }
}

function noFooter({ name }: Reader): VdiskError {
  return unsupported(
    name,
    'it has no footer, neither at its end nor at its beginning',
    { structure: 'footer', section: FOOTER_SECTION },
    'If you have it, copy the file again: its end is missing.',
  )
}
