import { expect, test } from 'vitest'
import { SparseBitmap } from '../../../lib/bytes/sparse-bitmap.ts'
import { printSeed, randomTest } from '../../support/random.ts'

printSeed()

const PAGE = 32768

randomTest('a bitmap in pages is as one without', (random) => {
  const end = 5 * PAGE
  const model = new Uint8Array(end)
  const bits = new SparseBitmap()
  const place = (): number => {
    const near = random.below(6) * PAGE + random.below(20) - 10
    return Math.min(end, Math.max(0, random.chance(0.5) ? near : random.below(end)))
  }
  for (let step = 0; step < 150; step++) {
    const [from, to] = [place(), place()].sort((a, b) => a - b) as [number, number]
    const set = random.chance(0.6)
    bits.fill(from, to, set)
    model.fill(set ? 1 : 0, from, to)
    for (let i = 0; i < 10; i++) {
      const at = Math.min(end - 1, place())
      const stop = Math.max(at, place())
      expect(bits.has(at)).toBe(model[at] === 1)
      const found = model.subarray(at, stop).findIndex((bit) => bit !== model[at])
      expect(bits.runEnd(at, stop)).toBe(found === -1 ? stop : at + found)
    }
  }
})

test('bits of a disk of 64 TiB that are released in order take next to no room', () => {
  const bits = new SparseBitmap()
  const last = 2 ** 30
  for (let at = 0; at < last; at += PAGE / 2) bits.fill(at, at + PAGE / 2)
  expect(bits.runEnd(0, last)).toBe(last)
  bits.fill(7, 8, false)
  expect([bits.runEnd(0, last), bits.has(7), bits.has(PAGE + 7)]).toEqual([7, false, true])
  const { pages } = bits as unknown as { readonly pages: ReadonlyMap<number, unknown> }
  // All that are full are one.
  expect(new Set(pages.values()).size).toBe(2)
})
