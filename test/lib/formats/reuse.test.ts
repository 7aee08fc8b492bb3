import { describe, expect, test } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import type { FormatDriver } from '../../../lib/contracts/driver.ts'
import type { WritableLayer } from '../../../lib/contracts/layer.ts'
import { qcow2 } from '../../../lib/formats/qcow2/driver.ts'
import type { WritableQcow2Layer } from '../../../lib/formats/qcow2/layer.ts'
import { WriteBack } from '../../../lib/formats/qcow2/write-back.ts'
import { vhdx } from '../../../lib/formats/vhdx/driver.ts'
import type { WritableVhdxLayer } from '../../../lib/formats/vhdx/layer.ts'
import { type Io, promised, settle } from '../../../lib/io/io.ts'
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

/** Both formats write tables back between flushes, where they grow large or a rebuild asks for it. */
const WRITE_BACKS: [string, FormatDriver, (layer: WritableLayer) => Io<void>][] = [
  [
    'qcow2',
    qcow2,
    (layer) => {
      const { structure, refcounts, allocation } = layer as WritableQcow2Layer
      return new WriteBack(structure.mapping, refcounts, allocation).relieve()
    },
  ],
  ['vhdx', vhdx, (layer) => (layer as WritableVhdxLayer).commit()],
]

describe.each(WRITE_BACKS)('%s', (_, driver, writeBack) => {
  const GRANULE = 1 << 20

  test('room given up since the last flush stays untouched in the next: readers may have come after it was begun', async () => {
    const options = driver === qcow2 ? { cluster_size: '1M' } : { block_size: '1M' }
    const layer = await create(driver, new MemoryFolder(), 'a', { name: '', size: 64 << 20, options })
    const chain = new Chain([layer])
    const placeOf = async (offset: number): Promise<number> => {
      const extent = await promised(layer.map(offset, GRANULE))
      return extent.kind === 'data' ? extent.at : -1
    }
    await promised(chain.write(0, new Uint8Array(GRANULE).fill(1)))
    await promised(chain.flush())
    const place = await placeOf(0)
    await promised(chain.erase(0, GRANULE))
    // Tables are written back while a flush waits for older readers.
    await promised(writeBack(layer))
    const before = new Uint8Array(GRANULE)
    await promised(layer.flush())
    await promised(settle(layer.store.read(place, before)))
    expect(before.every((byte) => byte === 1)).toBe(true)
    await promised(chain.write(8 * GRANULE, new Uint8Array(GRANULE).fill(2)))
    expect(await placeOf(8 * GRANULE)).not.toBe(place)
    // One flush later nobody can be on the way to it any more.
    await promised(layer.flush())
    await promised(chain.write(16 * GRANULE, new Uint8Array(GRANULE).fill(3)))
    expect(await placeOf(16 * GRANULE)).toBe(place)
    await promised(chain.close())
  })
})
