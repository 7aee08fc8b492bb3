import {
  createInternalSnapshot,
  createLayer,
  deleteInternalSnapshot,
  drivers,
  formatSize,
  listSnapshots,
  revertToSnapshot,
} from '../../lib/index.ts'
import { formatOptions, type OpenArguments, openOptions, toFormatOptions, toOpenOptions } from '../arguments.ts'
import { type Call, defineCommand, EXIT } from '../command.ts'
import { printable } from '../output.ts'
import { noteUndo, type UndoArguments, undoOptions, withUndo } from '../undo.ts'
import { UsageError } from '../usage-error.ts'

interface SnapshotArguments extends OpenArguments, UndoArguments {
  action: string
  image: string
  name: string | undefined
  to: string | undefined
  format: string | undefined
  option: string[]
}

export const command = defineCommand<SnapshotArguments>({
  usage: '<action> <image> [name]',
  describe:
    'Keeps states of a disk. With --to the state is frozen in the image, and a new layer over it takes what is written from\nthen on; without, it is kept inside the image under a name, where the format can (qcow2, Parallels bundles).',
  examples: [
    ['vdisk snapshot create disk.qcow2 before-update', 'inside the image'],
    ['vdisk snapshot create disk.vhdx --to disk-2.avhdx', 'a new layer: from now on the disk is disk-2.avhdx'],
    ['vdisk snapshot list disk.qcow2', 'snapshots inside, and layers below'],
    ['vdisk snapshot revert disk.qcow2 before-update', 'back to that state; what was written since is gone'],
    ['vdisk snapshot delete disk.qcow2 before-update', 'the disk stays as it is'],
  ],
  options: (yargs) =>
    undoOptions(formatOptions(openOptions(yargs)))
      .positional('action', { choices: ['create', 'list', 'revert', 'delete'], demandOption: true })
      .positional('image', { type: 'string', demandOption: true })
      .positional('name', { type: 'string', describe: 'name or id; a layer is called by its file' })
      .option('to', { type: 'string', describe: 'create: file of the new layer' })
      .option('format', {
        type: 'string',
        choices: drivers.filter((driver) => driver.create).map(({ name }) => name),
        describe: 'create --to: format of the new layer, default the image\u2019s',
      }) as never,
  async run(call) {
    const { action, to } = call.args
    if (to !== undefined && action !== 'create') {
      throw new UsageError(
        `Cannot use --to with snapshot ${action}: it names the new layer of snapshot create`,
        `Write: vdisk snapshot ${action} IMAGE${action === 'list' ? '' : ' NAME'}`,
      )
    }
    const actions = { create, list, revert, delete: remove }
    await actions[action as keyof typeof actions](call)
    return EXIT.ok
  },
})

async function create({ args, out, signal }: Call<SnapshotArguments>): Promise<void> {
  const options = { ...toOpenOptions(args), signal }
  if (args.to !== undefined) {
    const parentFormat = args.sourceFormat ?? args.parentFormat
    const layer = await createLayer(args.image, args.to, {
      ...options,
      format: args.format,
      parentFormat,
      options: toFormatOptions(args.option),
    })
    out.document({ image: args.image, layer })
    out.line(`${printable(args.image)} is frozen. From now on the disk is ${printable(layer.file)} (${layer.format}).`)
    return
  }
  const { result: snapshot, kept } = await withUndo(args, out, (undo) =>
    createInternalSnapshot(args.image, nameOf(args), { ...options, undo }),
  )
  out.document({ image: args.image, snapshot, undo: kept })
  out.line(`Kept the present state of ${printable(args.image)} as "${snapshot.name}" (${snapshot.id}).`)
  noteUndo(out, args.image, kept)
}

async function list({ args, out }: Call<SnapshotArguments>): Promise<void> {
  const snapshots = await listSnapshots(args.image, toOpenOptions(args))
  out.document({ image: args.image, snapshots })
  if (snapshots.length === 0) out.line('No snapshots inside, no layers below.')
  for (const { kind, id, name, created, size } of snapshots) {
    const when = created === undefined ? '' : new Date(created * 1000).toISOString().replace('T', ' ').slice(0, 19)
    out.line(
      `${kind.padEnd(8)}  ${printable(kind === 'layer' ? id : `${id}  ${name}`)}  ${formatSize(size)}  ${when}`.trimEnd(),
    )
  }
}

async function revert({ args, out, signal }: Call<SnapshotArguments>): Promise<void> {
  const { result: kind, kept } = await withUndo(args, out, (undo) =>
    revertToSnapshot(args.image, nameOf(args), { ...toOpenOptions(args), undo, signal }),
  )
  out.document({ image: args.image, reverted: nameOf(args), kind, undo: kept })
  out.line(`${printable(args.image)} is as it was at "${nameOf(args)}".`)
  noteUndo(out, args.image, kept)
}

async function remove({ args, out, signal }: Call<SnapshotArguments>): Promise<void> {
  const { kept } = await withUndo(args, out, (undo) =>
    deleteInternalSnapshot(args.image, nameOf(args), { ...toOpenOptions(args), undo, signal }),
  )
  out.document({ image: args.image, deleted: nameOf(args), undo: kept })
  out.line(`Removed snapshot "${nameOf(args)}" from ${printable(args.image)}; the disk is as it was.`)
  noteUndo(out, args.image, kept)
}

function nameOf({ name, action }: SnapshotArguments): string {
  if (name !== undefined) return name
  throw new UsageError(
    `Cannot ${action} a snapshot without a name`,
    `Write: vdisk snapshot ${action} IMAGE NAME${action === 'create' ? ', or --to FILE for a new layer' : ''}`,
  )
}
