import { isVdiskError, type VdiskError } from '../../lib/errors.ts'

/** The VdiskError that some work must end with. What is no VdiskError is thrown on: it fails the test. */
export async function refusal(work: () => Promise<unknown>): Promise<VdiskError> {
  try {
    await work()
  } catch (error) {
    if (isVdiskError(error)) return error
    throw error
  }
  throw new Error('it should have been refused')
}
