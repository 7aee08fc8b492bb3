import type { Image } from '../../contracts/image.ts'
import type { Descriptor } from './descriptor.ts'
import type { DescriptorRoom } from './descriptor-room.ts'
import type { ExtentFile } from './extent-file.ts'

/** The parts of an open image. */
export interface VmdkParts {
  readonly image: Image
  /** replaced when it changes */
  descriptor: Descriptor
  readonly room: DescriptorRoom
  /** in order, without gaps; none where only the metadata of a descriptor was wanted */
  readonly extents: ExtentFile[]
  /** the descriptor lies in the file of the one extent */
  readonly isMonolithic: boolean
  /** bytes of the disk */
  size: number
}
