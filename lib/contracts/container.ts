import type { Io } from '../io/io.ts'
import type { CheckReport } from './check-report.ts'
import type { Image, Sample } from './image.ts'
import type { Inspector } from './inspection.ts'

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
  /** Judges files of this kind that may be from anybody. */
  readonly inspector?: Inspector
}
