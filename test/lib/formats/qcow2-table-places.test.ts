import { describe, expect } from 'vitest'
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
