import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { Bitmap } from '../../../lib/bytes/bitmap.ts'
import { Chain } from '../../../lib/chain/chain.ts'
import type { BitmapEditor, InternalSnapshots } from '../../../lib/contracts/layer.ts'
import { VdiskError } from '../../../lib/errors.ts'
import {
  addBitmap,
  checkImage,
  createDisk,
  finish,
  inspectImage,
  removeBitmap,
  resizeDisk,
} from '../../../lib/index.ts'
import { promised, runSync } from '../../../lib/io/io.ts'
import type { MemoryStore } from '../../../lib/io/memory.ts'
import {
  addExtras,
  bitmapEntry,
  bitmapsExtension,
  COPIED,
  CraftedImage,
  openStore,
  PLACE,
} from '../../support/crafted-qcow2.ts'
import { findingsOf } from '../../support/hostile.ts'
import { refusal } from '../../support/refusal.ts'
import { contentOf, failingStore, watchedStore } from '../../support/stores.ts'
import { scratchFolder } from '../../support/temp.ts'

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

describe('bitmaps of an image that is in use', () => {
  /** An image with bits of 64 KiB each: bit 0 of "changes" is set. @param flags 2: it records */
  function withBitmap(flags = 2): { image: CraftedImage; extras: ReturnType<typeof addExtras> } {
    const image = new CraftedImage()
    const extras = addExtras(image)
    image.u32(image.at(extras.directory) + FLAGS_AT, flags)
    return { image, extras }
  }

  test('are read as they are in memory, with what was written since', async () => {
    const store = withBitmap().image.store()
    const layer = openStore(store, 'write')
    await promised(new Chain([layer]).write(3 << 16, new Uint8Array(512)))
    const bits = runSync(layer.bitmaps.read('changes'))
    expect([0, 1, 2, 3].map((bit) => bits.has(bit))).toEqual([true, false, false, true])
    expect(layer.bitmaps.list()[0]?.consistent).toBe(false)
    await promised(layer.close())
    expect(setBits(store)).toEqual([0, 3])
  })

  test('that do not record keep their bits, through a resize and whatever is written after it', async () => {
    const { image } = withBitmap(0)
    const store = image.store()
    const layer = openStore(store, 'write')
    await promised(layer.resize(8 << 20, 0))
    await promised(new Chain([layer]).write(5 << 16, new Uint8Array(512).fill(1)))
    await promised(layer.close())
    expect(setBits(store)).toEqual([0])
    expect(runSync(openStore(store, 'read').bitmaps.read('changes')).length).toBe((8 << 20) >> 16)
  })

  test('that have no data yet get some with the first bit, and none for what is all set or all clear', async () => {
    for (const [entry, before] of [
      [0n, []],
      [1n, Array.from({ length: 64 }, (_, i) => i)],
    ] as const) {
      const { image, extras } = withBitmap()
      const store = image.u64(image.at(extras.bitmapTable), entry).count(extras.bitmapData, 0).store()
      expect(setBits(store)).toEqual(before)
      const layer = openStore(store, 'write')
      await promised(new Chain([layer]).write(7 << 16, new Uint8Array(512).fill(1)))
      await promised(layer.close())
      expect(setBits(store)).toEqual(before.length === 0 ? [7] : before)
      expect(await findingsOf(openStore(store, 'read'))).toEqual([])
    }
  })

  test('that are all clear and do not record take no data when they are stored anew', async () => {
    const { image, extras } = withBitmap(0)
    const store = image.u64(image.at(extras.bitmapTable), 0).count(extras.bitmapData, 0).store()
    const layer = openStore(store, 'write')
    await promised(layer.resize(8 << 20, 0))
    await promised(layer.close())
    expect(setBits(store)).toEqual([])
    expect(await findingsOf(openStore(store, 'read'))).toEqual([])
  })

  test('of a disk that loses all its bytes are empty; those that it gets count as changed', async () => {
    const image = new CraftedImage()
    const { directory, snapshotTable, snapshotL1, snapshotL2 } = addExtras(image)
    image.header('snapshotCount', 0).header('snapshotsOffset', 0).count(PLACE.data0, 1)
    for (const number of [snapshotTable, snapshotL1, snapshotL2]) image.count(number, 0)
    image.l2(0, BigInt(image.at(PLACE.data0)) | COPIED)
    const store = image.store()
    const layer = openStore(store, 'write')
    await promised(layer.resize(0, 0))
    await promised(layer.close())
    expect(setBits(store)).toEqual([])
    expect(new DataView(contentOf(store).buffer).getUint32(image.at(directory) + 8)).toBe(0)
    const again = openStore(store, 'write')
    await promised(again.resize(1 << 20, 0))
    await promised(new Chain([again]).write(2 << 16, new Uint8Array(512).fill(1)))
    await promised(again.close())
    expect(setBits(store)).toEqual(Array.from({ length: 16 }, (_, bit) => bit))
    expect(await findingsOf(openStore(store, 'read'))).toEqual([])
  })

  test('whose data the file does not have to the end cannot be read, and stay marked when something is written', async () => {
    const { image, extras } = withBitmap()
    image.bytes = image.bytes.subarray(0, image.at(extras.bitmapData) + 4)
    const store = image.store()
    expect(() => setBits(store)).toThrow('entry 0 of its table')
    const layer = openStore(store, 'write')
    await promised(new Chain([layer]).write(0, new Uint8Array(512).fill(1)))
    await promised(layer.close())
    expect(openStore(store, 'read').bitmaps.list()).toMatchObject([{ name: 'changes', consistent: false }])
    expect(() => setBits(store)).toThrow('not saved by its last writer')
  })

  test('that cannot be read because the medium fails keep the write from beginning', async () => {
    const { image, extras } = withBitmap()
    const medium = image.store()
    let broken = true
    const store = watchedStore(medium, ({ kind, at: place }) => {
      if (!broken || kind !== 'read' || place !== image.at(extras.bitmapTable)) return
      throw new VdiskError('IO', { message: 'Cannot read: a test says so', where: {} })
    })
    const chain = new Chain([openStore(store, 'write')])
    await expect(promised(chain.write(1 << 20, new Uint8Array(512).fill(1)))).rejects.toMatchObject({ code: 'IO' })
    expect(Buffer.from(contentOf(medium)).equals(image.bytes)).toBe(true)
    broken = false
    await promised(chain.write(1 << 20, new Uint8Array(512).fill(1)))
    await promised(chain.close())
    expect(setBits(medium)).toEqual([0, 16])
  })

  test('that would take too much memory say that they know nothing any more', async () => {
    // One bit for 512 bytes of 300 GiB: 75 MiB.
    const size = 300 * 2 ** 30
    const image = new CraftedImage({ clusterBits: 16 })
    const { directory, bitmapTable } = addExtras(image)
    image.header('snapshotCount', 0).header('snapshotsOffset', 0).header('size', size)
    const clusters = Math.ceil(size / 512 / 8 / 65536)
    const table = image.grow(1)
    image.header('l1Size', Math.ceil(size / (8192 * 65536))).header('l1TableOffset', image.at(table))
    image.u64(image.at(table), BigInt(image.at(PLACE.l2)) | COPIED)
    const entry = bitmapEntry({ tableAt: image.at(bitmapTable), tableSize: clusters, granularityBits: 9 })
    image.bytes.set(entry, image.at(directory))
    const store = image.store()
    const layer = openStore(store, 'write')
    expect(layer.bitmaps.list()).toMatchObject([{ consistent: true }])
    await promised(new Chain([layer]).write(1 << 20, new Uint8Array(512).fill(1)))
    await promised(layer.close())
    expect(openStore(store, 'read').bitmaps.list()).toMatchObject([{ consistent: false }])
  })
})

