import { ask, assertOneImage, holderOf } from '../../fuse/control/control-client.ts'
import {
  type Answer,
  type ChangedExtent,
  changesSince,
  checkpoint,
  disableTracking,
  enableTracking,
  fileIdOf,
  forgetConsumer,
  formatSize,
  sidecarOfImage,
  type TrackingStatus,
  trackingStatus,
} from '../../lib/index.ts'
import { type OpenArguments, openOptions, toOpenOptions, toSize } from '../arguments.ts'
import { ChangedRanges } from '../changed-ranges.ts'
import { type Call, defineCommand, EXIT } from '../command.ts'
import { printable } from '../output.ts'
import { UsageError } from '../usage-error.ts'

interface TrackArguments extends OpenArguments {
  action: 'enable' | 'disable' | 'status' | 'checkpoint' | 'changes'
  image: string
  since: string | undefined
  consumer: string | undefined
  granularity: string | undefined
  required: boolean
  anew: boolean
  guard: boolean | undefined
  count: boolean
}

/** Options that only some actions know. */
const CONCERNS: Readonly<Record<string, readonly string[]>> = {
  since: ['changes'],
  consumer: ['changes', 'checkpoint', 'disable'],
  granularity: ['enable'],
  required: ['enable'],
  anew: ['enable'],
  guard: ['enable'],
  count: ['changes'],
}

export const command = defineCommand<TrackArguments>({
  usage: '<action> <image>',
  describe:
    'Records which parts of a disk are written to, so that backup programs can ask what changed since they last looked. What\nis written through vdisk is recorded in IMAGE.vdisk-track; where anything may have been missed, all of the disk counts.',
  examples: [
    [
      'vdisk track enable disk.vhdx',
      'from now on changes are recorded, mounted or not; prints the token of this moment',
    ],
    ['vdisk track enable vm.qcow2 --guard', 'what a virtual machine changes is known, too, and not only noticed'],
    ['vdisk track checkpoint disk.vhdx', 'prints a token: whoever has it can ask what changed since'],
    ['vdisk track changes disk.vhdx --since TOKEN', 'the ranges that changed'],
    ['vdisk track checkpoint disk.vhdx --consumer nightly', 'the token is remembered under a name'],
    ['vdisk track changes disk.vhdx --consumer nightly --count', 'how much changed since'],
    ['vdisk track status disk.vhdx', 'since when, and who has asked'],
    ['vdisk track disable disk.vhdx', 'ends it'],
  ],
  options: (yargs) =>
    openOptions(yargs)
      .positional('action', { choices: ['enable', 'disable', 'status', 'checkpoint', 'changes'], demandOption: true })
      .positional('image', { type: 'string', demandOption: true })
      .option('since', { type: 'string', describe: 'changes: a token; without one, all of the disk counts' })
      .option('consumer', {
        type: 'string',
        describe: 'name whose token is used, remembered, or with disable forgotten',
      })
      .option('granularity', { type: 'string', describe: 'enable: bytes told apart, a power of two; default 64K' })
      .option('required', {
        type: 'boolean',
        default: false,
        describe: 'enable: what cannot be recorded must not be written; else all counts as changed then',
      })
      .option('anew', { type: 'boolean', default: false, describe: 'enable: although it is; older tokens end' })
      .option('guard', {
        type: 'boolean',
        describe: 'enable: keep a bitmap in the image (qcow2), by which it is known what QEMU changes meanwhile',
      })
      .option('count', { type: 'boolean', default: false, describe: 'changes: only how much' }) as never,
  async run(call) {
    for (const [name, actions] of Object.entries(CONCERNS)) {
      const value = call.args[name as keyof TrackArguments]
      if (!value || actions.includes(call.args.action)) continue
      throw new UsageError(
        `Cannot use --${name} with track ${call.args.action}: it belongs to ${actions.join(' and ')}`,
        'To see what there is: vdisk track --help',
      )
    }
    await ACTIONS[call.args.action](call)
    return EXIT.ok
  },
})

const ACTIONS = { enable, disable, status, checkpoint: mark, changes }

async function enable({ args, out }: Call<TrackArguments>): Promise<void> {
  const { required, anew, guard } = args
  const granularity = args.granularity === undefined ? undefined : toSize(args.granularity, '--granularity')
  const mounted = await askMounted<{ token: string }>(args, { granularity, required, anew, guard })
  const token =
    mounted?.token ?? (await enableTracking(args.image, { ...toOpenOptions(args), granularity, required, anew, guard }))
  out.document({ image: args.image, sidecar: sidecarOfImage(args.image), token })
  out.line(token)
  out.note(
    `what is written to ${printable(args.image)} through vdisk is recorded from now on, in ${printable(sidecarOfImage(args.image))}`,
  )
  out.note(`to see what changed since: vdisk track changes ${printable(args.image)} --since ${token}`)
}

