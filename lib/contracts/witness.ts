import type { Io } from '../io/io.ts'

/**
 * Is told of every change to a disk: of its content before it can be on the medium, and again when it is done or has failed.
 * Whatever it throws before a change keeps the change from happening.
 */
export interface Witness {
  /** Something in the range is about to change. @returns what `end` wants to have back: at once, where nothing need be waited for */
  begin(offset: number, length: number): Io<number> | number
  /** @returns undefined where nothing need be waited for */
  end(offset: number, length: number, begun: number): Io<void> | undefined
  /** The disk is about to get another size, in bytes. */
  resizing(size: number): Io<void>
  /** The disk has that size, or it could not be changed. */
  resized(): void
  /** What was changed before is durable. */
  flushed(): Io<void>
  /** The layers are closed; nothing more will change. */
  close(): Io<void>
}
