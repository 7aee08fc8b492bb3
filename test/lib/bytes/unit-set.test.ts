import { expect, test } from 'vitest'
import { UnitSet } from '../../../lib/bytes/unit-set.ts'
import { printSeed, randomTest } from '../../support/random.ts'

printSeed()

/** From here on units are kept by their numbers. */
const FAR = 2 ** 28

randomTest('which units are in use is known near the begin, far behind it, and across the border', (random) => {
  const units = new UnitSet()
  const wanted = new Set<number>()
  for (let step = 0; step < 200; step++) {
    const first = random.pick([0, FAR - 20, FAR + 2 ** 40]) + random.below(60)
    const count = 1 + random.below(6)
    const run = Array.from({ length: count }, (_, i) => first + i)
    expect(units.take({ first, count })).toBe(run.some((unit) => wanted.has(unit)))
    for (const unit of run) wanted.add(unit)
  }
  expect(units.count).toBe(wanted.size)
})

test('a unit behind all media costs no more than one at the begin', () => {
  const units = new UnitSet()
  expect([units.take({ first: 2 ** 52, count: 1 }), units.take({ first: 2 ** 52, count: 1 })]).toEqual([false, true])
  expect([units.take({ first: 2 ** 52 + 1, count: 1 }), units.count]).toEqual([false, 2])
})
