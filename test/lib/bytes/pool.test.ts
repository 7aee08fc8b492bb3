import { expect, test } from 'vitest'
import { memoryPool } from '../../../lib/bytes/pool.ts'

test('a piece belongs to whoever took it until it is given back', () => {
  const pool = memoryPool(100, 1)
  const [first, second] = [pool.take(), pool.take()]
  expect([first.length, second.length]).toEqual([100, 100])
  first.fill(1)
  second.fill(2)
  expect(first.every((byte) => byte === 1)).toBe(true)
  pool.giveBack(first)
  pool.giveBack(second)
  expect(pool.take()).toBe(first)
  // No more are kept than was said.
  expect(pool.take()).not.toBe(second)
})
