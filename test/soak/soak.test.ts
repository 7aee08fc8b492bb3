import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Bench, whyNoMounts, whyNoPrograms } from '../support/mounts.ts'
import { printSeed, SEED } from '../support/random.ts'
import { SOAK_FORMATS, soak } from './soak.ts'

/** All formats together; `npm run soak` goes on for minutes. */
const SECONDS = 10

printSeed()

let bench: Bench
beforeAll(async () => {
  bench = await Bench.make()
})
afterAll(() => bench.dispose())

const missing = whyNoMounts() ?? whyNoPrograms({ name: 'python3', package: 'python3' })
const title = 'a disk whose server is killed again and again'
describe.skipIf(missing !== undefined)(missing ? `${title} (skipped: ${missing})` : title, () => {
  test.each(SOAK_FORMATS)('keeps what was durable: %s', async (format) => {
    const { rounds, operations } = await soak({
      format,
      seconds: SECONDS / SOAK_FORMATS.length,
      seed: SEED,
      entry: bench.entry,
      program: path.join(import.meta.dirname, 'operations.py'),
      folder: bench.directory('soak'),
    })
    expect(rounds).toBeGreaterThan(0)
    expect(operations).toBeGreaterThan(0)
  })
})
