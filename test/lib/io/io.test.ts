import { describe, expect, test, vi } from 'vitest'
import { type Io, Pace, promised, run, runSync, serveOthers, settle, Turns } from '../../../lib/io/io.ts'
import { MemoryStore } from '../../../lib/io/memory.ts'
import { TableCache } from '../../../lib/io/table-cache.ts'
import { countingStore, delayedStore } from '../../support/stores.ts'

function* add(a: number | Promise<number>, b: number | Promise<number>): Io<number> {
  return (yield* settle(a)) + (yield* settle(b))
}

describe('a computation', () => {
  test('answers at once if nothing has to wait', () => {
    expect(run(add(1, 2))).toBe(3)
    expect(runSync(add(1, 2))).toBe(3)
  })

  test('promises its answer if something has', async () => {
    const answer = run(add(1, Promise.resolve(2)))
    expect(answer).toBeInstanceOf(Promise)
    expect(await answer).toBe(3)
  })

  test('where waiting is impossible, asking to wait is a mistake', () => {
    expect(() => runSync(add(Promise.resolve(1), 2))).toThrow(TypeError)
  })

  test.each([
    ['at once', (error: Error) => settle(thrown(error))],
    ['later', (error: Error) => settle(Promise.reject(error))],
  ] as const)('a failure %s passes through try and finally', async (_, fail) => {
    const seen: string[] = []
    const io = (function* (): Io<string> {
      try {
        yield* fail(new Error('broken')) as Io<never>
      } catch (error) {
        seen.push((error as Error).message)
      } finally {
        seen.push('finally')
      }
      return 'went on'
    })()
    expect(await promised(io)).toBe('went on')
    expect(seen).toEqual(['broken', 'finally'])
  })

  test('an error nobody catches reaches the caller once', async () => {
    const io = (function* (): Io<void> {
      yield Promise.reject(new Error('broken'))
    })()
    await expect(promised(io)).rejects.toThrow('broken')
  })
})

function thrown(error: Error): never {
  throw error
}

test('a walk lets others run some times a second, and more often where they are served', async () => {
  const clock = vi.spyOn(Date, 'now')
  try {
    clock.mockReturnValue(1000)
    const pace = new Pace()
    const rests = async (): Promise<boolean> => {
      const kept = run(pace.keep())
      await kept
      return kept instanceof Promise
    }
    clock.mockReturnValue(1020)
    expect(await rests()).toBe(false)
    clock.mockReturnValue(1060)
    expect(await rests()).toBe(true)
    expect(await rests()).toBe(false)
    serveOthers()
    clock.mockReturnValue(1065)
    expect(await rests()).toBe(true)
  } finally {
    clock.mockRestore()
  }
})

test('turns let one pass at a time, and the next also after a failure', async () => {
  const turns = new Turns()
  const seen: string[] = []
  const visit = (name: string, fails = false): Promise<void> =>
    promised(
      turns.take(function* () {
        seen.push(`${name} in`)
        yield new Promise((resolve) => setImmediate(resolve))
        seen.push(`${name} out`)
        if (fails) throw new Error(name)
      }),
    )
  const results = await Promise.allSettled([visit('a'), visit('b', true), visit('c')])
  expect(seen).toEqual(['a in', 'a out', 'b in', 'b out', 'c in', 'c out'])
  expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled'])
})

describe('a table cache', () => {
  const content = Uint8Array.from({ length: 64 * 1024 }, (_, i) => i >> 10)

  test('reads a page once, even when many ask at the same time', async () => {
    const { store, counts } = countingStore(delayedStore(new MemoryStore('m', { content }), 3))
    const cache = new TableCache(store, { pageSize: 4096, capacity: 65536 })
    const pages = await Promise.all([1, 2, 3].map((n) => promised(cache.load(8192 + n))))
    expect(new Set(pages).size).toBe(1)
    expect(pages[0]?.bytes[0]).toBe(8)
    expect(counts.read?.calls).toBe(1)
  })

  test('writes only changed sectors, neighbours together', () => {
    const { store, counts } = countingStore(new MemoryStore('m', { content }))
    const cache = new TableCache(store, { pageSize: 4096, capacity: 65536 })
    const page = runSync(cache.load(4096))
    page.bytes[0] = 99
    cache.touch(page, 0, 8)
    cache.touch(page, 508, 8)
    cache.touch(page, 2048, 1)
    runSync(cache.write(cache.take()))
    expect(counts.write).toEqual({ calls: 2, bytes: 1536 })
    expect(cache.changedBytes).toBe(0)
  })

  test('what changes after a batch was taken belongs to the next', () => {
    const store = new MemoryStore('m', { content })
    const cache = new TableCache(store, { pageSize: 4096, capacity: 65536 })
    const page = runSync(cache.load(0))
    page.bytes[5] = 1
    cache.touch(page, 5, 1)
    const batch = cache.take()
    page.bytes[5] = 2
    cache.touch(page, 5, 1)
    runSync(cache.write(batch))
    expect(store.bytes()[5]).toBe(1)
    runSync(cache.write(cache.take()))
    expect(store.bytes()[5]).toBe(2)
  })

  test('forgets what is unused, never what has changed or is being written', () => {
    const store = new MemoryStore('m', { content })
    const cache = new TableCache(store, { pageSize: 4096, capacity: 4 * 4096 })
    const page = runSync(cache.load(0))
    page.bytes[0] = 42
    cache.touch(page, 0, 1)
    for (let at = 4096; at < content.length; at += 4096) runSync(cache.load(at))
    expect(cache.peek(0)).toBe(page)
    const batch = cache.take()
    for (let round = 0; round < 3; round++) for (let at = 4096; at < content.length; at += 4096) runSync(cache.load(at))
    expect(cache.peek(0)).toBe(page)
    cache.putBack(batch)
    runSync(cache.write(cache.take()))
    expect(store.bytes()[0]).toBe(42)
  })

  test('a page made fresh is zero, whatever the store holds', () => {
    const cache = new TableCache(new MemoryStore('m', { content }), { pageSize: 4096, capacity: 65536 })
    runSync(cache.load(60 * 1024))
    expect(cache.fresh(60 * 1024).bytes.every((byte) => byte === 0)).toBe(true)
    expect(runSync(cache.load(60 * 1024)).bytes[0]).toBe(0)
  })
})
