import type { Extent } from '../contracts/extent.ts'
import type { Reservation } from '../contracts/layer.ts'
import { type Io, settle } from '../io/io.ts'
import type { ByteStore } from '../io/store.ts'

/** Copied around a write in one piece up to here; more is copied beside it, piece by piece. */
const ASSEMBLE = 2 << 20
const PIECE = 1 << 20

/** Bytes to be written that lie in a store. */
export interface Stored {
  readonly store: ByteStore
  readonly at: number
  readonly length: number
  /** zeros may be left out */
  readonly sparse: boolean
}

/** Which bytes speak for the start of a range, and the number of their layer from the base; undefined: no layer holds any. */
export interface Found {
  readonly extent: Exclude<Extent, { kind: 'parent' }>
  readonly depth: number | undefined
}

/** What a disk holds, for those who have the right to ask: the range is within it, and nobody changes it meanwhile. */
export interface DiskContent {
  /** bytes, as it is now */
  size(): number
  find(offset: number, length: number): Io<Found>
  readWithin(offset: number, target: Uint8Array): Io<void>
}

/** Copy-on-write: how the bytes of a write come into the room that a layer has reserved for them. */
export class Placement {
  private readonly disk: DiskContent

  constructor(disk: DiskContent) {
    this.disk = disk
  }

  /** Writes `payload` and what its granules need besides into a reservation, then makes it true. @returns bytes of payload written */
  *place(room: Reservation, payload: Uint8Array | Stored): Io<number> {
    let written = payload.length
    try {
      const fills: Reservation['fills'][number][] = []
      for (const fill of room.fills) {
        if (!room.zeroed || (yield* this.holdsData(fill.offset, fill.length))) fills.push(fill)
      }
      const extra = fills.reduce((sum, fill) => sum + fill.length, 0)
      if (extra === 0) {
        written = yield* writePayload(room, payload)
      } else if (extra <= ASSEMBLE && payload instanceof Uint8Array) {
        yield* this.writeAssembled(room, fills, payload)
      } else {
        for (const fill of fills) yield* this.copyFill(room, fill)
        written = yield* writePayload(room, payload)
      }
    } catch (error) {
      yield* room.abandon()
      throw error
    }
    // A failed write must leave the old mapping, not a granule of stale bytes: so the mapping comes last.
    yield* room.publish()
    return written
  }

  /** One write for the payload and the neighbouring bytes it drags along. */
  private *writeAssembled(room: Reservation, fills: Reservation['fills'], payload: Uint8Array): Io<void> {
    const start = Math.min(room.at, ...fills.map((fill) => fill.at))
    const end = Math.max(room.at + payload.length, ...fills.map((fill) => fill.at + fill.length))
    const whole = new Uint8Array(end - start)
    for (const fill of fills) {
      const target = whole.subarray(fill.at - start, fill.at - start + fill.length)
      yield* this.readFill(fill.offset, target)
    }
    whole.set(payload, room.at - start)
    yield* settle(room.store.write(start, whole))
  }

  private *copyFill(room: Reservation, fill: Reservation['fills'][number]): Io<void> {
    const buffer = new Uint8Array(Math.min(PIECE, fill.length))
    for (let done = 0; done < fill.length; ) {
      const part = buffer.subarray(0, Math.min(buffer.length, fill.length - done))
      yield* this.readFill(fill.offset + done, part)
      yield* settle(room.store.write(fill.at + done, part))
      done += part.length
    }
  }

  /** A granule may reach past the end of the disk; there it is zero. */
  private *readFill(offset: number, target: Uint8Array): Io<void> {
    const within = Math.max(0, Math.min(target.length, this.disk.size() - offset))
    target.fill(0, within)
    if (within > 0) yield* this.disk.readWithin(offset, target.subarray(0, within))
  }

  private *holdsData(offset: number, length: number): Io<boolean> {
    const end = Math.min(offset + length, this.disk.size())
    for (let at = offset; at < end; ) {
      const { extent } = yield* this.disk.find(at, end - at)
      if (extent.kind !== 'zero') return true
      at += extent.length
    }
    return false
  }
}

/** Puts the bytes of a write where they belong, without looking at them if they lie in a file and can be copied. @returns bytes written */
function* writePayload(room: Reservation, payload: Uint8Array | Stored): Io<number> {
  if (payload instanceof Uint8Array) {
    yield* settle(room.store.write(room.at, payload))
    return payload.length
  }
  const { store, at, length, sparse } = payload
  const copied = room.store.copyFrom && (yield* settle(room.store.copyFrom(store, at, room.at, length, sparse)))
  if (copied !== undefined) return copied
  const buffer = new Uint8Array(Math.min(PIECE, length))
  for (let done = 0; done < length; done += buffer.length) {
    const part = buffer.subarray(0, Math.min(buffer.length, length - done))
    yield* settle(store.read(at + done, part))
    yield* settle(room.store.write(room.at + done, part))
  }
  return length
}
