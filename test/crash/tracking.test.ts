import { describe, expect, test } from 'vitest'
import { campaign, describeFigures } from './campaign.ts'
import { CHANGE_MAP } from './change-map-scene.ts'
import type { Scene } from './scene.ts'
import { scenesOf } from './scenes.ts'
import { answers } from './told.ts'
import { TRACKED } from './tracking-scene.ts'

const SEED = Number(process.env.VDISK_TEST_SEED ?? 1)

/** Some seconds, but not where many work at once. */
const MINUTES = 600_000

/** States of each: those of a change map alone cost little. */
const STATES = [[CHANGE_MAP, 7000], ...TRACKED.map(({ name }) => [name, 800])] as [string, number][]

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
