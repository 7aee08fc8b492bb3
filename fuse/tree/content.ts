import type { Device } from '../../lib/index.ts'
import { Activity } from './activity.ts'

/** What files that show the same bytes have in common: a disk, its partitions, the view of its top layer. */
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
  /** files that show it */
  files = 0
  /** how often its files are open for writing, and with their pages in the kernel's cache (`Handles`) */
  writers = 0
  cached = 0

  constructor(device: Device, activity = new Activity()) {
    this.device = device
    this.activity = activity
  }
}
