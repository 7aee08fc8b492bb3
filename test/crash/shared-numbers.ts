/** Slots for each number that is wanted: so that few of them want the same slot. */
const SLOTS = 4
/** Numbers that a set of no known size can hold. */
const MANY = 2 ** 22

/**
 * A set of whole numbers from 0 to 2^53 that several threads add to: each number counts once, whoever came first.
 *
 * Nothing is taken out again, so a slot that is taken stays as it is.
 */
export class SharedNumbers {
  /** for another thread, which makes its own set of it */
  readonly memory: SharedArrayBuffer
  /** first how many there are; then the numbers, each more by one: 0 is an empty slot */
  private readonly slots: BigInt64Array

  constructor(memory: SharedArrayBuffer) {
    this.memory = memory
    this.slots = new BigInt64Array(memory)
  }

  /** An empty set. @param most numbers that it will hold, Infinity: nobody knows */
  static for(most: number): SharedNumbers {
    const room = 2 ** Math.ceil(Math.log2(SLOTS * Math.min(Math.max(most, 1), MANY)))
    return new SharedNumbers(new SharedArrayBuffer(8 * (1 + room)))
  }

  get size(): number {
    return Number(Atomics.load(this.slots, 0))
  }

  /** @throws RangeError where there are more than it has room for */
  add(number: number): void {
    const room = this.slots.length - 1
    const wanted = BigInt(number + 1)
    for (let i = 0; i < room; i++) {
      const slot = 1 + ((number + i) % room)
      const present = Atomics.compareExchange(this.slots, slot, 0n, wanted)
      if (present === wanted) return
      if (present !== 0n) continue
      Atomics.add(this.slots, 0, 1n)
      return
    }
    throw new RangeError(`there are more than ${room} different numbers`)
  }
}
