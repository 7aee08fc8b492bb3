import { crc32c } from '../../bytes/crc32c.ts'
import { ZERO_GUID } from '../../bytes/guid.ts'
import { VdiskError } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { corrupt, spotIn, unsupported } from './damage.ts'
import { FILE_SIGNATURE, HEADER_PLACES, HEADER_SECTION, header as layout, MIB } from './layout.ts'

type Fields = ReturnType<typeof layout.decode>

/** What an update of the headers may change. */
export type HeaderChange = Partial<Pick<Fields, 'fileWriteGuid' | 'dataWriteGuid' | 'logGuid' | 'logVersion'>>

const SIGNATURE = 'head'
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

  /** @throws VdiskError NOT_THIS_FORMAT, CORRUPT if no header is current, UNSUPPORTED for another version */
  static *read(file: string, store: ByteStore): Io<Headers> {
    yield* checkSignature(file, store)
    const copies: { fields: Fields; bytes: Uint8Array; slot: number }[] = []
    const size = yield* settle(store.size())
    for (const [slot, at] of HEADER_PLACES.entries()) {
      if (at + layout.size > size) continue
      const bytes = new Uint8Array(layout.size)
      yield* settle(store.read(at, bytes))
      const fields = layout.decode(bytes)
      if (fields.signature === SIGNATURE && fields.checksum === checksumOf(bytes)) copies.push({ fields, bytes, slot })
    }
    const valid = [0, 1].map((slot) => copies.some((copy) => copy.slot === slot)) as [boolean, boolean]
    const [first, second] = copies
    if (!first) {
      throw corrupt(file, 'neither of its two headers is valid', { structure: 'header', at: 65536, section: '2.2.2' })
    }
    const current = second && second.fields.sequenceNumber > first.fields.sequenceNumber ? second : first
    // Disk2vhd writes the same header twice. Two different ones of the same number leave no current one.
    const same = second?.fields.sequenceNumber === first.fields.sequenceNumber
    if (same && Buffer.compare(first.bytes, second.bytes) !== 0) {
      throw corrupt(file, 'its two headers differ but have the same sequence number, so that neither is current', {
        structure: 'header',
        at: HEADER_PLACES[0],
        section: '2.2.2',
      })
    }
    const headers = new Headers(file, current.fields, current.slot, valid)
    headers.check(size)
    return headers
  }

  /** Both headers of a new file. */
  static make(file: string, fields: Omit<Fields, 'signature' | 'checksum' | 'sequenceNumber'>): Headers {
    return new Headers(file, { ...fields, signature: SIGNATURE, checksum: 0, sequenceNumber: 0n }, 1, [true, true])
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

  private check(size: number): void {
    const { version, logVersion, logLength, logOffset } = this.fields
    const where = { structure: 'header', at: this.at, section: '2.2.2' }
    if (version !== 1) throw unsupported(this.file, `it has version ${version} of the format, vdisk knows 1`, where)
    if (logVersion !== 0 && this.hasLog) {
      throw unsupported(this.file, `its log has version ${logVersion}, vdisk can replay 0`, where)
    }
    const placed = logOffset % MIB === 0 && logLength % MIB === 0 && logOffset >= HEADER_SECTION
    if (!placed || !Number.isSafeInteger(logOffset + logLength)) {
      throw corrupt(this.file, `its log of ${logLength} bytes at ${logOffset} is not aligned to 1 MiB`, where)
    }
    if (this.hasLog && (logLength === 0 || logOffset + logLength > size)) {
      throw corrupt(
        this.file,
        `it was not closed, and its log of ${logLength} bytes at ${logOffset} is not in the file`,
        where,
      )
    }
  }
}

function* checkSignature(file: string, store: ByteStore): Io<void> {
  const size = yield* settle(store.size())
  const signature = new Uint8Array(Math.min(FILE_SIGNATURE.length, size))
  yield* settle(store.read(0, signature))
  if (Buffer.from(signature).toString('latin1') === FILE_SIGNATURE) return
  throw new VdiskError('NOT_THIS_FORMAT', {
    message: `Cannot read ${file} as vhdx: it does not begin with "${FILE_SIGNATURE}"`,
    where: spotIn(file, { structure: 'file type identifier', at: 0, section: '2.2.1' }),
  })
}

/** With the checksum field taken as 0. */
function checksumOf(bytes: Uint8Array): number {
  const copy = Uint8Array.from(bytes)
  layout.patch(copy, { checksum: 0 })
  return crc32c(copy)
}
