import { createDisk, drivers, formatSize } from '../../lib/index.ts'
import { formatOptions, openOptions, toFileOptions, toFormatOptions, toSize } from '../arguments.ts'
import { defineCommand, EXIT } from '../command.ts'

export const command = defineCommand({
  usage: '<image>',
  describe: `Makes an image. With --parent it is a child: it holds what differs, and remembers who its parent is.\n\nOptions for -o, by format:\n${optionsText()}`,
  examples: [
    ['vdisk create disk.qcow2 --format qcow2 --size 20G', 'an empty disk'],
    ['vdisk create work.vhdx --format vhdx --parent golden.vhdx', 'a differencing VHDX'],
    ['vdisk create work.qcow2 --format qcow2 --parent base.raw --parent-format raw', 'a child of a raw image'],
    ['vdisk create big.qcow2 --format qcow2 --size 4T -o cluster_size=2M', 'with another unit of allocation'],
  ],
  options: (yargs) =>
    formatOptions(openOptions(yargs))
      .positional('image', { type: 'string', demandOption: true })
      .option('format', {
        type: 'string',
        demandOption: true,
        choices: drivers.filter((driver) => driver.create).map(({ name }) => name),
      })
      .option('size', { type: 'string', describe: 'such as 10G; a child takes its parent\u2019s if this is left out' })
      .option('parent', { type: 'string', describe: 'make a child of this image' })
      .option('force', { type: 'boolean', default: false, describe: 'replace a file that exists' }),
  async run({ args, out }) {
    const disk = await createDisk(args.image, {
      ...toFileOptions(args),
      format: args.format,
      size: args.size === undefined ? undefined : toSize(args.size, '--size'),
      parent: args.parent,
      parentFormat: args.parentFormat,
      options: toFormatOptions(args.option),
      replace: args.force,
    })
    const { size } = disk
    const identity = disk.chain.layers.at(-1)?.identity?.value
    await disk.close()
    out.document({ image: args.image, format: args.format, size, parent: args.parent, identity })
    out.line(`Made ${args.image}: ${args.format}, ${formatSize(size)}${args.parent ? `, child of ${args.parent}` : ''}`)
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
