import { describe, expect, test } from 'vitest'
import { Bitmap } from '../../../lib/bytes/bitmap.ts'
import { Chain } from '../../../lib/chain/chain.ts'
import type { BitmapEditor } from '../../../lib/contracts/layer.ts'
import { VdiskError } from '../../../lib/errors.ts'
import { type DirectoryEntry, writeDirectory } from '../../../lib/formats/qcow2/bitmap-directory.ts'
import { promised } from '../../../lib/io/io.ts'
import { addExtras, COPIED, CraftedImage, openStore, PLACE } from '../../support/crafted-qcow2.ts'
import { refusal } from '../../support/refusal.ts'
import { expectSound, repairStore } from '../../support/repairing.ts'
import { contentOf, watchedStore } from '../../support/stores.ts'

const C = 4096

describe('bitmaps', () => {
  test('are not more than a directory may have: another one is refused, and takes no room', async () => {
    const store = new CraftedImage().store()
    const { header } = openStore(store, 'read').structure
    const before = contentOf(store)
    const entryOf = (_: unknown, i: number): DirectoryEntry => ({
      name: `${i}`,
      granularityBits: 16,
      tableOffset: 0,
      tableSize: 0,
      flags: 0,
      before: undefined,
    })
    const failure = await refusal(() =>
      promised(writeDirectory(header, store, Array.from({ length: 65536 }, entryOf), () => expect.fail('takes room'))),
    )
    expect(failure).toMatchObject({
      code: 'LIMIT_EXCEEDED',
      message: expect.stringContaining('Cannot keep 65536 bitmaps in crafted'),
      where: { file: 'crafted', structure: 'bitmap directory' },
      advice: expect.stringContaining('vdisk bitmap remove'),
    })
    expect(Buffer.from(contentOf(store)).equals(before)).toBe(true)
  })

  test('are not changed while others wait to be stored: the image was written to', async () => {
    const image = new CraftedImage()
    addExtras(image)
    const layer = openStore(image.store(), 'write')
    await promised(new Chain([layer]).write(0, Buffer.alloc(512, 1)))
    const edit = layer.bitmaps.edit as BitmapEditor
    for (const work of [() => edit.put('more', {}), () => edit.remove('changes')]) {
      expect(await refusal(() => promised(work()))).toMatchObject({
        code: 'REFUSED',
        message: expect.stringContaining('Cannot change the bitmaps of crafted'),
        where: { file: 'crafted' },
        advice: expect.stringContaining('Close it first'),
      })
    }
    await promised(layer.close())
  })

  test('that are put with all bits set take a table, and no data', async () => {
    const store = new CraftedImage().store()
    const layer = openStore(store, 'write')
    const bits = Bitmap.empty(1024)
    bits.fill(0, 1024)
    await promised((layer.bitmaps.edit as BitmapEditor).put('all', { granularity: C, bits }))
    await promised(layer.close())
    const [found] = openStore(store, 'read').bitmaps.list()
    expect(found).toMatchObject({ name: 'all', granularity: C })
    const read = await promised(openStore(store, 'read').bitmaps.read('all'))
    expect([read.length, read.runEnd(0, 1024), read.has(0)]).toEqual([1024, 1024, true])
    // A directory and a table.
    expect(contentOf(store).length).toBe(9 * C)
    await expectSound(store)
  })

  test('that the medium does not give are no damage: the image is not opened', async () => {
    const image = new CraftedImage()
    const directory = image.at(addExtras(image).directory)
    const store = watchedStore(image.store(), ({ kind, at }) => {
      if (kind === 'read' && at === directory) throw new VdiskError('IO', { message: 'Cannot read: a test says so' })
    })
    for (const access of ['read', 'write'] as const) {
      expect(await refusal(async () => openStore(store, access))).toMatchObject({ code: 'IO' })
    }
  })
})

describe('reference counts', () => {
  test('end where offsets do', () => {
    const { refcounts } = openStore(new CraftedImage().store(), 'write').walk
    expect(() => refcounts.reserveUpTo(2 ** 56 / C + 1)).toThrow(
      expect.objectContaining({ code: 'LIMIT_EXCEEDED', where: expect.objectContaining({ file: 'crafted' }) }),
    )
    refcounts.reserveUpTo(2 ** 56 / C)
  })

  test('of nothing need no block', async () => {
    const store = new CraftedImage().store()
    const { refcounts } = openStore(store, 'write').walk
    await promised(refcounts.set(2048 + 5, 0))
    expect(refcounts.changedBytes).toBe(0)
    await promised(refcounts.set(2048 + 5, 1))
    expect(refcounts.changedBytes).toBeGreaterThan(0)
  })
})

test('a disk that has the size it is to get is not touched', async () => {
  const writes: number[] = []
  const store = watchedStore(new CraftedImage().store(), ({ kind, at }) => {
    if (kind !== 'read') writes.push(at)
  })
  const layer = openStore(store, 'write')
  await promised(layer.resize(layer.size, 0))
  expect(writes).toEqual([])
})

test('a repair lets L1 entries be that have no place, though they say that it is used once', async () => {
  const image = new CraftedImage().l1(0, COPIED).l1(1, COPIED)
  const store = image.store()
  const { done } = await repairStore(store)
  // What the first led to before.
  expect(new Set(done.map(({ code }) => code))).toEqual(new Set(['LEAKED_CLUSTER']))
  await expectSound(store)
  const left = new DataView(contentOf(store).buffer, image.at(PLACE.l1))
  expect([left.getBigUint64(0), left.getBigUint64(8)]).toEqual([COPIED, COPIED])
})
