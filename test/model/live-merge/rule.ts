import type { State } from './state.ts'

/** One atomic step of the system: when it may happen, and what it does. */
export interface Rule {
  /** who takes it. Trouble may come, but nothing waits for it */
  readonly by: 'guest' | 'job' | 'trouble'
  /** the step exists once, or for each writer, chunk or sector: then `n` says for which */
  readonly each?: 'writer' | 'chunk' | 'sector'
  /** the step in words, told by the state before it */
  says(state: State, n: number, protocol: Protocol): string
  guard(state: State, n: number, protocol: Protocol): boolean
  /** changes `state`, which is a copy made for this step */
  effect(state: State, n: number, protocol: Protocol): void
}

/** One step in a list of steps that are taken in order. */
export interface JobStep {
  readonly says: string
  guard?(state: State): boolean
  effect(state: State): void
}

/**
 * The whole protocol, in parts, so that a mutant can be made by replacing one of them.
 *
 * Lists hold names of steps: their order is the order in which the job takes them.
 */
export interface Protocol {
  readonly rules: Readonly<Record<string, Rule>>
  /** what a writer does between the moment it has its locks and its answer; the names of steps, with a sector or chunk */
  plan(state: State, writer: number): readonly string[]
  /** before the first chunk is copied */
  readonly preparation: readonly string[]
  /** when all chunks are done: up to the moment in which the guest goes on upon B */
  readonly switching: readonly string[]
  /** afterwards */
  readonly clearing: readonly string[]
  /** after a crash, where a stranger has written to C since */
  readonly voiding: readonly string[]
  /** what memory holds when a process begins: nothing */
  forget(state: State): void
}