async function disable({ args, out }: Call<TrackArguments>): Promise<void> {
  const { image, consumer } = args
  const mounted = await askMounted(args, { consumer })
  if (!mounted && consumer !== undefined) await forgetConsumer(image, consumer, toOpenOptions(args))
  else if (!mounted) await disableTracking(image, toOpenOptions(args))
  out.document({ image, consumer })
  out.line(
    consumer === undefined
      ? `Changes of ${printable(image)} are not recorded any more.`
      : `Forgot ${printable(consumer)}: its next question is answered with all of the disk.`,
  )
}

async function status({ args, out }: Call<TrackArguments>): Promise<void> {
  const found = (await askMounted<TrackingStatus>(args, {})) ?? (await trackingStatus(args.image, toOpenOptions(args)))
  out.document({ ...found, image: args.image })
  out.line(`tracked since  ${timeOf(found.began)}${found.required ? ', required' : ''}`)
  out.line(`granularity    ${formatSize(found.granularity)}`)
  out.line(`sidecar        ${printable(found.sidecar)}`)
  if (found.guard !== undefined) out.line(`guard          bitmap "${found.guard}" in the image`)
  if (found.problem !== undefined)
    out.line(`problem        all of the disk counts as changed: ${printable(found.problem)}`)
  for (const { name, at } of found.consumers) out.line(`consumer       ${printable(name)}, last at ${timeOf(at)}`)
}

async function mark({ args, out }: Call<TrackArguments>): Promise<void> {
  const { image, consumer } = args
  const mounted = await askMounted<{ token: string }>(args, { consumer })
  const token =
    mounted?.token ??
    (await checkpoint(image, { ...toOpenOptions(args), ...(consumer === undefined ? {} : { consumer }) }))
  out.document({ image, consumer, token })
  out.line(token)
}

async function changes(call: Call<TrackArguments>): Promise<void> {
  const { args } = call
  const ranges = new ChangedRanges(call, args.image, args.count)
  try {
    await ranges.end((await changesOfMounted(args, ranges)) ?? (await changesOfFile(args, ranges)))
  } catch (error) {
    await ranges.fail(error)
    throw error
  }
}

async function changesOfFile(args: TrackArguments, ranges: ChangedRanges): Promise<Answer> {
  const { image, since, consumer } = args
  return await changesSince(image, since, {
    ...toOpenOptions(args),
    tell: (places) => ranges.tell(places),
    ...(consumer === undefined ? {} : { consumer }),
  })
}

/** What the server of a mount answers: up to some thousand ranges, or only how many there are. */
interface Piece extends Answer {
  readonly extents: readonly ChangedExtent[]
  /** where to ask again */
  readonly next?: number
  readonly count?: number
  readonly bytes?: number
}

/** Piece by piece, for an answer of the server has an end. */
async function changesOfMounted(args: TrackArguments, ranges: ChangedRanges): Promise<Answer | undefined> {
  const { since, consumer, count } = args
  let piece: Piece | undefined
  for (let from: number | undefined = 0; from !== undefined; from = piece.next) {
    piece = await askMounted<Piece>(args, { since, consumer, from, count })
    if (!piece) return undefined
    await ranges.tell(Float64Array.from(piece.extents.flatMap(({ offset, length }) => [offset, offset + length])))
    ranges.add(piece.count ?? 0, piece.bytes ?? 0)
  }
  return piece
}

/** Asks the server of the mount, if the disk is mounted and can be written there; undefined: it is not. */
async function askMounted<T extends object>(
  { image: given, action }: TrackArguments,
  wish: object,
): Promise<T | undefined> {
  const held = holderOf(given)
  if (!held) return undefined
  const image = assertOneImage(held, given)
  // The overlay is what is written; whoever names the image beneath it means that.
  if (image.overlay !== undefined && fileIdOf(given) === fileIdOf(image.image)) return undefined
  if (image.readOnly) return undefined
  return await ask<T>({ record: held.record, image }, 'track', { action, ...wish })
}

function timeOf(milliseconds: number): string {
  return new Date(milliseconds).toISOString().replace('T', ' ').slice(0, 19)
}
