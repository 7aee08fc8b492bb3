import { describe, expect } from 'vitest'
import { Ranges } from '../../../lib/bytes/ranges.ts'
import { randomTest } from '../../support/random.ts'

const LIMIT = 200

describe('a set of ranges', () => {
  randomTest('holds what a set of numbers does, whatever is added and taken out', (random) => {
    const [ours, theirs] = [new Ranges(), new Set<number>()]
    for (let step = 0; step < 400; step++) {
      const start = random.below(LIMIT)
      const range = { start, end: Math.min(LIMIT, start + random.below(20)) }
      const adds = random.chance(0.6)
      if (adds) ours.add(range)
      else ours.remove(range)
      for (let number = range.start; number < range.end; number++) {
        if (adds) theirs.add(number)
        else theirs.delete(number)
      }
      expectSame(ours, theirs)
    }
  })
})

function expectSame(ours: Ranges, theirs: ReadonlySet<number>): void {
  const runs = runsOf(theirs)
  expect(ours.count).toBe(runs.length)
  for (let number = 0; number < LIMIT; number++) {
    expect(ours.has(number)).toBe(theirs.has(number))
    expect(ours.around(number)).toEqual(runs.find(({ start, end }) => start <= number && number < end))
  }
}

function runsOf(numbers: ReadonlySet<number>): { start: number; end: number }[] {
  const runs: { start: number; end: number }[] = []
  for (let number = 0; number < LIMIT; number++) {
    if (!numbers.has(number)) continue
    const last = runs.at(-1)
    if (last?.end === number) last.end++
    else runs.push({ start: number, end: number + 1 })
  }
  return runs
}
