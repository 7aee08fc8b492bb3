import { VdiskError } from '../errors.ts'
import { promised } from '../io/io.ts'
import { childrenOf } from './children.ts'
import { type OpenOptions, openImage } from './images.ts'

export interface ResizeOptions extends OpenOptions {
  /** allow the disk to become smaller: what is cut off is gone */
  readonly shrink?: boolean | undefined
  /** go on although other images are built upon this one */
  readonly force?: boolean | undefined
}

export interface Resized {
  readonly before: number
  readonly after: number
}

/** Changes the size of a disk. What is new reads as zero. @param size bytes, or a function of the size before */
export async function resizeDisk(
  file: string,
  size: number | ((before: number) => number),
  options: ResizeOptions = {},
): Promise<Resized> {
  const children = options.force ? [] : await childrenOf(file, options)
  if (children.length > 0) {
    throw new VdiskError('REFUSED', {
      message: `Cannot resize ${file}: these are built upon it: ${children.map((child) => child.file).join(', ')}`,
      where: { file },
      advice: 'Resize the top of the chain instead. --force goes on, and they will not match their parent any more.',
    })
  }
  const chain = await promised(openImage(file, { ...options, writable: true }))
  try {
    const before = chain.size
    const after = typeof size === 'number' ? size : size(before)
    if (after < before && !options.shrink) {
      throw new VdiskError('REFUSED', {
        message: `Cannot make ${file} smaller, from ${before} to ${after} bytes: what lies behind would be lost`,
        where: { file },
        advice: 'Shrink the file systems inside first, then pass --shrink.',
      })
    }
    await promised(chain.resize(after, options.signal))
    return { before, after: chain.size }
  } finally {
    await promised(chain.close())
  }
}
