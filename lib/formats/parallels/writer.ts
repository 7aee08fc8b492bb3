import { ceilDiv, roundDown } from '../../bytes/align.ts'
import type { Extent } from '../../contracts/extent.ts'
import type { FileRoom } from '../../contracts/file-room.ts'
import type { Reservation } from '../../contracts/layer.ts'
import { type Io, just, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { type Bat, entryPlace } from './bat.ts'
import type { Extension } from './extension.ts'
import { BAT_ENTRY } from './layout.ts'
import { Session } from './session.ts'
import type { Tracking } from './tracking.ts'

/** Room that one reservation takes for new clusters at most. */
const LARGEST_RUN = 64 << 20

type Fill = Reservation['fills'][number]

/**
 * The writing half of an expanding image: room for clusters, changed entries.
 *
 * Everything happens in memory; in which order it becomes durable is told in `Session`.
 */
export class Writer {
  readonly bat: Bat
  readonly space: FileRoom
  readonly session: Session
  readonly tracking: Tracking
  private readonly store: ByteStore

  constructor(bat: Bat, parts: { space: FileRoom; tracking: Tracking; extension: Extension | undefined }) {
    this.bat = bat
    this.store = bat.store
    this.space = parts.space
    this.tracking = parts.tracking
    this.session = new Session(bat, parts)
  }

  *reserve(offset: number, length: number): Io<Reservation> {
    if (!this.session.hasBegun) yield* this.session.begin()
    const extent = yield* this.bat.map(offset, length)
    if (extent.kind === 'data') return this.inPlace(offset, extent)
    return yield* this.inNewRoom(offset, extent.length)
  }

  /**
   * Erases whole clusters, or what of a cluster can be erased in place.
   *
   * @param bare what lies below shows nothing there: a cluster may go, and what is not there need not be hidden
   * @returns bytes done from `offset` on; 0: none
   */
  *erase(offset: number, length: number, bare: boolean): Io<number> {
    const { clusterSize, size } = this.bat.header
    const extent = yield* this.bat.map(offset, length)
    if (extent.kind !== 'data') return bare ? extent.length : 0
    yield* this.session.begin()
    this.tracking.note(offset, extent.length)
    const end = offset + length === size ? offset + length : roundDown(offset + length, clusterSize)
    if (bare && offset % clusterSize === 0 && end > offset) {
      const first = offset / clusterSize
      const next = yield* this.setEntries(
        first,
        Math.min(ceilDiv(end, clusterSize), first + ceilDiv(extent.length, clusterSize)),
        0,
      )
      return Math.min(next * clusterSize, end) - offset
    }
    if (!this.store.deallocate) return 0
    // Behind the end of this cluster those may follow that can be given up as a whole.
    const within = bare ? Math.min(extent.length, clusterSize - (offset % clusterSize)) : extent.length
    yield* settle(this.store.deallocate((extent as Extent & { kind: 'data' }).at, within))
    return within
  }

  /**
   * Points clusters first .. end-1 at room of their own, one after the other, or at none (0), as far as one page of the BAT
   * goes.
   *
   * @param old what becomes of the room that they had
   * @returns the first cluster that was not done
   */
  *setEntries(first: number, end: number, place: number, old: 'give up' | 'keep' = 'give up'): Io<number> {
    const { tables, header } = this.bat
    const at = entryPlace(first)
    const page = tables.peek(at) ?? (yield* tables.load(at))
    // From here on nobody waits.
    let cluster = first
    for (; cluster < end; cluster++) {
      const within = entryPlace(cluster) - page.at
      if (within >= page.bytes.length) break
      const entry = place === 0 ? 0 : (place + (cluster - first) * header.clusterSize) / header.unit
      const before = page.view.getUint32(within, true)
      if (before === entry) continue
      if (before !== 0 && old === 'give up') this.space.release(before * header.unit, header.clusterSize)
      page.view.setUint32(within, entry, true)
      tables.touch(page, within, BAT_ENTRY)
    }
    return cluster
  }

  private inPlace(offset: number, { at, length }: Extent & { kind: 'data' }): Reservation {
    const done = (): Io<void> => just(this.tracking.note(offset, length))
    return { length, store: this.store, at, zeroed: false, fills: [], publish: done, abandon: done }
  }

  /** Clusters that are not there yet: what is not written of them comes along from below. */
  private *inNewRoom(offset: number, length: number): Io<Reservation> {
    const { clusterSize } = this.bat.header
    const cluster = Math.floor(offset / clusterSize)
    const start = offset - cluster * clusterSize
    const most = Math.max(1, Math.floor(LARGEST_RUN / clusterSize))
    const count = Math.min(most, ceilDiv(start + length, clusterSize))
    const covered = Math.min(length, count * clusterSize - start)
    const at = yield* this.space.allocate(count * clusterSize)
    const fills: Fill[] = []
    const tail = count * clusterSize - start - covered
    if (start > 0) fills.push({ offset: offset - start, length: start, at })
    if (tail > 0) fills.push({ offset: offset + covered, length: tail, at: at + start + covered })
    return {
      length: covered,
      store: this.store,
      at: at + start,
      zeroed: true,
      fills,
      publish: () => this.publish({ cluster, count, at }, offset, covered),
      abandon: () => just(this.space.free(at, count * clusterSize)),
    }
  }

  private *publish(
    { cluster, count, at }: { cluster: number; count: number; at: number },
    offset: number,
    length: number,
  ): Io<void> {
    const { clusterSize } = this.bat.header
    let done = 0
    try {
      while (done < count) {
        done = (yield* this.setEntries(cluster + done, cluster + count, at + done * clusterSize)) - cluster
      }
    } catch (error) {
      this.space.free(at + done * clusterSize, (count - done) * clusterSize)
      throw error
    }
    this.tracking.note(offset, length)
  }
}
