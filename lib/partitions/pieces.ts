import type { Device } from '../contracts/device.ts'
import { VdiskError } from '../errors.ts'
import type { Io } from '../io/io.ts'

const BLOCK = 4096
/** No structure that is looked for here is larger; what a disk says of sizes must not decide how much is read. */
const MOST = 1 << 20

/** What pieces are taken from. */
export type Readable = Pick<Device, 'size' | 'read'>

/** Pieces of a disk by place. Each block is read once, however many ask for what lies in it. */
export class Pieces {
  readonly size: number
  private readonly device: Readable
  private readonly blocks = new Map<number, Uint8Array>()

  constructor(device: Readable) {
    this.device = device
    this.size = device.size
  }

  /** @returns undefined if the range does not lie on the disk, or is longer than 1 MiB */
  *read(offset: number, length: number): Io<Uint8Array | undefined> {
    const lies = Number.isSafeInteger(offset) && offset >= 0 && length >= 0 && offset + length <= this.size
    if (!lies || length > MOST) return undefined
    const first = Math.floor(offset / BLOCK)
    const last = Math.floor((offset + Math.max(length, 1) - 1) / BLOCK)
    if (first === last) return within(yield* this.block(first), offset, length)
    const bytes = new Uint8Array(length)
    yield* this.device.read(offset, bytes)
    return bytes
  }

  private *block(index: number): Io<Uint8Array> {
    const known = this.blocks.get(index)
    if (known) return known
    const bytes = new Uint8Array(Math.min(BLOCK, this.size - index * BLOCK))
    yield* this.device.read(index * BLOCK, bytes)
    this.blocks.set(index, bytes)
    return bytes
  }
}

function within(block: Uint8Array, offset: number, length: number): Uint8Array {
  return block.subarray(offset % BLOCK, (offset % BLOCK) + length)
}

/** The reason why a disk cannot be read in some place, if the rest can do without; other errors are thrown on. */
export function unreadable(error: unknown): string {
  if (error instanceof VdiskError && ['IO', 'CORRUPT', 'UNSUPPORTED'].includes(error.code)) return error.message
  throw error
}
