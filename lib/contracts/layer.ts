import type { Bitmap } from '../bytes/bitmap.ts'
import type { Awaitable, Io } from '../io/io.ts'
import type { ByteStore } from '../io/store.ts'
import type { Extent } from './extent.ts'
import type { Identity, MergedMark, NewParent, ParentLink } from './identity.ts'

export type Json = string | number | boolean | null | readonly Json[] | { readonly [key: string]: Json }

/** One image file, alone. It never opens or calls another layer. */
export interface Layer {
  readonly format: string
  readonly name: string
  readonly store: ByteStore
  /** the other files in which its content lies, such as extent files; undefined: there are none */
  readonly neighbours?: readonly ByteStore[] | undefined
  /** bytes the guest sees */
  readonly size: number
  /** bytes per granule: cluster, block or grain */
  readonly granularity: number
  readonly identity: Identity | undefined
  readonly parent: ParentLink | undefined
  readonly merged: MergedMark | undefined
  /** what only this format has to say, for `vdisk info` */
  readonly details: { readonly [key: string]: Json }
  /**
   * Says what lies at `offset`.
   *
   * @param offset bytes on the disk, below `size`
   * @param length bytes wanted, at least 1, not past `size`
   * @throws VdiskError CORRUPT where the file's tables cannot be right
   */
  map(offset: number, length: number): Io<Extent>
  /** Ends all use. A writable layer flushes first and leaves a file that counts as cleanly closed. */
  close(): Io<void>
  readonly snapshots?: InternalSnapshots | undefined
  readonly bitmaps?: StoredBitmaps | undefined
}

export interface WritableLayer extends Layer {
  /** the file is the disk, byte for byte */
  readonly flat?: boolean
  /** What `identity` will be once the content changes for the first time since the image was opened. */
  readonly nextIdentity: Identity | undefined
  /**
   * Finds room for a write that begins at `offset`; may cover less than `length`. Nothing is visible before `publish`.
   * The caller has made sure that nobody else writes to the same granules meanwhile.
   */
  reserve(offset: number, length: number): Io<Reservation>
  /**
   * Makes whole granules read as zero, or as the parent. Returns how many bytes from `offset` were handled, 0 if it
   * can do none of them; the caller writes the rest.
   */
  erase(offset: number, length: number, reveal: 'zero' | 'parent'): Io<number>
  /**
   * Data and metadata durable, in the order the format demands. Room given up before the *previous* flush may be used
   * again from now on: whoever calls makes sure that reads begun before that have ended.
   */
  flush(): Io<void>
  /**
   * Changes the size that the guest sees, durably, as one step: after a crash it is the old or the new one.
   * A grown range reads as zero even where the parent, of `parentSize` bytes, has data; the last granule
   * of the old size is the caller's care.
   *
   * @param signal ends the work; from the step on that decides it, the signal is not heard any more
   * @param readsEnded waits until all reads that began before have ended: then what moved may be written over. Without it
   * nobody reads
   */
  resize(size: number, parentSize: number, signal?: AbortSignal, readsEnded?: () => Io<void>): Io<void>
  /**
   * Gives up all content: the parent, of `size` bytes, shows everywhere, and the disk has its size. Durable, and one
   * step: after a crash the disk is as before or as after. Link and snapshots stay. Nobody else uses the layer meanwhile.
   * Undefined where the format cannot have a parent.
   *
   * @param signal as for `resize`
   */
  clear?(size: number, signal?: AbortSignal): Io<void>
  /** How this layer is tied to its parent; undefined where the format cannot have one. */
  readonly links?: LinkEditor | undefined
  readonly packer?: Packer | undefined
}

/** Room for a write that nobody can see yet. */
export interface Reservation {
  /** bytes of the request this covers, at least 1 */
  readonly length: number
  readonly store: ByteStore
  /** where the first byte of the request goes */
  readonly at: number
  /** the room reads as zero already, so fills that are zero need not be written */
  readonly zeroed: boolean
  /** what must be brought along, at most one part right before the request and one right after it: disk offset, length, place */
  readonly fills: readonly { readonly offset: number; readonly length: number; readonly at: number }[]
  /** The mapping becomes true; call only after the bytes are written. */
  publish(): Io<void>
  abandon(): Io<void>
}

/**
 * Changes to the link between a layer and its parent. Each is durable, whole or not at all, when it returns.
 *
 * Where `complete` is not set the linkage record beside the image holds what the format has no place for; a merge is
 * noted there alone, and of these only `setParent` is called.
 */
