import { expect, test } from 'vitest'
import { ChangedRuns } from '../../../lib/tracking/changed-runs.ts'
import { COUNTERS } from '../../../lib/tracking/layout.ts'
import { printSeed, type Random, randomTest } from '../../support/random.ts'

printSeed()

const G = 4096

/** What a plain walk over counters tells: granules that are changed, as runs of bytes from `start` on. */
function runsOf(changed: readonly boolean[], start: number): number[] {
  const places: number[] = []
  for (const [granule, is] of changed.entries()) {
    if (!is || (granule + 1) * G <= start) continue
    const from = Math.max(start, granule * G)
    if (places.at(-1) === from) places[places.length - 1] = (granule + 1) * G
    else places.push(from, (granule + 1) * G)
  }
  return places
}

randomTest('what is told in portions is what a walk over the counters one by one finds', (random) => {
  for (let run = 0; run < 40; run++) tellInPortions(random)
})

function tellInPortions(random: Random): void {
  // Epochs are numbers of 32 bits without sign, and granules to compare lie close to each other and far apart.
  const above = random.pick([0, 1, 1000, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 2])
  const epochs = [0, above, Math.max(0, above - 1), above + 1, 2 ** 32 - 1]
  const pages = 1 + random.below(6)
  const start = random.below(pages * COUNTERS * G)
  const share = random.pick([0.02, 0.5, 0.98])
  const changed: boolean[] = new Array(pages * COUNTERS).fill(false)
  const runs = new ChangedRuns({ granularity: G, above, start }, 3)
  const told: number[] = []
  const take = (): void => void told.push(...runs.take())
  const first = Math.floor(start / G)
  for (let number = Math.floor(first / COUNTERS), added = 0; number < pages; number++) {
    // A page that is not told of has nothing that changed.
    if (random.below(4) === 0) continue
    const counters = new Uint32Array(COUNTERS)
    for (let i = 0; i < COUNTERS; i++) {
      counters[i] = random.below(1000) < share * 1000 ? above + 1 : random.pick(epochs)
      changed[number * COUNTERS + i] = (counters[i] as number) > above
    }
    runs.add(counters, Math.max(0, first - number * COUNTERS), COUNTERS, number * COUNTERS)
    if (++added % 3 === 0 || random.below(3) === 0) {
      take()
      added = 0
    }
  }
  runs.finish()
  take()
  expect(told).toEqual(runsOf(changed, start))
}

test('as many runs as there can be have room', () => {
  const runs = new ChangedRuns({ granularity: G, above: 1, start: 0 }, 2)
  const counters = Uint32Array.from({ length: COUNTERS }, (_, i) => 2 - (i % 2))
  // The first page does not end where the third begins, and what is open at its end must end there.
  runs.add(counters, 0, COUNTERS - 1, 0)
  runs.add(counters, 0, COUNTERS - 1, 2 * COUNTERS)
  runs.finish()
  expect(runs.take()).toHaveLength(2 * COUNTERS)
})

test('a range behind the last page goes on with the run that is open, or begins one', () => {
  const joined = new ChangedRuns({ granularity: G, above: 0, start: 0 }, 1)
  joined.add(Uint32Array.of(0, 1), 0, 2, 0)
  joined.addRange(2 * G, 2 * G + 100)
  joined.finish()
  expect([...joined.take()]).toEqual([G, 2 * G + 100])
  const apart = new ChangedRuns({ granularity: G, above: 0, start: 0 }, 1)
  apart.add(Uint32Array.of(1, 1), 0, 2, 0)
  apart.addRange(3 * G, 3 * G + 100)
  apart.addRange(4 * G, 4 * G)
  apart.finish()
  expect([...apart.take()]).toEqual([0, 2 * G, 3 * G, 3 * G + 100])
})
