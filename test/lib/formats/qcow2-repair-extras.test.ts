import { describe, expect, test } from 'vitest'
import { runSync } from '../../../lib/io/io.ts'
import type { MemoryStore } from '../../../lib/io/memory.ts'
import {
  addExtras,
  bitmapEntry,
  bitmapsExtension,
  COPIED,
  CraftedImage,
  openStore,
  PLACE,
  snapshotEntry,
} from '../../support/crafted-qcow2.ts'
import { at, C, SPAN } from '../../support/damaged-qcow2.ts'
import { refusal } from '../../support/refusal.ts'
import { contentsOf, damageOf, expectSound, repairStore } from '../../support/repairing.ts'
import { contentOf } from '../../support/stores.ts'

/** An image with a snapshot "before" and a bitmap "changes", and places of what they consist of. */
function withExtras(): { image: CraftedImage; extras: ReturnType<typeof addExtras> } {
  const image = new CraftedImage()
  return { image, extras: addExtras(image) }
}

/** Repairs, and tells what was changed; afterwards all is sound, and a second repair finds nothing. */
async function mended(image: CraftedImage): Promise<{ store: MemoryStore; codes: string[]; messages: string }> {
  const store = image.store()
  const report = await repairStore(store)
  await expectSound(store)
  expect((await repairStore(store)).done).toEqual([])
  const codes = [...new Set(report.done.map(({ code }) => code))].sort()
  return { store, codes, messages: report.done.map(({ message }) => message).join('\n') }
}

describe('snapshots that are damaged', () => {
  test('one whose table lies outside the file is dropped by its id, the others stay', async () => {
    const { image, extras } = withExtras()
    const good = snapshotEntry({ l1At: image.at(extras.snapshotL1), l1Size: 2 })
    const bad = snapshotEntry({ l1At: 1 << 30, l1Size: 2, id: '2', name: 'torn' })
    image.bytes.set(Buffer.concat([bad, good]), image.at(extras.snapshotTable))
    image.header('snapshotCount', 2)
    const { store, codes, messages } = await mended(image)
    expect(codes).toEqual(['LEAKED_CLUSTER', 'SNAPSHOT_TABLE_INVALID'])
    expect(messages).toMatch(/snapshot 2 cannot be right/)
    expect(
      openStore(store, 'read')
        .snapshots.list()
        .map(({ id }) => id),
    ).toEqual(['1'])
    expect((await contentsOf(store)).get('1')?.[0]).toBe(0xa0)
  })

  test('behind an entry that leaves the table nothing can be found: what stands before it stays', async () => {
    const { image, extras } = withExtras()
    const bad = snapshotEntry({ l1At: image.at(extras.snapshotL1), l1Size: 2, id: '2', extraSize: 0xffff })
    image.bytes.set(bad, image.at(extras.snapshotTable) + 64)
    image.header('snapshotCount', 3)
    const { store } = await mended(image)
    expect(
      openStore(store, 'read')
        .snapshots.list()
        .map(({ id }) => id),
    ).toEqual(['1'])
  })

  test('two with one L1 table: the first keeps it', async () => {
    const { image, extras } = withExtras()
    const entry = snapshotEntry({ l1At: image.at(extras.snapshotL1), l1Size: 2 })
    const twin = snapshotEntry({ l1At: image.at(extras.snapshotL1), l1Size: 2, id: '2', name: 'twin' })
    image.bytes.set(Buffer.concat([entry, twin]), image.at(extras.snapshotTable))
    image.header('snapshotCount', 2)
    const { store } = await mended(image)
    expect(
      openStore(store, 'read')
        .snapshots.list()
        .map(({ id }) => id),
    ).toEqual(['1'])
  })

  test('a wrong entry in a snapshot makes a range of that snapshot doubtful, and none of the disk', async () => {
    const { image, extras } = withExtras()
    image.u64(image.at(extras.snapshotL2) + 8, 0x123456789a00n)
    const store = image.store()
    const report = await repairStore(store)
    expect(report.doubtful).toEqual([{ offset: C, length: C, snapshot: '1' }])
    await expectSound(store)
  })

  test('damage in a table that disk and snapshot share is told of both', async () => {
    const { image, extras } = withExtras()
    image.u64(image.at(extras.snapshotL1), image.at(PLACE.l2)).count(PLACE.l2, 2).count(PLACE.data1, 2)
    image.l1(0, at(PLACE.l2)).l2(1, at(PLACE.data1) | (1n << 60n))
    const report = await repairStore(image.store())
    expect(report.doubtful).toEqual([
      { offset: C, length: C, snapshot: undefined },
      { offset: C, length: C, snapshot: '1' },
    ])
  })
})

