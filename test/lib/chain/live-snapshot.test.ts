import fs from 'node:fs'
import { describe, expect } from 'vitest'
import {
  type Chain,
  createDisk,
  ExchangeableDevice,
  type Io,
  LayerPool,
  openDisk,
  promised,
  settle,
} from '../../../lib/index.ts'
import { breathe } from '../../../lib/io/io.ts'
import { firstDifference, patternFor } from '../../model/history.ts'
import { NaiveDisk } from '../../model/naive-disk.ts'
import { printSeed, type Random, randomTest } from '../../support/random.ts'
import { refusal } from '../../support/refusal.ts'
import { scratchFolder } from '../../support/temp.ts'

printSeed()

const SIZE = 4 << 20
const WRITERS = 6

/** A disk in use: each writer has a part of it to itself, and reads back what it wrote. */
class Guests {
  readonly model = new NaiveDisk(SIZE)
  /** operations that ended */
  operations = 0
  private readonly device: ExchangeableDevice<Chain>
  private leaving = false
  private readonly ends: Promise<unknown>

  constructor(device: ExchangeableDevice<Chain>, random: Random) {
    this.device = device
    const leave = (): void => {
      this.leaving = true
    }
    // When one of them fails, all go; whoever waits for their end hears of it.
    const lives = Array.from({ length: WRITERS }, (_, i) => this.live(i, random.below(2 ** 31)).finally(leave))
    this.ends = Promise.all(lives)
    this.ends.catch(() => {})
  }

  /** Lets them do some more. */
  async some(): Promise<void> {
    const enough = this.operations + 40
    while (!this.leaving && this.operations < enough) await promised(breathe())
  }

  async leave(): Promise<void> {
    this.leaving = true
    await this.ends
  }

  private async live(index: number, seed: number): Promise<void> {
    const { device, model } = this
    const span = Math.floor(SIZE / WRITERS)
    let state = seed
    const below = (end: number): number => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0
      return Math.floor((state / 2 ** 32) * end)
    }
    while (!this.leaving) {
      const length = 1 + below(below(4) === 0 ? 200_000 : 9000)
      const offset = index * span + below(span - length)
      const kind = below(10)
      if (kind < 5) {
        const source = patternFor(offset, length, below(256))
        model.write(offset, source)
        await promised(device.write(offset, source))
      } else if (kind < 6) {
        model.erase(offset, length)
        await promised(device.erase(offset, length))
      } else if (kind < 7) {
        await promised(device.flush())
      } else {
        const found = new Uint8Array(length)
        await promised(device.read(offset, found))
        expect(Buffer.compare(found, model.bytes.subarray(offset, offset + length)), `${length} at ${offset}`).toBe(0)
      }
      this.operations++
      await promised(breathe())
    }
  }
}

async function contentOf(chain: Chain): Promise<Uint8Array> {
  const bytes = new Uint8Array(chain.size)
  await promised(chain.read(0, bytes))
  return bytes
}

/** Lays a new image over the disk while it is in use. @returns what the disk held at that moment */
async function snapshot(
  device: ExchangeableDevice<Chain>,
  overlay: string,
  format: string,
  pool: LayerPool,
): Promise<Uint8Array> {
  const held = new Uint8Array(device.size)
  const below = device.name
  const belowFormat = device.current.layers.at(-1)?.format
  await promised(
    device.exchange(
      function* (current): Io<Chain> {
        yield* current.read(0, held)
        // A file that is written cannot be a parent: it has to be let go first.
        yield* current.close()
        yield* settle(
          createDisk(overlay, { format, parent: below, parentFormat: belowFormat, pool }).then((made) => made.close()),
        )
        return (yield* settle(openDisk(overlay, { writable: true, pool, waiting: 'defer' }))).chain
      },
      {
        *recover() {
          return (yield* settle(openDisk(below, { writable: true, format: belowFormat, pool, waiting: 'defer' }))).chain
        },
      },
    ),
  )
  return held
}

describe.each([
  ['qcow2', 'qcow2'],
  ['raw', 'qcow2'],
  ['vhdx', 'vhdx'],
])('a disk in use: %s', (baseFormat, format) => {
  randomTest('gets layer upon layer, and loses nothing', async (random) => {
    const folder = scratchFolder()
    const at = (depth: number): string => `${folder}/layer-${depth}`
    const taken = `${folder}/taken`
    fs.writeFileSync(taken, '')
    const pool = new LayerPool()
    const base = await createDisk(at(0), { format: baseFormat, size: SIZE, pool, waiting: 'defer' })
    const device = new ExchangeableDevice(base.chain)
    const guests = new Guests(device, random)
    const states: Uint8Array[] = []
    for (let depth = 1; depth <= 3; depth++) {
      await guests.some()
      states.push(await snapshot(device, at(depth), format, pool))
      // One that cannot be made, since its file is there: all goes on with the layers there are.
      await guests.some()
      expect((await refusal(() => snapshot(device, taken, format, pool))).code).toBe('REFUSED')
    }
    await guests.some()
    await guests.leave()
    expect(device.current.layers.map((layer) => layer.name)).toEqual([at(0), at(1), at(2), at(3)])
    expect(firstDifference(await contentOf(device.current), guests.model)).toBeUndefined()
    for (const [depth, state] of states.entries()) {
      const view = await contentOf(device.current.viewAt(depth))
      expect(Buffer.compare(view, state), `layer ${depth}`).toBe(0)
    }
    await promised(device.current.close())
    expect(pool.held()).toEqual([])
    await using again = await openDisk(at(3))
    expect(again.chain.links.slice(1).every((link) => link?.level !== 'mismatch')).toBe(true)
    expect(firstDifference(await contentOf(again.chain), guests.model)).toBeUndefined()
    expect(fs.readdirSync(folder)).toEqual(['layer-0', 'layer-1', 'layer-2', 'layer-3', 'taken'])
  })
})
