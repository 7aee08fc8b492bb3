import { crc32c } from '../bytes/crc32c.ts'
import { Ranges } from '../bytes/ranges.ts'
import { SECTOR } from './layout.ts'

/** Content that a file had before. */
export interface Old {
  /** bytes in the file, a multiple of 512 */
  readonly at: number
  /** bytes */
  readonly length: number
  /** where it stands in the journal; undefined: it was zero */
  readonly place: number | undefined
}

/** Checksums of sectors that were about to be written. */
interface Noted {
  readonly first: number
  readonly sums: Uint32Array
}

/** What a journal knows of one file: how it was, and everything that the verb may have made of it. */
export class Past {
  /** the image: empty; another file: its path from the image's folder, as the journal has it */
  readonly name: string
  /** bytes in the file before */
  readonly size: number
  /** when it was changed last before, in nanoseconds; undefined: its medium keeps no times */
  readonly modified: bigint | undefined
  /** in no order, none over another */
  readonly olds: Old[] = []
  /** sectors in `olds` */
  readonly saved = new Ranges()
  /** how the verb left it, once it had ended */
  end: { readonly size: number; readonly modified: bigint | undefined } | undefined
  /** sizes that it had on the way lie between these */
  least: number
  most: number
  private readonly noted: Noted[] = []
  private inOrder = false
  /** sectors in the longest run of checksums: so far back a search begins */
  private longest = 0
  private readonly zeroed = new Ranges()

  constructor(name: string, size: number, modified: bigint | undefined) {
    this.name = name
    this.size = size
    this.modified = modified
    this.least = size
    this.most = size
  }

  noteSize(size: number): void {
    this.least = Math.min(this.least, size)
    this.most = Math.max(this.most, size)
  }

  noteSums(first: number, sums: Uint32Array): void {
    this.noted.push({ first, sums })
    this.inOrder = false
    this.longest = Math.max(this.longest, sums.length)
  }

  noteZeros(start: number, end: number): void {
    this.zeroed.add({ start, end })
  }

  /**
   * Whether the verb may have left a sector like this.
   *
   * @param bytes of the sector, with zeros behind the end of the file
   */
  explains(sector: number, bytes: Uint8Array): boolean {
    // Where the file did not reach, and where a hole was made, nothing may have arrived.
    const mayBeZero = sector * SECTOR >= this.size || this.zeroed.has(sector)
    if (mayBeZero && bytes.every((byte) => byte === 0)) return true
    const sum = crc32c(bytes)
    for (const { first, sums } of this.notesFrom(sector, sector + 1)) if (sums[sector - first] === sum) return true
    return false
  }

  /** Runs of checksums that lie in a range of sectors, wholly or in part. */
  private *notesFrom(start: number, end: number): Generator<Noted> {
    if (!this.inOrder) this.noted.sort((a, b) => a.first - b.first)
    this.inOrder = true
    let low = 0
    for (let high = this.noted.length; low < high; ) {
      const middle = (low + high) >>> 1
      if ((this.noted[middle] as Noted).first > start - this.longest) high = middle
      else low = middle + 1
    }
    for (; low < this.noted.length; low++) {
      const run = this.noted[low] as Noted
      if (run.first >= end) return
      if (run.first + run.sums.length > start) yield run
    }
  }
}
