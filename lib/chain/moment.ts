import { ceilDiv } from '../bytes/align.ts'
import type { Device } from '../contracts/device.ts'
import type { ResolvedExtent } from '../contracts/extent.ts'
import type { Keeper } from '../contracts/keeper.ts'
import { messageOf, VdiskError } from '../errors.ts'
import type { Files } from '../io/files.ts'
import { type Io, Pace } from '../io/io.ts'
import type { ByteStore } from '../io/store.ts'
import type { Chain } from './chain.ts'
import { Claims, Epochs } from './claims.ts'
import { DeviceStore } from './device-store.ts'
import type { Room } from './kept-content.ts'
import { SettledGranules } from './settled-granules.ts'
import { Patience, WaitingRoom } from './waiting-room.ts'

/**
 * Bytes that are kept together. A small write makes all of them be read once, so more would be dear for random writes; of
 * less there would be more to remember. Counters of changes have this granularity too, unless it is said otherwise, so
 * whoever reads only what changed since reads whole granules.
 */
const GRANULE = 65536

const MEMORY = 64 << 20
const SPILL = 16 * 2 ** 30
/** Bytes of a file at most: a place for each of 2^23 granules. */
const MOST_SPILL = 2 ** 39
const PATIENCE = 30_000

export interface MomentOptions {
  /** bytes of kept content in memory at most; default 64 MiB */
  readonly memory?: number | undefined
  /** where content goes that memory has no room for: a folder, and bytes there at most, default 16 GiB; undefined: nowhere */
  readonly spill?: { readonly files: Files; readonly folder: string; readonly limit?: number | undefined } | undefined
  /** where both are full, whether a writer waits for the reader, or the moment is lost; default 'wait' */
  readonly policy?: 'wait' | 'drop' | undefined
  /** milliseconds that a change waits at most before the moment is lost all the same; default 30 s */
  readonly patience?: number | undefined
}

/**
 * A disk as it was at one moment, while others go on writing to it; read-only.
 *
 * Before the first change to a granule its content is read and kept; what nobody has changed is read from the disk. A granule
 * is *settled* when changes to it need not wait any more: it is kept, or was released. That is noted before the change
 * begins. So whoever reads from the disk looks afterwards whether the granule has been settled meanwhile, and if so
 * takes what was kept: no reader ever holds up a writer, nor sees half of a change.
 */
export class Moment implements Device, Keeper {
  readonly name: string
  readonly size: number
  readonly writable = false
  readonly granularity = GRANULE
  private readonly policy: 'wait' | 'drop'
  private readonly patience: number
  private readonly settled: SettledGranules
  private readonly copies = new Claims()
  private readonly reads = new Epochs()
  private readonly waiting = new WaitingRoom()
  private readonly store: ByteStore = new DeviceStore(this)
  private disk: Device
  /** while set, readers wait for it before they begin */
  private resting: { readonly promise: Promise<void>; readonly end: () => void } | undefined
  private loss: string | undefined
  private closed = false

  private constructor(disk: Device, settled: SettledGranules, { policy, patience }: MomentOptions) {
    this.name = disk.name
    this.size = disk.size
    this.disk = disk
    this.settled = settled
    this.policy = policy ?? 'wait'
    this.patience = patience ?? PATIENCE
  }

  /**
   * Takes hold of a disk as it is now. Changes that are under way end first, new ones wait until `instant` has ended: what it
   * learns, such as a token of changes, is of exactly this moment. Nothing is flushed.
   *
   * @param chain of a device whose chain can be exchanged: that is to be used meanwhile (`ExchangeableDevice.use`)
   * @throws VdiskError NOT_FOUND, REFUSED, NO_SPACE, IO if there can be no file to spill to, and what `instant` throws
   */
  static *take<T>(
    chain: Chain,
    options: MomentOptions,
    instant: () => Io<T>,
  ): Io<{ readonly moment: Moment; readonly told: T }> {
    const { memory = MEMORY, spill } = options
    const file = spill && { ...spill, limit: Math.min(spill.limit ?? SPILL, MOST_SPILL) }
    const settled = new SettledGranules({ granule: GRANULE, memory, spill: file })
    try {
      return yield* chain.atRest(function* () {
        const told = yield* instant()
        const moment = new Moment(chain, settled, options)
        chain.keepers.add(moment)
        return { moment, told }
      })
    } catch (error) {
      settled.close()
      throw error
    }
  }

  /** Why it cannot be read any more; undefined: it can. */
  get lost(): string | undefined {
    return this.loss
  }

  get ended(): boolean {
    return this.closed || this.loss !== undefined
  }

  /** bytes of content that are kept */
  get used(): { readonly memory: number; readonly spilled: number } {
    return this.settled.used
  }

