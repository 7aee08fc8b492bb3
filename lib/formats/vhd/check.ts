import { roundDown, roundUp } from '../../bytes/align.ts'
import { ZERO_GUID } from '../../bytes/guid.ts'
import type { CheckReport, NewFinding } from '../../contracts/check-report.ts'
import type { Layer } from '../../contracts/layer.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { checkBatmap } from './batmap-check.ts'
import { Census } from './census.ts'
import { bytesOf } from './disk-geometry.ts'
import { FixedVhdLayer } from './fixed-layer.ts'
import { type Footer, type FooterCopy, type Footers, findFooters, readFooters } from './footer.ts'
import type { VhdLayer } from './layer.ts'
import { overreachOf, structureOverTable, wordsFor, wordsForOverlap } from './overreach.ts'
import type { VhdParts } from './parts.ts'
import { structuresOf } from './structures.ts'

/** Room is given back to the medium, and taken, in these. */
const PAGE = 4096
/** Bytes looked at a time. */
const PIECE = 256 << 10

/**
 * Looks at everything that a file says of itself.
 *
 * What makes a file unreadable is refused when it is opened; here is what can be read and is wrong all the same, what
 * is odd, and which room is lost.
 */
export function* checkVhd(layer: Layer, report: CheckReport): Io<void> {
  if (layer instanceof FixedVhdLayer) {
    checkFixed(yield* readFooters(layer, layer.store), report)
    return
  }
  const found = yield* findFooters(layer.store)
  const { structure } = layer as VhdLayer
  checkFooters(found, report)
  checkGeometry(structure.footer, report)
  checkParent(structure, report)
  yield* checkBlocks(structure, found, report)
  yield* checkBatmap(structure, report)
}

/** Room that the file has and nothing belongs to. */
export function* lostRoom(store: ByteStore, census: Census, end: number): Io<{ at: number; length: number }[]> {
  const rooms: { at: number; length: number }[] = []
  for (const { at, length } of census.unused(end)) {
    const first = roundUp(at, PAGE)
    const last = roundDown(at + length, PAGE)
    // What programs leave to align blocks is no loss.
    if (last - first >= PAGE && (yield* takesRoom(store, first, last - first))) rooms.push({ at, length })
  }
  return rooms
}

function checkFixed({ current, tail, fileSize }: Footers, report: CheckReport): void {
  checkGeometry(current, report)
  // A fixed disk has no other footer.
  const { at: tailAt, length } = tail as FooterCopy
  const behind = fileSize - tailAt - length
  if (behind > 0) {
    const message = `${behind} bytes follow behind the footer, which others will not find there: a growth was cut short`
    report.add({ code: 'FOOTER_NOT_LAST', severity: 'error', structure: 'footer', at: tailAt, message })
  }
  const between = tailAt - current.fields.currentSize
  if (between > 0) {
    const at = current.fields.currentSize
    const message = `${between} bytes between the disk and its footer belong to nothing`
    report.add({ code: 'ROOM_UNUSED', severity: 'leak', structure: 'file', at, message })
  }
}

function checkFooters({ tail, head, fileSize }: Omit<Footers, 'current'>, report: CheckReport): void {
  const note = (code: string, severity: NewFinding['severity'], at: number, message: string): void =>
    report.add({ code, severity, structure: 'footer', at, message })
  for (const [copy, where, at] of [
    [tail, 'at the end', fileSize - 512],
    [head, 'at the beginning', 0],
  ] as const) {
    if (!copy) note('FOOTER_MISSING', 'warning', at, `there is no footer ${where}: the other copy is in use`)
    else if (!copy.footer.isSound) {
      note('FOOTER_DAMAGED', 'warning', at, `the checksum of the footer ${where} is wrong: the other copy is in use`)
    }
  }
  if (!tail?.footer.isSound || !head?.footer.isSound || meaningOf(tail.footer) === meaningOf(head.footer)) return
  note('FOOTERS_DIFFER', 'error', 0, 'the footer and its copy do not say the same; that at the end is in use')
}

/** What of a footer decides which disk it is of. */
function meaningOf({ fields: { dataOffset, currentSize, type, uniqueId } }: Footer): string {
  return [dataOffset, currentSize, type, uniqueId].join()
}

function checkGeometry(footer: Footer, report: CheckReport): void {
  const { currentSize, creator } = footer.fields
  const shown = bytesOf(footer.fields)
  if (footer.sizeIsBelieved || shown === currentSize) return
  report.add({
    code: 'GEOMETRY_DISAGREES',
    severity: 'warning',
    structure: 'footer',
    message: `the disk has ${currentSize} bytes, by its geometry ${shown}: programs that go by that, such as QEMU for a disk of "${creator.trim()}", see another size`,
  })
}

function checkParent({ footer, header, names }: VhdParts, report: CheckReport): void {
  if (!footer.isDifferencing) return
  const note = (message: string): void =>
    report.add({
      code: 'PARENT_LOCATOR_INVALID',
      severity: 'error',
      structure: 'dynamic disk header',
      at: footer.fields.dataOffset,
      message: `the parent cannot be known for certain: ${message}`,
    })
  if (header.fields.parentId === ZERO_GUID) note('the child has no id of it')
  if (names.length === 0) note('the child has no name for it')
}

function* checkBlocks(
  parts: VhdParts,
  { tail, fileSize }: Pick<Footers, 'tail' | 'fileSize'>,
  report: CheckReport,
): Io<void> {
  const end = tail?.at ?? fileSize
  const { table, footer, image } = parts
  const over = structureOverTable(parts)
  if (over) {
    const { tableAt: at } = table.shape
    report.add({ code: 'BAT_OVERLAPS', severity: 'error', structure: 'BAT', at, message: wordsForOverlap(over) })
  }
  const overreach = yield* overreachOf(parts)
  if (overreach) {
    report.add({
      code: 'BAT_TOO_LARGE',
      severity: 'error',
      structure: 'dynamic disk header',
      at: footer.fields.dataOffset,
      message: `${wordsFor(parts, overreach)}. Mend it before anything is written to it: vdisk check IMAGE --repair`,
    })
  }
  const census = new Census(table, structuresOf(parts), report)
  // Of such a header nobody knows what of the rest are entries.
  yield* census.take(overreach ? table.blocks : table.shape.entryCount)
  for (const { at, length } of yield* lostRoom(image.store, census, end)) {
    const message = `${length} bytes at ${at} belong to nothing`
    report.add({ code: 'ROOM_UNUSED', severity: 'leak', structure: 'file', at, message })
  }
}

/** Whether anything but zeros lies in a part of a file; its holes are passed over. */
function* takesRoom(store: ByteStore, at: number, length: number): Io<boolean> {
  const bytes = new Uint8Array(Math.min(PIECE, length))
  for (let done = 0; done < length; ) {
    const segment = store.segment && (yield* settle(store.segment(at + done)))
    if (segment?.kind === 'hole') {
      done += segment.length
      continue
    }
    const part = bytes.subarray(0, length - done)
    yield* settle(store.read(at + done, part))
    if (part.some((byte) => byte !== 0)) return true
    done += part.length
  }
  return false
}
