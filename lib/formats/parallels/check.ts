import type { CheckReport, NewFinding } from '../../contracts/check-report.ts'
import { isVdiskError, reasonOf } from '../../errors.ts'
import { type Io, Pace, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { entryPlace } from './bat.ts'
import { Census, type EntryFault, type FaultyEntry } from './census.ts'
import { Extension } from './extension.ts'
import { IN_USE, SECTOR } from './layout.ts'
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
export function placeOfEntry(
  { cluster }: FaultyEntry,
  part: ExpandingPart,
): Pick<NewFinding, 'at' | 'guest' | 'structure'> {
  const { header } = part.bat
  const offset = cluster * header.clusterSize
  const length = Math.max(0, Math.min(header.clusterSize, header.size - offset))
  return { structure: 'BAT', at: entryPlace(cluster), guest: length > 0 ? { offset, length } : undefined }
}

/** An image of a bundle: where it begins on the disk, and what the descriptor calls it. */
export interface Member {
  readonly shift: number
  readonly file: string
}

/** Looks at everything that an expanding image says of itself: header, BAT, extension, and room that nobody uses. */
export function* checkExpanding(part: ExpandingPart, whole: CheckReport, member?: Member): Io<void> {
  const { header } = part.bat
  const shift = member?.shift ?? 0
  const report: Pick<CheckReport, 'add' | 'advance'> = {
    add: (found) =>
      whole.add({
        ...found,
        structure: member ? `${found.structure} of ${member.file}` : found.structure,
        guest: found.guest && { offset: found.guest.offset + shift, length: found.guest.length },
      }),
    advance: (done, total) => whole.advance(done, total),
  }
  checkHeader(part, report)
  const fileEnd = yield* settle(part.store.size())
  const census = new Census(part.bat, fileEnd)
  const extension = yield* checkExtension(part, census, report)
  yield* census.take(
    (found) => {
      const { code, text } = ENTRY_FAULTS[found.fault]
      report.add({
        code,
        severity: found.fault === 'stale' ? 'warning' : 'error',
        ...placeOfEntry(found, part),
        message: `cluster ${found.cluster} lies at ${found.place}, ${text}`,
      })
    },
    (done, total) => report.advance(done, total),
  )
  if (header.isEmpty && census.namesAny) {
    report.add({
      code: 'EMPTY_WITH_CLUSTERS',
      severity: 'error',
      structure: 'header',
      at: 52,
      message:
        'it is marked as empty, but its BAT names clusters: what they hold is not shown, and nobody should write',
    })
  }
  // Clusters of features that are not known are nobody else's business.
  if (extension === 'opaque' || !census.isWhole || header.isOpened) return
  for (const { at, length } of census.unused()) {
    const isEnd = at + length === fileEnd
    if (!isEnd && !(yield* holdsAnything(part.store, at, length))) continue
    report.add({
      code: isEnd ? 'ROOM_AT_END' : 'CLUSTER_LEAKED',
      severity: 'leak',
      structure: 'file',
      at,
      message: `${length} bytes at ${at} belong to nothing${isEnd ? ', up to the end of the file' : ''}`,
    })
  }
}

/** Bytes read at a time. */
const PIECE = 256 << 10

/**
 * Whether unused clusters hold anything. What was given up is punched, and a medium that cannot do so as finely as clusters lie
 * keeps room for zeros: nobody lost that.
 */
export function* holdsAnything(store: ByteStore, at: number, length: number): Io<boolean> {
  const buffer = Buffer.alloc(Math.min(PIECE, length))
  const zeros = Buffer.alloc(buffer.length)
  const pace = new Pace()
  for (let place = at; place < at + length; ) {
    const segment = store.segment && (yield* settle(store.segment(place)))
    const end = Math.min(at + length, place + (segment?.length ?? length))
    for (; segment?.kind !== 'hole' && place < end; place += buffer.length) {
      const part = buffer.subarray(0, Math.min(buffer.length, end - place))
      yield* settle(store.read(place, part))
      if (!part.equals(zeros.subarray(0, part.length))) return true
      yield* pace.keep()
    }
    place = end
  }
  return false
}

function checkHeader({ bat: { header } }: ExpandingPart, report: Pick<CheckReport, 'add'>): void {
  const note = (code: string, at: number, message: string): void =>
    report.add({ code, severity: 'warning', structure: 'header', at, message })
  const { inUse, dataAt } = header.fields
  if (header.isOpened) {
    note(
      'NOT_CLOSED',
      44,
      'its last writer did not close it: what was not flushed may be lost; --repair says that this is known',
    )
  } else if (inUse !== IN_USE.closed && inUse !== IN_USE.unknown && !isPrintable(inUse)) {
    note('IN_USE_INVALID', 44, `it is marked with 0x${inUse.toString(16)}, which does not say whether it was closed`)
  }
  if (header.isTooFar) {
    const message = `its data begins at ${header.dataAt}, farther than a header can say: nobody should write`
    report.add({ code: 'DATA_TOO_FAR', severity: 'error', structure: 'header', at: 48, message })
  }
  if (header.kind === 'extended' && (dataAt === 0 || header.dataAt !== dataAt * SECTOR)) {
    note('DATA_MISALIGNED', 48, `its data begins at ${dataAt * SECTOR}, which is no place that its BAT could name`)
  }
  if (header.isEmpty) note('MARKED_EMPTY', 52, 'it is marked as empty, so it reads as zero whatever its BAT says')
}

/** Parallels Desktop leaves its version there, such as "pd17". */
function isPrintable(inUse: number): boolean {
  return [0, 8, 16, 24].every((shift) => ((inUse >>> shift) & 0xff) >= 0x20 && ((inUse >>> shift) & 0xff) < 0x7f)
}

function* checkExtension(
  part: ExpandingPart,
  census: Census,
  report: Pick<CheckReport, 'add'>,
): Io<'known' | 'opaque'> {
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
    if (fault)
      note(
        `EXTENSION_${ENTRY_FAULTS[fault].code}`,
        'error',
        `a cluster of it lies at ${place}, ${ENTRY_FAULTS[fault].text}`,
      )
  }
  for (const { id, size } of extension.bitmaps) {
    if (size === header.size) continue
    note('BITMAP_SIZE', 'warning', `dirty bitmap ${id} is about a disk of ${size} bytes, this one has ${header.size}`)
  }
  return extension.others.length > 0 ? 'opaque' : 'known'
}
