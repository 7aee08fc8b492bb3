import fs from 'node:fs'
import path from 'node:path'
import { pathToFileURL } from 'node:url'
import { describe, expect, test } from 'vitest'
import type { ByteStore } from '../../lib/io/store.ts'
import { printSeed, Random, SEED } from '../support/random.ts'
import { scratchFolder } from '../support/temp.ts'
import { applyEdits, type Edit } from './edits.ts'
import { damaged, execute, executeTwice, filesOf } from './execution.ts'
import { keptFindings } from './findings.ts'
import { minimised } from './minimise.ts'
import { OverlayStore } from './overlay-store.ts'
import { Overseer } from './overseer.ts'
import { FUZZ_FORMATS, type Seed, seedsOf } from './seeds.ts'
import { MAIN } from './subject.ts'

/** Executions for each format; `npm run fuzz` goes on for minutes, and ends what hangs. */
const EXECUTIONS = Number(process.env.VDISK_TEST_RUNS ?? 12) * 10

printSeed()

describe.each(FUZZ_FORMATS)('damaged images: %s', (format) => {
  test('the sound ones break no promise, and are read, checked and written', async () => {
    for (const seed of await seedsOf(format)) {
      const notes = await execute(format, filesOf(seed, []), 1)
      expect([seed.name, notes.has('inspect ok'), notes.has('open to read ok')]).toEqual([seed.name, true, true])
      // Room that was given up just before closing may be lost.
      const found = [...notes].filter((note) => note.startsWith('finds') && note !== 'finds LEAKED_CLUSTER')
      expect([seed.name, found.length > 0]).toEqual([seed.name, seed.name === 'not closed'])
    }
  })

  test('as chance has them, they break no promise either', async () => {
    const seeds = await seedsOf(format)
    const random = new Random(SEED)
    for (let i = 0; i < EXECUTIONS; i++) {
      const seed = random.pick(seeds)
      const recipe = { seed: seed.name, edits: damaged(seed, [], random), chance: random.below(2 ** 31) }
      try {
        await executeTwice(format, filesOf(seed, recipe.edits), recipe.chance)
      } catch (error) {
        throw new Error(`${String(error)}\nVDISK_TEST_SEED=${SEED}\n${JSON.stringify(recipe)}`, { cause: error })
      }
    }
  })
})

describe('files that say they are longer than any medium, almost all of them a hole', () => {
  test.each(FUZZ_FORMATS)('%s', async (format) => {
    const random = new Random(SEED)
    for (const seed of await seedsOf(format)) {
      for (const size of [2 ** 43, 2 ** 53 - 4096, 2 ** 60]) {
        const chance = random.below(2 ** 31)
        try {
          await executeTwice(format, filesOf(seed, [{ do: 'resize', size }]), chance)
        } catch (error) {
          const which = `VDISK_TEST_SEED=${SEED} ${seed.name} of ${size} bytes, by the chance ${chance}`
          throw new Error(`${String(error)}\n${which}`, { cause: error })
        }
      }
    }
  })
})

describe('what fuzzing has found', () => {
  const kept = keptFindings(path.join(import.meta.dirname, '..', '..'), FUZZ_FORMATS)
  test.each(kept.map((finding) => [finding.format, finding.name, finding] as const))(
    'does not happen again: %s, %s',
    async (format, _, { files, chance }) => {
      await executeTwice(format, files, chance)
    },
  )
})

