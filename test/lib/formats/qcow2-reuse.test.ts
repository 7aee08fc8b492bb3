import { expect, test } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import { qcow2 } from '../../../lib/formats/qcow2/driver.ts'
import { promised } from '../../../lib/io/io.ts'
import { create } from '../../contract/driver-contract.ts'
import { MemoryFolder } from '../../support/memory-image.ts'
import { delayedStore } from '../../support/stores.ts'

test('room that was given back is discarded before anybody can take it again', async () => {
  for (let seed = 1; seed <= 40; seed++) {
    const folder = new MemoryFolder((store) => delayedStore(store, seed))
    const chain = new Chain([
      await create(qcow2, folder, 'a', { name: '', size: 1 << 20, options: { cluster_size: '4K' } }),
    ])
    await promised(chain.write(0, new Uint8Array(65536).fill(1)))
    await promised(chain.flush())
    await promised(chain.erase(0, 65536))
    await promised(chain.flush())
    // The second flush after the erase gives the room back, while somebody is looking for some.
    const flushed = promised(chain.flush())
    const writes = Array.from({ length: 16 }, (_, i) =>
      promised(chain.write(131072 + i * 4096, new Uint8Array(4096).fill(2))),
    )
    await Promise.all([flushed, ...writes])
    const found = new Uint8Array(65536)
    await promised(chain.read(131072, found))
    expect(
      found.findIndex((byte) => byte !== 2),
      `seed ${seed}`,
    ).toBe(-1)
    await promised(chain.close())
  }
})
