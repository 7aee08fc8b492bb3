import { roundDown, roundUp } from '../bytes/align.ts'
import { crc32c } from '../bytes/crc32c.ts'
import { VdiskError } from '../errors.ts'
import type { FileStore } from '../io/files.ts'
import { type Awaitable, type Io, run, settle, type Turns } from '../io/io.ts'
import { type FileStamp, pastEnd, type Segment } from '../io/store.ts'
import { KIND, LIMIT, SECTOR } from './layout.ts'
import { type Notes, OldContent } from './old-content.ts'

/** So many sectors wait in memory at most before they are written. */
const WAITING = (4 << 20) / SECTOR

/** So many bytes are noted, and written, at once. */
const PIECE = LIMIT.run * SECTOR

/** Bytes in a file: when it was opened; now; and once what waits is written. */
interface Sizes {
  readonly first: number
  inner: number
  now: number
}

/** Sectors that lie side by side. */
interface Run {
  readonly at: number
  readonly bytes: Uint8Array
}

/**
 * A file whose old content is noted, durably, before it changes.
 *
 * Writes wait in memory, and reads see them, until a flush, or until they are many. Then the journal gets, in one piece:
 * what lies there now, where it was not noted before, and checksums of what is going to lie there; that becomes durable;
 * and only then the file is written. So a flush of the file costs one of the journal, and at each moment every sector that
 * was touched is either as it was or as one of the notes says: whoever undoes can tell that nobody else has written.
 *
 * What the file did not have in the beginning needs no copy: its old size is enough. `discard` is not offered: what nobody
 * needs any more must stay to be brought back.
 */
export class JournaledFile implements FileStore {
  readonly name: string
  readonly writable = true
  readonly isDevice = false
  private readonly inner: FileStore
  private readonly notes: Notes
  private readonly turns: Turns
  private sizes: Sizes | undefined
  private readonly old: OldContent
  private waiting = new Map<number, Uint8Array>()
  /** what sets the time that the file is to have once what waits was written */
  private timing: (() => void) | undefined
  /** the time of the last change is one that no later writer can get */
  private timed = true
  private failure: unknown
  readonly stamp?: () => FileStamp
  /** Happens after what waits was written: that would change the time again. */
  readonly restamp?: (seconds: number) => void
  /** The same. */
  readonly setModified?: (nanoseconds: bigint) => void

  /** @param turns of all files that share the notes */
  constructor(inner: FileStore, notes: Notes, turns: Turns) {
    this.inner = inner
    this.name = inner.name
    this.notes = notes
    this.old = new OldContent(inner, notes)
    this.turns = turns
    if (inner.stamp) this.stamp = () => this.lastStamp()
    if (inner.restamp) {
      this.restamp = (seconds) => {
        this.timing = () => inner.restamp?.(seconds)
      }
    }
    if (inner.setModified) {
      this.setModified = (nanoseconds) => {
        this.timing = () => inner.setModified?.(nanoseconds)
      }
    }
  }

  /** Whether a change, or a note of it, has failed. */
  get failed(): boolean {
    return this.failure !== undefined
  }

  size(): Awaitable<number> {
    return this.inTurn(() => this.length())
  }

  read(at: number, target: Uint8Array): Awaitable<void> {
    return this.inTurn(() => this.readNow(at, target))
  }

  write(at: number, source: Uint8Array): Awaitable<void> {
    return this.inTurn(() => this.put(at, source))
  }

  truncate(size: number): Awaitable<void> {
    return this.inTurn(() => this.resizeTo(size))
  }

  grow(size: number): Awaitable<void> {
    return this.inTurn(() => this.growTo(size))
  }

  flush(): Awaitable<void> {
    return this.inTurn(() => this.flushNow())
  }

  deallocate(at: number, length: number): Awaitable<void> {
    return this.inTurn(() => this.clear(at, length))
  }

  allocate(at: number, length: number): Awaitable<void> {
    return this.inTurn(() => this.takeRoom(at, length))
  }

  segment(at: number): Awaitable<Segment> {
    return this.inTurn(() => this.segmentAt(at))
  }

  occupied(): Awaitable<number> {
    return this.inner.occupied?.() ?? this.size()
  }

  fileId(): string {
    return this.inner.fileId()
  }

  /** Who opened it lets it go; the lock stays until the journal is complete. */
  close(): void {}

  /** What waits is written, and everything on the medium. */
  *settleAll(): Io<void> {
    yield* this.turns.take(() => this.flushNow())
  }

  /** How the file is left, after `settleAll`; its time is undefined where the medium keeps none. */
  *left(): Io<{ readonly size: number; readonly modified: bigint | undefined }> {
    const size = yield* settle(this.inner.size())
    return { size, modified: this.stamp?.().modified }
  }

