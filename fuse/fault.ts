import { type ErrorCode, isVdiskError, messageOf, VdiskError, type Where } from '../lib/index.ts'

/** An error as JSON: how it gets from the process that serves a mount to the one that asked for it. */
export interface Fault {
  readonly code: ErrorCode
  readonly message: string
  readonly advice?: string | undefined
  readonly where?: Where | undefined
}

export function faultOf(error: unknown): Fault {
  if (!isVdiskError(error)) return { code: 'IO', message: messageOf(error) }
  return { code: error.code, message: error.message, advice: error.advice, where: error.where }
}

export function errorOf(fault: Fault): VdiskError {
  return new VdiskError(fault.code, fault)
}
