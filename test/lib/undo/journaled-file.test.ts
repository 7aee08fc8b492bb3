import { describe, expect, test } from 'vitest'
import type { FileStore } from '../../../lib/io/files.ts'
import { promised, settle, Turns } from '../../../lib/io/io.ts'
import { MemoryStore } from '../../../lib/io/memory.ts'
import type { ByteStore } from '../../../lib/io/store.ts'
import { planUndo, undoImage } from '../../../lib/jobs/undo.ts'
import { JournaledFile } from '../../../lib/undo/journaled-file.ts'
import { readingOnly } from '../../../lib/undo/reading-only.ts'
import { UndoSession } from '../../../lib/undo/session.ts'
import { storeContract } from '../../contract/store-contract.ts'
import { MemoryMachine } from '../../faults/memory-machine.ts'
import { printSeed, type Random, randomTest } from '../../support/random.ts'
import { allOf } from '../../support/read-only-files.ts'
import { firstDifference, RecordingFiles } from '../../support/recording-files.ts'
import { delayedStore } from '../../support/stores.ts'

printSeed()

const NOTHING = { *add() {}, *commit() {} }
const IMAGE = '/disks/image'
const OTHER = '/disks/other'
/** Random histories of a file. */
const ROUNDS = Number(process.env.VDISK_UNDO_ROUNDS ?? 6)

function asFile(store: ByteStore): FileStore {
  const { name, writable } = store
  return Object.assign(store, { name, writable, isDevice: false, fileId: () => '1', close() {} })
}

function contractOf(title: string, storeOf: () => ByteStore): void {
  storeContract(title, async () => {
    const inner = asFile(storeOf())
    const store = new JournaledFile(inner, NOTHING, new Turns())
    return {
      store,
      readOnly: () => readingOnly(new JournaledFile(inner, NOTHING, new Turns())),
      end: () => {},
    }
  })
}

contractOf('a journaled file', () => new MemoryStore())
contractOf('a slow journaled file', () => delayedStore(new MemoryStore(), 11))

function sessionOn(files: RecordingFiles, limit = 64 << 20): UndoSession {
  return new UndoSession(files, { file: IMAGE, words: 'a history', limit })
}

/** Files of which each has a time. */
function machineWith(names: readonly string[]): MemoryMachine {
  const files = new MemoryMachine()
  for (const name of names) void files.open(name, { write: true, create: 'new' }).write(0, new Uint8Array(5000).fill(1))
  return files
}

/** Something that a verb might do to its file. */
async function anything(random: Random, store: ByteStore): Promise<void> {
  const size = await promised(settle(store.size()))
  const at = random.below(random.chance(0.8) ? size + 1 : size + 100_000)
  const length = 1 + random.below(random.pick([40, 700, 5000, 200_000]))
  switch (random.below(7)) {
    case 0:
      return await promised(settle(store.truncate(at)))
    case 1:
      return await promised(settle(store.deallocate?.(at, length)))
    case 2:
      return await promised(settle(store.grow(at)))
    case 3:
      return await promised(settle(store.flush()))
    default:
      return await promised(settle(store.write(at, random.bytes(length))))
  }
}

