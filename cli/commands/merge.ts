import { expectCopying, formatSize, type MergePlan, mergeImage, planMerge } from '../../lib/index.ts'
import { openOptions, toOpenOptions } from '../arguments.ts'
import { defineCommand, EXIT } from '../command.ts'
import { type Output, printable } from '../output.ts'

export const command = defineCommand({
  usage: '<image>',
  describe:
    'Merges an image into its parent, or with --into all layers down to an ancestor. The disk stays the same. Images built\nupon the merged one are pointed at the ancestor. Killed at any moment it leaves the old chain or the new one. The merged\nfiles stay, marked as history, unless --delete is given.',
  examples: [
    ['vdisk merge leaf.avhdx --plan', 'what would happen, and whom it would break'],
    ['vdisk merge leaf.avhdx', 'into its parent'],
    ['vdisk merge leaf.avhdx --into base.vhdx --delete', 'fifteen checkpoints at once, and clean up'],
    ['vdisk merge middle.qcow2', 'a layer in the middle: what is above goes on upon its parent'],
  ],
  options: (yargs) =>
    openOptions(yargs)
      .positional('image', { type: 'string', demandOption: true })
      .option('into', { type: 'string', describe: 'ancestor that takes the content, default the parent' })
      .option('plan', { alias: 'dry-run', type: 'boolean', default: false, describe: 'tell, do nothing' })
      .option('delete', { type: 'boolean', default: false, describe: 'remove the merged files at the end' })
      .option('compare', {
        type: 'boolean',
        default: false,
        describe: 'read both chains and compare before the old one is given up',
      })
      .option('force', {
        type: 'boolean',
        default: false,
        describe: 'although links do not match or other images will break',
      }),
  afterInterrupt: 'The disk reads as before. Run the same merge again: it begins anew and leaves nothing half done.',
  async run({ args, out, signal }) {
    const options = {
      ...toOpenOptions(args),
      into: args.into,
      force: args.force,
      delete: args.delete,
      compare: args.compare,
      signal,
    }
    if (args.plan) {
      const plan = await planMerge(args.image, options)
      out.document({ plan })
      print(out, plan)
      return EXIT.ok
    }
    expectCopying()
    if (args.force) warn(out, await planMerge(args.image, options))
    const merged = await out.follow(mergeImage(args.image, options))
    out.document({ merged })
    out.line(
      `Merged ${merged.merged.map(printable).join(', ')} into ${printable(merged.into)}: ${formatSize(merged.bytes)} copied.`,
    )
    if (merged.repointed.length > 0) out.line(`Now built upon it: ${merged.repointed.map(printable).join(', ')}`)
    out.line(
      merged.deleted
        ? 'The merged files are removed.'
        : 'The merged files are still there, marked as history. Remove them when you are sure.',
    )
    return EXIT.ok
  },
})

function print(out: Output, plan: MergePlan): void {
  out.pairs([
    ['into', plan.into],
    ['merged', plan.merged.join(', ')],
    ['to copy', plan.complete ? 'nothing, it reads the same already' : `at most ${formatSize(plan.bytes)}`],
    [
      'disk size',
      plan.size.before === plan.size.after
        ? formatSize(plan.size.after)
        : `${formatSize(plan.size.before)} becomes ${formatSize(plan.size.after)}`,
    ],
    ['repointed', plan.repointed.join(', ') || undefined],
    ['would break', plan.broken.join(', ') || undefined],
    ['history', plan.complete ? undefined : plan.history.join(', ') || undefined],
    ['not sound', plan.unsound.join('; ') || undefined],
  ])
}

function warn(out: Output, plan: MergePlan): void {
  for (const file of plan.broken) out.note(`${printable(file)} is built upon what changes now, and will read wrong`)
  for (const link of plan.unsound) out.note(`merging although a link does not match: ${printable(link)}`)
}
