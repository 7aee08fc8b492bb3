import { roundDown, roundUp } from '../bytes/align.ts'
import type { Chain } from '../chain/chain.ts'
import type { Packer } from '../contracts/layer.ts'
import { breathe, type Io, Pace, promised } from '../io/io.ts'
import { type Job, throwIfCancelled } from '../jobs/job.ts'
import type { DigestTable } from './digest-table.ts'
import {
  DIGEST,
  digestOf,
  entry,
  GRANULE,
  type GranuleSet,
  isHeld,
  lengthOf,
  SECTION,
  sameDigest,
  zeroDigest,
} from './granules.ts'
import { writePacked } from './packing.ts'
import type { BackupSource } from './source.ts'
import { type SizedTable, stackedDigests } from './stacked-digests.ts'
import type { Throttle } from './throttle.ts'

/** Bytes read at a time. */
const PIECE = 1 << 20

/** Sections, and bytes written, after which what is done is made durable and noted. */
const NOTED_SECTIONS = 64
const NOTED_BYTES = 1 << 30

/** Bytes after which the medium is told to begin with what it has. */
const HASTEN = 64 << 20

const ZEROS = new Uint8Array(GRANULE)

export interface FillOptions {
  readonly source: BackupSource
  /** the layer that is made, with all below it */
  readonly target: Chain
  /** takes the digests of what the layer holds */
  readonly table: DigestTable
  /** those of the layers below */
  readonly below: readonly SizedTable[]
  readonly wanted: GranuleSet
  /** sections that need no look */
  readonly done: ReadonlySet<number>
  /** packs what is written; undefined: nothing is packed */
  readonly packer: Packer | undefined
  /** an earlier try may have left something in the layer */
  readonly resumes: boolean
  readonly throttle: Throttle
  readonly signal: AbortSignal | undefined
  /** These sections are complete and durable. */
  noteDone(sections: readonly number[]): Io<void>
}

/** Bytes of the disk. */
export interface Filled {
  readonly read: number
  readonly written: number
}

/**
 * Copies granules of a disk into a layer, as far as they differ from what the layers below have.
 *
 * A section counts as done when its data, then its digests, are durable: so digests never tell of data that may be missing.
 */
export async function* fillLayer(options: FillOptions): Job<Filled> {
  const { wanted, done, source, signal } = options
  const filler = new Filler(options)
  const sections = wanted.touched
  const total = wanted.bytes()
  let [progress, told, seen] = [0, 0, 0]
  for (const section of sections) {
    const start = section * SECTION * GRANULE
    // Nobody reads what lies between.
    source.release?.(seen, start - seen)
    if (!done.has(section)) {
      for (const run of wanted.runs(section)) {
        for (let first = run.first; first < run.end; ) {
          throwIfCancelled(signal)
          const end = Math.min(run.end, first + PIECE / GRANULE)
          const next = await promised(filler.copy(section, first, run.end, end))
          // At once: who changes a disk in use may be waiting for it.
          source.release?.(first * GRANULE, (next - first) * GRANULE)
          await options.throttle.spend(filler.takeSpent(), signal)
          progress += Math.min(next * GRANULE, source.device.size) - first * GRANULE
          first = next
          if (Date.now() - told < 100) continue
          yield { phase: 'backup', done: progress, total }
          told = Date.now()
        }
      }
      await promised(filler.complete(section))
    } else {
      progress += wanted.bytes([section])
    }
    seen = Math.min(source.device.size, start + SECTION * GRANULE)
    source.release?.(start, seen - start)
  }
  source.release?.(seen, source.device.size - seen)
  await promised(filler.note())
  yield { phase: 'backup', done: total, total }
  return filler.filled
}

/** What becomes of a granule. */
type Fate = 'left' | 'zero' | 'data'

/** The section that is being copied. */
interface Present {
  readonly section: number
  /** digests of what the layers below have */
  readonly known: Uint8Array
  /** takes those of what this layer is to hold */
  readonly own: Uint8Array
  /** something of it is in the layer already */
  readonly covers: boolean
}

const NOTHING: Present = { section: -1, known: new Uint8Array(0), own: new Uint8Array(0), covers: false }

class Filler {
  private readonly options: FillOptions
  private readonly buffer = Buffer.allocUnsafeSlow(PIECE)
  private readonly pace = new Pace()
  /** digests of complete sections that are not on the medium yet */
  private readonly waiting = new Map<number, Uint8Array>()
  private present: Present = NOTHING
  private read = 0
  private written = 0
  private noted = 0
  private hastened = 0
  private spent = 0

  constructor(options: FillOptions) {
    this.options = options
  }

  get filled(): Filled {
    return { read: this.read, written: this.written }
  }

  /** Bytes moved since this was asked last. */
  takeSpent(): number {
    const { spent } = this
    this.spent = 0
    return spent
  }

