import crypto from 'node:crypto'
import { syncBuiltinESMExports } from 'node:module'
import type { Random } from '../support/random.ts'

const { randomBytes } = crypto
let seeded: Random | undefined
let isInstalled = false

/**
 * Does work in which every random GUID is decided by a seed: so a crash that failed can be had again, to the byte, and
 * two runs are known to have led to the same state.
 */
export async function withSeededGuids<T>(random: Random, work: () => Promise<T>): Promise<T> {
  install()
  const before = seeded
  seeded = random
  try {
    return await work()
  } finally {
    seeded = before
  }
}

/** Once: whoever has imported the function is told of the new one, which takes longer than a crash. */
function install(): void {
  if (isInstalled) return
  isInstalled = true
  crypto.randomBytes = ((length: number) =>
    seeded ? Buffer.from(seeded.bytes(length)) : randomBytes(length)) as typeof randomBytes
  syncBuiltinESMExports()
}
