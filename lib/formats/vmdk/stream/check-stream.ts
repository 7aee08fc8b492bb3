import type { CheckReport, NewFinding } from '../../../contracts/check-report.ts'
import { type Io, Pace } from '../../../io/io.ts'
import { GRAIN_ENTRY, SECTOR } from '../layout.ts'
import { blockAt, type StreamBlock } from './blocks.ts'
import { overheadComplaint } from './overhead.ts'
import type { StreamFile } from './stream-file.ts'

type FindingOf<Kept extends string> = Omit<NewFinding, 'structure' | Kept>

/**
 * Checks a stream both ways: every entry of a table must lead to a grain that says it belongs there, and every grain that
 * is met on the way from front to back must be the one its table names. For some programs read by the one, and some by the
 * other. Nothing is unpacked.
 *
 * @param start bytes on the disk where the extent begins
 */
export function* checkStream(file: StreamFile, start: number, report: CheckReport): Io<void> {
  const pace = new Pace()
  const complaint = overheadComplaint(file.header, file.end)
  if (complaint !== undefined) {
    report.add({
      code: 'OVERHEAD_WRONG',
      severity: 'error',
      structure: 'header',
      at: 0,
      message: `The header is wrong: ${complaint}.`,
    })
  }
  yield* checkTables(file, start, report, pace)
  // With tables before the grains it is no stream, only packed: what lies behind the last grain is of no meaning then.
  if (file.header.directoryAt >= file.header.overhead) yield* checkWay(file, start, report, pace)
}

function* checkTables(file: StreamFile, start: number, report: CheckReport, pace: Pace): Io<void> {
  const { grains, header } = file
  const { grainBytes, size } = header
  const count = Math.ceil(size / grainBytes)
  for (let grain = 0; grain < count; ) {
    report.advance(grain * grainBytes, 2 * size)
    yield* pace.keep()
    const table = yield* grains.load(grain)
    if (!table) {
      grain += grains.emptyRun(grain)
      continue
    }
    const last = Math.min(count, grain + grains.restOfTable(grain))
    for (; grain < last; grain++) {
      const entry = grains.entryOf(table, grain)
      if (entry === GRAIN_ENTRY.silent || (entry === GRAIN_ENTRY.zero && header.zeroedGrains)) continue
      const problem = yield* problemOf(file, grain, entry * SECTOR)
      if (!problem) continue
      const offset = grain * grainBytes
      const guest = { offset: start + offset, length: Math.min(grainBytes, size - offset) }
      report.add({ ...problem, severity: 'error', structure: 'grain table', guest })
    }
  }
}

/** What is wrong with the entry of a grain that should lie at a place. */
function* problemOf(file: StreamFile, grain: number, at: number): Io<FindingOf<'severity'> | undefined> {
  const { store, grains, header, end } = file
  const { fields } = header
  if (at < header.overhead || at >= end) {
    return { code: 'ENTRY_OUTSIDE', at, message: `Grain ${grain} should lie at ${at}, where no grain can be.` }
  }
  const block = yield* blockAt(store, at, end, fields)
  if (block?.kind !== 'grain') {
    return { code: 'NO_GRAIN', at, message: `Grain ${grain} should lie at ${at}, where there is none.` }
  }
  const own = block.sector / fields.grainSize
  if (own === grain) return undefined
  const table = yield* grains.load(own)
  const shared = table && grains.entryOf(table, own) * SECTOR === at
  return shared
    ? {
        code: 'CROSS_LINKED',
        at,
        message: `Grain ${grain} is said to lie at ${at}, and so is grain ${own}, whose it is.`,
      }
    : {
        code: 'WRONG_GRAIN',
        at,
        message: `Grain ${grain} should lie at ${at}; what lies there says it is grain ${own}.`,
      }
}

/** Goes through the stream as an importer does. */
function* checkWay(file: StreamFile, start: number, report: CheckReport, pace: Pace): Io<void> {
  const { store, header, end } = file
  let highest = -1
  let disorder = false
  let block: StreamBlock | undefined
  for (let at = header.overhead; ; at = block.next) {
    report.advance(Math.round(header.size * (1 + at / end)), 2 * header.size)
    yield* pace.keep()
    block = yield* blockAt(store, at, end, header.fields)
    if (!block) {
      const message = 'What lies there is no marker: who reads the stream from front to back ends here.'
      return report.add(onWay({ code: 'BAD_MARKER', severity: 'error', at, message }))
    }
    if (block.kind === 'end') break
    if (block.kind === 'grain') {
      disorder ||= block.sector < highest
      highest = Math.max(highest, block.sector)
      yield* checkGrain(file, start, block, report)
    }
    if (block.kind === 'directory' && block.content !== header.directoryAt) {
      const message = `A grain directory lies there; the footer says that it is the one at ${header.directoryAt}.`
      report.add(onWay({ code: 'MARKERS_DISAGREE', severity: 'error', at, message }))
    }
  }
  if (disorder) {
    const message = 'Its grains are not in the order of the disk, and some importers want that.'
    report.add(onWay({ code: 'OUT_OF_ORDER', severity: 'warning', message }))
  }
  if (block.next < end) {
    const message = `The stream ends at ${block.next}, and the file goes on to ${end}.`
    report.add(onWay({ code: 'TRAILING_DATA', severity: 'warning', at: block.next, message }))
  }
}

function* checkGrain(
  { grains, header }: StreamFile,
  start: number,
  { at, sector }: Extract<StreamBlock, { kind: 'grain' }>,
  report: CheckReport,
): Io<void> {
  const grain = sector / header.fields.grainSize
  const table = yield* grains.load(grain)
  if (table && grains.entryOf(table, grain) * SECTOR === at) return
  const offset = sector * SECTOR
  const guest = { offset: start + offset, length: Math.min(header.grainBytes, header.size - offset) }
  const message = `It is of sector ${sector}, and the table does not lead there: some programs read it, others do not.`
  report.add(onWay({ code: 'MARKERS_DISAGREE', severity: 'error', at, guest, message }))
}

function onWay(finding: FindingOf<never>): NewFinding {
  return { ...finding, structure: 'stream' }
}