describe('a fuzzer', () => {
  const shortest = async (edits: readonly Edit[], needed: readonly Edit[]): Promise<readonly Edit[]> => {
    const fails = async (recipe: { edits: readonly Edit[] }): Promise<boolean> =>
      needed.every((edit) => recipe.edits.includes(edit))
    return (await minimised({ seed: 'any', edits, chance: 0 }, fails)).edits
  }

  test('leaves out of a finding what it does not need', async () => {
    const edits = Array.from({ length: 12 }, (_, at): Edit => ({ do: 'resize', size: at }))
    for (const needed of [[0], [11], [3, 4], [0, 6, 11]]) {
      const wanted = needed.map((index) => edits[index] as Edit)
      expect(await shortest(edits, wanted)).toEqual(wanted)
    }
  })

  test('makes the same of a seed each time, and something else of another', async () => {
    const [seed] = (await seedsOf('qcow2')) as [Seed, ...Seed[]]
    const made = (chance: number): string => JSON.stringify(damaged(seed, [], new Random(chance)))
    expect(made(5)).toBe(made(5))
    expect(made(5)).not.toBe(made(6))
  })

  /** By this chance something is written. */
  const WRITES = 4

  test('notices an untyped error, and a broken read-back', async () => {
    const [seed] = (await seedsOf('raw')) as [Seed, ...Seed[]]
    const spoiled = (spoil: Partial<ByteStore>): Promise<unknown> => {
      const original = Object.fromEntries(
        Object.keys(spoil).map((name) => [name, Reflect.get(OverlayStore.prototype, name)]),
      )
      Object.assign(OverlayStore.prototype, spoil)
      return execute('raw', filesOf(seed, []), WRITES)
        .then(String, String)
        .finally(() => Object.assign(OverlayStore.prototype, original))
    }
    const rubbish = (): never => {
      throw new RangeError('a test says so')
    }
    expect(await spoiled({ read: rubbish })).toMatch(/untyped: .*RangeError/)
    expect(await spoiled({ write: () => {} })).toMatch(/changed: /)
  })

  test.each([
    ['hang', 'for (;;);'],
    ['deadlock', 'await new Promise(() => {})'],
    ['crash: a test says so', 'throw new Error("a test says so")'],
  ])('ends a worker that does not come back, and tells by which image: %s', async (what, body) => {
    const program = path.join(scratchFolder(), 'worker.mjs')
    const announce = `import { workerData } from 'node:worker_threads'
      const { state, current, only } = workerData.task
      const { written } = new TextEncoder().encodeInto(JSON.stringify(only), new Uint8Array(current))
      Atomics.store(new Int32Array(state), 1, written)`
    fs.writeFileSync(program, `${announce}\n${body}\n`)
    const recipe = { seed: 'any', edits: [], chance: 5 }
    const found = await new Overseer(pathToFileURL(program), 'raw').once(recipe)
    expect(found).toMatchObject({ what, recipe })
  })

  test('keeps to a file that ends anywhere', () => {
    const store = new OverlayStore(MAIN, { size: 3, pages: new Map([[0, new Uint8Array(4096).fill(1)]]) })
    const edits: Edit[] = [
      { do: 'copy', from: 1, length: 4096, at: 2 },
      { do: 'resize', size: 2 },
      { do: 'resize', size: 8 },
      { do: 'put', at: 7, hex: '09' },
      { do: 'sum', at: 0, length: 4096, sumAt: 4, kind: 'crc32c' },
    ]
    applyEdits(store, edits)
    const bytes = new Uint8Array(8)
    store.read(0, bytes)
    expect([...bytes]).toEqual([1, 1, 0, 0, 0, 0, 0, 9])
  })

  test('gives back terabytes of a hole as fast as the pages in it', () => {
    const page = new Uint8Array(4096).fill(1)
    const store = new OverlayStore(MAIN, { size: 2 ** 42, pages: new Map([0, 1, 2 ** 29].map((n) => [n, page])) })
    store.write(2 ** 40, page)
    store.deallocate(4095, 2 ** 42)
    const bytes = new Uint8Array(4097)
    store.read(0, bytes)
    expect([bytes.indexOf(0), bytes.lastIndexOf(1)]).toEqual([4095, 4094])
    expect(store.segment(4096)).toEqual({ kind: 'hole', length: 2 ** 42 - 4096 })
  })
})
