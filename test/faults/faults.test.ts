import { afterAll, describe, expect, test } from 'vitest'
import { printSeed, SEED } from '../support/random.ts'
import { JOBS } from './all-jobs.ts'
import { choicesOf, prepare, runWithFault } from './fault-run.ts'

printSeed()

/** In a long run every call is given each of its answers, once and for good; else each run takes other ones. */
const LONG = process.env.VDISK_TEST_RUNS !== undefined
/** In a short run, calls of a job at most that fail once, and that fail for good. */
const ONCE = 60
const FOR_GOOD = 8
/** Milliseconds for a job. */
const TIME = LONG ? 3_600_000 : 120_000

let faults = 0
let calls = 0

afterAll(() => console.info(`${faults} faults at ${calls} calls of ${JOBS.length} jobs`))

describe('whatever call of a job fails, it says so, and leaves what was there or what was to be', () => {
  test.each(JOBS.map((job) => [job.name, job] as const))(
    '%s',
    async (_, job) => {
      const prepared = await prepare(job)
      const count = prepared.calls.length
      calls += count
      const inject = async (forGood: boolean, most: number): Promise<void> => {
        const stride = LONG ? 1 : Math.ceil(count / most)
        for (let index = SEED % stride; index < count; index += stride) {
          const choices = choicesOf(prepared, index)
          for (const choice of LONG ? Array(choices).keys() : [(Math.floor(index / stride) + SEED) % choices]) {
            const { fired } = await runWithFault(prepared, { index, choice, forGood })
            if (fired) faults++
          }
        }
        const { fired } = await runWithFault(prepared, { index: count, choice: 0, forGood })
        expect(fired).toBe(false)
      }
      await inject(false, ONCE)
      await inject(true, FOR_GOOD)
      expect(faults).toBeGreaterThan(0)
    },
    TIME,
  )
})