describe('bitmaps that are damaged', () => {
  const names = (store: MemoryStore): string[] =>
    openStore(store, 'read')
      .bitmaps.list()
      .map(({ name }) => name)

  test('one that its last writer did not save is dropped, by its name', async () => {
    const { image, extras } = withExtras()
    image.bytes.set(bitmapEntry({ tableAt: image.at(extras.bitmapTable), flags: 3 }), image.at(extras.directory))
    const { store, codes, messages } = await mended(image)
    expect(codes).toEqual(['BITMAP_INVALID', 'LEAKED_CLUSTER'])
    expect(messages).toMatch(/bitmap "changes" cannot be used: it was not saved/)
    expect(names(store)).toEqual([])
    expect(Buffer.from(store.bytes()).readBigUInt64BE(88)).toBe(0n)
  })

  test('one of two whose table lies outside the file is dropped, the other keeps its bits', async () => {
    const { image, extras } = withExtras()
    const bad = bitmapEntry({ tableAt: 1 << 30, name: 'torn' })
    const good = bitmapEntry({ tableAt: image.at(extras.bitmapTable) })
    const directory = Buffer.concat([bad, good])
    image.bytes.set(directory, image.at(extras.directory))
    const extension = bitmapsExtension({ count: 2, length: directory.length, at: image.at(extras.directory) })
    image.bytes.set(extension, 112 + 8)
    const { store } = await mended(image)
    expect(names(store)).toEqual(['changes'])
    const layer = openStore(store, 'read')
    expect(runSync(layer.bitmaps.read('changes')).has(0)).toBe(true)
  })

  test('a directory that cannot be read goes, with all of them', async () => {
    const { image, extras } = withExtras()
    image.bytes.fill(0xff, image.at(extras.directory), image.at(extras.directory) + 32)
    const { store, codes } = await mended(image)
    expect(codes).toEqual(['BITMAP_DIRECTORY_INVALID', 'LEAKED_CLUSTER'])
    expect(names(store)).toEqual([])
  })

  test('a torn header, with an extension of no bitmaps', async () => {
    const { image } = withExtras()
    image.bytes.fill(0, 112 + 8, 112 + 8 + 24)
    expect(() => openStore(image.store(), 'write')).toThrow(/bitmaps/)
    const { store } = await mended(image)
    expect(names(store)).toEqual([])
  })

  test.each([
    ['leaks', 'as it was'],
    ['all', 'as it was'],
    ['leaks', 'overwritten'],
    ['all', 'overwritten'],
  ] as const)(
    'what a program left that knows no bitmaps is given back: scope "%s", directory %s',
    async (scope, how) => {
      const { image, extras } = withExtras()
      if (how === 'overwritten') image.fill(extras.directory, 0xff)
      const store = image.header('autoclear', 0).store()
      expect((await repairStore(store, scope)).count).toBeGreaterThan(0)
      await expectSound(store)
      expect(openStore(store, 'read').bitmaps.list()).toEqual([])
    },
  )

  test('one that records notes what the repair changes', async () => {
    const { image } = withExtras()
    const store = image.l2(100, at(1 << 20) | COPIED).store()
    await repairStore(store)
    const bits = runSync(openStore(store, 'read').bitmaps.read('changes'))
    expect([bits.has(0), bits.has((100 * C) / 65536), bits.count()]).toEqual([true, true, 2])
    await expectSound(store)
  })

  test('an L2 table where one has its own is kept, and called doubtful: it may be the bitmap that is right', async () => {
    const { image, extras } = withExtras()
    const { store, codes } = await mended(image.l1(0, at(extras.bitmapTable)))
    expect(codes).toContain('TABLES_OVERLAP')
    expect(names(store)).toEqual([])
  })

  test('data of the disk never lies where a bitmap has its own', async () => {
    const { image, extras } = withExtras()
    const store = image.l2(5, at(extras.bitmapData) | COPIED).store()
    const report = await repairStore(store)
    expect(report.doubtful).toEqual([{ offset: 5 * C, length: C, snapshot: undefined }])
    await expectSound(store)
    expect(runSync(openStore(store, 'read').bitmaps.read('changes')).has(0)).toBe(true)
  })
})

