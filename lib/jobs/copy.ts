import { roundDown, roundUp } from '../bytes/align.ts'
import type { Device } from '../contracts/device.ts'
import type { ResolvedExtent } from '../contracts/extent.ts'
import type { Packer } from '../contracts/layer.ts'
import { breathe, type Io, Pace, promised, settle, Turns } from '../io/io.ts'
import { cancelled, type Job, type JobOptions, throwIfCancelled, whileRunning } from './job.ts'
import { allEnded, packGranule } from './packed-granule.ts'

/** Bytes read and written at a time: large enough for one system call each way, small enough for the cache. */
const PIECE = 2 << 20
/** Bytes that a lane takes at a time: several granules, or one large one, since a granule is changed by one lane at a time. */
const PORTION = 8 << 20
const LARGEST_PORTION = 32 << 20
/** Lanes that read and write here: while one writes, the other reads. */
const BY_HAND = 2
/**
 * Lanes that have files copied, besides one that copies here: whatever that is at, whoever copies for them has work left.
 * What this thread copies meanwhile it does in pieces that stay in the cache of its processor.
 */
const HANDED_OVER = 4
const OWN_PIECE = 1 << 20
/** Zeros are made in stretches of this length, so that a cancelled job ends soon. */
const STRETCH = 1 << 30
/** Bytes after which the medium is told to begin with what it has: it works while we copy, and the flush finds little to do. */
const HASTEN = 16 << 20
/** Zeros are looked for in blocks of this size, as in qemu-img. */
const BLOCK = 4096
/** Before data is handed over, a glance at the start of each step tells whether it may be zero. */
const STEP = 65536
const GLANCE = 512
/** Shorter runs are not worth handing over where zeros must be left out. */
const WORTHWHILE = 1 << 20

export interface CopyOptions extends JobOptions {
  /** which extents are copied; the others are left as the target has them */
  readonly wanted?: (extent: ResolvedExtent) => boolean
  /** extents that read as zero are made so in the target; else it has zeros there already */
  readonly writeZeros?: boolean
  /** leave out blocks of zeros inside data: for targets that are zero where nothing is written */
  readonly skipZeros?: boolean
  /** write whole granules compressed */
  readonly packer?: Packer | undefined
  readonly phase?: string
}

/** What was copied. */
export interface Copied {
  /** bytes read as data */
  readonly read: number
  /** bytes written as data */
  readonly written: number
  /** bytes of the disk made zero */
  readonly erased: number
}

/**
 * The one copy loop: ranges of one disk to the same ranges of another.
 *
 * A walk over extents cuts data into portions on borders of the target's granules. A few lanes take one after the
 * other, each with a buffer of its own; memory does not grow with the disk.
 */
export async function* copyDisk(from: Device, to: Device, options: CopyOptions = {}): Job<Copied> {
  const copier = new Copier(from, to, options)
  const phase = options.phase ?? 'copy'
  const size = Math.min(from.size, to.size)
  const source = pieces(from, to, size, copier, options)
  let failure: unknown
  let position = 0
  yield* whileRunning(
    Promise.all(copier.newLanes(size).map(work)),
    () => ({ phase, done: position, total: size }),
    () => {
      failure ??= cancelled()
    },
  )
  if (failure !== undefined) throw failure
  yield { phase, done: size, total: size }
  return copier.copied

  async function work(lane: Lane): Promise<void> {
    while (failure === undefined) {
      try {
        throwIfCancelled(options.signal)
        const next = await source.next()
        if (next.done) return
        position = Math.max(position, next.value.offset)
        await promised(copier.copy(next.value.offset, next.value.length, lane))
      } catch (error) {
        failure ??= error
      }
    }
  }
}

/** One of the computations that copy side by side. */
class Lane {
  /** its data is copied from file to file, where that can be */
  readonly handsOver: boolean
  private readonly most: number
  private buffer: Uint8Array | undefined

  /** @param most bytes that it holds at a time */
  constructor(handsOver: boolean, most: number) {
    this.handsOver = handsOver
    this.most = most
  }

  /** Its memory, for a portion of `length` bytes: a lane that gets none, or small ones, takes no more than it needs. */
  bufferFor(length: number): Uint8Array {
    if (this.buffer && this.buffer.length >= Math.min(length, this.most)) return this.buffer
    const twice = 2 * (this.buffer?.length ?? 0)
    this.buffer = Buffer.allocUnsafeSlow(Math.min(this.most, Math.max(length, twice, GLANCE)))
    return this.buffer
  }
}

