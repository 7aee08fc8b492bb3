import { describe, expect, test } from 'vitest'
import { examineSeeded, playSeeded } from './campaign.ts'
import { CrashFolder } from './crash-folder.ts'
import { type Choice, CrashStates, pendingAt } from './crash-state.ts'
import type { Scene } from './scene.ts'
import { scenesOf } from './scenes.ts'

const SEED = 1

/** Sequences after which campaigns have found something wrong, and what that was. */
const FOUND = [
  [
    'vmdk jobs',
    'layer,merge below',
    'the lowest merged layer was written, which who is built upon it took for new content',
  ],
  ['vdi below vmdk jobs', 'layer,merge below', 'the same over a base of another format'],
  ['vmdk jobs', 'layer,merge below,layer', 'a note that was taken away came back, with the time of before'],
] as const

describe('what campaigns have found stays right, at each moment, with all of what is on its way and with nothing', () => {
  test.each(FOUND)('%s: %s: %s', async (name, words) => {
    const [scene] = (await scenesOf((one) => one === name)) as [Scene]
    const played = await playSeeded(scene, words.split(','), SEED)
    const states = new CrashStates(scene.start, played.log, scene.sector)
    for (let end = 0; end <= played.log.length; end++) {
      const pending = pendingAt(played.log, end).map((index) => ({ index }))
      for (const kept of [pending, []]) {
        const crash: Choice = { end, kept }
        const folder = new CrashFolder(states.after(crash).medium)
        await expect(examineSeeded(played, folder, { seed: SEED, crash }, true)).resolves.toBeDefined()
      }
    }
  })
})
