import type { BoundedStore } from '../io/bounded-store.ts'
import type { Io } from '../io/io.ts'
import type { ByteStore } from '../io/store.ts'
import type { CheckReport } from './check-report.ts'
import type { CreateOption } from './driver.ts'
import type { Image, Sample } from './image.ts'
import type { Inspection, Inspector } from './inspection.ts'

/**
 * What is around an image and no disk itself: a compressed file, an archive.
 *
 * It is opened before formats are probed, and gives the image inside as another image, which is probed like any. What
 * is in a container is only read.
 */
export interface Container {
  readonly name: string
  /** usual endings of file names, with the dot */
  readonly extensions: readonly string[]
  /** has several files, so that a member can be named: `CONTAINER/MEMBER` */
  readonly hasMembers: boolean
  /** Pure: looks at nothing but the sample. */
  probe(sample: Sample): 'yes' | 'perhaps' | 'no'
  /**
   * Gives what is inside, as an image whose store reads at random and closes the one of `image`. On failure that stays
   * the caller's.
   *
   * @param member the one that is meant; undefined: the only one there is
   * @throws VdiskError NOT_FOUND, CORRUPT, UNSUPPORTED and LIMIT_EXCEEDED where it cannot be read at random, with the
   * command that unpacks it
   */
  open(image: Image, member?: string): Io<Image>
  /** Looks for everything that is wrong with what is around the images; changes nothing. */
  check?(image: Image, report: CheckReport): Io<void>
  /** How one is made; undefined: vdisk makes none. */
  readonly packing?: Packing
  /** Judges files of this kind that may be from anybody; what is in them, by `imagesIn`, is judged by itself. */
  readonly inspector?: Inspector
  /**
   * Where the images lie that are opened from a file that may be from anybody, for their own judges. One that does not lie there
   * as it is, or is one too many, is a concern.
   */
  imagesIn?(file: BoundedStore, inspection: Inspection): Io<readonly InnerImage[]>
}

/** An image that lies in a container byte for byte. */
export interface InnerImage {
  readonly name: string
  /** bytes in the container */
  readonly at: number
  readonly length: number
}

/** How a container is made around one image. */
export interface Packing {
  /** what users call it where they name a format */
  readonly name: string
  readonly createOptions: readonly CreateOption[]
  /** the format of the image inside, and the options that it is made with */
  readonly format: string
  readonly formatOptions: Readonly<Record<string, string>>
  /**
   * @param file path of the container
   * @param size bytes of the disk
   * @param options by name; unknown names are refused
   * @throws VdiskError REFUSED
   */
  begin(file: string, size: number, options: ReadonlyMap<string, string>): ContainerWriter
}

/** A container that is being made: the image is written first, then all around it. */
export interface ContainerWriter {
  /** byte of the container at which the image begins; it goes on to the end of the file */
  readonly imageAt: number
  /** name of the image, as a file of its own would have it */
  readonly imageName: string
  /**
   * Writes the rest. The caller makes it durable.
   *
   * @param store the container, which ends with the image
   * @param modified seconds since 1970
   */
  finish(store: ByteStore, modified: number, signal?: AbortSignal): Io<void>
}
