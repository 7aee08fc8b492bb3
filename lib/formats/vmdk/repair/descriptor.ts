import type { Image } from '../../../contracts/image.ts'
import type { RepairReport } from '../../../contracts/repair.ts'
import { isVdiskError } from '../../../errors.ts'
import { type Io, settle } from '../../../io/io.ts'
import type { ByteStore } from '../../../io/store.ts'
import { corrupt } from '../damage.ts'
import { Descriptor } from '../descriptor.ts'
import { type ExtentLine, encodedName, readLine } from '../descriptor-line.ts'
import { DescriptorRoom } from '../descriptor-room.ts'
import { GrainDirectory } from '../grain-directory.ts'
import { GrainTables } from '../grain-tables.ts'
import { SECTOR, SPARSE_MAGIC } from '../layout.ts'
import { withoutUnreadableLink } from '../linkage.ts'
import { newDescriptor } from '../new-descriptor.ts'
import { extentName, lastPart, stemOf } from '../new-extent.ts'
import { newContentId } from '../session.ts'
import { readSparseHeader, type SparseHeader } from '../sparse-header.ts'

/** The descriptor as it is after the repair. */
export interface Mended {
  readonly descriptor: Descriptor
  /** it lies in the file of the one extent */
  readonly isMonolithic: boolean
}

/** What a new descriptor says where nobody knows better. */
const USUAL = { adapterType: 'ide', hwVersion: '4', toolsVersion: '2147483647' }

/**
 * Mends the descriptor: lines that mean nothing go, of keys that are there twice the first counts, and where it is lost, a
 * new one tells what the files of the disk tell.
 *
 * @throws VdiskError CORRUPT where those do not tell enough
 */
export function* mendDescriptor(image: Image, report: RepairReport): Io<Mended> {
  const { store } = image
  const head = new Uint8Array(Math.min(4, yield* settle(store.size())))
  yield* settle(store.read(0, head))
  const isMonolithic = Buffer.from(head).toString('latin1') === SPARSE_MAGIC
  const header = isMonolithic ? yield* readSparseHeader(image, store) : undefined
  const place = header?.descriptor ?? { at: 0, length: undefined }
  const room = yield* DescriptorRoom.read(store, place.at, place.length)
  const found = parsed(image.name, room.text)
  const lines = header ? [ownLine(image.name, header.size, found)] : undefined
  if (report.scope === 'leaks') {
    return { descriptor: found ?? Descriptor.parse(image.name, room.text), isMonolithic }
  }
  const whole = found ?? (yield* regenerated(image, room, lines, report))
  const descriptor = completed(whole, lines, room, report)
  if (Buffer.compare(descriptor.encode(), room.text) !== 0 || room.isUnfinished) {
    if (header?.descriptor) yield* assertOwnRoom(image, header, header.descriptor)
    yield* room.replace(descriptor.encode())
  }
  return { descriptor, isMonolithic }
}

/**
 * A header that is damaged may lead anywhere: nothing is written where a table or a grain can lie.
 *
 * @throws VdiskError CORRUPT
 */
function* assertOwnRoom(
  { name, store }: Image,
  header: SparseHeader,
  { at, length }: NonNullable<SparseHeader['descriptor']>,
): Io<void> {
  const isBeforeGrains = at >= header.length && at + length <= header.overhead
  if (isBeforeGrains && (header.isStream || !(yield* tablesAt(store, header, at, length)))) return
  const why = `its header says that the descriptor lies at ${at}, where tables or grains lie`
  throw corrupt(name, why, { structure: 'descriptor', at, section: 'Hosted Sparse Extents' }, WITHOUT_DESCRIPTOR)
}

const WITHOUT_DESCRIPTOR = 'Nothing was changed. If there is another copy of the file, use the one that opens.'

/** Whether tables lie in a range that is said to be the descriptor's. */
function* tablesAt(store: ByteStore, header: SparseHeader, at: number, length: number): Io<boolean> {
  const directory = yield* GrainDirectory.read(store.name, store, header)
  const parts = { store, directory, header: { ...header, descriptor: undefined }, hasParent: false }
  const { places } = new GrainTables(parts, { end: yield* settle(store.size()) })
  return places.hit(at / SECTOR, length / SECTOR)
}

/** @returns undefined for a text that is damaged */
function parsed(file: string, text: Uint8Array): Descriptor | undefined {
  try {
    const descriptor = Descriptor.parse(file, text)
    return descriptor.extents.length > 0 ? descriptor : undefined
  } catch (error) {
    if (isVdiskError(error, 'CORRUPT')) return undefined
    throw error
  }
}

