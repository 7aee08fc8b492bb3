import { describe, expect, test } from 'vitest'
import { isVdiskError, planUndo, resizeDisk, undoImage, VdiskError } from '../../../lib/index.ts'
import type { FileStore, Files } from '../../../lib/io/files.ts'
import type { MemoryStore } from '../../../lib/io/memory.ts'
import { firstDifference, RecordingFiles } from '../../support/recording-files.ts'
import { watchedStore } from '../../support/stores.ts'
import { UNDO_SCENES, type UndoScene } from '../../support/undo-scenes.ts'

const FOLDER = '/disks'

interface Fault {
  /** files whose changes are counted */
  readonly of: (name: string) => boolean
  /** the first change that fails, from 0 */
  readonly at: number
  readonly code: 'NO_SPACE' | 'IO'
  /** all later ones fail as well */
  readonly lasting: boolean
}

/** The same files, on a medium that fails. */
function failing(files: RecordingFiles, { of, at, code, lasting }: Fault): { files: Files; fired: () => boolean } {
  let count = 0
  const change = (name: string): void => {
    if (!of(name)) return
    const number = count++
    if (number !== at && !(lasting && number > at)) return
    throw new VdiskError(code, { message: `Cannot write ${name}: a test says so`, where: { file: name } })
  }
  const open = (name: string, options: Parameters<Files['open']>[1]): FileStore => {
    if (options?.create) change(name)
    const inner = files.open(name, options)
    const store = watchedStore(inner, ({ kind }) => {
      if (kind !== 'read') change(name)
    })
    return Object.assign(store, { isDevice: false, fileId: () => inner.fileId(), close() {} })
  }
  return {
    fired: () => count > at,
    files: {
      open,
      look: (name) => files.look(name),
      find: (name) => files.find(name),
      realPath: (name) => files.realPath(name),
      list: (folder) => files.list(folder),
      setMode() {},
      flushFolder: () => files.flushFolder(),
      rename: (from, to) => {
        change(from)
        files.rename(from, to)
      },
      makeFolder: () => files.makeFolder(),
      remove: (name, options) => {
        files.remove(name, options)
      },
    },
  }
}

const isJournal = (name: string): boolean => name.includes('.vdisk-undo')

interface Made {
  readonly image: string
  readonly files: RecordingFiles
  readonly before: ReadonlyMap<string, MemoryStore>
}

async function make(scene: UndoScene): Promise<Made> {
  const files = new RecordingFiles()
  const image = await scene.make(FOLDER, { files })
  const before = new Map(files.allNames.map((name) => [name, files.content(name) as MemoryStore]))
  files.begin()
  return { image, files, before }
}

function expectAsBefore({ files, before }: Made, when: string): void {
  for (const [name, content] of before) {
    expect(firstDifference(files.content(name) as MemoryStore, content), `${name}, ${when}`).toBeUndefined()
  }
  expect(files.allNames, when).toEqual([...before.keys()])
}

async function errorOf(work: Promise<unknown>): Promise<VdiskError | undefined> {
  try {
    await work
    return undefined
  } catch (error) {
    if (isVdiskError(error)) return error
    throw error
  }
}

describe('where the journal has no room at its n-th change, the verb has changed nothing', () => {
  test.each(UNDO_SCENES)('$title', async (scene) => {
    const made = await make(scene)
    for (let at = 0; ; at++) {
      const state = { ...made, files: made.files.crashedAt(0) }
      const fault = failing(state.files, { of: isJournal, at, code: 'NO_SPACE', lasting: true })
      const error = await errorOf(scene.run(made.image, { files: fault.files, undo: true }))
      if (!fault.fired()) {
        expect(error).toBeUndefined()
        expect(at).toBeGreaterThan(3)
        return
      }
      expect(error, `at ${at}`).toMatchObject({ code: 'NO_SPACE', advice: expect.stringContaining('--no-undo') })
      expectAsBefore(state, `journal full at ${at}`)
    }
  })
})

describe.each([false, true])('where the image fails at its n-th change, all is as before (for good: %s)', (lasting) => {
  test.each(UNDO_SCENES)('$title', async (scene) => {
    const made = await make(scene)
    for (let at = 0; ; at++) {
      const state = { ...made, files: made.files.crashedAt(0) }
      const fault = failing(state.files, { of: (name) => name === made.image, at, code: 'IO', lasting })
      const error = await errorOf(scene.run(made.image, { files: fault.files, undo: true }))
      if (!fault.fired()) {
        expect(at).toBeGreaterThan(1)
        return
      }
      expect(error?.code, `at ${at}`).toBe('IO')
      if (lasting && state.files.allNames.some(isJournal)) {
        expect(error).toMatchObject({ advice: expect.stringContaining('is in the journal: vdisk undo') })
        await undoImage(made.image, { files: state.files })
      }
      expectAsBefore(state, `image failed at ${at}`)
    }
  })
})

