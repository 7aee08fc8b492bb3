import { expect, test } from 'vitest'
import { RangeText } from '../../cli/range-text.ts'
import { printSeed, randomTest } from '../support/random.ts'

printSeed()

function textOf(ranges: RangeText, places: readonly number[]): string {
  let text = ''
  for (const piece of ranges.of(Float64Array.from(places))) text += Buffer.from(piece).toString('latin1')
  return text
}

test('numbers of every length are written as they are', () => {
  const numbers = [0, 9, 10, 99, 100, 999, 1000, 9999, 10_000, 10_001, 99_999_999, 100_000_000, 2 ** 53 - 1]
  const places = numbers.flatMap((number) => [number, number])
  expect(textOf(new RangeText('<', ' ', '>'), places)).toBe(numbers.map((number) => `<${number} 0>`).join(''))
})

test('no ranges are no text, and end no piece that was told', () => {
  expect([...new RangeText('<', ' ', '>').of(new Float64Array(0))]).toEqual([])
})

randomTest('ranges come in order and whole, however many pieces they take', (random) => {
  const places: number[] = []
  for (let at = 0; places.length < 40_000; ) {
    const from = at + random.below(10 ** (1 + random.below(10)))
    at = from + 1 + random.below(10 ** (1 + random.below(10)))
    places.push(from, at)
  }
  let expected = ''
  for (let i = 0; i < places.length; i += 2) {
    const offset = places[i] as number
    expected += `${offset} ${(places[i + 1] as number) - offset}\n`
  }
  const ranges = new RangeText('', ' ', '\n')
  expect(textOf(ranges, places)).toBe(expected)
  // The same again: nothing of before is left in it.
  expect(textOf(ranges, places.slice(0, 2))).toBe(expected.slice(0, expected.indexOf('\n') + 1))
})
