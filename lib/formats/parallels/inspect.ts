import { inspectMap } from '../../contracts/block-map.ts'
import type { Inspection, Inspector } from '../../contracts/inspection.ts'
import type { BoundedStore } from '../../io/bounded-store.ts'
import { type Io, just } from '../../io/io.ts'
import { kindOf } from './header.ts'
import { BAT_AT, BAT_ENTRY, headerLayout, IN_USE, LIMIT, SECTOR, VERSION } from './layout.ts'

const DESCRIPTION = /<Parallels_disk_image[\s>]/

/** Whether a file looks like the descriptor of a bundle. */
export function isDescription(head: Uint8Array): boolean {
  return DESCRIPTION.test(Buffer.from(head.subarray(0, 4096)).toString('latin1'))
}

/** Judges an image by its header and the beginning of its BAT; a bundle is never one file. */
export const parallelsInspector: Inspector = {
  name: 'parallels',
  recognizes: ({ head }) => just(kindOf(head) !== undefined || isDescription(head)),
  *inspect(file, inspection) {
    if (kindOf(file.head)) return yield* inspectImage(file, inspection)
    const message = 'It only describes a bundle of images, and names them.'
    inspection.add('EXTERNAL_DATA', { structure: 'DiskDescriptor.xml', at: 0 }, message)
  },
}

function* inspectImage(file: BoundedStore, inspection: Inspection): Io<void> {
  const place = { structure: 'header', at: 0, section: 'Header' }
  const bytes = yield* file.peek(0, headerLayout.size)
  if (!bytes) return inspection.truncated(place)
  const { version, clusterSectors, entryCount, sectors, inUse, dataAt, flags, extensionAt } = headerLayout.decode(bytes)
  const isClassic = kindOf(bytes) === 'classic'
  if (version !== VERSION) {
    return inspection.add('UNKNOWN_VERSION', place, `It is of version ${version} of the format; 2 is known.`)
  }
  // The upper half is for the newer magic alone.
  const size = (isClassic ? sectors % 2 ** 32 : sectors) * SECTOR
  inspection.size = size
  if (clusterSectors === 0 || clusterSectors > LIMIT.clusterSectors) {
    return inspection.add('DAMAGED', place, `Clusters of ${clusterSectors} sectors cannot be.`)
  }
  const batEnd = BAT_AT + entryCount * BAT_ENTRY
  if (entryCount > LIMIT.entries) {
    inspection.add('TABLE_TOO_LARGE', place, `Its BAT claims ${entryCount} entries.`)
  } else if (batEnd > file.length) inspection.truncated({ structure: 'BAT', at: BAT_AT, section: 'BAT' })
  if (entryCount * clusterSectors * SECTOR < size) {
    const message = `Its ${entryCount} clusters of ${clusterSectors} sectors do not hold ${size} bytes.`
    inspection.add('DAMAGED', place, message)
  }
  if (dataAt !== 0 && dataAt * SECTOR < batEnd) {
    inspection.add('DAMAGED', place, 'Its data begins before its BAT ends.')
  }
  if (inUse === IN_USE.opened) inspection.add('NOT_CLOSED', place, 'Its last writer did not close it.')
  else if (inUse !== IN_USE.closed && inUse !== IN_USE.unknown) {
    const mark = `0x${inUse.toString(16)}`
    inspection.add('UNKNOWN_OPTIONAL', place, `It is marked with ${mark}, which does not say whether it was closed.`)
  }
  if (flags > 1) inspection.add('UNKNOWN_OPTIONAL', place, `It has flags that are not known: 0x${flags.toString(16)}.`)
  const unit = isClassic ? SECTOR : clusterSectors * SECTOR
  const locate = (entry: number): number | undefined => (entry === 0 ? undefined : entry * unit)
  const bat = { place: { structure: 'BAT', at: BAT_AT, section: 'BAT' }, at: BAT_AT, count: entryCount }
  yield* inspectMap(file, { ...bat, order: 'little', locate, length: SECTOR }, inspection)
  if (extensionAt * SECTOR < file.length) return
  inspection.truncated({ structure: 'format extension', at: extensionAt * SECTOR, section: 'Format Extension' })
}
