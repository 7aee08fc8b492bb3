import path from 'node:path'
import { drivers, formatSize, listBackups, restoreBackup } from '../../lib/index.ts'
import { fileOptions, formatOptions, toFileOptions, toFormatOptions } from '../arguments.ts'
import { defineCommand, EXIT } from '../command.ts'
import { printable } from '../output.ts'

const FORMATS = drivers.filter((driver) => driver.create).map(({ name }) => name)

export const command = defineCommand({
  usage: '<folder> <destination>',
  describe:
    'Makes an image that reads as the disk did when it was backed up, reads it in full and compares it with the digests that\nwere taken then. To look into a backup without restoring it: vdisk mount FILE, with a file that "vdisk backups" names.',
  examples: [
    ['vdisk restore /backups/disk disk.vhdx', 'the newest backup'],
    ['vdisk restore /backups/disk then.qcow2 --backup 3', 'an earlier one: vdisk backups /backups/disk lists them'],
    ['vdisk restore /backups/disk /dev/sdX --format raw --force', 'to a device'],
  ],
  options: (yargs) =>
    formatOptions(fileOptions(yargs))
      .positional('folder', { type: 'string', demandOption: true })
      .positional('destination', { type: 'string', demandOption: true })
      .option('backup', { alias: 'n', type: 'number', describe: 'number of the backup; default the newest' })
      .option('format', {
        alias: 'O',
        type: 'string',
        choices: FORMATS,
        describe: 'format of the new image; default what its name ends with, else that of the backups',
      })
      .option('check', {
        type: 'boolean',
        default: true,
        describe: 'read the new image and compare it with the digests; --no-check leaves that out',
      })
      .option('force', { type: 'boolean', default: false, describe: 'replace a file that exists' }),
  afterInterrupt:
    'The backups are as they were. A destination that was not complete is gone, one that was is not verified.',
  async run({ args, out, signal }) {
    const files = toFileOptions(args)
    const { format: kept } = await listBackups(args.folder, files)
    const format = args.format ?? formatOfName(args.destination) ?? kept
    const restored = await out.follow(
      restoreBackup(args.folder, args.destination, {
        ...files,
        format,
        backup: args.backup,
        options: toFormatOptions(args.option),
        replace: args.force,
        verify: args.check,
        signal,
      }),
    )
    const { backup, written, verified } = restored
    const time = new Date(backup.at).toISOString().replace('T', ' ').slice(0, 19)
    out.document({ folder: args.folder, destination: args.destination, format, written, verified, backup })
    out.line(
      `Restored backup ${backup.number} of ${time} to ${printable(args.destination)}: ${format}, ${formatSize(written)} of data${verified ? ', verified' : ''}`,
    )
    return EXIT.ok
  },
})

function formatOfName(name: string): string | undefined {
  const ending = path.extname(name).slice(1).toLowerCase()
  return FORMATS.find((one) => one === ending || `a${one}` === ending)
}
