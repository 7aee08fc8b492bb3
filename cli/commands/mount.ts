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
import { BELIEVE, badArgument, readOptions, toOpenOptions } from '../arguments.ts'
import { defineCommand, EXIT } from '../command.ts'
import { type Output, printable } from '../output.ts'
import { UsageError } from '../usage-error.ts'

export const command = defineCommand({
  usage: '<image..> <mountpoint>',
  describe:
    'Mounts disks: at an empty directory a disk appears as one file in it, several in a folder each; at a file it takes its place.\nFor every user who may use FUSE. A program in the background serves them until `vdisk unmount`; then everything written is\non the medium. An image on which others are built is not written to.',
  examples: [
    ['vdisk mount server.vhdx dir', 'dir/server.raw is the disk'],
    ['vdisk mount server.qcow2 dir --read-only', 'only to look'],
    ['vdisk mount golden.vhdx dir --overlay work.qcow2', 'what is written goes to work.qcow2, a child of golden.vhdx'],
    ['vdisk mount server.qcow2 dir --temporary', 'what is written goes with the mount'],
    ['vdisk mount server.vhdx dir --filesystem', 'dir holds the files of the file system in it'],
    ['vdisk mount server.vhdx dir --partition 2', 'dir holds the files of partition 2'],
    ['vdisk mount a.vhdx b.qcow2 dir', 'dir/a.vhdx/a.raw and dir/b.qcow2/b.raw'],
    ['vdisk mount leaf.avhdx dir && sudo losetup -fP --show dir/leaf.raw', 'partitions as devices of the kernel'],
    ['vdisk unmount dir', 'the end of it'],
  ],
  options: (yargs) =>
    readOptions(yargs)
      // yargs has no argument without a name that is given several times, unless it reads the words itself.
      .option('image', { type: 'string', array: true, nargs: 1, demandOption: true, group: 'Positionals:' })
      .positional('mountpoint', {
        type: 'string',
        demandOption: true,
        describe: 'an empty directory, or a file; /dev/fd/N where it is mounted already',
      })
      .option('partition', { type: 'string', describe: 'N: show the files of this partition, not the disk' })
      .option('filesystem', {
        type: 'boolean',
        default: false,
        describe: 'show the files of the only file system that makes sense',
      })
      .option('read-only', { type: 'boolean', default: false, describe: 'nothing can be written' })
      .option('overlay', {
        type: 'string',
        describe: 'FILE: a child of the image, new or not, that takes what is written',
      })
      .option('overlay-format', {
        type: 'string',
        choices: ['qcow2', 'vhdx'],
        describe: 'format of a new overlay whose name does not say it',
      })
      .option('temporary', { type: 'boolean', default: false, describe: 'what is written goes with the mount' })
      .option('force', {
        type: 'boolean',
        default: false,
        describe: `write although other images are built upon it; with --read-only: ${BELIEVE}`,
      })
      .option('allow-other', { type: 'boolean', default: false, describe: 'other users may see it too' })
      .option('uid', { type: 'string', describe: 'number of the user who owns the files, default yours' })
      .option('gid', { type: 'string', describe: 'number of their group' })
      .option('mode', { type: 'string', describe: 'permissions of the files in octal, such as 640' })
      .option('transport', {
        choices: Object.keys(TRANSPORTS) as Transport[],
        describe: "how: by the kernel's own protocol, or by libfuse through the package fuse-native",
      })
      .option('foreground', { type: 'boolean', default: false, describe: 'serve from this process; Ctrl-C unmounts' }),
  async run({ args, out }) {
    const options = {
      ...toOpenOptions(args),
      images: args.image,
      mountpoint: args.mountpoint,
      readOnly: args['read-only'],
      overlay: args.overlay,
      overlayFormat: args['overlay-format'],
      temporary: args.temporary,
      force: args.force,
      allowOther: args['allow-other'],
      uid: toNumber('--uid', args.uid, /^\d{1,9}$/, 10),
      gid: toNumber('--gid', args.gid, /^\d{1,9}$/, 10),
      mode: toNumber('--mode', args.mode, /^[0-7]{3,4}$/, 8),
      transport: args.transport,
    }
    assertOneMode(args)
    const wanted = wantedOf(args)
    const tell = (mounted: Mounted): void => print(out, mounted)
    if (args.foreground) await serveForeground(options, { onMounted: tell })
    else tell(wanted === undefined ? await startDaemon(options) : await mountFilesystem(options, wanted))
    return EXIT.ok
  },
})

