import type { CheckReport, NewFinding } from '../../contracts/check-report.ts'
import { isVdiskError, reasonOf } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { entryPlace } from './bat.ts'
import { Census, type EntryFault, type FaultyEntry } from './census.ts'
import { Extension } from './extension.ts'
import { IN_USE } from './layout.ts'
import type { ExpandingPart } from './part.ts'

/** The stable word for each fault, and what is said of it. */
export const ENTRY_FAULTS: Readonly<Record<EntryFault, { readonly code: string; readonly text: string }>> = {
  'before data': { code: 'CLUSTER_BEFORE_DATA', text: 'where the header or the BAT lies' },
  'past end': { code: 'CLUSTER_PAST_END', text: 'past the end of the file' },
  misaligned: { code: 'CLUSTER_MISALIGNED', text: 'which is between two clusters' },
  shared: { code: 'CLUSTER_SHARED', text: 'where another cluster lies: a write to one changes both' },
  stale: { code: 'BAT_ENTRY_STALE', text: 'although the disk ends before' },
  'too far': { code: 'CLUSTER_TOO_FAR', text: 'too far to keep account of' },
}

/** Where an entry stands, for findings. */
export function placeOfEntry({ cluster }: FaultyEntry, part: ExpandingPart): Pick<NewFinding, 'at' | 'guest' | 'structure'> {
  const { header } = part.bat
  const offset = cluster * header.clusterSize
  const length = Math.max(0, Math.min(header.clusterSize, header.size - offset))
  return { structure: 'BAT', at: entryPlace(cluster), guest: length > 0 ? { offset, length } : undefined }
}

/**
 * Looks at everything that an expanding image says of itself: header, BAT, extension, and room that nobody uses.
 *
 * @param shift where the image begins on the disk
 */
export function* checkExpanding(part: ExpandingPart, report: CheckReport, shift = 0): Io<void> {
  const { header } = part.bat
  checkHeader(part, report)
  const fileEnd = yield* settle(part.store.size())
  const census = new Census(part.bat, fileEnd)
  const extension = yield* checkExtension(part, census, report)
  yield* census.take(
    (found) => {
      const { code, text } = ENTRY_FAULTS[found.fault]
      const { guest, ...place } = placeOfEntry(found, part)
      report.add({
        code,
        severity: found.fault === 'stale' ? 'warning' : 'error',
        ...place,
        guest: guest && { offset: guest.offset + shift, length: guest.length },
        message: `cluster ${found.cluster} lies at ${found.place}, ${text}`,
      })
    },
    (done, total) => report.advance(done, total),
  )
  // Clusters of features that are not known are nobody else's business.
  if (extension === 'opaque' || !census.isWhole || header.isOpened) return
  for (const { at, length } of census.unused()) {
    if (!(yield* takesRoom(part.store, at, length))) continue
    const isEnd = at + length === fileEnd
    report.add({
      code: isEnd ? 'ROOM_AT_END' : 'CLUSTER_LEAKED',
      severity: 'leak',
      structure: 'file',
      at,
      message: `${length} bytes at ${at} belong to nothing${isEnd ? ', up to the end of the file' : ''}`,
    })
  }
}

/** Whether a range of a file is more than a hole. */
export function* takesRoom(store: ByteStore, at: number, length: number): Io<boolean> {
  if (!store.segment) return true
  for (let place = at; place < at + length; ) {
    const segment = yield* settle(store.segment(place))
    if (segment.kind === 'data') return true
    place += segment.length
  }
  return false
}

function checkHeader({ bat: { header } }: ExpandingPart, report: CheckReport): void {
  const note = (code: string, at: number, message: string): void =>
    report.add({ code, severity: 'warning', structure: 'header', at, message })
  const { inUse, dataAt } = header.fields
  if (header.isOpened) {
    note('NOT_CLOSED', 44, 'its last writer did not close it: what was not flushed may be lost; --repair says that this is known')
  } else if (inUse !== IN_USE.closed && inUse !== IN_USE.unknown && !isPrintable(inUse)) {
    note('IN_USE_INVALID', 44, `it is marked with 0x${inUse.toString(16)}, which does not say whether it was closed`)
  }
  if (header.kind === 'extended' && (dataAt === 0 || header.dataAt % header.clusterSize !== 0)) {
    note('DATA_MISALIGNED', 48, `its data begins at ${header.dataAt}, which is no multiple of the cluster size`)
  }
  if (header.isEmpty) note('MARKED_EMPTY', 52, 'it is marked as empty, so it reads as zero whatever its BAT says')
}

/** Parallels Desktop leaves its version there, such as "pd17". */
function isPrintable(inUse: number): boolean {
  return [0, 8, 16, 24].every((shift) => ((inUse >>> shift) & 0xff) >= 0x20 && ((inUse >>> shift) & 0xff) < 0x7f)
}

function* checkExtension(part: ExpandingPart, census: Census, report: CheckReport): Io<'known' | 'opaque'> {
  const { header } = part.bat
  const note = (code: string, severity: 'error' | 'warning', message: string): void =>
    report.add({ code, severity, structure: 'format extension', at: header.extensionAt, message })
  let extension: Extension | undefined
  try {
    extension = yield* Extension.read(header, part.store)
  } catch (error) {
    if (!isVdiskError(error) || isVdiskError(error, 'IO')) throw error
    note('EXTENSION_DAMAGED', 'warning', `${reasonOf(error)}: who writes drops it, and backups begin anew`)
    census.claim(header.extensionAt)
    return 'opaque'
  }
  if (!extension) return 'known'
  for (const place of extension.places) {
    const fault = census.claim(place)
    if (fault) note(`EXTENSION_${ENTRY_FAULTS[fault].code}`, 'error', `a cluster of it lies at ${place}, ${ENTRY_FAULTS[fault].text}`)
  }
  for (const { id, size } of extension.bitmaps) {
    if (size === header.size) continue
    note('BITMAP_SIZE', 'warning', `dirty bitmap ${id} is about a disk of ${size} bytes, this one has ${header.size}`)
  }
  return extension.others.length > 0 ? 'opaque' : 'known'
}
