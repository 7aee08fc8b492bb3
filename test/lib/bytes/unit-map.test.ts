import { describe, expect, test } from 'vitest'
import { UnitMap } from '../../../lib/bytes/unit-map.ts'
import { randomTest } from '../../support/random.ts'

const inUse = (map: UnitMap): number[] =>
  [...map.runs()].flatMap(({ first, count }) => Array.from({ length: count }, (_, i) => first + i))

function firstFree(wanted: ReadonlySet<number>, least: number): number {
  let unit = least
  while (wanted.has(unit)) unit++
  return unit
}

describe('an account of units', () => {
  test('gives out what is free, in order, and what is freed before what was never used', () => {
    const map = new UnitMap()
    expect([map.claim(3), map.claim(2), map.claim(1)]).toEqual([0, 3, 5])
    map.free({ first: 1, count: 1 })
    map.free({ first: 3, count: 2 })
    expect([map.claim(2), map.claim(2)]).toEqual([3, 6])
    expect(map.claimFirst(5)).toEqual({ first: 1, count: 1 })
    expect(map.claimFirst(5)).toEqual({ first: 8, count: 5 })
  })

  test('gives out the rest at the end and what comes behind as one', () => {
    const map = new UnitMap()
    map.take({ first: 0, count: 4 })
    map.free({ first: 2, count: 2 })
    expect(map.claim(10)).toBe(2)
    expect(map.end).toBe(12)
  })

  test('ends behind the last in use, and says nothing of what was there once', () => {
    const map = new UnitMap()
    map.take({ first: 0, count: 20 })
    map.free({ first: 5, count: 15 })
    expect([map.end, map.count]).toEqual([5, 5])
    map.take({ first: 17, count: 1 })
    expect(inUse(map)).toEqual([0, 1, 2, 3, 4, 17])
    expect([...map.gaps(19)]).toEqual([
      { first: 5, count: 12 },
      { first: 18, count: 1 },
    ])
  })

  test('counts from further on when the first units are gone', () => {
    const map = new UnitMap()
    for (const first of [1, 4, 9]) map.take({ first, count: 2 })
    map.shift(5)
    expect(inUse(map)).toEqual([0, 4, 5])
    expect(map.claim(1)).toBe(1)
  })

  randomTest('agrees with a set of numbers, whatever is done to it', (random) => {
    const map = new UnitMap()
    const wanted = new Set<number>()
    const free = (first: number, count: number): boolean =>
      Array.from({ length: count }, (_, i) => first + i).every((unit) => !wanted.has(unit))
    const add = (first: number, count: number): void => {
      for (let unit = first; unit < first + count; unit++) wanted.add(unit)
    }
    for (let step = 0; step < 3000; step++) {
      const [first, count] = [random.below(map.end + 10), 1 + random.below(12)]
      const kind = random.pick(['claim', 'claim first', 'claim from', 'take', 'free', 'free', 'shift'] as const)
      if (kind === 'claim') {
        const at = map.claim(count)
        expect(free(at, count), `${step}: ${at}+${count}`).toBe(true)
        add(at, count)
      } else if (kind === 'claim first' || kind === 'claim from') {
        const least = kind === 'claim from' ? first : 0
        const run = map.claimFirst(count, least)
        const expected = firstFree(wanted, least)
        expect(run.first).toBe(expected)
        expect(free(run.first, run.count)).toBe(true)
        expect(run.count === count || wanted.has(run.first + run.count)).toBe(true)
        add(run.first, run.count)
      } else if (kind === 'take') {
        map.take({ first, count })
        add(first, count)
      } else if (kind === 'free') {
        map.free({ first, count })
        for (let unit = first; unit < first + count; unit++) wanted.delete(unit)
      } else if (random.chance(0.1)) {
        map.shift(count)
        const left = [...wanted].map((unit) => unit - count).filter((unit) => unit >= 0)
        wanted.clear()
        for (const unit of left) wanted.add(unit)
      }
      expect(map.count).toBe(wanted.size)
      expect(map.isFree({ first, count })).toBe(free(first, count))
      if (step % 50 === 0) {
        expect(inUse(map)).toEqual([...wanted].sort((a, b) => a - b))
        expect(map.end).toBe(wanted.size === 0 ? 0 : Math.max(...wanted) + 1)
      }
    }
  })
})