describe('the limit of the journal', () => {
  const scene = UNDO_SCENES.find(({ title }) => title === 'raw, made smaller') as UndoScene

  test('is kept: what would need more is not begun', async () => {
    const made = await make(scene)
    const error = await errorOf(scene.run(made.image, { files: made.files, undo: { limit: 100_000 } }))
    expect(error).toMatchObject({ code: 'LIMIT_EXCEEDED', message: expect.stringContaining('more than 97.66 KiB') })
    expect(error?.advice).toContain('--no-undo')
    expectAsBefore(made, 'after the limit')
    await scene.run(made.image, { files: made.files, undo: { limit: 1 << 20 } })
  })

  test('in the middle of a verb what was done is taken back', async () => {
    const made = await make(UNDO_SCENES.find(({ title }) => title === 'qcow2, a snapshot deleted') as UndoScene)
    const { length } = made.files.log
    for (let limit = 1000; ; limit += 512) {
      const state = { ...made, files: made.files.crashedAt(length) }
      const run = UNDO_SCENES.find(({ title }) => title === 'qcow2, a snapshot deleted')?.run
      const error = await errorOf(run?.(made.image, { files: state.files, undo: { limit } }) as Promise<unknown>)
      if (!error) {
        expect(limit).toBeGreaterThan(3000)
        return
      }
      expect(error.code).toBe('LIMIT_EXCEEDED')
      expectAsBefore(state, `limit ${limit}`)
    }
  })
})

test('where neither the journal nor the way back can be written, the error says where the bytes are', async () => {
  const scene = UNDO_SCENES.find(({ title }) => title === 'qcow2, a snapshot deleted') as UndoScene
  const made = await make(scene)
  let told = 0
  for (let at = 4; at < 40; at++) {
    const state = { ...made, files: made.files.crashedAt(0) }
    // From the failure on nothing can be written, the image neither.
    let broken = false
    const journal = failing(state.files, { of: isJournal, at, code: 'NO_SPACE', lasting: true })
    const { files } = journal
    const both: Files = {
      ...files,
      open: (name, options) => {
        const inner = files.open(name, options)
        const store = watchedStore(inner, ({ kind }) => {
          broken ||= journal.fired()
          if (broken && kind !== 'read' && !isJournal(name)) {
            throw new VdiskError('IO', { message: `Cannot write ${name}: a test says so`, where: { file: name } })
          }
        })
        return Object.assign(store, { isDevice: false, fileId: () => inner.fileId(), close() {} })
      },
    }
    const error = await errorOf(scene.run(made.image, { files: both, undo: true }))
    if (!error?.advice?.includes('is in the journal')) continue
    told++
    expect(error.message).toContain('could not be given back')
    await undoImage(made.image, { files: state.files })
    expectAsBefore(state, `at ${at}`)
  }
  expect(told).toBeGreaterThan(0)
})

/** The latest moment of a verb before its journal says that it has ended. */
async function cutShort({ files, image }: Made): Promise<RecordingFiles> {
  for (let end = files.log.length; ; end--) {
    const crashed = files.crashedAt(end)
    if ((await planUndo(image, { files: crashed })).state === 'open') return crashed
  }
}

test('a verb that was cut short is undone, or taken as it is, before the next one', async () => {
  const scene = UNDO_SCENES.find(({ title }) => title === 'qcow2, made larger') as UndoScene
  const made = await make(scene)
  await scene.run(made.image, { files: made.files, undo: true })
  const crashed = await cutShort(made)
  const now = crashed.content(made.image) as MemoryStore
  const error = await errorOf(resizeDisk(made.image, 5 << 20, { files: crashed, undo: true, shrink: true }))
  expect(error).toMatchObject({ code: 'REFUSED', message: expect.stringContaining('"resize to 70 MiB" was cut short') })
  expect(error?.advice).toContain('--discard')
  expect(firstDifference(crashed.content(made.image) as MemoryStore, now)).toBeUndefined()
  await undoImage(made.image, { files: crashed })
  expectAsBefore({ ...made, files: crashed }, 'undone')
})
