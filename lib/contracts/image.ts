import type { VdiskError } from '../errors.ts'
import type { Io } from '../io/io.ts'
import type { ByteStore } from '../io/store.ts'

/**
 * Is told of damage that a reader can do without.
 *
 * @param kind 'checksum': nothing is wrong but a checksum, so that what it covers may be right, and is believed then
 * @throws the damage itself where it may not be left out
 */
export type LeaveOut = (damage: VdiskError, kind?: 'checksum') => void

/** A file that is being opened as an image, and the gated way to the files it names. */
export interface Image {
  /** path or URL, as the user knows it */
  readonly name: string
  readonly store: ByteStore
  /** Ends the opening or making of the image; once that is done nobody listens to it any more. */
  readonly signal?: AbortSignal | undefined
  /**
   * Salvage, for reading only: where this is there, what is damaged and not needed to read the disk is told to it, and
   * left out, instead of keeping the image from being opened.
   */
  readonly leaveOut?: LeaveOut | undefined
  /** the member of a container that is meant; undefined: the only one, or it is no container */
  readonly member?: string | undefined
  /** Another file that belongs to this image: an extent file, a data file. Every one passes the gate. */
  neighbour(reference: string, access: 'read' | 'write' | 'create'): Io<ByteStore>
  /**
   * A neighbour that was made in the image's own folder, and is complete and durable, takes the name of the image's file: one step,
   * durable when it returns. `store` stays what had the name before; whoever asks for this goes on with the neighbour's.
   * Undefined, as is `removeNeighbour`, where files cannot be renamed and removed.
   */
  takeOver?(neighbour: string): Io<void>
  /** Removes a file of the image's own folder that nothing names any more. Durable with what is next. */
  removeNeighbour?(neighbour: string): Io<void>
  /** Names of the files in its folder; undefined where nobody can tell. */
  namesBeside?(): readonly string[]
  /** the linkage record beside it; undefined where nothing can lie beside it */
  readonly linkRecord?: SideFile | undefined
}

/** The same image, some of which is otherwise. Images may be of classes, so a copy by `...` would lack what those give it. */
export function imageWith(image: Image, changes: Partial<Image>): Image {
  const { name, store, signal, leaveOut, member, linkRecord, takeOver, removeNeighbour, namesBeside } = image
  return {
    name,
    store,
    signal,
    leaveOut,
    member,
    linkRecord,
    neighbour: (reference, access) => image.neighbour(reference, access),
    ...(takeOver && { takeOver: (neighbour) => takeOver.call(image, neighbour) }),
    ...(removeNeighbour && { removeNeighbour: (neighbour) => removeNeighbour.call(image, neighbour) }),
    ...(namesBeside && { namesBeside: () => namesBeside.call(image) }),
    ...changes,
  }
}

/** A small file of ours beside an image. Whoever changes it has the image open for writing. */
export interface SideFile {
  /** path, for messages */
  readonly name: string
  /** All of it; undefined: it is not there. @throws VdiskError REFUSED, LIMIT_EXCEEDED for what it cannot be */
  read(limit: number): Io<Uint8Array | undefined>
  /** Adds bytes to its end, durably; makes it where it is not there. */
  append(bytes: Uint8Array): Io<void>
  /** Puts other content in its place, durably: after a crash it is the old or the new one. */
  replace(bytes: Uint8Array): Io<void>
  /** It need not be there. */
  remove(): void
}

/** What a probe may look at. */
export interface Sample {
  readonly name: string
  /** bytes in the file */
  readonly size: number
  /** the first 64 KiB, or less if there is less */
  readonly head: Uint8Array
  /** the last 512 bytes, or less */
  readonly tail: Uint8Array
}
