import { convertDisk, drivers, expectCopying, formatSize, openDisk, packings } from '../../lib/index.ts'
import {
  BELIEVE,
  formatOptions,
  noteOnFolder,
  readOptions,
  toFileOptions,
  toFormatOptions,
  toOpenOptions,
} from '../arguments.ts'
import { azureOption, forAzure } from '../azure.ts'
import { defineCommand, EXIT } from '../command.ts'
import { printable } from '../output.ts'
import { UsageError } from '../usage-error.ts'

const FORMATS = [...drivers.filter((driver) => driver.create), ...packings].map(({ name }) => name)

const APPLIANCE_OPTIONS = packings.flatMap(({ createOptions }) => createOptions.map(({ name }) => name)).join(', ')

export const command = defineCommand({
  usage: '<source> <destination>',
  describe:
    'Copies what a disk reads as into a new image of any format. Zeros take no room. The result gets its name only when\nit is complete and, without --no-flush, durable. Without --parent the result stands alone (--flatten says so explicitly).\n' +
    `What -o takes for a format: vdisk create --help; for ova: ${APPLIANCE_OPTIONS}.`,
  examples: [
    ['vdisk convert disk.vhdx disk.qcow2 --format qcow2', 'another format'],
    ['vdisk convert leaf.avhdx whole.vhdx --format vhdx --flatten', 'a chain into one file'],
    ['vdisk convert disk.raw disk.qcow2 --format qcow2 --compress zstd', 'compressed'],
    ['vdisk convert leaf.avhdx leaf.qcow2 --format qcow2 --parent base.vhdx', 'only what differs from the base'],
    ['vdisk convert disk.raw disk.qcow2 --format qcow2 --no-flush', 'for a copy that can be made again'],
    ['vdisk convert disk.vmdk machine.ova -o cpus=4,memory=8G', 'an appliance, for ESXi and other importers'],
    ['vdisk convert disk.hdd then.qcow2 --format qcow2 --snapshot monday', 'an earlier state of the disk'],
    ['vdisk convert disk.qcow2 disk.vhd --azure', 'a fixed VHD of whole MiB, as Azure takes it'],
    ['vdisk convert torn.qcow2 saved.qcow2 --format qcow2 --salvage', 'what a damaged image still holds'],
  ],
  options: (yargs) =>
    azureOption(formatOptions(readOptions(yargs)))
      .positional('source', { type: 'string', demandOption: true })
      .positional('destination', { type: 'string', demandOption: true })
      .option('format', {
        alias: 'O',
        type: 'string',
        choices: FORMATS,
        describe:
          'format of the new image; ova: an appliance with a streamOptimized VMDK, which a name in .ova says too',
      })
      .option('ova', { type: 'boolean', default: false, describe: 'the same as --format ova' })
      .option('compress', { type: 'string', choices: ['zlib', 'zstd'], describe: 'compress with this method' })
      .option('flatten', { type: 'boolean', describe: 'no parent: the result holds everything' })
      .option('parent', { type: 'string', describe: 'the result is a child of this image' })
      .option('flush', {
        type: 'boolean',
        default: true,
        describe: 'wait until the medium has it all; --no-flush leaves that to the system, as cp does',
      })
      .option('snapshot', {
        type: 'string',
        describe: 'the state that a snapshot inside the source has, by its id or name',
      })
      .option('force', {
        type: 'boolean',
        default: false,
        describe: `replace a file that exists; ${BELIEVE}`,
      }),
  afterInterrupt: 'What was there before is unchanged, and nothing is left behind.',
  async run({ args, out, signal }) {
    const format = formatOf(args)
    const options = forAzure('convert', args, toFormatOptions(args.option))
    if (args.flatten && args.parent !== undefined) {
      throw new UsageError(
        'Cannot convert with both --parent and --flatten: they exclude each other',
        'With --parent the result holds what differs from that image, with --flatten everything.',
      )
    }
    if (args.compress === undefined) expectCopying()
    const source = await openDisk(args.source, { ...toOpenOptions(args), snapshot: args.snapshot, signal })
    try {
      for (const note of source.notes) out.note(printable(note))
      const copied = await out.follow(
        convertDisk(source.chain, args.destination, {
          ...toFileOptions(args),
          format,
          options,
          compress: args.compress,
          parent: args.parent,
          parentFormat: args.parentFormat,
          replace: args.force,
          durable: args.flush,
          signal,
        }),
      )
      const folderNote = args.parent === undefined ? undefined : noteOnFolder(args.destination, args.parent, args)
      if (folderNote) out.note(printable(folderNote))
      out.document({
        source: args.source,
        destination: args.destination,
        format,
        size: source.size,
        ...copied,
      })
      out.line(
        `Made ${printable(args.destination)}: ${format}, disk of ${formatSize(source.size)}, ${formatSize(copied.written)} of data`,
      )
      return EXIT.ok
    } finally {
      await source.close()
    }
  },
})

/** What is wanted may be said by an option, or for a container by the name of the file alone. */
function formatOf(args: { format: string | undefined; ova: boolean; destination: string }): string {
  const { format, ova, destination } = args
  if (ova && format !== undefined && format !== 'ova') {
    throw new UsageError(
      `Cannot convert with both --ova and --format ${format}: they exclude each other`,
      'An appliance holds its disk as a streamOptimized VMDK.',
    )
  }
  const found = ova
    ? 'ova'
    : (format ?? packings.find(({ name }) => destination.toLowerCase().endsWith(`.${name}`))?.name)
  if (found !== undefined) return found
  const ending = /\.a?(\w+)$/.exec(destination)?.[1] ?? ''
  const guess = FORMATS.find((one) => one === ending || one === `a${ending}`)
  throw new UsageError(
    'Cannot run vdisk convert: --format is missing',
    guess === undefined ? `Give one of: ${FORMATS.join(', ')}.` : `For this name it could be: --format ${guess}.`,
  )
}
