import { Bitmap } from '../../bytes/bitmap.ts'
import type { CheckReport } from '../../contracts/check-report.ts'
import { reasonOf } from '../../errors.ts'
import { type Io, Pace } from '../../io/io.ts'
import type { QcowLayer } from './layer.ts'
import { ENTRY } from './layout.ts'

/** Looks at every entry: whether it leads into the file, and to a place that nothing else has. */
export function* checkQcow(layer: QcowLayer, report: CheckReport): Io<void> {
  const { size, clusterSize, tableSpan, end, fields } = layer
  const used = Bitmap.empty(Math.ceil(end / clusterSize))
  const pace = new Pace()
  const take = (at: number, length: number, offset: number, structure: string): void => {
    const [first, last] = [Math.floor(at / clusterSize), Math.ceil((at + length) / clusterSize)]
    const isFree =
      first >= used.length ||
      (!used.has(first) && used.runEnd(first, Math.min(last, used.length)) >= Math.min(last, used.length))
    if (!isFree) {
      const guest = { offset, length: Math.min(structure === 'cluster' ? clusterSize : tableSpan, size - offset) }
      const message = `what the disk has at ${offset} lies at ${at}, where something else lies too`
      report.add({ code: 'CLUSTERS_OVERLAP', severity: 'error', structure, at, guest, message })
    }
    used.fill(first, Math.min(used.length, last))
  }
  take(0, fields.l1At + Math.ceil(size / tableSpan) * ENTRY, 0, 'header')
  for (let offset = 0; offset < size; offset += tableSpan) {
    report.advance(offset, size)
    yield* pace.keep()
    const table = yield* layer.tableAt(offset)
    if (table === 0) continue
    if (table + 2 ** fields.l2Bits * ENTRY <= end) take(table, 2 ** fields.l2Bits * ENTRY, offset, 'L2 table')
    for (let at = offset; at < Math.min(size, offset + tableSpan); at += clusterSize) {
      const entry = yield* layer.entry(at)
      if (entry.kind === 'plain') take(entry.at, Math.min(clusterSize, end - entry.at), at, 'cluster')
      if (entry.kind !== 'bad') continue
      const complaint = layer.complaint(entry, at)
      const guest = { offset: at, length: Math.min(clusterSize, size - at) }
      report.add({
        code: 'CLUSTER_MISPLACED',
        severity: 'error',
        structure: 'L2 table',
        at: entry.at,
        guest,
        message: reasonOf(complaint),
      })
      // One finding speaks for a table that is not there.
      if (table % ENTRY !== 0 || table + 2 ** fields.l2Bits * ENTRY > end) break
    }
  }
}
