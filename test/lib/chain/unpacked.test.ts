import { describe, expect, test } from 'vitest'
import { UnpackedCache } from '../../../lib/chain/unpacked.ts'
import type { Packed } from '../../../lib/contracts/extent.ts'
import { convertDisk, createDisk, type Disk, finish, LayerPool, openDisk } from '../../../lib/index.ts'
import { promised, runSync } from '../../../lib/io/io.ts'
import { MemoryStore } from '../../../lib/io/memory.ts'
import type { ByteStore } from '../../../lib/io/store.ts'
import { patternFor } from '../../model/history.ts'
import { printSeed, randomTest } from '../../support/random.ts'
import { delayedStore } from '../../support/stores.ts'
import { scratchFolder } from '../../support/temp.ts'

printSeed()

const LENGTH = 4096

/** Granules of a store, which count how often they are unpacked. */
function granulesOf(store: ByteStore): { at: (number: number) => Packed; unpacked: number[] } {
  const unpacked: number[] = []
  const at = (number: number): Packed => ({
    store,
    at: number * 16,
    storedLength: 16,
    length: LENGTH,
    unpack: (stored) => {
      unpacked.push(number)
      return new Uint8Array(LENGTH).fill(stored[0] as number)
    },
  })
  return { at, unpacked }
}

function memory(): MemoryStore {
  return new MemoryStore('packed', { content: patternFor(0, 1 << 16, 3) })
}

describe('unpacked granules', () => {
  test('are kept up to a bound, and unpacked again when they had to go', () => {
    const cache = new UnpackedCache(3 * LENGTH)
    const { at, unpacked } = granulesOf(memory())
    for (const number of [0, 1, 2, 0, 1, 2]) runSync(cache.unpack(at(number)))
    expect([unpacked, cache.held]).toEqual([[0, 1, 2], 3 * LENGTH])
    for (let number = 3; number < 200; number++) {
      runSync(cache.unpack(at(number)))
      expect(cache.held).toBeLessThanOrEqual(3 * LENGTH)
    }
    runSync(cache.unpack(at(0)))
    expect(unpacked.filter((number) => number === 0).length).toBe(2)
  })

  test('stay while they are used, whatever passes by', () => {
    const cache = new UnpackedCache(4 * LENGTH)
    const { at, unpacked } = granulesOf(memory())
    for (let number = 1; number < 100; number++) {
      runSync(cache.unpack(at(0)))
      runSync(cache.unpack(at(number)))
    }
    expect(unpacked.filter((number) => number === 0).length).toBe(1)
  })

  test('larger than the bound are not kept', () => {
    const cache = new UnpackedCache(LENGTH - 1)
    const { at, unpacked } = granulesOf(memory())
    for (const number of [0, 0]) runSync(cache.unpack(at(number)))
    expect([unpacked, cache.held]).toEqual([[0, 0], 0])
  })

  test('that two want at once are kept and counted once', async () => {
    const cache = new UnpackedCache(4 * LENGTH)
    const { at } = granulesOf(delayedStore(memory(), 7))
    const both = await Promise.all([at(1), at(1), at(1)].map((packed) => promised(cache.unpack(packed))))
    expect([new Set(both).size, cache.held]).toEqual([1, LENGTH])
  })

  test('that begin at one place and are of other lengths are told apart, and only one is kept', () => {
    const cache = new UnpackedCache(4 * LENGTH)
    const { at } = granulesOf(memory())
    const long = at(1)
    const short: Packed = { ...long, length: 512, unpack: (stored) => new Uint8Array(512).fill(stored[0] as number) }
    for (const packed of [long, short, long, short]) {
      expect(runSync(cache.unpack(packed)).length).toBe(packed.length)
      expect(cache.held).toBe(packed.length)
    }
    cache.forget(long.store)
    expect(cache.held).toBe(0)
  })

  test('of one store can be forgotten, and those of others stay', () => {
    const cache = new UnpackedCache(8 * LENGTH)
    const [one, other] = [memory(), memory()]
    const [ofOne, ofOther] = [granulesOf(one), granulesOf(other)]
    for (const { at } of [ofOne, ofOther]) for (const number of [0, 1]) runSync(cache.unpack(at(number)))
    cache.forget(one)
    expect(cache.held).toBe(2 * LENGTH)
    for (const { at } of [ofOne, ofOther]) for (const number of [0, 1]) runSync(cache.unpack(at(number)))
    expect([ofOne.unpacked, ofOther.unpacked, cache.held]).toEqual([[0, 1, 0, 1], [0, 1], 4 * LENGTH])
  })
})

describe('the chains of a pool', () => {
  const SIZE = 4 << 20
  const CLUSTER = 65536

  randomTest('keep what they unpack once, within one bound, until the last of them is closed', async (random) => {
    const folder = scratchFolder()
    const [plain, packed] = [`${folder}/plain.raw`, `${folder}/packed.qcow2`]
    const content = patternFor(0, SIZE, 5)
    await using source = await createDisk(plain, { format: 'raw', size: SIZE })
    await source.write(0, content)
    await finish(convertDisk(source.chain, packed, { format: 'qcow2', compress: 'zlib' }))
    const pool = new LayerPool({ unpackedBytes: 5 * CLUSTER })
    const disks: Disk[] = []
    for (const name of ['a', 'b', 'c']) {
      const child = await createDisk(`${folder}/${name}`, { format: 'qcow2', parent: packed, parentFormat: 'qcow2' })
      await child.close()
      disks.push(await openDisk(`${folder}/${name}`, { pool, writable: name === 'a' }))
    }
    for (const disk of disks) await disk.read(0, new Uint8Array(100))
    expect(pool.unpacked.held).toBe(CLUSTER)
    for (let i = 0; i < 600; i++) {
      const length = 1 + random.below(9000)
      const offset = random.below(SIZE - length)
      const found = new Uint8Array(length)
      await random.pick(disks).read(offset, found)
      expect(Buffer.compare(found, content.subarray(offset, offset + length))).toBe(0)
      expect(pool.unpacked.held).toBeLessThanOrEqual(5 * CLUSTER)
      if (i % 100 === 0) await disks[0]?.flush()
    }
    for (const disk of disks) {
      expect(pool.unpacked.held).toBeGreaterThan(0)
      await disk.close()
    }
    expect(pool.unpacked.held).toBe(0)
  })
})
