import { ask, assertOneImage, holderOf } from '../../fuse/control/control-client.ts'
import { fileIdOf, formatSize, type Resized, resizeDisk } from '../../lib/index.ts'
import { openOptions, toOpenOptions, toSize } from '../arguments.ts'
import { defineCommand, EXIT } from '../command.ts'
import { printable } from '../output.ts'
import { noteUndo, undoOptions, withUndo } from '../undo.ts'
import { UsageError } from '../usage-error.ts'

export const command = defineCommand({
  usage: '<image> <size>',
  describe:
    'Changes the size of a disk, mounted or not. What is new reads as zero. Partitions and file systems inside are not touched.',
  examples: [
    ['vdisk resize disk.qcow2 40G', 'to this size'],
    ['vdisk resize disk.vhdx +10G', 'by this much'],
    ['vdisk resize disk.qcow2 20G --shrink', 'smaller: what lies behind is lost'],
  ],
  options: (yargs) =>
    undoOptions(openOptions(yargs))
      .positional('image', { type: 'string', demandOption: true })
      .positional('size', { type: 'string', demandOption: true, describe: 'such as 40G, +10G or -5G' })
      .option('shrink', { type: 'boolean', default: false, describe: 'allow the disk to become smaller' })
      .option('force', { type: 'boolean', default: false, describe: 'although other images are built upon this one' }),
  async run({ args, out, signal }) {
    const sign = /^[+-]/.exec(args.size)?.[0]
    const amount = toSize(args.size.replace(/^[+-](?=[\d.])/, ''), 'SIZE')
    const step = sign === '-' ? -amount : amount
    const held = await resizeHeld(args, sign === undefined ? { size: amount } : { by: step })
    const { result, kept } = held
      ? { result: held, kept: undefined }
      : await withUndo(args, out, (undo) =>
          resizeDisk(args.image, sign === undefined ? amount : (before) => afterStep(before, step), {
            ...toOpenOptions(args),
            shrink: args.shrink,
            force: args.force,
            undo,
            signal,
          }),
        )
    out.document({ image: args.image, ...result, undo: kept })
    out.line(`${printable(args.image)}: ${formatSize(result.before)} \u2192 ${formatSize(result.after)}`)
    if (held && args.undo) out.note('it is mounted, and its server keeps no undo journal: this cannot be undone')
    noteUndo(out, args.image, kept)
    return EXIT.ok
  },
})

/** Asks the server of the mount, if the image is mounted: its users see the new size at once. */
async function resizeHeld(
  { image: given, shrink, force }: { image: string; shrink: boolean; force: boolean },
  wish: { size: number } | { by: number },
): Promise<Resized | undefined> {
  const held = holderOf(given)
  if (!held) return undefined
  const image = assertOneImage(held, given)
  // The overlay is what is mounted; whoever names the image beneath it means that, and is told that it has a child.
  if (image.overlay !== undefined && fileIdOf(given) === fileIdOf(image.image)) return undefined
  if ('by' in wish) {
    const { size } = await ask<{ size: number }>({ record: held.record, image }, 'map', { count: 1 })
    afterStep(size, wish.by)
  }
  return await ask<Resized>({ record: held.record, image }, 'resize', { ...wish, shrink, force })
}

function afterStep(before: number, step: number): number {
  if (before + step >= 0) return before + step
  throw new UsageError(
    `Cannot make the disk ${formatSize(-step)} smaller: it has ${formatSize(before)}`,
    'Give a smaller step, or the new size itself.',
  )
}
