import { ceilDiv, roundDown } from '../../bytes/align.ts'
import type { UnitRun } from '../../bytes/unit-map.ts'
import type { Reservation } from '../../contracts/layer.ts'
import { type Io, just, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import type { BlockMap } from './block-map.ts'
import { ENTRY, FREE, ZERO } from './layout.ts'
import type { Space } from './space.ts'
import type { WriteBack } from './write-back.ts'

/** Room that one reservation takes for new blocks at most. */
const LARGEST_RUN = 64 << 20
/** Changed bytes of the map that wait in memory at most. */
const MOST_CHANGED = 4 << 20

type Fill = Reservation['fills'][number]

/** The writing half of the mapping. Everything happens in memory; `WriteBack` makes it durable. */
export class Allocation {
  private readonly map: BlockMap
  private readonly space: Space
  private readonly store: ByteStore
  private readonly writeBack: WriteBack
  private readonly release = (number: number): void => this.space.release(number)

  constructor(map: BlockMap, space: Space, store: ByteStore, writeBack: WriteBack) {
    this.map = map
    this.space = space
    this.store = store
    this.writeBack = writeBack
  }

  *reserve(offset: number, length: number): Io<Reservation> {
    const extent = yield* this.map.map(offset, Math.min(length, LARGEST_RUN))
    if (extent.kind === 'data') return inPlace(this.store, extent.at, extent.length)
    const { blockSize } = this.map.header.fields
    const block = Math.floor(offset / blockSize)
    const start = offset - block * blockSize
    const wanted = Math.min(length, extent.length)
    const most = Math.max(1, Math.floor(LARGEST_RUN / blockSize))
    const run = yield* this.space.allocate(Math.min(most, ceilDiv(start + wanted, blockSize)))
    const at = this.map.header.placeOf(run.first)
    const covered = Math.min(wanted, run.count * blockSize - start)
    return {
      length: covered,
      store: this.store,
      at: at + start,
      zeroed: true,
      // What reads as zero does so in the new room too; the parent's bytes must come along.
      fills: extent.kind === 'parent' ? this.fillsFor(block, at, start, covered) : [],
      publish: () => this.publish(block, run),
      abandon: () => just(this.space.free(run)),
    }
  }

  /** How much of a range from `offset` on an erasure would leave as it is: nothing need be written for that. */
  *untouched(offset: number, length: number, reveal: 'zero' | 'parent'): Io<number> {
    const wanted = reveal === 'parent' && this.map.header.isChild ? 'parent' : 'zero'
    // One look first: to find the end of what is otherwise would take as long as the disk is large, at each step.
    const entry = yield* this.map.entry(Math.floor(offset / this.map.header.fields.blockSize))
    if (this.map.kindOf(entry) !== wanted) return 0
    return (yield* this.map.map(offset, length)).length
  }

  /** Gives up whole blocks, or zeroes what of a block is there. @returns bytes done from `offset` on */
  *erase(offset: number, length: number, reveal: 'zero' | 'parent'): Io<number> {
    const { header } = this.map
    const { blockSize, size } = header.fields
    const block = Math.floor(offset / blockSize)
    const start = offset - block * blockSize
    const end = offset + length === size ? offset + length : roundDown(offset + length, blockSize)
    const showsParent = reveal === 'parent' && header.isChild
    if (!header.isFixed && start === 0 && end > offset) {
      const last = ceilDiv(end, blockSize)
      const done = yield* this.setEntries(block, last, () => (showsParent ? FREE : ZERO))
      yield* this.relieve()
      return Math.min(done * blockSize, end) - offset
    }
    if (showsParent) return 0
    // Behind the end of this block, blocks that can be given up as a whole may follow.
    return yield* this.zeroInPlace(offset, header.isFixed ? length : Math.min(length, blockSize - start))
  }

  /**
   * Sets entries of blocks first .. end-1, as far as one sector of the map goes.
   *
   * @param giveUp is told the places that blocks had before; default: they are on their way to being free
   * @returns the first block that was not reached
   */
  *setEntries(
    first: number,
    end: number,
    entryOf: (block: number) => number,
    giveUp: (number: number) => void = this.release,
  ): Io<number> {
    const page = yield* this.map.pageOf(first)
    // From here on nobody waits.
    const at = this.map.entryPlace(first) - page.at
    const count = Math.min(end - first, (page.bytes.length - at) / ENTRY)
    for (let i = 0; i < count; i++) {
      const before = page.view.getUint32(at + i * ENTRY, true)
      if (before < ZERO) giveUp(before)
      page.view.setUint32(at + i * ENTRY, entryOf(first + i), true)
    }
    this.map.tables.touch(page, at, count * ENTRY)
    return first + count
  }

  /** Writes changes back where too many wait. */
  *relieve(): Io<void> {
    if (this.map.tables.changedBytes > MOST_CHANGED) yield* this.writeBack.commit()
  }

  private *publish(block: number, run: UnitRun): Io<void> {
    let done = 0
    try {
      while (done < run.count) {
        const next = yield* this.setEntries(block + done, block + run.count, (one) => run.first + one - block)
        done = next - block
      }
    } catch (error) {
      this.space.free({ first: run.first + done, count: run.count - done })
      throw error
    }
    yield* this.relieve()
  }

  /** What lies between the request and the borders of its blocks. `at` is the place of the first block. */
  private fillsFor(block: number, at: number, start: number, length: number): Fill[] {
    const { blockSize, size } = this.map.header.fields
    const base = block * blockSize
    const end = start + length
    const last = Math.min(ceilDiv(end, blockSize) * blockSize, size - base)
    const fills: Fill[] = []
    if (start > 0) fills.push({ offset: base, length: start, at })
    if (last > end) fills.push({ offset: base + end, length: last - end, at: at + end })
    return fills
  }

  private *zeroInPlace(offset: number, length: number): Io<number> {
    const extent = yield* this.map.map(offset, length)
    if (extent.kind === 'zero') return extent.length
    if (extent.kind !== 'data' || !this.store.deallocate) return 0
    yield* settle(this.store.deallocate(extent.at, extent.length))
    return extent.length
  }
}

/** Where a block has its room a write goes there: nothing has to become true afterwards. */
function inPlace(store: ByteStore, at: number, length: number): Reservation {
  return { length, store, at, zeroed: false, fills: [], publish: nothing, abandon: nothing }
}

function nothing(): Io<void> {
  return just(undefined)
}
