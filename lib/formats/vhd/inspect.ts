import { isPowerOfTwo } from '../../bytes/align.ts'
import { ZERO_GUID } from '../../bytes/guid.ts'
import { inspectMap } from '../../contracts/block-map.ts'
import { type Inspection, type Inspector, quoted } from '../../contracts/inspection.ts'
import type { BoundedStore } from '../../io/bounded-store.ts'
import { type Io, just } from '../../io/io.ts'
import { bitmapSizeOf } from './block-table.ts'
import { FOOTER_SECTION as FOOTER, HEADER_SECTION as HEADER } from './damage.ts'
import { bytesOf } from './disk-geometry.ts'
import { copyIn, type FooterCopy, type FooterFields } from './footer.ts'
import { DynamicHeader, type HeaderFields } from './header.ts'
import { ABSENT, dynamicHeader, ENTRY, HEADER_COOKIE, LIMIT, SECTOR, SHORT_FOOTER, TYPE, VERSION } from './layout.ts'
import { wideText } from './locators.ts'

/** Judges a file by its footers, header and the beginning of its BAT. */
export const vhdInspector: Inspector = {
  name: 'vhd',
  recognizes: (file) => just(copiesIn(file).length > 0),
  *inspect(file, inspection) {
    const copies = copiesIn(file)
    const sound = copies.find((copy) => copy.footer.isSound)
    const current = sound ?? (copies[0] as FooterCopy)
    if (!sound) inspection.add('BAD_CHECKSUM', placeOf(current), 'The checksum of its footer is wrong.')
    const { fields } = current.footer
    inspection.size = fields.currentSize
    inspectFooter(current, inspection)
    inspectCopies(file, copies, inspection)
    if (fields.type === TYPE.fixed) inspectFixed(file, current, inspection)
    else yield* inspectDynamic(file, fields, inspection)
  },
}

/** The footer at the end, then its copy at the beginning: as many as there are. */
function copiesIn({ length, head, tail }: BoundedStore): FooterCopy[] {
  const last =
    copyIn(tail, length - tail.length) ?? copyIn(tail.subarray(tail.length - SHORT_FOOTER), length - SHORT_FOOTER)
  const first = copyIn(head.subarray(0, SECTOR), 0)
  return [last, last?.at === 0 ? undefined : first].filter((copy) => copy !== undefined)
}

function placeOf({ at }: { readonly at: number }): { structure: string; at: number; section: string } {
  return { structure: 'footer', at, section: FOOTER }
}

function inspectFooter(copy: FooterCopy, inspection: Inspection): void {
  const { version, type, originalSize, currentSize, cylinders, heads, sectors, savedState } = copy.footer.fields
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
  const byGeometry = bytesOf({ cylinders, heads, sectors })
  // Geometry ends at 127 GiB; behind that everybody goes by the size.
  if (byGeometry !== currentSize && cylinders !== 0xffff) {
    inspection.add('SIZES_DISAGREE', place, `By its geometry it has ${byGeometry} bytes, by its size ${currentSize}.`)
  }
}

/** The disk, then the footer: nothing else. ["Overview"] */
function inspectFixed(file: BoundedStore, copy: FooterCopy, inspection: Inspection): void {
  const { currentSize } = copy.footer.fields
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
    if (first.footer.isFixed) return
    const missing = first.at === 0 ? file.length - SECTOR : 0
    inspection.add('COPY_DAMAGED', placeOf({ at: missing }), 'One of the two copies of its footer is missing.')
    return
  }
  const damaged = copies.filter(({ footer }) => !footer.isSound)
  const isFixed = copies.some(({ footer }) => footer.isFixed)
  if (isFixed || meaningOf(first) !== meaningOf(second)) {
    inspection.add('COPIES_DIFFER', placeOf(second), 'It has two footers, which make two disks of it.')
  } else if (damaged.length === 1) {
    const place = placeOf(damaged[0] as FooterCopy)
    inspection.add('COPY_DAMAGED', place, 'The checksum of one of the two copies of its footer is wrong.')
  } else if (!first.footer.equals(second.footer)) {
    inspection.add('COPIES_DIFFER', placeOf(second), 'The footer at the end and its copy at the beginning differ.')
  }
}

/** What of a footer decides which disk it is of. */
function meaningOf({
  footer: {
    fields: { version, dataOffset, currentSize, type },
  },
}: FooterCopy): string {
  return [version, dataOffset, currentSize, type].join()
}

function* inspectDynamic(
  file: BoundedStore,
  { dataOffset, type, currentSize }: FooterFields,
  inspection: Inspection,
): Io<void> {
  const place = { structure: 'dynamic disk header', at: dataOffset, section: HEADER }
  const bytes = yield* file.peek(dataOffset, dynamicHeader.size)
  if (!bytes) return inspection.truncated(place)
  const whole = new DynamicHeader(bytes)
  const header = whole.fields
  if (header.cookie !== HEADER_COOKIE) return inspection.add('DAMAGED', place, 'There is no header where it should be.')
  if (!whole.isSound) {
    inspection.add('BAD_CHECKSUM', place, 'The checksum of its header is wrong.')
  }
  if (header.version !== VERSION) {
    inspection.add('UNKNOWN_VERSION', place, `Its header is of version 0x${header.version.toString(16)}.`)
  }
  yield* inspectTable(file, header, currentSize, inspection)
  inspectParent(whole, type, inspection)
}

function* inspectTable(file: BoundedStore, header: HeaderFields, size: number, inspection: Inspection): Io<void> {
  const { tableOffset: at, entryCount, blockSize } = header
  const place = { structure: 'block allocation table', at, section: HEADER }
  if (!isPowerOfTwo(blockSize) || blockSize < SECTOR) {
    inspection.add('DAMAGED', place, `Blocks of ${blockSize} bytes cannot be.`)
    return
  }
  const length = entryCount * ENTRY
  if (length > LIMIT.tableBytes) {
    inspection.add('TABLE_TOO_LARGE', place, `It claims ${entryCount} entries, more than any disk needs.`)
    return
  }
  if (!Number.isSafeInteger(at) || at + length > file.length) inspection.truncated(place)
  if (entryCount * blockSize < size) {
    inspection.add('DAMAGED', place, `Its ${entryCount} blocks of ${blockSize} bytes do not hold the disk of ${size}.`)
  }
  const locate = (entry: number): number | undefined => (entry === ABSENT ? undefined : entry * SECTOR)
  const map = { place, at, count: entryCount, order: 'big' as const, locate, length: bitmapSizeOf(blockSize) }
  yield* inspectMap(file, map, inspection)
}

/** Whatever its type says: programs differ in what they go by. */
function inspectParent({ fields, locators }: DynamicHeader, type: number, inspection: Inspection): void {
  const place = { structure: 'parent locator', section: HEADER }
  const name = wideText(fields.parentName, 'big')
  const named = name === '' ? '' : `, called ${quoted(name)}`
  if (type === TYPE.differencing) {
    inspection.add('PARENT_REFERENCE', place, `It holds only what differs from a parent${named}.`)
  } else if (locators.length > 0 || fields.parentId !== ZERO_GUID) {
    inspection.add('PARENT_REFERENCE', place, `It names a parent${named}, though its type says that it has none.`)
  }
}
