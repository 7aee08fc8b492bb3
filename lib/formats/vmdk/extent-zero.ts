import type { Extent } from '../../contracts/extent.ts'
import { type Io, just } from '../../io/io.ts'
import type { ExtentFile, ExtentOpening } from './extent-file.ts'
import { SECTOR } from './layout.ts'

/** A part of the disk that reads as zero, whatever is below, and has no file. */
export function* openZero({ start, length }: ExtentOpening): Io<ExtentFile> {
  return yield* just({
    start,
    length,
    granularity: SECTOR,
    store: undefined,
    details: {},
    map: (_offset: number, wanted: number): Io<Extent> => just({ kind: 'zero', length: wanted }),
    check: () => just(undefined),
    close: () => just(undefined),
  })
}
