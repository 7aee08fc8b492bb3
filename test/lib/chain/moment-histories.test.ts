import { describe, expect } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import { ExchangeableDevice } from '../../../lib/chain/exchangeable-device.ts'
import type { FormatDriver } from '../../../lib/contracts/driver.ts'
import { isVdiskError } from '../../../lib/errors.ts'
import { qcow2 } from '../../../lib/formats/qcow2/driver.ts'
import { raw } from '../../../lib/formats/raw/driver.ts'
import { vhdx } from '../../../lib/formats/vhdx/driver.ts'
import { hostFiles } from '../../../lib/io/host-files.ts'
import { breathe, just, promised } from '../../../lib/io/io.ts'
import { MemoryStore } from '../../../lib/io/memory.ts'
import { patternFor } from '../../model/history.ts'
import { diskOf, GRANULE, type Taken, take } from '../../support/moments.ts'
import { printSeed, Random, randomTest } from '../../support/random.ts'
import { delayedStore } from '../../support/stores.ts'
import { scratchFolder } from '../../support/temp.ts'

printSeed()

const MIB = 1 << 20
const SIZE = 2 * MIB + 3 * 512
const WRITERS = 5

/** Those who change a disk, all at the same time and anywhere. */
class Crowd {
  private readonly device: ExchangeableDevice<Chain>
  private readonly resizes: boolean
  private leaving = false
  private readonly ends: Promise<unknown>

  constructor(device: ExchangeableDevice<Chain>, random: Random, resizes: boolean) {
    this.device = device
    this.resizes = resizes
    const lives = Array.from({ length: WRITERS }, () => this.live(new Random(random.below(2 ** 31))))
    // When one of them fails, all go; whoever waits for their end hears of it.
    this.ends = Promise.all(
      lives.map((life) =>
        life.finally(() => {
          this.leaving = true
        }),
      ),
    )
    this.ends.catch(() => {})
  }

  async leave(): Promise<void> {
    this.leaving = true
    await this.ends
  }

  private async live(random: Random): Promise<void> {
    while (!this.leaving) {
      try {
        await this.change(random)
      } catch (error) {
        // It may have become smaller since its size was looked at.
        if (!isVdiskError(error, 'OUT_OF_RANGE')) throw error
      }
      await promised(breathe())
    }
  }

  private async change(random: Random): Promise<void> {
    const { device } = this
    const kind = random.below(20)
    const length = 1 + random.below(random.chance(0.2) ? 5 * GRANULE : 5000)
    const offset = random.below(Math.max(1, device.size - length))
    if (kind < 9) await promised(device.write(offset, patternFor(offset, length, random.below(256))))
    else if (kind < 11) {
      const source = new MemoryStore('other', { content: patternFor(0, length, random.below(256)) })
      await promised(device.transfer(offset, source, 0, length))
    } else if (kind < 16) await promised(device.erase(offset, length))
    else if (kind < 17) await promised(device.flush())
    else if (kind < 18) await promised(device.exchange((chain) => just(new Chain(chain.layers))))
    else if (this.resizes) {
      const size = 512 * (1 + random.below((2 * SIZE) / 512))
      await promised(device.use((chain) => chain.resize(size)))
    }
  }
}

/** Who reads a moment, now here and now there, and is done with more and more of it. */
class Reader {
  private readonly taken: Taken
  private readonly random: Random
  private readonly released = new Set<number>()

  constructor(taken: Taken, random: Random) {
    this.taken = taken
    this.random = random
  }

  async read(): Promise<void> {
    const { moment, truth } = this.taken
    const { random } = this
    expect(moment.lost).toBeUndefined()
    const length = 1 + random.below(random.chance(0.3) ? 6 * GRANULE : 9000)
    const offset = random.below(Math.max(1, truth.length - length))
    const end = Math.min(truth.length, offset + length)
    if (this.touchesReleased(offset, end)) return
    if (random.chance(0.3)) await this.look(offset, end)
    const found = new Uint8Array(end - offset)
    await promised(moment.read(offset, found))
    this.compare(offset, found)
    if (random.chance(0.2)) this.release(offset, end)
  }

