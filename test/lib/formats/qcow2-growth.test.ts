import { describe, expect, test } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import { isVdiskError } from '../../../lib/errors.ts'
import { qcow2 } from '../../../lib/formats/qcow2/driver.ts'
import type { WritableQcow2Layer } from '../../../lib/formats/qcow2/layer.ts'
import { promised } from '../../../lib/io/io.ts'
import { MemoryStore } from '../../../lib/io/memory.ts'
import { patternFor } from '../../model/history.ts'
import { NaiveDisk } from '../../model/naive-disk.ts'
import { findingsOf } from '../../support/hostile.ts'
import { MemoryFolder } from '../../support/memory-image.ts'
import { contentOf, delayedStore, failingStore, watchedStore } from '../../support/stores.ts'

/** Tables as small as can be: one block counts 64 clusters, 32 KiB of the file, and the first table 64 blocks, 2 MiB. */
const TINY = { cluster_size: '512', refcount_bits: '64' }

async function make(size: number, options: Record<string, string> = TINY): Promise<MemoryFolder> {
  const folder = new MemoryFolder()
  const shape = { size, parent: undefined, options: new Map(Object.entries(options)) }
  const layer = await promised((qcow2.create as NonNullable<typeof qcow2.create>)(folder.image('a'), shape))
  await promised(layer.close())
  return folder
}

async function open(folder: MemoryFolder, access: 'read' | 'write'): Promise<Chain> {
  return new Chain([await promised(qcow2.open(folder.image('a'), access))])
}

async function expectSound(folder: MemoryFolder, model: NaiveDisk): Promise<void> {
  const chain = await open(folder, 'read')
  const found = Buffer.alloc(chain.size)
  await promised(chain.read(0, found))
  expect(found.equals(model.bytes)).toBe(true)
  expect(await findingsOf(chain.layers[0] as WritableQcow2Layer)).toEqual([])
}

describe('a table that is longer than one block counts', () => {
  test.each([
    [2 ** 26, TINY],
    [2 ** 28, TINY],
    [2 ** 30, { cluster_size: '512' }],
    [2 ** 34, { cluster_size: '1K' }],
    [2 ** 34, TINY],
  ])('a disk of %d bytes with %j is made, and nothing of it is lost', async (size, options) => {
    const folder = await make(size, options)
    const { layers } = await open(folder, 'read')
    expect(await findingsOf(layers[0] as WritableQcow2Layer)).toEqual([])
    // L1 table and counts, and the places that the refcount table grew out of: never a multiple of them.
    expect(folder.image('a').store.size()).toBeLessThan((size / 2 ** 15) * 8 * 4 + (1 << 20))
  })

  test('finds room in a file that has holes of free clusters before', async () => {
    const folder = await make(1 << 20)
    const model = new NaiveDisk(1 << 20)
    const chain = await open(folder, 'write')
    for (let offset = 0; offset < 1 << 20; offset += 1 << 16) {
      const bytes = patternFor(offset, 1 << 15, 3)
      await promised(chain.write(offset, bytes))
      model.write(offset, bytes)
    }
    await promised(chain.erase(0, 1 << 18))
    model.erase(0, 1 << 18)
    await promised(chain.flush())
    await promised(chain.resize(2 ** 28))
    await promised(chain.close())
    const again = await open(folder, 'read')
    const found = Buffer.alloc(1 << 20)
    await promised(again.read(0, found))
    expect(found.equals(model.bytes)).toBe(true)
    expect(await findingsOf(again.layers[0] as WritableQcow2Layer)).toEqual([])
  })
})

