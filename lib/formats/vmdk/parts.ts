import type { Image } from '../../contracts/image.ts'
import type { Descriptor } from './descriptor.ts'
import type { ExtentFile } from './extent-file.ts'

/** Where a descriptor lies. */
export interface DescriptorRoom {
  /** bytes in the file of the image */
  readonly at: number
  /** bytes that it may take; undefined: the file is its own, and may grow */
  readonly length: number | undefined
}

/** The parts of an open image. */
export interface VmdkParts {
  readonly image: Image
  /** replaced when it changes */
  descriptor: Descriptor
  readonly room: DescriptorRoom
  /** in order, without gaps; none where only the metadata of a descriptor was wanted */
  readonly extents: readonly ExtentFile[]
  /** bytes of the disk */
  size: number
}
