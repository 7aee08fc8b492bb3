import { expect, test } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import { vmdk } from '../../../lib/formats/vmdk/driver.ts'
import { promised } from '../../../lib/io/io.ts'
import { create } from '../../contract/driver-contract.ts'
import { MemoryFolder } from '../../support/memory-image.ts'
import { rawBase, rawParent } from '../../support/raw-base.ts'

const MIB = 1 << 20

interface Case {
  readonly name: string
  readonly options: Record<string, string>
  /** bytes of the disk and of its parent, and what the disk is cut to */
  readonly size: number
  readonly cut: number
}

const cases: Case[] = [
  {
    name: 'in one file, without its last tables',
    options: { grain_size: '4K' },
    size: 6 * MIB,
    cut: MIB,
  },
  {
    name: 'in one file that marks zeros, without its last tables',
    options: { grain_size: '4K', zeroed_grain: 'on' },
    size: 6 * MIB,
    cut: MIB,
  },
  {
    name: 'in several files, without the last ones',
    options: { subformat: 'twoGbMaxExtentSparse', grain_size: '8K', extent_size: '512K' },
    size: 2 * MIB,
    cut: MIB,
  },
  {
    name: 'as a delta of ESX, without its last tables',
    options: { subformat: 'vmfsSparse' },
    size: 6 * MIB,
    cut: MIB + 512,
  },
]

async function readFrom(chain: Chain, offset: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(chain.size - offset)
  await promised(chain.read(offset, bytes))
  return bytes
}

// Tables in memory are known by their number: those of what was cut off must not answer for what is grown in their place.
for (const { name, options, size, cut } of cases) {
  test(`a child ${name}, shows nothing of its parent where it is grown again`, async () => {
    const folder = new MemoryFolder()
    const base = await rawBase(size)
    const chain = new Chain([base, await create(vmdk, folder, 'a', { name, size, options }, rawParent(size))])
    // Its tables are in memory.
    expect((await readFrom(chain, cut)).some((byte) => byte !== 0)).toBe(true)
    await promised(chain.resize(cut))
    await promised(chain.resize(size))
    const zeros = new Uint8Array(size - cut)
    expect(Buffer.compare(await readFrom(chain, cut), zeros)).toBe(0)
    await promised(chain.close())
    const reopened = new Chain([await rawBase(size), await promised(vmdk.open(folder.image('a'), 'read'))])
    expect(Buffer.compare(await readFrom(reopened, cut), zeros)).toBe(0)
  })
}