  /** As the disk's map was; but where something has changed since, what reads as zero may be told as data. */
  *map(offset: number, length: number): Io<ResolvedExtent> {
    this.assertRange(offset, length)
    return yield* this.reading(() => this.mapWithin(offset, length))
  }

  /** @throws VdiskError MOMENT_LOST */
  *read(offset: number, target: Uint8Array): Io<void> {
    this.assertRange(offset, target.length)
    yield* this.reading(() => this.readWithin(offset, target))
  }

  /**
   * The reader is done with a range: changes to it need not be preceded by anything any more, and what was kept of it is let
   * go. Granules that lie in it only in part stay; read again, what was released is refused.
   */
  release(offset: number, length: number): void {
    if (this.ended) return
    const first = ceilDiv(offset, GRANULE)
    const end = offset + length >= this.size ? this.granules : Math.floor((offset + length) / GRANULE)
    if (first >= end) return
    this.settled.release(first, end)
    this.waiting.wake()
  }

  /** Nothing is kept any more. Writers that wait go on. */
  close(): void {
    if (this.closed) return
    this.closed = true
    this.letGo()
  }

  write(): never {
    throw this.unwritable()
  }

  erase(): never {
    throw this.unwritable()
  }

  *flush(): Io<void> {}

  *keep(offset: number, length: number): Io<void> {
    const first = Math.floor(offset / GRANULE)
    const end = ceilDiv(Math.min(offset + length, this.size), GRANULE)
    if (this.ended || first >= end || this.settled.hasAll(first, end)) return
    const claim = yield* this.copies.take(first, end)
    try {
      yield* this.copy(first, end, new Patience(this.patience))
    } catch (error) {
      // Whatever it is: the change is not to fail for it.
      this.lose(`what was to be changed could not be kept: ${messageOf(error)}`)
    } finally {
      claim.release()
    }
  }

  *rest(): Io<void> {
    if (this.ended) return
    let end!: () => void
    const promise = new Promise<void>((resolve) => {
      end = resolve
    })
    this.resting = { promise, end }
    yield* this.reads.drain()
  }

  goOn(disk: Device): void {
    if (disk.size < Math.min(this.size, this.disk.size)) this.lose('the disk became smaller')
    this.disk = disk
    this.resting?.end()
    this.resting = undefined
  }

  lose(reason: string): void {
    if (this.ended) return
    this.loss = reason
    this.letGo()
  }

  private get granules(): number {
    return ceilDiv(this.size, GRANULE)
  }

  private letGo(): void {
    this.settled.close()
    this.waiting.wake()
    this.resting?.end()
    this.resting = undefined
  }

  /** Keeps what is not settled of granules first .. end-1. */
  private *copy(first: number, end: number, patience: Patience): Io<void> {
    const pace = new Pace()
    for (let granule = first; granule < end && !this.ended; ) {
      if (this.settled.has(granule)) {
        granule = this.settled.runEnd(granule, end)
        continue
      }
      const zeros = yield* this.copyZeros(granule, this.settled.runEnd(granule, end))
      if (zeros === 0) yield* this.copyData(granule, patience)
      granule += Math.max(zeros, 1)
      yield* pace.keep()
    }
  }

  /** @returns granules from `first` on of which the disk says that they are zero; they are settled */
  private *copyZeros(first: number, end: number): Io<number> {
    const start = first * GRANULE
    const length = Math.min(end * GRANULE, this.size) - start
    const extent = yield* this.disk.map(start, length)
    if (extent.kind !== 'zero') return 0
    const count = extent.length === length ? end - first : Math.floor(extent.length / GRANULE)
    if (!this.ended) this.settled.settleZeros(first, first + count)
    return count
  }

  private *copyData(granule: number, patience: Patience): Io<void> {
    const room = yield* this.roomFor(granule, patience)
    if (room === undefined) return
    const content = new Uint8Array(this.lengthOf(granule))
    yield* this.disk.read(granule * GRANULE, content)
    if (this.ended) return
    if (isZero(content)) {
      this.settled.giveBack(room)
      this.settled.settleZeros(granule, granule + 1)
    } else yield* this.settled.settle(granule, room, content)
  }

  /** @returns undefined: there need not be any */
  private *roomFor(granule: number, patience: Patience): Io<Room | undefined> {
    while (!this.ended && !this.settled.has(granule)) {
      const room = this.settled.reserve()
      if (room !== undefined) return room
      if (this.policy === 'drop') this.lose('there was no room left to keep what is being changed')
      else if (!(yield* this.waiting.wait(patience))) {
        this.lose(`a change had to wait for ${this.patience} ms, and the room to keep what it changes was still taken`)
      }
    }
    return undefined
  }

