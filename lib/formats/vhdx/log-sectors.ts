import { roundDown, roundUp } from '../../bytes/align.ts'
import { memoryPool } from '../../bytes/pool.ts'
import { type Io, settle } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import { LOG_SECTOR } from './layout.ts'

/** Bytes of a log that are read at a time. */
const PIECE = 128 << 10
const ZEROS = Buffer.alloc(LOG_SECTOR)
const SCRATCH = memoryPool(PIECE, 1)

/**
 * What a log holds, sector by sector. Of a log of many megabytes a few sectors are in use, as a rule: those that are zero
 * take no room. Places are bytes from the start of the log.
 */
export class LogSectors {
  /** bytes */
  readonly length: number
  private readonly sectors: ReadonlyMap<number, Uint8Array>

  private constructor(length: number, sectors: ReadonlyMap<number, Uint8Array>) {
    this.length = length
    this.sectors = sectors
  }

  /** @param length a multiple of a sector; all of it lies in the store */
  static *read(store: ByteStore, at: number, length: number): Io<LogSectors> {
    const sectors = new Map<number, Uint8Array>()
    const piece = SCRATCH.take()
    try {
      for (let done = 0; done < length; ) {
        // Where nothing was ever logged there is a hole, in most files.
        const segment = store.segment && (yield* settle(store.segment(at + done)))
        const hole = segment?.kind === 'hole' ? roundDown(Math.min(segment.length, length - done), LOG_SECTOR) : 0
        if (hole > 0) {
          done += hole
          continue
        }
        const part = piece.subarray(0, Math.min(PIECE, length - done, roundUp(segment?.length ?? PIECE, LOG_SECTOR)))
        yield* settle(store.read(at + done, part))
        for (let start = 0; start < part.length; start += LOG_SECTOR) {
          const sector = part.subarray(start, start + LOG_SECTOR)
          if (ZEROS.compare(sector) !== 0) sectors.set(done + start, Uint8Array.from(sector))
        }
        done += part.length
      }
      return new LogSectors(length, sectors)
    } finally {
      SCRATCH.giveBack(piece)
    }
  }

  /** The sector that begins there. Not to be changed. */
  sector(at: number): Uint8Array {
    return this.sectors.get(at) ?? ZEROS
  }

  /** Bytes that do not reach into the next sector. Not to be changed. */
  bytes(at: number, length: number): Uint8Array {
    const within = at % LOG_SECTOR
    return this.sector(at - within).subarray(within, within + length)
  }

  /** The four bytes there, little-endian. */
  u32(at: number): number {
    const within = at % LOG_SECTOR
    const sector = this.sector(at - within)
    const high = ((sector[within + 3] as number) << 24) | ((sector[within + 2] as number) << 16)
    return (high | ((sector[within + 1] as number) << 8) | (sector[within] as number)) >>> 0
  }

  /** The eight bytes there as a number: exact below 2^53. */
  u64(at: number): number {
    return this.u32(at + 4) * 2 ** 32 + this.u32(at)
  }
}
