import { createDisk, drivers, formatSize } from '../../lib/index.ts'
import { fileOptions, formatOptions, noteOnFolder, toFileOptions, toFormatOptions, toSize } from '../arguments.ts'
import { azureOption, forAzure } from '../azure.ts'
import { defineCommand, EXIT } from '../command.ts'
import { printable } from '../output.ts'
import { UsageError } from '../usage-error.ts'

export const command = defineCommand({
  usage: '<image>',
  describe: `Makes an image. With --parent it is a child: it holds what differs, and remembers who its parent is.\n\nOptions for -o, by format:\n${optionsText()}`,
  examples: [
    ['vdisk create disk.qcow2 --format qcow2 --size 20G', 'an empty disk'],
    ['vdisk create work.vhdx --format vhdx --parent golden.vhdx', 'a differencing VHDX'],
    ['vdisk create work.qcow2 --format qcow2 --parent base.raw --parent-format raw', 'a child of a raw image'],
    ['vdisk create disk.vhd --azure --size 30G', 'a fixed VHD of whole MiB, as Azure takes it'],
    ['vdisk create big.qcow2 --format qcow2 --size 4T -o cluster_size=2M', 'with another unit of allocation'],
  ],
  options: (yargs) =>
    azureOption(formatOptions(fileOptions(yargs)))
      .positional('image', { type: 'string', demandOption: true })
      .option('format', {
        alias: 'f',
        type: 'string',
        demandOption: true,
        choices: drivers.filter((driver) => driver.create).map(({ name }) => name),
        describe: 'format of the new image',
      })
      .option('size', { type: 'string', describe: 'such as 10G; a child takes its parent\u2019s if this is left out' })
      .option('parent', { type: 'string', describe: 'make a child of this image' })
      .option('force', { type: 'boolean', default: false, describe: 'replace a file that exists' }),
  afterInterrupt: 'Nothing was made. A file that was there before is unchanged; a device may be overwritten in part.',
  async run({ args, out, signal }) {
    if (args.size === undefined && args.parent === undefined) {
      throw new UsageError(
        `Cannot create ${args.image}: its size is not given`,
        'Give --size, such as --size 20G; or --parent, to make a child of that image.',
      )
    }
    const disk = await createDisk(args.image, {
      ...toFileOptions(args),
      format: args.format,
      size: args.size === undefined ? undefined : toSize(args.size, '--size'),
      parent: args.parent,
      parentFormat: args.parentFormat,
      options: forAzure('create', args, toFormatOptions(args.option)),
      replace: args.force,
      signal,
    })
    const { size, notes } = disk
    const identity = disk.chain.layers.at(-1)?.identity?.value
    await disk.close()
    const folderNote = args.parent === undefined ? undefined : noteOnFolder(args.image, args.parent, args)
    if (folderNote) out.note(printable(folderNote))
    out.document({ image: args.image, format: args.format, size, parent: args.parent, identity })
    for (const note of notes) out.note(printable(note))
    out.line(
      `Made ${printable(args.image)}: ${args.format}, ${formatSize(size)}${args.parent ? `, child of ${printable(args.parent)}` : ''}`,
    )
    return EXIT.ok
  },
})

function optionsText(): string {
  return drivers
    .filter((driver) => driver.create)
    .flatMap((driver) => [
      `  ${driver.name}`,
      ...driver.createOptions.map(({ name, values, initial, help }) => {
        const kinds = typeof values === 'string' ? values : values.join('|')
        return `    ${`${name}=${kinds}`.padEnd(34)} ${help}${initial ? ` (${initial})` : ''}`
      }),
    ])
    .join('\n')
}
