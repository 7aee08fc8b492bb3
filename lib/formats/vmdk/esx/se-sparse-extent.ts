import { Bitmap } from '../../../bytes/bitmap.ts'
import type { CheckReport } from '../../../contracts/check-report.ts'
import type { Extent } from '../../../contracts/extent.ts'
import type { VdiskError } from '../../../errors.ts'
import { type Io, Pace, settle } from '../../../io/io.ts'
import type { ByteStore } from '../../../io/store.ts'
import { badEntry, corrupt, unsupported } from '../damage.ts'
import type { ExtentFile, ExtentOpening } from '../extent-file.ts'
import { SECTOR } from '../layout.ts'
import { onlyRead } from './only-read.ts'
import { readSeHeader } from './se-sparse-header.ts'
import { GRAIN_BYTES, SeSparseTables } from './se-sparse-tables.ts'

/** Grains whose use is noted at a time, one bit each. */
const WINDOW = 1 << 28

/**
 * Opens a space-efficient extent, as delta disks of ESXi 6.5 and later are. It is only read: what keeps account of its room,
 * and its journal, are not known well enough to keep them right.
 *
 * @throws VdiskError UNSUPPORTED, CORRUPT, LIMIT_EXCEEDED; READ_ONLY if it is to be written
 */
export function* openSeSparse(opening: ExtentOpening): Io<ExtentFile> {
  const { image, line, store } = opening
  if (!store) throw unsupported(image.name, 'a space-efficient part of it names no file', { structure: 'descriptor' })
  if (opening.access === 'write') throw onlyRead(store.name, 'too little is known of their journal')
  const header = yield* readSeHeader(store)
  if (line.sectors * SECTOR > header.size) {
    const why = `its descriptor says that a part has ${line.sectors} sectors, the header of that ${header.size / SECTOR}`
    throw corrupt(image.name, why, { structure: 'descriptor', section: 'The Extent Descriptions' })
  }
  return new SeSparseExtent(opening, store, yield* SeSparseTables.read(store, header))
}

/** A part of the disk in a space-efficient extent. */
class SeSparseExtent implements ExtentFile {
  readonly start: number
  readonly length: number
  readonly granularity = GRAIN_BYTES
  readonly store: ByteStore
  readonly details = {}
  private readonly tables: SeSparseTables
  private readonly silent: 'parent' | 'zero'

  constructor({ start, line, hasParent }: ExtentOpening, store: ByteStore, tables: SeSparseTables) {
    this.start = start
    this.length = line.sectors * SECTOR
    this.store = store
    this.tables = tables
    this.silent = hasParent ? 'parent' : 'zero'
  }

  *map(offset: number, length: number): Io<Extent> {
    const within = offset - this.start
    const grain = Math.floor(within / GRAIN_BYTES)
    const skip = within % GRAIN_BYTES
    const absent = this.tables.absentRun(grain)
    if (absent > 0) return { kind: this.silent, length: Math.min(length, absent * GRAIN_BYTES - skip) }
    const page = this.tables.peek(grain) ?? (yield* this.tables.load(grain))
    const first = this.tables.entryIn(page, grain)
    const most = Math.min(this.tables.restOfPage(page, grain), Math.ceil((skip + length) / GRAIN_BYTES))
    let run = 1
    if (first.kind === 'data') {
      const at = this.placeOf(grain, first.number)
      const follows = (): boolean => {
        const next = this.tables.entryIn(page, grain + run)
        return (
          next.kind === 'data' && next.number === first.number + run && this.tables.placeOf(next.number) !== undefined
        )
      }
      while (run < most && follows()) run++
      return { kind: 'data', length: Math.min(length, run * GRAIN_BYTES - skip), store: this.store, at: at + skip }
    }
    if (first.kind === 'bad') throw this.badGrain(grain, 'means nothing')
    while (run < most && this.tables.entryIn(page, grain + run).kind === first.kind) run++
    const kind = first.kind === 'silent' ? this.silent : 'zero'
    return { kind, length: Math.min(length, run * GRAIN_BYTES - skip) }
  }

  *check(report: CheckReport): Io<void> {
    const { grainsAt, grainsEnd } = this.tables.header
    const places = Math.max(0, Math.floor((grainsEnd - grainsAt) / GRAIN_BYTES))
    const rounds = Math.max(1, Math.ceil(places / WINDOW))
    for (let round = 0; round < rounds; round++) {
      const used = Bitmap.empty(Math.min(WINDOW, places - round * WINDOW))
      yield* this.checkRound(report, { used, first: round * WINDOW, round, rounds })
    }
  }

  *close(): Io<void> {
    yield* settle(this.store.close())
  }

  /** Looks at all entries, and at those grains twice that lie in one part of the file. */
  private *checkRound(
    report: CheckReport,
    { used, first, round, rounds }: { used: Bitmap; first: number; round: number; rounds: number },
  ): Io<void> {
    const pace = new Pace()
    const count = Math.ceil(this.length / GRAIN_BYTES)
    for (let grain = 0; grain < count; ) {
      report.advance(round * count + grain, rounds * count)
      yield* pace.keep()
      const absent = this.tables.absentRun(grain)
      if (absent > 0) {
        grain += absent
        continue
      }
      const page = yield* this.tables.load(grain)
      const end = Math.min(count, grain + this.tables.restOfPage(page, grain))
      for (; grain < end; grain++) {
        const entry = this.tables.entryIn(page, grain)
        const isPlace = entry.kind === 'data' && this.tables.placeOf(entry.number) !== undefined
        if (round === 0 && (entry.kind === 'bad' || (entry.kind === 'data' && !isPlace))) {
          this.note(report, 'BAD_ENTRY', grain, `The entry of grain ${grain} leads to no grain.`)
        }
        if (entry.kind !== 'data' || !isPlace) continue
        const bit = entry.number - first
        if (bit < 0 || bit >= used.length) continue
        if (used.has(bit)) {
          this.note(report, 'CROSS_LINKED', grain, `Grain ${grain} lies where another grain lies as well.`)
        }
        used.fill(bit, bit + 1)
      }
    }
  }

  private note(report: CheckReport, code: string, grain: number, message: string): void {
    const offset = grain * GRAIN_BYTES
    const guest = { offset: this.start + offset, length: Math.min(GRAIN_BYTES, this.length - offset) }
    report.add({ code, severity: 'error', structure: 'grain table', guest, message })
  }

  private placeOf(grain: number, number: number): number {
    const at = this.tables.placeOf(number)
    if (at === undefined) throw this.badGrain(grain, `leads to grain ${number} of the file, which it does not have`)
    return at
  }

  private badGrain(grain: number, why: string): VdiskError {
    const spot = { structure: 'grain table', index: grain, offset: this.start + grain * GRAIN_BYTES }
    return badEntry(this.store.name, `the entry of grain ${grain} ${why}`, spot)
  }
}
