import { isPowerOfTwo, roundUp } from '../bytes/align.ts'
import { ZERO_GUID } from '../bytes/guid.ts'
import { inspectMap } from '../contracts/block-map.ts'
import { type Inspection, type Inspector, quoted } from '../contracts/inspection.ts'
import type { BoundedStore } from '../io/bounded-store.ts'
import { type Io, just } from '../io/io.ts'
import {
  ABSENT,
  COOKIE,
  checksumOf,
  dynamicHeader,
  footer,
  LOCATOR_COUNT,
  LOCATORS_AT,
  MOST_TABLE_BYTES,
  parentLocator,
  SECTOR,
  SHORT_FOOTER,
  TYPE,
  VERSION,
} from './vhd-layout.ts'

type Footer = ReturnType<typeof footer.decode>
type Header = ReturnType<typeof dynamicHeader.decode>

interface FooterCopy {
  /** bytes in the file */
  readonly at: number
  readonly bytes: Uint8Array
  readonly fields: Footer
  readonly sound: boolean
}

const FOOTER = 'Hard Disk Footer Format'
const HEADER = 'Dynamic Disk Header Format'

export const vhd: Inspector = {
  name: 'vhd',
  recognizes: (file) => just(copiesIn(file).length > 0),
  *inspect(file, inspection) {
    const copies = copiesIn(file)
    const sound = copies.find((copy) => copy.sound)
    const current = sound ?? (copies[0] as FooterCopy)
    if (!sound) inspection.add('BAD_CHECKSUM', placeOf(current), 'The checksum of its footer is wrong.')
    const { fields } = current
    inspection.size = fields.currentSize
    inspectFooter(current, inspection)
    inspectCopies(file, copies, inspection)
    if (fields.type === TYPE.fixed) inspectFixed(file, current, inspection)
    else yield* inspectDynamic(file, fields, inspection)
  },
}

/** The footer at the end, then its copy at the beginning: as many as there are. */
function copiesIn(file: BoundedStore): FooterCopy[] {
  const places = [
    { at: file.length - file.tail.length, bytes: file.tail },
    { at: file.length - SHORT_FOOTER, bytes: file.tail.subarray(SECTOR - SHORT_FOOTER) },
    { at: 0, bytes: file.head.subarray(0, SECTOR) },
  ]
  const copies: FooterCopy[] = []
  for (const { at, bytes } of places) {
    if (at < 0 || Buffer.from(bytes.subarray(0, 8)).toString('latin1') !== COOKIE) continue
    if (copies.some((copy) => copy.at === at)) continue
    const whole = new Uint8Array(SECTOR)
    whole.set(bytes)
    const fields = footer.decode(whole)
    const sound = checksumOf(whole, footer.offsetOf('checksum')) === fields.checksum
    copies.push({ at, bytes: whole, fields, sound })
  }
  return copies
}

function placeOf({ at }: { readonly at: number }): { structure: string; at: number; section: string } {
  return { structure: 'footer', at, section: FOOTER }
}

function inspectFooter(copy: FooterCopy, inspection: Inspection): void {
  const { version, type, originalSize, currentSize, cylinders, heads, sectors, savedState } = copy.fields
  const place = placeOf(copy)
  if (version !== VERSION) {
    inspection.add('UNKNOWN_VERSION', place, `It is of version ${version >>> 16}.${version & 0xffff} of the format.`)
  }
  if (!Object.values<number>(TYPE).includes(type)) {
    inspection.add('UNKNOWN_FEATURE', place, `It is a disk of type ${type}; 2, 3 and 4 are known.`)
  }
  if (currentSize === 0 || !Number.isSafeInteger(currentSize) || currentSize % SECTOR !== 0) {
    inspection.add('DAMAGED', place, `A disk of ${currentSize} bytes cannot be.`)
  }
  if (savedState !== 0) inspection.add('SAVED_STATE', place, 'It is the disk of a machine that was suspended.')
  if (originalSize !== currentSize) {
    inspection.add('SIZES_DISAGREE', place, `It was made with ${originalSize} bytes and has ${currentSize} now.`)
  }
  const byGeometry = cylinders * heads * sectors * SECTOR
  // Geometry ends at 127 GiB; behind that everybody goes by the size.
  if (byGeometry !== currentSize && cylinders !== 0xffff) {
    inspection.add('SIZES_DISAGREE', place, `By its geometry it has ${byGeometry} bytes, by its size ${currentSize}.`)
  }
}

/** The disk, then the footer: nothing else. ["Overview"] */
function inspectFixed(file: BoundedStore, copy: FooterCopy, inspection: Inspection): void {
  const { currentSize } = copy.fields
  if (copy.at === 0 && file.length > SECTOR) {
    inspection.add('DAMAGED', placeOf(copy), 'The footer of a fixed disk lies before the disk.')
    return
  }
  inspection.plain = 'whole'
  if (copy.at < currentSize) {
    inspection.add('TRUNCATED', placeOf(copy), `The disk has ${currentSize} bytes, of which ${copy.at} are there.`)
  }
  if (copy.at > currentSize) {
    const between = copy.at - currentSize
    inspection.add('TRAILING_DATA', { structure: 'disk', at: currentSize }, `${between} bytes follow behind the disk.`)
  }
}

