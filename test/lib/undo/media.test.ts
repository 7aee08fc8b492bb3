import { describe, expect, test } from 'vitest'
import type { VdiskError } from '../../../lib/errors.ts'
import type { FileStore, Files } from '../../../lib/io/files.ts'
import { promised, runSync, settle, Turns } from '../../../lib/io/io.ts'
import { MemoryStore } from '../../../lib/io/memory.ts'
import type { ByteStore, FileStamp } from '../../../lib/io/store.ts'
import { undoImage } from '../../../lib/jobs/undo.ts'
import { JournaledFile } from '../../../lib/undo/journaled-file.ts'
import { LIMIT } from '../../../lib/undo/layout.ts'
import { Past } from '../../../lib/undo/past.ts'
import { findObjection } from '../../../lib/undo/restore.ts'
import { UndoSession } from '../../../lib/undo/session.ts'
import { storeContract } from '../../contract/store-contract.ts'
import { MemoryMachine } from '../../faults/memory-machine.ts'
import { patternFor } from '../../model/history.ts'
import { printSeed } from '../../support/random.ts'
import { firstDifference, RecordingFiles } from '../../support/recording-files.ts'
import { refusal } from '../../support/refusal.ts'
import { withoutHoles } from '../../support/stores.ts'

printSeed()

const IMAGE = '/disks/image'
const MiB = 1 << 20

function asFile(store: ByteStore): FileStore {
  return Object.assign(store, { isDevice: false, fileId: () => '1', close() {} })
}

