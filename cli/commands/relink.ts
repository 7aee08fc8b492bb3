import { relink } from '../../lib/index.ts'
import { noteOnFolder, openOptions, toOpenOptions } from '../arguments.ts'
import { defineCommand, EXIT } from '../command.ts'
import { printable } from '../output.ts'
import { noteUndo, undoOptions, withUndo } from '../undo.ts'

export const command = defineCommand({
  usage: '<image>',
  describe:
    'Points a child at its parent\u2019s new place. Who the parent is gets verified first; content is not touched.',
  examples: [
    ['vdisk relink leaf.avhdx --parent ../bases/base.vhdx', 'the parent was moved'],
    [
      'vdisk relink leaf.qcow2 --parent base.qcow2 --accept-modified',
      'you know that the parent is right; both identities are kept in the record',
    ],
    [
      'vdisk relink old.qcow2 --parent base.raw --parent-format raw --accept-modified',
      'an old overlay that never said what its parent is',
    ],
  ],
  options: (yargs) =>
    undoOptions(openOptions(yargs))
      .positional('image', { type: 'string', demandOption: true })
      .option('parent', { type: 'string', demandOption: true, describe: 'where the parent is now' })
      .option('accept-modified', {
        type: 'boolean',
        default: false,
        describe: 'although it cannot be shown to be the one the child was made over',
      }),
  async run({ args, out }) {
    const { result, kept } = await withUndo(args, out, (undo) =>
      relink(args.image, args.parent, { ...toOpenOptions(args), acceptModified: args['accept-modified'], undo }),
    )
    const folderNote = noteOnFolder(args.image, args.parent, args)
    if (folderNote) out.note(printable(folderNote))
    out.document({ ...result, undo: kept })
    out.line(`${printable(args.image)} is now a child of ${printable(args.parent)}: ${result.verdict.message}.`)
    if (result.replaced !== undefined) out.line(`It expected ${result.replaced}; that stays in its record.`)
    noteUndo(out, args.image, kept)
    return EXIT.ok
  },
})
