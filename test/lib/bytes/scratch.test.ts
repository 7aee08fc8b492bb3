import { expect, test } from 'vitest'
import { Scratch } from '../../../lib/bytes/scratch.ts'

test('a piece belongs to whoever took it until it is given back', () => {
  const scratch = new Scratch(100, 1)
  const [first, second] = [scratch.take(), scratch.take()]
  expect([first.length, second.length]).toEqual([100, 100])
  first.fill(1)
  second.fill(2)
  expect(first.every((byte) => byte === 1)).toBe(true)
  scratch.giveBack(first)
  scratch.giveBack(second)
  expect(scratch.take()).toBe(first)
  // No more are kept than was said.
  expect(scratch.take()).not.toBe(second)
})
