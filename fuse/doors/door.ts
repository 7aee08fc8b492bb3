import type { Io } from '../../lib/index.ts'
import type { Ownership } from '../protocol/attributes.ts'
import type { DiskFile, Tree } from '../tree/tree.ts'
import type { Mountpoint } from './mount.ts'

/** What a door is opened with. */
export interface DoorOptions {
  readonly place: Mountpoint
  readonly tree: Tree
  readonly owner: Ownership
  /** shown as the source of the mount: the images */
  readonly source: string
  /** nothing in the tree can be written */
  readonly readOnly: boolean
  /** receives the words of errors of which the kernel only gets a number */
  readonly log: (message: string) => void
}

/** One way by which a tree gets to its users: the kernel's protocol, or a library that speaks it. */
export interface Door {
  /** where the tree is to be seen: absolute, without symbolic links */
  readonly mountpoint: string
  /** Serves until unmounted, or `stop`, and every request that was received has been answered. */
  serve(): Promise<void>
  /** Receives nothing more. Who asks from now on waits until `close`. */
  stop(): void
  /**
   * Takes the tree away from its place; then `serve` ends as soon as nobody uses it any more.
   *
   * @param how lazy: the place is free at once, and whoever has a file open there may finish
   * @throws VdiskError IN_USE if a program uses the mount; then nothing has changed
   */
  unmount(how?: 'now' | 'lazy'): Promise<void>
  /** Ends the conversation: whoever still has a file open is told now, instead of waiting for an answer. */
  close(): void
  /** Tells the kernel that a file has another size, and that what it knows of its end is out of date. */
  resized?(file: DiskFile): Io<void>
  /** Tells the kernel to forget what it keeps of a file's bytes: they have changed beneath it. */
  changed?(file: DiskFile): Io<void>
}

/**
 * Makes a tree visible at its place. If this fails, nothing is left mounted.
 *
 * @throws VdiskError UNSUPPORTED where something is missing that the door needs, REFUSED if the system says no
 */
export type OpenDoor = (options: DoorOptions) => Promise<Door>
