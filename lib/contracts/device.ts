import type { Io } from '../io/io.ts'
import type { ByteStore } from '../io/store.ts'
import type { ResolvedExtent } from './extent.ts'

/**
 * A disk as doors and jobs see it. Offsets and lengths are bytes on the disk, checked here and nowhere behind.
 *
 * @throws VdiskError OUT_OF_RANGE outside the disk, READ_ONLY for a change to a disk that is not writable
 */
export interface Device {
  readonly name: string
  readonly size: number
  readonly writable: boolean
  /** bytes in which the top layer takes room */
  readonly granularity: number
  /** What the range is made of, 1..length bytes of it. */
  map(offset: number, length: number): Io<ResolvedExtent>
  /** Fills all of `target`. */
  read(offset: number, target: Uint8Array): Io<void>
  write(offset: number, source: Uint8Array): Io<void>
  /** Each byte of the disk lies at its own offset in a file: what a copy leaves out of a new one takes no room. */
  readonly flat?: boolean
  /**
   * As `write`, for bytes that lie in a store: they are copied without this thread seeing them, where that can be.
   *
   * @param sparse blocks of zeros may be left out: the range reads as zero already
   * @returns bytes written
   */
  transfer?(offset: number, source: ByteStore, at: number, length: number, sparse?: boolean): Io<number>
  /** The range reads as zero afterwards; room is given back where the format can. */
  erase(offset: number, length: number): Io<void>
  /** A flush will follow: the medium may begin to write. Answers at once. */
  hasten?(): void
  /** Everything written before is durable. */
  flush(): Io<void>
}
