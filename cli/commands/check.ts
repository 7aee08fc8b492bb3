import { type CheckResult, checkImage, type Finding, formatSize } from '../../lib/index.ts'
import { BELIEVE, openOptions, toOpenOptions } from '../arguments.ts'
import { defineCommand } from '../command.ts'
import type { Output, Style } from '../output.ts'
import { printable } from '../output.ts'
import { undoOptions } from '../undo.ts'
import { UsageError } from '../usage-error.ts'
import { runRepair } from './check-repair.ts'

export const command = defineCommand({
  usage: '<image>',
  describe:
    'Looks for damage: in the structure of the image, and in its link to its parent; with --chain in every layer.\nEach finding tells the place in the file and the range of the disk that is concerned. Nothing is changed, except with\n--repair: then the structure is mended, and it is told which ranges of the disk may not read as they were written.',
  examples: [
    ['vdisk check server.qcow2', 'this image, and whether its parent is the right one'],
    ['vdisk check server.avhdx --chain', 'every layer, every link'],
    ['vdisk check server.qcow2 --repair --dry-run', 'what a repair would change, and what it would leave'],
    ['vdisk check server.qcow2 --repair', 'mend what is wrong, then check again'],
    ['vdisk check server.qcow2 --repair=leaks', 'only give back room that is lost'],
    ['vdisk check server.qcow2 --json', 'findings for programs'],
  ],
  exitCodes:
    '0 clean, 1 could not check or repair, 2 damage, 3 leaks only, 63 the format has nothing to check or repair, 130 interrupted; with --repair of what is left afterwards, or would be',
  options: (yargs) =>
    undoOptions(openOptions(yargs))
      .positional('image', { type: 'string', demandOption: true })
      .option('chain', { type: 'boolean', default: false, describe: 'check all parents too' })
      .option('repair', {
        alias: 'r',
        choices: ['leaks', 'all'] as const,
        describe: 'mend what is wrong: all of it if nothing is said, or only give back lost room',
      })
      .option('dry-run', {
        type: 'boolean',
        default: false,
        describe: 'with --repair: change nothing, tell what would be',
      })
      .option('force', {
        type: 'boolean',
        default: false,
        describe: `with --repair: although images that are built upon this one would change; ${BELIEVE}`,
      }),
  afterInterrupt: 'A repair that was begun has left the image no worse: begin it again. A check changes nothing.',
  async run({ args, out, signal }) {
    const options = { ...toOpenOptions(args), signal }
    if (args.repair !== undefined) {
      if (args.chain) {
        throw new UsageError(
          'Cannot run vdisk check: --repair mends one image, and --chain looks at several',
          'Repair the images of the chain one by one, the lowest first.',
        )
      }
      const wish = { ...options, scope: args.repair, dryRun: args['dry-run'], force: args.force }
      const left = await runRepair(args, wish, out, exitCodeOf)
      printCheck(out, left, exitCodeOf(left))
      return exitCodeOf(left)
    }
    if (args['dry-run']) {
      throw new UsageError('Cannot run vdisk check: --dry-run tells what --repair would do', 'Add --repair.')
    }
    const result = await out.follow(checkImage(args.image, { ...options, chain: args.chain }))
    const exit = exitCodeOf(result)
    out.document({ image: args.image, exitCode: exit, ...result })
    printCheck(out, result, exit)
    for (const name of result.mendable) {
      out.note(`what a repair would mend: vdisk check ${printable(name)} --repair --dry-run`)
    }
    return exit
  },
})

function exitCodeOf({ counts, checked, links }: CheckResult): number {
  if (counts.error > 0) return 2
  if (counts.leak > 0) return 3
  return checked.length === 0 && links.length === 0 ? 63 : 0
}

const STYLE: Record<Finding['severity'], Style> = { error: 'red', leak: 'yellow', warning: 'yellow' }

function printCheck(out: Output, result: CheckResult, exit: number): void {
  for (const finding of result.findings) {
    const where = [
      finding.at === undefined ? undefined : `at ${finding.at}`,
      finding.guest &&
        `disk ${finding.guest.offset} to ${finding.guest.offset + finding.guest.length} (${formatSize(finding.guest.length)})`,
    ].filter((part) => part !== undefined)
    out.line(
      `${out.paint(STYLE[finding.severity], finding.severity)}  ${finding.code}  ${printable(finding.layer)}: ${finding.structure}${where.length > 0 ? `, ${where.join(', ')}` : ''}`,
    )
    out.line(`    ${printable(finding.message)}`)
  }
  const total = result.counts.error + result.counts.leak + result.counts.warning
  if (total > result.findings.length) out.line(`... and ${total - result.findings.length} more of the kind`)
  for (const { child, parent, verdict } of result.links) {
    out.line(`${printable(child)} \u2192 ${printable(parent)}: ${verdict.level}, ${verdict.message}`)
  }
  for (const name of result.unchecked) out.line(`${printable(name)}: a raw image has no structure to check`)
  if (exit === 63) return
  const { error, leak, warning } = result.counts
  const what = [plural(error, 'error'), plural(leak, 'leak'), plural(warning, 'warning')].filter(
    (part) => part !== undefined,
  )
  out.line(what.length === 0 ? out.paint('green', 'No errors were found.') : `Found ${what.join(', ')}.`)
}

function plural(count: number, word: string): string | undefined {
  return count === 0 ? undefined : `${count} ${word}${count === 1 ? '' : 's'}`
}
