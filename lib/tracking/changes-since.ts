import { ceilDiv } from '../bytes/align.ts'
import type { Io } from '../io/io.ts'
import { ChangedRuns } from './changed-runs.ts'
import type { CounterTable } from './counter-table.ts'
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
 * @param visit gets bytes on the disk
 * @param start where to begin; what lies before is not looked at
 */
export function* changesSince(
  table: CounterTable,
  asked: Asked,
  visit: (offset: number, length: number) => void,
  start: number,
): Io<void> {
  const { token, size, granularity } = asked
  const runs = new ChangedRuns(visit)
  const end = Math.min(size, unchangedSize(asked))
  const granules = Math.floor(end / granularity)
  const startGranule = Math.floor(start / granularity)
  const pages = ceilDiv(granules, COUNTERS)
  yield* table.walk(Math.floor(startGranule / COUNTERS), pages, token.epoch, ({ number, counters }) => {
    const first = number * COUNTERS
    const count = Math.min(COUNTERS, granules - first)
    for (let i = Math.max(0, startGranule - first); i < count; i++) {
      if ((counters[i] as number) <= token.epoch) continue
      const from = first + i
      while (i + 1 < count && (counters[i + 1] as number) > token.epoch) i++
      runs.add(Math.max(start, from * granularity), (first + i + 1) * granularity)
    }
  })
  // The last granule may be cut short, or the disk have ended there once.
  if (end < size || (yield* isTailChanged(table, asked, granules)))
    runs.add(Math.max(start, granules * granularity), size)
  runs.finish()
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
