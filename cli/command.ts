import type { Argv } from 'yargs'
import type { Output } from './output.ts'

/** What a command gets: its arguments, a place to print, and a signal that says "stop". */
export interface Call<A> {
  readonly args: A
  readonly out: Output
  readonly signal: AbortSignal
}

/** One verb. Its file is loaded when the verb is called. */
export interface Command<A> {
  /** arguments as yargs writes them: `<image>` is needed, `[name]` is not */
  readonly usage: string
  readonly describe: string
  /** command lines that show what it is for, with what they do */
  readonly examples: readonly (readonly [string, string])[]
  /** exit codes besides the common ones */
  readonly exitCodes?: string
  /** what is so after Ctrl-C, default: what was there before is unchanged */
  readonly afterInterrupt?: string
  options(yargs: Argv): Argv<A>
  /** @returns the exit code */
  run(call: Call<A>): Promise<number>
}

export const EXIT = { ok: 0, failed: 1, usage: 2, interrupted: 130 } as const

/** Keeps the type of a command's arguments while it is declared. */
export function defineCommand<A>(command: Command<A>): Command<A> {
  return command
}

/** A command whose arguments only it knows: what `main` handles. */
// biome-ignore lint/suspicious/noExplicitAny: yargs' types are invariant, so no safe type covers all commands
export type AnyCommand = Command<any>
