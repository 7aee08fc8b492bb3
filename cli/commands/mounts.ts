import { lastFailure } from '../../fuse/control/control-client.ts'
import { listMounts, type ShownFilesystem } from '../../fuse/daemon.ts'
import { defineCommand, EXIT } from '../command.ts'
import { printable } from '../output.ts'

export const command = defineCommand({
  usage: '',
  describe: 'Lists the disks that are mounted.',
  examples: [
    ['vdisk mounts', 'mountpoint, image, state'],
    ['vdisk mounts --json', 'the same for programs'],
  ],
  options: (yargs) => yargs,
  async run({ out }) {
    const mounts = await Promise.all(
      listMounts().map(async (mount) => ({
        ...mount,
        lastFailure: mount.state === 'serving' ? await lastFailure(mount.mountpoint) : undefined,
      })),
    )
    out.document({ mounts })
    if (mounts.length === 0) out.line('Nothing is mounted.')
    for (const { images, mountpoint, state, pid, advice, filesystem, lastFailure: failure } of mounts) {
      const process = pid === undefined ? '' : `, process ${pid}`
      for (const { image, mode, readOnly, overlay } of images) {
        const how = mode === undefined || mode === 'overlay' ? (readOnly ? 'read-only' : 'read-write') : mode
        const what = overlay === undefined ? image : `${image} + ${overlay}`
        const within = filesystem ? `, ${nameOf(filesystem)}` : ''
        out.line(`${printable(mountpoint)}  ${printable(what)}${within}  ${state}, ${how}${process}`)
      }
      if (failure) out.line(`    ${printable(`${failure.time} ${failure.request} failed: ${failure.message}`)}`)
      if (advice !== undefined) out.line(`    ${printable(advice)}`)
    }
    return EXIT.ok
  },
})

/** @example ext4 of partition 2 */
function nameOf({ type, partition }: ShownFilesystem): string {
  return partition === undefined ? type : `${type} of partition ${partition}`
}
