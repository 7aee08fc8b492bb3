import { formatSize, listBackups } from '../../lib/index.ts'
import { fileOptions, toFileOptions } from '../arguments.ts'
import { defineCommand, EXIT } from '../command.ts'
import { printable } from '../output.ts'

export const command = defineCommand({
  usage: '<folder>',
  describe: 'Lists the backups in a folder, oldest first.',
  examples: [
    ['vdisk backups /backups/disk', 'number, time, sizes, and the image that opens as the disk was then'],
    ['vdisk backups /backups/disk --json', 'for programs'],
  ],
  options: (yargs) => fileOptions(yargs).positional('folder', { type: 'string', demandOption: true }),
  async run({ args, out }) {
    const { backups, source, format, folder } = await listBackups(args.folder, toFileOptions(args))
    out.document({ folder, source, format, backups })
    out.line(`${backups.length === 1 ? '1 backup' : `${backups.length} backups`} of ${printable(source)}`)
    for (const { number, at, size, written, file, verified } of backups) {
      const time = new Date(at).toISOString().replace('T', ' ').slice(0, 19)
      const columns = [
        String(number).padStart(6),
        time,
        formatSize(size).padStart(10),
        formatSize(written).padStart(10),
      ]
      out.line(`${columns.join('  ')}  ${printable(file)}${verified ? '' : '  not read back'}`)
    }
    return EXIT.ok
  },
})
