import { Bitmap } from '../../bytes/bitmap.ts'
import { VdiskError } from '../../errors.ts'
import { type Io, Pace, settle, Turns } from '../../io/io.ts'
import { Retirement, type Room } from '../../io/retirement.ts'
import type { ByteStore } from '../../io/store.ts'
import { writeZeros } from '../../io/zeros.ts'
import { type Bat, entryPlace, type FileEnd } from './bat.ts'
import { corrupt, spotIn } from './damage.ts'
import type { Header } from './header.ts'
import { BAT_ENTRY, LIMIT } from './layout.ts'

/** Entries between two looks at the clock. */
const SURVEYED = 1 << 18

/**
 * Which clusters of the file are in use: one bit for each, from where the data begins. ["Data Area"]
 *
 * The format keeps no list of free room. It is found once, when the file is opened for writing, by a walk over the BAT;
 * neither the end of the file nor anything else is trusted. Room that was given up is used again only when no table on
 * the medium points at it any more and no reader can be on the way to it; then it is punched.
 */
export class Space implements FileEnd {
  /** bytes in the file */
  end: number
  /** room on its way to being free */
  readonly givenUp = new Retirement()
  private readonly store: ByteStore
  private readonly header: Header
  private used = Bitmap.empty(0)
  private cursor = 0
  /** bytes in the file: where the first cluster lies that is counted */
  private origin: number
  /** somebody has clusters that nobody else knows of: only what lies behind the end of the file is free */
  private keepsAll = false
  private readonly turns = new Turns()

  private constructor(header: Header, store: ByteStore, end: number) {
    this.header = header
    this.store = store
    this.origin = header.dataAt
    this.end = end
  }

  /**
   * @param others places of clusters that are in use besides those of the BAT
   * @throws VdiskError CORRUPT if two clusters share a place, or one lies where it cannot: whoever writes there would
   * destroy something
   */
  static *survey(bat: Bat, others: readonly number[], signal?: AbortSignal): Io<Space> {
    const { header, store } = bat
    const space = new Space(header, store, yield* settle(store.size()))
    for (const place of others) {
      const complaint = space.claim(place)
      if (complaint !== undefined)
        throw unsafe(header.file, `what its format extension names ${complaint}`, header.extensionAt)
    }
    const pace = new Pace(signal)
    for (let index = 0; index < header.entryCount; index += SURVEYED) {
      yield* bat.walk(index, Math.min(header.entryCount, index + SURVEYED), (view, first, count) => {
        for (let i = 0; i < count; i++) {
          const entry = view.getUint32(i * BAT_ENTRY, true)
          if (entry !== 0) space.claimEntry(bat, first + i, entry * header.unit)
        }
      })
      yield* pace.keep()
    }
    return space
  }

  /** Whether any cluster is in use. */
  get isUsed(): boolean {
    return this.used.count() > 0
  }

  /** From now on all that the file has is in use, whoever's it is. */
  keepAll(): void {
    const clusters = Math.ceil((this.end - this.origin) / this.header.clusterSize)
    this.keepsAll = true
    this.cover(clusters)
    this.used.fill(0, clusters)
  }

  /** The first clusters are not to be had any more: the BAT grows over them. */
  withhold(clusters: number): void {
    this.cover(clusters)
    this.used.fill(0, clusters)
  }

  /** The data begins elsewhere now, some clusters further on. */
  moveTo(dataAt: number): void {
    const gone = (dataAt - this.origin) / this.header.clusterSize
    if (gone === 0) return
    const left = Bitmap.empty(Math.max(0, this.used.length - gone))
    for (const { start, length, set } of this.used.runs(gone)) if (set) left.fill(start - gone, start - gone + length)
    this.used = left
    this.origin = dataAt
    this.cursor = 0
  }

  /** Room for clusters in a row, which reads as zero. @returns its place @throws VdiskError NO_SPACE */
  *allocate(count: number): Io<number> {
    return yield* this.turns.take(() => this.allocateNow(count))
  }

  /** A table in memory does not point here any more. */
  release(at: number, length: number): void {
    this.givenUp.release(at, length)
  }

  /** Room that nothing ever pointed at. */
  free(at: number, length: number): void {
    const { clusterSize } = this.header
    const first = this.indexOf(at)
    this.used.fill(first, first + length / clusterSize, false)
    this.cursor = Math.min(this.cursor, first)
  }

