import { ceilDiv } from '../../bytes/align.ts'
import { VdiskError } from '../../errors.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import type { TableCache } from '../../io/table-cache.ts'
import type { FileSpace } from './file-space.ts'
import type { Header } from './header.ts'
import { LIMIT } from './layout.ts'
import { blockOffset } from './refcount-table.ts'
import { RootTable } from './root-table.ts'
import type { TablePlaces } from './table-places.ts'

/** What the blocks of an image live in. */
interface Surroundings {
  readonly store: ByteStore
  readonly header: Header
  readonly cache: TableCache
  readonly space: FileSpace
  /** where tables lie: never to be handed out, whatever their count says */
  readonly places: TablePlaces
}

/** Host clusters in a row: a larger refcount table, and behind it blocks. */
export interface Growth {
  /** number of the first cluster */
  readonly first: number
  readonly tableClusters: number
  readonly blocks: number
}

/**
 * The refcount table and the blocks that it names, of which new ones wait until they are durable. ["Host cluster management"]
 *
 * A table points at a block only when that is on the medium; a larger table is named by the header only when all of it is.
 */
export class RefcountBlocks {
  /** the refcount table; replaced when it has to grow */
  root: RootTable
  /** counts that a block holds */
  readonly perBlock: number
  private readonly parts: Surroundings
  /** blocks whose content must be durable before the table may point at them: index to host offset */
  private readonly fresh = new Map<number, number>()
  /** the table that the header names while its larger copy is not durable yet */
  private outgrown: RootTable | undefined

  constructor(parts: Surroundings, root: RootTable) {
    const { header } = parts
    this.parts = parts
    this.root = root
    this.perBlock = (header.clusterSize * 8) / 2 ** header.refcountOrder
  }

  /** Whether a block, or the table itself, waits to become durable before anything may point at it. */
  get isWaiting(): boolean {
    return this.fresh.size > 0 || this.outgrown !== undefined
  }

  /** Goes on with another table, of which nobody knows yet. */
  beginAnew(root: RootTable): void {
    this.root = root
    this.fresh.clear()
    this.parts.places.addRange(root.at, root.bytes.length)
  }

  /** Where a block lies; 0: it is not there. @throws VdiskError CORRUPT for an entry that cannot be right */
  at(index: number): number {
    const waiting = this.fresh.get(index)
    if (waiting !== undefined) return waiting
    const { root } = this
    if (index >= root.length) return 0
    const at = blockOffset(root, index)
    const { header, space } = this.parts
    if (at % header.clusterSize === 0 && at < space.end) return at
    throw new VdiskError('CORRUPT', {
      message: `Cannot use the refcounts of ${header.file}: entry ${index} of the refcount table is ${at}`,
      where: {
        file: header.file,
        structure: 'refcount table',
        index,
        at: root.at + index * 8,
        section: 'Host cluster management',
      },
      advice: 'Check the image: vdisk check IMAGE. It can still be read.',
    })
  }

  /** A block of zeros, in memory; the table learns of it once it is durable. */
  add(index: number, at: number): void {
    const { header, cache, places } = this.parts
    for (let done = 0; done < header.clusterSize; done += cache.pageSize) cache.fresh(at + done)
    this.fresh.set(index, at)
    places.addBlock(at)
  }

  /**
   * All counts become durable, whole new blocks among them; then the table points at those. A new block lies where another
   * one may count it, and is counted before anything leads to it.
   *
   * @returns the table that a larger one has taken the place of, which is given up; undefined: none
   */
  *write(): Io<RootTable | undefined> {
    const { cache, store } = this.parts
    const blocks = [...this.fresh]
    yield* cache.write(cache.take())
    yield* settle(store.flush())
    for (const [index, at] of blocks) {
      this.root.set(index, at)
      this.fresh.delete(index)
    }
    return this.outgrown && (yield* this.switchTable(this.outgrown))
  }

  /** The header names the table, in one step. All of it is durable. */
  *name(): Io<void> {
    const { root } = this
    const { header, store } = this.parts
    const refcountTableClusters = root.bytes.length / header.clusterSize
    yield* header.change(store, { refcountTableOffset: root.at, refcountTableClusters })
  }

  /**
   * Where a table of so many entries goes, and the blocks that count it and themselves: past everything counted so far.
   *
   * @throws VdiskError LIMIT_EXCEEDED for a table beyond all measure
   */
  planGrowth(entries: number): Growth {
    const { header, space } = this.parts
    const { clusterSize } = header
    const old = this.root
    const first = Math.max(old.length * this.perBlock, ceilDiv(space.end, clusterSize))
    const wanted = Math.max(entries, ceilDiv(first, this.perBlock) + 1, Math.ceil(old.length * 1.5))
    let tableClusters = ceilDiv(wanted * 8, clusterSize)
    let blocks = 1
    // The table, and the blocks that count table and blocks, until they fit each other.
    for (let before = 0; before !== blocks; ) {
      before = blocks
      const lastCluster = first + tableClusters + blocks - 1
      blocks = Math.floor(lastCluster / this.perBlock) - Math.floor(first / this.perBlock) + 1
      tableClusters = ceilDiv(Math.max(wanted, Math.floor(lastCluster / this.perBlock) + 1) * 8, clusterSize)
    }
    if (tableClusters * clusterSize <= LIMIT.refcountTableBytes || tableClusters === 1) {
      return { first, tableClusters, blocks }
    }
    throw tooLong(header.file, first * clusterSize)
  }

  /** A larger table is in use from now on, in memory; the header names it with the next `write`. */
  grow({ first, tableClusters, blocks }: Growth): void {
    const { header, places } = this.parts
    const { clusterSize } = header
    const bytes = new Uint8Array(tableClusters * clusterSize)
    bytes.set(this.root.bytes)
    this.outgrown = this.root
    this.root = new RootTable(first * clusterSize, bytes)
    places.addRange(this.root.at, bytes.length)
    for (let i = 0; i < blocks; i++) {
      this.add(Math.floor(first / this.perBlock) + i, (first + tableClusters + i) * clusterSize)
    }
  }

  /** The larger table is durable, then the header names it. Can be done again. */
  private *switchTable(old: RootTable): Io<RootTable> {
    const { root } = this
    const { store, places } = this.parts
    yield* settle(store.write(root.at, root.bytes))
    yield* settle(store.flush())
    root.take()
    yield* this.name()
    this.outgrown = undefined
    places.removeRange(old.at)
    return old
  }
}

/** The error of a file that would be longer than its counts can tell. @param at bytes in the file */
export function tooLong(file: string, at: number): VdiskError {
  return new VdiskError('LIMIT_EXCEEDED', {
    message: `Cannot make ${file} longer than it can count: ${at} bytes`,
    where: { file, at },
    advice: 'Convert it to an image with larger clusters: vdisk convert ... -o cluster_size=2M',
  })
}
