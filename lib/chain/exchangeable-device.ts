import type { Device } from '../contracts/device.ts'
import type { ResolvedExtent } from '../contracts/extent.ts'
import type { Keeper } from '../contracts/keeper.ts'
import { VdiskError } from '../errors.ts'
import { type Io, settle, Turns } from '../io/io.ts'
import type { ByteStore } from '../io/store.ts'
import { Chain } from './chain.ts'

/** Bytes at a time of a transfer that the device behind cannot take over. */
const PIECE = 1 << 20

export interface ExchangeOptions<D> {
  /** the next device may have another size than the one before */
  readonly resized?: boolean | undefined
  /** why the next device holds something else than the one before: moments of that are lost; undefined: it does not */
  readonly reverted?: string | undefined
  /**
   * Gives what to go on with where the exchange fails after `prepare` has closed the device before: that, opened again.
   * It also closes whatever `prepare` had opened. Without it, the device before goes on.
   */
  readonly recover?: ((error: unknown) => Io<D>) | undefined
}

/**
 * A device whose inside its owner can exchange while it is in use: what a door holds when layers come and go beneath it.
 *
 * Everything is passed on to the present device. While an exchange is under way new operations wait; none is lost, and
 * none sees two devices. An operation is counted from its first step to its end, so whoever made one and begins it
 * later gets the device of then.
 */
export class ExchangeableDevice<D extends Device = Device> implements Device {
  private inner: D
  private underWay = 0
  /** called when the last operation under way ends */
  private idle: (() => void) | undefined
  /** while set, operations wait for it before they begin */
  private shut: Promise<void> | undefined
  private readonly exchanges = new Turns()

  constructor(device: D) {
    this.inner = device
  }

  /** The present device, for questions that are answered at once; for anything that waits there is `use`. */
  get current(): D {
    return this.inner
  }

  get name(): string {
    return this.inner.name
  }

  get size(): number {
    return this.inner.size
  }

  get writable(): boolean {
    return this.inner.writable
  }

  get granularity(): number {
    return this.inner.granularity
  }

  /**
   * Puts another device in place of the present one. Operations that have begun end first, the present device is
   * flushed, then `prepare` runs alone; what it gives is the device for all that follows.
   *
   * `prepare` may close the present device, or leave that to whoever gets the result; it must not use this one, whose
   * operations wait for it. Moments of the present device go on with the next one. If it fails, all goes on with the
   * present device, or with what `recover` gives, and its error is thrown; if `recover` fails too, that error is.
   *
   * @returns the device that was replaced
   * @throws VdiskError REFUSED if the next device has another size and `resized` does not allow it
   */
  *exchange(prepare: (current: D) => Io<D>, options: ExchangeOptions<D> = {}): Io<D> {
    const alone = (): Io<D> => this.exchangeAlone(prepare, options)
    return yield* this.exchanges.take(alone)
  }

  /** Does something with the present device that is no single operation; no exchange happens meanwhile. */
  *use<T>(work: (current: D) => Io<T>): Io<T> {
    while (this.shut) yield this.shut
    this.underWay++
    try {
      return yield* work(this.inner)
    } finally {
      this.end()
    }
  }

  *map(offset: number, length: number): Io<ResolvedExtent> {
    while (this.shut) yield this.shut
    this.underWay++
    try {
      return yield* this.inner.map(offset, length)
    } finally {
      this.end()
    }
  }

  // Written out, not passed through `use`: each closure and each generator on the way costs a small read its share.
  *read(offset: number, target: Uint8Array): Io<void> {
    while (this.shut) yield this.shut
    this.underWay++
    try {
      yield* this.inner.read(offset, target)
    } finally {
      this.end()
    }
  }

  *write(offset: number, source: Uint8Array): Io<void> {
    while (this.shut) yield this.shut
    this.underWay++
    try {
      yield* this.inner.write(offset, source)
    } finally {
      this.end()
    }
  }

  *transfer(offset: number, source: ByteStore, at: number, length: number, sparse?: boolean): Io<number> {
    return yield* this.use(
      (device) => device.transfer?.(offset, source, at, length, sparse) ?? copy(device, offset, source, at, length),
    )
  }

  *erase(offset: number, length: number): Io<void> {
    yield* this.use((device) => device.erase(offset, length))
  }

  /** Between two devices there is nothing to hasten: the exchange flushes. */
  hasten(): void {
    if (!this.shut) this.inner.hasten?.()
  }

  *flush(): Io<void> {
    yield* this.use((device) => device.flush())
  }

  private end(): void {
    if (--this.underWay === 0) this.idle?.()
  }

  private *exchangeAlone(prepare: (current: D) => Io<D>, options: ExchangeOptions<D>): Io<D> {
    let open!: () => void
    this.shut = new Promise<void>((resolve) => {
      open = resolve
    })
    try {
      if (this.underWay > 0) {
        yield new Promise<void>((resolve) => {
          this.idle = resolve
        })
      }
      const before = this.inner
      yield* before.flush()
      // Nobody reads from what `prepare` may close; until then a change may wait for their readers.
      const keepers = before instanceof Chain ? yield* before.keepers.leave() : []
      try {
        this.inner = yield* this.prepared(before, prepare, options)
        if (options.reverted !== undefined) for (const keeper of keepers) keeper.lose(options.reverted)
      } finally {
        handOver(keepers, this.inner)
      }
      return before
    } finally {
      this.idle = undefined
      this.shut = undefined
      open()
    }
  }

  private *prepared(before: D, prepare: (current: D) => Io<D>, { resized, recover }: ExchangeOptions<D>): Io<D> {
    const { name, size } = before
    try {
      const next = yield* prepare(before)
      if (resized || next.size === size) return next
      throw new VdiskError('REFUSED', {
        message: `Cannot put ${next.name} in place of ${name}: its disk has ${next.size} bytes, not ${size}`,
        where: { file: next.name },
        advice: 'Resize one of them first, so that whoever uses the disk hears of it.',
      })
    } catch (error) {
      if (recover) this.inner = yield* recover(error)
      throw error
    }
  }
}

/** Those who keep a moment of one device go on with the one in its place. */
function handOver(keepers: readonly Keeper[], device: Device): void {
  if (device instanceof Chain) device.adopt(keepers)
  else for (const keeper of keepers) keeper.lose('its layers were let go')
}

function* copy(device: Device, offset: number, source: ByteStore, at: number, length: number): Io<number> {
  // Asked for at both ends first: what cannot be done as a whole must change nothing.
  for (const end of [offset, offset + length]) yield* device.write(end, new Uint8Array(0))
  const buffer = new Uint8Array(Math.min(PIECE, length))
  for (let done = 0; done < length; done += buffer.length) {
    const part = buffer.subarray(0, Math.min(buffer.length, length - done))
    yield* settle(source.read(at + done, part))
    yield* device.write(offset + done, part)
  }
  return length
}
