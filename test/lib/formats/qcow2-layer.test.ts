import { Chain } from '../../../lib/chain/chain.ts'
import type { InternalSnapshots, Layer, Packer } from '../../../lib/contracts/layer.ts'
import { qcow2 } from '../../../lib/formats/qcow2/driver.ts'
import { promised, settle } from '../../../lib/io/io.ts'
import { create, layerCase } from '../../contract/driver-contract.ts'
import { type LayerCase, layerContract } from '../../contract/layer-contract.ts'
import { MemoryFolder } from '../../support/memory-image.ts'
import type { Random } from '../../support/random.ts'
import { contentOf } from '../../support/stores.ts'

const VARIANT = { name: '', size: (1 << 20) + 512, options: { cluster_size: '4K' } }

/** The state that a snapshot keeps, while the disk went on and overwrote much of it. */
async function snapshotOf(random: Random, isChild: boolean): Promise<LayerCase> {
  const image = await layerCase(qcow2, VARIANT, random, isChild)
  const layer = await image.open('write')
  const edit = layer.snapshots?.edit as NonNullable<InternalSnapshots['edit']>
  await promised(edit.create('kept'))
  const chain = new Chain(image.below ? [image.below, layer] : [layer])
  for (let i = 0; i < 20; i++) {
    const offset = random.below(chain.size)
    await promised(
      chain.write(offset, new Uint8Array(random.below(Math.min(60_000, chain.size - offset))).fill(200 + i)),
    )
  }
  await promised(chain.resize(700_416))
  await promised(chain.close())
  return {
    ...image,
    open: async (access, wrap) => {
      const now = await image.open(access, wrap)
      return await promised((now.snapshots as InternalSnapshots).open('kept'))
    },
  }
}

/** Clusters of all kinds side by side: compressed, plain, zero, and silent ones. */
async function packedImage(random: Random, options: Record<string, string>): Promise<LayerCase> {
  const folder = new MemoryFolder()
  const variant = { name: '', size: 1 << 20, options }
  const layer = await create(qcow2, folder, 'a', variant)
  const content = new Uint8Array(variant.size)
  const { granularity } = layer
  const packer = layer.packer as Packer
  const chain = new Chain([layer])
  for (let offset = 0; offset < variant.size; offset += granularity) {
    const granule = content.subarray(offset, offset + granularity)
    const kind = random.below(5)
    if (kind < 3) granule.fill(1 + random.below(255))
    if (kind === 0) await promised(chain.write(offset, granule))
    if (kind === 1 || kind === 2) {
      const packed = (await promised(settle(packer.pack(granule)))) as Uint8Array
      await promised(packer.store(offset, packed))
    }
    if (kind === 3) await promised(chain.erase(offset, granularity))
  }
  await promised(chain.close())
  return {
    open: (access, wrap = (store) => store): Promise<Layer> => {
      const { name, store, neighbour } = folder.image('a')
      return promised(qcow2.open({ name, store: wrap(store), neighbour }, access))
    },
    below: undefined,
    content,
    bytes: () => contentOf(folder.image('a').store),
  }
}

layerContract('a snapshot', (random) => snapshotOf(random, false), { frozen: true })
layerContract('a snapshot of a child', (random) => snapshotOf(random, true), { frozen: true })
layerContract('an image with compressed clusters', (random) => packedImage(random, { cluster_size: '16K' }))
layerContract('an image with clusters compressed by zstd', (random) =>
  packedImage(random, { cluster_size: '16K', compression_type: 'zstd' }),
)
layerContract('an image with compressed clusters beside subclusters', (random) =>
  packedImage(random, { cluster_size: '32K', extended_l2: 'on' }),
)
