import type { CheckReport } from '../../../contracts/check-report.ts'
import type { Extent } from '../../../contracts/extent.ts'
import { type Io, settle } from '../../../io/io.ts'
import type { ByteStore } from '../../../io/store.ts'
import { badEntry, corrupt, tooLarge, unsupported } from '../damage.ts'
import type { ExtentFile, ExtentOpening } from '../extent-file.ts'
import { FLAG, GRAIN_ENTRY, SECTOR } from '../layout.ts'
import { checkStream } from './check-stream.ts'
import { LARGEST_GRAIN, mostStored, packedGrain } from './grain-codec.ts'
import type { GrainMap } from './grain-map.ts'
import type { StreamFile } from './stream-file.ts'

const SECTION = 'Stream-Optimized Compressed Sparse Extents'
const HEADER = { structure: 'header', at: 0, section: SECTION }

/** A part of the disk that is a stream of packed grains. To find one, its table is looked at and nothing else. */
export class StreamExtent implements ExtentFile {
  readonly start: number
  readonly length: number
  readonly granularity: number
  readonly store: ByteStore
  readonly details = { compression: 'zlib' }
  protected readonly grains: GrainMap
  private readonly file: StreamFile
  private readonly silent: 'parent' | 'zero'
  private readonly closes: boolean

  /** @throws VdiskError UNSUPPORTED for streams of another kind, LIMIT_EXCEEDED, CORRUPT where it is shorter than the descriptor says */
  constructor({ image, start, line, isOwnFile, hasParent }: ExtentOpening, file: StreamFile) {
    const { store, header, grains } = file
    this.start = start
    this.length = line.sectors * SECTOR
    this.store = store
    this.granularity = header.grainBytes
    this.grains = grains
    this.file = file
    this.silent = hasParent ? 'parent' : 'zero'
    this.closes = !isOwnFile
    assertPacked(file)
    if (this.length <= header.size) return
    const why = `its descriptor says that a part has ${line.sectors} sectors, the header of that ${header.fields.capacity}`
    throw corrupt(image.name, why, { structure: 'descriptor', section: 'The Extent Descriptions' })
  }

  *map(offset: number, length: number): Io<Extent> {
    const within = offset - this.start
    const grain = Math.floor(within / this.granularity)
    const skip = within % this.granularity
    const table = this.grains.peek(grain) ?? (yield* this.grains.load(grain))
    if (!table)
      return { kind: this.silent, length: Math.min(length, this.grainsToBytes(this.grains.emptyRun(grain), skip)) }
    const entry = this.grains.entryOf(table, grain)
    if (entry === GRAIN_ENTRY.silent || this.isZero(entry)) {
      let run = 1
      const most = Math.min(this.grains.restOfTable(grain), Math.ceil((skip + length) / this.granularity))
      while (run < most && this.grains.entryOf(table, grain + run) === entry) run++
      const kind = entry === GRAIN_ENTRY.silent ? this.silent : 'zero'
      return { kind, length: Math.min(length, this.grainsToBytes(run, skip)) }
    }
    const { store, granularity } = this
    const at = this.placeOf(entry, grain)
    const whole = Math.min(granularity, this.length - grain * granularity)
    const sector = (grain * granularity) / SECTOR
    const storedLength = this.storedLength(table, grain, entry)
    const packed = packedGrain({ store, at, storedLength, sector, grainBytes: granularity, length: whole })
    return { kind: 'packed', length: Math.min(length, whole - skip), packed, skip }
  }

  *check(report: CheckReport): Io<void> {
    yield* checkStream(this.file, this.start, report)
  }

  *close(): Io<void> {
    if (this.closes) yield* settle(this.store.close())
  }

  /** Bytes of the file so far. */
  protected get fileEnd(): number {
    return this.file.end
  }

  private isZero(entry: number): boolean {
    return entry === GRAIN_ENTRY.zero && this.file.header.zeroedGrains
  }

  private grainsToBytes(count: number, skip: number): number {
    return count * this.granularity - skip
  }

  private placeOf(entry: number, grain: number): number {
    const at = entry * SECTOR
    if (at >= this.file.header.overhead && at < this.fileEnd) return at
    throw badEntry(this.store.name, `the table says that grain ${grain} lies at ${at}, where no grain can be`, {
      structure: 'grain table',
      index: grain,
      section: SECTION,
    })
  }

  /** Bytes that a grain may take: up to the one behind it, where its table knows that. */
  private storedLength(table: DataView, grain: number, entry: number): number {
    const most = Math.min(mostStored(this.granularity), this.fileEnd - entry * SECTOR)
    const rest = this.grains.restOfTable(grain)
    for (let ahead = 1; ahead < rest; ahead++) {
      const next = this.grains.entryOf(table, grain + ahead)
      if (next > GRAIN_ENTRY.zero) return next > entry ? Math.min(most, (next - entry) * SECTOR) : most
    }
    return most
  }
}

function assertPacked({ store, header }: StreamFile): void {
  const { flags, compression } = header.fields
  if (header.grainBytes > LARGEST_GRAIN) {
    throw tooLarge(store.name, `its packed grains have ${header.grainBytes} bytes, more than ${LARGEST_GRAIN}`, HEADER)
  }
  if ((flags & FLAG.compressed) !== 0 && (flags & FLAG.markers) !== 0 && compression === 1) return
  const why = 'it is packed without the marks by which grains are told from each other'
  throw unsupported(store.name, why, HEADER)
}
