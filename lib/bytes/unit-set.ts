import { NumberSet } from './number-set.ts'
import { UnitMap, type UnitRun } from './unit-map.ts'

/** Units of which there is a bit for each: 32 MiB of memory. */
const NEAR = 2 ** 28

/**
 * Which units of a file are in use, wherever they lie: a file may say that it is longer than any medium, almost all of it a
 * hole. Near its begin that costs a bit for each unit, up to the last in use; far behind, 16 to 32 bytes for each in use.
 */
export class UnitSet {
  private readonly near = new UnitMap()
  private readonly far = new NumberSet()

  /** How many are in use. */
  get count(): number {
    return this.near.count + this.far.size
  }

  /** Units are in use from now on. @returns whether some of them were so before */
  take({ first, count }: UnitRun): boolean {
    const end = first + count
    let wasInUse = false
    if (first < NEAR) {
      const run = { first, count: Math.min(end, NEAR) - first }
      wasInUse = !this.near.isFree(run)
      this.near.take(run)
    }
    for (let unit = Math.max(first, NEAR); unit < end; unit++) {
      wasInUse ||= this.far.has(unit)
      this.far.add(unit)
    }
    return wasInUse
  }
}
