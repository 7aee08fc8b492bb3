import type { CrashFolder, Entry, Medium } from './crash-folder.ts'
import type { Choice } from './crash-state.ts'

/** What happened while operations were done. */
export interface Played {
  readonly log: readonly Entry[]
  /** length of the log when each operation began */
  readonly begins: readonly number[]
  /** What may be there after a crash at `end` of the log, as numbers: what is right in one case may be wrong in another. */
  questionAt(end: number): Question
  /**
   * Opens what a crash has left, compares it, and goes on using it.
   *
   * @param thorough what costs much is done too
   * @throws Error that says what is wrong
   */
  examine(folder: CrashFolder, crash: Choice, thorough: boolean): Promise<Examined>
}

/** What may be there after a crash: the same numbers, the same to be looked for. */
export interface Question {
  /** that which was promised last */
  readonly promised: number
  /** that, and all that has been asked for since */
  readonly possible: number
}

export interface Examined {
  /** length of the log after the recovery, before anything was changed by intent */
  readonly recovered: number
  /** there is what was promised last, and nothing of what was asked for since: that is right whatever was asked for */
  readonly asPromised: boolean
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