describe('whatever is done to a file', () => {
  for (let round = 0; round < ROUNDS; round++) {
    randomTest(`it can be brought back, from the end and from any moment, ${round}`, async (random) => {
      const files = new RecordingFiles()
      const size = random.pick([0, 511, 512, 70_000, 300_001])
      files.put(IMAGE, round % 2 === 0 ? random.bytes(size) : new Uint8Array(size))
      const before = files.content(IMAGE) as MemoryStore
      files.begin()
      const session = sessionOn(files)
      const store = session.files.open(IMAGE, { write: true })
      for (let step = 0; step < 14; step++) await anything(random, store)
      store.close()
      const kept = await promised(session.end())
      expect(kept?.file).toBe(`${IMAGE}.vdisk-undo`)
      for (let state = 0; state < 40; state++) {
        const end = state === 0 ? files.log.length : random.below(files.log.length + 1)
        const crashed = files.crashedAt(end, state % 2 === 0 ? undefined : random)
        if (crashed.allNames.includes(`${IMAGE}.vdisk-undo`)) await undoImage(IMAGE, { files: crashed })
        const place = firstDifference(crashed.content(IMAGE) as MemoryStore, before)
        expect(place, `after change ${end} of ${files.log.length}`).toBeUndefined()
      }
    })
  }

  test('a file that is only flushed has no journal, and keeps the one that it had', async () => {
    const files = new RecordingFiles()
    files.put(IMAGE, new Uint8Array(5000).fill(1))
    const first = sessionOn(files)
    await promised(settle(first.files.open(IMAGE, { write: true }).write(0, new Uint8Array(10))))
    await promised(first.end())
    const second = sessionOn(files)
    await promised(settle(second.files.open(IMAGE, { write: true }).flush()))
    expect(await promised(second.end())).toBeUndefined()
    expect((await planUndo(IMAGE, { files })).files[0]?.ranges).toEqual([{ at: 0, length: 512, zero: false }])
  })

  test('what was never touched is not in the journal, and zeros are there as zeros', async () => {
    const files = new RecordingFiles()
    const content = new Uint8Array(1 << 20)
    content.fill(7, 0, 70_000)
    files.put(IMAGE, content)
    const session = sessionOn(files)
    const store = session.files.open(IMAGE, { write: true })
    await promised(settle(store.write(1000, new Uint8Array(100).fill(9))))
    await promised(settle(store.write(900_000, new Uint8Array(10_000).fill(9))))
    await promised(settle(store.flush()))
    await promised(settle(store.write(1024, new Uint8Array(10).fill(8))))
    const kept = await promised(session.end())
    expect(kept?.bytes).toBeLessThan(5000)
    expect((await planUndo(IMAGE, { files })).files).toMatchObject([
      {
        ranges: [
          { at: 512, length: 1024, zero: false },
          { at: 899_584, length: 10_752, zero: true },
        ],
      },
    ])
  })

  test('in a last sector that was zero, and not whole, what the verb wrote is known as its own', async () => {
    const files = new RecordingFiles()
    files.put(IMAGE, new Uint8Array(1000))
    const before = files.content(IMAGE) as MemoryStore
    const session = sessionOn(files)
    await promised(settle(session.files.open(IMAGE, { write: true }).write(900, new Uint8Array(200).fill(9))))
    await promised(session.end())
    await undoImage(IMAGE, { files })
    expect(firstDifference(files.content(IMAGE) as MemoryStore, before)).toBeUndefined()
  })

  test('it is opened again while it is held: writers and readers share it', async () => {
    const files = new RecordingFiles()
    files.put(IMAGE, new Uint8Array(5000).fill(1))
    const session = sessionOn(files)
    const first = session.files.open(IMAGE, { write: true })
    await promised(settle(first.write(0, new Uint8Array(3).fill(9))))
    first.close()
    const seen = new Uint8Array(4)
    await promised(settle(session.files.open(IMAGE).read(0, seen)))
    expect([...seen]).toEqual([9, 9, 9, 1])
    expect(session.files.open(IMAGE, { write: true })).toBe(first)
    await promised(session.end())
  })

  test('the stamp that is seen once all is written is the one that it is left with', async () => {
    const files = machineWith([IMAGE])
    const session = new UndoSession(files, { file: IMAGE, words: 'a test', limit: 1 << 20 })
    const store = session.files.open(IMAGE, { write: true })
    await promised(settle(store.write(0, new Uint8Array(3).fill(9))))
    await promised(settle(store.flush()))
    const seen = session.files.open(IMAGE).stamp?.().modified
    await promised(session.end())
    session.close()
    expect(seen).toBe(files.file(IMAGE).modified)
  })

  test('one that changes before the image stands behind it in the journal', async () => {
    const files = machineWith([IMAGE, OTHER])
    const before = files.copy()
    const session = new UndoSession(files, { file: IMAGE, words: 'a test', limit: 1 << 20 })
    const store = session.files.open(OTHER, { write: true })
    await promised(settle(store.write(0, new Uint8Array(3).fill(9))))
    await promised(settle(store.flush()))
    expect(() => files.open(IMAGE, { write: true, lock: 'write' })).toThrow(/open already/)
    await promised(session.end())
    session.close()
    expect((await undoImage(IMAGE, { files })).files.map(({ file }) => file)).toEqual([IMAGE, OTHER])
    expect(allOf(files)).toEqual(allOf(before))
  })
})
