import type { Io } from '../io/io.ts'
import type { IntentMap } from './intent-map.ts'

/** Regions armed beyond a stream that has reached the one before them. */
const AHEAD = 15

interface Region {
  /** its intent is on the medium */
  durable: boolean
  /** changes that have begun and not ended */
  underWay: number
  /** changed since the last folding began */
  touched: boolean
}

/** Regions in which something may change at the moment: which of them have their intents on the medium, and which rest. */
export class Regions {
  private readonly intents: IntentMap
  private readonly regions = new Map<number, Region>()
  private readonly unarmed = new Set<number>()

  constructor(intents: IntentMap) {
    this.intents = intents
  }

  get size(): number {
    return this.regions.size
  }

  /** Whether no change is under way anywhere. */
  get rest(): boolean {
    for (const { underWay } of this.regions.values()) if (underWay > 0) return false
    return true
  }

  /** Found on the medium: its intent stays until it is given up. */
  adopt(number: number): void {
    this.regions.set(number, { durable: true, underWay: 0, touched: false })
  }

  /** A change begins in the regions first .. last. @returns whether all their intents are on the medium */
  enter(first: number, last: number): boolean {
    let durable = true
    for (let number = first; number <= last; number++) {
      const region = this.regionOf(number)
      region.underWay++
      region.touched = true
      durable &&= region.durable
    }
    return durable
  }

  /** As `enter` for one region, if its intent is on the medium. @returns whether it is */
  enterArmed(number: number): boolean {
    const region = this.regions.get(number)
    if (!region?.durable) return false
    region.underWay++
    region.touched = true
    return true
  }

  leave(first: number, last: number): void {
    for (let number = first; number <= last; number++) {
      const region = this.regions.get(number)
      if (!region) continue
      region.underWay--
      // Its counters may be younger than what a folding under way has written.
      region.touched = true
    }
  }

  /** Makes the intents of all regions durable that wait for it. One at a time. @param end the first region behind the disk */
  *arm(end: number): Io<void> {
    if (this.unarmed.size === 0) return
    const waiting = [...this.unarmed]
    for (const number of waiting) {
      // A stream comes from the region before, and goes on.
      if (!this.regions.get(number - 1)?.durable || this.regions.has(number + 1)) continue
      const last = Math.min(end - 1, number + AHEAD)
      for (let next = number + 1; next <= last && !this.regions.has(next); next++) this.regionOf(next)
    }
    const numbers = [...this.unarmed]
    for (const number of numbers) this.intents.set(number)
    yield* this.intents.write()
    for (const number of numbers) {
      this.unarmed.delete(number)
      const region = this.regions.get(number)
      if (region) region.durable = true
    }
  }

  /**
   * Gives up the regions that rest, once `fold` has made all counters durable: those in which no change is under way, and none
   * has been since the folding before. One at a time.
   *
   * @param all those, too, that rest only since this folding began
   */
  *giveUp(all: boolean, fold: () => Io<void>): Io<void> {
    const resting: number[] = []
    for (const [number, region] of this.regions) {
      if (region.durable && (all || !region.touched)) resting.push(number)
      region.touched = false
    }
    yield* fold()
    for (const number of resting) {
      const region = this.regions.get(number) as Region
      if (region.touched || region.underWay > 0) continue
      this.regions.delete(number)
      this.intents.clear(number)
    }
  }

  /** What was given up is gone from the medium, too. */
  *settle(): Io<void> {
    yield* this.intents.write(true)
  }

  private regionOf(number: number): Region {
    let region = this.regions.get(number)
    if (!region) {
      region = { durable: false, underWay: 0, touched: false }
      this.regions.set(number, region)
      this.unarmed.add(number)
    }
    return region
  }
}