  /** At the begin of a flush: no reader that saw the old tables is left. The room is given back to the medium. */
  *retire(): Io<void> {
    const rooms = [...this.givenUp.takeDue()]
    if (this.keepsAll) return
    while (rooms.length > 0) {
      const { at, length } = rooms.at(-1) as Room
      try {
        const there = Math.min(length, this.end - at)
        if (this.store.deallocate && there > 0) yield* settle(this.store.deallocate(at, there))
      } catch (error) {
        this.givenUp.condemn(rooms)
        throw error
      }
      rooms.pop()
      this.free(at, length)
    }
  }

  /** Makes a range read as zero, without taking room where that can be. */
  *blank(at: number, length: number): Io<void> {
    if (this.store.deallocate) yield* settle(this.store.deallocate(at, length))
    else yield* writeZeros(this.store, at, length, new Pace())
  }

  /** Cuts free room off the end of the file. */
  *trim(): Io<void> {
    let last = this.used.length
    while (last > 0 && !this.used.has(last - 1)) last--
    const end = this.origin + last * this.header.clusterSize
    if (end >= this.end || this.keepsAll) return
    yield* settle(this.store.truncate(end))
    this.end = end
    this.used = new Bitmap(this.used.bytes, last)
  }

  private *allocateNow(count: number): Io<number> {
    const { clusterSize, unit, file } = this.header
    const first = this.find(count)
    const at = this.origin + first * clusterSize
    const end = at + count * clusterSize
    if ((end - clusterSize) / unit > LIMIT.entry || first + count > LIMIT.counted) {
      throw new VdiskError('NO_SPACE', {
        message: `Cannot write ${file}: what lies behind ${at} in the file, its BAT cannot name`,
        where: spotIn(file, { structure: 'BAT', at, section: 'BAT' }),
        advice:
          'Convert it to one with larger clusters: vdisk convert IMAGE COPY --format parallels -o cluster_size=4M',
      })
    }
    // What lies there may be of a cluster that was given up, or that a crash left behind.
    if (at < this.end) yield* this.blank(at, Math.min(end, this.end) - at)
    if (end > this.end) {
      yield* settle(this.store.grow(end))
      this.end = Math.max(this.end, end)
    }
    this.cover(first + count)
    this.used.fill(first, first + count)
    this.cursor = first + count
    return at
  }

  /** The first of `count` free clusters in a row; behind those that are counted all are free. */
  private find(count: number): number {
    const total = this.used.length
    for (let bit = Math.min(this.cursor, total); bit < total; ) {
      const end = this.used.runEnd(bit, total)
      if (!this.used.has(bit) && (end - bit >= count || end === total)) return bit
      bit = end
    }
    let tail = total
    while (tail > 0 && !this.used.has(tail - 1)) tail--
    return tail
  }

  private claimEntry(bat: Bat, cluster: number, place: number): void {
    const { header } = this
    const complaint =
      cluster * header.clusterSize < header.size ? bat.complaintAbout(cluster, place) : this.complaintBehind(place)
    const why = complaint ?? this.claim(place)
    if (why !== undefined) throw unsafe(header.file, `entry ${cluster} of its BAT ${why}`, entryPlace(cluster), cluster)
  }

  /** Entries behind the last cluster of the disk are of one that was larger once; their room is left alone. */
  private complaintBehind(place: number): string | undefined {
    return place < this.header.dataAt || place >= this.end ? `points at ${place}, where no cluster can be` : undefined
  }

  /** Takes the room of a cluster. @returns why that cannot be */
  private claim(place: number): string | undefined {
    const index = this.indexOf(place)
    if (place < this.origin || !Number.isInteger(index)) return `points at ${place}, which is no place of a cluster`
    if (index >= LIMIT.counted) return `points at ${place}, too far to keep account of`
    if (index < this.used.length && this.used.has(index)) return `points at ${place}, where something else lies`
    this.cover(index + 1)
    this.used.fill(index, index + 1)
    return undefined
  }

  private indexOf(place: number): number {
    return (place - this.origin) / this.header.clusterSize
  }

  /** Makes the account reach as far as so many clusters. */
  private cover(clusters: number): void {
    if (clusters <= this.used.length) return
    let { bytes } = this.used
    if (bytes.length * 8 < clusters) {
      bytes = new Uint8Array(Math.max(bytes.length * 2, Math.ceil(clusters / 8)))
      bytes.set(this.used.bytes)
    }
    this.used = new Bitmap(bytes, clusters)
  }
}

function unsafe(file: string, why: string, at: number, index?: number): VdiskError {
  return corrupt(
    file,
    `it cannot be written safely, because ${why}`,
    { structure: index === undefined ? 'format extension' : 'BAT', index, at, section: 'BAT' },
    'It can still be read and converted. To mend it: vdisk check IMAGE --repair',
  )
}
