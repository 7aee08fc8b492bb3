import { describe, expect, test } from 'vitest'
import { promised } from '../../../lib/io/io.ts'
import type { Subject } from '../../../lib/tracking/binding.ts'
import { ChangeMap } from '../../../lib/tracking/change-map.ts'
import { oneByOne } from '../../../lib/tracking/changed-runs.ts'
import { COUNTERS, PLACE } from '../../../lib/tracking/layout.ts'
import type { Token } from '../../../lib/tracking/token.ts'
import { CrashingStore } from '../../support/crashing-store.ts'
import { printSeed, type Random, randomTest } from '../../support/random.ts'

printSeed()

const G = 65536
const MiB = 1 << 20
const SIZE = 2048 * MiB
const REGION = 4 * MiB
const STAMP = { size: 1, modified: 2n, changed: 3n, inode: 4n, born: 5n }
const CONTENT = new Uint8Array(32).fill(7)

/** A disk that notices whoever writes to it, and is written to by us alone. */
function subject(size = SIZE): Subject {
  return { size, stamp: STAMP, content: CONTENT, next: CONTENT, noticesWriters: true }
}

/** Begins a change. @returns what `end` wants to have */
async function begin(map: ChangeMap, offset: number, length: number): Promise<number> {
  const begun = map.begin(offset, length)
  return typeof begun === 'number' ? begun : await promised(begun)
}

async function end(map: ChangeMap, offset: number, length: number, begun: number): Promise<void> {
  const ending = map.end(offset, length, begun)
  if (ending) await promised(ending)
}

interface Known {
  readonly token: Token
  readonly changed: Set<number>
}

/** A tracked disk beside the truth: which granules changed after which token. */
class Tracked {
  map!: ChangeMap
  store: CrashingStore
  size = SIZE
  readonly tokens: Known[] = []
  private readonly random: Random
  private clock = 0
  private readonly underWay = new Map<number, { offset: number; length: number }>()
  private numbers = 0
  private readonly written = new Set<number>()

  constructor(random: Random) {
    this.random = random
    this.store = new CrashingStore('disk.vdisk-track', random)
  }

  async enable(): Promise<void> {
    await promised(ChangeMap.create(this.store, subject(this.size), { granularity: G, required: false, at: 0 }))
    await this.open()
  }

  async open(): Promise<void> {
    const { store } = this
    this.map = await promised(
      ChangeMap.open(subject(this.size), {
        store,
        sizeOf: () => this.size,
        stampOf: () => STAMP,
        contentOf: () => CONTENT,
        remove: () => expect.fail('the sidecar is removed'),
        now: () => this.clock,
      }),
    )
    expect(this.map.problem).toBeUndefined()
  }

  /** A change, which ends some time, or never. */
  async write(offset: number, length: number): Promise<void> {
    const { map, store } = this
    for (let at = offset; at < offset + length + REGION; at += REGION) this.written.add(Math.floor(at / REGION))
    const begun = await begin(map, offset, length)
    if (this.store !== store) return
    const id = this.numbers++
    this.underWay.set(id, { offset, length })
    this.note(offset, length, ({ token }) => token.epoch < begun)
    for (let turns = this.random.below(12); turns > 0; turns--) await new Promise((resolve) => setImmediate(resolve))
    if (this.store !== store) return
    const known = new Set(this.tokens)
    await end(map, offset, length, begun)
    if (this.store !== store) return
    this.underWay.delete(id)
    // Whoever asked for a token meanwhile may have read what was before.
    this.note(offset, length, (one) => known.has(one))
  }

  async checkpoint(): Promise<void> {
    const token = await promised(this.map.checkpoint())
    this.tokens.push({ token, changed: new Set() })
  }

  async resize(size: number): Promise<void> {
    for (const { changed } of this.tokens) {
      const from = Math.floor(Math.min(size, this.size) / G)
      for (let granule = from; granule * G < Math.max(size, this.size); granule++) changed.add(granule)
    }
    await promised(this.map.resizing(size))
    this.size = size
    this.map.resized()
  }

  async reopen(): Promise<void> {
    await promised(this.map.close())
    this.store = new CrashingStore('disk.vdisk-track', this.random, this.store.content())
    await this.open()
  }

  async crash(keeps?: (at: number) => boolean): Promise<void> {
    this.store = new CrashingStore('disk.vdisk-track', this.random, this.store.crash(keeps))
    // What was under way may be on the medium.
    for (const { offset, length } of this.underWay.values()) this.note(offset, length)
    this.underWay.clear()
    await this.open()
  }

