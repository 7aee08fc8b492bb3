import { describe, expect, test } from 'vitest'
import { CrashFailure, campaign } from './campaign.ts'
import type { Entry } from './crash-folder.ts'
import { NAMES } from './geometry.ts'
import { FOLDER } from './job-operations.ts'
import type { Scene } from './scene.ts'
import { scenesOf } from './scenes.ts'
import { replay } from './shrink.ts'

/** The scene as it would be if the code under test did things in another order. @param change in place: entries keep their number */
function mutated(scene: Scene, change: (log: Entry[], scene: Scene) => void): Scene {
  return {
    ...scene,
    async play(operations) {
      const played = await scene.play(operations)
      const log = [...played.log]
      change(log, scene)
      return { ...played, log }
    },
  }
}

async function sceneOf(name: string): Promise<Scene> {
  const [scene] = await scenesOf((one) => one === name)
  if (!scene) throw new Error(`no scene is called ${name}`)
  return scene
}

/** The first crash that goes wrong, made small. */
async function caught(scene: Scene, operations: readonly string[]): Promise<CrashFailure> {
  const only: Scene = { ...scene, operations }
  const effort = { seed: 1, length: operations.length, perSequence: 400, perRecovery: 2, states: 100_000 }
  const failure = await campaign(only, effort).catch((error: unknown) => error)
  expect(failure).toBeInstanceOf(CrashFailure)
  return failure as CrashFailure
}

/** A flush and the write after it change places. */
function writeBeforeFlush(log: Entry[]): void {
  for (let i = 0; i + 1 < log.length; i++) {
    const [flush, write] = [log[i] as Entry, log[i + 1] as Entry]
    if (flush.kind === 'flush' && write.kind === 'write' && write.at > 0) {
      log[i] = write
      log[i + 1] = flush
      i++
    }
  }
}

describe('the harness catches', () => {
  test.each(['qcow2', 'qcow2 subclusters'])(
    'a pointer that is written before its target is durable: %s',
    async (name) => {
      const failure = await caught(mutated(await sceneOf(name), writeBeforeFlush), ['write', 'flush'])
      expect(failure.message).toContain("npm run crash -- --replay '1/")
      // What it prints leads there again; and without the mutant nothing is wrong there.
      expect(await replay(mutated(await sceneOf(name), writeBeforeFlush), failure.reproducer)).toBeDefined()
      expect(await replay(await sceneOf(name), failure.reproducer)).toBeUndefined()
    },
  )

  test.each([['merge'], ['layer', 'merge below']])(
    'a merge that does not flush the ancestor before it switches: %s',
    async (...operations) => {
      const skipFlush = (log: Entry[], { start }: Scene): void => {
        const base = start.names.get(`${FOLDER}/${NAMES.base}`)
        for (const [i, entry] of log.entries()) {
          if (entry.kind === 'flush' && entry.file === base) log[i] = { kind: 'mark', text: 'flush' }
        }
      }
      const failure = await caught(mutated(await sceneOf('qcow2 jobs'), skipFlush), operations)
      expect(failure.reproducer.operations.at(-1)).toBe(operations.at(-1))
    },
  )

  test('a name that is given before the folder is flushed is no promise', async () => {
    const skipFlush = (log: Entry[]): void => {
      for (const [i, entry] of log.entries()) {
        if (entry.kind === 'flush folder') log[i] = { kind: 'mark', text: 'flush folder' }
      }
    }
    await caught(mutated(await sceneOf('qcow2 jobs'), skipFlush), ['convert'])
  })

  test('a promise of which nothing is kept: what it leaves is right after another promise', async () => {
    const losesAll = (log: Entry[]): void => {
      for (const [i, entry] of log.entries()) {
        if (entry.kind !== 'flush') log[i] = { kind: 'mark', text: entry.kind }
      }
    }
    const failure = await caught(mutated(await sceneOf('raw'), losesAll), ['flush', 'write'])
    expect(failure.reproducer.operations).toEqual(['write', 'flush'])
  })

  test('a list of bitmaps that is named before it is durable', async () => {
    const early = (log: Entry[]): void => {
      const last = log.findLastIndex((entry) => entry.kind === 'write' && entry.at > 0)
      const flush = log.findIndex((entry, i) => i > last && entry.kind === 'flush')
      if (flush !== -1) log[flush] = { kind: 'mark', text: 'flush' }
    }
    await caught(mutated(await sceneOf('qcow2'), early), ['add bitmap'])
  })

  test('an image that is changed before its identity is', async () => {
    const late = (log: Entry[]): void => {
      for (const place of HEADERS) {
        const first = log.findIndex((entry) => entry.kind === 'write' && entry.at === place)
        if (first !== -1) log[first] = { kind: 'mark', text: 'header' }
      }
    }
    const failure = await caught(mutated(await sceneOf('vhdx'), late), ['overwrite', 'flush'])
    expect(failure.message).toContain('identity')
  })

  test('a log that is named before it is durable', async () => {
    const early = (log: Entry[]): void => {
      const entry = log.findIndex((one) => one.kind === 'write' && one.at >= LOG && one.at < LOG + (1 << 20))
      if (entry !== -1) log[entry + 1] = { kind: 'mark', text: 'flush' }
    }
    await caught(mutated(await sceneOf('vhdx'), early), ['write', 'flush'])
  })
})

/** Where a VHDX has its headers, and those of ours the log. [MS-VHDX] 2.2 */
const HEADERS = [64 << 10, 128 << 10]
const LOG = 1 << 20
