import { afterEach, expect, test, vi } from 'vitest'
import { playSeeded } from './campaign.ts'
import { CrashStates, pendingAt } from './crash-state.ts'
import type { Scene } from './scene.ts'
import { sceneNames, scenesOf } from './scenes.ts'

/** What is there after each operation, by one number each; the scene is made anew, as another thread makes it. */
async function contentsOf(name: string): Promise<number[]> {
  const [scene] = (await scenesOf((one) => one === name)) as [Scene]
  const contents: number[] = []
  for (const operation of scene.operations) {
    const { log } = await playSeeded(scene, [operation], 1)
    const kept = pendingAt(log, log.length).map((index) => ({ index }))
    contents.push(new CrashStates(scene.start, log, scene.sector).after({ end: log.length, kept }).hash)
  }
  return contents
}

afterEach(() => {
  vi.restoreAllMocks()
})

test.each(sceneNames())(
  '%s: the same operations lead to the same bytes in another run at another time',
  async (name) => {
    const contents = await contentsOf(name)
    vi.spyOn(Date, 'now').mockReturnValue(Date.UTC(2027, 4, 5, 6, 7, 8, 9))
    expect(await contentsOf(name)).toEqual(contents)
  },
)
