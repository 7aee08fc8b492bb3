import { ceilDiv } from '../bytes/align.ts'
import { type Io, settle, type Turns } from '../io/io.ts'
import type { ByteStore } from '../io/store.ts'
import { CounterTable } from './counter-table.ts'
import type { IntentMap } from './intent-map.ts'
import { COUNTERS, REGION } from './layout.ts'
import { Regions } from './regions.ts'

/** Regions that are armed at most before those that rest are given up: a crash reports them all. */
const ARMED = 4096

/** Pages of counters that wait for the medium at most. */
const WAITING = 4096

/** Milliseconds between two foldings of a disk that is written to. */
const REST = 5000

/** Regions named by intents that a reader takes over into memory. */
const RECOVERED = 1 << 16

/** Bytes of the disk that are stamped before it is looked how many pages wait. */
const MOST_AT_ONCE = 64 * 2 ** 30

/** Bytes on the disk. */
export interface Range {
  readonly offset: number
  readonly length: number
}

/** Where changes are recorded: in intents before they happen, and in counters, which a folding makes durable. */
export class Recorder {
  readonly counters: CounterTable
  /** of changes that begin now */
  epoch: number
  private readonly granularity: number
  private readonly intents: IntentMap
  private readonly regions: Regions
  private readonly store: ByteStore
  private readonly turns: Turns
  private readonly now: () => number
  /** when the last folding began or ended */
  private folded: number

  /** @param how the sidecar, whose writers take turns, and a clock in milliseconds */
  constructor(
    intents: IntentMap,
    { epoch, granularity }: { readonly epoch: number; readonly granularity: number },
    how: { readonly store: ByteStore; readonly turns: Turns; readonly now: () => number },
  ) {
    this.intents = intents
    this.regions = new Regions(intents)
    this.counters = new CounterTable(how.store, epoch)
    this.epoch = epoch
    this.granularity = granularity
    this.store = how.store
    this.turns = how.turns
    this.now = how.now
    this.folded = this.now()
  }

  /** Whether no change is under way anywhere. */
  get rest(): boolean {
    return this.regions.rest
  }

  /**
   * A change begins that need not wait: it lies in one region that is armed, and its counters are in memory. Most do; for
   * them nothing is allocated.
   *
   * @param length at least 1
   * @returns false: it has not begun, and needs `begin`
   */
  beginAtOnce(offset: number, length: number): boolean {
    const first = Math.floor(offset / this.granularity)
    const page = this.counters.peek(Math.floor(first / COUNTERS))
    if (!page || this.isFoldDue()) return false
    const from = first - page.number * COUNTERS
    const to = Math.floor((offset + length - 1) / this.granularity) - page.number * COUNTERS + 1
    const region = regionOf(offset)
    if (to > COUNTERS || regionOf(offset + length - 1) > region || !this.regions.enterArmed(region)) return false
    this.counters.stamp(page, from, to, this.epoch)
    return true
  }

  /**
   * A change begins. If this fails, it has not.
   *
   * @param size bytes of the disk
   * @returns the epoch in which it counts
   */
  *begin(offset: number, length: number, size: number): Io<number> {
    const durable = this.regions.enter(regionOf(offset), regionOf(offset + length - 1))
    try {
      if (!durable) yield* this.arm(size)
      const { epoch } = this
      yield* this.stamp(offset, length)
      if (this.isFoldDue()) yield* this.fold()
      return epoch
    } catch (error) {
      this.leave(offset, length)
      throw error
    }
  }

  /** A change has ended that had begun. */
  leave(offset: number, length: number): void {
    this.regions.leave(regionOf(offset), regionOf(offset + length - 1))
  }

  /** The range changes in the present epoch. It may rise while this waits, and no counter may fall. */
  *stamp(offset: number, length: number): Io<void> {
    const end = ceilDiv(offset + length, this.granularity)
    for (let granule = Math.floor(offset / this.granularity); granule < end; ) {
      const number = Math.floor(granule / COUNTERS)
      const from = granule - number * COUNTERS
      const to = Math.min(COUNTERS, from + end - granule)
      const page = this.counters.peek(number) ?? (yield* this.counters.load(number))
      this.counters.stamp(page, from, to, this.epoch)
      granule += to - from
    }
  }

  /** Makes counters durable, and gives up regions that rest. @param all those, too, that rest only since this began */
  *fold(all = false): Io<void> {
    this.folded = this.now()
    yield* this.turns.take(() => this.regions.giveUp(all, () => this.writeCounters()))
    this.folded = this.now()
  }

  /** Nobody changes anything any more: counters are durable, and no intent is left. */
  *settle(): Io<void> {
    yield* this.fold(true)
    yield* this.regions.settle()
  }

  /**
   * What the intents name counts as changed now.
   *
   * @param size bytes of the disk
   * @param mayWrite counters go to the medium where they become many
   * @returns false: they are too many to keep in memory
   */
  *recover(size: number, mayWrite: boolean): Io<boolean> {
    let count = 0
    for (const number of this.intents.regions()) {
      const offset = number * REGION
      if (offset >= size) continue
      if (++count > RECOVERED && !mayWrite) return false
      yield* this.stamp(offset, Math.min(REGION, size - offset))
      if (mayWrite) this.regions.adopt(number)
      if (mayWrite && this.counters.waiting > WAITING) yield* this.counters.write()
    }
    return true
  }

  /**
   * The ranges count as changed in the present epoch.
   *
   * @param mayWrite counters go to the medium where they become many, not yet durably
   * @returns false: they are too many to keep in memory
   */
  *include(ranges: Iterable<Range>, mayWrite: boolean): Io<boolean> {
    for (const { offset, length } of ranges) {
      for (let done = 0; done < length; done += MOST_AT_ONCE) {
        yield* this.stamp(offset + done, Math.min(MOST_AT_ONCE, length - done))
        if (this.counters.waiting <= WAITING) continue
        if (!mayWrite) return false
        yield* this.counters.write()
      }
    }
    return true
  }

  /** Makes the intents of all regions durable that wait for it: whoever comes first does it for all. */
  private *arm(size: number): Io<void> {
    yield* this.turns.take(() => this.regions.arm(ceilDiv(size, REGION)))
    if (this.regions.size > ARMED) yield* this.fold()
  }

  private isFoldDue(): boolean {
    return this.counters.waiting > WAITING || this.now() - this.folded > REST
  }

  private *writeCounters(): Io<void> {
    yield* this.counters.write()
    yield* settle(this.store.flush())
  }
}

function regionOf(offset: number): number {
  return Math.floor(offset / REGION)
}
