import { describe, expect, test } from 'vitest'
import { Chain } from '../../../../lib/chain/chain.ts'
import type { Extent } from '../../../../lib/contracts/extent.ts'
import type { NewParent } from '../../../../lib/contracts/identity.ts'
import type { Layer } from '../../../../lib/contracts/layer.ts'
import { vhdx } from '../../../../lib/formats/vhdx/driver.ts'
import { promised } from '../../../../lib/io/io.ts'
import { checkLayer } from '../../../contract/driver-contract.ts'
import { printSeed, randomTest } from '../../../support/random.ts'
import { rawParent } from '../../../support/raw-base.ts'
import { MIB, VhdxFile } from '../../../support/vhdx-file.ts'

printSeed()

/** Twelve chunks, with blocks of 1 MiB and sectors of 512 bytes; 96 pages of BAT, most of them holes. */
const BLOCKS = 12 * 4096 - 17
const SIZE = BLOCKS * MIB

interface Run {
  readonly kind: Extent['kind']
  readonly end: number
}

/** What a layer says, asked for `length` at a time, neighbours of one kind joined. */
async function kindsOf(layer: Layer, length: number): Promise<Run[]> {
  const runs: Run[] = []
  for (let offset = 0; offset < layer.size; ) {
    const extent = await promised(layer.map(offset, Math.min(length, layer.size - offset)))
    offset += extent.length
    if (runs.at(-1)?.kind === extent.kind) runs.pop()
    runs.push({ kind: extent.kind, end: offset })
  }
  return runs
}

describe('a BAT that lies mostly in holes of the file', () => {
  const ways: [string, NewParent | undefined, Record<string, string>][] = [
    ['blocks that are not present', undefined, {}],
    ['blocks that are zero', undefined, { block_state_zero: 'on' }],
    ["a parent's blocks", rawParent(SIZE), {}],
  ]
  for (const [name, parent, options] of ways) {
    randomTest(`says in one answer what it says block by block: ${name}`, async (random) => {
      const file = await VhdxFile.make(SIZE, options, parent)
      const layer = await file.write()
      const chain = new Chain([layer])
      for (let i = 0; i < 25; i++) {
        // Around the ends of chunks and of pages of the table, and anywhere.
        const border = 512 * random.below(96) + random.below(3)
        const block = Math.min(BLOCKS - 3, random.chance(0.5) ? border : random.below(BLOCKS))
        const page = 512 * random.below(90)
        if (random.chance(0.2)) await promised(chain.erase(page * MIB, 512 * MIB * (1 + random.below(4))))
        else if (random.chance(0.25)) await promised(chain.erase(block * MIB, MIB * (1 + random.below(2))))
        else await promised(chain.write(block * MIB + 512 * random.below(4), random.bytes(512 * (1 + random.below(8)))))
        // Changes that only memory has count like those in the file.
        if (random.chance(0.2)) await promised(layer.flush())
        if (i % 8 === 0) expect(await kindsOf(layer, SIZE)).toEqual(await kindsOf(layer, MIB))
      }
      await promised(layer.close())
      const again = await file.read()
      expect(await kindsOf(again, SIZE)).toEqual(await kindsOf(again, MIB))
      await promised(again.close())
    })
  }

  test('does not lend what it says to entries that are not there', async () => {
    const file = await VhdxFile.make(SIZE, {}, rawParent(SIZE))
    const layer = await file.write()
    // Zero up to a place of the table at which both a hole and a stride of 256 KiB begin, if one asks for page 15.
    const [page15, hole] = [61440 / 8, 327680 / 8]
    await promised(new Chain([layer]).erase(0, (hole - 9) * MIB))
    await promised(layer.close())
    const again = await file.read()
    const from = (page15 - 1) * MIB
    expect(await promised(again.map(from, SIZE - from))).toEqual({ kind: 'zero', length: (hole - 9) * MIB - from })
    expect(await kindsOf(again, SIZE)).toEqual([
      { kind: 'zero', end: (hole - 9) * MIB },
      { kind: 'parent', end: SIZE },
    ])
  })

  test('is checked for sector bitmaps that a hole says are not there', async () => {
    const file = await VhdxFile.make(SIZE, {}, rawParent(SIZE))
    // Partially present, the first block of chunk 7 and the last of all. The entry of the one's bitmap lies in the next
    // 256 KiB of the table, of which nothing was ever written; the other's table ends behind it.
    const at = file.store.size()
    file.store.truncate(at + 3 * MIB)
    file.setEntry(0, BigInt(at + 2 * MIB) | 6n)
    file.setEntry(7 * 4097, BigInt(at) | 7n)
    file.setEntry(BLOCKS + 11 - 1, BigInt(at + MIB) | 7n)
    const { findings } = await checkLayer(vhdx, await file.read())
    expect(findings.filter(({ code }) => code === 'BITMAP_MISSING').map(({ message }) => message)).toEqual([
      'the sector bitmap of chunk 7 is not there, but block 28672 needs it',
      `the sector bitmap of chunk 11 is not there, but block ${BLOCKS - 1} needs it`,
    ])
  })

  test('is read where the file has room for it, and nowhere else', async () => {
    const file = await VhdxFile.make(SIZE)
    const layer = await file.write()
    for (const block of [0, 20_000, BLOCKS - 1])
      await promised(new Chain([layer]).write(block * MIB, Buffer.alloc(512, 1)))
    await promised(layer.close())
    const again = await file.read()
    const { at, length } = again.structure.bat.regions.bat
    const { store } = file
    let bytes = 0
    const read = store.read.bind(store)
    store.read = (place, target) => {
      if (place >= at && place < at + length) bytes += target.length
      return read(place, target)
    }
    expect((await checkLayer(vhdx, again)).findings).toEqual([])
    // Three places of the table hold an entry each; a file in memory takes room by 64 KiB.
    expect(bytes).toBe(3 * 65536)
  })
})
