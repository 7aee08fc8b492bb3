import { describe, expect, test } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import { windowFrom } from '../../../lib/formats/qcow2/census-window.ts'
import { qcow2 } from '../../../lib/formats/qcow2/driver.ts'
import { RootTable } from '../../../lib/formats/qcow2/root-table.ts'
import { promised } from '../../../lib/io/io.ts'
import { patternFor } from '../../model/history.ts'
import { COPIED, CraftedImage, openStore } from '../../support/crafted-qcow2.ts'
import { findingsOf } from '../../support/hostile.ts'
import { MemoryFolder } from '../../support/memory-image.ts'
import { refusal } from '../../support/refusal.ts'

const C = 4096
const MIB = 1 << 20
const GIB = 2 ** 30

describe('a window of counts', () => {
  /** How many of 2^30 clusters are counted at once from cluster `first` on, where these entries of the table lead to blocks. */
  function windowOf(first: number, blocks: readonly number[]): number {
    const { header } = openStore(new CraftedImage().store(), 'read').structure
    const table = new RootTable(C, new Uint8Array(2 ** 20 * 8))
    for (const index of blocks) table.set(index, C)
    return windowFrom(first, 2 ** 30, header, table)
  }

  test('does not go on over a hole: room for counts that nobody has is room all the same', () => {
    expect(windowOf(0, [0])).toBe(4 * MIB)
    expect(windowOf(0, [0, 4096])).toBe(4 * MIB)
    expect(windowOf(2 ** 30 - 5, [0])).toBe(5)
  })

  test('is large where there are counts', () => {
    expect(windowOf(0, [...Array(2 ** 14).keys()])).toBe(16 * MIB)
    expect(windowOf(3000, [0, 1000, 2000, 3000])).toBe(3001 * 2048 - 3000)
  })
})

describe('a table of reference counts', () => {
  test('grows while counts are made anew, for data behind all that it could count', async () => {
    const image = new CraftedImage({ clusterBits: 9 })
    // One cluster of table leads to 64 blocks of 256 counts: 8 MiB.
    image.l2(1, BigInt(9 * MIB) | COPIED)
    image.header('incompatible', 1)
    const store = image.store(9 * MIB + 512)
    store.write(9 * MIB, Buffer.alloc(512, 0x77))
    const layer = openStore(store, 'write')
    expect(layer.details.dirty).toBe(false)
    const chain = new Chain([layer])
    await promised(chain.write(5 * 512, Buffer.alloc(512, 0x55)))
    await promised(chain.close())
    const again = openStore(store, 'read')
    const found = Buffer.alloc(6 * 512)
    await promised(new Chain([again]).read(0, found))
    expect([0, 1, 2, 5].map((cluster) => found[cluster * 512])).toEqual([0xa0, 0x77, 0, 0x55])
    expect(await findingsOf(again)).toEqual([])
  })

  test('that would be larger than tables may be is refused, and the disk is what it was', async () => {
    const folder = new MemoryFolder()
    const options = new Map(Object.entries({ cluster_size: '512', refcount_bits: '64' }))
    const create = qcow2.create as NonNullable<typeof qcow2.create>
    await promised((await promised(create(folder.image('a'), { size: 4 * MIB, parent: undefined, options }))).close())
    // Nobody counts what lies behind: only the file is so long that its end cannot be counted in a table of 8 MiB.
    const { store } = folder.image('a')
    await store.truncate(33 * GIB)
    const chain = new Chain([await promised(qcow2.open(folder.image('a'), 'write'))])
    let written = 0
    const failure = await refusal(async () => {
      for (; written < 4 * MIB; written += 1 << 16) {
        await promised(chain.write(written, patternFor(written, 1 << 16, 7)))
      }
    })
    expect(failure).toMatchObject({ code: 'LIMIT_EXCEEDED' })
    expect(failure.message).toContain('longer than it can count')
    await promised(chain.close())
    const again = new Chain([await promised(qcow2.open(folder.image('a'), 'read'))])
    const found = Buffer.alloc(written)
    await promised(again.read(0, found))
    for (let offset = 0; offset < written; offset += 1 << 16) {
      expect(found.subarray(offset, offset + (1 << 16)).equals(patternFor(offset, 1 << 16, 7))).toBe(true)
    }
    expect((await findingsOf(again.layers[0] as never)).filter((code) => code !== 'LEAKED_CLUSTER')).toEqual([])
  })

  test('without a block for the header is refused for writing, and can be read', async () => {
    const image = new CraftedImage().u64(4096, 0)
    const failure = await refusal(async () => {
      const chain = new Chain([openStore(image.store(), 'write')])
      await promised(chain.write(8 * 4096, Buffer.alloc(4096, 1)))
    })
    expect(failure.code).toBe('CORRUPT')
    const found = Buffer.alloc(4096)
    await promised(new Chain([openStore(image.store(), 'read')]).read(0, found))
    expect(found.every((byte) => byte === 0xa0)).toBe(true)
  })

  test.each([
    ['past the end of the file', 1 << 30],
    ['inside a cluster', 2 * 4096 + 512],
  ])('that leads %s is refused for writing, and can be read', async (_, place) => {
    const image = new CraftedImage().u64(4096, place)
    const failure = await refusal(async () => openStore(image.store(), 'write'))
    expect(failure.code).toBe('CORRUPT')
    const found = Buffer.alloc(4096)
    await promised(new Chain([openStore(image.store(), 'read')]).read(4096, found))
    expect(found.every((byte) => byte === 0xa1)).toBe(true)
  })
})
