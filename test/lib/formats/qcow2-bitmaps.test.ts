import { expect, test } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import type { InternalSnapshots } from '../../../lib/contracts/layer.ts'
import { promised, runSync } from '../../../lib/io/io.ts'
import type { MemoryStore } from '../../../lib/io/memory.ts'
import { addExtras, CraftedImage, openStore } from '../../support/crafted-qcow2.ts'
import { contentOf, failingStore, watchedStore } from '../../support/stores.ts'

const IN_USE = 1
const FLAGS_AT = 12
const GRANULARITY_AT = 17

function setBits(store: MemoryStore): number[] {
  const bits = runSync(openStore(store, 'read').bitmaps.read('changes'))
  return Array.from({ length: bits.length }, (_, i) => i).filter((i) => bits.has(i))
}

test('a revert to a snapshot of another size leaves a bitmap of that size, all of it changed', async () => {
  // A cluster of 512 bytes holds the bits of 2 MiB, so the table of the bitmap has to grow with the disk.
  const image = new CraftedImage({ clusterBits: 9 })
  const { directory } = addExtras(image)
  image.bytes[image.at(directory) + GRANULARITY_AT] = 9
  const store = image.store()
  const layer = openStore(store, 'write')
  expect(layer.size).toBe(64 << 10)
  await promised((layer.snapshots.edit as NonNullable<InternalSnapshots['edit']>).revert('before'))
  expect(layer.size).toBe(4 << 20)
  await promised(layer.close())
  expect(setBits(store)).toEqual(Array.from({ length: (4 << 20) / 512 }, (_, i) => i))
})

test('no content changes before a recording bitmap is marked as in use, however often marking fails', async () => {
  for (let index = 0; index < 6; index++) {
    const image = new CraftedImage()
    const { directory, data } = { directory: addExtras(image).directory, data: 131072 }
    const medium = image.store()
    const failing = failingStore(medium, { index, code: 'IO', kinds: ['write', 'flush'] })
    let marked: boolean | undefined
    // The first write of guest data finds the mark on the medium.
    const store = watchedStore(failing, ({ kind, length }) => {
      if (kind !== 'write' || length !== data) return
      const flags = new DataView(contentOf(medium).buffer).getUint32(image.at(directory) + FLAGS_AT)
      marked ??= (flags & IN_USE) !== 0
    })
    const chain = new Chain([openStore(store, 'write')])
    for (let attempt = 0; attempt < 3; attempt++) {
      await promised(chain.write(1 << 20, new Uint8Array(data).fill(7))).catch(() => {})
    }
    expect([index, marked]).toEqual([index, true])
  }
})
