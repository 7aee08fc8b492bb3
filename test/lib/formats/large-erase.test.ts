import { expect, test } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import type { FormatDriver } from '../../../lib/contracts/driver.ts'
import { vdi } from '../../../lib/formats/vdi/driver.ts'
import { vhdx } from '../../../lib/formats/vhdx/driver.ts'
import { promised } from '../../../lib/io/io.ts'
import { create } from '../../contract/driver-contract.ts'
import { MemoryFolder } from '../../support/memory-image.ts'
import { rawParent } from '../../support/raw-base.ts'
import { watchedStore } from '../../support/stores.ts'

const TIB = 2 ** 40

const CASES: readonly (readonly [string, FormatDriver, Record<string, string>, number])[] = [
  ['VDI', vdi, {}, 4 << 20],
  ['VHDX', vhdx, { block_size: '1M' }, 9 << 20],
]

test.each(CASES)(
  'all of a child of 1 TiB, %s, is given up without reading its table again and again',
  async (_, driver, options, table) => {
    let read = 0
    const folder = new MemoryFolder((store) =>
      watchedStore(store, ({ kind, length }) => {
        if (kind === 'read') read += length
      }),
    )
    const layer = await create(driver, folder, 'a', { name: '', size: TIB, options }, rawParent(TIB))
    const chain = new Chain([layer])
    read = 0
    await promised(chain.erase(0, TIB))
    expect(read).toBeLessThan(3 * table)
    expect(await promised(layer.map(0, TIB))).toMatchObject({ kind: 'zero', length: TIB })
  },
)
