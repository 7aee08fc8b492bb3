import { roundUp } from '../../bytes/align.ts'
import { VdiskError } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { spotIn } from './damage.ts'
import type { Header } from './header.ts'
import { LIMIT } from './layout.ts'

const PIECE = 1 << 20

/** Where a repair puts clusters: one behind the other, in room that nobody uses. */
export class SpareRoom {
  private readonly header: Header
  private readonly store: ByteStore
  /** bytes in the file: where the next cluster goes */
  private next: number

  /** @param usedEnd bytes in the file: what lies behind belongs to nobody, and may hold anything */
  constructor(header: Header, store: ByteStore, usedEnd: number) {
    const { dataAt, clusterSize } = header
    this.header = header
    this.store = store
    this.next = dataAt + roundUp(Math.max(0, usedEnd - dataAt), clusterSize)
  }

  /** @throws VdiskError NO_SPACE unless so many clusters can be named, and kept account of */
  demand(count: number): void {
    const { clusterSize, dataAt, unit, file } = this.header
    const end = this.next + count * clusterSize
    if (count === 0 || ((end - clusterSize) / unit <= LIMIT.entry && (end - dataAt) / clusterSize <= LIMIT.counted)) {
      return
    }
    throw new VdiskError('NO_SPACE', {
      message: `Cannot repair ${file}: its BAT cannot name what lies behind ${this.next}`,
      where: spotIn(file, { structure: 'BAT', at: this.next, section: 'BAT' }),
      advice: 'To save what it holds: vdisk convert',
    })
  }

  /** Copies a cluster of the file; what the file does not have of it is zero in the copy. @returns where the copy lies */
  *copyOf(place: number): Io<number> {
    const { store } = this
    const { clusterSize } = this.header
    const size = yield* settle(store.size())
    const there = Math.min(clusterSize, size - place)
    const to = yield* this.take()
    const buffer = new Uint8Array(Math.min(PIECE, clusterSize))
    // Where the file did not reach before, it is zero.
    const stale = Math.min(clusterSize, size - to)
    for (let done = 0; done < Math.max(there, stale); done += buffer.length) {
      const part = buffer.subarray(0, Math.min(buffer.length, clusterSize - done))
      const known = Math.max(0, Math.min(part.length, there - done))
      if (known > 0) yield* settle(store.read(place + done, part.subarray(0, known)))
      part.fill(0, known)
      yield* settle(store.write(to + done, part))
    }
    return to
  }

  /** Writes a whole cluster. @returns where it lies */
  *put(cluster: Uint8Array): Io<number> {
    const to = yield* this.take()
    yield* settle(this.store.write(to, cluster))
    return to
  }

  private *take(): Io<number> {
    const to = this.next
    this.next += this.header.clusterSize
    yield* settle(this.store.grow(this.next))
    return to
  }
}
