import type { Device } from '../lib/index.ts'
import { Activity } from './activity.ts'

/**
 * What files that show the same bytes have in common: a disk, its partitions, the view of its top layer.
 *
 * The kernel keeps pages by file, and knows nothing of two files that share bytes. So of files that overlap only one
 * at a time may have its pages kept, and is told when the bytes change through another (`Handles`).
 */
export class Content {
  /** all of it */
  readonly device: Device
  readonly activity: Activity
  /** milliseconds since 1970 */
  modified = Date.now()
  /** how often something was changed, through any file */
  changes = 0
  /** something was written that no flush has covered yet */
  unflushed = false
  /** files that are open with their pages in the kernel's cache */
  cachedFiles = 0

  constructor(device: Device, activity = new Activity()) {
    this.device = device
    this.activity = activity
  }
}
