import { SHARE_ENV, Worker } from 'node:worker_threads'

/** Bytes from one open file into another, as the thread is asked for them. */
export interface CopyOrder {
  /** descriptors of this process */
  readonly from: number
  readonly to: number
  /** bytes: place in `from`, place in `to` */
  readonly fromAt: number
  readonly at: number
  readonly length: number
  /** leave out blocks of zeros */
  readonly sparse: boolean
}

export interface CopyAnswer {
  /** bytes dealt with; fewer than asked for where the source ends before, or with `error` */
  readonly done: number
  /** bytes written: `done` without the zeros that were left out */
  readonly written: number
  readonly error?: { readonly verb: 'read' | 'write'; readonly code: string | undefined; readonly message: string }
}

/**
 * A thread of this process that copies between open files, one order after the other.
 *
 * It is for what the kernel cannot copy itself: it leaves out zeros, and joins any two files. The thread pool takes one system
 * call at a time, and 0.1 ms to change hands; here a whole order is done in pieces that stay in the cache of one processor.
 * Together with the caller's own thread, that keeps two processors copying.
 */
export class CopyThread {
  private static only: CopyThread | undefined
  private readonly worker: Worker
  private readonly waiting: { resolve: (answer: CopyAnswer) => void; reject: (error: unknown) => void }[] = []

  /** The thread of this process, started when first asked for. An idle one does not keep the process alive. */
  static get(): CopyThread {
    CopyThread.only ??= new CopyThread()
    return CopyThread.only
  }

  private constructor() {
    // Its program travels as text: so it needs no file, which bundles would lose.
    this.worker = new Worker(`(${obey.toString()})()`, { eval: true, env: SHARE_ENV, execArgv: [] })
    this.worker.on('message', (answer: CopyAnswer) => this.settle()?.resolve(answer))
    const end = (error: unknown): void => {
      if (CopyThread.only === this) CopyThread.only = undefined
      while (this.waiting.length > 0) this.settle()?.reject(error)
    }
    this.worker.on('error', end)
    this.worker.on('exit', (status) => end(new Error(`the thread that copies has ended with status ${status}`)))
    this.worker.unref()
  }

  /** Orders are done in the order they are given. @throws if the thread itself fails; what files say is in the answer */
  copy(order: CopyOrder): Promise<CopyAnswer> {
    return new Promise((resolve, reject) => {
      if (this.waiting.push({ resolve, reject }) === 1) this.worker.ref()
      this.worker.postMessage(order)
    })
  }

  private settle(): CopyThread['waiting'][number] | undefined {
    const first = this.waiting.shift()
    if (this.waiting.length === 0) this.worker.unref()
    return first
  }
}

/**
 * Begins to start the thread, which takes longer than to open a few images: for who will copy files, and has to open them
 * first. Where it is not used after all, nothing but that work is lost.
 */
export function expectCopying(): void {
  try {
    CopyThread.get()
  } catch {
    // Whoever copies will ask again, and copy without it.
  }
}

/** The program of the thread. Nothing outside of this function is there when it runs. */
function obey(): void {
  const fs = process.getBuiltinModule('node:fs')
  const port = process.getBuiltinModule('node:worker_threads').parentPort
  const PIECE = 512 << 10
  const BLOCK = 4096
  const buffer = Buffer.allocUnsafeSlow(PIECE)
  const zeros = Buffer.alloc(BLOCK)
  port?.on('message', (order: CopyOrder) => port.postMessage(copy(order)))

  function copy({ from, to, fromAt, at, length, sparse }: CopyOrder): CopyAnswer {
    let done = 0
    let written = 0
    let verb: 'read' | 'write' = 'read'
    try {
      while (done < length) {
        verb = 'read'
        const count = fs.readSync(from, buffer, 0, Math.min(PIECE, length - done), fromAt + done)
        if (count === 0) break
        verb = 'write'
        for (let start = 0; start < count; ) {
          const end = sparse ? runEnd(start, count) : count
          if (!sparse || !isZero(start, Math.min(start + BLOCK, count))) {
            for (let put = start; put < end; ) put += fs.writeSync(to, buffer, put, end - put, at + done + put)
            written += end - start
          }
          start = end
        }
        done += count
      }
      return { done, written }
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException
      return { done, written, error: { verb, code, message } }
    }
  }

  /** Where the run of blocks ends that are zero, or not, as the block at `start` is. */
  function runEnd(start: number, end: number): number {
    const zero = isZero(start, Math.min(start + BLOCK, end))
    let next = start + BLOCK
    while (next < end && isZero(next, Math.min(next + BLOCK, end)) === zero) next += BLOCK
    return Math.min(next, end)
  }

  function isZero(start: number, end: number): boolean {
    return buffer[start] === 0 && zeros.compare(buffer, start, end, 0, end - start) === 0
  }
}
