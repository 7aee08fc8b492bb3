import type { CheckReport } from '../../contracts/check-report.ts'
import type { Extent } from '../../contracts/extent.ts'
import type { Image } from '../../contracts/image.ts'
import type { Json, Packer, Reservation } from '../../contracts/layer.ts'
import type { Io } from '../../io/io.ts'
import type { ByteStore } from '../../io/store.ts'
import type { ExtentLine } from './descriptor-line.ts'

/**
 * A part of the disk, with whatever file it lies in. Offsets count on the disk, and lie within the part; what is asked
 * of it never reaches past its end.
 */
export interface ExtentFile {
  /** bytes on the disk where it begins */
  readonly start: number
  /** bytes */
  readonly length: number
  /** bytes per granule, counted from `start` */
  readonly granularity: number
  /** the file, where it is not that of the descriptor; undefined: none, or that */
  readonly store: ByteStore | undefined
  /** what only this kind of extent has to say, for `vdisk info` */
  readonly details: { readonly [key: string]: Json }
  /** As `Layer.map`. */
  map(offset: number, length: number): Io<Extent>
  /** Looks for everything that is wrong with it; changes nothing. */
  check(report: CheckReport): Io<void>
  /** Closes its own file. */
  close(): Io<void>
}

/** An extent that can be written. Identity is the layer's care: it is changed before anything here is. */
export interface WritableExtentFile extends ExtentFile {
  /** As `WritableLayer.reserve`. */
  reserve(offset: number, length: number): Io<Reservation>
  /** As `WritableLayer.erase`. */
  erase(offset: number, length: number, reveal: 'zero' | 'parent'): Io<number>
  /** As `WritableLayer.flush`. */
  flush(): Io<void>
  /** From now on what it does not hold is the parent's, or zero. Undefined where the extent holds all. */
  showParent?(hasParent: boolean): void
  /**
   * Makes the file ready for another length, durably, so that only the descriptor need change, or where it lies in the
   * same file, has changed. What is new reads as zero, even where the parent shows up to `parentEnd`, an offset.
   */
  resize?(length: number, parentEnd: number, signal?: AbortSignal): Io<void>
  /** What is empty reads as zero, even where the parent shows up to `parentEnd`, an offset. */
  hide?(parentEnd: number, signal?: AbortSignal): Io<void>
  /** Gives up all content, and has another length: the parent shows everywhere. Durable, and one step. */
  clear?(length: number): Io<void>
  /** As `WritableLayer.packer`. */
  readonly packer?: Packer
  /** Flushes, and leaves a file that counts as cleanly closed, and open. */
  end(): Io<void>
}

/** An extent that is to be opened. */
export interface ExtentOpening {
  readonly image: Image
  readonly line: ExtentLine
  /** the file that holds it; undefined: the line names none */
  readonly store: ByteStore | undefined
  /** whether `store` is that of the descriptor too, which the layer closes */
  readonly isOwnFile: boolean
  /** bytes on the disk where it begins */
  readonly start: number
  /** bytes of the disk that it holds */
  readonly length: number
  readonly access: 'read' | 'write'
  /** whether what it does not hold is the parent's */
  readonly hasParent: boolean
}

/** Opens extents of one type. With access 'write' what it opens can be written. @throws VdiskError UNSUPPORTED, CORRUPT */
export type ExtentOpener = (opening: ExtentOpening) => Io<ExtentFile>

export function isWritableExtent(extent: ExtentFile): extent is WritableExtentFile {
  return 'reserve' in extent
}
