import { describe, expect, test } from 'vitest'
import { campaign, describeFigures } from './campaign.ts'
import type { Scene } from './scene.ts'
import { sceneNames, scenesOf } from './scenes.ts'

const SEED = Number(process.env.VDISK_TEST_SEED ?? 1)

/** States of each format: what single jobs lead to, and a sample of what two in a row do. */
const STATES = 500

/** Some seconds, but not where many work at once. */
const MINUTES = 600_000

describe('after a crash at any moment of a job every disk reads as before or after, and the job can be done again', () => {
  test.each(sceneNames().filter((name) => name.endsWith(' jobs')))('%s', { timeout: MINUTES }, async (name) => {
    const [scene] = (await scenesOf((one) => one === name)) as [Scene]
    const effort = { seed: SEED, length: 2, perSequence: 12, perRecovery: 1, states: STATES }
    const figures = await campaign(scene, effort)
    console.info(`${name}: ${describeFigures(figures)} (seed ${SEED})`)
    expect(figures.distinct).toBeGreaterThanOrEqual(STATES)
  })
})
