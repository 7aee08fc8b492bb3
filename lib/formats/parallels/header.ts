import { roundUp, TWO_32 } from '../../bytes/align.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { corrupt, type Spot, tooLarge, unsupported } from './damage.ts'
import { BAT_AT, BAT_ENTRY, EMPTY, headerLayout, IN_USE, type Kind, LIMIT, MAGIC, SECTOR, VERSION } from './layout.ts'

export type HeaderFields = ReturnType<typeof headerLayout.decode>

/** Which of the two magics a file begins with; undefined: neither. */
export function kindOf(head: Uint8Array): Kind | undefined {
  const magic = Buffer.from(head.subarray(0, MAGIC.classic.length)).toString('latin1')
  return magic === MAGIC.classic ? 'classic' : magic === MAGIC.extended ? 'extended' : undefined
}

/** What a header says, in bytes; it changes when the disk is resized, and with each session of writing. ["Header"] */
export class Header {
  readonly file: string
  readonly kind: Kind
  /** bytes of a cluster */
  readonly clusterSize: number
  /** bytes in the file that one unit of a BAT entry stands for */
  readonly unit: number
  private values: HeaderFields
  /** as it stands in the file: fields that mean nothing may hold anything */
  private bytes: Uint8Array

  private constructor(file: string, kind: Kind, bytes: Uint8Array, values: HeaderFields) {
    this.file = file
    this.kind = kind
    this.bytes = bytes
    this.values = values
    this.clusterSize = values.clusterSectors * SECTOR
    this.unit = kind === 'classic' ? SECTOR : this.clusterSize
  }

  /** @throws VdiskError NOT_THIS_FORMAT, UNSUPPORTED, LIMIT_EXCEEDED, CORRUPT */
  static *read(file: string, store: ByteStore): Io<Header> {
    const length = yield* settle(store.size())
    const bytes = new Uint8Array(headerLayout.size)
    if (length < bytes.length) {
      throw corrupt(file, `it has ${length} bytes, its header alone has ${bytes.length}`, spotOf('header', 0))
    }
    yield* settle(store.read(0, bytes))
    return Header.from(file, bytes, length)
  }

  /** @param length bytes of the file */
  static from(file: string, bytes: Uint8Array, length: number): Header {
    const kind = kindOf(bytes)
    if (!kind) throw corrupt(file, 'it does not begin with the magic of the format', spotOf('header', 0))
    const values = headerLayout.decode(bytes)
    if (values.version !== VERSION) {
      throw unsupported(file, `it is of version ${values.version} of the format; 2 is known`, spotOf('header', 16))
    }
    refuseImpossible(file, values)
    // The upper half is for the newer magic alone.
    if (kind === 'classic') values.sectors %= TWO_32
    const header = new Header(file, kind, bytes.slice(0, headerLayout.size), values)
    header.refuseDisagreement(length)
    return header
  }

  /** bytes that the guest sees */
  get size(): number {
    return this.values.sectors * SECTOR
  }

  get entryCount(): number {
    return this.values.entryCount
  }

  /** bytes in the file: where the BAT ends */
  get batEnd(): number {
    return BAT_AT + this.values.entryCount * BAT_ENTRY
  }

  /** bytes in the file: where clusters begin */
  get dataAt(): number {
    // The specification demands a place that entries can name; where there is none, the next that could be is meant.
    return roundUp(this.values.dataAt * SECTOR || this.batEnd, this.unit)
  }

  /** Whether clusters begin farther than a header can say: one that is written anew would say something else. */
  get isTooFar(): boolean {
    return this.dataAt / SECTOR > LIMIT.dataAt
  }

  /** The image is to be taken for clear, whatever its BAT says. */
  get isEmpty(): boolean {
    return (this.values.flags & EMPTY) !== 0
  }

  /** The last writer has not closed it. */
  get isOpened(): boolean {
    return this.values.inUse === IN_USE.opened
  }

  /** bytes in the file; 0: none */
  get extensionAt(): number {
    return this.values.extensionAt * SECTOR
  }

  get fields(): Readonly<HeaderFields> {
    return this.values
  }

  /** The bytes of the header with other values; they count once `accept` says that they are written. */
  withValues(changed: Partial<HeaderFields>): Uint8Array {
    const bytes = this.bytes.slice()
    headerLayout.patch(bytes, changed)
    return bytes
  }

  accept(changed: Partial<HeaderFields>): void {
    this.bytes = this.withValues(changed)
    this.values = { ...this.values, ...changed }
  }

  private refuseDisagreement(length: number): void {
    const { entryCount, clusterSize, size, batEnd, file } = this
    const dataAt = this.values.dataAt * SECTOR
    if (size > entryCount * clusterSize) {
      const why = `its ${entryCount} clusters of ${clusterSize} bytes do not hold its disk of ${size} bytes`
      throw corrupt(file, why, spotOf('header', 32))
    }
    if (batEnd > length) {
      throw corrupt(
        file,
        `its BAT ends at ${batEnd}, past the end of the file`,
        spotOf('BAT', BAT_AT),
        'Copy it again.',
      )
    }
    if (dataAt !== 0 && dataAt < batEnd)
      throw corrupt(file, `its data begins at ${dataAt}, before its BAT ends`, spotOf('header', 48))
  }
}

function refuseImpossible(file: string, { clusterSectors, entryCount, sectors }: HeaderFields): void {
  if (clusterSectors === 0) throw corrupt(file, 'it says that a cluster has no sectors', spotOf('header', 28))
  if (clusterSectors > LIMIT.clusterSectors) {
    throw tooLarge(file, `it says that a cluster has ${clusterSectors} sectors`, spotOf('header', 28))
  }
  if (entryCount > LIMIT.entries) {
    throw tooLarge(file, `its BAT has ${entryCount} entries, more than ${LIMIT.entries}`, spotOf('header', 32))
  }
  if (sectors * SECTOR > Number.MAX_SAFE_INTEGER) {
    throw tooLarge(file, `its disk has ${sectors} sectors`, spotOf('header', 36))
  }
}

function spotOf(structure: string, at: number): Spot {
  return { structure, at, section: structure === 'BAT' ? 'BAT' : 'Header' }
}
