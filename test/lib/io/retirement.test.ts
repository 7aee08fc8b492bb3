import { expect, test } from 'vitest'
import { Retirement } from '../../../lib/io/retirement.ts'

test('room is due after the flush that found it condemned, not before', () => {
  const givenUp = new Retirement()
  givenUp.release(0, 10)
  expect(givenUp.takeDue()).toEqual([])
  givenUp.condemn(givenUp.takeReleased())
  expect(givenUp.takeDue()).toEqual([])
  expect(givenUp.isEmpty).toBe(false)
  givenUp.endFlush()
  expect(givenUp.takeDue()).toEqual([{ at: 0, length: 10 }])
  expect(givenUp.isEmpty).toBe(true)
})

test('what could not be written is released as before, and neighbours are one', () => {
  const givenUp = new Retirement()
  givenUp.release(0, 10)
  const taken = givenUp.takeReleased()
  givenUp.release(30, 10)
  givenUp.release(40, 10)
  givenUp.putBack(taken)
  expect(givenUp.takeReleased()).toEqual([
    { at: 0, length: 10 },
    { at: 30, length: 20 },
  ])
})

test('a disk in half a million pieces is given up in one flush', () => {
  const givenUp = new Retirement()
  const pieces = 500_000
  for (let i = 0; i < pieces; i++) givenUp.release(i * 20, 10)
  givenUp.putBack(givenUp.takeReleased())
  givenUp.condemn(givenUp.takeReleased())
  givenUp.endFlush()
  expect(givenUp.takeDue().length).toBe(pieces)
})
