import { describe, expect, test } from 'vitest'
import { VdiskError } from '../../../lib/errors.ts'
import { BoundedStore } from '../../../lib/io/bounded-store.ts'
import { Pace, promised, run, runSync } from '../../../lib/io/io.ts'
import { removeLeftovers } from '../../../lib/io/leftovers.ts'
import { MemoryStore } from '../../../lib/io/memory.ts'
import { OverlayStore } from '../../../lib/io/overlay-store.ts'
import { paddedTables } from '../../../lib/io/padded-tables.ts'
import type { ByteStore } from '../../../lib/io/store.ts'
import { TableCache } from '../../../lib/io/table-cache.ts'
import { WindowStore } from '../../../lib/io/window-store.ts'
import { writeZeros } from '../../../lib/io/zeros.ts'
import { storeContract } from '../../contract/store-contract.ts'
import { MemoryMachine } from '../../faults/memory-machine.ts'
import { patternFor } from '../../model/history.ts'
import { refusal } from '../../support/refusal.ts'
import { countingStore, delayedStore, watchedStore, withoutHoles } from '../../support/stores.ts'

const readOnly = (): ByteStore => new MemoryStore('memory', { content: new Uint8Array(10), writable: false })

storeContract('what a file would be', async () => {
  const below = new MemoryStore('memory')
  return { store: new OverlayStore(below, 0), readOnly, end: () => expect(below.size()).toBe(0) }
})

describe('a part of a file', () => {
  const content = patternFor(0, 5000, 3)
  const file = (): MemoryStore => new MemoryStore('memory', { content })

  test('has its own places, and ends where it ends', async () => {
    const part = new WindowStore(file(), { at: 1000, length: 500 })
    expect(part.size()).toBe(500)
    const bytes = new Uint8Array(100)
    await part.read(400, bytes)
    expect(Buffer.compare(bytes, content.subarray(1400, 1500))).toBe(0)
    // What follows in the file is none of its own.
    expect(await refusal(async () => await part.read(401, bytes))).toMatchObject({
      code: 'OUT_OF_RANGE',
      where: { file: 'memory', at: 401 },
    })
    expect(part.occupied()).toBe(500)
    expect(part.segment(100)).toEqual({ kind: 'data', length: 400 })
    expect(new WindowStore(withoutHoles(file()), { at: 1000, length: 500 }).segment(100)).toEqual({
      kind: 'data',
      length: 400,
    })
  })

  test('that ends before its file does not change: what follows would have to move', async () => {
    const inner = file()
    const part = new WindowStore(inner, { at: 1000, length: 500 })
    expect(part.writable).toBe(false)
    for (const change of [() => part.write(0, new Uint8Array(1)), () => part.truncate(0), () => part.grow(9000)])
      expect((await refusal(async () => await change())).code).toBe('READ_ONLY')
    await part.flush()
    expect(Buffer.compare(inner.bytes(), content)).toBe(0)
  })

  test.each(['at once', 'later'])(
    'that has all that follows grows and shrinks with its file, which answers %s',
    async (when) => {
      const inner = file()
      const below: ByteStore =
        when === 'at once'
          ? inner
          : { ...delayedStore(inner, 5), size: async () => inner.size(), segment: async (at) => inner.segment(at) }
      const rest = new WindowStore(below, { at: 1000, length: undefined })
      expect(await rest.size()).toBe(4000)
      await rest.write(3900, new Uint8Array(300).fill(9))
      await rest.grow(10_000)
      await rest.grow(5)
      expect([inner.size(), await rest.size()]).toEqual([11_000, 10_000])
      expect(await rest.segment(500)).toEqual({ kind: 'data', length: 9500 })
      await rest.truncate(3950)
      await rest.flush()
      const wanted = content.slice(0, 4950)
      wanted.fill(9, 4900)
      expect(Buffer.compare(inner.bytes(), wanted)).toBe(0)
      expect(await rest.occupied()).toBe(3950)
    },
  )

  test('behind the end of its file is empty', () => {
    expect(new WindowStore(file(), { at: 6000, length: undefined }).size()).toBe(0)
  })

  test.each([
    [true, 1],
    [false, 0],
  ])('closes its file where that is its own: %s', async (owned, closed) => {
    let count = 0
    const inner = { ...watchedStore(file(), () => {}), close: () => void count++ }
    await new WindowStore(inner, { at: 0, length: 500, owned }).close()
    expect(count).toBe(closed)
  })

  test('is known by its file: its identity, its stamp, and whether another shows the same', () => {
    const machine = new MemoryMachine()
    void machine.open('/disk', { write: true, create: 'new' }).write(0, content)
    const open = (name = '/disk') => machine.open(name)
    const part = new WindowStore(open(), { at: 1000, length: 500 })
    expect(part.fileId()).toBe(open().fileId())
    expect(part.stamp()).toEqual(open().stamp?.())
    const unknown = new WindowStore(file(), { at: 1000, length: 500 })
    expect([unknown.fileId(), unknown.stamp()]).toEqual(['memory', { size: 500, modified: 0n, inode: 0n, born: 0n }])
    expect(new WindowStore(file(), { at: 1000, length: undefined }).stamp().size).toBe(0)
    const sure: ByteStore = { ...watchedStore(file(), () => {}), standsFor: (other) => other === sure }
    const shows = new WindowStore(sure, { at: 1000, length: 500 })
    expect(shows.standsFor(new WindowStore(sure, { at: 1000, length: 500 }))).toBe(true)
    expect(shows.standsFor(new WindowStore(sure, { at: 1001, length: 500 }))).toBe(false)
    expect(shows.standsFor(new WindowStore(sure, { at: 1000, length: 501 }))).toBe(false)
    expect(shows.standsFor(new WindowStore(file(), { at: 1000, length: 500 }))).toBe(false)
    expect(shows.standsFor(sure)).toBe(false)
    expect(unknown.standsFor(unknown)).toBe(false)
  })
})

