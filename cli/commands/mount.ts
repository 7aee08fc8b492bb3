import {
  type Mounted,
  mountFilesystem,
  type ShownFilesystem,
  serveForeground,
  startDaemon,
  TRANSPORTS,
  type Transport,
  type Wanted,
} from '../../fuse/daemon.ts'
import { openOptions, toOpenOptions } from '../arguments.ts'
import { defineCommand, EXIT } from '../command.ts'
import { type Output, printable } from '../output.ts'
import { UsageError } from '../usage-error.ts'

export const command = defineCommand({
  usage: '<image> <mountpoint>',
  describe:
    'Mounts a disk: at an empty directory it appears as one file in it, at a file it takes its place. For every user who may\nuse FUSE. A program in the background serves it until `vdisk unmount`; then everything written is on the medium.',
  examples: [
    ['vdisk mount server.vhdx dir', 'dir/server.raw is the disk'],
    ['vdisk mount server.qcow2 dir --read-only', 'only to look'],
    ['vdisk mount server.vhdx dir --filesystem', 'dir holds the files of the file system in it'],
    ['vdisk mount server.vhdx dir --partition 2', 'those of partition 2'],
    ['vdisk mount leaf.avhdx dir && sudo losetup -fP --show dir/leaf.raw', 'partitions as devices of the kernel'],
    ['vdisk unmount dir', 'the end of it'],
  ],
  options: (yargs) =>
    openOptions(yargs)
      .positional('image', { type: 'string', demandOption: true })
      .positional('mountpoint', { type: 'string', demandOption: true, describe: 'an empty directory, or a file' })
      .option('partition', { type: 'number', describe: 'show the files of this partition, not the disk' })
      .option('filesystem', {
        type: 'boolean',
        default: false,
        describe: 'show the files of the only file system that makes sense',
      })
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
    const wanted = wantedOf(args)
    const tell = (mounted: Mounted): void => print(out, mounted)
    if (args.foreground) await serveForeground(options, { onMounted: tell })
    else tell(wanted === undefined ? await startDaemon(options) : await mountFilesystem(options, wanted))
    return EXIT.ok
  },
})

/** @throws UsageError where the options do not go together */
function wantedOf(args: {
  partition?: number | undefined
  filesystem: boolean
  foreground: boolean
}): Wanted | undefined {
  const { partition, filesystem, foreground } = args
  const wanted = partition ?? (filesystem ? 'sensible' : undefined)
  if (partition !== undefined && (filesystem || !Number.isInteger(partition) || partition < 1)) {
    throw new UsageError(
      `Cannot mount ${filesystem ? 'with both --partition and --filesystem' : `partition ${partition}`}`,
      filesystem ? 'Say which partition, or leave the choice to us.' : 'Partitions are counted from 1.',
    )
  }
  if (wanted !== undefined && foreground) {
    throw new UsageError(
      'Cannot mount a file system with --foreground: whoever serves a disk cannot be the one who uses it',
      'Leave out --foreground. Or mount the disk with it, and its file system from elsewhere.',
    )
  }
  return wanted
}

function print(out: Output, mounted: Mounted & { readonly filesystem?: ShownFilesystem }): void {
  for (const note of mounted.notes) out.note(printable(note))
  out.document({ mounted })
  const { filesystem } = mounted
  const what = filesystem
    ? `${printable(mounted.mountpoint)} holds the files of ${filesystem.partition === undefined ? 'the disk' : `partition ${filesystem.partition}`} (${filesystem.type}, by ${filesystem.driver === 'kernel' ? 'the kernel' : filesystem.driver})`
    : `${printable(mounted.disk)} is the disk`
  out.line(`${what}${mounted.readOnly ? ', read-only' : ''}.`)
  out.line(out.paint('dim', `End it with: vdisk unmount ${printable(mounted.mountpoint)}`))
}