  /**
   * Copies from a granule on: what is known to be zero up to `end` without reading it, else up to `most` of what is read.
   *
   * @returns the granule to go on with
   */
  *copy(section: number, first: number, end: number, most: number): Io<number> {
    yield* this.enter(section)
    const { device } = this.options.source
    const offset = first * GRANULE
    const extent = yield* device.map(offset, Math.min(end * GRANULE, device.size) - offset)
    const stop = offset + extent.length
    const whole = stop === device.size ? end : roundDown(stop, GRANULE) / GRANULE
    if (extent.kind === 'zero' && whole > first) {
      yield* this.settle(first, Math.min(whole, end), undefined)
      return Math.min(whole, end)
    }
    const last = Math.min(most, extent.kind === 'zero' ? first + 1 : roundUp(stop, GRANULE) / GRANULE)
    const bytes = this.buffer.subarray(0, Math.min(last * GRANULE, device.size) - offset)
    yield* device.read(offset, bytes)
    this.read += bytes.length
    this.spent += bytes.length
    yield* this.settle(first, last, bytes)
    yield* this.pace.keep()
    return last
  }

  /** The section is copied; it counts when that is durable. */
  *complete(section: number): Io<void> {
    yield* this.enter(section)
    this.waiting.set(section, this.present.own)
    this.present = NOTHING
    if (this.waiting.size >= NOTED_SECTIONS || this.written - this.noted >= NOTED_BYTES) yield* this.note()
  }

  *note(): Io<void> {
    const { target, table, noteDone } = this.options
    yield* target.flush()
    for (const [section, digests] of this.waiting) yield* table.put(section, digests)
    yield* table.flush()
    yield* noteDone([...this.waiting.keys()])
    this.waiting.clear()
    this.noted = this.written
    yield* breathe()
  }

  private *enter(section: number): Io<void> {
    if (this.present.section === section) return
    const known = yield* stackedDigests(this.options.below, section)
    this.present = { section, known, own: new Uint8Array(SECTION * DIGEST), covers: yield* this.covers(section) }
  }

  /** Whether the layer holds anything in a section, left by an earlier try: then all that is wanted must be put over it. */
  private *covers(section: number): Io<boolean> {
    const { target, resumes } = this.options
    const top = target.layers.length - 1
    const end = resumes ? Math.min(target.size, (section + 1) * SECTION * GRANULE) : 0
    for (let offset = section * SECTION * GRANULE; offset < end; ) {
      const { kind, depth, length } = yield* target.map(offset, end - offset)
      if (depth === top && (top > 0 || kind !== 'zero')) return true
      offset += length
    }
    return false
  }

  /** Brings granules first .. end-1 into the layer. @param bytes their content; undefined: they are zero */
  private *settle(first: number, end: number, bytes: Uint8Array | undefined): Io<void> {
    const fates = Array.from({ length: end - first }, (_, i) => this.judge(first + i, first, bytes))
    for (let start = first; start < end; ) {
      const fate = fates[start - first] as Fate
      let next = start + 1
      while (next < end && fates[next - first] === fate) next++
      if (fate !== 'left') yield* this.store(start, next, fate, bytes?.subarray((start - first) * GRANULE))
      start = next
    }
  }

  /** Decides on a granule, and remembers its digest if the layer is to hold it. */
  private judge(granule: number, first: number, bytes: Uint8Array | undefined): Fate {
    const { source } = this.options
    const length = lengthOf(granule, source.device.size)
    const content = bytes?.subarray((granule - first) * GRANULE, (granule - first) * GRANULE + length)
    const zero = !content || isZero(content)
    const known = entry(this.present.known, granule % SECTION)
    const digest = zero ? zeroDigest(length) : digestOf(content)
    if (!this.present.covers && (sameDigest(known, digest) || (zero && !isHeld(known)))) return 'left'
    this.present.own.set(digest, (granule % SECTION) * DIGEST)
    return zero ? 'zero' : 'data'
  }

  private *store(start: number, end: number, fate: 'zero' | 'data', bytes: Uint8Array | undefined): Io<void> {
    const { target, source } = this.options
    const offset = start * GRANULE
    const length = Math.min(end * GRANULE, source.device.size) - offset
    if (fate === 'zero') yield* target.erase(offset, length)
    else yield* this.write(offset, (bytes as Uint8Array).subarray(0, length))
    this.written += length
    if (fate === 'data') this.spent += length
    if (this.written - this.hastened < HASTEN) return
    this.hastened = this.written
    target.hasten?.()
  }

  /** Only where nothing is yet something packed can be put. */
  private write(offset: number, bytes: Uint8Array): Io<void> {
    const { target, packer } = this.options
    return packer && !this.present.covers ? writePacked(target, packer, offset, bytes) : target.write(offset, bytes)
  }
}

function isZero(bytes: Uint8Array): boolean {
  return bytes[0] === 0 && Buffer.compare(bytes, ZEROS.subarray(0, bytes.length)) === 0
}
