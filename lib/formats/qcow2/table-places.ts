import { NumberSet } from '../../bytes/number-set.ts'

/** Neighbouring clusters of one table. */
interface Range {
  readonly first: number
  /** the cluster behind the last one */
  readonly end: number
}

/**
 * Where the tables of an image lie.
 *
 * An entry that leads into a table is damage or malice: read as data it shows the guest what is none of its business,
 * written as data it ruins the image. A count that calls a table free is the same in another dress. So every place
 * that an entry or a count offers is looked up here first.
 */
export class TablePlaces {
  private readonly clusterSize: number
  /** the image of which this is a snapshot's view */
  private readonly image: TablePlaces | undefined
  /** everything that is held in one piece, in order of place, without overlaps */
  private readonly ranges: Range[] = []
  private readonly blocks = new NumberSet()
  /** L2 tables of the disk itself */
  private readonly l2Tables = new NumberSet()
  /** L2 tables that only snapshots have */
  private readonly sharedTables = new NumberSet()
  /** all of the last three: nearly every place that is looked up is none of them */
  private readonly single = new NumberSet()

  constructor(clusterSize: number, image?: TablePlaces) {
    this.clusterSize = clusterSize
    this.image = image
  }

  /** Adds a table of `length` bytes. @returns false, with nothing changed, if another table lies there */
  addRange(at: number, length: number): boolean {
    if (length <= 0) return true
    const first = Math.floor(at / this.clusterSize)
    const end = Math.floor((at + length - 1) / this.clusterSize) + 1
    const index = this.rangeBehind(first)
    const [before, behind] = [this.ranges[index - 1], this.ranges[index]]
    if ((before && before.end > first) || (behind && behind.first < end)) return false
    this.ranges.splice(index, 0, { first, end })
    return true
  }

  /** The table that begins at `at` is given up. */
  removeRange(at: number): void {
    const first = Math.floor(at / this.clusterSize)
    const index = this.rangeBehind(first) - 1
    if (this.ranges[index]?.first === first) this.ranges.splice(index, 1)
  }

  /** A refcount block. @returns false if another table lies there */
  addBlock(at: number): boolean {
    if (this.holds(at)) return false
    this.blocks.add(at / this.clusterSize)
    this.single.add(at / this.clusterSize)
    return true
  }

  /** A refcount block is given up. */
  removeBlock(at: number): void {
    this.blocks.delete(at / this.clusterSize)
    this.forget(at / this.clusterSize)
  }

  /** An L2 table of the disk. @returns false if another table lies there, or another entry has the same */
  addL2(at: number): boolean {
    const number = at / this.clusterSize
    if (this.holdsOther(at) || this.l2Tables.has(number)) return false
    this.l2Tables.add(number)
    this.single.add(number)
    this.sharedTables.delete(number)
    return true
  }

  /** An L2 table that a snapshot has; one that is the disk's too needs no second note. */
  addShared(at: number): void {
    const number = at / this.clusterSize
    if (this.l2Tables.has(number)) return
    this.sharedTables.add(number)
    this.single.add(number)
  }

  /** The disk has this L2 table no more; a snapshot may. */
  share(at: number): void {
    this.l2Tables.delete(at / this.clusterSize)
    this.sharedTables.add(at / this.clusterSize)
    this.single.add(at / this.clusterSize)
  }

  /** It has turned out that no L2 table lies here. */
  forgetL2(at: number): void {
    this.l2Tables.delete(at / this.clusterSize)
    this.sharedTables.delete(at / this.clusterSize)
    this.forget(at / this.clusterSize)
  }

  /** Nothing refers to this cluster any more, so no snapshot has a table there. */
  freed(number: number): void {
    if (this.sharedTables.size === 0) return
    this.sharedTables.delete(number)
    this.forget(number)
  }

  /** Whether the cluster at `at` holds a table. */
  holds(at: number): boolean {
    const number = Math.floor(at / this.clusterSize)
    if (this.single.has(number) || this.inRange(number)) return true
    return this.image?.holds(at) ?? false
  }

  /** How many of `count` clusters, from number `first` on, lie before the first that holds a table. */
  clearRun(first: number, count: number): number {
    const index = this.rangeBehind(first)
    const [before, behind] = [this.ranges[index - 1], this.ranges[index]]
    if (before && first < before.end) return 0
    let end = Math.min(first + count, behind?.first ?? Number.POSITIVE_INFINITY)
    // Where tables are few, each of them is looked at instead of each cluster.
    if (this.single.size < count) {
      for (const number of this.single.values()) if (number >= first && number < end) end = number
    } else {
      let number = first
      while (number < end && !this.single.has(number)) number++
      end = number
    }
    return this.image ? this.image.clearRun(first, end - first) : end - first
  }

  /** Whether it holds a table of another kind than L2. */
  holdsOther(at: number): boolean {
    const number = Math.floor(at / this.clusterSize)
    if (this.blocks.has(number) || this.inRange(number)) return true
    return this.image?.holdsOther(at) ?? false
  }

  private inRange(number: number): boolean {
    const range = this.ranges[this.rangeBehind(number) - 1]
    return range !== undefined && number < range.end
  }

  /** A cluster is one kind of table less. */
  private forget(number: number): void {
    if (this.blocks.has(number) || this.l2Tables.has(number) || this.sharedTables.has(number)) return
    this.single.delete(number)
  }

  /** Index of the first range that begins behind cluster `number`. */
  private rangeBehind(number: number): number {
    let [low, high] = [0, this.ranges.length]
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((this.ranges[middle] as Range).first <= number) low = middle + 1
      else high = middle
    }
    return low
  }
}
