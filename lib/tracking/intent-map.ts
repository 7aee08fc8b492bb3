import { type Io, settle } from '../io/io.ts'
import type { ByteStore } from '../io/store.ts'
import { checksumOf, intentHeader, isHole, PAGE, PAGE_HEADER, PLACE, REGIONS, sealed } from './layout.ts'

/** A page of intents, of which the medium has two copies. */
interface IntentPage {
  readonly number: number
  readonly bits: Uint8Array
  sequence: number
  /** the copy that may be written over: the other one is durable, and says no less than it must */
  free: 0 | 1
  changed: boolean
  /** the medium still has bits that are wanted no more */
  stale: boolean
}

/**
 * Regions of the disk that may hold changes which no counter on the medium tells: one bit each, durable before the first
 * such change.
 *
 * A bit that is no longer wanted is taken off in memory, and on the medium whenever its page is next written; until then a
 * crash costs that region, and nothing else.
 */
export class IntentMap {
  private readonly store: ByteStore
  private readonly pages = new Map<number, IntentPage>()

  private constructor(store: ByteStore) {
    this.store = store
  }

  /**
   * @param regions so many does the disk have
   * @param wanted false: what is set on the medium is left over from before, and only has to go
   */
  static *open(store: ByteStore, regions: number, wanted: boolean): Io<IntentMap> {
    const map = new IntentMap(store)
    const size = yield* settle(store.size())
    for (let number = 0; number * REGIONS < regions; number++) {
      const page = yield* map.readPage(number, size)
      if (page && !wanted) {
        page.stale ||= page.bits.some((byte) => byte !== 0)
        page.bits.fill(0)
      }
      if (page) map.pages.set(number, page)
    }
    return map
  }

  has(region: number): boolean {
    const bits = this.pages.get(Math.floor(region / REGIONS))?.bits
    const bit = region % REGIONS
    return bits !== undefined && ((bits[bit >>> 3] as number) & (1 << (bit & 7))) !== 0
  }

  /** Durable with the next `write`. */
  set(region: number): void {
    const page = this.page(Math.floor(region / REGIONS))
    const bit = region % REGIONS
    page.bits[bit >>> 3] = (page.bits[bit >>> 3] as number) | (1 << (bit & 7))
    page.changed = true
  }

  /** Forgotten here, and on the medium some time. Only for a region whose changes all are in durable counters. */
  clear(region: number): void {
    const page = this.page(Math.floor(region / REGIONS))
    const bit = region % REGIONS
    page.bits[bit >>> 3] = (page.bits[bit >>> 3] as number) & ~(1 << (bit & 7))
    page.stale = true
  }

  /** What was set is durable. @param exactly what was cleared is gone from the medium, too */
  *write(exactly = false): Io<void> {
    yield* this.writePages([...this.pages.values()].filter(({ changed, stale }) => changed || (exactly && stale)))
  }

  /** The regions that are set, in order. */
  *regions(): Generator<number> {
    for (const { number, bits } of [...this.pages.values()].sort((a, b) => a.number - b.number)) {
      for (let byte = 0; byte < bits.length; byte++) {
        if (bits[byte] === 0) continue
        for (let bit = 0; bit < 8; bit++) {
          if ((bits[byte] as number) & (1 << bit)) yield number * REGIONS + byte * 8 + bit
        }
      }
    }
  }

  private page(number: number): IntentPage {
    let page = this.pages.get(number)
    if (!page) {
      page = { number, bits: new Uint8Array(PAGE - PAGE_HEADER), sequence: 0, free: 0, changed: false, stale: false }
      this.pages.set(number, page)
    }
    return page
  }

  private *writePages(pages: readonly IntentPage[]): Io<void> {
    if (pages.length === 0) return
    try {
      yield* this.putDown(pages)
    } catch (error) {
      for (const page of pages) page.changed = true
      throw error
    }
    for (const page of pages) {
      page.sequence++
      page.free = page.free === 0 ? 1 : 0
    }
  }

  private *putDown(pages: readonly IntentPage[]): Io<void> {
    for (const page of pages) {
      // What changes while this waits belongs to the next round.
      page.changed = false
      page.stale = false
      const bytes = new Uint8Array(PAGE)
      intentHeader.encode({ checksum: 0, number: page.number, sequence: page.sequence + 1 }, bytes)
      bytes.set(page.bits, PAGE_HEADER)
      yield* settle(this.store.write(placeOf(page.number, page.free), sealed(bytes, 0)))
    }
    yield* settle(this.store.flush())
  }

  private *readPage(number: number, size: number): Io<IntentPage | undefined> {
    let best: IntentPage | undefined
    let torn = 0
    for (const copy of [0, 1] as const) {
      const at = placeOf(number, copy)
      const bytes = new Uint8Array(PAGE)
      const present = Math.max(0, Math.min(PAGE, size - at))
      if (present > 0) yield* settle(this.store.read(at, bytes.subarray(0, present)))
      if (isHole(bytes)) continue
      const header = intentHeader.decode(bytes)
      if (header.checksum !== checksumOf(bytes, 0) || header.number !== number) {
        torn++
        continue
      }
      if (best && best.sequence > header.sequence) continue
      best = {
        number,
        bits: bytes.slice(PAGE_HEADER),
        sequence: header.sequence,
        free: copy === 0 ? 1 : 0,
        changed: false,
        stale: false,
      }
    }
    if (best || torn === 0) return best
    // The only copy there was is not whole: a first write that was cut short, so nothing was changed under it; or damage.
    return {
      number,
      bits: new Uint8Array(PAGE - PAGE_HEADER).fill(255),
      sequence: 0,
      free: 0,
      changed: true,
      stale: false,
    }
  }
}

function placeOf(number: number, copy: 0 | 1): number {
  return PLACE.intents + (number * 2 + copy) * PAGE
}