/**
 * Readers differ in which copy they look at, and whether they look at its checksum. A fixed disk has but one, behind it.
 * ["Overview"]
 */
function inspectCopies(file: BoundedStore, copies: readonly FooterCopy[], inspection: Inspection): void {
  const [first, second] = copies as [FooterCopy, FooterCopy | undefined]
  if (!second) {
    if (first.fields.type === TYPE.fixed) return
    const missing = first.at === 0 ? file.length - SECTOR : 0
    inspection.add('COPY_DAMAGED', placeOf({ at: missing }), 'One of the two copies of its footer is missing.')
    return
  }
  const damaged = copies.filter(({ sound }) => !sound)
  const isFixed = copies.some(({ fields }) => fields.type === TYPE.fixed)
  if (isFixed || meaningOf(first) !== meaningOf(second)) {
    inspection.add('COPIES_DIFFER', placeOf(second), 'It has two footers, which make two disks of it.')
  } else if (damaged.length === 1) {
    const place = placeOf(damaged[0] as FooterCopy)
    inspection.add('COPY_DAMAGED', place, 'The checksum of one of the two copies of its footer is wrong.')
  } else if (Buffer.compare(first.bytes, second.bytes) !== 0) {
    inspection.add('COPIES_DIFFER', placeOf(second), 'The footer at the end and its copy at the beginning differ.')
  }
}

/** What of a footer decides which disk it is of. */
function meaningOf({ fields: { version, dataOffset, currentSize, type } }: FooterCopy): string {
  return [version, dataOffset, currentSize, type].join()
}

function* inspectDynamic(
  file: BoundedStore,
  { dataOffset, type, currentSize }: Footer,
  inspection: Inspection,
): Io<void> {
  const place = { structure: 'dynamic disk header', at: dataOffset, section: HEADER }
  const bytes = yield* file.peek(dataOffset, dynamicHeader.size)
  if (!bytes) return inspection.truncated(place)
  const header = dynamicHeader.decode(bytes)
  if (header.cookie !== 'cxsparse') return inspection.add('DAMAGED', place, 'There is no header where it should be.')
  if (checksumOf(bytes, dynamicHeader.offsetOf('checksum')) !== header.checksum) {
    inspection.add('BAD_CHECKSUM', place, 'The checksum of its header is wrong.')
  }
  if (header.version !== VERSION) {
    inspection.add('UNKNOWN_VERSION', place, `Its header is of version 0x${header.version.toString(16)}.`)
  }
  yield* inspectTable(file, header, currentSize, inspection)
  inspectParent(bytes, header, type, inspection)
}

function* inspectTable(file: BoundedStore, header: Header, size: number, inspection: Inspection): Io<void> {
  const { tableOffset: at, entryCount, blockSize } = header
  const place = { structure: 'block allocation table', at, section: HEADER }
  if (!isPowerOfTwo(blockSize) || blockSize < SECTOR) {
    inspection.add('DAMAGED', place, `Blocks of ${blockSize} bytes cannot be.`)
    return
  }
  const length = entryCount * 4
  if (length > MOST_TABLE_BYTES) {
    inspection.add('TABLE_TOO_LARGE', place, `It claims ${entryCount} entries, more than any disk needs.`)
    return
  }
  if (!Number.isSafeInteger(at) || at + length > file.length) inspection.truncated(place)
  if (entryCount * blockSize < size) {
    inspection.add('DAMAGED', place, `Its ${entryCount} blocks of ${blockSize} bytes do not hold the disk of ${size}.`)
  }
  const bitmap = roundUp(blockSize / SECTOR / 8, SECTOR)
  const locate = (entry: number): number | undefined => (entry === ABSENT ? undefined : entry * SECTOR)
  const map = { place, at, count: entryCount, order: 'big' as const, locate, length: bitmap }
  yield* inspectMap(file, map, inspection)
}

/** Whatever its type says: programs differ in what they go by. */
function inspectParent(bytes: Uint8Array, header: Header, type: number, inspection: Inspection): void {
  const place = { structure: 'parent locator', section: HEADER }
  const name = Buffer.from(header.parentName).swap16().toString('utf16le').replace(/\0.*$/s, '')
  const named = name === '' ? '' : `, called ${quoted(name)}`
  if (type === TYPE.differencing) {
    inspection.add('PARENT_REFERENCE', place, `It holds only what differs from a parent${named}.`)
    return
  }
  for (let i = 0; i < LOCATOR_COUNT; i++) {
    const { platform } = parentLocator.decode(bytes.subarray(LOCATORS_AT + i * parentLocator.size))
    if (platform === 0 && header.parentId === ZERO_GUID) continue
    inspection.add('PARENT_REFERENCE', place, `It names a parent${named}, though its type says that it has none.`)
    return
  }
}