/** What is left of a text, or where that is not enough, what the files say. */
function* regenerated(
  image: Image,
  room: DescriptorRoom,
  lines: readonly ExtentLine[] | undefined,
  report: RepairReport,
): Io<Descriptor> {
  const left = sensibleLines(room.text)
  const extents = lines ?? (left.extents.length > 0 ? left.extents : yield* findExtents(image))
  const size = extents.reduce((sum, { sectors }) => sum + sectors, 0) * SECTOR
  const createType = left.values.get('createtype')?.value ?? typeOf(extents, lines !== undefined)
  // Whether the disk had a parent nobody knows without the line that says it: then all of it is doubtful.
  const isDoubtful = !left.values.has('parentcid')
  report.add({
    code: 'DESCRIPTOR_DAMAGED',
    structure: 'descriptor',
    at: room.at,
    message: isDoubtful
      ? 'the descriptor was lost; the new one tells what the files of the disk tell, and names no parent'
      : 'lines of the descriptor meant nothing, or were there twice; what is sound is kept',
    ...(isDoubtful ? { doubtful: { offset: 0, length: size, snapshot: undefined } } : {}),
  })
  const changes = Object.fromEntries([...left.values.values()].map(({ key, value }) => [key, value]))
  return newDescriptor(image.name, { createType, size, ...USUAL }, extents).with(changes)
}

/** Lines of a damaged text that mean something, the first of each key. */
function sensibleLines(text: Uint8Array): {
  readonly extents: readonly ExtentLine[]
  readonly values: ReadonlyMap<string, { readonly key: string; readonly value: string }>
} {
  const extents: ExtentLine[] = []
  const values = new Map<string, { key: string; value: string }>()
  for (const written of Buffer.from(text).toString('latin1').split(/\r?\n/)) {
    const line = /[^\t\x20-\x7e]/.test(written) ? ({ kind: 'unknown' } as const) : readLine(written)
    if (line.kind === 'extent') extents.push(line.extent)
    const name = line.kind === 'value' ? line.key.toLowerCase() : ''
    const isKnown =
      /^(?:version|cid|parentcid|createtype|encoding|isnativesnapshot|parentfilenamehint|ddb\.[\w.]+)$/.test(name)
    if (line.kind === 'value' && isKnown && !values.has(name)) values.set(name, { key: line.key, value: line.value })
  }
  return { extents, values }
}

/** Files that are called as the parts of this disk would be. @throws VdiskError NOT_FOUND if there are none */
function* findExtents(image: Image): Io<ExtentLine[]> {
  const stem = stemOf(image.name)
  for (const letter of ['s', 'f'] as const) {
    const lines: ExtentLine[] = []
    for (let number = 1; ; number++) {
      const line = yield* lineOfFile(image, extentName(stem, letter, number), letter === 's')
      if (!line) break
      lines.push(line)
    }
    if (lines.length > 0) return lines
  }
  const name = `${stem}-flat.vmdk`
  const flat = yield* lineOfFile(image, name, false)
  if (flat) return [flat]
  // To be told which file is wanted helps more than to be told that something is damaged.
  yield* image.neighbour(name, 'read')
  return []
}

function* lineOfFile(image: Image, name: string, isSparse: boolean): Io<ExtentLine | undefined> {
  try {
    const store = yield* image.neighbour(name, 'read')
    try {
      const size = isSparse ? (yield* readSparseHeader(image, store)).size : yield* settle(store.size())
      const type = isSparse ? 'SPARSE' : 'FLAT'
      return { access: 'RW', sectors: Math.floor(size / SECTOR), type, file: encodedName(name), offset: 0 }
    } finally {
      yield* settle(store.close())
    }
  } catch (error) {
    if (isVdiskError(error, 'NOT_FOUND')) return undefined
    throw error
  }
}

function typeOf([first, ...others]: readonly ExtentLine[], isMonolithic: boolean): string {
  if (isMonolithic) return 'monolithicSparse'
  if (first?.type === 'SPARSE') return 'twoGbMaxExtentSparse'
  return others.length > 0 || /-f\d+\.vmdk$/i.test(first?.file ?? '') ? 'twoGbMaxExtentFlat' : 'monolithicFlat'
}

function ownLine(name: string, size: number, found: Descriptor | undefined): ExtentLine {
  const file = found?.extents[0]?.file ?? encodedName(lastPart(name)).replaceAll('"', '_')
  return { access: 'RW', type: 'SPARSE', offset: 0, ...found?.extents[0], file, sectors: size / SECTOR }
}

/** What a descriptor must say besides, and what it may not. */
function completed(
  descriptor: Descriptor,
  lines: readonly ExtentLine[] | undefined,
  room: DescriptorRoom,
  report: RepairReport,
): Descriptor {
  let next = descriptor
  const note = (code: string, message: string): void =>
    report.add({ code, structure: 'descriptor', at: room.at, message })
  if (next.cid === undefined) {
    note('CONTENT_ID_MISSING', 'it had no content id; it has one now')
    next = next.with({ CID: newContentId() })
  }
  if (lines && next.extents.length === 1 && next.sectors !== lines[0]?.sectors) {
    note('SIZES_DIFFER', `it said that the disk has ${next.sectors} sectors; it says now what the header says`)
    next = next.withExtents(lines)
  }
  const linked = withoutUnreadableLink(next)
  if (linked !== next)
    note('PARENT_LINK_INVALID', 'what it said of the parent besides its id could not be read; that is gone')
  if (room.isUnfinished) note('DESCRIPTOR_UNFINISHED', 'a change of it that was not finished is now')
  return linked
}
