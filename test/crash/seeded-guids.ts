import crypto from 'node:crypto'
import { syncBuiltinESMExports } from 'node:module'
import type { Random } from '../support/random.ts'

/**
 * Does work in which every random GUID is decided by a seed: so a crash that failed can be had again, to the byte, and
 * two runs are known to have led to the same state.
 */
export async function withSeededGuids<T>(random: Random, work: () => Promise<T>): Promise<T> {
  const { randomBytes } = crypto
  crypto.randomBytes = ((length: number) => Buffer.from(random.bytes(length))) as typeof randomBytes
  syncBuiltinESMExports()
  try {
    return await work()
  } finally {
    crypto.randomBytes = randomBytes
    syncBuiltinESMExports()
  }
}