describe('a directory of bitmaps', () => {
  test('whose second entry leaves it is not read', () => {
    const image = new CraftedImage()
    const { directory, bitmapTable } = addExtras(image)
    const long = bitmapEntry({ tableAt: image.at(bitmapTable), name: 'a name of 30 characters, or so.' })
    image.bytes.set(long, image.at(directory))
    image.bytes.set(bitmapsExtension({ count: 2, length: long.length + 8, at: image.at(directory) }), 112 + 8)
    const { bitmaps } = openStore(image.store(), 'read')
    expect(() => runSync(bitmaps.read('changes'))).toThrow('entry 1 leaves the directory')
  })

  test.each([
    ['that may be ignored', 2 | 4, true],
    ['that must be known', 2, false],
  ])('whose entry has extra data %s', (_, flags, consistent) => {
    const image = new CraftedImage()
    const { directory, bitmapTable } = addExtras(image)
    const entry = Buffer.alloc(40)
    bitmapEntry({ tableAt: image.at(bitmapTable), flags, extraSize: 8 }).copy(entry, 0, 0, 24)
    entry.write('changes', 32, 'latin1')
    image.bytes.set(entry, image.at(directory))
    image.bytes.set(bitmapsExtension({ count: 1, length: 40, at: image.at(directory) }), 112 + 8)
    const { bitmaps } = openStore(image.store(), 'read')
    expect(bitmaps.list()).toMatchObject([{ name: 'changes', consistent }])
    if (consistent) expect(runSync(bitmaps.read('changes')).has(0)).toBe(true)
    else expect(() => runSync(bitmaps.read('changes'))).toThrow('extra data')
  })
})

