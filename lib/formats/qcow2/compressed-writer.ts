import { type Io, settle, Turns } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import type { Allocation } from './allocation.ts'
import type { FileSpace } from './file-space.ts'
import type { Header } from './header.ts'
import { encodeCompressed } from './layout.ts'
import type { Mapping } from './mapping.ts'
import type { Refcounts } from './refcounts.ts'

/**
 * Puts compressed clusters one behind the other, many into one host cluster: each adds one to the count of every
 * host cluster it touches. ["Compressed Clusters Descriptor"]
 */
export class CompressedWriter {
  private readonly header: Header
  private readonly store: ByteStore
  private readonly space: FileSpace
  private readonly refcounts: Refcounts
  private readonly allocation: Allocation
  private readonly turns = new Turns()
  /** free bytes at the end of the host clusters taken last */
  private free = { at: 0, length: 0 }

  constructor({ header, store, space }: Mapping, refcounts: Refcounts, allocation: Allocation) {
    this.header = header
    this.store = store
    this.space = space
    this.refcounts = refcounts
    this.allocation = allocation
  }

  /** Stores a packed cluster and points its entry there. @param packed shorter than a cluster */
  *put(offset: number, packed: Uint8Array): Io<void> {
    const at = yield* this.turns.take(() => this.takeRoom(packed.length))
    yield* settle(this.store.write(at, packed))
    yield* this.space.lengthen(at + packed.length, 0)
    const [high, low] = encodeCompressed(at, packed.length, this.header.clusterBits)
    yield* this.allocation.setCompressed(offset, high, low)
  }

  /** Uses what is left of the last clusters no more: from the next flush on they may be given to others. */
  seal(): void {
    this.free = { at: 0, length: 0 }
  }

  private *takeRoom(length: number): Io<number> {
    const { clusterSize } = this.header
    const countable = (yield* this.refcounts.get(Math.floor(this.free.at / clusterSize))) < this.refcounts.maxCount
    const shared = countable ? this.free.length : 0
    if (shared >= length) {
      const { at } = this.free
      // The host cluster is counted once from its allocation; every further tenant adds one.
      yield* this.refcounts.change({ first: Math.floor(at / clusterSize), count: 1 }, 1)
      this.free = { at: at + length, length: shared - length }
      return at
    }
    const next = yield* this.refcounts.allocate(1)
    const joins = shared > 0 && next.at === this.free.at + shared
    if (!joins) {
      this.free = { at: next.at + length, length: clusterSize - length }
      return next.at
    }
    const { at } = this.free
    yield* this.refcounts.change({ first: Math.floor(at / clusterSize), count: 1 }, 1)
    this.free = { at: at + length, length: shared + clusterSize - length }
    return at
  }
}
