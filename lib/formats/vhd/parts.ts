import type { Image } from '../../contracts/image.ts'
import type { Batmap } from './batmap.ts'
import type { BlockTable } from './block-table.ts'
import type { Footer, Footers } from './footer.ts'
import type { DynamicHeader } from './header.ts'

/** The parts of an open image that is not fixed. */
export interface VhdParts {
  readonly image: Image
  /** as they were found */
  readonly footers: Footers
  readonly table: BlockTable
  /** replaced when it changes */
  footer: Footer
  header: DynamicHeader
  /** names of the parent, in the order in which they are to be tried */
  names: readonly string[]
  /** XenServer's; undefined: there is none */
  batmap: Batmap | undefined
}
