import { flushMounted } from '../../fuse/control/control-client.ts'
import { VdiskError } from '../../lib/index.ts'
import { defineCommand, EXIT } from '../command.ts'
import { printable } from '../output.ts'

export const command = defineCommand({
  usage: '<mounted>',
  describe:
    'Makes everything that was written to a mounted disk durable, and returns when it is. What programs hold in their own\nmemory, or file systems inside the disk in theirs, is not part of it.',
  examples: [
    ['vdisk flush dir', 'all disks of the mount'],
    ['vdisk flush server.qcow2', 'this one, wherever it is mounted'],
  ],
  options: (yargs) =>
    yargs.positional('mounted', { type: 'string', demandOption: true, describe: 'a mountpoint, or an image' }),
  async run({ args, out }) {
    const flushed = await flushMounted(args.mounted)
    if (!flushed) {
      throw new VdiskError('NOT_FOUND', {
        message: `Cannot flush ${args.mounted}: it is not mounted`,
        where: { file: args.mounted },
        advice: 'To see what is mounted: vdisk mounts',
      })
    }
    out.document({ flushed })
    for (const image of flushed) out.line(`${printable(image)}: everything is on the medium.`)
    return EXIT.ok
  },
})
