/** What went wrong, in words a program can match on. Doors translate these once each: to an errno, an NBD error, an exit status. */
export type ErrorCode =
  | 'NOT_THIS_FORMAT'
  | 'AMBIGUOUS_FORMAT'
  | 'CORRUPT'
  | 'UNSUPPORTED'
  | 'LIMIT_EXCEEDED'
  | 'PARENT_MISSING'
  | 'PARENT_MISMATCH'
  | 'CHAIN_CYCLE'
  | 'REFUSED'
  | 'READ_ONLY'
  | 'OUT_OF_RANGE'
  | 'IN_USE'
  | 'NO_SPACE'
  | 'NOT_FOUND'
  | 'CANCELLED'
  | 'MOMENT_LOST'
  | 'IO'

/** The place an error speaks of. `at` counts bytes in the file, `offset` bytes on the disk that the guest sees. */
export interface Where {
  readonly file?: string | undefined
  readonly structure?: string | undefined
  readonly index?: number | undefined
  readonly at?: number | undefined
  readonly offset?: number | undefined
  readonly section?: string | undefined
}

export interface ErrorContent {
  readonly message: string
  readonly where?: Where | undefined
  readonly advice?: string | undefined
  readonly cause?: unknown
}

/**
 * The one error class. The message reads "Cannot <do> <what>: <why>", `where` is the place for programs, `advice` the
 * next step for people.
 */
export class VdiskError extends Error {
  readonly code: ErrorCode
  readonly where: Where
  readonly advice: string | undefined

  constructor(code: ErrorCode, content: ErrorContent) {
    super(content.message, content.cause === undefined ? undefined : { cause: content.cause })
    this.name = 'VdiskError'
    this.code = code
    this.where = content.where ?? {}
    this.advice = content.advice
  }
}

/** Whether `error` is a VdiskError, and of this code if one is given. */
export function isVdiskError(error: unknown, code?: ErrorCode): error is VdiskError {
  return error instanceof VdiskError && (code === undefined || error.code === code)
}

/** The error of work that was told to stop. */
export function cancelled(): VdiskError {
  return new VdiskError('CANCELLED', { message: 'Cancelled: nothing that was there before has changed' })
}

/** @throws VdiskError CANCELLED if the signal says so */
export function throwIfCancelled(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw cancelled()
}

/** Why, of a message that reads "Cannot <do> <what>: <why>" where what ends with the file; else all of it. */
export function reasonOf({ message, where }: VdiskError): string {
  const end = where.file === undefined ? -1 : message.indexOf(`${where.file}: `)
  return end === -1 ? message : message.slice(end + `${where.file}: `.length)
}

/** The sentence of any thrown value. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

/** Names that an advice lists. */
const MOST_LISTED = 20

/** What there is instead of something that was not found, for advice. @example It has: monday, tuesday. @example It has no bitmaps. */
export function whatItHas(names: readonly string[], things: string): string {
  if (names.length === 0) return `It has no ${things}.`
  const more = names.length - MOST_LISTED
  const listed = names.slice(0, MOST_LISTED).join(', ')
  return more > 0 ? `It has: ${listed}, and ${more} more.` : `It has: ${listed}.`
}