describe('a refcount table that outgrows its place', () => {
  const SIZE = 4 << 20
  const offsets = Array.from({ length: 48 }, (_, i) => i * (SIZE / 48) - ((i * (SIZE / 48)) % 512))

  async function fill(chain: Chain, model: NaiveDisk, tolerate: boolean): Promise<void> {
    for (const offset of offsets) {
      const bytes = patternFor(offset, 60_000, offset / 512 + 1)
      for (let attempt = 0; ; attempt++) {
        try {
          await promised(chain.write(offset, bytes))
          break
        } catch (error) {
          if (!tolerate || attempt > 0 || !isVdiskError(error, 'NO_SPACE')) throw error
        }
      }
      model.write(offset, bytes)
    }
  }

  test('moves, and everything is counted once', async () => {
    const folder = await make(SIZE)
    const model = new NaiveDisk(SIZE)
    const chain = await open(folder, 'write')
    const { header } = (chain.layers[0] as WritableQcow2Layer).structure
    const before = header.refcountTableOffset
    await fill(chain, model, false)
    expect(header.refcountTableOffset).not.toBe(before)
    await promised(chain.close())
    await expectSound(folder, model)
  })

  test('whichever write fails on the way, the disk goes on and is whole at the end', async () => {
    const made = contentOf((await make(SIZE)).image('a').store)
    const [first, last] = await callsOfTheMove(made)
    expect(last - first).toBeGreaterThan(5)
    for (let index = first; index < last; index++) {
      const folder = new MemoryFolder()
      const inner = new MemoryStore('a', { content: made })
      const kinds = ['write', 'truncate']
      folder.files.set('a', failingStore(inner, { index, code: 'NO_SPACE', kinds }))
      const model = new NaiveDisk(SIZE)
      const chain = await open(folder, 'write')
      await fill(chain, model, true)
      await promised(chain.write(0, Buffer.alloc(512, 9)))
      model.write(0, Buffer.alloc(512, 9))
      try {
        await promised(chain.flush())
      } catch (error) {
        if (!isVdiskError(error, 'NO_SPACE')) throw error
      }
      await promised(chain.close())
      folder.files.set('a', inner)
      await expectSoundButForLeaks(folder, model)
    }
  })

  /** Numbers of the first and last call of the write in which the table moves. */
  async function callsOfTheMove(made: Uint8Array): Promise<[number, number]> {
    let calls = 0
    const folder = new MemoryFolder()
    const store = watchedStore(new MemoryStore('a', { content: made }), ({ kind }) => {
      if (kind === 'write' || kind === 'truncate') calls++
    })
    folder.files.set('a', store)
    const chain = await open(folder, 'write')
    const { header } = (chain.layers[0] as WritableQcow2Layer).structure
    const place = header.refcountTableOffset
    for (const offset of offsets) {
      const before = calls
      await promised(chain.write(offset, patternFor(offset, 60_000, offset / 512 + 1)))
      if (header.refcountTableOffset !== place) return [before, calls]
    }
    throw new Error('the table never moved')
  }

  /** What failed half way may have taken room: that is all that may be wrong. */
  async function expectSoundButForLeaks(folder: MemoryFolder, model: NaiveDisk): Promise<void> {
    const chain = await open(folder, 'read')
    const found = Buffer.alloc(chain.size)
    await promised(chain.read(0, found))
    expect(found.equals(model.bytes)).toBe(true)
    const findings = await findingsOf(chain.layers[0] as WritableQcow2Layer)
    expect(findings.filter((code) => code !== 'LEAKED_CLUSTER')).toEqual([])
  }
})

describe('a disk that changes its size', () => {
  test.each([1, 2, 3, 4, 5, 6, 7, 8])(
    'while others write to it on a slow store, seed %d: nothing is lost',
    async (seed) => {
      const folder = await make(1 << 20)
      folder.files.set('a', delayedStore(folder.image('a').store, seed))
      const chain = await open(folder, 'write')
      const model = new NaiveDisk(1 << 22)
      const writer = async (lane: number): Promise<void> => {
        for (let round = 0; round < 12; round++) {
          // Each in the range of an L2 table of its own, so that the L1 table changes all the time.
          const offset = (round * 4 + lane) * 21_504
          const bytes = patternFor(offset, 1024, lane * 16 + round + 1)
          model.write(offset, bytes)
          await promised(chain.write(offset, bytes))
          if (round % 5 === lane) await promised(chain.flush())
        }
      }
      await Promise.all([writer(0), writer(1), promised(chain.resize(1 << 22)), writer(2), writer(3)])
      await promised(chain.close())
      await expectSound(folder, model)
    },
  )

  test('becomes smaller before a write that waited for it: that write is out of range', async () => {
    const folder = await make(1 << 16)
    folder.files.set('a', delayedStore(folder.image('a').store, 3))
    const chain = await open(folder, 'write')
    const shrink = promised(chain.resize(1 << 12))
    const write = promised(chain.write(1 << 15, Buffer.alloc(512)))
    await shrink
    await expect(write).rejects.toMatchObject({ code: 'OUT_OF_RANGE' })
    await promised(chain.close())
  })

  test('whichever call fails on the way, it goes on with the old size or the new one', async () => {
    const made = contentOf((await make(1 << 16)).image('a').store)
    for (let index = 0; ; index++) {
      const folder = new MemoryFolder()
      const inner = new MemoryStore('a', { content: made })
      // Not a flush: after that no store ever succeeds again.
      const failing = failingStore(inner, { index, code: 'NO_SPACE', kinds: ['write', 'truncate'] })
      folder.files.set('a', failing)
      const chain = await open(folder, 'write')
      const model = new NaiveDisk(1 << 16)
      try {
        await promised(chain.resize(1 << 20))
      } catch (error) {
        if (!isVdiskError(error, 'NO_SPACE')) throw error
      }
      expect([1 << 16, 1 << 20]).toContain(chain.size)
      model.resize(chain.size)
      for (const offset of [0, 30_000, 65_000]) {
        const bytes = patternFor(offset, 500, 7)
        model.write(offset, bytes)
        try {
          await promised(chain.write(offset, bytes))
        } catch (error) {
          if (!isVdiskError(error, 'NO_SPACE')) throw error
          await promised(chain.write(offset, bytes))
        }
      }
      try {
        await promised(chain.flush())
      } catch (error) {
        if (!isVdiskError(error, 'NO_SPACE')) throw error
      }
      await promised(chain.close())
      folder.files.set('a', inner)
      const again = await open(folder, 'read')
      const found = Buffer.alloc(again.size)
      await promised(again.read(0, found))
      expect([index, again.size, found.equals(model.bytes)]).toEqual([index, model.bytes.length, true])
      if (!failing.fired) break
    }
  })

  test('from nothing: the empty L1 table leaves nothing behind', async () => {
    const folder = await make(0)
    const chain = await open(folder, 'write')
    await promised(chain.resize(1 << 20))
    await promised(chain.close())
    await expectSound(folder, new NaiveDisk(1 << 20))
  })
})
