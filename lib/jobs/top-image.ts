import { Chain } from '../chain/chain.ts'
import type { Layer } from '../contracts/layer.ts'
import { type ErrorCode, isVdiskError } from '../errors.ts'
import { promised } from '../io/io.ts'
import { type OpenOptions, openAlone, openImage } from './images.ts'

/** What a parent may be wrong in. */
const PARENTAL: readonly ErrorCode[] = ['PARENT_MISSING', 'PARENT_MISMATCH', 'CHAIN_CYCLE', 'REFUSED']

/**
 * Opens an image to change what only itself is concerned with: with its parents, so that tracking knows the disk again;
 * without, where they cannot be found or are not right.
 */
export async function openTop(file: string, options: OpenOptions): Promise<Chain | Layer> {
  try {
    return await promised(openImage(file, { ...options, writable: true }))
  } catch (error) {
    if (!PARENTAL.some((code) => isVdiskError(error, code))) throw error
    return await promised(openAlone(file, 'write', options))
  }
}

/** The layer that is written to. */
export function topOf(opened: Chain | Layer): Layer {
  return opened instanceof Chain ? (opened.layers.at(-1) as Layer) : opened
}