describe('a bitmap is not changed', () => {
  const editorOf = (image: CraftedImage): BitmapEditor => openStore(image.store(), 'write').bitmaps.edit as BitmapEditor
  const withFlags = (flags: number): CraftedImage => {
    const image = new CraftedImage()
    image.u32(image.at(addExtras(image).directory) + FLAGS_AT, flags)
    return image
  }

  test('that is not there; which there are is told', async () => {
    const error = await refusal(() => promised(editorOf(withFlags(0)).remove('other')))
    expect(error).toMatchObject({ code: 'NOT_FOUND', advice: 'It has: changes.' })
    const none = await refusal(() => promised(editorOf(new CraftedImage()).remove('other')))
    expect(none).toMatchObject({ code: 'NOT_FOUND', advice: 'It has no bitmaps.' })
  })

  test('that is not there, where there are very many: some of them are told', async () => {
    const image = new CraftedImage()
    const entries = Array.from({ length: 25 }, (_, i) => bitmapEntry({ name: `b${i}`, tableAt: 0, tableSize: 0 }))
    const table = Buffer.concat(entries)
    const at = image.at(image.grow(1, table))
    image.header('autoclear', 1).extension(0x23852875, bitmapsExtension({ count: 25, length: table.length, at }))
    const { advice } = await refusal(() => promised(editorOf(image).remove('other')))
    expect(advice).toMatch(/^It has: b0, b1, .*, b19, and 5 more\.$/)
  })

  test('that its last writer did not save, but for one with other bits', async () => {
    const image = withFlags(IN_USE)
    const error = await refusal(() => promised(editorOf(image).put('changes', { enabled: true })))
    expect(error.code).toBe('CORRUPT')
    expect(error.message).toContain('it was not saved by its last writer')
    const store = image.store()
    const layer = openStore(store, 'write')
    const bits = Bitmap.empty(64)
    bits.fill(5, 6)
    await promised((layer.bitmaps.edit as BitmapEditor).put('changes', { bits, granularity: 65_536 }))
    await promised(layer.close())
    expect(setBits(store)).toEqual([5])
  })
})

test('a disk of no bytes has bitmaps of no bits, which grow with it', async () => {
  const file = path.join(scratchFolder(), 'disk.qcow2')
  await (await createDisk(file, { format: 'qcow2', size: 0 })).close()
  await addBitmap(file, 'nightly')
  await addBitmap(file, 'other', { granularity: 4096 })
  expect((await inspectImage(file)).bitmaps).toMatchObject([{ name: 'nightly' }, { name: 'other', granularity: 4096 }])
  expect((await finish(checkImage(file))).findings).toEqual([])
  await removeBitmap(file, 'other')
  await resizeDisk(file, 1 << 20)
  expect((await inspectImage(file)).bitmaps).toMatchObject([{ name: 'nightly', consistent: true }])
  expect((await finish(checkImage(file))).findings).toEqual([])
})