  /** @returns granules that were told though nothing changed in them: in regions that were written to once, or lie ahead */
  async expectNothingMissed(): Promise<number> {
    let extra = 0
    for (const { token, changed: now } of this.tokens) {
      // What changes while the question is answered need not be in the answer.
      const changed = new Set(now)
      const told = new Set<number>()
      let last = -1
      const { full } = await promised(
        this.map.changes(
          token,
          oneByOne((offset, length) => {
            expect(offset).toBeGreaterThan(last)
            expect(offset + length).toBeLessThanOrEqual(this.size)
            last = offset + length
            for (let granule = Math.floor(offset / G); granule * G < offset + length; granule++) told.add(granule)
          }),
        ),
      )
      expect(full).toBeUndefined()
      const missed = [...changed].filter((granule) => granule * G < this.size && !told.has(granule))
      expect(missed).toEqual([])
      extra += told.size - changed.size
      const strange = [...told].filter((granule) => !now.has(granule) && !this.wasNear(granule * G))
      expect(strange).toEqual([])
    }
    return extra
  }

  tick(milliseconds: number): void {
    this.clock += milliseconds
  }

  /** In a region that was written to, or armed ahead of one; or where a page of counters covers such a region, and was torn. */
  private wasNear(offset: number): boolean {
    const page = Math.floor(offset / (COUNTERS * G)) * COUNTERS * G
    const last = Math.floor((page + COUNTERS * G - 1) / REGION)
    for (let region = Math.floor(page / REGION) - 15; region <= last; region++)
      if (this.written.has(region)) return true
    return false
  }

  private note(offset: number, length: number, concerns: (known: Known) => boolean = () => true): void {
    for (const { changed } of this.tokens.filter(concerns)) {
      for (let granule = Math.floor(offset / G); granule * G < offset + length; granule++) changed.add(granule)
    }
  }
}

