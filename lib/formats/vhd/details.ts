import type { Json } from '../../contracts/layer.ts'
import type { Footer } from './footer.ts'
import { EPOCH, TYPE } from './layout.ts'

/** What a footer says that a user may want to know. */
export function detailsOf({ fields }: Footer): { readonly [key: string]: Json } {
  const { type, uniqueId, creator, creatorVersion, timeStamp, cylinders, heads, sectors, savedState, hidden } = fields
  return {
    type: type === TYPE.fixed ? 'fixed' : type === TYPE.dynamic ? 'dynamic' : 'differencing',
    uniqueId,
    creator: creator.trim(),
    creatorVersion: `${creatorVersion >>> 16}.${creatorVersion & 0xffff}`,
    created: new Date((timeStamp + EPOCH) * 1000).toISOString(),
    geometry: `${cylinders}/${heads}/${sectors}`,
    ...(savedState === 0 ? {} : { savedState: true }),
    ...(hidden === 0 ? {} : { hidden: true }),
  }
}
