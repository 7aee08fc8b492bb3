import { ceilDiv, isPowerOfTwo } from '../../bytes/align.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { believe, corrupt, HEADER_SECTION, type Reader, tooLarge, unsupported } from './damage.ts'
import type { FooterFields } from './footer.ts'
import {
  checksumOf,
  dynamicHeader,
  ENTRY,
  HEADER_COOKIE,
  LIMIT,
  LOCATOR_COUNT,
  LOCATORS_AT,
  parentLocator,
  SECTOR,
  tableLength,
  VERSION,
} from './layout.ts'

export type HeaderFields = ReturnType<typeof dynamicHeader.decode>
export type LocatorFields = ReturnType<typeof parentLocator.decode>

/** A dynamic disk header as it stands somewhere; bytes that no field covers are kept. */
export class DynamicHeader {
  /** 1024 of them */
  readonly bytes: Uint8Array
  readonly fields: HeaderFields

  constructor(bytes: Uint8Array) {
    this.bytes = bytes
    this.fields = dynamicHeader.decode(bytes)
  }

  get isSound(): boolean {
    return checksumOf(this.bytes, dynamicHeader.offsetOf('checksum')) === this.fields.checksum
  }

  /** The parent locators in use, in the order of the file. */
  get locators(): LocatorFields[] {
    const all: LocatorFields[] = []
    for (let i = 0; i < LOCATOR_COUNT; i++) {
      const locator = parentLocator.decode(this.bytes.subarray(LOCATORS_AT + i * parentLocator.size))
      if (locator.platform !== '') all.push(locator)
    }
    return all
  }

  /** The same with some fields changed, with other locators where they are given, and the checksum that belongs to it. */
  with(changes: Partial<HeaderFields>, locators?: readonly LocatorFields[]): DynamicHeader {
    const bytes = this.bytes.slice()
    dynamicHeader.patch(bytes, changes)
    if (locators) {
      bytes.fill(0, LOCATORS_AT, LOCATORS_AT + LOCATOR_COUNT * parentLocator.size)
      for (const [i, locator] of locators.entries()) {
        parentLocator.encode(locator, bytes.subarray(LOCATORS_AT + i * parentLocator.size))
      }
    }
    dynamicHeader.patch(bytes, { checksum: checksumOf(bytes, dynamicHeader.offsetOf('checksum')) })
    return new DynamicHeader(bytes)
  }
}

/**
 * The header that a footer points at. ["Dynamic Disk Header Format"]
 *
 * @param limit bytes in the file: before this everything but the footer ends
 * @throws VdiskError CORRUPT, UNSUPPORTED, LIMIT_EXCEEDED for a table that no disk needs
 */
export function* readHeader(
  reader: Reader,
  store: ByteStore,
  { dataOffset: at, currentSize }: FooterFields,
  limit: number,
): Io<DynamicHeader> {
  const { name } = reader
  const spot = { structure: 'dynamic disk header', at, section: HEADER_SECTION }
  if (at < SECTOR || at % SECTOR !== 0 || at + dynamicHeader.size > limit) {
    throw corrupt(name, `its footer says that the header lies at ${at}, where it cannot be`, spot)
  }
  const bytes = new Uint8Array(dynamicHeader.size)
  yield* settle(store.read(at, bytes))
  const header = new DynamicHeader(bytes)
  const { cookie, version, blockSize, entryCount, tableOffset } = header.fields
  if (cookie !== HEADER_COOKIE) throw corrupt(name, 'there is no header where its footer says', spot)
  if (!header.isSound) believe(reader, 'header', spot)
  if (version !== VERSION) throw unsupported(name, `its header is of version 0x${version.toString(16)}`, spot)
  if (!isPowerOfTwo(blockSize) || blockSize < LIMIT.minBlock) {
    throw corrupt(name, `its blocks would have ${blockSize} bytes, which cannot be`, spot)
  }
  if (blockSize > LIMIT.maxBlock) throw tooLarge(name, `its blocks have ${blockSize} bytes`, spot)
  if (entryCount * ENTRY > LIMIT.tableBytes) throw tooLarge(name, `its BAT has ${entryCount} entries`, spot)
  if (entryCount * blockSize < currentSize) {
    throw corrupt(name, `its BAT has ${entryCount} entries, too few for a disk of ${currentSize} bytes`, spot)
  }
  // Whether there is room for more entries than that is found out where all structures are known.
  const end = tableOffset + tableLength(ceilDiv(currentSize, blockSize))
  const isOverHeader = tableOffset < at + dynamicHeader.size && end > at
  if (tableOffset < SECTOR || tableOffset % SECTOR !== 0 || end > limit || isOverHeader) {
    throw corrupt(name, `its BAT would lie at ${tableOffset}, where it cannot be`, spot)
  }
  return header
}
