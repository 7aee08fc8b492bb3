import { listMounts, type ShownFilesystem } from '../../fuse/daemon.ts'
import { defineCommand, EXIT } from '../command.ts'
import { printable } from '../output.ts'

export const command = defineCommand({
  usage: '',
  describe: 'Lists the disks that are mounted.',
  examples: [['vdisk mounts', 'image, mountpoint, state']],
  options: (yargs) => yargs,
  async run({ out }) {
    const mounts = listMounts()
    out.document({ mounts })
    if (mounts.length === 0) out.line('Nothing is mounted.')
    for (const { image, mountpoint, readOnly, state, pid, filesystem } of mounts) {
      const process = pid === undefined ? '' : `, process ${pid}`
      const what = filesystem ? `, ${nameOf(filesystem)}` : ''
      out.line(
        `${printable(mountpoint)}  ${printable(image)}  ${state}${what}${readOnly ? ', read-only' : ''}${process}`,
      )
    }
    return EXIT.ok
  },
})

/** @example ext4 of partition 2 */
function nameOf({ type, partition }: ShownFilesystem): string {
  return partition === undefined ? type : `${type} of partition ${partition}`
}
