import { VdiskError } from '../errors.ts'
import type { Awaitable } from './io.ts'

/** A run of bytes in a store that is all data or all hole (reads as zero and takes no room). */
export interface Segment {
  readonly kind: 'data' | 'hole'
  /** bytes from the place asked for, at least 1 */
  readonly length: number
}

/** What tells one state of a file from another without reading it. Times count nanoseconds. */
export interface FileStamp {
  /** bytes in the file */
  readonly size: number
  readonly modified: bigint
  readonly inode: bigint
  readonly born: bigint
  /** of the file or of what is known of it, such as its name or mode; nobody can set it. undefined: the medium does not tell */
  readonly changed?: bigint
}

/** What a store was taken out of. */
export interface Wrapping {
  /** name of the kind of container, such as 'gzip' */
  readonly container: string
  /** which of its members this is, where it has several */
  readonly member: string | undefined
  /** bytes of the file around it */
  readonly fileSize: number
}

/**
 * A named run of bytes: a local file, a piece of memory, a remote object.
 *
 * Every operation answers at once where it can and with a promise where it must wait. All places and lengths are
 * bytes. Failures are VdiskErrors of code IO, NO_SPACE, READ_ONLY or OUT_OF_RANGE that name the store.
 */
export interface ByteStore {
  /** path or URL, for messages */
  readonly name: string
  readonly writable: boolean
  /** what it was taken out of; undefined: it is a file itself */
  readonly wrapping?: Wrapping
  size(): Awaitable<number>
  /** Fills all of `target` from `at`, or throws OUT_OF_RANGE where the store ends before. The caller owns the buffer. */
  read(at: number, target: Uint8Array): Awaitable<void>
  /** Writes all of `source` at `at`, growing the store where needed; what lies between reads as zero. */
  write(at: number, source: Uint8Array): Awaitable<void>
  /** Makes the store exactly `size` bytes long; new bytes read as zero. */
  truncate(size: number): Awaitable<void>
  /**
   * Makes the store at least `size` bytes long; new bytes read as zero. Never cuts anything off, whoever else makes the
   * store longer meanwhile, as long as no write under way ends behind `size`.
   */
  grow(size: number): Awaitable<void>
  /** Everything written so far is durable when this settles. A flush that failed poisons the store: all later ones fail. */
  flush(): Awaitable<void>
  /** A flush will follow: what was written so far may go to the medium meanwhile. Answers at once. */
  hasten?(): void
  close(): Awaitable<void>
  /** The range reads as zero afterwards, without taking room where the medium can. The size stays. */
  deallocate?(at: number, length: number): Awaitable<void>
  /** Gives room back if that is cheap. Nobody needs the bytes any more; what they read as is open. */
  discard?(at: number, length: number): Awaitable<void>
  /** Takes room for the range without writing it; it keeps reading as it did. */
  allocate?(at: number, length: number): Awaitable<void>
  /** Which run of data or hole starts at `at`, which is below the size. */
  segment?(at: number): Awaitable<Segment>
  /** Bytes of room taken on the medium. */
  occupied?(): Awaitable<number>
  /**
   * Copies a range from another store, by the kernel or on a thread of its own.
   *
   * @param sparse leave out blocks of zeros: the range reads as zero already
   * @returns bytes written; undefined: it cannot, and nothing was changed
   */
  copyFrom?(
    source: ByteStore,
    from: number,
    at: number,
    length: number,
    sparse?: boolean,
  ): Awaitable<number | undefined>
  /** The stamp by which a later visitor sees whether the file was written since. Of a file that was open for writing it can be asked after closing, too. */
  stamp?(): FileStamp
  /** Sets the time of the last change, durably, to a whole second: such a time can be written down exactly. */
  restamp?(seconds: number): void
  /**
   * Sets the time of the last change, durably, to what `stamp` told once. Exact with native calls; without, times that are
   * no whole second may come out up to a microsecond off.
   */
  setModified?(nanoseconds: bigint): void
  /** Tells two openings of one file from two files. It can be asked after closing too. */
  fileId?(): string
  /** Whether this opening can serve in place of another one: the same file, locked alike, and waited for alike. */
  standsFor?(other: ByteStore): boolean
}

/** The error of a read that leaves the store. */
export function pastEnd(file: string, at: number, length: number, size: number): VdiskError {
  return new VdiskError('OUT_OF_RANGE', {
    message: `Cannot read ${length} bytes at ${at} of ${file}: it ends at ${size}`,
    where: { file, at },
  })
}

/** The error of a change to a store that was opened for reading. */
export function readOnly(file: string): VdiskError {
  return new VdiskError('READ_ONLY', { message: `Cannot write ${file}: it was opened for reading`, where: { file } })
}
