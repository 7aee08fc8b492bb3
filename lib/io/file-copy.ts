import { type CopyAnswer, type CopyOrder, CopyThread } from './copy-thread.ts'
import { ioError, nativeError } from './file-errors.ts'
import { type ByteStore, pastEnd } from './store.ts'
import { ERRNO, sys } from './sys.ts'

/** An open file of this machine: its descriptor, and the store that it belongs to. */
interface OpenEnd {
  readonly fd: number
  readonly store: ByteStore
}

/** A range of one open file that is to be in another; places and length in bytes. */
export interface FileCopy {
  readonly from: OpenEnd
  readonly to: OpenEnd
  readonly fromAt: number
  readonly at: number
  readonly length: number
}

/** Errors that mean "these two files cannot be joined this way", not "the copy failed". */
const NOT_COPYABLE = new Set<number>([ERRNO.EXDEV, ERRNO.EINVAL, ERRNO.ENOSYS, ERRNO.EOPNOTSUPP])

/** Bytes copied by hand at a time. */
const PIECE = 1 << 20

/**
 * Has the kernel copy, which may share blocks instead.
 *
 * @param here on this thread, else on one of the pool
 * @returns bytes written; undefined: it cannot, and nothing was changed
 */
export async function copyByKernel(copy: FileCopy, here: boolean): Promise<number | undefined> {
  const native = sys()
  if (!native) return undefined
  const { from, to, fromAt, at, length } = copy
  for (let done = 0; done < length; ) {
    const range = [from.fd, fromAt + done, to.fd, at + done, length - done] as const
    const count = here ? native.copyFileRange(...range) : await native.copyFileRangeLater(...range)
    if (count > 0) done += count
    else if (count === 0) throw pastEnd(from.store.name, fromAt, length, await from.store.size())
    else if (done === 0 && NOT_COPYABLE.has(-count)) return undefined
    else if (-count === ERRNO.EIO) {
      await copyByHand({ ...copy, fromAt: fromAt + done, at: at + done, length: length - done })
      done = length
    } else if (-count !== ERRNO.EINTR) throw ioError('write', to.store.name, at, nativeError(count))
  }
  return length
}

/**
 * Copies on the thread for it.
 *
 * @param sparse leave out blocks of zeros: the range reads as zero already
 * @returns bytes written; undefined: there is no such thread, or it has died, and all is to be copied otherwise
 */
export async function copyByThread(copy: FileCopy, sparse: boolean): Promise<number | undefined> {
  const { from, to, fromAt, at, length } = copy
  let written = 0
  for (let done = 0; done < length; ) {
    const rest = { fromAt: fromAt + done, at: at + done, length: length - done }
    const answer = await askThread({ from: from.fd, to: to.fd, ...rest, sparse })
    if (!answer) return undefined
    done += answer.done
    written += answer.written
    const { error } = answer
    if (!error && done < length) throw pastEnd(from.store.name, fromAt, length, await from.store.size())
    if (!error || error.code === 'EINTR') continue
    const [end, place] = error.verb === 'read' ? [from, fromAt + done] : [to, at + done]
    throw ioError(error.verb, end.store.name, place, error)
  }
  return written
}

/** The kernel does not say which of two files cannot be read or written; their own calls do. */
async function copyByHand({ from, to, fromAt, at, length }: FileCopy): Promise<void> {
  const buffer = new Uint8Array(Math.min(length, PIECE))
  for (let done = 0; done < length; done += buffer.length) {
    const part = buffer.subarray(0, Math.min(buffer.length, length - done))
    await from.store.read(fromAt + done, part)
    await to.store.write(at + done, part)
  }
}

async function askThread(order: CopyOrder): Promise<CopyAnswer | undefined> {
  try {
    return await CopyThread.get().copy(order)
  } catch {
    return undefined
  }
}
