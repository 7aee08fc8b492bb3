import { unmountAt } from '../../fuse/daemon.ts'
import { defineCommand, EXIT } from '../command.ts'

export const command = defineCommand({
  usage: '<mountpoint>',
  describe: 'Unmounts a disk. Returns when everything that was written is on the medium and the image is closed.',
  examples: [
    ['vdisk unmount dir', ''],
    ['vdisk mounts', 'what is mounted'],
  ],
  options: (yargs) => yargs.positional('mountpoint', { type: 'string', demandOption: true }),
  async run({ args, out }) {
    const result = await unmountAt(args.mountpoint)
    out.document({ unmounted: result })
    if (result.ended === 'durable') out.line(`Unmounted ${result.mountpoint}; everything is on the medium.`)
    else if (result.ended === 'unknown') out.line(`Unmounted ${result.mountpoint}.`)
    else out.note(`its server had ended before: what it had not made durable is lost. Check ${result.image ?? 'the image'}: vdisk check`)
    return result.ended === 'died' ? EXIT.failed : EXIT.ok
  },
})
