import { type ErrorCode, isVdiskError } from '../../lib/index.ts'
import { ERRNO } from './protocol.ts'

/** What a program that uses the mount is told. The words of the error go to the log. */
const ERRNO_OF: Record<ErrorCode, number> = {
  NO_SPACE: ERRNO.ENOSPC,
  READ_ONLY: ERRNO.EROFS,
  OUT_OF_RANGE: ERRNO.EINVAL,
  IN_USE: ERRNO.EBUSY,
  REFUSED: ERRNO.EPERM,
  UNSUPPORTED: ERRNO.EOPNOTSUPP,
  CANCELLED: ERRNO.ECANCELED,
  // The file is there: that one of its layers is not is a fault of the disk.
  NOT_FOUND: ERRNO.EIO,
  CORRUPT: ERRNO.EIO,
  IO: ERRNO.EIO,
  NOT_THIS_FORMAT: ERRNO.EIO,
  AMBIGUOUS_FORMAT: ERRNO.EIO,
  LIMIT_EXCEEDED: ERRNO.EIO,
  PARENT_MISSING: ERRNO.EIO,
  PARENT_MISMATCH: ERRNO.EIO,
  CHAIN_CYCLE: ERRNO.EIO,
  MOMENT_LOST: ERRNO.EIO,
}

export function errnoOf(error: unknown): number {
  return isVdiskError(error) ? ERRNO_OF[error.code] : ERRNO.EIO
}
