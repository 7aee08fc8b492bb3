import type { Image } from '../../contracts/image.ts'
import type { Bitmaps } from './bitmaps.ts'
import type { Header } from './header.ts'
import type { Linkage } from './linkage.ts'
import type { Mapping } from './mapping.ts'
import type { Snapshots } from './snapshots.ts'

/** The parts of an open image. */
export interface Qcow2Parts {
  readonly image: Image
  readonly header: Header
  readonly mapping: Mapping
  readonly linkage: Linkage | undefined
  readonly bitmaps: Bitmaps
  readonly snapshots: Snapshots
}
