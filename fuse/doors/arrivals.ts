import os from 'node:os'
import { VdiskError } from '../../lib/index.ts'
import type { Sys } from '../../lib/io/sys.ts'

/**
 * How often to look even if no signal came, in milliseconds. It should find nothing, ever; but a signal that a stranger
 * in this process swallowed would leave the users of the mount hanging for good. It also keeps the process alive.
 */
const LOOK_ANYWAY = 1000

/**
 * For how long to wait with all of this thread, in milliseconds, before the event loop does. Who asks one thing after
 * the other asks again in much less, and is answered twice as fast without the way through signal and event loop.
 */
const LINGER = 1

/**
 * For how long of that to keep looking, in milliseconds, as long as whoever asks is as quick as that. To be woken from
 * sleep takes longer than an answer. With a single processor, whoever asks could not go on meanwhile.
 */
const KEEP_LOOKING = os.availableParallelism() > 1 ? 0.1 : 0

/**
 * Waits for something to arrive on a descriptor, without a thread.
 *
 * The kernel sends a signal, which Node hands to the event loop. A thread of the pool that sits in `poll` takes longer
 * to tell and more of the processor, is missing for transfers, and holds up the end of the process.
 */
export class Arrivals {
  private readonly fd: number
  private readonly native: Sys
  private readonly timer: NodeJS.Timeout
  private wake: (() => void) | undefined
  /** what was waited for last came while it was worth looking for it all the time */
  private isQuick = false

  /** From here on `read` does not wait. */
  constructor(fd: number, native: Sys) {
    this.fd = fd
    this.native = native
    process.on('SIGIO', this.endWait)
    this.timer = setInterval(this.endWait, LOOK_ANYWAY)
    this.listen(false)
  }

  /**
   * Waits a moment, and keeps all others of this thread waiting too: only when none of them is expected to be ready.
   */
  linger(): void {
    const begun = performance.now()
    while (this.isQuick && performance.now() - begun < KEEP_LOOKING) {
      if (this.native.waitReadable(this.fd, 0)) return
    }
    this.isQuick = this.native.waitReadable(this.fd, LINGER) && performance.now() - begun < KEEP_LOOKING
  }

  /**
   * Settles when something may have arrived.
   *
   * @param nothingThere looks once more: what came before the signal was on made no noise
   */
  async wait(nothingThere: () => boolean): Promise<void> {
    this.listen(true)
    if (nothingThere()) {
      await new Promise<void>((resolve) => {
        this.wake = resolve
      })
    }
    this.listen(false)
  }

  readonly endWait = (): void => {
    this.wake?.()
    this.wake = undefined
  }

  /** The signal is turned off before its handler: alone it would end the process. */
  close(): void {
    this.listen(false)
    process.off('SIGIO', this.endWait)
    clearInterval(this.timer)
  }

  private listen(on: boolean): void {
    const result = this.native.setNonBlocking(this.fd, on)
    if (result >= 0) return
    throw new VdiskError('IO', { message: `Cannot wait for requests from the kernel: errno ${-result}` })
  }
}
