import {
  addBitmap,
  bitmapToToken,
  type ChangedExtent,
  clearBitmap,
  exportBitmap,
  formatSize,
  importBitmap,
  listBitmaps,
  mergeBitmaps,
  removeBitmap,
  setBitmapEnabled,
} from '../../lib/index.ts'
import { type OpenArguments, openOptions, toOpenOptions, toSize } from '../arguments.ts'
import { type Call, defineCommand, EXIT } from '../command.ts'
import { printable } from '../output.ts'
import { noteUndo, type UndoArguments, undoOptions, withUndo } from '../undo.ts'
import { UsageError } from '../usage-error.ts'

type Action = 'add' | 'remove' | 'clear' | 'enable' | 'disable' | 'merge' | 'list' | 'export' | 'import'

interface BitmapArguments extends OpenArguments, UndoArguments {
  action: Action
  image: string
  name: string | undefined
  granularity: string | undefined
  disabled: boolean
  source: string[] | undefined
  sourceImage: string | undefined
  since: string | undefined
  consumer: string | undefined
  replace: boolean
  count: boolean
  token: boolean
}

/** Options that only some actions know. */
const CONCERNS: Readonly<Record<string, readonly Action[]>> = {
  granularity: ['add', 'import'],
  disabled: ['add', 'import'],
  source: ['merge'],
  sourceImage: ['merge'],
  since: ['import'],
  consumer: ['import', 'export'],
  replace: ['import'],
  count: ['export'],
  token: ['export'],
}

export const command = defineCommand<BitmapArguments>({
  usage: '<action> <image> [name]',
  describe:
    'Dirty bitmaps inside a qcow2 image, as QEMU and libvirt keep them: each has a bit for every granule of the disk that was\nwritten to. A bitmap that records is kept up to date by QEMU, and by vdisk whatever it does to the disk.',
  examples: [
    ['vdisk bitmap add disk.qcow2 nightly', 'from now on it records what is written, by QEMU or vdisk'],
    ['vdisk bitmap list disk.qcow2', 'what there is, and which of them can be used'],
    ['vdisk bitmap export disk.qcow2 nightly', 'the ranges that were written to'],
    ['vdisk bitmap clear disk.qcow2 nightly', 'after a backup: it begins anew'],
    ['vdisk bitmap merge disk.qcow2 week --source monday --source tuesday', 'week says what any of them says'],
    ['vdisk bitmap merge disk.qcow2 nightly --source nightly --source-image old.qcow2', 'those of another image'],
    [
      'vdisk bitmap import disk.qcow2 nightly --since TOKEN',
      'what changed since a token of vdisk track; mends a broken one',
    ],
    ['vdisk bitmap export disk.qcow2 nightly --consumer offsite', 'vdisk track goes on from what the bitmap says'],
    ['vdisk bitmap remove disk.qcow2 nightly', 'also one that is broken'],
  ],
  options: (yargs) =>
    undoOptions(openOptions(yargs))
      .positional('action', {
        choices: ['add', 'remove', 'clear', 'enable', 'disable', 'merge', 'list', 'export', 'import'],
        demandOption: true,
      })
      .positional('image', { type: 'string', demandOption: true })
      .positional('name', { type: 'string', describe: 'of the bitmap' })
      .option('granularity', {
        type: 'string',
        describe: 'add, import: bytes per bit, a power of two from 512 to 2G; default a cluster, 4K to 64K',
      })
      .option('disabled', { type: 'boolean', default: false, describe: 'add, import: it does not record' })
      .option('source', { type: 'string', array: true, describe: 'merge: a bitmap that is added; may be repeated' })
      .option('source-image', { type: 'string', describe: 'merge: image that those are in; default the same' })
      .option('since', { type: 'string', describe: 'import: a token; without one, all of the disk counts' })
      .option('consumer', {
        type: 'string',
        describe: 'import: name whose token is used; export: name that is told from now on what the bitmap says',
      })
      .option('replace', { type: 'boolean', default: false, describe: 'import: also in place of one that can be used' })
      .option('count', { type: 'boolean', default: false, describe: 'export: only how much' })
      .option('token', {
        type: 'boolean',
        default: false,
        describe: 'export: a token of vdisk track that stands for the moment in which the bitmap began',
      }) as never,
  async run(call) {
    const { action } = call.args
    for (const [name, actions] of Object.entries(CONCERNS)) {
      const value = call.args[name as keyof BitmapArguments]
      if (value === undefined || value === false || actions.includes(action)) continue
      const option = name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)
      throw new UsageError(
        `Cannot use --${option} with bitmap ${action}: it belongs to ${actions.join(' and ')}`,
        'To see what there is: vdisk bitmap --help',
      )
    }
    await ACTIONS[action](call)
    return EXIT.ok
  },
})

const ACTIONS: Readonly<Record<Action, (call: Call<BitmapArguments>) => Promise<void>>> = {
  add,
  remove: (call) => change(call, 'removed', removeBitmap),
  clear: (call) => change(call, 'empty from now on', clearBitmap),
  enable: (call) =>
    change(call, 'recording from now on', (file, name, given) => setBitmapEnabled(file, name, true, given)),
  disable: (call) =>
    change(call, 'not recording any more', (file, name, given) => setBitmapEnabled(file, name, false, given)),
  merge,
  list,
  export: (call) => (call.args.token || call.args.consumer !== undefined ? exportToToken(call) : exportExtents(call)),
  import: importFromToken,
}

