import { discardUndo, formatSize, planUndo, type UndoPlan, undoImage } from '../../lib/index.ts'
import { type FileArguments, fileOptions, toFileOptions } from '../arguments.ts'
import { defineCommand, EXIT } from '../command.ts'
import { fullSize, type Output, printable } from '../output.ts'
import { UsageError } from '../usage-error.ts'

interface Arguments extends FileArguments {
  image: string
  show: boolean
  discard: boolean
  force: boolean
}

export const command = defineCommand<Arguments>({
  usage: '<image>',
  describe:
    'Brings back every byte that an image had before the last verb that changed it, or was killed while it did: relink, resize,\nsnapshot create, revert and delete, check --repair. Refused if anything else has written to the image since.',
  examples: [
    ['vdisk undo disk.qcow2 --show', 'what would come back'],
    ['vdisk undo disk.qcow2', 'back, and the journal is gone'],
    ['vdisk undo disk.qcow2 --discard', 'keep the image as it is; the journal is gone'],
  ],
  afterInterrupt: 'If it had begun, the image is half as before: run the same command again.',
  options: (yargs) =>
    fileOptions(yargs)
      .positional('image', { type: 'string', demandOption: true })
      .option('show', { alias: 'dry-run', type: 'boolean', default: false, describe: 'tell, do nothing' })
      .option('discard', { type: 'boolean', default: false, describe: 'remove the journal, keep the image as it is' })
      .option('force', {
        type: 'boolean',
        default: false,
        describe: 'although the file was copied, or touched, since',
      }) as never,
  async run({ args, out }) {
    const { image, show, discard, force } = args
    const options = toFileOptions(args)
    if (show && discard) {
      throw new UsageError('Cannot use --show with --discard: one changes nothing', 'Give one of them.')
    }
    if (discard) {
      const { journal } = discardUndo(image, options)
      out.document({ image, discarded: journal })
      out.line(`${printable(image)} stays as it is; its undo journal is removed.`)
    } else if (show) {
      const plan = await planUndo(image, options)
      out.document({ plan })
      print(out, plan)
    } else {
      const plan = await undoImage(image, { ...options, force })
      out.document({ undone: plan })
      out.line(`Undone: ${printable(plan.words)}. ${printable(image)} is as it was before, to the byte.`)
    }
    return EXIT.ok
  },
})

/** Ranges that are listed for people. */
const SHOWN = 20

const STATES = {
  complete: 'done',
  open: 'cut short',
  undoing: 'being undone, cut short',
} as const

function print(out: Output, plan: UndoPlan): void {
  out.pairs([
    ['verb', plan.words],
    ['begun', new Date(plan.begun).toISOString().replace('T', ' ').slice(0, 19)],
    ['state', STATES[plan.state]],
    ['journal', plan.journal],
  ])
  for (const { file, size, ranges, objection } of plan.files) {
    out.line(`${printable(file)}: ${sizeOf(size)}`)
    for (const { at, length, zero } of ranges.slice(0, SHOWN)) {
      out.line(`  at ${String(at).padStart(14)}  ${formatSize(length)}${zero ? ' of zeros' : ''}`)
    }
    if (ranges.length > SHOWN) out.line(`  ... and ${ranges.length - SHOWN} more: --json has them all`)
    if (!objection) continue
    const beaten = objection.kind === 'time' ? '; --force undoes all the same' : ''
    out.line(`  ${out.paint('red', 'cannot be undone')}: ${objection.message}${beaten}`)
  }
}

function sizeOf({ now, before }: UndoPlan['files'][number]['size']): string {
  return now === before ? fullSize(now) : `${fullSize(now)} becomes ${fullSize(before)} again`
}
