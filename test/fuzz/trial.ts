import v8 from 'node:v8'
import vm from 'node:vm'
import { isVdiskError, type VdiskError } from '../../lib/errors.ts'
import type { Io } from '../../lib/io/io.ts'
import { BUDGET, SLACK } from '../support/hostile.ts'

/** Waits after which a computation counts as endless: what is read lies in memory, so it never really has to. */
const WAITS = 2000

/** A promise that was broken: what a fuzzer looks for. */
export class Violation extends Error {
  /** untyped, endless, memory, changed, unsound, ... */
  readonly kind: string

  constructor(kind: string, message: string, cause?: unknown) {
    super(`${kind}: ${message}`, cause === undefined ? undefined : { cause })
    this.kind = kind
  }
}

/** One use of one image: what it is asked, what it answered, and that it kept within bounds. */
export class Trial {
  /** what came of each step, without numbers: a new one means that code was reached which none has reached before */
  readonly notes = new Set<string>()
  private readonly exact: boolean
  private readonly taken: () => number
  private before: number

  /**
   * @param taken bytes of memory that the image itself has taken
   * @param exact collect what is not needed any more before memory counts as too much; slow
   */
  constructor(taken: () => number, exact = false) {
    this.taken = taken
    this.exact = exact
    if (exact) collect()
    this.before = this.memory()
  }

  /** Does one thing. @returns its result; undefined if it failed as it may. @throws Violation */
  async step<T>(name: string, work: () => Io<T>): Promise<T | undefined> {
    return (await this.attempt(name, work)).result
  }

  /** The same, with the error that it failed with. */
  async attempt<T>(name: string, work: () => Io<T>): Promise<{ result?: T; error?: VdiskError }> {
    let outcome: { result?: T; error?: VdiskError }
    try {
      outcome = { result: await finished(name, work()) }
      this.notes.add(`${name} ok`)
    } catch (error) {
      if (error instanceof Violation) throw error
      if (!isVdiskError(error)) throw new Violation('untyped', `${name} ends with ${whatIsThrown(error)}`, error)
      this.notes.add(`${name} ${error.code} ${error.where.structure ?? ''} ${wordsOf(error.message)}`)
      outcome = { error }
    }
    this.assertMemory(name)
    return outcome
  }

  private assertMemory(name: string): void {
    const most = this.before + BUDGET + SLACK
    // To collect takes a tenth of a second, and a trial has hundreds of steps.
    if (this.exact && this.memory() > most) collect()
    const grown = this.memory() - this.before
    if (grown > BUDGET + SLACK) throw new Violation('memory', `${name} has taken ${grown} bytes`)
  }

  private memory(): number {
    const { used_heap_size, external_memory } = v8.getHeapStatistics()
    return used_heap_size + external_memory - this.taken()
  }
}

/** Collects what is not needed any more, whether or not this process was started with the collector in reach. */
function collect(): void {
  v8.setFlagsFromString('--expose-gc')
  const gc = vm.runInNewContext('gc') as () => void
  gc()
  // Buffers are given back beside the program, which takes its time on a busy machine: the next collection waits for that.
  gc()
}

/** Runs a computation, which must not wait for ever. */
async function finished<T>(name: string, io: Io<T>): Promise<T> {
  let step = io.next()
  for (let waits = 0; !step.done; waits++) {
    if (waits > WAITS) throw new Violation('endless', `${name} waits again and again`)
    try {
      step = io.next(await step.value)
    } catch (error) {
      step = io.throw(error)
    }
  }
  return step.value
}

/** An error by its class, its words, and the functions it came from, without numbers: the same for the same fault. */
export function whatIsThrown(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const frames = [...(error.stack ?? '').matchAll(/^\s+at (?:async )?([\w.<>#]+)/gm)]
    .slice(0, 3)
    .map(([, name]) => name)
  return `${error.name}: ${wordsOf(error.message)} (${frames.join(' < ')})`
}

/** A sentence without its numbers and names. */
export function wordsOf(message: string): string {
  return message
    .slice(0, 300)
    .replace(/\{[0-9a-f-]{36}\}|"[^"]*"/g, '_')
    .replace(/-?\d+/g, '#')
}
