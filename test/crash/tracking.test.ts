import { describe, expect, test } from 'vitest'
import { checkpointOpen, createDisk, enableTracking, openDisk, promised } from '../../lib/index.ts'
import { memoryFiles } from '../support/memory-files.ts'
import { campaign, describeFigures } from './campaign.ts'
import { CHANGE_MAP } from './change-map-scene.ts'
import { CrashFolder } from './crash-folder.ts'
import type { Scene } from './scene.ts'
import { scenesOf } from './scenes.ts'
import { answers } from './told.ts'
import { TRACKED } from './tracking-scene.ts'

const SEED = Number(process.env.VDISK_TEST_SEED ?? 1)

/** Some seconds, but not where many work at once. */
const MINUTES = 600_000

/** States of each: those of a change map alone cost little. */
const STATES = [[CHANGE_MAP, 7000], ...TRACKED.map(({ name }) => [name, 800])] as [string, number][]

test('a token is handed out when what the disk holds is durable', async () => {
  const folder = new CrashFolder()
  const files = memoryFiles(folder)
  await (await createDisk('/d/disk', { files, format: 'raw', size: 1 << 20 })).close()
  await enableTracking('/d/disk', { files, format: 'raw' })
  await using disk = await openDisk('/d/disk', { files, format: 'raw', writable: true })
  await disk.write(0, new Uint8Array(512).fill(1))
  const image = folder.numberOf('/d/disk')
  await promised(checkpointOpen(disk.chain))
  const last = folder.log.findLast((entry) => 'file' in entry && entry.file === image)
  expect(last?.kind).toBe('flush')
})

describe('after a crash at any moment every granule that differs from what a token stands for is told', () => {
  test.each(STATES)('%s', { timeout: MINUTES }, async (name, states) => {
    const [scene] = (await scenesOf((one) => one === name)) as [Scene]
    const effort = { seed: SEED, length: 4, perSequence: 20, perRecovery: 2, states }
    const before = { ...answers }
    const figures = await campaign(scene, effort)
    const [exact, full] = [answers.exact - before.exact, answers.full - before.full]
    console.info(
      `${name}: ${describeFigures(figures)}; ${exact} answers, and ${full} that were "all of it" (seed ${SEED})`,
    )
    expect(figures.distinct).toBeGreaterThanOrEqual(states)
    // Whoever always says that all may have changed misses nothing; some formats do not tell after a crash.
    expect(exact).toBeGreaterThan(full / 8)
  })
})
