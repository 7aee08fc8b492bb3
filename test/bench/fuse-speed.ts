import fs from 'node:fs'
import path from 'node:path'
import { forget } from './fio.ts'
import { makeChain, makeChainTwice } from './fuse-images.ts'
import { type Conditions, randomReadsDeep, readingUses, type Use, uses } from './fuse-rows.ts'
import { benchFolder, compareRates, interleave, report, vdisk } from './harness.ts'
import {
  call,
  LIBYAL_TOOLS,
  type MountedDisk,
  mountByLibyal,
  mountByQemu,
  mountByVdisk,
  mountKnows,
} from './mounted.ts'

/** Rows that were asked for, by their names. */
export type Picked = (id: string) => boolean

/** A qcow2 image and those below it, beside QEMU's export of a copy. In memory: the medium does not speak. */
export async function chain(group: string, layers: number, picked: Picked, conditions: Conditions): Promise<void> {
  const chosen = uses.filter(({ id }) => picked(`${group}/${id}`))
  if (chosen.length === 0) return
  const shape = layers === 1 ? 'qcow2' : `chain of ${layers} layers`
  await inFolder('memory', async (folder) => {
    const { top, ours, peers } = await makeChainTwice(folder, layers)
    await mounted({
      vdisk: () => mountByVdisk(path.join(ours, top)),
      peer: () => mountByQemu(path.join(peers, top)),
    })(async ({ vdisk, peer }) => {
      for (const use of chosen) await compareUse(`${shape}: ${use.what}`, use, vdisk, peer, use.goal, conditions)
    })
  })
}

/** The blocks of a file that nobody has read yet come from the medium. */
export async function cold(picked: Picked, conditions: Conditions): Promise<void> {
  const use = randomReadsDeep
  if (!picked(`cold/${use.id}`)) return
  await inFolder('disk', async (folder) => {
    const { top, ours, peers } = await makeChainTwice(folder, 1)
    call(['sync', '-f', folder])
    await mounted({
      vdisk: () => mountByVdisk(path.join(ours, top)),
      peer: () => mountByQemu(path.join(peers, top)),
    })(async ({ vdisk, peer }) => {
      const afresh: Use = {
        ...use,
        run(file, given, round) {
          forget(path.join(file === vdisk.file ? ours : peers, top))
          return use.run(file, given, round)
        },
      }
      await compareUse(`cold qcow2 on a disk: ${use.what}`, afresh, vdisk, peer, 0.8, conditions)
    })
  })
}

/** One image of a format, as convert makes it, beside the tool of libyal for it. */
export async function besideLibyal(
  format: keyof typeof LIBYAL_TOOLS,
  picked: Picked,
  conditions: Conditions,
): Promise<void> {
  const chosen = readingUses.filter(({ id }) => picked(`${format}/${id}`))
  if (chosen.length === 0) return
  await inFolder('memory', async (folder) => {
    const top = await makeChain(path.join(folder, 'chain'), 1)
    // Of the same name on both sides: a VMDK names itself, and libvmdk follows that.
    const [source, ours, peers] = ['source', 'ours', 'peers'].map((side) => {
      fs.mkdirSync(path.join(folder, side))
      return path.join(folder, side, `disk.${format}`)
    }) as [string, string, string]
    call([...vdisk, 'convert', '-q', path.join(folder, 'chain', top), source, '--format', format])
    for (const side of [ours, peers]) fs.copyFileSync(source, side)
    for (const used of ['chain', 'source']) fs.rmSync(path.join(folder, used), { recursive: true })
    await mounted({
      vdisk: () => mountByVdisk(ours),
      peer: () => mountByLibyal(peers, format),
    })(async ({ vdisk, peer }) => {
      for (const use of chosen)
        await compareUse(`${format} beside ${LIBYAL_TOOLS[format]}: ${use.what}`, use, vdisk, peer, 1, conditions)
    })
  })
}

/** What the portable transport gives, beside the protocol spoken by ourselves: of the same image, one after the other. */
export async function portable(picked: Picked, conditions: Conditions): Promise<void> {
  const chosen = uses.filter(({ id }) => picked(`fuse-native/${id}`))
  if (chosen.length === 0) return
  if (!mountKnows('--transport')) {
    console.log('skipped  fuse-native: vdisk mount has no option --transport')
    return
  }
  await inFolder('memory', async (folder) => {
    const { top, ours, peers } = await makeChainTwice(folder, 1)
    await mounted({
      vdisk: () => mountByVdisk(path.join(ours, top), '--transport', 'fuse-native'),
      peer: () => mountByVdisk(path.join(peers, top)),
    })(async ({ vdisk, peer }) => {
      for (const use of chosen) {
        const { ours, theirs } = await measure(use, vdisk, peer, conditions)
        report({
          what: `fuse-native beside our protocol: ${use.what}`,
          ours: use.show(ours),
          peer: use.show(theirs),
          ratio: `${(ours / theirs).toFixed(2)}x`,
          goal: '-',
          reached: true,
        })
      }
    })
  })
}

/** Notes how fast both are. */
export async function compareUse(
  what: string,
  use: Use,
  vdisk: MountedDisk,
  peer: MountedDisk,
  goal: number,
  conditions: Conditions,
): Promise<void> {
  const { ours, theirs } = await measure(use, vdisk, peer, conditions)
  compareRates(what, ours, theirs, goal, use.show)
}

/** Both are mounted all the time; the one that is not asked is idle. */
async function measure(
  use: Use,
  vdisk: MountedDisk,
  peer: MountedDisk,
  conditions: Conditions,
): Promise<{ ours: number; theirs: number }> {
  const rounds = { vdisk: 0, peer: 0 }
  const medians = await interleave(conditions.rounds, {
    vdisk: () => use.run(vdisk.file, conditions, rounds.vdisk++),
    peer: () => use.run(peer.file, conditions, rounds.peer++),
  })
  return { ours: medians.vdisk as number, theirs: medians.peer as number }
}

/** Mounts on both sides, and ends both, whatever happens in between. */
export function mounted(sides: { vdisk: () => MountedDisk; peer: () => MountedDisk }) {
  return async (work: (disks: { vdisk: MountedDisk; peer: MountedDisk }) => Promise<void>): Promise<void> => {
    const vdisk = sides.vdisk()
    try {
      const peer = sides.peer()
      try {
        await work({ vdisk, peer })
      } finally {
        peer.end()
      }
    } finally {
      vdisk.end()
    }
  }
}

/** Works in a folder that is gone afterwards. */
export async function inFolder(where: 'memory' | 'disk', work: (folder: string) => Promise<void>): Promise<void> {
  const folder = benchFolder(where)
  try {
    await work(folder)
  } finally {
    fs.rmSync(folder, { recursive: true })
  }
}
