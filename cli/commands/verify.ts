import {
  type ComparedSource,
  type Difference,
  formatSize,
  seeDisk,
  type Verified,
  verifyBackups,
} from '../../lib/index.ts'
import { type OpenArguments, openOptions, toFileOptions, toOpenOptions, toSize } from '../arguments.ts'
import { type Call, defineCommand } from '../command.ts'
import { printable } from '../output.ts'

interface VerifyArguments extends OpenArguments {
  folder: string
  image: string | undefined
  backup: number | undefined
  quick: boolean
  rate: string | undefined
}

/** Ranges that are printed of each backup. */
const SHOWN = 10

export const command = defineCommand<VerifyArguments>({
  usage: '<folder> [image]',
  describe:
    'Reads backups and tells whether they are what the disk was when they were made, by the digests that were taken then. With\nan image, the newest is compared with that, too, as far as the disk has not changed since. Nothing is changed.',
  examples: [
    ['vdisk verify /backups/disk', 'all backups, each byte read once'],
    ['vdisk verify /backups/disk disk.vhdx', 'and does the newest equal the disk, where that has not changed since?'],
    ['vdisk verify /backups/disk --backup 7', 'one of them'],
    ['vdisk verify /backups/disk --quick', 'samples only'],
  ],
  exitCodes: '0 all as it must be, 1 something differs, 2 could not verify, 130 interrupted',
  options: (yargs) =>
    openOptions(yargs)
      .positional('folder', { type: 'string', demandOption: true })
      .positional('image', { type: 'string' })
      .option('backup', { alias: 'n', type: 'number', describe: 'number of the only backup to look at' })
      .option('quick', { type: 'boolean', default: false, describe: 'look at samples only' })
      .option('rate', { type: 'string', describe: 'bytes a second that are read at most' }) as never,
  afterInterrupt: 'Nothing was changed. Whether the backups are sound is not known.',
  async run(call) {
    const { args, out } = call
    const found = await verify(call)
    out.document({ folder: args.folder, image: args.image, quick: args.quick, ...found })
    for (const { backup, ranges, bytes } of found.damaged) {
      out.line(`Backup ${backup} is damaged: ${formatSize(bytes)} read differently.`)
      show(ranges, call)
    }
    const sound = found.damaged.length === 0
    const names = `${found.backups.length === 1 ? 'Backup' : 'Backups'} ${found.backups.join(', ')}`
    const looked = args.quick ? 'samples read as they must' : 'all read as it must'
    if (sound) out.line(`${names}: ${looked}, ${formatSize(found.read)}.`)
    const equal = !found.source || tellSource(found.source, call)
    return sound && equal ? 0 : 1
  },
})

async function verify({ args, out, signal }: Call<VerifyArguments>): Promise<Verified> {
  const { folder, image, backup, quick } = args
  const rate = args.rate === undefined ? undefined : toSize(args.rate, '--rate')
  const source = image === undefined ? undefined : await seeDisk(image, toOpenOptions(args))
  try {
    for (const note of source?.notes ?? []) out.note(printable(note))
    const options = { ...toFileOptions(args), backup, quick, rate, signal }
    return await out.follow(verifyBackups(folder, source, options))
  } finally {
    await source?.close()
  }
}

/** @returns whether the disk is as its backup */
function tellSource({ bytes, ranges, changed, full, read }: ComparedSource, call: Call<VerifyArguments>): boolean {
  const { out } = call
  if (full !== undefined) out.note(`what changed since the backup is not known: ${printable(full)}`)
  if (bytes === 0) {
    const rest = changed > 0 ? `; ${formatSize(changed)} changed since, and were left out` : ''
    out.line(`The disk equals its backup, ${formatSize(read)} read${rest}.`)
    return true
  }
  const why =
    full === undefined
      ? 'where nothing was recorded to have changed'
      : 'it may have been written to since, or one of both is damaged'
  out.line(`The disk differs from its backup in ${formatSize(bytes)}: ${why}.`)
  show(ranges, call)
  return false
}

function show(ranges: readonly Difference[], { out }: Call<VerifyArguments>): void {
  for (const { offset, length } of ranges.slice(0, SHOWN)) out.line(`  ${offset} ${length}`)
  if (ranges.length > SHOWN) out.line(`  and ${ranges.length - SHOWN} more ranges`)
}
