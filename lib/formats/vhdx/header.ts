import { crc32c, crc32cWithin } from '../../bytes/crc32c.ts'
import { ZERO_GUID } from '../../bytes/guid.ts'
import { VdiskError } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { corrupt, leaveOut, type Reader, spotIn, unsupported } from './damage.ts'
import { FILE_SIGNATURE, HEADER_PLACES, HEADER_SECTION, header as layout, MIB } from './layout.ts'

type Fields = ReturnType<typeof layout.decode>
/** What a header states, besides what makes it a header. */
export type HeaderState = Omit<Fields, 'signature' | 'checksum' | 'sequenceNumber'>

/** What an update of the headers may change. */
export type HeaderChange = Partial<Omit<HeaderState, 'version'>>

/** One of the two headers as it stands in the file. */
export interface HeaderCopy {
  readonly slot: number
  readonly fields: Fields
  readonly bytes: Uint8Array
  /** signature and checksum are right */
  readonly isValid: boolean
}

const SIGNATURE = 'head'
const NO_LOG = { logGuid: ZERO_GUID, logVersion: 0, logLength: 0, logOffset: 0 } as const
/** A header of which nothing is known. */
export const NO_STATE: HeaderState = { ...NO_LOG, version: 1, fileWriteGuid: ZERO_GUID, dataWriteGuid: ZERO_GUID }
const LAST_SEQUENCE = 2n ** 64n - 1n

/**
 * The two headers of a file, of which the one with the higher sequence number is current. [2.2.2]
 *
 * They are the only structures that change without the log, for by them the log is found: the noncurrent one is
 * overwritten and flushed, and so becomes current; then the other, so that a damaged header costs nothing. [2.2.2.1]
 */
export class Headers {
  /** which copies were valid when the file was opened */
  readonly valid: readonly [boolean, boolean]
  private readonly file: string
  private fields: Fields
  /** index of the copy that is current */
  private slot: number

  private constructor(file: string, fields: Fields, slot: number, valid: readonly [boolean, boolean]) {
    this.file = file
    this.fields = fields
    this.slot = slot
    this.valid = valid
  }

  /**
   * Salvage goes on without a current header: what both state alike of the log counts, and no identity is known.
   *
   * @throws VdiskError NOT_THIS_FORMAT, CORRUPT if no header is current, UNSUPPORTED for another version
   */
  static *read(reader: Reader, store: ByteStore): Io<Headers> {
    const { name } = reader
    yield* checkSignature(reader, store)
    const copies = yield* readHeaderCopies(store)
    const current = currentOf(copies)
    if (!current) leaveOut(reader, noneCurrent(name, copies))
    const valid = [0, 1].map((slot) => copies.some((copy) => copy.slot === slot && copy.isValid)) as [boolean, boolean]
    const headers = new Headers(
      name,
      current?.fields ?? complete(agreedState(copies) ?? NO_STATE),
      current?.slot ?? 1,
      valid,
    )
    headers.check(reader, yield* settle(store.size()))
    return headers
  }

  /** Both headers of a new file. */
  static make(file: string, state: HeaderState): Headers {
    return new Headers(file, complete(state), 1, [true, true])
  }

  /** Headers to be written anew over copies of which none counts. @param sequenceNumber the highest there is */
  static rebuilt(file: string, state: HeaderState, sequenceNumber: bigint): Headers {
    return new Headers(file, { ...complete(state), sequenceNumber }, 1, [false, false])
  }

  get fileWriteGuid(): string {
    return this.fields.fileWriteGuid
  }

  get dataWriteGuid(): string {
    return this.fields.dataWriteGuid
  }

  /** zero: no log to replay */
  get logGuid(): string {
    return this.fields.logGuid
  }

  get hasLog(): boolean {
    return this.fields.logGuid !== ZERO_GUID
  }

  get logOffset(): number {
    return this.fields.logOffset
  }

  /** bytes */
  get logLength(): number {
    return this.fields.logLength
  }

  get sequenceNumber(): bigint {
    return this.fields.sequenceNumber
  }

  /** bytes in the file of the current header */
  get at(): number {
    return HEADER_PLACES[this.slot] as number
  }

  /** Changes both headers, durably: one is valid at any moment, and each states the old or the new. */
  *update(store: ByteStore, change: HeaderChange): Io<void> {
    yield* this.writeNext(store, change)
    yield* this.writeNext(store, change)
  }

  private *writeNext(store: ByteStore, change: HeaderChange): Io<void> {
    if (this.fields.sequenceNumber >= LAST_SEQUENCE) {
      throw new VdiskError('LIMIT_EXCEEDED', {
        message: `Cannot write ${this.file}: the sequence number of its headers cannot rise any further`,
        where: spotIn(this.file, { structure: 'header', at: this.at, section: '2.2.2' }),
        advice: 'It can still be read and converted.',
      })
    }
    const slot = 1 - this.slot
    const fields = { ...this.fields, ...change, sequenceNumber: this.fields.sequenceNumber + 1n }
    const bytes = layout.encode({ ...fields, checksum: 0 })
    layout.patch(bytes, { checksum: crc32c(bytes) })
    yield* settle(store.write(HEADER_PLACES[slot] as number, bytes))
    yield* settle(store.flush())
    this.fields = fields
    this.slot = slot
  }