async function add({ args, out, signal }: Call<BitmapArguments>): Promise<void> {
  const name = nameOf(args)
  const granularity = toGranularity(args)
  const { result: bitmap, kept } = await withUndo(args, out, (undo) =>
    addBitmap(args.image, name, { ...toOpenOptions(args), signal, undo, granularity, enabled: !args.disabled }),
  )
  out.document({ image: args.image, bitmap, undo: kept })
  const state = bitmap.enabled ? 'it records from now on' : 'it does not record'
  out.line(`Added bitmap "${printable(name)}", a bit for every ${formatSize(bitmap.granularity)}: ${state}.`)
  noteUndo(out, args.image, kept)
}

/** What needs a name and no more. */
async function change(
  { args, out, signal }: Call<BitmapArguments>,
  done: string,
  work: (file: string, name: string, options: Parameters<typeof removeBitmap>[2]) => Promise<void>,
): Promise<void> {
  const name = nameOf(args)
  const { kept } = await withUndo(args, out, (undo) => work(args.image, name, { ...toOpenOptions(args), signal, undo }))
  out.document({ image: args.image, bitmap: { name }, undo: kept })
  out.line(`Bitmap "${printable(name)}" of ${printable(args.image)} is ${done}.`)
  noteUndo(out, args.image, kept)
}

async function merge({ args, out, signal }: Call<BitmapArguments>): Promise<void> {
  const name = nameOf(args)
  const { source: sources = [], sourceImage } = args
  if (sources.length === 0) {
    throw new UsageError(
      'Cannot merge nothing: no source was given',
      'Write: vdisk bitmap merge IMAGE NAME --source NAME',
    )
  }
  const { kept } = await withUndo(args, out, (undo) =>
    mergeBitmaps(args.image, name, sources, { ...toOpenOptions(args), signal, undo, sourceImage }),
  )
  out.document({ image: args.image, bitmap: { name }, sources, undo: kept })
  out.line(`Bitmap "${printable(name)}" says what ${sources.map((one) => `"${printable(one)}"`).join(', ')} said, too.`)
  noteUndo(out, args.image, kept)
}

async function list({ args, out }: Call<BitmapArguments>): Promise<void> {
  const bitmaps = await listBitmaps(args.image, toOpenOptions(args))
  out.document({ image: args.image, bitmaps })
  if (bitmaps.length === 0) out.line('No bitmaps.')
  for (const { name, granularity, enabled, consistent } of bitmaps) {
    const state = consistent ? (enabled ? 'recording' : 'not recording') : 'broken: not saved by its last writer'
    out.line(`${printable(name)}  every ${formatSize(granularity)}  ${state}`)
  }
  if (bitmaps.some(({ consistent }) => !consistent)) {
    out.note('one that is in use at the moment cannot be told from a broken one')
    out.note('a broken one can be removed, or made anew from a token: vdisk bitmap import IMAGE NAME --since TOKEN')
  }
}

async function exportExtents({ args, out }: Call<BitmapArguments>): Promise<void> {
  const name = nameOf(args)
  const extents: ChangedExtent[] = []
  let [bytes, count] = [0, 0]
  const visit = (extent: ChangedExtent): void => {
    bytes += extent.length
    count++
    if (!args.count) extents.push(extent)
  }
  const { size, ...bitmap } = await exportBitmap(args.image, name, { ...toOpenOptions(args), visit })
  out.document({ image: args.image, bitmap, size, count, bytes, ...(args.count ? {} : { extents }) })
  if (args.count) out.line(`${count} ${count === 1 ? 'range' : 'ranges'}, ${formatSize(bytes)} of ${formatSize(size)}`)
  for (const { offset, length } of extents) out.line(`${offset} ${length}`)
}

async function exportToToken({ args, out, signal }: Call<BitmapArguments>): Promise<void> {
  const { consumer } = args
  const name = nameOf(args)
  const token = await bitmapToToken(args.image, name, { ...toOpenOptions(args), signal, consumer })
  out.document({ image: args.image, bitmap: { name }, consumer, token })
  out.line(token)
}

async function importFromToken({ args, out, signal }: Call<BitmapArguments>): Promise<void> {
  const name = nameOf(args)
  const { since, consumer, replace } = args
  const granularity = toGranularity(args)
  const wish = { since, consumer, replace, granularity, ...(args.disabled ? { enabled: false } : {}) }
  const { result, kept } = await withUndo(args, out, (undo) =>
    importBitmap(args.image, name, { ...toOpenOptions(args), signal, undo, ...wish }),
  )
  const { full, granularity: grain } = result
  out.document({
    image: args.image,
    bitmap: { name, granularity: grain },
    full: full !== undefined,
    reason: full,
    undo: kept,
  })
  if (full !== undefined) out.note(`all of the disk counts as changed: ${printable(full)}`)
  out.line(`Bitmap "${printable(name)}" says what changed since, a bit for every ${formatSize(grain)}.`)
  noteUndo(out, args.image, kept)
}

function toGranularity({ granularity }: BitmapArguments): number | undefined {
  return granularity === undefined ? undefined : toSize(granularity, '--granularity')
}

function nameOf({ name, action }: BitmapArguments): string {
  if (name !== undefined) return name
  throw new UsageError(
    `Cannot ${action} a bitmap without a name`,
    `Write: vdisk bitmap ${action} IMAGE NAME. To see their names: vdisk bitmap list IMAGE`,
  )
}