describe('a map of changes', () => {
  randomTest('misses nothing, whatever overlaps and wherever the power goes', async (random) => {
    for (let round = 0; round < 40; round++) {
      const disk = new Tracked(random)
      const places = Array.from({ length: 5 }, () => random.below(SIZE / REGION) * REGION)
      await disk.enable()
      await disk.checkpoint()
      const running: Promise<void>[] = []
      for (let step = 0; step < 80; step++) {
        const kind = random.below(20)
        if (kind < 10) {
          const offset = Math.min(disk.size - 1, random.pick(places) + random.below(2 * REGION))
          running.push(disk.write(offset, Math.min(disk.size - offset, 1 + random.below(3 * G))))
        } else if (kind < 13) {
          for (let turns = random.below(6); turns > 0; turns--) await new Promise((resolve) => setImmediate(resolve))
        } else if (kind < 14) await disk.checkpoint()
        else if (kind < 15) disk.tick(6000)
        else if (kind < 16) running.push(promised(disk.map.flushed()))
        else if (kind < 17) await disk.expectNothingMissed()
        else if (kind < 19) {
          await disk.crash()
          running.length = 0
          await disk.expectNothingMissed()
        } else if (random.chance(0.5)) {
          await Promise.all(running.splice(0))
          await (random.chance(0.7) ? disk.reopen() : disk.resize(MiB * (1900 + random.below(200))))
          await disk.expectNothingMissed()
        }
      }
    }
  })

  test('a change that waits while others come and go takes none of theirs back', async () => {
    let turns = 0
    const disk = new Tracked({ below: () => turns, chance: () => false } as unknown as Random)
    await disk.enable()
    // The first granule of the second page of counters, in a region that begins in the first page.
    const offset = COUNTERS * G
    await disk.write(offset, 10)
    await disk.reopen()
    await disk.write(offset - G, 10)
    turns = 50
    const waiting = begin(disk.map, offset, 10)
    turns = 0
    const token = await promised(disk.map.checkpoint())
    await end(disk.map, offset, 10, await begin(disk.map, offset, 10))
    const begun = await waiting
    const told: number[] = []
    await promised(
      disk.map.changes(
        token,
        oneByOne((at) => told.push(at)),
      ),
    )
    expect(told).toEqual([offset])
    await end(disk.map, offset, 10, begun)
  })

  test('a change may lie in two pages of counters, and in two regions, of which one is armed', async () => {
    const disk = new Tracked({ below: () => 0, chance: () => false } as unknown as Random)
    await disk.enable()
    const edges = [COUNTERS * G, 200 * REGION]
    for (const edge of edges) for (const offset of [edge - G, edge]) await disk.write(offset, 10)
    await disk.write((edges[1] as number) - REGION, 10)
    await disk.checkpoint()
    for (const edge of edges) await disk.write(edge - 10, 20)
    await disk.write(300 * REGION, 10)
    await disk.checkpoint()
    await disk.write(301 * REGION - 10, 20)
    await disk.expectNothingMissed()
    await disk.crash()
    await disk.expectNothingMissed()
  })

  test('an intent falls only when the counters of its region are durable', async () => {
    let turns = 0
    const disk = new Tracked({ below: () => turns, chance: () => false } as unknown as Random)
    await disk.enable()
    await disk.checkpoint()
    await disk.write(0, 10)
    // Two foldings, by changes elsewhere: in between the first region rests.
    for (const wait of [0, 6000, 6000]) {
      disk.tick(wait)
      await disk.write(5 * REGION, 10)
    }
    // The page of intents without it is on its way when the power goes, and is all that arrives.
    turns = 3
    const unfinished = disk.write(100 * REGION, 10)
    for (let i = 0; i < 4; i++) await new Promise((resolve) => setImmediate(resolve))
    turns = 0
    await disk.crash((at) => at < PLACE.counters)
    await disk.expectNothingMissed()
    void unfinished
  })

  test('a page of intents that is torn leaves the one from before', async () => {
    let turns = 0
    const disk = new Tracked({ below: () => turns, chance: () => false } as unknown as Random)
    // So large that its regions are in several sectors of the page.
    disk.size = 64 * 1024 * MiB
    await disk.enable()
    await disk.checkpoint()
    for (const region of [0, 5000]) await disk.write(region * REGION, 10)
    turns = 3
    const unfinished = disk.write(6000 * REGION, 10)
    for (let i = 0; i < 4; i++) await new Promise((resolve) => setImmediate(resolve))
    turns = 0
    await disk.crash((at) => (at / 512) % 2 === 0)
    // Of two regions of 64 granules each a granule changed: with no page left, all of the disk would count.
    expect(await disk.expectNothingMissed()).toBe(2 * 63)
    void unfinished
  })

  test('a disk that could not be made smaller is told of to its end', async () => {
    const disk = new Tracked({ below: () => 0, chance: () => false } as unknown as Random)
    await disk.enable()
    const token = await promised(disk.map.checkpoint())
    await promised(disk.map.resizing(SIZE / 2))
    disk.map.resized()
    const told: number[][] = []
    await promised(
      disk.map.changes(
        token,
        oneByOne((offset, length) => told.push([offset, offset + length])),
      ),
    )
    // What would have been cut off may have been touched.
    expect(told).toEqual([[SIZE / 2, SIZE]])
  })

  test('a token from while the disk became smaller knows of it', async () => {
    const disk = new Tracked({ below: () => 0, chance: () => false } as unknown as Random)
    await disk.enable()
    await promised(disk.map.resizing(SIZE / 2))
    await disk.checkpoint()
    disk.size = SIZE / 2
    disk.map.resized()
    await disk.resize(SIZE)
    await disk.expectNothingMissed()
  })

  test('tells nothing but what changed, when it was closed', async () => {
    const disk = new Tracked({ below: () => 0, chance: () => false } as unknown as Random)
    await disk.enable()
    await disk.checkpoint()
    for (const offset of [0, 5 * MiB + 1, SIZE - 10]) await disk.write(offset, 10)
    expect(await disk.expectNothingMissed()).toBe(0)
    await disk.reopen()
    expect(await disk.expectNothingMissed()).toBe(0)
    await disk.checkpoint()
    await disk.write(3 * G - 1, 2)
    expect(await disk.expectNothingMissed()).toBe(0)
  })

  test('after a crash tells no more than the regions in which something changed', async () => {
    const disk = new Tracked({ below: () => 0, chance: () => false } as unknown as Random)
    await disk.enable()
    await disk.checkpoint()
    for (const offset of [0, 40 * MiB]) await disk.write(offset, 10)
    await disk.crash()
    expect(await disk.expectNothingMissed()).toBe((2 * 4 * MiB) / G - 2)
  })
})
