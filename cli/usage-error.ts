import { VdiskError } from '../lib/index.ts'

/** A command line that cannot be understood, or asks for what does not go together. */
export class UsageError extends VdiskError {
  constructor(message: string, advice: string) {
    super('REFUSED', { message, advice })
  }
}
