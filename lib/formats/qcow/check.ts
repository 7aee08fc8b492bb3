import { UnitSet } from '../../bytes/unit-set.ts'
import type { CheckReport } from '../../contracts/check-report.ts'
import { reasonOf } from '../../errors.ts'
import { type Io, Pace } from '../../io/io.ts'
import type { QcowLayer } from './layer.ts'
import { ENTRY, header, LIMIT } from './layout.ts'

/** Looks at every entry: whether it leads into the file, and to a place that nothing else has. */
export function* checkQcow(layer: QcowLayer, report: CheckReport): Io<void> {
  const { size, clusterSize, tableSpan, end, fields } = layer
  const used = new UnitSet()
  const pace = new Pace()
  const take = (at: number, length: number, offset: number, structure: string): void => {
    const first = Math.floor(at / clusterSize)
    const last = Math.ceil(Math.min(at + length, end) / clusterSize)
    const isShared = first < last && used.take({ first, count: last - first })
    if (isShared) {
      const guest = { offset, length: Math.min(structure === 'cluster' ? clusterSize : tableSpan, size - offset) }
      const message = `what the disk has at ${offset} lies at ${at}, where something else lies too`
      report.add({ code: 'CLUSTERS_OVERLAP', severity: 'error', structure, at, guest, message })
    }
  }
  // The name of the backing file follows the header; the L1 table may lie far behind.
  const headers = Math.max(1, Math.ceil(Math.min(fields.l1At, header.size + LIMIT.name) / clusterSize))
  used.take({ first: 0, count: headers })
  const firstOfTable = Math.max(headers, Math.floor(fields.l1At / clusterSize))
  const endOfTable = Math.ceil((fields.l1At + Math.ceil(size / tableSpan) * ENTRY) / clusterSize)
  if (firstOfTable < endOfTable) used.take({ first: firstOfTable, count: endOfTable - firstOfTable })
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
