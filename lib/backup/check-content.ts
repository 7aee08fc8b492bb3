import { Bitmap } from '../bytes/bitmap.ts'
import type { Device } from '../contracts/device.ts'
import { type Io, Pace, promised } from '../io/io.ts'
import { type Job, type JobOptions, throwIfCancelled } from '../jobs/job.ts'
import { digestOf, entry, GRANULE, isHeld, lengthOf, SECTION, sameDigest, zeroDigest } from './granules.ts'
import { isKnown, type SizedTable, stackedDigests } from './stacked-digests.ts'
import type { Throttle } from './throttle.ts'

/** Bytes read at a time. */
const PIECE = 1 << 20

/** A sample has so many granules of a section, and of so many sections, at most. */
const SAMPLED_GRANULES = 8
const SAMPLED_SECTIONS = 1024

/** Differing ranges that are named one by one. */
const NAMED = 1000

/** A range of a disk that does not read as it should, in bytes. */
export interface Difference {
  readonly offset: number
  readonly length: number
}

export interface CheckOptions extends JobOptions {
  readonly phase: string
  /** look at a sample only */
  readonly quick?: boolean | undefined
  /** 'held': what the digests tell of, the default; 'rest': what they do not tell of, and must be zero */
  readonly part?: 'held' | 'rest' | undefined
  /** granules that are left out */
  readonly except?: { has(granule: number): boolean } | undefined
  readonly throttle?: Throttle | undefined
  readonly random?: (() => number) | undefined
}

export interface Checked {
  /** bytes that were read */
  readonly read: number
  /** the first of them, in order, neighbours joined */
  readonly differences: readonly Difference[]
  /** bytes in all of them */
  readonly differing: number
}

/**
 * Whether a disk reads as digests say.
 *
 * @param tables lowest first; the highest that holds a granule decides
 */
export async function* checkContent(disk: Device, tables: readonly SizedTable[], options: CheckOptions): Job<Checked> {
  const checker = new Checker(disk, tables, options)
  const sections = Math.ceil(disk.size / (SECTION * GRANULE))
  const random = options.random ?? Math.random
  let told = 0
  for (let section = 0; section < sections; section++) {
    throwIfCancelled(options.signal)
    if (options.quick && random() * sections >= SAMPLED_SECTIONS) continue
    const runs = await promised(checker.runsOf(section))
    for (const { first, end } of options.quick ? sampled(runs, random) : runs) {
      for (let at = first; at < end; at += PIECE / GRANULE) {
        throwIfCancelled(options.signal)
        const read = await promised(checker.check(at, Math.min(end, at + PIECE / GRANULE)))
        await options.throttle?.spend(read, options.signal)
        if (Date.now() - told < 100) continue
        yield { phase: options.phase, done: at * GRANULE, total: disk.size }
        told = Date.now()
      }
    }
  }
  yield { phase: options.phase, done: disk.size, total: disk.size }
  return checker.checked
}

interface Run {
  readonly first: number
  readonly end: number
}

class Checker {
  private readonly disk: Device
  private readonly tables: readonly SizedTable[]
  private readonly options: CheckOptions
  private readonly buffer = Buffer.allocUnsafeSlow(PIECE)
  private readonly pace = new Pace()
  private readonly differences: { offset: number; length: number }[] = []
  private digests = new Uint8Array(0)
  private read = 0
  private differing = 0

  constructor(disk: Device, tables: readonly SizedTable[], options: CheckOptions) {
    this.disk = disk
    this.tables = tables
    this.options = options
  }

  get checked(): Checked {
    const { read, differences, differing } = this
    return { read, differences, differing }
  }

  /** Runs of granules of a section that are worth reading. */
  *runsOf(section: number): Io<Run[]> {
    const { disk, options } = this
    this.digests = (yield* stackedDigests(this.tables, section)) as Uint8Array<ArrayBuffer>
    const base = section * SECTION
    const count = Math.min(SECTION, Math.ceil(disk.size / GRANULE) - base)
    const rest = options.part === 'rest' ? yield* this.dataIn(base, count) : undefined
    const runs: { first: number; end: number }[] = []
    for (let i = 0; i < count; i++) {
      const digest = entry(this.digests, i)
      if (!isKnown(digest) || options.except?.has(base + i)) continue
      if (rest ? isHeld(digest) || !rest.has(i) : !isHeld(digest)) continue
      const last = runs.at(-1)
      if (last?.end === base + i) last.end++
      else runs.push({ first: base + i, end: base + i + 1 })
    }
    return runs
  }

  /** Reads granules first .. end-1 of the section that was asked for last. @returns bytes read */
  *check(first: number, end: number): Io<number> {
    const { size } = this.disk
    const offset = first * GRANULE
    const bytes = this.buffer.subarray(0, Math.min(end * GRANULE, size) - offset)
    yield* this.disk.read(offset, bytes)
    this.read += bytes.length
    for (let granule = first; granule < end; granule++) {
      const [start, length] = [(granule - first) * GRANULE, lengthOf(granule, size)]
      const digest = entry(this.digests, granule % SECTION)
      const wanted = isHeld(digest) ? digest : zeroDigest(length)
      if (!sameDigest(digestOf(bytes.subarray(start, start + length)), wanted)) this.note(offset + start, length)
    }
    yield* this.pace.keep()
    return bytes.length
  }

  /** Which of the granules from `first` on may have something else than zeros in them. */
  private *dataIn(first: number, count: number): Io<Bitmap> {
    const found = Bitmap.empty(count)
    const start = first * GRANULE
    const end = Math.min(this.disk.size, start + count * GRANULE)
    for (let offset = start; offset < end; ) {
      const { kind, length } = yield* this.disk.map(offset, end - offset)
      if (kind !== 'zero') {
        found.fill(Math.floor((offset - start) / GRANULE), Math.ceil((offset + length - start) / GRANULE))
      }
      offset += length
    }
    return found
  }

  private note(offset: number, length: number): void {
    this.differing += length
    const last = this.differences.at(-1)
    if (last && last.offset + last.length === offset) last.length += length
    else if (this.differences.length < NAMED) this.differences.push({ offset, length })
  }
}

/** Some granules of the runs, each as a run of its own. */
function sampled(runs: readonly Run[], random: () => number): Run[] {
  const total = runs.reduce((sum, { first, end }) => sum + end - first, 0)
  const chosen = new Set<number>()
  for (let i = 0; i < Math.min(total, SAMPLED_GRANULES); i++) chosen.add(Math.floor(random() * total))
  return [...chosen]
    .toSorted((a, b) => a - b)
    .map((nth) => {
      let rest = nth
      for (const { first, end } of runs) {
        if (rest < end - first) return { first: first + rest, end: first + rest + 1 }
        rest -= end - first
      }
      throw new TypeError(`no granule ${nth} among ${total}`)
    })
}
