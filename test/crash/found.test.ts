import { describe, expect, test } from 'vitest'
import { Random } from '../support/random.ts'
import { examineSeeded, playSeeded } from './campaign.ts'
import { choicesFor } from './choices.ts'
import { CrashFolder } from './crash-folder.ts'
import { type Choice, CrashStates, pendingAt } from './crash-state.ts'
import type { Played, Scene } from './scene.ts'
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
  [
    'qcow2 map that has to move',
    'add bitmap,grow',
    "a bitmap in use with the table of the size before counted as damage, and its table as nobody's",
  ],
  [
    'qcow2 counts that need another block',
    'part,write,clear bitmap',
    'a refcount block was in use whose own count, in another block, was not durable',
  ],
  [
    'parallels map that needs the place of data',
    'erase,grow,flush,overwrite',
    'room that was given up before the map took it became free afterwards, and data was written over the map',
  ],
] as const

function* allAndNothing({ log }: Played): Generator<Choice> {
  for (let end = 0; end <= log.length; end++) {
    const pending = pendingAt(log, end).map((index) => ({ index }))
    for (const kept of [pending, []]) yield { end, kept }
  }
}

/** Of single images, which cost little. */
function* everything({ sector }: Scene, { log }: Played): Generator<Choice> {
  for (const choice of choicesFor(log, 0, sector, new Random(SEED))) yield choice()
}

describe('what campaigns have found stays right, at each moment, with all of what is on its way and with nothing', () => {
  test.each(FOUND)('%s: %s: %s', async (name, words) => {
    const [scene] = (await scenesOf((one) => one === name)) as [Scene]
    const played = await playSeeded(scene, words.split(','), SEED)
    const states = new CrashStates(scene.start, played.log, scene.sector)
    for (const crash of name.endsWith(' jobs') ? allAndNothing(played) : everything(scene, played)) {
      const folder = new CrashFolder(states.after(crash).medium)
      await expect(examineSeeded(played, folder, { seed: SEED, crash }, true)).resolves.toBeDefined()
    }
  })
})
