import { isVdiskError, VdiskError } from '../../lib/index.ts'
import type { Fault } from '../fault.ts'

/**
 * What is said on the socket of a server: lines of JSON, UTF-8, one document each. docs/control-protocol.md is its
 * description for others.
 */

/** What can be asked. */
export const VERBS = ['info', 'status', 'partitions', 'map', 'resize', 'track', 'backup', 'flush', 'unmount'] as const
export type ControlVerb = (typeof VERBS)[number]

export interface ControlRequest {
  /** comes back with every answer to it */
  readonly id: number | string
  readonly verb: ControlVerb
  /** which image of the mount, as `status` names it; may be left out where there is one */
  readonly image?: string | undefined
  /** what the verb needs besides */
  readonly [argument: string]: unknown
}

/** A line from the server. After `result` or `error` nothing more comes for that id. */
export interface ControlAnswer {
  readonly id: number | string | null
  readonly result?: object
  readonly error?: Fault
  /** comes while something lasts, once in `HEARTBEAT` at least */
  readonly progress?: object
}

/** Bytes of a request at most, its line end not counted. */
export const LONGEST_REQUEST = 64 << 10

/** Bytes of an answer at most. */
export const LONGEST_ANSWER = 16 << 20

/** A request that lasts is given a sign of life this often, in milliseconds. */
export const HEARTBEAT = 2000

/** Parts what arrives on a socket into lines. */
export class Lines {
  private readonly longest: number
  private parts: Buffer[] = []
  private length = 0

  /** @param longest bytes of a line at most */
  constructor(longest: number) {
    this.longest = longest
  }

  /** @returns the lines that are complete now @throws VdiskError LIMIT_EXCEEDED */
  push(chunk: Buffer): string[] {
    const lines: string[] = []
    let from = 0
    for (let end = chunk.indexOf(10); end !== -1; end = chunk.indexOf(10, from)) {
      this.keep(chunk.subarray(from, end))
      lines.push(Buffer.concat(this.parts).toString('utf8'))
      this.parts = []
      this.length = 0
      from = end + 1
    }
    this.keep(chunk.subarray(from))
    return lines
  }

  private keep(part: Buffer): void {
    this.length += part.length
    if (this.length > this.longest) {
      throw new VdiskError('LIMIT_EXCEEDED', {
        message: `Cannot take a line of more than ${this.longest} bytes on the control socket`,
      })
    }
    if (part.length > 0) this.parts.push(part)
  }
}

/** @throws VdiskError UNSUPPORTED for what is no request */
export function parseRequest(line: string): ControlRequest {
  const value = parseObject(line)
  const { id, verb, image } = value
  const why =
    typeof id !== 'number' && typeof id !== 'string'
      ? '"id" must be a number or a text'
      : !VERBS.includes(verb as ControlVerb)
        ? `"verb" must be one of ${VERBS.join(', ')}`
        : image !== undefined && typeof image !== 'string'
          ? '"image" must be a text'
          : undefined
  if (why === undefined) return value as unknown as ControlRequest
  throw notUnderstood(why)
}

/** The id of a line that is no request, so that its error finds home. */
export function idOf(line: string): number | string | null {
  try {
    const { id } = parseObject(line)
    return typeof id === 'number' || typeof id === 'string' ? id : null
  } catch (error) {
    if (isVdiskError(error)) return null
    throw error
  }
}

export function notUnderstood(why: string): VdiskError {
  return new VdiskError('UNSUPPORTED', {
    message: `Cannot understand the request: ${why}`,
    advice: 'One request is one line, such as {"id":1,"verb":"status"}.',
  })
}

function parseObject(line: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(line)
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>
  } catch {
    // Said below.
  }
  throw notUnderstood('it is no JSON object')
}