/** Portions of data to copy, in order; ranges of zeros are dealt with on the way. */
async function* pieces(
  from: Device,
  to: Device,
  size: number,
  copier: Copier,
  options: CopyOptions,
): AsyncGenerator<{ offset: number; length: number }> {
  const unit = Math.max(BLOCK, options.packer ? to.granularity : Math.min(to.granularity, LARGEST_PORTION))
  let start = 0
  let end = 0
  for (let offset = 0; offset < size; ) {
    throwIfCancelled(options.signal)
    const extent = await promised(from.map(offset, size - offset))
    const wanted = options.wanted?.(extent) ?? true
    if (wanted && extent.kind !== 'zero') {
      // Granules are compressed whole, with the zeros around their data.
      const first = options.packer ? Math.max(end, roundDown(offset, unit)) : offset
      if (first !== end) {
        if (end > start) yield { offset: start, length: end - start }
        start = first
      }
      const last = offset + extent.length
      end = Math.max(end, options.packer ? Math.min(size, roundUp(last, unit)) : last)
      // Whole pieces go out; what is left may grow with the next extent.
      for (let cut = nextCut(start, end, unit); cut > start; cut = nextCut(start, end, unit)) {
        throwIfCancelled(options.signal)
        yield { offset: start, length: cut - start }
        start = cut
      }
    } else if (wanted && options.writeZeros) {
      for (let done = 0; done < extent.length; done += STRETCH) {
        throwIfCancelled(options.signal)
        await copier.erase(offset + done, Math.min(STRETCH, extent.length - done))
      }
    }
    offset += extent.length
  }
  if (end > start) yield { offset: start, length: end - start }
}

/** The end of the piece that begins at `start`: on a border of the target's unit; `start` if there is too little yet. */
function nextCut(start: number, end: number, unit: number): number {
  const cut = roundDown(start + Math.max(PORTION, unit), unit)
  return cut > start && cut <= end ? cut : start
}

type PlainExtent = Extract<ResolvedExtent, { kind: 'data' }>

class Copier {
  private readonly from: Device
  private readonly to: Device
  private readonly options: CopyOptions
  private read = 0
  private written = 0
  private erased = 0
  /** file systems let one writer at a time into a file, and the others spin: so they wait here, and one may read */
  private readonly writers = new Turns()
  /** whether data may be copied from file to file */
  private readonly handsOver: boolean
  /** who copies a file leaves out zeros by itself; else each granule is worth a look before */
  private readonly sparse: boolean
  private readonly pace = new Pace()
  private hastened = 0

  constructor(from: Device, to: Device, options: CopyOptions) {
    this.from = from
    this.to = to
    this.options = options
    this.sparse = options.skipZeros === true && to.flat === true
    const worthwhile = !options.skipZeros || this.sparse || to.granularity >= STEP
    this.handsOver = to.transfer !== undefined && !options.packer && worthwhile
  }

  get copied(): Copied {
    return { read: this.read, written: this.written, erased: this.erased }
  }

  /** @param size bytes to copy: a buffer need not hold more */
  newLanes(size: number): Lane[] {
    const { packer } = this.options
    const room = Math.max(PIECE, packer ? this.to.granularity : 0)
    const most = Math.max(GLANCE, size)
    const lanes = (count: number, handsOver: boolean, bytes: number): Lane[] =>
      Array.from({ length: count }, () => new Lane(handsOver, Math.min(bytes, most)))
    return this.handsOver
      ? [...lanes(HANDED_OVER, true, room), ...lanes(1, false, OWN_PIECE)]
      : lanes(packer?.inOrder ? 1 : BY_HAND, false, room)
  }

  *copy(offset: number, length: number, lane: Lane): Io<void> {
    const { handsOver } = lane
    const buffer = lane.bufferFor(length)
    for (let done = 0; done < length; ) {
      throwIfCancelled(this.options.signal)
      const at = offset + done
      const extent = handsOver ? yield* this.from.map(at, length - done) : undefined
      const moved = canTransfer(extent) ? yield* this.transfer(at, extent, buffer) : 0
      // What cannot be handed over is copied here: all that follows, or the step that may be zero.
      const rest = canTransfer(extent) ? Math.min(extent.length, this.sparse ? WORTHWHILE : STEP) : length - done
      done += moved || (yield* this.copyByHand(at, rest, buffer))
      // Where nothing had to wait, progress and signals still have their turn.
      yield* this.pace.keep()
    }
    // The other lanes may have ended, and want their next portions.
    if (this.handsOver && !handsOver) yield* breathe()
  }

  async erase(offset: number, length: number): Promise<void> {
    await promised(this.to.erase(offset, length))
    this.erased += length
  }

  /** Has the start of an extent copied from file to file. @returns bytes done */
  private *transfer(offset: number, extent: PlainExtent, buffer: Uint8Array): Io<number> {
    const length = yield* this.lengthToTransfer(offset, extent, buffer)
    if (length === 0) return 0
    const { store, at } = extent
    const written = yield* this.to.transfer?.(offset, store, at, length, this.sparse) as Io<number>
    this.read += length
    this.noteWritten(written)
    return length
  }

