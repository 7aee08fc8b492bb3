import { expect, test } from 'vitest'
import { NumberSet } from '../../lib/bytes/number-set.ts'
import { Random } from '../support/random.ts'
import { SharedNumbers } from './shared-numbers.ts'

test('two threads that add to one set count each number once', () => {
  const random = new Random(1)
  const expected = new NumberSet()
  const first = SharedNumbers.for(1000)
  const threads = [first, new SharedNumbers(first.memory)]
  // Neighbours, numbers that want the same slot, and the ends of what there may be.
  const numbers = [0, 1, 4096, 8192, 2 ** 52 - 1, ...Array.from({ length: 900 }, () => random.below(2000) * 1024)]
  for (const number of [...numbers, ...numbers]) {
    random.pick(threads).add(number)
    expected.add(number)
    expect(first.size).toBe(expected.size)
  }
  expect(threads[1]?.size).toBe(expected.size)
})

test('more numbers than there is room for are an error, and no endless search', () => {
  const set = SharedNumbers.for(1)
  const addMany = (): void => {
    for (let number = 0; number < 10; number++) set.add(number)
  }
  expect(addMany).toThrow(RangeError)
})