export interface LinkEditor {
  /** the file has room for all that a `NewParent` says, for merges and for what has become of them */
  readonly complete?: boolean
  /** Points this layer at another parent, or at none. Content is not touched. */
  setParent(parent: NewParent | undefined): Io<void>
  /** A merge into the parent begins: until its end the parent is accepted as what it is now, as `next`, and while it changes. */
  beginMerge(now: Identity | undefined, next: Identity | undefined): Io<void>
  /**
   * The merge is done: this file says so from now on, and expects its parent as the merge left it.
   *
   * @param parent what is known of the parent now, which has kept its identity where there was nothing to take over, or where
   * it is another layer that was merged; undefined: what was known of it stays
   */
  endMerge(mark: MergedMark, parent: Pick<NewParent, 'identity' | 'record'> | undefined): Io<void>
}

/** Writing whole granules compressed. */
export interface Packer {
  readonly algorithm: string
  /** The layer can be written in no other way, each granule once and in rising order; `pack` then always gives something. */
  readonly inOrder?: boolean | undefined
  /** Compresses one granule; undefined if that gains nothing. May run on another thread. */
  pack(granule: Uint8Array): Awaitable<Uint8Array | undefined>
  /** Stores a packed granule where the layer holds nothing yet. */
  store(offset: number, packed: Uint8Array): Io<void>
}

export interface SnapshotInfo {
  readonly id: string
  readonly name: string
  /** seconds since 1970 */
  readonly created: number
  readonly diskSize: number
  readonly vmStateSize: number
}

/** Frozen states inside the same file. */
export interface InternalSnapshots {
  list(): readonly SnapshotInfo[]
  /** A read-only view. @throws VdiskError NOT_FOUND */
  open(idOrName: string): Io<Layer>
  /** Only in writable layers. A signal ends the work until the step that decides it. */
  readonly edit?: {
    create(name: string, signal?: AbortSignal): Io<SnapshotInfo>
    revert(idOrName: string, signal?: AbortSignal): Io<void>
    delete(idOrName: string): Io<void>
  }
}

export interface BitmapInfo {
  readonly name: string
  /** bytes per bit */
  readonly granularity: number
  /** whether writers must keep it up to date */
  readonly enabled: boolean
  /** false: it was not saved by its last writer, so it cannot be trusted */
  readonly consistent: boolean
}

/**
 * Who has written to an image since it was last closed here: nobody; a program that keeps to the format, and so has kept its
 * bitmaps; one that does not; or the image does not tell.
 */
export type ForeignWriter = 'none' | 'conforming' | 'other' | 'unknown'

/** Dirty bitmaps stored in the image. */
export interface StoredBitmaps {
  /** as it was when the image was opened */
  readonly foreignWriter?: ForeignWriter
  list(): readonly BitmapInfo[]
  /** One bit per granule of the disk. @throws VdiskError NOT_FOUND, CORRUPT if it is not consistent */
  read(name: string): Io<Bitmap>
  /** Only in writable layers of which the format can keep bitmaps. */
  readonly edit?: BitmapEditor | undefined
}

/** What a bitmap is to be; what is left out stays as it is. */
export interface BitmapWish {
  /** bytes per bit, a power of two; for one that is new by default what the format usually has */
  readonly granularity?: number | undefined
  /** whether writers must keep it up to date; by default a new one is */
  readonly enabled?: boolean | undefined
  /** one bit per granule of the disk; a new one is clear by default */
  readonly bits?: Bitmap | undefined
}

/**
 * Changes to the bitmaps of an image whose content has not changed since it was opened. Each is durable, whole or not at all,
 * when it returns. Where no bitmap is consistent since a program has written that knows none, all of those go with the
 * first change.
 */
export interface BitmapEditor {
  /**
   * Makes a bitmap, or gives the one of that name other properties; with other bits it is consistent from then on.
   *
   * @throws VdiskError REFUSED, LIMIT_EXCEEDED for what the format cannot keep; CORRUPT for one that is not consistent and
   * gets no bits
   */
  put(name: string, wish: BitmapWish): Io<void>
  /** @throws VdiskError NOT_FOUND */
  remove(name: string): Io<void>
  /**
   * What is written from now on is recorded elsewhere: the bitmap of this name takes no note of it, and begins anew when the
   * image is closed, if another state of its content has begun until then.
   *
   * @param bits it has then, for the number of granules that the disk has then
   */
  restart(name: string, bits: (count: number) => Bitmap): Restart
  /**
   * The content gets an identity, if it has none, and another state of it begins if somebody else has written; durable. What is
   * to begin anew does so when the image is closed.
   */
  announce(): Io<void>
}

/** A bitmap that is to begin anew. */
export interface Restart {
  /** it has begun, in an image that was closed */
  readonly done: boolean
}

/** Whether a layer was opened for writing. */
export function isWritable(layer: Layer): layer is WritableLayer {
  return 'reserve' in layer
}
