import fs from 'node:fs'
import path from 'node:path'
import { promised } from '../../lib/io/io.ts'
import { runPeer } from '../support/peers.ts'
import { Random } from '../support/random.ts'
import { playSeeded } from './campaign.ts'
import { choicesFor } from './choices.ts'
import { CrashFolder, type Medium } from './crash-folder.ts'
import { CrashStates } from './crash-state.ts'
import { GEOMETRIES } from './geometries.ts'
import { type Geometry, NAMES } from './geometry.ts'
import { layerScene } from './layer-scene.ts'
import { openChain } from './open-layer.ts'
import { describeCrash, formatReproducer, type Reproducer } from './reproducer.ts'
import type { Played, Scene } from './scene.ts'

/** How another reader's opinion was asked. */
export interface CrossChecked {
  readonly states: number
  /** of them, those in which qemu-img found room that nobody uses */
  readonly leaks: number
}

/** What qemu-img can read: of VHDX no differencing ones and no sectors of 4096, and no counts that were left to be rebuilt. */
export function judgedByQemu(format: string): Geometry[] {
  return GEOMETRIES.filter(
    ({ driver, child, spoil, options }) =>
      driver.name === format && !spoil && !(driver.name === 'vhdx' && (child || options.logical_sector_size)),
  )
}

/**
 * Has qemu-img judge crash states, chosen by a seed: its check may find leaks, and it must read what we read.
 *
 * What needs a recovery that qemu-img does not make is recovered by us first.
 *
 * @param folder where files are put
 * @throws Error that tells the crash
 */
export async function crossCheck(
  geometries: readonly Geometry[],
  how: { readonly count: number; readonly seed: number; readonly folder: string },
): Promise<CrossChecked> {
  const random = new Random(how.seed)
  let leaks = 0
  for (const [i, geometry] of geometries.entries()) {
    const scene = await layerScene(geometry)
    const count = Math.ceil((how.count * (i + 1)) / geometries.length) - Math.ceil((how.count * i) / geometries.length)
    for (let done = 0; done < count; ) {
      const operations = Array.from({ length: 1 + random.below(3) }, () => random.pick(scene.operations))
      const played = await playSeeded(scene, operations, how.seed)
      const choices = [...choicesFor(played.log, 0, scene.sector, random)]
      // Several of each sequence: to play it costs as much as to judge it.
      for (let n = 0; n < Math.min(4, choices.length) && done < count; n++, done++) {
        const crash = random.pick(choices)()
        const reproducer = { seed: how.seed, scene: scene.name, operations, crash }
        leaks += await judgeOne(geometry, { scene, played, reproducer }, how.folder)
      }
    }
  }
  return { states: how.count, leaks }
}

async function judgeOne(
  geometry: Geometry,
  { scene, played, reproducer }: { scene: Scene; played: Played; reproducer: Reproducer },
  folder: string,
): Promise<number> {
  const states = new CrashStates(scene.start, played.log, scene.sector)
  try {
    return await judge(geometry, states.after(reproducer.crash).medium, folder)
  } catch (error) {
    if (error instanceof Error) {
      error.message += `\n${describeCrash(played.log, reproducer.crash)}\n${formatReproducer(reproducer)}`
    }
    throw error
  }
}

/** @returns 1 if there are leaks */
async function judge({ driver }: Geometry, medium: Medium, folder: string): Promise<number> {
  const crashed = new CrashFolder(medium)
  if (driver.name === 'vhdx') await promised((await openChain(driver, crashed, 'write')).close())
  const chain = await openChain(driver, crashed, 'read')
  const ours = new Uint8Array(chain.size)
  await promised(chain.read(0, ours))
  for (const [name, number] of crashed.medium.names) {
    fs.writeFileSync(path.join(folder, name), crashed.fileBehind(number).bytes())
  }
  const args = ['check', '-f', driver.name, NAMES.image]
  const { status, stdout, stderr } = runPeer('qemu-img', args, { in: folder, accept: [0, 2, 3] })
  // A crash in a snapshot may leave flags behind their counts.
  const errors = `${stdout}${stderr}`.split('\n').filter((line) => /^ERROR(?!.*OFLAG_COPIED)/.test(line))
  if (errors.length > 0) throw new Error(`qemu-img check finds: ${stdout}${stderr}`)
  const theirs = path.join(folder, 'theirs')
  runPeer('qemu-img', ['convert', '-f', driver.name, '-O', 'raw', NAMES.image, theirs], { in: folder })
  const read = fs.readFileSync(theirs)
  if (Buffer.compare(read, ours) === 0) return status === 3 ? 1 : 0
  const at = read.findIndex((byte, i) => byte !== ours[i])
  throw new Error(`qemu-img reads another disk: ${read.length} bytes, ours has ${ours.length}; they differ at ${at}`)
}
