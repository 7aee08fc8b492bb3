import { ceilDiv, isPowerOfTwo } from '../../bytes/align.ts'
import { inspectMap } from '../../contracts/block-map.ts'
import type { Inspection, Inspector } from '../../contracts/inspection.ts'
import type { BoundedStore } from '../../io/bounded-store.ts'
import type { Io } from '../../io/io.ts'
import { type JudgedDescriptor, judgeDescriptor, judgeExtents } from './inspect-descriptor.ts'
import {
  DESCRIPTOR_SECTOR,
  DIRECTORY_AT_END,
  ESX_MAGIC,
  FLAG,
  GRAIN,
  KNOWN_FLAGS,
  LINE_ENDS,
  MARKER,
  MOST_DESCRIPTOR_BYTES,
  MOST_DIRECTORY_BYTES,
  marker,
  SE_SPARSE_MAGIC,
  SECTOR,
  SPARSE_MAGIC,
  sparseHeader,
  TABLES_SAMPLED,
} from './layout.ts'

type Header = ReturnType<typeof sparseHeader.decode>

const SECTION = 'Hosted Sparse Extents'
/** bytes in which a version is looked for */
const PROBED = 4096
const IN_HEADER = { structure: 'header', at: 0, section: SECTION }

export const vmdkInspector: Inspector = {
  name: 'vmdk',
  *recognizes(file) {
    return isExtent(file) || (yield* isDescriptor(file))
  },
  *inspect(file, inspection) {
    if (magicOf(file) === SPARSE_MAGIC) return yield* inspectSparse(file, inspection)
    if (isExtent(file)) {
      const section = 'ESX Server Sparse Extents'
      inspection.add('INCOMPLETE', { structure: 'header', at: 0, section }, PART)
      return
    }
    yield* inspectText(file, inspection)
  },
}

const PART = 'It is a part of a disk: which one, and what belongs to it, another file says.'

function magicOf({ head }: BoundedStore): string {
  return Buffer.from(head.subarray(0, 4)).toString('latin1')
}

function isExtent(file: BoundedStore): boolean {
  const isSe = Buffer.compare(file.head.subarray(0, SE_SPARSE_MAGIC.length), SE_SPARSE_MAGIC) === 0
  return isSe || [SPARSE_MAGIC, ESX_MAGIC].includes(magicOf(file))
}

/** Whether a file is a descriptor for any reader, whatever it looks for. */
function* isDescriptor(file: BoundedStore): Io<boolean> {
  if (saysVersion(file.head)) return true
  const start = textOf(file.head.subarray(0, SECTOR))
  if (start === '' || /[^\s\x20-\x7e]/.test(start)) return false
  const whole = yield* file.peek(0, Math.min(file.length, MOST_DESCRIPTOR_BYTES))
  return whole !== undefined && /createtype="/i.test(textOf(whole))
}