describe('what a file would be', () => {
  test('leaves the file alone, and hides for good what a truncation took', async () => {
    const below = new MemoryStore('memory', { content: patternFor(0, 20_000, 3) })
    const overlay = new OverlayStore(below, 20_000)
    await overlay.write(4000, new Uint8Array(200).fill(9))
    await overlay.truncate(6000)
    await overlay.truncate(20_000)
    const wanted = patternFor(0, 20_000, 3)
    wanted.fill(9, 4000, 4200)
    wanted.fill(0, 6000)
    const found = new Uint8Array(20_000)
    await overlay.read(0, found)
    expect(Buffer.compare(found, wanted)).toBe(0)
    expect(Buffer.compare(below.bytes(), patternFor(0, 20_000, 3))).toBe(0)
    expect(overlay.fileId()).toBe('memory')
    expect(new OverlayStore({ ...watchedStore(below, () => {}), fileId: () => '1:2' }, 0).fileId()).toBe('1:2')
  })
})

describe('a file of which only a part is read', () => {
  const open = (store: ByteStore): Promise<BoundedStore> => promised(BoundedStore.over(store))

  test('gives what lies in it, and no more than a piece at a time', async () => {
    const content = patternFor(0, 3 << 20, 5)
    const store = await open(new MemoryStore('memory', { content }))
    const peek = (at: number, length: number) => promised(store.peek(at, length))
    expect(Buffer.compare((await peek(100, 50)) as Uint8Array, content.subarray(100, 150))).toBe(0)
    expect(Buffer.compare((await peek(100_000, 50)) as Uint8Array, content.subarray(100_000, 100_050))).toBe(0)
    for (const [at, length] of [
      [-1, 10],
      [0.5, 10],
      [0, -1],
      [(3 << 20) - 5, 10],
      [Number.MAX_SAFE_INTEGER, 1],
      [0, (1 << 20) + 1],
    ] as const)
      expect(await peek(at, length), `${length} bytes at ${at}`).toBeUndefined()
    expect(await refusal(async () => await store.read((3 << 20) - 5, new Uint8Array(10)))).toMatchObject({
      code: 'OUT_OF_RANGE',
      where: { at: (3 << 20) - 5 },
    })
  })

  test('is not read on for ever, whatever it says of itself', async () => {
    const { store, counts } = countingStore(new MemoryStore('memory', { content: new Uint8Array(1 << 20) }))
    const bounded = await open(store)
    const error = await refusal(async () => {
      for (let i = 0; i < 100; i++) await promised(bounded.peek(1000, (1 << 20) - 1000))
    })
    expect(error).toMatchObject({ code: 'LIMIT_EXCEEDED', where: { file: 'memory', at: 1000 } })
    expect(counts.read?.bytes).toBeLessThanOrEqual((8 << 20) + 65_536 + 512)
    // The beginning is at hand all the same.
    expect(await promised(bounded.peek(0, 512))).toHaveLength(512)
  })

  test('is not written to', async () => {
    const store = await open(new MemoryStore('memory', { content: new Uint8Array(100) }))
    for (const change of [() => store.write(), () => store.truncate(), () => store.grow()])
      expect((await refusal(async () => change())).code).toBe('READ_ONLY')
  })
})