describe('other forms of qcow2', () => {
  test('version 2: an entry that cannot be right goes, for there is no word for zero', async () => {
    const image = new CraftedImage({ version: 2 }).l2(0, at(1 << 20) | COPIED).l2(1, at(PLACE.data1) | COPIED | 1n)
    const store = image.store()
    const report = await repairStore(store)
    expect(report.doubtful).toEqual([{ offset: 0, length: 2 * C, snapshot: undefined }])
    await expectSound(store)
    const disk = (await contentsOf(store)).get(undefined) as Buffer
    expect([disk[0], disk[C]]).toEqual([0, 0xa1])
  })

  test.each([0, 1, 2, 3, 5, 6])('counts of 2^%d bits are made anew', async (order) => {
    const image = new CraftedImage().header('refcountOrder', order)
    const block = image.at(PLACE.refcountBlock)
    image.bytes.fill(0, block, block + C)
    const store = image.store()
    const report = await repairStore(store)
    expect(report.done.map(({ code }) => code)).toEqual(['REFCOUNT_TOO_LOW'])
    await expectSound(store)
    image.header('refcountTableClusters', 0)
    const other = image.store()
    await repairStore(other)
    await expectSound(other)
    expect(Buffer.from(other.bytes()).readUInt32BE(96)).toBe(order)
  })

  test('one-bit counts: a cluster in use twice is copied, for it cannot be counted twice', async () => {
    const image = new CraftedImage().header('refcountOrder', 0)
    const block = image.at(PLACE.refcountBlock)
    image.bytes.fill(0, block, block + C).fill(0x7f, block, block + 1)
    const store = image.l2(9, at(PLACE.data0) | COPIED).store()
    const report = await repairStore(store)
    expect(report.doubtful).toEqual([
      { offset: 0, length: C, snapshot: undefined },
      { offset: 9 * C, length: C, snapshot: undefined },
    ])
    await expectSound(store)
  })

  test('extended entries: what is allocated and zero is kept, what has no place reads as zero', async () => {
    const image = new CraftedImage({ clusterBits: 14, extendedL2: true })
    const cluster = image.cluster
    image.l2(0, BigInt(image.at(PLACE.data0)) | COPIED, 0x00000001_ffffffffn)
    image.l2(1, 1n << 40n, 0x0000000f_0000fff0n)
    const store = image.store()
    const report = await repairStore(store)
    expect([...new Set(report.done.map(({ code }) => code))].sort()).toEqual([
      'L2_ENTRY_INVALID',
      'LEAKED_CLUSTER',
      'SUBCLUSTER_INVALID',
    ])
    expect(report.doubtful).toEqual([{ offset: 0, length: 2 * cluster, snapshot: undefined }])
    expect(await damageOf(store)).toEqual([])
    const disk = (await contentsOf(store)).get(undefined) as Buffer
    expect([disk[0], disk[cluster - 1], disk[cluster]]).toEqual([0xa0, 0xa0, 0])
    expect((await repairStore(store)).done).toEqual([])
  })

  test('a file cut off inside the refcount table, the L1 table, an L2 table', async () => {
    for (const [length, doubtful] of [
      [PLACE.l2 * C + 8, [[C, SPAN]]],
      [PLACE.l1 * C + 8, [[0, 2 * SPAN]]],
    ] as const) {
      const image = new CraftedImage()
      image.bytes = image.bytes.subarray(0, length)
      const store = image.store()
      const report = await repairStore(store)
      await expectSound(store)
      const named = report.doubtful.map(({ offset, length: bytes }) => [offset, offset + bytes])
      for (const range of doubtful)
        expect(named.some(([from = 0, to = 0]) => from <= range[0] && to >= range[1])).toBe(true)
      expect((await repairStore(store)).done).toEqual([])
    }
  })
})

describe('what a repair does not do', () => {
  test('give back room while there is damage: what looks lost may be what an entry should lead to', async () => {
    const image = new CraftedImage().l2(0, at(1 << 20) | COPIED)
    const store = image.store()
    const error = await refusal(() => repairStore(store, 'leaks'))
    expect(error.code).toBe('REFUSED')
    expect(Buffer.compare(contentOf(store), image.bytes)).toBe(0)
  })

  test('guess where the map of the disk is, or what a newer program means', async () => {
    for (const image of [
      new CraftedImage().header('l1TableOffset', 1 << 30),
      new CraftedImage().header('l1Size', 1),
      new CraftedImage().header('clusterBits', 30),
      new CraftedImage().header('incompatible', 1n << 40n),
      new CraftedImage().header('cryptMethod', 2),
      new CraftedImage().header('incompatible', 4),
    ]) {
      const store = image.store()
      await refusal(() => repairStore(store))
      expect(Buffer.compare(contentOf(store), image.bytes)).toBe(0)
    }
  })
})
