import type { Image } from '../../contracts/image.ts'
import type { Bat } from './bat.ts'
import type { Geometry } from './geometry.ts'
import type { Headers } from './header.ts'
import type { ParentLocator } from './locator.ts'
import type { PendingLog } from './log.ts'
import type { Metadata } from './metadata.ts'

/** The parts of an open image. */
export interface VhdxParts {
  readonly image: Image
  readonly headers: Headers
  readonly geometry: Geometry
  readonly bat: Bat
  /** replaced when it changes */
  metadata: Metadata
  /** undefined where there is no parent */
  locator: ParentLocator | undefined
  /** a log that was not replayed on the medium: it is laid over the file in memory */
  readonly pendingLog: PendingLog | undefined
}