  private *lengthToTransfer(offset: number, extent: PlainExtent, buffer: Uint8Array): Io<number> {
    if (this.sparse) return extent.length >= WORTHWHILE ? extent.length : 0
    return this.options.skipZeros ? yield* this.nonZeroRun(offset, extent, buffer) : extent.length
  }

  /** Bytes from the start of an extent that show at a glance that they are not zero, in whole steps. */
  private *nonZeroRun(offset: number, extent: PlainExtent, buffer: Uint8Array): Io<number> {
    const glance = buffer.subarray(0, GLANCE)
    let length = 0
    while (length < extent.length) {
      const step = Math.min(STEP - ((offset + length) % STEP), extent.length - length)
      const seen = step < GLANCE ? buffer.subarray(0, step) : glance
      const waits = extent.store.read(extent.at + length, seen)
      if (waits) yield* settle(waits)
      if (isZero(seen, 0, seen.length)) break
      length += step
    }
    return length
  }

  private *copyByHand(offset: number, length: number, buffer: Uint8Array): Io<number> {
    const part = buffer.subarray(0, Math.min(buffer.length, length))
    yield* this.from.read(offset, part)
    this.read += part.length
    if (this.options.packer) yield* settle(this.writePacked(offset, part, this.options.packer))
    else if (this.options.skipZeros) yield* this.writeData(offset, part)
    else yield* this.write(offset, part)
    return part.length
  }

  private *write(offset: number, bytes: Uint8Array): Io<void> {
    yield* this.writers.take(() => this.to.write(offset, bytes))
    this.noteWritten(bytes.length)
  }

  private noteWritten(length: number): void {
    this.written += length
    if (this.written - this.hastened < HASTEN) return
    this.hastened = this.written
    this.to.hasten?.()
  }

  /** Writes the runs of units that are not all zeros. */
  private *writeData(offset: number, bytes: Uint8Array): Io<void> {
    const unit = Math.min(Math.max(BLOCK, this.to.granularity), 65536)
    for (let start = 0; start < bytes.length; ) {
      let end = unitEnd(offset + start, unit, offset, bytes.length)
      const zero = isZero(bytes, start, end)
      while (end < bytes.length) {
        const next = unitEnd(offset + end, unit, offset, bytes.length)
        if (isZero(bytes, end, next) !== zero) break
        end = next
      }
      if (!zero)
        yield* this.write(offset + start, start === 0 && end === bytes.length ? bytes : bytes.subarray(start, end))
      start = end
    }
  }

  /** Compresses granule by granule; what does not shrink, or is no whole granule, is written as it is. */
  private async writePacked(offset: number, bytes: Uint8Array, packer: Packer): Promise<void> {
    const { granularity } = this.to
    // Behind the end of the smaller disk there is nothing that a granule could hide.
    const size = Math.min(this.from.size, this.to.size)
    const work: Promise<void>[] = []
    for (let start = 0; start < bytes.length; ) {
      const end = unitEnd(offset + start, granularity, offset, bytes.length)
      const granule = bytes.subarray(start, end)
      const whole = (offset + start) % granularity === 0 && (granule.length === granularity || offset + end === size)
      if (!isZero(bytes, start, end)) {
        const after = packer.inOrder ? work.at(-1) : undefined
        work.push(
          whole ? this.packOne(offset + start, granule, packer, after) : promised(this.write(offset + start, granule)),
        )
      }
      start = end
    }
    await allEnded(work)
  }

  /** @param after what must be stored before; packing need not wait for it */
  private async packOne(offset: number, granule: Uint8Array, packer: Packer, after?: Promise<void>): Promise<void> {
    const packed = await packGranule(packer, granule, this.to.granularity)
    await after
    if (!packed) return await promised(this.write(offset, granule))
    await promised(packer.store(offset, packed))
    this.noteWritten(granule.length)
  }
}

function canTransfer(extent: ResolvedExtent | undefined): extent is PlainExtent {
  return extent?.kind === 'data' && extent.store.copyFrom !== undefined
}

/** Where the unit that holds disk offset `at` ends, relative to a buffer that begins at `base`. */
function unitEnd(at: number, unit: number, base: number, length: number): number {
  return Math.min(length, roundDown(at, unit) + unit - base)
}

const ZEROS = Buffer.alloc(65536)

/** Whether bytes start .. end-1, at most 64 KiB, are all zero. Most data shows in its first byte that it is not. */
function isZero(bytes: Uint8Array, start: number, end: number): boolean {
  if (bytes[start] !== 0) return false
  for (let at = start; at < end; at += ZEROS.length) {
    const count = Math.min(ZEROS.length, end - at)
    if (ZEROS.compare(bytes, at, at + count, 0, count) !== 0) return false
  }
  return true
}
