import { describe, expect, test } from 'vitest'
import { TablePlaces } from '../../../lib/formats/qcow2/table-places.ts'
import { type Random, randomTest } from '../../support/random.ts'

const CLUSTER = 512
const CLUSTERS = 120

/** Tables here and there, of every kind. */
function scattered(random: Random, image?: TablePlaces): TablePlaces {
  const places = new TablePlaces(CLUSTER, image)
  const at = (): number => random.below(CLUSTERS) * CLUSTER
  for (let n = random.below(4); n > 0; n--) places.addRange(at(), 1 + random.below(3 * CLUSTER))
  for (let n = random.below(6); n > 0; n--) places.addBlock(at())
  for (let n = random.below(12); n > 0; n--) places.addL2(at())
  for (let n = random.below(4); n > 0; n--) places.addShared(at())
  for (let n = random.below(4); n > 0; n--) places.removeBlock(at())
  for (let n = random.below(4); n > 0; n--) places.forgetL2(at())
  return places
}

describe('a run of clusters without tables', () => {
  randomTest('ends where the first table lies, of whatever kind, also one of the image of a snapshot', (random) => {
    for (let n = 0; n < 300; n++) {
      const places = scattered(random, random.chance(0.5) ? scattered(random) : undefined)
      const first = random.below(CLUSTERS)
      const count = random.below(CLUSTERS)
      let run = 0
      while (run < count && !places.holds((first + run) * CLUSTER)) run++
      expect(places.clearRun(first, count)).toBe(run)
    }
  })
})

test('a cluster that two kinds of table claim is one until the last of them is given up', () => {
  const places = new TablePlaces(CLUSTER)
  places.addBlock(4 * CLUSTER)
  places.addShared(4 * CLUSTER)
  places.addL2(6 * CLUSTER)
  places.removeBlock(4 * CLUSTER)
  places.share(6 * CLUSTER)
  expect([4, 5, 6].map((number) => places.holds(number * CLUSTER))).toEqual([true, false, true])
  places.freed(4)
  places.forgetL2(6 * CLUSTER)
  expect([4, 5, 6].map((number) => places.holds(number * CLUSTER))).toEqual([false, false, false])
})
