import { formatSize } from '../bytes/size.ts'
import type { Chain } from '../chain/chain.ts'
import { VdiskError } from '../errors.ts'
import { promised } from '../io/io.ts'
import { childrenOf } from './children.ts'
import { closing } from './closing.ts'
import { type OpenOptions, openImage } from './images.ts'
import { type UndoOptions, undoable } from './undoable.ts'

export interface ResizeOptions extends OpenOptions, UndoOptions {
  /** allow the disk to become smaller: what is cut off is gone */
  readonly shrink?: boolean | undefined
  /** go on although other images are built upon this one */
  readonly force?: boolean | undefined
}

export interface Resized {
  readonly before: number
  readonly after: number
}

/** The size that a disk should have, in bytes; or what it should be, given the size it has. */
export type NewSize = number | ((before: number) => number)

/** Changes the size of a disk. What is new reads as zero. */
export async function resizeDisk(file: string, size: NewSize, options: ResizeOptions = {}): Promise<Resized> {
  await assertNoChildren(file, options)
  const words = typeof size === 'number' ? `resize to ${formatSize(size)}` : 'resize'
  return await undoable(file, words, options, async (given) => {
    const chain = await promised(openImage(file, { ...given, writable: true }))
    return await closing(chain, () => resizeOpen(chain, size, given))
  })
}

/**
 * Changes the size of a disk that is open, which others may be using. That images are built upon it is not looked for.
 *
 * @throws VdiskError REFUSED if it became smaller and `shrink` does not allow it
 */
export async function resizeOpen(
  chain: Chain,
  size: NewSize,
  options: Pick<ResizeOptions, 'shrink' | 'signal'> = {},
): Promise<Resized> {
  const before = chain.size
  const after = typeof size === 'number' ? size : size(before)
  if (after < before && !options.shrink) {
    throw new VdiskError('REFUSED', {
      message: `Cannot make ${chain.name} smaller, from ${before} to ${after} bytes: what lies behind would be lost`,
      where: { file: chain.name },
      advice: 'Shrink the file systems inside first, then pass --shrink.',
    })
  }
  await promised(chain.resize(after, options.signal))
  return { before, after: chain.size }
}

/** @throws VdiskError REFUSED if other images are built upon this one, unless `force` allows it */
export async function assertNoChildren(
  file: string,
  options: Pick<ResizeOptions, 'force'> & OpenOptions,
): Promise<void> {
  const children = options.force ? [] : await childrenOf(file, options)
  if (children.length === 0) return
  throw new VdiskError('REFUSED', {
    message: `Cannot resize ${file}: these are built upon it: ${children.map((child) => child.file).join(', ')}`,
    where: { file },
    advice: 'Resize the top of the chain instead. --force goes on, and they will not match their parent any more.',
  })
}