/** QEMU wants a version behind comments and empty lines, and does not mind what comments hold. */
function saysVersion(head: Uint8Array): boolean {
  const lines = Buffer.from(head.subarray(0, PROBED)).toString('latin1').split('\n')
  if (/^# disk descriptorfile/i.test(lines[0] as string)) return true
  const first = lines.find((line) => line.trim() !== '' && !line.startsWith('#'))
  return /^\s*version\s*=\s*\d/i.test(first ?? '')
}

function textOf(bytes: Uint8Array): string {
  const end = bytes.indexOf(0)
  return Buffer.from(end < 0 ? bytes : bytes.subarray(0, end)).toString('latin1')
}

/** A descriptor of its own: whatever it says, the disk is elsewhere. */
function* inspectText(file: BoundedStore, inspection: Inspection): Io<void> {
  const place = { structure: 'descriptor', at: 0, section: 'The Descriptor File' }
  const bytes = yield* file.peek(0, Math.min(file.length, MOST_DESCRIPTOR_BYTES))
  if (file.length > MOST_DESCRIPTOR_BYTES) {
    inspection.add('BAD_DESCRIPTOR', place, 'It is longer than any descriptor.')
  }
  inspection.add('INCOMPLETE', place, 'It only describes a disk, which lies in other files.')
  const descriptor = bytes && judgeDescriptor(bytes, 0, inspection)
  if (!descriptor) return
  judgeExtents(descriptor, 0, inspection)
  inspection.size = sectorsOf(descriptor) * SECTOR
}

function* inspectSparse(file: BoundedStore, inspection: Inspection): Io<void> {
  const bytes = yield* file.peek(0, sparseHeader.size)
  if (!bytes) return inspection.truncated(IN_HEADER)
  const header = sparseHeader.decode(bytes)
  inspection.size = header.capacity * SECTOR
  if (header.version < 1 || header.version > 3) {
    inspection.add('UNKNOWN_VERSION', IN_HEADER, `It is of version ${header.version} of the format; 1 to 3 are known.`)
    return
  }
  inspectHeader(header, inspection)
  const footer = header.directoryOffset === DIRECTORY_AT_END ? yield* inspectFooter(file, header, inspection) : header
  if (header.overhead * SECTOR > file.length)
    inspection.truncated({ ...IN_HEADER, structure: 'room before the grains' })
  if (footer) yield* inspectDirectories(file, footer, inspection)
  const descriptor = yield* inspectEmbedded(file, header, inspection)
  if (!descriptor) return
  const [sectors, count] = [sectorsOf(descriptor), descriptor.extents.length]
  if (count > 0 && sectors !== header.capacity) {
    const message = `Its descriptor says that the disk has ${sectors} sectors, its header ${header.capacity}.`
    inspection.add('COPIES_DIFFER', { structure: 'descriptor', at: SECTOR, section: SECTION }, message)
  }
}

function inspectHeader(header: Header, inspection: Inspection): void {
  const { flags, grainSize, entriesPerTable, unclean, lineEnds, compression, capacity } = header
  if (!isPowerOfTwo(grainSize) || grainSize < GRAIN.least || grainSize > GRAIN.most) {
    inspection.add('DAMAGED', IN_HEADER, `Grains of ${grainSize} sectors cannot be.`)
  }
  if (entriesPerTable === 0 || entriesPerTable > SECTOR) {
    inspection.add('DAMAGED', IN_HEADER, `Tables of ${entriesPerTable} entries cannot be.`)
  }
  if (!Number.isSafeInteger(capacity * SECTOR)) {
    inspection.add('DAMAGED', IN_HEADER, `A disk of ${capacity} sectors cannot be.`)
  }
  if (compression > 1)
    inspection.add('UNKNOWN_FEATURE', IN_HEADER, `It is packed by the unknown method ${compression}.`)
  if ((flags & FLAG.lineEnds) !== 0 && Buffer.from(lineEnds).toString('latin1') !== LINE_ENDS) {
    inspection.add('DAMAGED', IN_HEADER, 'Its line ends were changed: it was copied as if it were text.')
  }
  if (unclean !== 0) inspection.add('NOT_CLOSED', IN_HEADER, 'Its last writer did not close it.')
  if ((flags & ~KNOWN_FLAGS) !== 0) {
    inspection.add('UNKNOWN_OPTIONAL', IN_HEADER, `It has flags that are not known: 0x${(flags >>> 0).toString(16)}.`)
  }
}

/** Grain directories lie in the file, and are no larger than the disk needs. */
function* inspectDirectories(file: BoundedStore, header: Header, inspection: Inspection): Io<void> {
  const { flags, capacity, grainSize, entriesPerTable, directoryOffset, redundantDirectoryOffset } = header
  if (grainSize === 0 || entriesPerTable === 0) return
  const length = ceilDiv(capacity, grainSize * entriesPerTable) * 4
  const places = [
    Number(directoryOffset),
    ...((flags & FLAG.redundantDirectory) === 0 ? [] : [redundantDirectoryOffset]),
  ]
  if (length > MOST_DIRECTORY_BYTES) {
    inspection.add('TABLE_TOO_LARGE', IN_HEADER, `Its grain directory would have ${length} bytes.`)
    return
  }
  for (const sector of places) {
    const at = sector * SECTOR
    const place = { structure: 'grain directory', at, section: SECTION }
    if (at + length > file.length) inspection.truncated(place)
    yield* inspectMap(file, { ...SECTORS, place, at, count: length / 4 }, inspection)
    yield* inspectTables(file, { at, count: length / 4, entries: entriesPerTable }, inspection)
  }
}

/** Entries that count sectors; 0 is a grain, or a table, that is not there, and 1 a grain of zeros. */
const SECTORS = {
  order: 'little' as const,
  locate: (entry: number): number | undefined => (entry <= 1 ? undefined : entry * SECTOR),
  length: SECTOR,
}

/** The first tables of a directory. @param directory bytes in the file, tables in it, entries of each */
function* inspectTables(
  file: BoundedStore,
  directory: { readonly at: number; readonly count: number; readonly entries: number },
  inspection: Inspection,
): Io<void> {
  const bytes = yield* file.peek(directory.at, Math.min(directory.count, TABLES_SAMPLED) * 4)
  if (!bytes) return
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  for (let i = 0; i < bytes.length; i += 4) {
    const at = view.getUint32(i, true) * SECTOR
    if (at === 0) continue
    const place = { structure: 'grain table', at, section: SECTION }
    yield* inspectMap(file, { ...SECTORS, place, at, count: directory.entries }, inspection)
  }
}

/** Marker, footer, end-of-stream marker: the last three sectors of a file whose header was written first. */
function* inspectFooter(file: BoundedStore, header: Header, inspection: Inspection): Io<Header | undefined> {
  const at = file.length - 2 * SECTOR
  const place = { structure: 'footer', at, section: 'Stream-Optimized Compressed Sparse Extents' }
  const bytes = yield* file.peek(at - SECTOR, 3 * SECTOR)
  if (!bytes) {
    inspection.truncated(place)
    return undefined
  }
  const [before, after] = [bytes, bytes.subarray(2 * SECTOR)].map((sector) => marker.decode(sector))
  const isBare = (one: typeof before): boolean => one?.size === 0 && one.rest.every((byte) => byte === 0)
  if (!isBare(before) || before?.type !== MARKER.footer) {
    inspection.add('DAMAGED', place, 'The marker of its footer is not what it should be.')
  }
  if (!isBare(after) || after?.type !== MARKER.endOfStream || after.value !== 0) {
    inspection.add('DAMAGED', place, 'The marker of its end is not what it should be.')
  }
  const footer = sparseHeader.decode(bytes.subarray(SECTOR))
  const same = (['magic', 'version', 'capacity', 'grainSize', 'descriptorOffset', 'descriptorSize'] as const).every(
    (field) => footer[field] === header[field],
  )
  if (!same) inspection.add('COPIES_DIFFER', place, 'Its header and its footer differ.')
  if (footer.directoryOffset === DIRECTORY_AT_END) {
    inspection.add('DAMAGED', place, 'Its footer refers to another footer.')
    return undefined
  }
  return footer
}

function* inspectEmbedded(
  file: BoundedStore,
  header: Header,
  inspection: Inspection,
): Io<JudgedDescriptor | undefined> {
  const { descriptorOffset, descriptorSize } = header
  const at = descriptorOffset * SECTOR
  const place = { structure: 'descriptor', at, section: SECTION }
  if (descriptorOffset === 0) {
    inspection.add('INCOMPLETE', IN_HEADER, PART)
    return undefined
  }
  if (descriptorOffset !== DESCRIPTOR_SECTOR) {
    inspection.add('BAD_DESCRIPTOR', place, 'Its descriptor does not lie right behind its header.')
    return undefined
  }
  if (descriptorSize * SECTOR > MOST_DESCRIPTOR_BYTES) {
    inspection.add('TABLE_TOO_LARGE', place, `Its descriptor would have ${descriptorSize * SECTOR} bytes.`)
    return undefined
  }
  const bytes = yield* file.peek(at, descriptorSize * SECTOR)
  if (!bytes) {
    inspection.truncated(place)
    return undefined
  }
  if (textOf(bytes).trim() === '') {
    inspection.add('INCOMPLETE', place, PART)
    return undefined
  }
  const descriptor = judgeDescriptor(bytes, at, inspection)
  if (descriptor) judgeExtents(descriptor, at, inspection)
  return descriptor
}

function sectorsOf({ extents }: JudgedDescriptor): number {
  return extents.reduce((sum, { sectors }) => sum + sectors, 0)
}