  /** A reader's work: not while layers are exchanged. */
  private *reading<T>(work: () => Io<T>): Io<T> {
    while (this.resting) yield this.resting.promise
    this.assertThere()
    const epoch = this.reads.enter()
    try {
      return yield* work()
    } finally {
      this.reads.leave(epoch)
    }
  }

  private *readWithin(offset: number, target: Uint8Array): Io<void> {
    for (let done = 0; done < target.length; ) {
      const at = offset + done
      const granule = Math.floor(at / GRANULE)
      const isSettled = this.settled.has(granule)
      const last = ceilDiv(offset + target.length, GRANULE)
      const end = isSettled ? granule + 1 : this.settled.runEnd(granule, last)
      const part = target.subarray(done, Math.min(target.length, end * GRANULE - offset))
      if (isSettled) yield* this.readKept(granule, at - granule * GRANULE, part)
      else yield* this.readDisk(at, part)
      done += part.length
    }
  }

  /** Reads what was not settled when this began. */
  private *readDisk(offset: number, part: Uint8Array): Io<void> {
    const first = Math.floor(offset / GRANULE)
    const end = ceilDiv(offset + part.length, GRANULE)
    yield* this.disk.read(offset, part)
    this.assertThere()
    for (let granule = first; granule < end; granule++) {
      if (!this.settled.has(granule)) continue
      const from = Math.max(offset, granule * GRANULE)
      const to = Math.min(offset + part.length, (granule + 1) * GRANULE)
      yield* this.readKept(granule, from - granule * GRANULE, part.subarray(from - offset, to - offset))
    }
  }

  private *readKept(granule: number, skip: number, part: Uint8Array): Io<void> {
    const found = yield* this.settled.read(granule, skip, part)
    this.assertThere()
    if (!found) throw this.released(granule)
  }

  private *mapWithin(offset: number, length: number): Io<ResolvedExtent> {
    for (;;) {
      const granule = Math.floor(offset / GRANULE)
      const last = ceilDiv(offset + length, GRANULE)
      const until = (end: number): number => Math.min(length, end * GRANULE - offset)
      if (this.settled.has(granule)) {
        const kind = this.settled.kindOf(granule)
        if (kind === 'released') throw this.released(granule)
        if (kind === 'data') return this.dataAt(offset, until(granule + 1))
        return { kind, length: until(this.settled.zerosEnd(granule, last)), depth: undefined }
      }
      const extent = yield* this.disk.map(offset, until(this.settled.runEnd(granule, last)))
      this.assertThere()
      // What was settled meanwhile may be zero only since.
      if (this.settled.has(granule)) continue
      if (extent.kind !== 'zero') return this.dataAt(offset, extent.length)
      const end = this.settled.runEnd(granule, ceilDiv(offset + extent.length, GRANULE))
      return { kind: 'zero', length: Math.min(extent.length, until(end)), depth: undefined }
    }
  }

  private dataAt(offset: number, length: number): ResolvedExtent {
    return { kind: 'data', length, store: this.store, at: offset, depth: 0 }
  }

  private lengthOf(granule: number): number {
    return Math.min(GRANULE, this.size - granule * GRANULE)
  }

  private assertThere(): void {
    if (!this.ended) return
    const why = this.loss === undefined ? 'it was closed' : `it is lost, since ${this.loss}`
    throw new VdiskError(this.loss === undefined ? 'REFUSED' : 'MOMENT_LOST', {
      message: `Cannot read the moment of ${this.name}: ${why}`,
      where: { file: this.name },
      advice: 'Take another one; with more memory, or a folder to spill to, it bears more changes.',
    })
  }

  private assertRange(offset: number, length: number): void {
    if (offset >= 0 && length >= 0 && offset + length <= this.size && Number.isSafeInteger(offset)) return
    throw new VdiskError('OUT_OF_RANGE', {
      message: `Cannot reach ${length} bytes at ${offset} of the moment of ${this.name}: the disk had ${this.size}`,
      where: { file: this.name, offset },
    })
  }

  private released(granule: number): VdiskError {
    return new VdiskError('REFUSED', {
      message: `Cannot read the moment of ${this.name}: the granule at ${granule * GRANULE} was released`,
      where: { file: this.name, offset: granule * GRANULE },
    })
  }

  private unwritable(): VdiskError {
    return new VdiskError('READ_ONLY', {
      message: `Cannot write the moment of ${this.name}: what was does not change`,
      where: { file: this.name },
    })
  }
}

function isZero(content: Uint8Array): boolean {
  return Buffer.compare(content, ZEROS.subarray(0, content.length)) === 0
}

const ZEROS = new Uint8Array(GRANULE)
