import { UnitSet } from '../../bytes/unit-set.ts'
import type { CheckReport } from '../../contracts/check-report.ts'
import { reasonOf } from '../../errors.ts'
import { type Io, Pace } from '../../io/io.ts'
import type { QedLayer } from './layer.ts'

/** Looks at every entry: whether it leads to a cluster of the file, that nothing else has; and for clusters that are lost. */
export function* checkQed(layer: QedLayer, report: CheckReport): Io<void> {
  const { size, tableSpan, tableBytes, fields, end } = layer
  const { clusterSize, headerSize, l1At } = fields
  if (layer.needsCheck) {
    const message = 'the file was not closed: clusters may be lost'
    report.add({ code: 'NOT_CLOSED', severity: 'warning', structure: 'header', at: 16, message })
  }
  const clusters = Math.ceil(end / clusterSize)
  const used = new UnitSet()
  const pace = new Pace()
  const take = (at: number, length: number, guest: { offset: number; length: number }): void => {
    const [first, last] = [at / clusterSize, Math.min(clusters, Math.ceil((at + length) / clusterSize))]
    if (used.take({ first, count: last - first })) {
      const message = `what the disk has at ${guest.offset} lies at ${at}, where something else lies too`
      report.add({ code: 'CLUSTERS_OVERLAP', severity: 'error', structure: 'table', at, guest, message })
    }
  }
  used.take({ first: 0, count: Math.min(clusters, headerSize) })
  take(l1At, tableBytes, { offset: 0, length: 0 })
  for (let offset = 0; offset < size; offset += tableSpan) {
    report.advance(offset, size)
    yield* pace.keep()
    const table = yield* layer.tableAt(offset)
    if (table === 0) continue
    let isTaken = false
    for (let at = offset; at < Math.min(size, offset + tableSpan); at += clusterSize) {
      const guest = { offset: at, length: Math.min(clusterSize, size - at) }
      const entry = yield* layer.entry(at)
      const isTable = entry.kind === 'bad' && entry.at < l1At + tableBytes && entry.at >= l1At
      if (!isTable && !isTaken) take(table, tableBytes, { offset, length: Math.min(tableSpan, size - offset) })
      isTaken = true
      if (entry.kind === 'plain') take(entry.at, 1, guest)
      if (entry.kind !== 'bad') continue
      const message = reasonOf(layer.complaint(entry, at))
      report.add({ code: 'CLUSTER_MISPLACED', severity: 'error', structure: 'table', at: entry.at, guest, message })
      // One finding speaks for a table that is not there.
      if (isTable) break
    }
  }
  const lost = clusters - used.count
  if (lost === 0) return
  const message = `${lost} clusters of the file are named by no table`
  report.add({ code: 'CLUSTERS_LOST', severity: 'leak', structure: 'file', message })
}
