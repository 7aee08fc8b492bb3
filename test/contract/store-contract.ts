import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { isVdiskError } from '../../lib/errors.ts'
import { promised, settle } from '../../lib/io/io.ts'
import type { ByteStore } from '../../lib/io/store.ts'

const RUNS = Number(process.env.VDISK_TEST_RUNS ?? 25)

type Act =
  | { kind: 'write'; at: number; length: number; fill: number }
  | { kind: 'truncate'; size: number }
  | { kind: 'deallocate'; at: number; length: number }
  | { kind: 'read'; at: number; length: number }
  | { kind: 'flush' }

const place = fc.nat(600_000)
const length = fc.oneof(fc.integer({ min: 1, max: 5000 }), fc.integer({ min: 1, max: 300_000 }))
const acts = fc.array(
  fc.oneof(
    {
      weight: 5,
      arbitrary: fc.record({
        kind: fc.constant('write' as const),
        at: place,
        length,
        fill: fc.integer({ min: 1, max: 255 }),
      }),
    },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('truncate' as const), size: place }) },
    { weight: 2, arbitrary: fc.record({ kind: fc.constant('deallocate' as const), at: place, length }) },
    { weight: 3, arbitrary: fc.record({ kind: fc.constant('read' as const), at: place, length }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('flush' as const) }) },
  ),
  { maxLength: 30, size: 'max' },
)

/** What every store promises: it is an array of bytes that can grow. @param open makes an empty one */
export function storeContract(
  name: string,
  open: () => Promise<{ store: ByteStore; readOnly: () => ByteStore; end: () => void }>,
): void {
  describe(`${name} keeps the store contract`, () => {
    test('it agrees with an array of bytes', async () => {
      await fc.assert(
        fc.asyncProperty(acts, async (history) => {
          const { store, end } = await open()
          try {
            let naive: Uint8Array = new Uint8Array(0)
            for (const act of history) naive = await play(store, naive, act)
            expect(await promised(settle(store.size()))).toBe(naive.length)
            const all = new Uint8Array(naive.length)
            await promised(settle(store.read(0, all)))
            expect(Buffer.compare(all, naive)).toBe(0)
            await expectSegments(store, naive)
          } finally {
            await promised(settle(store.close()))
            end()
          }
        }),
        { numRuns: RUNS },
      )
    })

    test('reading past the end is refused with the place, and large reads too', async () => {
      const { store, end } = await open()
      await promised(settle(store.write(0, new Uint8Array(1000))))
      for (const [at, size] of [
        [990, 20],
        [1000, 1],
        [5000, 200_000],
      ] as const) {
        const error = await failure(() => store.read(at, new Uint8Array(size)))
        expect(isVdiskError(error, 'OUT_OF_RANGE') && error.where).toMatchObject({ file: store.name, at })
      }
      await promised(settle(store.close()))
      end()
    })

    test('a store for reading refuses every change', async () => {
      const { store, readOnly, end } = await open()
      await promised(settle(store.write(0, new Uint8Array(10))))
      const other = readOnly()
      expect(isVdiskError(await failure(() => other.write(0, new Uint8Array(1))), 'READ_ONLY')).toBe(true)
      expect(isVdiskError(await failure(() => other.truncate(0)), 'READ_ONLY')).toBe(true)
      expect(isVdiskError(await failure(() => other.deallocate?.(0, 1)), 'READ_ONLY')).toBe(true)
      await promised(settle(other.close()))
      await promised(settle(store.close()))
      end()
    })
  })
}

async function play(store: ByteStore, naive: Uint8Array, act: Act): Promise<Uint8Array> {
  if (act.kind === 'write') {
    const bytes = new Uint8Array(act.length).fill(act.fill)
    await promised(settle(store.write(act.at, bytes)))
    const next = new Uint8Array(Math.max(naive.length, act.at + act.length))
    next.set(naive)
    next.set(bytes, act.at)
    return next
  }
  if (act.kind === 'truncate') {
    await promised(settle(store.truncate(act.size)))
    const next = new Uint8Array(act.size)
    next.set(naive.subarray(0, act.size))
    return next
  }
  if (act.kind === 'deallocate') {
    await promised(settle(store.deallocate?.(act.at, act.length)))
    if (store.deallocate) naive.fill(0, Math.min(naive.length, act.at), Math.min(naive.length, act.at + act.length))
  }
  if (act.kind === 'flush') await promised(settle(store.flush()))
  if (act.kind === 'read' && act.at + act.length <= naive.length) {
    const found = new Uint8Array(act.length)
    await promised(settle(store.read(act.at, found)))
    expect(Buffer.compare(found, naive.subarray(act.at, act.at + act.length))).toBe(0)
  }
  return naive
}

/** Segments cover the store, and what they call a hole is zero. */
async function expectSegments(store: ByteStore, naive: Uint8Array): Promise<void> {
  if (!store.segment) return
  for (let at = 0; at < naive.length; ) {
    const segment = await promised(settle(store.segment(at)))
    expect(segment.length).toBeGreaterThan(0)
    expect(at + segment.length).toBeLessThanOrEqual(naive.length)
    if (segment.kind === 'hole') expect(naive.subarray(at, at + segment.length).every((byte) => byte === 0)).toBe(true)
    at += segment.length
  }
}

async function failure(work: () => unknown): Promise<unknown> {
  try {
    await work()
  } catch (error) {
    return error
  }
  return undefined
}
