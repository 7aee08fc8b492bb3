import { throwIfCancelled } from '../errors.ts'

/**
 * Waiting, and nothing else.
 *
 * A file in the page cache answers at once; a cold block, a thread pool or the network answer later. Code that reads
 * disks must work with both and should be written once. So it is written as generators: `yield*` reads as `await`, a
 * computation yields only the promises it really has to wait for, and whoever runs it gets the result at once if
 * there were none. Only this file, and the outermost loop of a door, know the difference.
 */

/** A value that may have to be waited for. */
export type Awaitable<T> = T | Promise<T>

/** A computation that may have to wait. It yields only the promises it must wait for; it returns a T. */
export type Io<T> = Generator<Promise<unknown>, T, unknown>

/** Waits if `value` is a promise, else goes on at once. */
export function* settle<T>(value: Awaitable<T>): Io<T> {
  return value instanceof Promise ? ((yield value) as T) : value
}

/** Runs a computation: its result at once if nothing had to wait, else a promise of it. */
export function run<T>(io: Io<T>): Awaitable<T> {
  const step = io.next()
  return step.done ? step.value : runLater(io, step.value)
}

async function runLater<T>(io: Io<T>, first: Promise<unknown>): Promise<T> {
  let pending = first
  for (;;) {
    let step: IteratorResult<Promise<unknown>, T>
    try {
      step = io.next(await pending)
    } catch (error) {
      // Either the promise failed, or the computation itself did; a finished generator rethrows what it is given.
      step = io.throw(error)
    }
    if (step.done) return step.value
    pending = step.value
  }
}

/** Runs a computation where waiting is impossible. @throws TypeError if it asks to wait */
export function runSync<T>(io: Io<T>): T {
  const step = io.next()
  if (step.done) return step.value
  step.value.catch(() => {})
  io.return(undefined as never)
  throw new TypeError('A computation that may not wait asked to wait')
}

/** Runs a computation and always promises its result: the form that public faces hand out. */
export async function promised<T>(io: Io<T>): Promise<T> {
  return await run(io)
}

/** A computation that has its answer already. */
// biome-ignore lint/correctness/useYield: it never has to wait, and that is its point
export function* just<T>(value: T): Io<T> {
  return value
}

/** Lets others run: timers, signals, progress. */
export function* breathe(): Io<void> {
  yield new Promise<void>((resolve) => setImmediate(resolve))
}

/** Milliseconds that a walk may keep all others waiting: those who look at progress, and those whose disk this process serves. */
const BREATH = { alone: 50, serving: 3 } as const

let breath: number = BREATH.alone

/** This process serves others from now on, who notice it where a walk keeps them waiting. */
export function serveOthers(): void {
  breath = BREATH.serving
}

/**
 * For walks that could go on for seconds without ever having to wait: lets others run, some times a second, or more
 * often where they are served. With a signal, the walk ends when that says so.
 */
export class Pace {
  private readonly signal: AbortSignal | undefined
  private rested = Date.now()

  constructor(signal?: AbortSignal) {
    this.signal = signal
  }

  /** Lets others run if they have not for long. @throws VdiskError CANCELLED */
  *keep(): Io<void> {
    throwIfCancelled(this.signal)
    if (Date.now() - this.rested < breath) return
    yield* breathe()
    this.rested = Date.now()
    throwIfCancelled(this.signal)
  }
}

/**
 * A turnstile: computations pass one at a time.
 *
 * Metadata is changed between two waits, never across one; what must span a wait takes turns.
 */
export class Turns {
  private taken = false
  private readonly waiting: (() => void)[] = [];

  *take<T>(work: () => Io<T>): Io<T> {
    while (this.taken) yield new Promise<void>((resolve) => this.waiting.push(resolve))
    this.taken = true
    try {
      return yield* work()
    } finally {
      this.taken = false
      this.waiting.shift()?.()
    }
  }
}
