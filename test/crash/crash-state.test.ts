import { expect, test } from 'vitest'
import { CrashFolder, Medium } from './crash-folder.ts'
import { type Choice, CrashStates } from './crash-state.ts'
import { PAGE, PagedFile } from './paged-file.ts'
import { changed, type Picture, pictureHash, Truth } from './truth.ts'

const SECTOR = 512
const OLD = new Uint8Array(3 * PAGE).fill(1)
const NEW = new Uint8Array(2 * PAGE).fill(2)

/** A file of three pages, of which two are written, flushed, and written as they were before. */
function thereAndBack(): (choice: Choice) => ReturnType<CrashStates['after']> {
  const file = new PagedFile()
  file.write(0, OLD)
  file.modified = 5n
  const start = new Medium(new Map([['a', 1]]), new Map([[1, file]]))
  const folder = new CrashFolder(start)
  const store = folder.store('a')
  store.write(100, NEW)
  store.flush()
  store.write(100, OLD.subarray(0, NEW.length))
  store.restamp(7)
  store.flush()
  const states = new CrashStates(start, folder.log, SECTOR)
  return (choice) => states.after(choice)
}

const all = (end: number, ...indices: number[]): Choice => ({ end, kept: indices.map((index) => ({ index })) })

test('the same content has the same number, however it came about', () => {
  const after = thereAndBack()
  const old = after(all(0)).hash
  const changed = after(all(1, 0)).hash
  expect(changed).not.toBe(old)
  expect(after(all(1)).hash).toBe(old)
  expect(after(all(2)).hash).toBe(changed)
  expect(after(all(3, 2)).hash).toBe(old)
  expect(after(all(5)).hash).toBe(old)
  expect(after({ end: 1, kept: [{ index: 0, pieces: [1, 2] }] }).hash).not.toBe(changed)
})

test('a crash in the recovery of a crash is told from the same one in that of another', () => {
  const after = thereAndBack()
  const recovered = [after(all(0)).medium, after(all(2)).medium].map((medium) => {
    const folder = new CrashFolder(medium)
    folder.store('a').write(2 * PAGE + 200, NEW.subarray(0, SECTOR))
    return new CrashStates(medium, folder.log, SECTOR).after(all(1, 0)).hash
  })
  expect(recovered[0]).not.toBe(recovered[1])
})

test('a time that a file was given counts, and who wrote it last does not', () => {
  const after = thereAndBack()
  expect(after(all(1, 0)).times).toBe(after(all(0)).times)
  expect(after(all(4, 2, 3)).times).not.toBe(after(all(4, 2)).times)
})

test('after the same promise, what was asked for since makes another question', () => {
  const picture: Picture = { disk: new PagedFile(), snapshots: new Map(), bitmaps: new Map(), linked: true }
  const questions = [1, 2].map((fill) => {
    const folder = new CrashFolder()
    const truth = new Truth<Picture>(folder, picture)
    truth.submit(changed(picture, (disk) => disk.write(0, new Uint8Array(100).fill(fill))))
    folder.mark('asked')
    return truth.questionAt(1, pictureHash)
  })
  expect(questions[0]?.promised).toBe(questions[1]?.promised)
  expect(questions[0]?.possible).not.toBe(questions[1]?.possible)
})
