import type { ByteStore } from '../io/store.ts'

/**
 * What a disk range is made of, beginning at the offset asked for. Always 1 <= length <= the length asked for.
 *
 * - data: plain bytes lie at `at` in `store`
 * - zero: reads as zero, and this layer says so
 * - parent: this layer is silent; whoever lies below decides
 * - packed: compressed, with all that is needed to read it
 */
export type Extent =
  | { readonly kind: 'data'; readonly length: number; readonly store: ByteStore; readonly at: number }
  | { readonly kind: 'zero'; readonly length: number }
  | { readonly kind: 'parent'; readonly length: number }
  | { readonly kind: 'packed'; readonly length: number; readonly packed: Packed; readonly skip: number }

/** A compressed granule. It carries its place, so that no second look-up can see another state. */
export interface Packed {
  readonly store: ByteStore
  readonly at: number
  readonly storedLength: number
  /** bytes it unpacks to */
  readonly length: number
  /** @throws VdiskError CORRUPT if the bytes do not unpack to exactly `length` */
  unpack(stored: Uint8Array): Uint8Array
}

/** An extent of a whole disk: never 'parent'. */
export type ResolvedExtent = Exclude<Extent, { kind: 'parent' }> & {
  /** which layer speaks, 0 = base; undefined where no layer holds anything, so that it reads as zero */
  readonly depth: number | undefined
}
