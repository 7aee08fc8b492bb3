import path from 'node:path'
import { fio } from './fio.ts'
import { makeChainTwice, WRITTEN } from './fuse-images.ts'
import { type Conditions, overwrites, sequentialWrites, type Use } from './fuse-rows.ts'
import { compareUse, inFolder, mounted, type Picked } from './fuse-speed.ts'
import { compareTimes, interleave, vdisk } from './harness.ts'
import { call, type MountedDisk, mountByVdisk, processorTimeOf } from './mounted.ts'

const USES: readonly Use[] = [
  { ...overwrites, goal: 0.9 },
  { ...sequentialWrites, goal: 0.95 },
]

/** Requests of which the processor time is taken. */
const REQUESTS = 100_000

/** A disk whose changes are recorded, beside a copy without: in memory, and where a flush takes what a medium takes. */
export async function tracked(picked: Picked, conditions: Conditions): Promise<void> {
  for (const where of ['memory', 'disk'] as const) {
    const chosen = USES.filter(({ id }) => picked(`tracked-${where}/${id}`))
    const cost = picked(`tracked-${where}/processor`)
    if (chosen.length === 0 && !cost) continue
    await inFolder(where, async (folder) => {
      const { top, ours, peers } = await makeChainTwice(folder, 1)
      call([...vdisk, 'track', 'enable', path.join(ours, top)])
      call(['sync', '-f', folder])
      await mounted({
        vdisk: () => mountByVdisk(path.join(ours, top)),
        peer: () => mountByVdisk(path.join(peers, top)),
      })(async ({ vdisk, peer }) => {
        const name = `tracked, in ${where}`
        for (const use of chosen) await compareUse(`${name}: ${use.what}`, use, vdisk, peer, use.goal, conditions)
        if (cost) await compareCost(`${name}: processor time of an overwrite`, vdisk, peer, conditions)
      })
    })
  }
}

/** What the machine does beside counts less here than for speed. */
async function compareCost(what: string, vdisk: MountedDisk, peer: MountedDisk, conditions: Conditions): Promise<void> {
  const { rounds, engine } = conditions
  const load = { rw: 'randwrite', block: 4096, depth: 16, ...WRITTEN, bytes: REQUESTS * 4096 } as const
  const cost = ({ file, pid }: MountedDisk): number => {
    const before = processorTimeOf(pid)
    fio(file, load, engine)
    return ((processorTimeOf(pid) - before) / REQUESTS) * 1e6
  }
  const medians = await interleave(rounds, { vdisk: () => cost(vdisk), peer: () => cost(peer) })
  compareTimes(what, medians.vdisk as number, medians.peer as number, 0.9, 'us')
}
