import { type DiskContent, formatSize, type PartitionContent } from '../lib/index.ts'
import { fullSize, type Output, printable } from './output.ts'

/** Prints what a disk holds: a line for each partition. */
export function printContent(out: Output, image: string, content: DiskContent): void {
  const { table, filesystem, partitions } = content
  out.pairs([
    ['disk of', image],
    ['disk size', fullSize(content.size)],
    ['partitions', table ? `${table.kind.toUpperCase()} ${table.id}, in sectors of ${table.sectorSize}` : 'no table'],
    ['holds', table ? undefined : holds(filesystem) || 'nothing that is known here'],
  ])
  if (partitions.length > 0) {
    const rows = [
      ['', 'start', 'size', 'type', 'holds'],
      ...partitions.map((partition) => [
        `${partition.number}`,
        formatSize(partition.start),
        formatSize(partition.length),
        printable(partition.typeName ?? partition.type),
        printable(contentOf(partition)),
      ]),
    ]
    for (const [i, line] of aligned(rows).entries()) out.line(i === 0 ? out.paint('dim', line) : line)
  }
  for (const note of content.notes) out.note(printable(note))
}

function contentOf(partition: PartitionContent): string {
  const { damaged, label, filesystem, bootable } = partition
  if (damaged !== undefined) return `damaged: ${damaged}`
  const name = label === undefined ? '' : `"${label}"`
  return [holds(filesystem), name, bootable ? '(bootable)' : ''].filter((part) => part !== '').join(' ')
}

function holds(filesystem: DiskContent['filesystem']): string {
  if (!filesystem) return ''
  const { type, label, uuid, remark } = filesystem
  const parts = [type, label === undefined ? '' : `"${label}"`, uuid ?? '', remark === undefined ? '' : `(${remark})`]
  return parts.filter((part) => part !== '').join(' ')
}

/** Rows in columns; the first three are numbers. */
function aligned(rows: readonly (readonly string[])[]): string[] {
  const widths = (rows[0] ?? []).map((_, column) =>
    rows.reduce((most, row) => Math.max(most, row[column]?.length ?? 0), 0),
  )
  const pad = (cell: string, column: number): string =>
    column < 3 ? cell.padStart(widths[column] as number) : cell.padEnd(widths[column] as number)
  return rows.map((row) => row.map(pad).join('  ').trimEnd())
}
