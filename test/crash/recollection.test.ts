import { expect, test } from 'vitest'
import type { Files } from '../../lib/io/files.ts'
import { CrashFolder } from './crash-folder.ts'
import { Recollection } from './recollection.ts'

/** Two files, and a reader of the one that the other names. */
function folderOf(first: string, second: string): CrashFolder {
  const folder = new CrashFolder()
  for (const [name, text] of [
    ['/d/first', first],
    ['/d/second', second],
  ] as const) {
    folder.made(name).write(0, Buffer.from(text))
  }
  return new CrashFolder(folder.medium)
}

/** What a reader finds, and how often it really read. */
function reader(): (folder: CrashFolder) => Promise<{ readonly found: string; readonly times: number }> {
  const recollection = new Recollection<string>()
  let times = 0
  const textOf = async (files: Files, name: string): Promise<string> => {
    const store = files.open(name)
    const bytes = Buffer.alloc(store.size() as number)
    await store.read(0, bytes)
    return bytes.toString()
  }
  return async (folder) => {
    const found = await recollection.of('it', folder, async (files) => {
      times++
      const next = await textOf(files, '/d/first')
      return files.look(next) ? await textOf(files, next) : `there is no ${next}`
    })
    return { found, times }
  }
}

test('what reads nothing that has changed is not done again; what does, is', async () => {
  const read = reader()
  expect(await read(folderOf('/d/second', 'old'))).toEqual({ found: 'old', times: 1 })
  expect(await read(folderOf('/d/second', 'old'))).toEqual({ found: 'old', times: 1 })
  expect(await read(folderOf('/d/second', 'new'))).toEqual({ found: 'new', times: 2 })
  expect(await read(folderOf('/d/none', 'new'))).toEqual({ found: 'there is no /d/none', times: 3 })
  // What it does not look at may be anything.
  expect(await read(folderOf('/d/none', 'other'))).toEqual({ found: 'there is no /d/none', times: 3 })
  expect(await read(folderOf('/d/second', 'old'))).toEqual({ found: 'old', times: 3 })
})

test('a change in place, a name that comes or goes, and another time of a file are noticed', async () => {
  const read = reader()
  const folder = folderOf('/d/third', 'old')
  expect(await read(folder)).toEqual({ found: 'there is no /d/third', times: 1 })
  folder.made('/d/third').write(0, Buffer.from('here'))
  expect(await read(folder)).toEqual({ found: 'here', times: 2 })
  folder.store('/d/third').write(1, Buffer.from('a'))
  expect(await read(folder)).toEqual({ found: 'hare', times: 3 })
  folder.store('/d/third').restamp(9)
  expect(await read(folder)).toEqual({ found: 'hare', times: 4 })
  folder.rename([['/d/third', undefined]])
  expect(await read(folder)).toEqual({ found: 'there is no /d/third', times: 4 })
})

test('who changes something is never taken for a reader', async () => {
  const recollection = new Recollection<number>()
  const folder = folderOf('/d/second', 'old')
  let times = 0
  const work = async (files: Files): Promise<number> => {
    files.open('/d/second', { write: true }).restamp?.(7)
    return ++times
  }
  expect(await recollection.of('it', folder, work)).toBe(1)
  expect(await recollection.of('it', folder, work)).toBe(2)
})
