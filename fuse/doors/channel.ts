import fs from 'node:fs'
import { breathe, messageOf, promised, run, VdiskError } from '../../lib/index.ts'
import { ERRNO, type Sys, sys } from '../../lib/io/sys.ts'
import { type Frame, framePool } from '../protocol/frame.ts'
import { REQUEST_ROOM } from '../protocol/protocol.ts'
import type { Session } from '../protocol/session.ts'
import { Arrivals } from './arrivals.ts'

/** Requests answered in a row before timers, signals and finished transfers get their turn. */
const BURST = 64

/** Requests that may wait for their device at once. The kernel keeps what comes beyond; memory stays bounded. */
const MAX_IN_FLIGHT = 64

/** Without native calls: how many threads of the pool wait for requests. The others are needed to answer them. */
const READERS = 2

/** For how many milliseconds nothing may have come, from the kernel or the medium, before the event loop sleeps. */
const KEEP_TURNING = 0.2

/** Idle request buffers that are kept. */
const KEPT = 8

/** Requests of so many bytes move to a buffer of this size: while they wait, the large one is free for the next. */
const SHORT = 8192

/**
 * The descriptor of a mount: receives requests, hands them to the session, sends the replies.
 *
 * With native calls the descriptor does not block. Requests are read and answered in a row until there are none, and
 * none comes in the next moment; then the event loop is free until a signal tells of the next. Without them, threads
 * of the pool wait in `read`: slower, and the same otherwise.
 */
export class Channel {
  private readonly fd: number
  private readonly session: Session
  private readonly log: (message: string) => void
  private readonly requests = framePool(REQUEST_ROOM, KEPT)
  private readonly shortRequests = framePool(SHORT, MAX_IN_FLIGHT)
  private readonly onRoom: (() => void)[] = []
  private inFlight = 0
  /** requests that came or were done after a wait; how many `turn` has seen, and when, by `performance.now()` */
  private events = 0
  private eventsSeen = 0
  private lastEvent = 0
  private readonly stopping = new AbortController()

  /** @param fd belongs to the caller, who closes it */
  constructor(fd: number, session: Session, log: (message: string) => void) {
    this.fd = fd
    this.session = session
    this.log = log
  }

  /** Serves until the file system is unmounted, or `stop`, and every request that was received has been answered. */
  async serve(): Promise<void> {
    const native = sys()
    if (native) await this.receiveReady(native)
    else {
      const readers = Array.from({ length: READERS }, () => this.receiveWaiting())
      await Promise.race([Promise.all(readers), this.stopped()])
    }
    while (this.inFlight > 0) await this.room()
  }

  /**
   * Receives nothing more. Who asks from now on waits, until the descriptor is closed. Without native calls threads
   * stay behind in `read`, and only the end of the process ends them.
   */
  stop(): void {
    this.stopping.abort()
  }

  private async receiveReady(native: Sys): Promise<void> {
    const arrivals = new Arrivals(this.fd, native)
    this.stopping.signal.addEventListener('abort', arrivals.endWait)
    try {
      while (!this.stopping.signal.aborted) {
        const outcome = this.receiveBurst(native, arrivals)
        if (outcome === 'unmounted') return
        if (outcome === 'full') await this.room()
        else if (outcome === 'more') await promised(breathe())
        else if (this.inFlight === 0 || !(await this.turn())) {
          await arrivals.wait(() => this.receiveBurst(native, arrivals) === 'empty')
        }
      }
    } finally {
      arrivals.close()
    }
  }

  /**
   * Lets the event loop turn while requests wait for the medium: what has come from there is answered, and who asked is
   * about to ask again. @returns false where nothing has happened for long enough to sleep
   */
  private async turn(): Promise<boolean> {
    if (this.events !== this.eventsSeen) {
      this.eventsSeen = this.events
      this.lastEvent = performance.now()
    } else if (performance.now() - this.lastEvent > KEEP_TURNING) return false
    await promised(breathe())
    return true
  }

  private receiveBurst(native: Sys, arrivals: Arrivals): 'unmounted' | 'empty' | 'full' | 'more' {
    let lingered = true
    for (let answered = 0; answered < BURST; ) {
      if (this.inFlight >= MAX_IN_FLIGHT) return 'full'
      const request = this.requests.take()
      const count = native.read(this.fd, request.bytes)
      if (count > 0) {
        this.answer(request, count)
        answered++
        lingered = false
        continue
      }
      this.requests.giveBack(request)
      if (count === -ERRNO.EAGAIN) {
        // What waits for the medium is told by the event loop.
        if (lingered || this.inFlight > 0) return 'empty'
        arrivals.linger()
        lingered = true
        continue
      }
      if (count === -ERRNO.ENODEV) return 'unmounted'
      this.assertTransient(-count)
    }
    return 'more'
  }

  private async receiveWaiting(): Promise<void> {
    for (;;) {
      while (this.inFlight >= MAX_IN_FLIGHT) await this.room()
      const request = this.requests.take()
      const count = await readPooled(this.fd, request.bytes)
      if (this.stopping.signal.aborted) return
      if (count > 0) {
        this.answer(request, count)
        continue
      }
      this.requests.giveBack(request)
      if (count === -ERRNO.ENODEV) return
      this.assertTransient(-count)
    }
  }

  private answer(received: Frame, length: number): void {
    const request = length <= SHORT ? this.moveShort(received, length) : received
    request.length = length
    const done = run(this.session.handle(request))
    if (!(done instanceof Promise)) {
      this.finish(request, done)
      return
    }
    this.inFlight++
    this.events++
    void done.then((reply) => {
      this.inFlight--
      this.events++
      this.finish(request, reply)
      for (const resolve of this.onRoom.splice(0)) resolve()
    })
  }

  private moveShort(received: Frame, length: number): Frame {
    const request = this.shortRequests.take()
    request.bytes.set(received.part(0, length))
    this.requests.giveBack(received)
    return request
  }

  /** Only here are buffers given back: nobody has a view of them any more. */
  private finish(request: Frame, reply: Frame | undefined): void {
    const pool = request.bytes.length === SHORT ? this.shortRequests : this.requests
    pool.giveBack(request)
    if (!reply) return
    this.send(reply)
    this.session.recycle(reply)
  }

  private send(reply: Frame): void {
    try {
      fs.writeSync(this.fd, reply.bytes, 0, reply.length)
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      // ENOENT: the program that asked was interrupted. ENODEV: unmounted meanwhile. Nobody waits for the answer.
      if (code !== 'ENOENT' && code !== 'ENODEV') this.log(`Cannot send a reply: ${messageOf(error)}`)
    }
  }

  private stopped(): Promise<void> {
    return new Promise((resolve) => this.stopping.signal.addEventListener('abort', () => resolve()))
  }

  /** The next time a request that waited is done. */
  private room(): Promise<void> {
    return new Promise((resolve) => this.onRoom.push(resolve))
  }

  /** A request that was interrupted before we had it, or a signal: there will be others. */
  private assertTransient(errno: number): void {
    if (errno === ERRNO.EINTR || errno === ERRNO.ENOENT) return
    throw new VdiskError('IO', { message: `Cannot receive requests from the kernel: errno ${errno}` })
  }
}

/** @returns bytes, or -errno */
function readPooled(fd: number, target: Uint8Array): Promise<number> {
  return new Promise((resolve) => {
    fs.read(fd, target, 0, target.length, null, (error, count) => {
      resolve(error ? (error.errno ?? -ERRNO.EINVAL) : count)
    })
  })
}