/** The same files, of which each that is opened is made another. */
function openedAs(files: Files, change: (store: FileStore, file: string) => FileStore): Files {
  return new Proxy(files, {
    get(target, key) {
      if (key === 'open') {
        const open: Files['open'] = (file, options) => change(files.open(file, options), file)
        return open
      }
      const value: unknown = Reflect.get(target, key)
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
}

function sessionOn(files: Files, more: { locks?: boolean } = {}): UndoSession {
  return new UndoSession(files, { file: IMAGE, words: 'a test', limit: 64 << 20, ...more })
}

function filesWith(content: Uint8Array): RecordingFiles {
  const files = new RecordingFiles()
  files.put(IMAGE, content)
  return files
}

describe('on a medium that knows no holes', () => {
  storeContract('a journaled file', async () => {
    const inner = asFile(withoutHoles(new MemoryStore()))
    return {
      store: new JournaledFile(inner, { *add() {}, *commit() {} }, new Turns()),
      readOnly: () => new MemoryStore('memory', { content: new Uint8Array(10), writable: false }),
      end: () => {},
    }
  })

  test('zeros are zeros again, though they take room', async () => {
    const content = new Uint8Array(300_000)
    content.set(patternFor(0, 70_000, 3), 100_000)
    const files = filesWith(content)
    const before = files.content(IMAGE) as MemoryStore
    const plain = openedAs(files, (store) => {
      const { isDevice, fileId } = store
      return Object.assign(withoutHoles(store), { isDevice, fileId, close() {} })
    })
    const session = sessionOn(plain)
    const store = session.files.open(IMAGE, { write: true })
    await promised(settle(store.write(1000, new Uint8Array(250_000).fill(9))))
    await promised(settle(store.truncate(90_000)))
    await promised(session.end())
    await undoImage(IMAGE, { files: plain })
    expect(firstDifference(files.content(IMAGE) as MemoryStore, before)).toBeUndefined()
  })
})

describe('a verb', () => {
  test('that writes more at once than a journal takes in one piece can be undone', async () => {
    const files = filesWith(patternFor(0, 9 * MiB, 3))
    const before = files.content(IMAGE) as MemoryStore
    files.begin()
    const session = sessionOn(files)
    const store = session.files.open(IMAGE, { write: true })
    await promised(settle(store.write(0, patternFor(0, 9 * MiB, 4))))
    // What waits in memory is bounded: it was written, without a flush of the file.
    const written = files.log.filter((change) => change.kind === 'write' && change.bytes.length > 0).length
    expect(written).toBeGreaterThan(9)
    await promised(session.end())
    expect(Buffer.compare(files.content(IMAGE)?.bytes() as Uint8Array, patternFor(0, 9 * MiB, 4))).toBe(0)
    await undoImage(IMAGE, { files })
    expect(firstDifference(files.content(IMAGE) as MemoryStore, before)).toBeUndefined()
  })

  test('that makes a file as long as it is leaves no journal', async () => {
    const files = filesWith(new Uint8Array(5000).fill(1))
    const session = sessionOn(files)
    await promised(settle(session.files.open(IMAGE, { write: true }).truncate(5000)))
    expect(await promised(session.end())).toBeUndefined()
  })

  test('that takes room for a file can be undone; where the medium offers none it says so', async () => {
    const files = filesWith(new Uint8Array(5000).fill(1))
    const before = files.content(IMAGE) as MemoryStore
    const allocating = openedAs(files, (store) =>
      Object.assign(store, { allocate: (at: number, length: number) => store.grow(at + length) }),
    )
    const session = sessionOn(allocating)
    const store = session.files.open(IMAGE, { write: true })
    await promised(settle(store.allocate?.(4000, 100_000)))
    expect(await promised(settle(store.size()))).toBe(104_000)
    await promised(session.end())
    await undoImage(IMAGE, { files })
    expect(firstDifference(files.content(IMAGE) as MemoryStore, before)).toBeUndefined()
    const plain = sessionOn(files).files.open(IMAGE, { write: true })
    expect(await refusal(() => promised(settle(plain.allocate?.(4000, 100_000))))).toMatchObject({
      code: 'UNSUPPORTED',
      where: { file: IMAGE, at: 4000 },
    })
  })

  test('that asks what lies behind the end of a file is told where that is', async () => {
    const store = sessionOn(filesWith(new Uint8Array(5000))).files.open(IMAGE, { write: true })
    expect(await refusal(() => promised(settle(store.segment?.(5000))))).toMatchObject({
      code: 'OUT_OF_RANGE',
      where: { file: IMAGE, at: 5000 },
    })
    expect(await promised(settle(store.occupied?.()))).toBe(5000)
    const counted = openedAs(filesWith(new Uint8Array(5000)), (file) => Object.assign(file, { occupied: () => 512 }))
    expect(await promised(settle(sessionOn(counted).files.open(IMAGE, { write: true }).occupied?.()))).toBe(512)
  })

  test('that asks for the stamp of a file while something waits for it gets the one that it has', async () => {
    const files = new MemoryMachine()
    void files.open(IMAGE, { write: true, create: 'new' }).write(0, new Uint8Array(5000).fill(1))
    const session = sessionOn(files)
    const store = session.files.open(IMAGE, { write: true })
    const { modified } = files.file(IMAGE)
    await promised(settle(store.write(0, new Uint8Array(3))))
    expect(store.stamp?.().modified).toBe(modified)
    expect(files.file(IMAGE).modified).toBe(modified)
    await promised(session.end())
    session.close()
  })

  test('that changes one of the files it has open speaks in its journal of no other', async () => {
    const files = filesWith(new Uint8Array(5000).fill(1))
    files.put('/disks/other', new Uint8Array(5000).fill(2))
    const session = sessionOn(files)
    session.files.open('/disks/other', { write: true })
    await promised(settle(session.files.open(IMAGE, { write: true }).write(0, new Uint8Array(3))))
    await promised(session.end())
    expect((await undoImage(IMAGE, { files })).files.map(({ file }) => file)).toEqual([IMAGE])
  })

  test.each([
    [true, 'write'],
    [false, undefined],
  ])('that changes another file first has the image opened, and locked as it locks: %s', async (locks, lock) => {
    const files = filesWith(new Uint8Array(5000).fill(1))
    files.put('/disks/other', new Uint8Array(5000).fill(2))
    const locked: unknown[] = []
    const watched = new Proxy<Files>(files, {
      get(target, key) {
        const value: unknown = Reflect.get(target, key)
        if (key !== 'open') return typeof value === 'function' ? value.bind(target) : value
        const open: Files['open'] = (file, options) => {
          if (file === IMAGE) locked.push(options?.lock)
          return target.open(file, options)
        }
        return open
      },
    })
    const session = sessionOn(watched, { locks })
    const other = session.files.open('/disks/other', { write: true })
    await promised(settle(other.write(0, new Uint8Array(3))))
    await promised(session.end())
    expect(locked).toEqual([lock])
    expect((await undoImage(IMAGE, { files })).files.map(({ file }) => file)).toEqual([IMAGE, '/disks/other'])
  })

  test('that changes more files than a journal has numbers for is broken off, and rolled back', async () => {
    const names = Array.from({ length: LIMIT.files + 1 }, (_, i) => (i === 0 ? IMAGE : `/disks/part-${i}`))
    const files = new RecordingFiles()
    for (const name of names) files.put(name, new Uint8Array(600).fill(1))
    const session = sessionOn(files)
    let failure: VdiskError | undefined
    for (const name of names) {
      const store = session.files.open(name, { write: true })
      await promised(settle(store.write(0, new Uint8Array(3))))
      if (name === names.at(-1)) failure = await refusal(async () => await store.flush())
      else await promised(settle(store.flush()))
    }
    expect(failure).toMatchObject({ code: 'LIMIT_EXCEEDED', where: { file: IMAGE } })
    expect(session.broken).toBe(true)
    expect(await promised(session.rollBack())).toBe(true)
    for (const name of names)
      expect(
        files
          .content(name)
          ?.bytes()
          .every((byte) => byte === 1),
      ).toBe(true)
    expect(files.allNames).toEqual(names.toSorted())
  })

  test('on a block device has no place for a journal, and lets it go', () => {
    let closed = 0
    const devices = openedAs(filesWith(new Uint8Array(5000)), (store) => ({
      ...store,
      isDevice: true,
      close: () => void closed++,
    }))
    expect(() => sessionOn(devices).files.open(IMAGE, { write: true })).toThrow(
      expect.objectContaining({ code: 'UNSUPPORTED', advice: expect.stringContaining('--no-undo') }),
    )
    expect(closed).toBe(1)
  })
})

describe('a time of the last change', () => {
  /** Nanoseconds since 1970. */
  const stamped = (modified: bigint): ByteStore =>
    Object.assign(new MemoryStore('file', { content: new Uint8Array(512) }), {
      stamp: (): FileStamp => ({ size: 512, modified, inode: 1n, born: 0n }),
    })
  const objection = (past: Past, file: bigint, journal: bigint) =>
    runSync(findObjection(past, past.end ? 'complete' : 'open', stamped(file), stamped(journal)))

  test('that no calendar has is told in nanoseconds', () => {
    const past = new Past('', 512, 1n)
    past.end = { size: 512, modified: 1_600_000_000_000_000_000n }
    const found = objection(past, 10n ** 25n, 0n)
    expect(found).toMatchObject({ kind: 'time', at: undefined })
    expect(found?.message).toBe(`it was last written at ${10n ** 25n} ns, and was left at 2020-09-13T12:26:40.000Z`)
  })

  test('of what was cut short may be a minute behind its journal, and no more', () => {
    const past = new Past('', 512, 1n)
    const journal = 1_600_000_000_000_000_000n
    expect(objection(past, journal + 60_000_000_000n, journal)).toBeUndefined()
    expect(objection(past, journal + 60_000_000_001n, journal)).toMatchObject({ kind: 'time' })
  })
})
