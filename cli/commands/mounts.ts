import { listMounts } from '../../fuse/daemon.ts'
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
    const mounts = listMounts()
    out.document({ mounts })
    if (mounts.length === 0) out.line('Nothing is mounted.')
    for (const { images, mountpoint, state, pid, advice } of mounts) {
      const process = pid === undefined ? '' : `, process ${pid}`
      for (const { image, mode, readOnly, overlay } of images) {
        const how = mode === undefined || mode === 'overlay' ? (readOnly ? 'read-only' : 'read-write') : mode
        const what = overlay === undefined ? image : `${image} + ${overlay}`
        out.line(`${printable(mountpoint)}  ${printable(what)}  ${state}, ${how}${process}`)
      }
      if (advice !== undefined) out.line(`    ${printable(advice)}`)
    }
    return EXIT.ok
  },
})