  /** Whoever notes the stamp of a file that has changed, and changes no more, must note the one that it is left with. */
  private lastStamp(): FileStamp {
    const stamp = this.inner.stamp?.() as FileStamp
    if (this.waiting.size > 0) return stamp
    this.setTime()
    // A clock that ticks slowly would give the next writer this very time; one that was set lies in the past.
    if (!this.timed) this.inner.setModified?.(stamp.modified - 1n)
    this.timed = true
    return this.inner.stamp?.() as FileStamp
  }

  private setTime(): void {
    if (!this.timing) return
    this.timing()
    this.timing = undefined
    this.timed = true
  }

  private inTurn<T>(work: () => Io<T>): Awaitable<T> {
    return run(this.turns.take(work))
  }

  private *state(): Io<Sizes> {
    if (this.sizes) return this.sizes
    const size = yield* settle(this.inner.size())
    this.sizes = { first: size, inner: size, now: size }
    return this.sizes
  }

  private *length(): Io<number> {
    return (yield* this.state()).now
  }

  private *readNow(at: number, target: Uint8Array): Io<void> {
    const { inner, now } = yield* this.state()
    if (at + target.length > now) throw pastEnd(this.name, at, target.length, now)
    const there = Math.max(0, Math.min(target.length, inner - at))
    if (there > 0) yield* settle(this.inner.read(at, target.subarray(0, there)))
    target.fill(0, there)
    if (this.waiting.size === 0) return
    for (let sector = Math.floor(at / SECTOR); sector * SECTOR < at + target.length; sector++) {
      const bytes = this.waiting.get(sector)
      if (!bytes) continue
      const from = sector * SECTOR - at
      if (from >= 0) target.set(bytes.subarray(0, target.length - from), from)
      else target.set(bytes.subarray(-from, -from + target.length))
    }
  }

  private *put(at: number, source: Uint8Array): Io<void> {
    this.assertSound()
    const state = yield* this.state()
    for (let done = 0; done < source.length; ) {
      const sector = Math.floor((at + done) / SECTOR)
      const within = at + done - sector * SECTOR
      const length = Math.min(SECTOR - within, source.length - done)
      const bytes = length === SECTOR ? new Uint8Array(SECTOR) : yield* this.sectorNow(sector)
      bytes.set(source.subarray(done, done + length), within)
      this.waiting.set(sector, bytes)
      done += length
    }
    state.now = Math.max(state.now, at + source.length)
    if (this.waiting.size >= WAITING) yield* this.commit()
  }

  /** A sector as reads see it, zeros behind the end. */
  private *sectorNow(sector: number): Io<Uint8Array> {
    const waiting = this.waiting.get(sector)
    if (waiting) return waiting
    const bytes = new Uint8Array(SECTOR)
    const { inner } = yield* this.state()
    const there = Math.min(SECTOR, inner - sector * SECTOR)
    if (there > 0) yield* settle(this.inner.read(sector * SECTOR, bytes.subarray(0, there)))
    return bytes
  }

  private *flushNow(): Io<void> {
    this.assertSound()
    yield* this.commit()
    yield* this.attempt(() => settle(this.inner.flush()))
  }

  /** Notes what waits, makes the notes durable, then writes. */
  private *commit(): Io<void> {
    if (this.waiting.size > 0) {
      const state = yield* this.state()
      const runs = runsOf(this.waiting)
      yield* this.change(
        () => this.noteRuns(runs, state),
        () => this.writeRuns(runs, state),
      )
    }
    this.setTime()
  }

  private *noteRuns(runs: readonly Run[], state: Sizes): Io<void> {
    for (const { at, bytes } of runs) yield* this.note(at, bytes)
    if (state.now > state.inner) yield* this.notes.add({ kind: KIND.size, at: state.now, length: 0 })
  }

  private *writeRuns(runs: readonly Run[], state: Sizes): Io<void> {
    for (const { at, bytes } of runs) yield* settle(this.inner.write(at, bytes.subarray(0, state.now - at)))
    state.inner = Math.max(state.inner, state.now)
    this.waiting = new Map()
  }

  private *change(note: () => Io<void>, work: () => Io<void>): Io<void> {
    this.assertSound()
    this.timed = false
    yield* this.attempt(note)
    yield* this.attempt(() => this.notes.commit())
    yield* this.attempt(work)
  }

  /** A failure leaves open what the medium has: from then on the file takes no more changes. */
  private *attempt(work: () => Io<void>): Io<void> {
    try {
      yield* work()
    } catch (error) {
      this.failure = error
      throw error
    }
  }

