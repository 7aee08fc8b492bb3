import { VdiskError } from '../../errors.ts'
import type { Io } from '../../io/io.ts'
import type { Page, TableCache } from '../../io/table-cache.ts'
import type { Patch } from './regions.ts'

/** A range of the file that a change touches, in bytes. */
export interface Span {
  readonly at: number
  readonly length: number
}

/** What the write-back says of changes that are on their way. */
export interface RoundState {
  /** pages that one round can take */
  readonly capacity: number
  /** pages that a round under way has taken, and may give back */
  readonly inFlight: number
  /** Ends a round, so that there is room again. */
  relieve(): Io<void>
}

/**
 * Changes of tables that happen together or not at all.
 *
 * All pages of a change are brought into memory first; then it is made without a wait in between. A round of the
 * write-back takes all changes there are into one log entry, and one log entry is replayed whole or not at all. So it
 * is enough that a round never has more pages than an entry can hold: a change for which there is no room any more
 * waits for the next round.
 */
export class Edits {
  private readonly file: string
  private readonly tables: TableCache
  private readonly round: RoundState

  /** @param file for errors */
  constructor(file: string, tables: TableCache, round: RoundState) {
    this.file = file
    this.tables = tables
    this.round = round
  }

  /** Makes a change whose bytes lie in `spans`. `change` may not wait; it finds the pages through `view`. */
  *apply<T>(spans: readonly Span[], change: () => T): Io<T> {
    const places = this.pagesOf(spans)
    if (places.length > this.round.capacity) {
      throw new VdiskError('LIMIT_EXCEEDED', {
        message: `Cannot change ${this.file}: ${places.length} pages of its tables would change at once, its log holds ${this.round.capacity}`,
        where: { file: this.file, structure: 'log' },
        advice: 'Convert it to one with a larger log: vdisk convert IMAGE COPY --format vhdx -o log_size=4M',
      })
    }
    for (;;) {
      for (const at of places) if (!this.tables.peek(at)) yield* this.tables.load(at)
      // Loading may have waited, and what waits can be forgotten: from here on nobody waits.
      if (places.some((at) => !this.tables.peek(at))) continue
      const fresh = places.filter((at) => (this.tables.peek(at) as Page).changed === 0).length
      const changed = this.tables.changedBytes / this.tables.pageSize
      if (changed + this.round.inFlight + fresh <= this.round.capacity) return change()
      yield* this.round.relieve()
    }
  }

  /** Writes bytes at several places in one change. @returns what undoes it */
  *patch(patches: readonly Patch[]): Io<readonly Patch[]> {
    const spans = patches.map(({ at, bytes }) => ({ at, length: bytes.length }))
    return yield* this.apply(spans, () => {
      const before = patches.map(({ at, bytes }) => ({ at, bytes: this.copy(at, bytes.length) }))
      for (const { at, bytes } of patches) this.put(at, bytes)
      return before
    })
  }

  /** The page of a place that `spans` named; only within a change. */
  view(at: number): { page: Page; within: number } {
    const page = this.tables.peek(at) as Page
    return { page, within: at - page.at }
  }

  /** Marks bytes as changed. */
  touch(page: Page, within: number, length: number): void {
    this.tables.touch(page, within, length)
  }

  /** Writes bytes; only within a change. */
  put(at: number, bytes: Uint8Array): void {
    for (const [page, within, from, length] of this.pieces(at, bytes.length)) {
      page.bytes.set(bytes.subarray(from, from + length), within)
      this.tables.touch(page, within, length)
    }
  }

  private copy(at: number, length: number): Uint8Array {
    const bytes = new Uint8Array(length)
    for (const [page, within, from, count] of this.pieces(at, length)) {
      bytes.set(page.bytes.subarray(within, within + count), from)
    }
    return bytes
  }

  /** Cuts a range at the borders of pages: page, offset in the page, offset in the range, length. */
  private *pieces(at: number, length: number): Generator<[Page, number, number, number]> {
    for (let done = 0; done < length; ) {
      const { page, within } = this.view(at + done)
      const count = Math.min(length - done, page.bytes.length - within)
      yield [page, within, done, count]
      done += count
    }
  }

  /** The pages that ranges touch, each once. */
  private pagesOf(spans: readonly Span[]): number[] {
    const { pageSize } = this.tables
    const places = new Set<number>()
    for (const { at, length } of spans) {
      for (let page = at - (at % pageSize); page < at + length; page += pageSize) places.add(page)
    }
    return [...places]
  }
}