  private check(reader: Reader, size: number): void {
    const where = { structure: 'header', at: this.at, section: '2.2.2' }
    const { version } = this.fields
    if (version !== 1) throw unsupported(this.file, `it has version ${version} of the format, vdisk knows 1`, where)
    const complaint = this.complaintAboutLog(size)
    if (!complaint) return
    leaveOut(reader, complaint)
    this.fields = { ...this.fields, ...NO_LOG }
  }

  private complaintAboutLog(size: number): VdiskError | undefined {
    const { logVersion, logLength, logOffset } = this.fields
    const where = { structure: 'header', at: this.at, section: '2.2.2' }
    if (logVersion !== 0 && this.hasLog) {
      return unsupported(this.file, `its log has version ${logVersion}, vdisk can replay 0`, where)
    }
    const isNone = logLength === 0 && !this.hasLog
    const placed = logOffset % MIB === 0 && logLength % MIB === 0 && (isNone || logOffset >= HEADER_SECTION)
    if (!placed || !Number.isSafeInteger(logOffset + logLength)) {
      return corrupt(this.file, `its log of ${logLength} bytes at ${logOffset} is not aligned to 1 MiB`, where)
    }
    if (!this.hasLog || (logLength > 0 && logOffset + logLength <= size)) return undefined
    const why = `it was not closed, and its log of ${logLength} bytes at ${logOffset} is not in the file`
    return corrupt(this.file, why, where)
  }
}

/** The copies that lie in the file, valid or not. */
export function* readHeaderCopies(store: ByteStore): Io<HeaderCopy[]> {
  const size = yield* settle(store.size())
  const copies: HeaderCopy[] = []
  for (const [slot, at] of HEADER_PLACES.entries()) {
    if (at + layout.size > size) continue
    const bytes = new Uint8Array(layout.size)
    yield* settle(store.read(at, bytes))
    const fields = layout.decode(bytes)
    const isValid =
      fields.signature === SIGNATURE && fields.checksum === crc32cWithin(bytes, layout.offsetOf('checksum'))
    copies.push({ slot, fields, bytes, isValid })
  }
  return copies
}

/** The copy that counts; undefined if neither does. */
export function currentOf(copies: readonly HeaderCopy[]): HeaderCopy | undefined {
  const [first, second] = copies.filter(({ isValid }) => isValid)
  if (!first || !second) return first
  const order = second.fields.sequenceNumber - first.fields.sequenceNumber
  // Disk2vhd writes the same header twice. Two different ones of the same number leave no current one.
  if (order === 0n) return Buffer.compare(first.bytes, second.bytes) === 0 ? first : undefined
  return order > 0n ? second : first
}

/** What two headers of which neither counts state alike of the log; undefined where they do not, or are no headers. */
export function agreedState(copies: readonly HeaderCopy[]): HeaderState | undefined {
  const [first, second] = copies.map(({ fields }) => fields)
  if (first?.signature !== SIGNATURE || second?.signature !== SIGNATURE) return undefined
  // What is nearly empty agrees as well, and says nothing.
  if (first.version !== 1 || first.logLength < MIB) return undefined
  for (const key of ['version', 'logVersion', 'logLength', 'logOffset', 'logGuid'] as const) {
    if (first[key] !== second[key]) return undefined
  }
  const { version, logVersion, logLength, logOffset, logGuid } = first
  return { ...NO_STATE, version, logVersion, logLength, logOffset, logGuid }
}

function noneCurrent(file: string, copies: readonly HeaderCopy[]): VdiskError {
  const why = copies.some(({ isValid }) => isValid)
    ? 'its two headers differ but have the same sequence number, so that neither is current'
    : 'neither of its two headers is valid'
  return corrupt(file, why, { structure: 'header', at: HEADER_PLACES[0], section: '2.2.2' })
}

function complete(state: HeaderState): Fields {
  return { ...state, signature: SIGNATURE, checksum: 0, sequenceNumber: 0n }
}

function* checkSignature({ name, leaveOut: note }: Reader, store: ByteStore): Io<void> {
  if (yield* hasSignature(store)) return
  const damage = new VdiskError('NOT_THIS_FORMAT', {
    message: `Cannot read ${name} as vhdx: it does not begin with "${FILE_SIGNATURE}"`,
    where: spotIn(name, { structure: 'file type identifier', at: 0, section: '2.2.1' }),
  })
  // Most files that do not begin with it are of another format: nobody is advised to salvage those.
  if (!note) throw damage
  note(damage)
}

/** Whether a file says at its begin what it is. [2.2.1] */
export function* hasSignature(store: ByteStore): Io<boolean> {
  const signature = new Uint8Array(Math.min(FILE_SIGNATURE.length, yield* settle(store.size())))
  yield* settle(store.read(0, signature))
  return Buffer.from(signature).toString('latin1') === FILE_SIGNATURE
}
