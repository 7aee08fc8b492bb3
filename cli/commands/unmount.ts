import { unmountAt } from '../../fuse/daemon.ts'
import { defineCommand, EXIT } from '../command.ts'
import { printable } from '../output.ts'

export const command = defineCommand({
  usage: '<mountpoint>',
  describe:
    'Unmounts a disk. Returns when everything that was written is on the medium and the images are\nclosed. An image that is mounted may be named as well.',
  examples: [
    ['vdisk unmount dir', 'returns when everything is on the medium'],
    ['vdisk unmount server.qcow2', 'the same, by the image'],
    ['vdisk mounts', 'what is mounted'],
  ],
  options: (yargs) => yargs.positional('mountpoint', { type: 'string', demandOption: true }),
  async run({ args, out }) {
    const result = await unmountAt(args.mountpoint)
    out.document({ unmounted: result })
    if (result.ended === 'durable') out.line(`Unmounted ${printable(result.mountpoint)}; everything is on the medium.`)
    else if (result.ended === 'unknown') out.line(`Unmounted ${printable(result.mountpoint)}.`)
    else
      out.note(
        `its server had ended before: what it had not made durable is lost. Check ${printable(result.images.join(', ') || 'the image')}: vdisk check`,
      )
    return result.ended === 'died' ? EXIT.failed : EXIT.ok
  },
})
