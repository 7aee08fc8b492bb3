import { describe, expect } from 'vitest'
import { Chain } from '../../../../lib/chain/chain.ts'
import { vhd } from '../../../../lib/formats/vhd/driver.ts'
import { promised } from '../../../../lib/io/io.ts'
import { MemoryStore } from '../../../../lib/io/memory.ts'
import { create } from '../../../contract/driver-contract.ts'
import { MemoryFolder } from '../../../support/memory-image.ts'
import { printSeed, type Random, randomTest } from '../../../support/random.ts'
import { rawBase, rawParent } from '../../../support/raw-base.ts'
import { countingStore } from '../../../support/stores.ts'

printSeed()

const SIZE = 256 << 20
const WRITES = 200
const LENGTH = 4096

/** Bytes that reach the image file for each byte that the guest writes: first writes, each so many made durable. */
async function costOf(random: Random, parent: boolean, every: number): Promise<number> {
  const folder = new MemoryFolder()
  const { store, counts } = countingStore(new MemoryStore('a'))
  folder.files.set('a', store)
  const below = parent ? [await rawBase(4 << 20)] : []
  const variant = { name: '', size: SIZE, options: { block_size: '2M' } }
  const layer = await create(vhd, folder, 'a', variant, parent ? rawParent(4 << 20) : undefined)
  const chain = new Chain([...below, layer])
  const before = counts.write?.bytes ?? 0
  const places = new Set<number>()
  while (places.size < WRITES) places.add(random.below(SIZE / LENGTH) * LENGTH)
  let done = 0
  for (const offset of places) {
    await promised(chain.write(offset, new Uint8Array(LENGTH).fill(1)))
    if (++done % every === 0) await promised(chain.flush())
  }
  const written = (counts.write?.bytes ?? 0) - before
  await promised(chain.close())
  return written / (WRITES * LENGTH)
}

describe('first writes of 4 KiB', () => {
  for (const [parent, every] of [
    [false, 1],
    [false, 100],
    [true, 1],
    [true, 100],
  ] as const) {
    const what = `${parent ? 'of a child' : 'of a disk alone'}, a flush after ${every === 1 ? 'each' : every}`
    randomTest(`${what}, cost at most 1.6 times what is written`, async (random) => {
      const cost = await costOf(random, parent, every)
      console.info(`${what}: ${cost.toFixed(2)}x`)
      expect(cost).toBeLessThanOrEqual(1.6)
    })
  }
})
