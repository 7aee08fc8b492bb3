import path from 'node:path'
import { fio } from './fio.ts'
import { makeEmpty } from './fuse-images.ts'
import type { Conditions } from './fuse-rows.ts'
import { inFolder } from './fuse-speed.ts'
import { interleave, report } from './harness.ts'
import { memoryOf, mountByVdisk } from './mounted.ts'

const GIB = 2 ** 30

/** From the command to its prompt, Node's start included: then the mount works. */
export async function start({ rounds }: Conditions): Promise<void> {
  await inFolder('memory', async (folder) => {
    const image = path.join(folder, 'huge.qcow2')
    await makeEmpty(image, 64 * 2 ** 40)
    const { seconds } = await interleave(rounds, {
      seconds() {
        const begun = performance.now()
        const disk = mountByVdisk(image)
        const passed = (performance.now() - begun) / 1000
        disk.end()
        return passed
      },
    })
    report({
      what: 'vdisk mount of a qcow2 of 64 TiB',
      ours: `${((seconds as number) * 1000).toFixed(0)} ms`,
      peer: '-',
      ratio: '-',
      goal: '< 500 ms',
      reached: (seconds as number) < 0.5,
    })
  })
}

/** The most that the server had in memory while much was read and written at random, in requests of all sizes. */
export async function memory({ full, engine }: Conditions): Promise<void> {
  const bytes = (full ? 64 : 4) * GIB
  await inFolder('disk', async (folder) => {
    const image = path.join(folder, 'used.qcow2')
    const size = 64 * GIB
    await makeEmpty(image, size)
    const disk = mountByVdisk(image)
    try {
      fio(disk.file, { rw: 'randrw', block: '4k/60:64k/30:1m/10', depth: 16, size, bytes }, engine)
      const most = memoryOf(disk.pid, 'VmHWM')
      report({
        what: `memory of the server while ${bytes / GIB} GiB are read and written at random`,
        ours: `${most.toFixed(0)} MiB`,
        peer: '-',
        ratio: '-',
        goal: '< 150 MiB',
        reached: most < 150,
      })
    } finally {
      disk.end()
    }
  })
}
