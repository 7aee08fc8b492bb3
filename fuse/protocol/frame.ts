import { Pool } from '../../lib/bytes/pool.ts'

/** A message of the protocol in a buffer that is used again: a request as it came, or a reply as it leaves. */
export class Frame {
  readonly bytes: Uint8Array
  readonly view: DataView
  /** bytes of the message */
  length = 0

  /** What it holds at first is left over from something else: whoever fills a reply fills all of it. */
  constructor(room: number) {
    this.bytes = Buffer.allocUnsafeSlow(room)
    this.view = new DataView(this.bytes.buffer)
  }

  /** Part of the buffer. Whoever is given it may use it until the frame goes back to its pool, and no longer. */
  part(at: number, length: number): Uint8Array {
    return new Uint8Array(this.bytes.buffer, at, length)
  }
}

/**
 * Frames with room for `room` bytes, of which `kept` idle ones are held.
 *
 * A frame belongs to one request from `take` until `giveBack`. Giving it back too early would let a stranger's bytes into
 * an answer or onto the disk, so it is given back in one place only: when its request has been answered.
 */
export function framePool(room: number, kept: number): Pool<Frame> {
  return new Pool(() => new Frame(room), kept)
}
