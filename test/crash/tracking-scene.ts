import { createDisk, enableTracking } from '../../lib/index.ts'
import { patternFor } from '../model/history.ts'
import { CrashFolder } from './crash-folder.ts'
import { PAGE, PagedFile } from './paged-file.ts'
import type { Played, Scene } from './scene.ts'
import { questionOf } from './told.ts'
import { examineTracked } from './tracking-examiner.ts'
import {
  doTracked,
  FOLDER,
  howToOpen,
  note,
  SIZE,
  TRACKED_OPERATIONS,
  type TrackedDesk,
  type TrackedKind,
} from './tracking-operations.ts'
import { pagesOf } from './truth.ts'
import { begun } from './without-chance.ts'

/** Disks whose changes are tracked. */
export const TRACKED: readonly TrackedKind[] = [
  { name: 'tracking of qcow2', base: 'qcow2', layer: 'qcow2', options: { cluster_size: '4K' } },
  { name: 'tracking of raw below qcow2', base: 'raw', layer: 'qcow2', options: { cluster_size: '4K' } },
  { name: 'tracking of vhdx', base: 'vhdx', layer: 'vhdx', options: { block_size: '1M' } },
  { name: 'tracking of vmdk', base: 'vmdk', layer: 'vmdk', options: { grain_size: '4K' } },
]

/** A disk with a little content, two tokens of it, and what can be done with it. */
export async function trackingScene(kind: TrackedKind): Promise<Scene> {
  const beginning = await begun(() => begin(kind))
  return {
    name: kind.name,
    sector: 512,
    start: beginning.folder.medium,
    operations: TRACKED_OPERATIONS,
    play: (operations) => play(beginning, operations),
  }
}

async function play(beginning: TrackedDesk, operations: readonly string[]): Promise<Played> {
  const { kind } = beginning
  const folder = new CrashFolder(beginning.folder.medium)
  const desk = { ...beginning, folder, moments: [...beginning.moments], homes: new Set(beginning.homes) }
  const touched = new Set(pagesOf(desk.content))
  const begins: number[] = []
  for (const name of operations) {
    begins.push(folder.log.length)
    folder.mark(name)
    await doTracked(desk, name)
    for (const { content } of desk.moments) for (const page of pagesOf(content)) touched.add(page)
    for (const page of pagesOf(desk.content)) touched.add(page)
  }
  const { moments, homes } = desk
  return {
    log: folder.log,
    begins,
    questionAt: (end) => questionOf(moments.filter(({ at }) => at <= end)),
    async examine(crashed, { end, liedFlushes }, thorough) {
      const recovered = await examineTracked(kind, crashed, {
        moments: moments.filter(({ at }) => at <= end),
        homes,
        touched,
        thorough,
        lied: liedFlushes !== undefined,
      })
      return { recovered, asPromised: false }
    },
  }
}

async function begin(kind: TrackedKind): Promise<TrackedDesk> {
  const folder = new CrashFolder()
  const base = `${FOLDER}/base`
  const content = new PagedFile()
  content.truncate(SIZE)
  const options = kind.base === 'raw' ? {} : kind.options
  const how = howToOpen({ kind, folder }, base)
  {
    await using disk = await createDisk(base, { ...how, format: kind.base, options, size: SIZE })
    for (const offset of [0, 3 * PAGE, 4 << 20]) {
      const source = patternFor(offset, 1024, 7)
      await disk.write(offset, source)
      content.write(offset, source)
    }
  }
  const desk: TrackedDesk = { kind, folder, layers: [base], content, moments: [], homes: new Set([base]), fill: 5 }
  note(desk, await enableTracking(base, { ...how, granularity: PAGE }))
  return { ...desk, moments: desk.moments.map((moment) => ({ ...moment, at: 0 })) }
}
