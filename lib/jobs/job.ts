export { cancelled, throwIfCancelled } from '../errors.ts'

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

/**
 * Yields how far some work is, a few times a second, until it has ended.
 *
 * @param stop tells the work to end soon, where nobody waits for its result any more: the job was left before its end
 * @throws what the work throws
 */
export async function* whileRunning<T>(work: Promise<T>, progress: () => Progress, stop: () => void): Job<T> {
  let ended = false
  const end = (): void => {
    ended = true
  }
  const settled = work.then(end, end)
  try {
    while (!ended) {
      let timer: NodeJS.Timeout | undefined
      const tick = new Promise<void>((resolve) => {
        timer = setTimeout(resolve, 100)
      })
      await Promise.race([settled, tick])
      clearTimeout(timer)
      if (!ended) yield progress()
    }
  } finally {
    // Whoever started the work closes its disks next: nobody may be using them then.
    if (!ended) stop()
    await settled
  }
  return await work
}
