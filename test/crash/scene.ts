import type { CrashFolder, Entry, Medium } from './crash-folder.ts'
import type { Choice } from './crash-state.ts'

/** What happened while operations were done. */
export interface Played {
  readonly log: readonly Entry[]
  /** length of the log when each operation began */
  readonly begins: readonly number[]
  /** How much had been promised at `end` of the log: what was right after one promise may be wrong after the next. */
  promisedAt(end: number): number
  /**
   * Opens what a crash has left, compares it, and goes on using it.
   *
   * @param thorough what costs much is done too
   * @returns length of the log after the recovery, before anything was changed by intent
   * @throws Error that says what is wrong
   */
  examine(folder: CrashFolder, crash: Choice, thorough: boolean): Promise<number>
}

/** An image, or several, on a medium; and what can be done with them. */
export interface Scene {
  readonly name: string
  /** bytes that the medium writes whole or not at all */
  readonly sector: number
  readonly start: Medium
  /** names of what can be done, for `play` */
  readonly operations: readonly string[]
  /** Does operations one after the other, on `start`. */
  play(operations: readonly string[]): Promise<Played>
}
