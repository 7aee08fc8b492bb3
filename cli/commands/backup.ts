import path from 'node:path'
import {
  BACKUP_COMPRESSIONS,
  BACKUP_FORMATS,
  type BackedUp,
  type BackupCompression,
  type BackupFormat,
  type BackupOptions,
  backUp,
  backUpInto,
  formatSize,
  openSource,
} from '../../lib/index.ts'
import {
  badArgument,
  formatOptions,
  type OpenArguments,
  openOptions,
  toFileOptions,
  toFormatOptions,
  toOpenOptions,
  toSize,
} from '../arguments.ts'
import { type Call, defineCommand, EXIT } from '../command.ts'
import { backUpMounted, type MomentWish } from '../mounted-backup.ts'
import { printable } from '../output.ts'
import { UsageError } from '../usage-error.ts'

interface BackupArguments extends OpenArguments {
  image: string
  destination: string | undefined
  into: string | undefined
  consumer: string | undefined
  format: BackupFormat | undefined
  compress: BackupCompression | undefined
  keep: number | undefined
  rate: string | undefined
  check: boolean
  sameDisk: boolean
  policy: 'wait' | 'drop'
  memory: string | undefined
  spill: string | undefined
  option: string[]
}

export const command = defineCommand<BackupArguments>({
  usage: '<image> [destination]',
  describe:
    'Backs up a disk into a folder: at first all of it, then what changed since, each time as a layer over the last one. So\nthe newest backup opens as an ordinary disk, and any can be restored. Where changes are tracked (vdisk track enable),\nonly those are read; else all is read, and what differs is written.',
  examples: [
    ['vdisk backup disk.vhdx /backups/disk', 'the folder is made; the first time a full backup, later what changed'],
    ['vdisk backup disk.vhdx /backups/disk --keep 30', 'older ones are merged into the next'],
    ['vdisk backup disk.raw --into /backups/disk.qcow2', 'one image that is always the newest state'],
    ['vdisk backup disk.vhdx /backups/disk --compress zstd', 'layers take less room'],
    ['vdisk backup disk.vhdx /backups/disk --rate 50M', 'reads and writes no more than 50 MiB a second'],
    ['vdisk backup disk.vhdx /backups/disk --consumer nightly', 'the name is shown by vdisk track status'],
    ['vdisk backup disk.vhdx /backups/disk --policy drop', 'while it is mounted, but no write waits for the backup'],
    ['vdisk backups /backups/disk', 'what is there'],
    ['vdisk verify /backups/disk disk.vhdx', 'is it sound, and does it equal the disk?'],
    ['vdisk restore /backups/disk new.vhdx --format vhdx', 'the newest, as an image of its own'],
  ],
  options: (yargs) =>
    formatOptions(openOptions(yargs))
      .positional('image', { type: 'string', demandOption: true })
      .positional('destination', { type: 'string', describe: 'a folder' })
      .option('into', { type: 'string', describe: 'keep this one image up to date, instead of a folder of backups' })
      .option('consumer', { type: 'string', describe: 'name under which the tracked disk remembers this backup' })
      .option('format', {
        alias: 'O',
        type: 'string',
        choices: BACKUP_FORMATS,
        describe: 'format of the backups; default qcow2',
      })
      .option('compress', {
        type: 'string',
        choices: BACKUP_COMPRESSIONS,
        describe: 'compress what is written with this method; qcow2 only',
      })
      .option('keep', { type: 'number', describe: 'so many backups are kept; older ones are merged into the next' })
      .option('rate', { type: 'string', describe: 'bytes a second, read and written together, at most' })
      .option('check', {
        type: 'boolean',
        default: true,
        describe: 'read back what was written before the backup counts; --no-check leaves that out',
      })
      .option('same-disk', {
        type: 'boolean',
        default: false,
        describe: 'the folder has backups of this disk under another name',
      })
      .option('policy', {
        type: 'string',
        choices: ['wait', 'drop'],
        default: 'wait',
        describe: 'mounted: where there is no room left for what changes meanwhile, writes wait, or the backup fails',
      })
      .option('memory', { type: 'string', describe: 'mounted: room in memory for what changes; default 64M' })
      .option('spill', {
        type: 'string',
        describe: 'mounted: folder with room for more of it; default where the backups are',
      }) as never,
  afterInterrupt: 'Earlier backups are as they were. The same command goes on where this one was.',
  async run({ args, out, signal }) {
    const wish = wishOf({ args, out, signal })
    const done = await backUpImage(args, wish, out)
    out.document({ image: args.image, ...done })
    tell(done, { args, out, signal })
    return EXIT.ok
  },
})

function wishOf({ args, signal }: Call<BackupArguments>): BackupOptions {
  const { destination, into, consumer, format, compress, keep, rate, check, sameDisk } = args
  if ((destination === undefined) === (into === undefined)) {
    throw new UsageError(
      destination === undefined
        ? 'Cannot run vdisk backup: it is not said where to'
        : 'Cannot back up to a folder and --into an image at once',
      'Give a folder for the backups, or --into FILE to keep one image up to date.',
    )
  }
  if (keep !== undefined && into !== undefined) {
    throw new UsageError('Cannot use --keep with --into: one image has one state', 'Leave --keep out.')
  }
  const bytes = rate === undefined ? undefined : toSize(rate, '--rate')
  if (bytes === 0) throw badArgument('--rate', rate as string, 'give bytes a second, such as 50M')
  const files = toFileOptions(args)
  const options = toFormatOptions(args.option)
  return { ...files, options, consumer, format, compress, keep, rate: bytes, verify: check, sameDisk, signal }
}

async function backUpImage(
  { image, destination, into, ...args }: BackupArguments,
  wish: BackupOptions,
  out: Call<BackupArguments>['out'],
): Promise<BackedUp> {
  const place = into === undefined ? { folder: destination as string } : { into }
  const mounted = await backUpMounted(image, place, wish, momentOf(args))
  if (mounted) {
    const { notes, ...done } = await out.follow(mounted)
    sayNotes(notes, done.token, image, out)
    return done
  }
  const source = await openSource(image, toOpenOptions({ ...args }))
  try {
    sayNotes(source.notes, source.token, image, out)
    const job = into === undefined ? backUp(source, destination as string, wish) : backUpInto(source, into, wish)
    return await out.follow(job)
  } finally {
    await source.close()
  }
}

function momentOf({ policy, memory, spill }: Pick<BackupArguments, 'policy' | 'memory' | 'spill'>): MomentWish {
  return { policy, memory: memory === undefined ? undefined : toSize(memory, '--memory'), spill }
}

function sayNotes(
  notes: readonly string[],
  token: string | undefined,
  image: string,
  out: Call<BackupArguments>['out'],
): void {
  for (const note of notes) out.note(printable(note))
  if (token !== undefined || notes.length > 0) return
  out.note(`its changes are not tracked, so all of the disk is read each time: vdisk track enable ${printable(image)}`)
}

function tell(done: BackedUp, { args, out }: Call<BackupArguments>): void {
  const { kind, number, file, read, written, full, resumed, retired } = done
  if (kind === 'incremental' && full !== undefined) out.note(`all of the disk was read: ${printable(full)}`)
  if (resumed) out.note('what an earlier try had done was used')
  out.line(
    `Backup ${number} of ${printable(args.image)}: ${kind}, ${formatSize(read)} read, ${formatSize(written)} written to ${printable(path.relative('.', file))}`,
  )
  if (retired.length > 0 && args.into === undefined) {
    out.line(`Merged away: ${retired.length === 1 ? 'backup' : 'backups'} ${retired.join(', ')}.`)
  }
}
