import {
  type CheckResult,
  type DoubtfulRange,
  formatSize,
  type RepairOptions,
  type RepairResult,
  repairImage,
} from '../../lib/index.ts'
import { type Output, printable } from '../output.ts'
import { noteUndo, type UndoArguments, withUndo } from '../undo.ts'

/** Repairs an image and prints what was done. @returns what a check finds afterwards */
export async function runRepair(
  args: UndoArguments & { image: string },
  options: RepairOptions,
  out: Output,
  exitCodeOf: (left: CheckResult) => number,
): Promise<CheckResult> {
  const { image } = args
  const { result, kept } = await withUndo(args, out, (undo) => out.follow(repairImage(image, { ...options, undo })))
  const { repaired, count, doubtful, left } = result
  const { scope = 'all', dryRun = false } = options
  out.document({ image, exitCode: exitCodeOf(left), scope, dryRun, repaired, count, doubtful, left, undo: kept })
  print(out, result, dryRun)
  noteUndo(out, image, kept)
  return left
}

function print(out: Output, { repaired, count, doubtful }: RepairResult, dryRun: boolean): void {
  for (const { code, structure, at, message } of repaired) {
    out.line(
      `${out.paint('cyan', dryRun ? 'would mend' : 'mended')}  ${code}  ${printable(structure)}${at === undefined ? '' : `, at ${at}`}`,
    )
    out.line(`    ${printable(message)}`)
  }
  if (count > repaired.length) out.line(`... and ${count - repaired.length} more of the kind`)
  for (const range of doubtful) out.line(`${out.paint('yellow', 'doubtful')}  ${rangeText(range)}`)
  if (doubtful.length > 0) {
    out.line(
      '    What is read there may not be what was written. Restore it from a backup, or check the file systems in it.',
    )
  }
  if (count === 0) out.line('There is nothing to repair.')
  else if (dryRun) out.line('Nothing was changed. After a repair:')
  else out.line('The image was checked again:')
}

function rangeText({ offset, length, snapshot }: DoubtfulRange): string {
  const where = snapshot === undefined ? 'disk' : `snapshot ${printable(snapshot)}`
  return `${where} ${offset} to ${offset + length} (${formatSize(length)})`
}
