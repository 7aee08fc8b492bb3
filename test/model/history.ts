import fc from 'fast-check'
import type { NaiveDisk } from './naive-disk.ts'

/** One thing that happens to a disk. Offsets and lengths are fractions, so that a history fits a disk of any size. */
export type Step =
  | { readonly kind: 'write' | 'erase' | 'read'; readonly at: number; readonly span: number; readonly fill: number }
  | { readonly kind: 'flush' | 'reopen' }
  | { readonly kind: 'resize'; readonly to: number }

export interface HistoryShape {
  readonly steps: number
  readonly resize: boolean
  readonly reopen: boolean
}

/** Random histories that shrink: shorter ones, with smaller spans. The seed of a failure is printed by fast-check. */
export function histories(shape: HistoryShape): fc.Arbitrary<Step[]> {
  const place = fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true })
  const span = fc.oneof(
    { weight: 6, arbitrary: fc.double({ min: 0, max: 0.01, noNaN: true }) },
    { weight: 2, arbitrary: fc.double({ min: 0, max: 0.4, noNaN: true }) },
  )
  const fill = fc.integer({ min: 1, max: 255 })
  const ranged = (kind: 'write' | 'erase' | 'read', weight: number) => ({
    weight,
    arbitrary: fc.record({ kind: fc.constant(kind), at: place, span, fill }),
  })
  const alone = (kind: 'flush' | 'reopen', weight: number) => ({
    weight,
    arbitrary: fc.record({ kind: fc.constant(kind) }),
  })
  const kinds: { weight: number; arbitrary: fc.Arbitrary<Step> }[] = [
    ranged('write', 10),
    ranged('erase', 3),
    ranged('read', 3),
    alone('flush', 2),
  ]
  if (shape.reopen) kinds.push(alone('reopen', 1))
  if (shape.resize) {
    kinds.push({ weight: 1, arbitrary: fc.record({ kind: fc.constant('resize' as const), to: place }) })
  }
  return fc.array(fc.oneof(...kinds), { minLength: 1, maxLength: shape.steps, size: 'max' })
}

/** The range of a step on a disk of `size` bytes; some land on borders of 512, some do not. */
export function rangeOf(step: { at: number; span: number }, size: number): { offset: number; length: number } {
  const align = (value: number): number => (Math.floor(value) % 3 === 0 ? value - (value % 512) : Math.floor(value))
  const offset = Math.min(size - 1, align(Math.floor(step.at * size)))
  const length = Math.max(1, Math.min(size - offset, align(Math.floor(step.span * size) + 1)))
  return { offset, length }
}

/** Bytes that tell where they belong: a slip by one shows. */
export function patternFor(offset: number, length: number, fill: number): Uint8Array {
  const bytes = new Uint8Array(length)
  for (let i = 0; i < length; i++) bytes[i] = (fill + ((offset + i) >>> 4) + i * 7) & 0xff
  return bytes
}

/** Where two byte arrays first differ, in words for a failed test; undefined if they do not. */
export function firstDifference(found: Uint8Array, wanted: NaiveDisk): string | undefined {
  if (found.length !== wanted.bytes.length) return `length ${found.length}, expected ${wanted.bytes.length}`
  if (Buffer.compare(found, wanted.bytes) === 0) return undefined
  const at = found.findIndex((byte, i) => byte !== wanted.bytes[i])
  return `byte ${at} is ${found[at]}, expected ${wanted.bytes[at]}`
}
