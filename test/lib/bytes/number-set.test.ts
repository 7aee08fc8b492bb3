import { describe, expect, test } from 'vitest'
import { NumberSet } from '../../../lib/bytes/number-set.ts'
import { randomTest } from '../../support/random.ts'

describe('a set of numbers', () => {
  test('holds each number once, up to 2^53', () => {
    const set = new NumberSet()
    for (const number of [0, 7, 7, 2 ** 32, 2 ** 53 - 1, 0]) set.add(number)
    expect(set.size).toBe(4)
    expect([0, 7, 2 ** 32, 2 ** 53 - 1].every((number) => set.has(number))).toBe(true)
    expect([1, 8, 2 ** 32 + 7, 2 ** 53 - 2].some((number) => set.has(number))).toBe(false)
  })

  test('is as it was after a number that it does not hold was taken out', () => {
    const set = new NumberSet()
    set.add(5)
    set.delete(6)
    expect([set.size, set.has(5), set.has(6)]).toEqual([1, true, false])
  })

  // So many that they push each other on, and that the set grows while there are gaps.
  randomTest('is the set of the language, whatever is added and taken out', (random) => {
    const [ours, theirs] = [new NumberSet(), new Set<number>()]
    for (let step = 0; step < 5_000; step++) {
      const number = random.below(600) * (random.chance(0.5) ? 1 : 2 ** 33)
      if (random.chance(0.45)) {
        ours.delete(number)
        theirs.delete(number)
      } else {
        ours.add(number)
        theirs.add(number)
      }
      expect(ours.has(number)).toBe(theirs.has(number))
      expect(ours.size).toBe(theirs.size)
    }
    for (let number = 0; number < 600; number++) expect(ours.has(number)).toBe(theirs.has(number))
  })
})
