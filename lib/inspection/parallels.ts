import { ascii, struct, u32, u64 } from '../bytes/struct.ts'
import { inspectMap } from '../contracts/block-map.ts'
import type { Inspection, Inspector } from '../contracts/inspection.ts'
import type { BoundedStore } from '../io/bounded-store.ts'
import { type Io, just } from '../io/io.ts'

/** Parallels, one image of a bundle. Sections are those of docs/interop/parallels in the QEMU documentation. */

const OLD_MAGIC = 'WithoutFreeSpace'
const MAGIC = 'WithouFreSpacExt'
const VERSION = 2
const IN_USE = { opened: 0x746f6e59, closed: 0x312e3276, unknown: 0 } as const
const SECTOR = 512
const MOST_TABLE_BYTES = 512 << 20
const DESCRIPTION = /<Parallels_disk_image[\s>]/

/** Header, little-endian; the BAT follows. ["Header"] */
const header = struct(
  'Parallels header',
  { size: 64, order: 'little' },
  {
    magic: ascii(0, 16),
    version: u32(16), // 2
    clusterSectors: u32(28),
    entryCount: u32(32), // of the BAT
    sectors: u64(36), // of the disk; old images: 32 bits
    inUse: u32(44), // IN_USE
    dataAt: u32(48), // sectors; 0 in old images: behind the BAT
    flags: u32(52), // bit 0: empty
    extensionAt: u64(56), // sectors; 0: none
  },
)

export const parallels: Inspector = {
  name: 'parallels',
  recognizes: (file) => just(isImage(file) || isDescription(file)),
  *inspect(file, inspection) {
    if (isImage(file)) return yield* inspectImage(file, inspection)
    const message = 'It only describes a bundle of images, and names them.'
    inspection.add('EXTERNAL_DATA', { structure: 'DiskDescriptor.xml', at: 0 }, message)
  },
}

function isImage({ head }: BoundedStore): boolean {
  return [OLD_MAGIC, MAGIC].includes(Buffer.from(head.subarray(0, 16)).toString('latin1'))
}

function isDescription({ head }: BoundedStore): boolean {
  return DESCRIPTION.test(Buffer.from(head.subarray(0, 4096)).toString('latin1'))
}

function* inspectImage(file: BoundedStore, inspection: Inspection): Io<void> {
  const place = { structure: 'header', at: 0, section: 'Header' }
  const bytes = yield* file.peek(0, header.size)
  if (!bytes) return inspection.truncated(place)
  const { magic, version, clusterSectors, entryCount, sectors, inUse, dataAt, flags, extensionAt } =
    header.decode(bytes)
  if (version !== VERSION) {
    return inspection.add('UNKNOWN_VERSION', place, `It is of version ${version} of the format; 2 is known.`)
  }
  // The upper half is for the newer magic alone.
  const size = (magic === OLD_MAGIC ? sectors % 2 ** 32 : sectors) * SECTOR
  inspection.size = size
  if (clusterSectors === 0 || clusterSectors * SECTOR > 2 ** 31) {
    return inspection.add('DAMAGED', place, `Clusters of ${clusterSectors} sectors cannot be.`)
  }
  if (entryCount * 4 > MOST_TABLE_BYTES)
    inspection.add('TABLE_TOO_LARGE', place, `Its BAT claims ${entryCount} entries.`)
  else if (header.size + entryCount * 4 > file.length) {
    inspection.truncated({ structure: 'BAT', at: header.size, section: 'BAT' })
  }
  if (entryCount * clusterSectors * SECTOR < size) {
    inspection.add(
      'DAMAGED',
      place,
      `Its ${entryCount} clusters of ${clusterSectors} sectors do not hold ${size} bytes.`,
    )
  }
  if (dataAt !== 0 && dataAt * SECTOR < header.size + entryCount * 4) {
    inspection.add('DAMAGED', place, 'Its data begins before its BAT ends.')
  }
  if (inUse === IN_USE.opened) inspection.add('NOT_CLOSED', place, 'Its last writer did not close it.')
  else if (inUse !== IN_USE.closed && inUse !== IN_USE.unknown) {
    const mark = `0x${inUse.toString(16)}`
    inspection.add('UNKNOWN_OPTIONAL', place, `It is marked with ${mark}, which does not say whether it was closed.`)
  }
  if (flags > 1) inspection.add('UNKNOWN_OPTIONAL', place, `It has flags that are not known: 0x${flags.toString(16)}.`)
  const unit = magic === OLD_MAGIC ? SECTOR : clusterSectors * SECTOR
  const locate = (entry: number): number | undefined => (entry === 0 ? undefined : entry * unit)
  const bat = { place: { structure: 'BAT', at: header.size, section: 'BAT' }, at: header.size, count: entryCount }
  yield* inspectMap(file, { ...bat, order: 'little', locate, length: SECTOR }, inspection)
  if (extensionAt * SECTOR >= file.length) {
    inspection.truncated({ structure: 'format extension', at: extensionAt * SECTOR, section: 'Format Extension' })
  }
}