/** @throws UsageError where the options do not go together */
function wantedOf(args: {
  image: string[]
  partition: string | undefined
  filesystem: boolean
  foreground: boolean
}): Wanted | undefined {
  const { image, partition, filesystem, foreground } = args
  if (partition === undefined && !filesystem) return undefined
  if (partition !== undefined && filesystem) {
    throw new UsageError(
      'Cannot mount with --partition and --filesystem: the second leaves the choice to us',
      'Give one of them.',
    )
  }
  if (foreground) {
    throw new UsageError(
      'Cannot mount a file system with --foreground: who serves a disk cannot use it at the same time',
      'Leave out --foreground. Or mount the disk with it, and use its file from elsewhere.',
    )
  }
  if (image.length > 1) {
    throw new UsageError('Cannot mount file systems of several images at one place', 'Mount them one by one.')
  }
  return toNumber('--partition', partition, /^[1-9]\d{0,8}$/, 10) ?? 'sensible'
}

function assertOneMode(args: {
  image: string[]
  salvage: boolean
  'read-only': boolean
  overlay: string | undefined
  temporary: boolean
}): void {
  const given = [
    args['read-only'] && '--read-only',
    args.overlay !== undefined && '--overlay',
    args.temporary && '--temporary',
  ]
  if (args.salvage && !args['read-only']) {
    throw new UsageError(
      'Cannot mount with --salvage but without --read-only: to write would lose for good what is left out',
      'Add --read-only. Or mend the image first: vdisk check IMAGE --repair',
    )
  }
  const [first, second] = given.filter((name) => name !== false)
  if (second !== undefined) {
    throw new UsageError(
      `Cannot mount with ${first} and ${second}: each says where to write`,
      'Give one of --read-only, --overlay FILE and --temporary.',
    )
  }
  if (args.overlay !== undefined && args.image.length > 1) {
    throw new UsageError(
      'Cannot mount several images with one --overlay: it is the child of one',
      'Mount that one by itself, or all with --temporary.',
    )
  }
}

function toNumber(name: string, text: string | undefined, form: RegExp, base: number): number | undefined {
  if (text === undefined) return undefined
  if (form.test(text)) return Number.parseInt(text, base)
  throw badArgument(
    name,
    text,
    base === 8
      ? 'write permissions in octal, such as 640'
      : `write a number, as ${name === '--partition' ? 'fdisk' : '`id`'} shows it`,
  )
}

const KINDS = {
  'read-write': '',
  'read-only': ', read-only',
  overlay: '',
  temporary: '; what is written there goes with the mount',
} as const

function print(out: Output, mounted: Mounted & { readonly filesystem?: ShownFilesystem }): void {
  for (const note of mounted.notes) out.note(printable(note))
  out.document({ mounted })
  for (const { disk, mode, overlay } of mounted.images) {
    const where = overlay === undefined ? KINDS[mode] : `; what is written there goes to ${printable(overlay)}`
    const what = mounted.filesystem
      ? contentOf(mounted.mountpoint, mounted.filesystem)
      : `${printable(disk)} is the disk`
    out.line(`${what}${where}.`)
  }
  out.line(out.paint('dim', `End it with: vdisk unmount ${printable(mounted.mountpoint)}`))
}

/** @example dir holds the files of partition 2 (ext4, by the kernel) */
function contentOf(mountpoint: string, { type, partition, driver }: ShownFilesystem): string {
  const source = partition === undefined ? 'the disk' : `partition ${partition}`
  const by = driver === 'kernel' ? 'the kernel' : driver
  return `${printable(mountpoint)} holds the files of ${source} (${type}, by ${by})`
}
