import { ceilDiv } from '../bytes/align.ts'
import { type Io, settle } from '../io/io.ts'
import { ChangedRuns, type TellRanges } from './changed-runs.ts'
import { type CounterTable, STRIDE } from './counter-table.ts'
import { COUNTERS } from './layout.ts'
import type { Shrink } from './superblock.ts'
import type { Token } from './token.ts'

/** A disk of which it is known what changed since a token. */
export interface Asked {
  readonly token: Token
  /** bytes */
  readonly size: number
  readonly granularity: number
  readonly shrinks: readonly Shrink[]
}

/**
 * Tells each range that may have changed, in order.
 *
 * @param tell gets ranges of the disk, many at a time
 * @param start where to begin; what lies before is not looked at
 */
export function* changesSince(table: CounterTable, asked: Asked, tell: TellRanges, start: number): Io<void> {
  const { token, size, granularity } = asked
  const runs = new ChangedRuns({ granularity, above: token.epoch, start }, STRIDE)
  const end = Math.min(size, unchangedSize(asked))
  const granules = Math.floor(end / granularity)
  const startGranule = Math.floor(start / granularity)
  const pages = ceilDiv(granules, COUNTERS)
  const goesOn = yield* table.walk(Math.floor(startGranule / COUNTERS), pages, token.epoch, (found) => {
    for (const { number, counters } of found) {
      const first = number * COUNTERS
      runs.add(counters, Math.max(0, startGranule - first), Math.min(COUNTERS, granules - first), first)
    }
    const places = runs.take()
    return places.length === 0 || tell(places)
  })
  if (!goesOn) return
  // The last granule may be cut short, or the disk have ended there once.
  if (end < size || (yield* isTailChanged(table, asked, granules)))
    runs.addRange(Math.max(start, granules * granularity), size)
  runs.finish()
  const places = runs.take()
  if (places.length > 0) yield* settle(tell(places))
}

/** Bytes of the disk that no change of its size can have touched since. */
function unchangedSize({ token, shrinks }: Asked): number {
  let least = token.size
  for (const { epoch, size } of shrinks) if (epoch > token.epoch) least = Math.min(least, size)
  return least
}

function* isTailChanged(table: CounterTable, { token, size, granularity }: Asked, granule: number): Io<boolean> {
  if (granule * granularity >= size) return false
  const page = yield* table.load(Math.floor(granule / COUNTERS))
  return (page.counters[granule % COUNTERS] as number) > token.epoch
}
