import { type ErrorCode, isVdiskError, messageOf } from '../../lib/index.ts'

/** Something that went wrong while a disk was served. */
export interface Failure {
  /** ISO 8601 */
  readonly time: string
  /** what was asked for, as `WRITE of 4096 bytes at 512` */
  readonly request: string
  /** undefined for what is not one of our errors */
  readonly code: ErrorCode | undefined
  readonly message: string
}

/** Failures that are kept; older ones are only in the log. */
const KEPT = 20

/** What was done with a disk since it was mounted, through whichever of its files. Counted where it happens. */
export class Activity {
  reads = 0
  /** bytes */
  readBytes = 0
  writes = 0
  writtenBytes = 0
  erases = 0
  erasedBytes = 0
  flushes = 0
  errors = 0
  /** the last ones, oldest first */
  readonly failures: Failure[] = []

  fail(request: string, error: unknown): void {
    this.errors++
    if (this.failures.length === KEPT) this.failures.shift()
    const code = isVdiskError(error) ? error.code : undefined
    this.failures.push({ time: new Date().toISOString(), request, code, message: messageOf(error) })
  }
}
