import { type Inspection, type Inspector, quoted } from '../../contracts/inspection.ts'
import type { BoundedStore } from '../../io/bounded-store.ts'
import { type Io, just } from '../../io/io.ts'
import { Geometry } from './geometry.ts'
import { Headers } from './header.ts'
import {
  BAT_ENTRY,
  BITMAP,
  FILE_SIGNATURE,
  HEADER_PLACES,
  METADATA_FLAG,
  MIB,
  PAYLOAD,
  placeOf,
  REGION_TABLE_PLACES,
  stateOf,
} from './layout.ts'
import { locatorIn, type ParentLocator } from './locator.ts'
import { Metadata } from './metadata.ts'
import { Regions } from './regions.ts'

/** bytes of the BAT that are looked at */
const BAT_SAMPLE = 64 << 10

/** Judges a file by its headers, region tables and metadata. Its log is not replayed; of its BAT the beginning is read. */
export const vhdxInspector: Inspector = {
  name: 'vhdx',
  recognizes: ({ head }) =>
    just(Buffer.from(head.subarray(0, FILE_SIGNATURE.length)).toString('latin1') === FILE_SIGNATURE),
  inspect: inspectFile,
}

function* inspectFile(file: BoundedStore, inspection: Inspection): Io<void> {
  const headers = yield* inspection.attempt(() => Headers.read(file, file))
  if (!headers) return
  inspectHeaders(file, headers, inspection)
  const regions = yield* inspection.attempt(() => Regions.read(file, file, headers))
  if (!regions) return
  inspectRegions(file, regions, inspection)
  const metadata = yield* inspection.attempt(() => Metadata.read(file, file, regions.metadata))
  if (!metadata) return
  inspection.size = metadata.virtualDiskSize
  const geometry = new Geometry(metadata)
  inspectTable(regions, geometry, inspection)
  if (!headers.hasLog) yield* inspectBlocks(file, regions, geometry, inspection)
  yield* inspectParent(file, metadata, inspection)
  inspectOptional(regions, metadata, inspection)
}

function inspectHeaders(file: BoundedStore, headers: Headers, inspection: Inspection): void {
  for (const [slot, valid] of headers.valid.entries()) {
    if (valid) continue
    const place = { structure: 'header', at: HEADER_PLACES[slot], section: '2.2.2' }
    inspection.add('COPY_DAMAGED', place, 'The checksum of one of its two headers is wrong.')
  }
  const log = { structure: 'log', at: headers.logOffset, section: '2.3' }
  if (headers.hasLog) inspection.add('PENDING_LOG', log, 'It was not closed: changes wait in its log.')
  if (headers.logOffset + headers.logLength > file.length) inspection.truncated(log)
}

function inspectRegions(file: BoundedStore, regions: Regions, inspection: Inspection): void {
  for (const [slot, copy] of regions.copies.entries()) {
    const place = { structure: 'region table', at: REGION_TABLE_PLACES[slot], section: '2.2.3' }
    if (copy === 'damaged')
      inspection.add('COPY_DAMAGED', place, 'One of the two copies of its region table is damaged.')
    if (copy === 'differs') inspection.add('COPIES_DIFFER', place, 'The two copies of its region table differ.')
  }
  for (const { name, at, length } of regions.all) {
    if (at + length > file.length && name !== 'log') inspection.truncated({ structure: name, at, section: '2.2.3.2' })
  }
}

function inspectTable({ bat }: Regions, geometry: Geometry, inspection: Inspection): void {
  const needed = geometry.batBytes()
  if (needed <= bat.length) return
  const place = { structure: 'BAT', at: bat.at, section: '2.5' }
  inspection.add('DAMAGED', place, `It has ${bat.length} bytes; a disk of this size needs ${needed}.`)
}

/** Looks at the beginning of the BAT: whether blocks lie in the file, and each is used once. [2.5.1.1] */
function* inspectBlocks(file: BoundedStore, { bat }: Regions, geometry: Geometry, inspection: Inspection): Io<void> {
  const bytes = yield* file.peek(bat.at, Math.min(geometry.batBytes(), bat.length, BAT_SAMPLE))
  if (!bytes) return
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  const seen = new Set<number>()
  for (let index = 0; index * BAT_ENTRY < bytes.length; index++) {
    const [low, high] = [view.getUint32(index * BAT_ENTRY, true), view.getUint32(index * BAT_ENTRY + 4, true)]
    const isBlock = 'block' in geometry.ownerOf(index)
    if (isBlock && stateOf(low) !== PAYLOAD.fullyPresent && stateOf(low) !== PAYLOAD.partiallyPresent) continue
    if (!isBlock && stateOf(low) !== BITMAP.present) continue
    const place = { structure: 'BAT', at: bat.at + index * BAT_ENTRY, section: '2.5.1' }
    const at = placeOf(high, low)
    if (at + (isBlock ? geometry.blockSize : MIB) > file.length) {
      inspection.add('TRUNCATED', place, `Its entry ${index} names a place at ${at}, past the end of the file.`)
      return
    }
    if (seen.has(at)) {
      inspection.add('DAMAGED', place, `Its entry ${index} names a place at ${at} that another one has as well.`)
      return
    }
    seen.add(at)
  }
}

/** What readers may leave out, if they do not know it. */
function inspectOptional({ all }: Regions, { items, region }: Metadata, inspection: Inspection): void {
  const place = { structure: 'metadata table', at: region.at, section: '2.6.1.2' }
  const own = items.filter(({ flags }) => (flags & METADATA_FLAG.isUser) !== 0).length
  if (own > 0) inspection.add('UNKNOWN_OPTIONAL', place, `It holds ${own} items of metadata of some program's own.`)
  for (const { name, at } of all.filter((one) => one.name.startsWith('region '))) {
    inspection.add('UNKNOWN_OPTIONAL', { structure: 'region table', at, section: '2.2.3.2' }, `It has a ${name}.`)
  }
}

function* inspectParent(file: BoundedStore, metadata: Metadata, inspection: Inspection): Io<void> {
  if (!metadata.hasParent && !metadata.locator) return
  const place = { structure: 'parent locator', at: metadata.locatorAt, section: '2.6.2.6' }
  const locator = yield* inspection.attempt(() => just(locatorIn(file, metadata)))
  if (!metadata.locator) return
  const paths = locator ? namesIn(locator) : []
  const named = paths.length === 0 ? '' : `, ${paths.map(quoted).join(' or ')}`
  inspection.add('PARENT_REFERENCE', place, `It holds only what differs from a parent${named}.`)
}

const PATHS = ['relative_path', 'volume_path', 'absolute_win32_path']

function namesIn(locator: ParentLocator): string[] {
  return PATHS.flatMap((key) => locator.get(key) ?? [])
}
