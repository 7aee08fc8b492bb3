import crypto from 'node:crypto'
import { syncBuiltinESMExports } from 'node:module'
import { Random } from '../support/random.ts'

const { randomBytes } = crypto
/** Milliseconds since 1970. */
const MOMENT = Date.UTC(2026, 0, 1)

/** No seed that anybody gives. */
const FIRST = 0x7be91713

let seeded: Random | undefined
let isInstalled = false

/**
 * Does work in which every random GUID is decided by a seed, and the clock stands still: so a crash that failed can be had
 * again, to the byte; and what leads to the same content is known to do so, also in another thread and a minute later.
 */
export async function withoutChance<T>(random: Random, work: () => Promise<T>): Promise<T> {
  install()
  const before = [seeded, Date.now] as const
  seeded = random
  Date.now = () => MOMENT
  try {
    return await work()
  } finally {
    ;[seeded, Date.now] = before
  }
}

/** What a scene begins with: the same in each run and each thread, whatever seed decides what is done with it. */
export async function begun<T>(work: () => Promise<T>): Promise<T> {
  return await withoutChance(new Random(FIRST), work)
}

/** Once: whoever has imported the function is told of the new one, which takes longer than a crash. */
function install(): void {
  if (isInstalled) return
  isInstalled = true
  crypto.randomBytes = ((length: number) =>
    seeded ? Buffer.from(seeded.bytes(length)) : randomBytes(length)) as typeof randomBytes
  syncBuiltinESMExports()
}
