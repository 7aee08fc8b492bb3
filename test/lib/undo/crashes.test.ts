import { afterAll, describe, expect } from 'vitest'
import { isVdiskError, undoImage } from '../../../lib/index.ts'
import type { MemoryStore } from '../../../lib/io/memory.ts'
import { printSeed, type Random, randomTest } from '../../support/random.ts'
import { firstDifference, RecordingFiles } from '../../support/recording-files.ts'
import { UNDO_SCENES } from '../../support/undo-scenes.ts'

printSeed()

let states = 0
afterAll(() => console.info(`${states} crash states of verbs and of their undoing`))

const FOLDER = '/disks'
/** Crash states after each change of a verb; with each, some of the undoing of it. */
const STATES = Number(process.env.VDISK_UNDO_STATES ?? 1)
const AGAIN = 1

/** The files of a scene as they were before its verb, by name. */
type Before = ReadonlyMap<string, MemoryStore>

function contentsOf(files: RecordingFiles): Before {
  return new Map(files.allNames.map((name) => [name, files.content(name) as MemoryStore]))
}

function expectAsBefore(files: RecordingFiles, before: Before, when: string): void {
  for (const [name, content] of before) {
    const at = firstDifference(files.content(name) as MemoryStore, content)
    expect(at, `${name} ${when}: the first place that differs`).toBeUndefined()
  }
  const others = files.allNames.filter((name) => !before.has(name) && !name.endsWith('.partial'))
  expect(others, when).toEqual([])
}

/** Brings back what was; where there is no journal, nothing may have changed. */
async function undo(files: RecordingFiles, image: string): Promise<void> {
  try {
    await undoImage(image, { files })
  } catch (error) {
    if (!isVdiskError(error, 'NOT_FOUND')) throw error
  }
}

describe('a verb cut short at any change, by a kill or by the power, is undone to the byte', () => {
  for (const scene of UNDO_SCENES) {
    randomTest(scene.title, async (random: Random) => {
      const files = new RecordingFiles()
      const image = await scene.make(FOLDER, { files })
      const before = contentsOf(files)
      files.begin()
      await scene.run(image, { files, undo: true })
      expect(files.log.length).toBeGreaterThan(5)
      for (let end = 0; end <= files.log.length; end++) {
        for (let state = 0; state <= STATES; state++) {
          const when = `after change ${end} of ${files.log.length}, state ${state}`
          const crashed = files.crashedAt(end, state === 0 ? undefined : random)
          await undo(crashed, image)
          states += 1 + AGAIN
          expectAsBefore(crashed, before, when)
          for (let again = 0; again < AGAIN; again++) {
            const place = random.below(crashed.log.length + 1)
            const twice = crashed.crashedAt(place, random)
            await undo(twice, image)
            expectAsBefore(twice, before, `${when}, and after change ${place} of the undoing`)
          }
        }
      }
    })
  }
})
