import { type Awaitable, type Io, settle } from '../../io/io.ts'
import { type ByteStore, pastEnd, readOnly } from '../../io/store.ts'
import { tooLarge } from './damage.ts'
import { LOG_SECTOR } from './layout.ts'
import type { LogUpdate, PendingLog } from './log.ts'

/** Steps that putting a log in order may take: beyond, it was made to take long. */
const STEPS = 1 << 26

/** Writes what a log holds to its places, durably. Done twice, it is the same. [2.3.3] */
export function* replayOnto(store: ByteStore, log: PendingLog): Io<void> {
  yield* settle(store.grow(log.fileEnd))
  for (const update of log.updates) {
    if (update.kind === 'data') yield* settle(store.write(update.at, update.bytes))
    else yield* zero(store, update.at, update.length)
  }
  yield* settle(store.flush())
}

function* zero(store: ByteStore, at: number, length: number): Io<void> {
  if (store.deallocate) {
    yield* settle(store.deallocate(at, length))
    return
  }
  const zeros = new Uint8Array(Math.min(length, 1 << 20))
  for (let done = 0; done < length; done += zeros.length) {
    yield* settle(store.write(at + done, zeros.subarray(0, length - done)))
  }
}

/**
 * A file as it will be when its log is replayed, for those who only read. [2.3.3, note 5]
 *
 * It keeps the 4 KiB sectors that the log writes, at most as many bytes as the log has, and the ranges that it zeroes.
 */
export class ReplayedStore implements ByteStore {
  readonly name: string
  readonly writable = false
  private readonly inner: ByteStore
  private readonly innerSize: number
  private readonly end: number
  private readonly sectors = new Map<number, Uint8Array>()
  /** in order, apart from each other; where there is a sector too, that is newer */
  private readonly zeroed: readonly { start: number; end: number }[]

  private constructor(inner: ByteStore, innerSize: number, log: PendingLog) {
    this.name = inner.name
    this.inner = inner
    this.innerSize = innerSize
    this.end = log.fileEnd
    this.zeroed = this.layOver(log.updates)
  }

  /** @throws VdiskError LIMIT_EXCEEDED if the log zeroes and writes the same places over and over */
  static *over(inner: ByteStore, log: PendingLog): Io<ReplayedStore> {
    return new ReplayedStore(inner, yield* settle(inner.size()), log)
  }

  size(): number {
    return this.end
  }

  read(at: number, target: Uint8Array): Awaitable<void> {
    if (at + target.length > this.end) throw pastEnd(this.name, at, target.length, this.end)
    const present = Math.max(0, Math.min(target.length, this.innerSize - at))
    target.fill(0, present)
    const reading = present > 0 ? this.inner.read(at, target.subarray(0, present)) : undefined
    if (reading instanceof Promise) return reading.then(() => this.overlay(at, target))
    this.overlay(at, target)
  }

  write(): void {
    throw readOnly(this.name)
  }

  truncate(): void {
    throw readOnly(this.name)
  }

  grow(): void {
    throw readOnly(this.name)
  }

  flush(): void {}

  close(): Awaitable<void> {
    return this.inner.close()
  }

  private overlay(at: number, target: Uint8Array): void {
    const end = at + target.length
    for (let i = this.firstZeroed(at); i < this.zeroed.length; i++) {
      const range = this.zeroed[i] as { start: number; end: number }
      if (range.start >= end) break
      target.fill(0, Math.max(0, range.start - at), Math.min(target.length, range.end - at))
    }
    for (let sector = at - (at % LOG_SECTOR); sector < end; sector += LOG_SECTOR) {
      const bytes = this.sectors.get(sector)
      if (!bytes) continue
      const from = Math.max(at, sector)
      const to = Math.min(end, sector + LOG_SECTOR)
      target.set(bytes.subarray(from - sector, to - sector), from - at)
    }
  }

  /** Index of the first zeroed range that ends behind `at`. */
  private firstZeroed(at: number): number {
    let low = 0
    let high = this.zeroed.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((this.zeroed[middle] as { end: number }).end <= at) low = middle + 1
      else high = middle
    }
    return low
  }

  private layOver(updates: readonly LogUpdate[]): { start: number; end: number }[] {
    const ranges: { start: number; end: number }[] = []
    let steps = 0
    for (const update of updates) {
      if (update.kind === 'data') {
        this.sectors.set(update.at, update.bytes)
        continue
      }
      steps += Math.min(update.length / LOG_SECTOR, this.sectors.size)
      if (steps > STEPS) throw tooLarge(this.name, 'its log takes too many steps to replay', { structure: 'log' })
      this.forget(update.at, update.at + update.length)
      ranges.push({ start: update.at, end: update.at + update.length })
    }
    return joined(ranges)
  }

  private forget(start: number, end: number): void {
    if ((end - start) / LOG_SECTOR < this.sectors.size) {
      for (let at = start; at < end; at += LOG_SECTOR) this.sectors.delete(at)
    } else {
      for (const at of this.sectors.keys()) if (at >= start && at < end) this.sectors.delete(at)
    }
  }
}

function joined(ranges: { start: number; end: number }[]): { start: number; end: number }[] {
  ranges.sort((a, b) => a.start - b.start)
  const result: { start: number; end: number }[] = []
  for (const range of ranges) {
    const last = result.at(-1)
    if (last && range.start <= last.end) last.end = Math.max(last.end, range.end)
    else result.push({ ...range })
  }
  return result
}
