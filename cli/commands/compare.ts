import { compareDisks, drivers, formatSize, openDisk } from '../../lib/index.ts'
import { readOptions, toOpenOptions } from '../arguments.ts'
import { defineCommand } from '../command.ts'

export const command = defineCommand({
  usage: '<a> <b>',
  describe:
    'Tells whether two disks read the same. Formats and layers do not matter; what one has beyond the end of the other\nmust be zero.',
  examples: [
    ['vdisk compare old.vhdx new.qcow2', 'equal, or where the first difference is'],
    ['vdisk compare a.qcow2 b.qcow2 --all', 'every range that differs'],
    ['vdisk compare a.qcow2 b.raw --format-b raw', 'where a format must not be guessed'],
  ],
  exitCodes: '0 equal, 1 different, 2 could not compare, 130 interrupted',
  options: (yargs) =>
    readOptions(yargs)
      .positional('a', { type: 'string', demandOption: true })
      .positional('b', { type: 'string', demandOption: true })
      .option('format-b', {
        alias: 'F',
        type: 'string',
        describe: 'format of the second image',
        choices: drivers.map(({ name }) => name),
      })
      .option('all', { type: 'boolean', default: false, describe: 'list all differing ranges' }),
  afterInterrupt: 'Nothing was changed. Whether the disks are equal is not known.',
  async run({ args, out, signal }) {
    const options = { ...toOpenOptions(args), signal }
    const a = await openDisk(args.a, options)
    try {
      const b = await openDisk(args.b, { ...options, format: args['format-b'] })
      try {
        const ranges: { offset: number; length: number }[] = []
        const onDifference = (range: { offset: number; length: number }): void => {
          if (out.json) ranges.push(range)
          else if (args.all)
            out.line(`${String(range.offset).padStart(16)} ${String(range.length).padStart(16)}  differs`)
        }
        const result = await out.follow(compareDisks(a.chain, b.chain, { all: args.all, onDifference, signal }))
        out.document({ a: args.a, b: args.b, ...result, ranges })
        if (result.sizes[0] !== result.sizes[1]) {
          out.note(`the sizes differ: ${formatSize(result.sizes[0])} and ${formatSize(result.sizes[1])}`)
        }
        out.line(result.equal ? 'The disks read the same.' : `The disks differ, first at ${result.firstDifference}.`)
        return result.equal ? 0 : 1
      } finally {
        await b.close()
      }
    } finally {
      await a.close()
    }
  },
})
