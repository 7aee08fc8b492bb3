import type { ByteStore } from '../../lib/io/store.ts'
import type { Random } from '../support/random.ts'
import type { Part } from './anatomy.ts'
import { bytesOf, type Edit } from './edits.ts'

/** Bytes of a text that are looked at. */
const LOOKED_AT = 1 << 16

/** XML in a file: its lines, and what stands between its tags. */
export interface Markup {
  /** the text, its lines, its values and its tags */
  readonly parts: readonly Part[]
  /** A value or a line takes the place of another one, or becomes an odd one, of the same length. */
  special(random: Random): Edit[]
}

/**
 * A text whose values are exchanged, doubled, or become odd ones.
 *
 * @param odd values that mean something to a reader, or ought not to
 * @param where in the file; default all of it
 */
export function markupIn(store: ByteStore, odd: readonly string[], where?: Part): Markup {
  const start = where?.at ?? 0
  const length = Math.max(0, Math.min(where?.length ?? LOOKED_AT, LOOKED_AT, (store.size() as number) - start))
  const text = length > 0 ? Buffer.from(bytesOf(store, start, length)).toString('latin1') : ''
  const values = [...text.matchAll(/>([^<>\s][^<>]*)</g)].map(({ index, 1: value }) => ({
    at: start + index + 1,
    length: (value as string).length,
  }))
  const tags = [...text.matchAll(/<[^<>]+>/g)].map(({ index, 0: tag }) => ({ at: start + index, length: tag.length }))
  const lines: Part[] = []
  for (let at = 0, end = text.indexOf('\n'); end !== -1; at = end + 1, end = text.indexOf('\n', at)) {
    lines.push({ at: start + at, length: end + 1 - at })
  }
  const whole = length > 0 ? [{ at: start, length }] : []
  return {
    parts: [...whole, ...values, ...lines],
    special(by) {
      if ([values, tags, lines].some((parts) => parts.length === 0)) return []
      const kind = by.below(10)
      if (kind < 3) {
        const line = by.pick(lines)
        return [{ do: 'copy', from: line.at, length: line.length, at: by.pick(lines).at }]
      }
      const to = by.pick(kind === 3 ? tags : values)
      const from = by.pick(kind === 3 ? tags : values)
      const wanted = by.chance(0.5) ? text.slice(from.at - start, from.at - start + from.length) : by.pick(odd)
      const cut = wanted.slice(0, to.length).padEnd(to.length, ' ')
      return [{ do: 'put', at: to.at, hex: Buffer.from(cut, 'latin1').toString('hex') }]
    },
  }
}
