import { Bitmap } from '../../bytes/bitmap.ts'
import type { CheckReport, NewFinding } from '../../contracts/check-report.ts'
import { isVdiskError } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import { BatCensus, takesRoom } from './census.ts'
import { HEADER_PLACES, LIMIT, PAYLOAD, REGION_TABLE_PLACES } from './layout.ts'
import { complaintsAbout } from './linkage.ts'
import type { VhdxParts } from './parts.ts'

/**
 * Looks at everything that a file says of itself, as its log leaves it.
 *
 * What makes a file unreadable is refused when it is opened; here is what can be read and is wrong all the same, what
 * is odd, and which room is lost. Findings name the place in the file and, where guest data is concerned, the range of
 * the disk.
 */
export function* checkVhdx(parts: VhdxParts, report: CheckReport): Io<void> {
  checkHeaderSection(parts, report)
  checkMetadata(parts, report)
  const { bat, image } = parts
  const size = yield* settle(bat.view.size())
  // A sparse file can say that it is longer than any medium: of what lies so far out no account is kept.
  const fileEnd = Math.min(size, LIMIT.fileBytes)
  if (fileEnd < size) {
    const message = `the file has ${size} bytes, more than any VHDX needs: what lies behind ${fileEnd} counts as lost`
    report.add({ code: 'FILE_TOO_LARGE', severity: 'error', structure: 'file', at: fileEnd, message })
  }
  const census = new BatCensus(bat, report, fileEnd)
  yield* census.take()
  yield* checkLastBits(parts, report)
  for (const { at, length } of census.unused()) {
    if (!(yield* takesRoom(image.store, at, Math.min(length, (yield* settle(image.store.size())) - at)))) continue
    report.add({
      code: 'ROOM_UNUSED',
      // No leak in the sense of counts: real programs leave gaps between regions, and a copy may fill them with zeros.
      severity: 'warning',
      structure: 'file',
      at,
      message: `${length} bytes at ${at} belong to nothing`,
    })
  }
}

function checkHeaderSection({ headers, bat, pendingLog }: VhdxParts, report: CheckReport): void {
  const note = (code: string, severity: NewFinding['severity'], structure: string, at: number, message: string): void =>
    report.add({ code, severity, structure, at, message })
  for (const [slot, at] of HEADER_PLACES.entries()) {
    if (headers.valid[slot]) continue
    note('HEADER_DAMAGED', 'warning', 'header', at, 'one of the two headers is damaged: the other one is in use')
  }
  for (const [slot, at] of REGION_TABLE_PLACES.entries()) {
    const copy = bat.regions.copies[slot]
    if (copy === 'damaged') {
      note(
        'REGION_TABLE_DAMAGED',
        'warning',
        'region table',
        at,
        'one of its two copies is damaged: the other is in use',
      )
    } else if (copy === 'differs') {
      note('REGION_TABLES_DIFFER', 'error', 'region table', at, 'its two copies are valid but not the same')
    }
  }
  if (!pendingLog) return
  note(
    'LOG_PENDING',
    'warning',
    'log',
    headers.logOffset,
    `the file was not closed: ${pendingLog.entries} log entries are replayed when it is next opened for writing`,
  )
}

function checkMetadata({ metadata, locator }: VhdxParts, report: CheckReport): void {
  const { locatorAt: at } = metadata
  for (const complaint of locator ? complaintsAbout(locator) : []) {
    report.add({
      code: 'PARENT_LOCATOR_INVALID',
      severity: 'error',
      structure: 'parent locator',
      at,
      message: `the parent cannot be known for certain: ${complaint}`,
    })
  }
  if (metadata.hasParent || !metadata.locator) return
  report.add({
    code: 'LOCATOR_WITHOUT_PARENT',
    severity: 'warning',
    structure: 'parent locator',
    at,
    message: 'there is a parent locator, but the file parameters say that there is no parent',
  })
}

/** Bits of sectors behind the end of the disk mean nothing, and would show if it grew. */
function* checkLastBits({ bat, geometry }: VhdxParts, report: CheckReport): Io<void> {
  const block = geometry.blocks - 1
  const used = block < 0 ? 0 : geometry.usedOf(block)
  if (block < 0 || used === geometry.blockSize || !geometry.hasParent) return
  try {
    if ((yield* bat.entry(block)).state !== PAYLOAD.partiallyPresent) return
    const bitsAt = yield* bat.bitsPlace(block)
    for (let sector = used / geometry.sectorSize; sector < geometry.sectorsPerBlock; ) {
      const byte = bitsAt + (sector >>> 3)
      const page = bat.tables.peek(byte) ?? (yield* bat.tables.load(byte))
      const bits = new Bitmap(page.bytes)
      const bit = (byte - page.at) * 8 + (sector & 7)
      const end = Math.min(bits.length, bit + geometry.sectorsPerBlock - sector)
      if (bits.has(bit) || bits.runEnd(bit, end) !== end) {
        report.add({
          code: 'BITS_PAST_END',
          severity: 'warning',
          structure: 'sector bitmap',
          at: byte,
          message: 'sectors behind the end of the disk are marked as present',
        })
        return
      }
      sector += end - bit
    }
  } catch (error) {
    // What is wrong with the entry or its bitmap was told with the entry.
    if (!isVdiskError(error, 'CORRUPT')) throw error
  }
}
