import { ceilDiv, isPowerOfTwo, roundUp } from '../../bytes/align.ts'
import { ZERO_GUID } from '../../bytes/guid.ts'
import { isVdiskError } from '../../errors.ts'
import { type Io, settle, Turns } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { corrupt, SEE_DAMAGE, tooLarge, unsupported } from './damage.ts'
import {
  ENTRY,
  FIRST_HEADER_LENGTH,
  firstHeader,
  HEADER_AT,
  HEADER_LENGTH,
  header,
  LIMIT,
  SECTOR,
  SIGNATURE,
  TYPE,
  VERSION,
} from './layout.ts'

export type HeaderFields = ReturnType<typeof header.decode>

/**
 * The first sector of an image. Every change of it is one write of one sector, so it is there as a whole or not at all;
 * what of the sector is not ours stays as it was.
 */
export class Header {
  private sector: Uint8Array
  private decoded: HeaderFields
  private readonly turns = new Turns()

  constructor(sector: Uint8Array, decoded: HeaderFields) {
    this.sector = sector
    this.decoded = decoded
  }

  get fields(): Readonly<HeaderFields> {
    return this.decoded
  }

  /** The sector as it is on the medium. */
  get bytes(): Uint8Array {
    return this.sector
  }

  /** The file holds what differs from a parent. An image of any type that names one is taken for a child: else it would
   * read as zero where its parent has data. */
  get isChild(): boolean {
    const { type, linkage } = this.decoded
    return type === TYPE.differencing || type === TYPE.undo || linkage !== ZERO_GUID
  }

  /** Every block keeps its room. */
  get isFixed(): boolean {
    return this.decoded.type === TYPE.fixed && !this.isChild
  }

  /** Bytes from one block in the file to the next. */
  get stride(): number {
    return this.decoded.blockSize + this.decoded.blockExtra
  }

  /** Bytes of the file that the block map ends at. */
  get mapEnd(): number {
    return this.decoded.mapAt + this.decoded.blockCount * ENTRY
  }

  /** Whether the map has its sectors to itself: they are written whole. */
  get mapIsApart(): boolean {
    return this.decoded.mapAt >= SECTOR && roundUp(this.mapEnd, SECTOR) <= this.decoded.dataAt
  }

  /** Bytes in the file of the payload of the block with this number in the file. */
  placeOf(entry: number): number {
    return this.decoded.dataAt + entry * this.stride + this.decoded.blockExtra
  }

  /**
   * Writes some fields. It is not durable yet; a write that failed changes nothing in memory.
   *
   * @param edit changes bytes of the sector that no field covers
   */
  *write(store: ByteStore, values: Partial<HeaderFields>, edit: (sector: Uint8Array) => void = () => {}): Io<void> {
    yield* this.turns.take(() => this.writeNow(store, values, edit))
  }

  private *writeNow(store: ByteStore, values: Partial<HeaderFields>, edit: (sector: Uint8Array) => void): Io<void> {
    const sector = this.sector.slice()
    header.patch(sector, values)
    edit(sector)
    yield* settle(store.write(0, sector))
    this.sector = sector
    this.decoded = { ...this.decoded, ...values }
  }
}

/** Reads the header. @throws VdiskError NOT_THIS_FORMAT, CORRUPT, UNSUPPORTED, LIMIT_EXCEEDED */
export function* readHeader(file: string, store: ByteStore): Io<Header> {
  const sector = new Uint8Array(SECTOR)
  const place = { structure: 'header', at: 0, section: 'VDIHEADER1PLUS' }
  try {
    yield* settle(store.read(0, sector))
  } catch (error) {
    if (!isVdiskError(error, 'OUT_OF_RANGE')) throw error
    throw corrupt(file, 'the file ends before its header does', place, 'If you have it, copy the file again.')
  }
  const { signature, version } = header.decode(sector)
  if (signature !== SIGNATURE) {
    throw corrupt(
      file,
      `its signature is 0x${signature.toString(16)}, not that of VDI`,
      place,
      'Say what it is: --source-format',
    )
  }
  const fields = version === VERSION.first ? fromFirst(sector) : header.decode(sector)
  if (version >>> 16 !== VERSION.current >>> 16 && version !== VERSION.first) {
    const name = `${version >>> 16}.${version & 0xffff}`
    throw unsupported(
      file,
      `it is of version ${name} of the format; 1.1 is known`,
      place,
      'Convert it with the program that made it.',
    )
  }
  validate(file, fields)
  // Entries behind the end of the disk are nobody's.
  return new Header(sector, { ...fields, blockCount: ceilDiv(fields.size, fields.blockSize) })
}

/** The first version says less; what it does not say follows from it. [VDIHEADER0] */
function fromFirst(sector: Uint8Array): HeaderFields {
  const first = firstHeader.decode(sector)
  return {
    ...header.decode(new Uint8Array(SECTOR)),
    ...first,
    headerLength: FIRST_HEADER_LENGTH - HEADER_AT,
    sectorSize: SECTOR,
    mapAt: FIRST_HEADER_LENGTH,
    dataAt: FIRST_HEADER_LENGTH + first.blockCount * ENTRY,
  }
}

/** Refuses what cannot be read at all; what only a writer must not touch is the survey's to find. */
function validate(file: string, fields: HeaderFields): void {
  const { version, headerLength, type, sectorSize, size, blockSize, blockExtra, blockCount, mapAt } = fields
  const refuse = (why: string): never => {
    throw corrupt(file, why, { structure: 'header', at: 0, section: 'VDIHEADER1PLUS' }, SEE_DAMAGE)
  }
  if (version !== VERSION.first && headerLength < HEADER_LENGTH.least) refuse(`its header claims ${headerLength} bytes`)
  if (!Object.values<number>(TYPE).includes(type)) {
    throw unsupported(file, `it is an image of type ${type}; 1 to 4 are known`, { structure: 'header', at: 76 })
  }
  if (sectorSize !== SECTOR && sectorSize !== 0) refuse(`its sectors would have ${sectorSize} bytes`)
  if (!isPowerOfTwo(blockSize) || blockSize < LIMIT.block.least || blockSize > LIMIT.block.most) {
    refuse(`its blocks would have ${blockSize} bytes`)
  }
  if (blockExtra !== 0 && (!isPowerOfTwo(blockExtra) || blockExtra > blockSize)) {
    refuse(`${blockExtra} bytes would precede each of its blocks`)
  }
  if (blockCount * ENTRY > LIMIT.mapBytes) {
    throw tooLarge(file, `its block map would have ${blockCount} entries`, { structure: 'header', at: 384 })
  }
  if (size > blockCount * blockSize) {
    refuse(`its ${blockCount} blocks of ${blockSize} bytes do not make a disk of ${size} bytes`)
  }
  if (size % SECTOR !== 0) refuse(`its disk would have ${size} bytes, which are no whole sectors`)
  if (mapAt < HEADER_AT + HEADER_LENGTH.least && version !== VERSION.first)
    refuse(`its block map lies at ${mapAt}, over the header`)
  if (mapAt % ENTRY !== 0) refuse(`its block map lies at ${mapAt}, between two places of entries`)
}
