import type { Io } from '../io/io.ts'
import type { Device } from './device.ts'

/**
 * Keeps what a disk held at some moment while others go on writing to it: it is told of every change before it happens.
 * It keeps no change from happening, nor makes one fail: what it cannot keep it does without.
 */
export interface Keeper {
  /** it needs to hear of nothing any more */
  readonly ended: boolean
  /** The range is about to change; until this returns, nobody changes any of it. */
  keep(offset: number, length: number): Io<void>
  /** The disk is about to be exchanged: when this settles nothing of it is being read, and until `goOn` nothing will be. */
  rest(): Io<void>
  /** The same content is to be had from this disk. */
  goOn(disk: Device): void
  /** Content was lost without being kept, or will be. @param reason goes on after "Cannot read ...: " */
  lose(reason: string): void
}