describe('tables whose pages do not end where the file does', () => {
  test('are zero behind it', () => {
    const store = new MemoryStore('memory', { content: new Uint8Array(5000).fill(7) })
    const cache = new TableCache(paddedTables(store, 5000), { pageSize: 4096, capacity: 65_536 })
    const page = runSync(cache.load(4096))
    expect([page.bytes[903], page.bytes[904]]).toEqual([7, 0])
    expect(runSync(cache.load(8192)).bytes.every((byte) => byte === 0)).toBe(true)
    page.bytes[10] = 9
    cache.touch(page, 10, 1)
    runSync(cache.write(cache.take()))
    expect(store.bytes()[4106]).toBe(9)
  })

  test('that were dropped while they were being written are not written once more', () => {
    const store = new MemoryStore('memory', { content: new Uint8Array(8192) })
    const cache = new TableCache(store, { pageSize: 4096, capacity: 65_536 })
    const page = runSync(cache.load(0))
    page.bytes[0] = 9
    cache.touch(page, 0, 1)
    const batch = cache.take()
    cache.drop(0, 4096)
    cache.putBack(batch)
    expect(cache.changedBytes).toBe(0)
    runSync(cache.write(cache.take()))
    expect(store.bytes()[0]).toBe(0)
  })
})

test('many zeros are written in pieces, and the medium is told to begin before the end', async () => {
  let hastened = 0
  const { store, counts } = countingStore(new MemoryStore('memory'))
  const length = (130 << 20) + 5
  await run(writeZeros({ ...store, hasten: () => void hastened++ }, 100, length, new Pace()))
  expect([counts.write?.calls, counts.write?.bytes, hastened]).toEqual([131, length, 2])
  expect(store.size()).toBe(100 + length)
})

describe('what a job has made before it failed', () => {
  const machine = (): MemoryMachine => {
    const files = new MemoryMachine()
    for (const name of ['/one', '/two']) files.open(name, { write: true, create: 'new' })
    return files
  }
  const failure = (advice?: string): VdiskError =>
    new VdiskError('IO', { message: 'Cannot go on', where: { file: '/one' }, advice })
  const attempt = (files: MemoryMachine, why: unknown) =>
    refusal(async () => removeLeftovers(files, ['/one', '/three', '/two'], why))

  test('is removed, and the failure is told as it was', async () => {
    const files = machine()
    const why = failure()
    expect(await attempt(files, why)).toBe(why)
    expect(files.names()).toEqual([])
    removeLeftovers(machine(), ['/one'], undefined)
  })

  test.each([
    [undefined, /^What was made is not complete, .*: remove \/two\.$/],
    ['Try again.', /^Try again\. What was made is not complete, .*: remove \/two\.$/],
  ])('and cannot be removed is named, behind the advice %s', async (advice, wanted) => {
    const files = machine()
    const { remove } = files
    files.remove = (name, options) => {
      if (name === '/two') throw failure()
      remove.call(files, name, options)
    }
    const error = await attempt(files, failure(advice))
    expect([error.code, error.message]).toEqual(['IO', 'Cannot go on'])
    expect(error.advice).toMatch(wanted)
    expect(files.names()).toEqual(['/two'])
  })
})
