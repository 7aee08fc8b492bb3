import { Worker } from 'node:worker_threads'
import type { Recipe } from './execution.ts'
import type { FuzzFormat } from './seeds.ts'
import type { WorkerMessage, WorkerTask } from './worker.ts'

/** A promise that was broken, and how to see it again. */
export interface Found {
  /** the same for the same fault */
  readonly what: string
  readonly words: string
  readonly recipe: Recipe
}

export interface Tally {
  executions: number
  /** seconds of processor time */
  cpu: number
  /** different answers of any step */
  answers: number
}

/** Seconds of processor time that one execution may take: a hundred times what it needs. */
const PATIENCE = 2
/** Milliseconds between two looks at a worker. */
const LOOK = 100
/** Bytes of a recipe, at most. */
const LONGEST_RECIPE = 4 << 20
/** MiB of heap, so that what takes without end fails here, and not the machine. */
const HEAP = 1024

/** Runs executions in a thread that is ended when it does not come back. */
export class Overseer {
  private readonly program: URL
  private readonly format: FuzzFormat

  /** @param program the file that works as a worker */
  constructor(program: URL, format: FuzzFormat) {
    this.program = program
    this.format = format
  }

  /** One recipe. @returns undefined if all is well */
  async once(recipe: Recipe): Promise<Found | undefined> {
    let found: Found | undefined
    await this.run(
      { only: recipe, chance: 0 },
      () => false,
      (one) => {
        found = one
      },
    )
    return found
  }

  /**
   * As many executions as there is time for. A worker that hangs is replaced.
   *
   * @param until says when it is enough, by processor time
   */
  async many(chance: number, until: (tally: Tally) => boolean, tell: (found: Found) => void): Promise<Tally> {
    const tally: Tally = { executions: 0, cpu: 0, answers: 0 }
    const began = cpuSeconds()
    for (let round = 0; !until(tally); round++) {
      const before = tally.executions
      await this.run(
        { chance: (chance + round * 7919) >>> 0 },
        ({ executions, answers }) => {
          tally.executions = before + executions
          tally.answers = Math.max(tally.answers, answers)
          tally.cpu = cpuSeconds() - began
          return until(tally)
        },
        tell,
      )
    }
    return tally
  }

  private async run(
    what: Pick<WorkerTask, 'chance' | 'only'>,
    enough: (so: { executions: number; answers: number }) => boolean,
    tell: (found: Found) => void,
  ): Promise<void> {
    const watched = new Watched(this.program, { format: this.format, ...what }, tell)
    let seen = -1
    let since = cpuSeconds()
    while (await watched.goesOn(LOOK)) {
      const { executions, answers } = watched
      // To begin takes processor time as well.
      if (executions !== seen || !watched.isAtWork) {
        seen = executions
        since = cpuSeconds()
      }
      const hangs = watched.isAtWork && cpuSeconds() - since > PATIENCE
      if (hangs) watched.accuse('hang', `no end after ${PATIENCE} seconds of work`)
      if (hangs || (!what.only && enough({ executions, answers }))) await watched.stop()
    }
    // Nothing to wait for, and not at the end: what it waits for will never come.
    if (!watched.isDone) watched.accuse('deadlock', 'it waits for what never comes')
  }
}

/** A worker, and what it shares with whoever watches it. */
class Watched {
  /** different answers so far */
  answers = 0
  /** it was stopped, or accused, or has told what came of its one recipe */
  isDone = false
  private readonly counters = new Int32Array(new SharedArrayBuffer(8))
  private readonly current = new SharedArrayBuffer(LONGEST_RECIPE)
  private readonly worker: Worker
  private readonly ended: Promise<'ended'>
  private readonly tell: (found: Found) => void
  private readonly alone: boolean
  private failure: Error | undefined

  constructor(program: URL, what: Omit<WorkerTask, 'state' | 'current'>, tell: (found: Found) => void) {
    this.tell = tell
    this.alone = what.only !== undefined
    const task: WorkerTask = { ...what, state: this.counters.buffer as SharedArrayBuffer, current: this.current }
    this.worker = new Worker(program, {
      workerData: { fuzz: true, task },
      resourceLimits: { maxOldGenerationSizeMb: HEAP },
    })
    this.worker.on('message', (message: WorkerMessage) => this.hear(message))
    this.worker.on('error', (error: Error & { code?: string }) => {
      if (this.isAtWork) this.accuse('crash', error.code ?? error.message)
      else this.failure = error
    })
    this.ended = new Promise((resolve) => this.worker.on('exit', () => resolve('ended')))
  }

  get executions(): number {
    return Atomics.load(this.counters, 0)
  }

  /** A recipe is under way, or was. */
  get isAtWork(): boolean {
    return Atomics.load(this.counters, 1) > 0
  }

  /** Waits a little. @returns false once the worker has ended. @throws what kept it from beginning */
  async goesOn(milliseconds: number): Promise<boolean> {
    let timer: NodeJS.Timeout | undefined
    const pause = new Promise<'on'>((resolve) => {
      timer = setTimeout(() => resolve('on'), milliseconds)
    })
    const now = await Promise.race([this.ended, pause])
    clearTimeout(timer)
    if (this.failure) throw this.failure
    return now === 'on'
  }

  /** Tells of a fault that the worker could not tell of itself. */
  accuse(kind: 'hang' | 'deadlock' | 'crash', words: string): void {
    const bytes = Buffer.from(new Uint8Array(this.current).slice(0, Atomics.load(this.counters, 1)))
    const recipe = JSON.parse(bytes.toString()) as Recipe
    this.isDone = true
    this.tell({ what: kind === 'crash' ? `${kind}: ${words}` : kind, words: `${kind}: ${words}`, recipe })
  }

  async stop(): Promise<void> {
    this.isDone = true
    await this.worker.terminate()
  }

  private hear(message: WorkerMessage): void {
    if (message.kind === 'answers') this.answers = message.count
    else if (this.alone) this.isDone = true
    if (message.kind === 'found') this.tell(message)
  }
}

function cpuSeconds(): number {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1e6
}
