import { Bitmap } from '../../bytes/bitmap.ts'
import { type Io, Pace } from '../../io/io.ts'
import type { Bat } from './bat.ts'
import { BAT_ENTRY, LIMIT } from './layout.ts'

/** Entries between two looks at the clock. */
const STRIDE = 1 << 17

/** What can be wrong with an entry of a BAT. */
export type EntryFault = 'before data' | 'past end' | 'misaligned' | 'shared' | 'stale' | 'too far'

/** A fault, and where it is. */
export interface FaultyEntry {
  readonly fault: EntryFault
  readonly cluster: number
  /** bytes in the file */
  readonly place: number
}

/**
 * Looks at every entry of a BAT and counts who uses which cluster of the file: one bit for each. Of two entries that name
 * one place the later is told. ["BAT"]
 */
export class Census {
  /** whether any entry names a place, once they were looked at */
  namesAny = false
  /** bytes in the file: behind it no cluster lies that was taken, but for those too far to keep account of */
  usedEnd: number
  readonly fileEnd: number
  private readonly bits: Bitmap
  private readonly bat: Bat

  constructor(bat: Bat, fileEnd: number) {
    this.bat = bat
    this.fileEnd = fileEnd
    const { dataAt, clusterSize } = bat.header
    this.usedEnd = dataAt
    const clusters = Math.ceil(Math.max(0, fileEnd - dataAt) / clusterSize)
    this.bits = Bitmap.empty(Math.min(clusters, LIMIT.counted))
  }

  /** Whether all of the file is kept account of. */
  get isWhole(): boolean {
    return this.bits.length < LIMIT.counted
  }

  /** Takes a cluster that is no entry's. @returns what is wrong with it */
  claim(place: number): EntryFault | undefined {
    const { header } = this.bat
    if (place < header.dataAt) return 'before data'
    if (place >= this.fileEnd) return 'past end'
    const index = (place - header.dataAt) / header.clusterSize
    if (index < this.bits.length) this.usedEnd = Math.max(this.usedEnd, place + header.clusterSize)
    if (!Number.isInteger(index)) return 'misaligned'
    if (index >= this.bits.length) return 'too far'
    if (this.bits.has(index)) return 'shared'
    this.bits.fill(index, index + 1)
    return undefined
  }

  /** @param tell is told of every entry with a fault; may not wait */
  *take(tell: (found: FaultyEntry) => void, advance: (done: number, total: number) => void): Io<void> {
    const { header } = this.bat
    const pace = new Pace()
    for (let index = 0; index < header.entryCount; index += STRIDE) {
      yield* this.bat.walk(index, Math.min(header.entryCount, index + STRIDE), (view, first, count) => {
        for (let i = 0; i < count; i++) {
          const entry = view.getUint32(i * BAT_ENTRY, true)
          if (entry === 0) continue
          this.namesAny = true
          const place = entry * header.unit
          const fault = this.judge(first + i, place)
          if (fault) tell({ fault, cluster: first + i, place })
        }
      })
      yield* pace.keep()
      advance(index, header.entryCount)
    }
  }

  /** Runs of the data area that nobody uses, as far as the file goes. */
  *unused(): Generator<{ readonly at: number; readonly length: number }> {
    const { dataAt, clusterSize } = this.bat.header
    for (const { start, length, set } of this.bits.runs()) {
      const at = dataAt + start * clusterSize
      if (!set) yield { at, length: Math.min(length * clusterSize, this.fileEnd - at) }
    }
  }

  private judge(cluster: number, place: number): EntryFault | undefined {
    const { clusterSize, size } = this.bat.header
    const fault = this.claim(place)
    // Its room is counted, and who grows the disk clears it; no guest sees it. Where it cannot be, writers must not go.
    if (cluster * clusterSize >= size) return fault ?? 'stale'
    if (fault === undefined && place + this.bat.usedOf(cluster) > this.fileEnd) return 'past end'
    return fault
  }
}
