import { test } from 'vitest'

/** Another one each run, unless it is given: so that a failure can be repeated, and luck is not. */
export const SEED = Number(process.env.VDISK_TEST_SEED ?? Math.floor(Math.random() * 2 ** 31))

/** Numbers that a seed decides. */
export class Random {
  private state: number

  constructor(seed: number) {
    this.state = seed >>> 0
  }

  /** 0 <= number < 1 */
  fraction(): number {
    this.state = (this.state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(this.state ^ (this.state >>> 15), this.state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }

  /** A whole number, 0 <= number < end. */
  below(end: number): number {
    return Math.floor(this.fraction() * end)
  }

  pick<T>(choices: readonly T[]): T {
    return choices[this.below(choices.length)] as T
  }

  chance(of: number): boolean {
    return this.fraction() < of
  }

  bytes(length: number): Uint8Array {
    const bytes = new Uint8Array(length)
    for (let i = 0; i < length; i++) bytes[i] = this.below(256)
    return bytes
  }
}

/** Tells the seed of this run: once for each file of tests. */
export function printSeed(): void {
  console.info(`VDISK_TEST_SEED=${SEED}`)
}

/** Numbers that a title and the seed of the run decide. */
export function randomFor(title: string): Random {
  let seed = SEED
  for (const character of title) seed = (Math.imul(seed, 31) + (character.codePointAt(0) as number)) >>> 0
  return new Random(seed)
}

/** A test with random numbers of its own: they do not depend on other tests, so it can be run alone. */
export function randomTest(title: string, body: (random: Random) => Promise<void> | void): void {
  test(title, async () => {
    try {
      await body(randomFor(title))
    } catch (error) {
      if (error instanceof Error) error.message += `\n(VDISK_TEST_SEED=${SEED})`
      throw error
    }
  })
}
