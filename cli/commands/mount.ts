import { type Mounted, serveForeground, startDaemon, TRANSPORTS, type Transport } from '../../fuse/daemon.ts'
import { openOptions, toOpenOptions } from '../arguments.ts'
import { defineCommand, EXIT } from '../command.ts'
import { type Output, printable } from '../output.ts'

export const command = defineCommand({
  usage: '<image> <mountpoint>',
  describe:
    'Mounts a disk: at an empty directory it appears as one file in it, at a file it takes its place. For every user who may\nuse FUSE. A program in the background serves it until `vdisk unmount`; then everything written is on the medium.',
  examples: [
    ['vdisk mount server.vhdx dir', 'dir/server.raw is the disk'],
    ['vdisk mount server.qcow2 dir --read-only', 'only to look'],
    ['vdisk mount leaf.avhdx dir && sudo losetup -fP --show dir/leaf.raw', 'partitions as devices of the kernel'],
    ['vdisk unmount dir', 'the end of it'],
  ],
  options: (yargs) =>
    openOptions(yargs)
      .positional('image', { type: 'string', demandOption: true })
      .positional('mountpoint', { type: 'string', demandOption: true, describe: 'an empty directory, or a file' })
      .option('read-only', { type: 'boolean', default: false, describe: 'nothing can be written' })
      .option('allow-other', { type: 'boolean', default: false, describe: 'other users may see it too' })
      .option('transport', {
        choices: Object.keys(TRANSPORTS) as Transport[],
        describe: "how: by the kernel's own protocol, or by libfuse through the package fuse-native",
      })
      .option('foreground', { type: 'boolean', default: false, describe: 'serve from this process; Ctrl-C unmounts' }),
  async run({ args, out }) {
    const options = {
      ...toOpenOptions(args),
      image: args.image,
      mountpoint: args.mountpoint,
      readOnly: args['read-only'],
      allowOther: args['allow-other'],
      transport: args.transport,
    }
    const tell = (mounted: Mounted): void => print(out, mounted)
    if (args.foreground) await serveForeground(options, { onMounted: tell })
    else tell(await startDaemon(options))
    return EXIT.ok
  },
})

function print(out: Output, mounted: Mounted): void {
  for (const note of mounted.notes) out.note(printable(note))
  out.document({ mounted })
  out.line(`${printable(mounted.disk)} is the disk${mounted.readOnly ? ', read-only' : ''}.`)
  out.line(out.paint('dim', `End it with: vdisk unmount ${printable(mounted.mountpoint)}`))
}