  /** What lies in a range of whole sectors, and what will. */
  private *note(at: number, bytes: Uint8Array): Io<void> {
    yield* this.save(at, at + bytes.length)
    const sums = new DataView(new ArrayBuffer((bytes.length / SECTOR) * 4))
    for (let i = 0; i * SECTOR < bytes.length; i++) {
      sums.setUint32(i * 4, crc32c(bytes.subarray(i * SECTOR, (i + 1) * SECTOR)))
    }
    yield* this.notes.add({ kind: KIND.noted, at, length: bytes.length, payload: new Uint8Array(sums.buffer) })
  }

  private *save(from: number, to: number): Io<void> {
    yield* this.old.save(from, to, (yield* this.state()).first)
  }

  private *growTo(size: number): Io<void> {
    if (size > (yield* this.length())) yield* this.resizeTo(size)
  }

  private *resizeTo(size: number): Io<void> {
    this.assertSound()
    yield* this.commit()
    const state = yield* this.state()
    const before = state.inner
    if (size === before) return
    // A sector that is cut in two keeps its beginning, whatever of it has arrived: so that this is known, all of it must.
    const cut = size < before && size % SECTOR !== 0
    if (cut) yield* this.flushNow()
    const kept = cut ? yield* this.sectorNow(Math.floor(size / SECTOR)) : undefined
    kept?.fill(0, size % SECTOR)
    yield* this.change(
      () => this.noteSize(size, before, kept),
      () => settle(this.inner.truncate(size)),
    )
    Object.assign(state, { inner: size, now: size })
    if (cut) yield* this.flushNow()
  }

  private *noteSize(size: number, before: number, kept: Uint8Array | undefined): Io<void> {
    if (size < before) yield* this.noteZeros(size, before)
    if (kept) yield* this.note(roundDown(size, SECTOR), kept)
    yield* this.notes.add({ kind: KIND.size, at: size, length: 0 })
  }

  /** What a range holds will be zero, or gone with the end of the file. */
  private *noteZeros(from: number, to: number): Io<void> {
    yield* this.save(from, to)
    const start = roundUp(from, SECTOR)
    const end = roundUp(to, SECTOR)
    if (end > start) yield* this.notes.add({ kind: KIND.notedZero, at: start, length: end - start })
  }

  private *clear(at: number, length: number): Io<void> {
    this.assertSound()
    const end = Math.min(at + length, yield* this.length())
    const inner = { start: roundUp(at, SECTOR), end: roundDown(end, SECTOR) }
    if (inner.end <= inner.start || !this.inner.deallocate) {
      yield* this.putZeros(at, end)
      return
    }
    yield* this.putZeros(at, inner.start)
    yield* this.putZeros(inner.end, end)
    yield* this.commit()
    yield* this.change(
      () => this.noteZeros(inner.start, inner.end),
      () => settle(this.inner.deallocate?.(inner.start, inner.end - inner.start)),
    )
  }

  private *putZeros(from: number, to: number): Io<void> {
    for (let at = from; at < to; at += PIECE) yield* this.put(at, new Uint8Array(Math.min(PIECE, to - at)))
  }

  private *takeRoom(at: number, length: number): Io<void> {
    if (!this.inner.allocate) {
      throw new VdiskError('UNSUPPORTED', {
        message: `Cannot reserve room for ${this.name}: its medium offers no way to do it without writing`,
        where: { file: this.name, at },
      })
    }
    yield* this.commit()
    const state = yield* this.state()
    const size = Math.max(state.now, at + length)
    yield* this.change(
      () => this.notes.add({ kind: KIND.size, at: size, length: 0 }),
      () => settle(this.inner.allocate?.(at, length)),
    )
    Object.assign(state, { inner: size, now: size })
  }

  private *segmentAt(at: number): Io<Segment> {
    // Only the medium knows where its holes are.
    yield* this.commit()
    const size = yield* this.length()
    if (at >= size) throw pastEnd(this.name, at, 1, size)
    return yield* settle(this.inner.segment?.(at) ?? { kind: 'data' as const, length: size - at })
  }

  private assertSound(): void {
    if (this.failure !== undefined) throw this.failure
  }
}

/** Sectors that lie side by side, as one piece each, in order. */
function runsOf(sectors: ReadonlyMap<number, Uint8Array>): Run[] {
  const order = [...sectors.keys()].sort((a, b) => a - b)
  const runs: Run[] = []
  for (let i = 0; i < order.length; ) {
    let end = i + 1
    while (end < order.length && end - i < PIECE / SECTOR && order[end] === (order[i] as number) + end - i) end++
    const bytes = new Uint8Array((end - i) * SECTOR)
    for (let k = i; k < end; k++) bytes.set(sectors.get(order[k] as number) as Uint8Array, (k - i) * SECTOR)
    runs.push({ at: (order[i] as number) * SECTOR, bytes })
    i = end
  }
  return runs
}
