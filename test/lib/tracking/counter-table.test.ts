import { expect, test } from 'vitest'
import { promised } from '../../../lib/io/io.ts'
import { MemoryStore } from '../../../lib/io/memory.ts'
import type { ByteStore } from '../../../lib/io/store.ts'
import { CounterTable } from '../../../lib/tracking/counter-table.ts'
import { COUNTERS, PAGE, PLACE } from '../../../lib/tracking/layout.ts'
import { watchedStore } from '../../support/stores.ts'

/** More pages than stay in memory once they are written. */
const MANY = 5000

async function stamp(table: CounterTable, number: number, epoch: number): Promise<void> {
  table.stamp(await promised(table.load(number)), number % COUNTERS, (number % COUNTERS) + 1, epoch)
}

/** Pages with a counter above 1, with that counter, as a walk finds them. */
async function walk(table: CounterTable, onVisit: () => Promise<void> = async () => {}): Promise<number[]> {
  const found: number[] = []
  const visit = async (pages: readonly { number: number; counters: Uint32Array }[]): Promise<boolean> => {
    for (const { number, counters } of pages) if (counters[number % COUNTERS] === 2) found.push(number)
    await onVisit()
    return true
  }
  await promised(table.walk(0, MANY, 1, visit))
  return found
}

const numbers = Array.from({ length: MANY }, (_, number) => number)

test('pages that are written and leave memory while somebody walks over all are found on their way', async () => {
  const table = new CounterTable(new MemoryStore('disk.vdisk-track'), 2)
  await stamp(table, 0, 2)
  await promised(table.write())
  // From here on there is nothing on the medium yet.
  for (const number of numbers.slice(1)) await stamp(table, number, 2)
  expect(await walk(table, () => promised(table.write()))).toEqual(numbers)
})

test('the same while the medium is on its way with what it read before that', async () => {
  const { table, answer } = slowTable()
  for (const number of numbers) await stamp(table, number, 1)
  await promised(table.write())
  for (const number of numbers) await stamp(table, number, 2)
  answer.read = () => promised(table.write())
  expect(await walk(table)).toEqual(numbers)
})

test('the same while the medium is on its way with the answer that there is a hole', async () => {
  const { table, answer, medium } = slowTable()
  medium.grow(PLACE.counters + MANY * PAGE)
  for (const number of numbers) await stamp(table, number, 2)
  answer.segment = () => promised(table.write())
  expect(await walk(table)).toEqual(numbers)
})

/** A table on a medium that has read what is there, but takes its time to tell. */
function slowTable() {
  const medium = new MemoryStore('disk.vdisk-track')
  const answer: { read?: () => Promise<void>; segment?: () => Promise<void> } = {}
  const store: ByteStore = {
    ...watchedStore(medium, () => undefined),
    async read(at, target) {
      medium.read(at, target)
      await answer.read?.()
    },
    async segment(at) {
      const segment = medium.segment(at)
      await answer.segment?.()
      return segment
    },
  }
  return { table: new CounterTable(store, 2), answer, medium }
}
