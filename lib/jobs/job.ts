import { VdiskError } from '../errors.ts'

/** How far a job is. */
export interface Progress {
  /** what is being done, such as 'copy' */
  readonly phase: string
  /** bytes, or whatever the phase counts */
  readonly done: number
  readonly total: number
}

/** Work that takes a while: yields how far it is, returns its result. Cancel it with the signal in its options. */
export type Job<R> = AsyncGenerator<Progress, R, void>

export interface JobOptions {
  readonly signal?: AbortSignal | undefined
}

/** Runs a job to its end. @param onProgress is told how far it is */
export async function finish<R>(job: Job<R>, onProgress: (progress: Progress) => void = () => {}): Promise<R> {
  for (;;) {
    const step = await job.next()
    if (step.done) return step.value
    try {
      onProgress(step.value)
    } catch (error) {
      // A job that is left must not keep its files open, nor leave half of a new one.
      await job.return(undefined as R)
      throw error
    }
  }
}

/** @throws VdiskError CANCELLED if the signal says so */
export function throwIfCancelled(signal: AbortSignal | undefined): void {
  if (signal?.aborted)
    throw new VdiskError('CANCELLED', { message: 'Cancelled: nothing that was there before has changed' })
}

/** Yields how far some work is, a few times a second, until it has ended. @throws what the work throws */
export async function* whileRunning<T>(work: Promise<T>, progress: () => Progress): Job<T> {
  let ended = false
  const settled = work.then(
    () => {
      ended = true
    },
    () => {
      ended = true
    },
  )
  while (!ended) {
    let timer: NodeJS.Timeout | undefined
    const tick = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, 100)
    })
    await Promise.race([settled, tick])
    clearTimeout(timer)
    if (!ended) yield progress()
  }
  return await work
}
