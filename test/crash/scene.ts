import type { CrashFolder, Entry, Medium } from './crash-folder.ts'
import type { Choice } from './crash-state.ts'
import type { Mixture } from './truth.ts'

/** What happened while operations were done. */
export interface Played {
  readonly log: readonly Entry[]
  /** length of the log when each operation began */
  readonly begins: readonly number[]
  /** what the owner may find after a crash */
  possibleAfter(choice: Choice): Expectation
}

export interface Expectation {
  readonly possible: readonly Mixture[]
  /** pages of the disk that are worth reading */
  readonly touched: ReadonlySet<number>
  /** the medium lied: damage may be told, and what is read may be lost; but nothing may be given to two owners */
  readonly lied: boolean
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
  /**
   * Opens what a crash has left, compares it, and goes on using it.
   *
   * @param thorough what costs much is done too
   * @returns length of the log after the recovery, before anything was changed by intent
   * @throws Error that says what is wrong
   */
  examine(folder: CrashFolder, expected: Expectation, thorough: boolean): Promise<number>
}