  /** Reads all that is left. */
  async finish(): Promise<void> {
    const { moment, truth } = this.taken
    for (let offset = 0; offset < truth.length; offset += GRANULE) {
      const end = Math.min(truth.length, offset + GRANULE)
      if (this.released.has(offset / GRANULE)) continue
      await this.look(offset, end)
      const found = new Uint8Array(end - offset)
      await promised(moment.read(offset, found))
      this.compare(offset, found)
    }
    moment.close()
  }

  /** What the map calls zero was zero. */
  private async look(offset: number, end: number): Promise<void> {
    const { moment, truth } = this.taken
    for (let at = offset; at < end; ) {
      const extent = await promised(moment.map(at, end - at))
      expect(extent.length).toBeGreaterThan(0)
      expect(extent.length).toBeLessThanOrEqual(end - at)
      const wanted = truth.subarray(at, at + extent.length)
      if (extent.kind === 'zero') expect(wanted.findIndex((byte) => byte !== 0)).toBe(-1)
      at += extent.length
    }
  }

  private compare(offset: number, found: Uint8Array): void {
    const wanted = this.taken.truth.subarray(offset, offset + found.length)
    if (Buffer.compare(found, wanted) === 0) return
    const at = found.findIndex((byte, i) => byte !== wanted[i])
    expect.fail(`byte ${offset + at} of the moment is ${found[at]}, was ${wanted[at]}`)
  }

  private release(offset: number, end: number): void {
    const { moment, truth } = this.taken
    moment.release(offset, end - offset)
    for (let at = offset - (offset % GRANULE); at < end; at += GRANULE) {
      const isWhole = at >= offset && (at + GRANULE <= end || end === truth.length)
      if (isWhole) this.released.add(at / GRANULE)
    }
  }

  private touchesReleased(offset: number, end: number): boolean {
    for (let granule = Math.floor(offset / GRANULE); granule * GRANULE < end; granule++) {
      if (this.released.has(granule)) return true
    }
    return false
  }
}

const KINDS: readonly (readonly [string, FormatDriver, Record<string, string>, boolean])[] = [
  ['raw', raw, {}, true],
  ['qcow2', qcow2, { cluster_size: '4K' }, true],
  ['qcow2 with clusters larger than what is kept together', qcow2, { cluster_size: '512K' }, true],
  ['VHDX', vhdx, { block_size: '1M' }, true],
]

describe.each(KINDS)('moments of a disk in use: %s', (_name, driver, options, resizes) => {
  randomTest('hold what it held, whatever is changed meanwhile', async (random) => {
    for (let round = 0; round < 2; round++) {
      const folder = scratchFolder()
      const chain = await diskOf(driver, SIZE, options, (store) => delayedStore(store, random.below(2 ** 31)))
      await promised(chain.write(0, patternFor(0, SIZE / 2, 7)))
      await promised(chain.write(SIZE - 70_000, patternFor(0, 60_000, 9)))
      const device = new ExchangeableDevice(chain)
      const crowd = new Crowd(device, random, resizes)
      const readers: Reader[] = []
      try {
        for (let moments = 0; moments < 3; moments++) {
          for (let turns = random.below(20); turns > 0; turns--) await promised(breathe())
          const memory = random.pick([0, 3 * GRANULE, 64 * MIB])
          readers.push(new Reader(await take(device, { memory, spill: { files: hostFiles, folder } }), random))
          for (let reads = 0; reads < 15; reads++) await Promise.all(readers.map((reader) => reader.read()))
        }
        for (const reader of readers) await reader.finish()
      } finally {
        await crowd.leave()
      }
      await promised(device.current.close())
    }
  })
})
