import { describe, expect, test } from 'vitest'
import type { RepairReport } from '../../../lib/contracts/repair.ts'
import type { MemoryStore } from '../../../lib/io/memory.ts'
import {
  addExtras,
  bitmapEntry,
  bitmapsExtension,
  COMPRESSED,
  COPIED,
  CraftedImage,
  openStore,
  PLACE,
  snapshotEntry,
} from '../../support/crafted-qcow2.ts'
import { at, C, SPAN } from '../../support/damaged-qcow2.ts'
import { refusal } from '../../support/refusal.ts'
import { contentsOf, damageOf, expectSound, repairStore } from '../../support/repairing.ts'

function withExtras(): { image: CraftedImage; extras: ReturnType<typeof addExtras> } {
  const image = new CraftedImage()
  return { image, extras: addExtras(image) }
}

/** Repairs; afterwards all is sound, and a second repair finds nothing. */
async function mended(store: MemoryStore): Promise<RepairReport> {
  expect(await damageOf(store)).not.toEqual([])
  const report = await repairStore(store)
  await expectSound(store)
  expect((await repairStore(store)).done).toEqual([])
  return report
}

const codes = (report: RepairReport): string[] => [...new Set(report.done.map(({ code }) => code))].sort()

/** The first byte of a cluster of the disk. */
async function byteAt(store: MemoryStore, cluster: number): Promise<number | undefined> {
  return (await contentsOf(store)).get(undefined)?.[cluster * C]
}

const bitmapNames = (store: MemoryStore): string[] =>
  openStore(store, 'read')
    .bitmaps.list()
    .map(({ name }) => name)

describe('a snapshot table that lies where an L2 table of the disk does', () => {
  test('is none: the disk keeps what it can read', async () => {
    const { image, extras } = withExtras()
    image.l1(1, at(extras.snapshotTable))
    // Behind the snapshot's entry, entries that are as good as any.
    for (let i = 64; i < 128; i++) image.u64(image.at(extras.snapshotTable) + i * 8, at(PLACE.data1))
    const store = image.store()
    const report = await mended(store)
    expect(report.done.map(({ message }) => message).join()).toContain(
      'the snapshot table lies where another table does',
    )
    expect(openStore(store, 'read').snapshots.list()).toEqual([])
    expect([await byteAt(store, 1), await byteAt(store, SPAN / C + 64)]).toEqual([0xa1, 0xa1])
  })
})

describe('bitmaps', () => {
  test('whose directory lies in the L1 table go, with it', async () => {
    const image = new CraftedImage()
    // Behind the two entries of the L1 table: what makes it read as an entry of a directory.
    image.bytes.set(bitmapEntry({ tableAt: 0 }).subarray(16), image.at(PLACE.l1) + 16)
    image.extension(0x23852875, bitmapsExtension({ count: 1, length: 32, at: image.at(PLACE.l1) }))
    const store = image.header('autoclear', 1).store()
    await mended(store)
    expect(bitmapNames(store)).toEqual([])
    expect(await byteAt(store, 0)).toBe(0xa0)
  })

  test.each([
    ['has an entry that is no place', 12345n],
    ['leads into an L2 table', at(PLACE.l2)],
  ])('of which a table %s are dropped', async (_, entry) => {
    const { image, extras } = withExtras()
    const store = image.u64(image.at(extras.bitmapTable), entry).store()
    await mended(store)
    expect(bitmapNames(store)).toEqual([])
    expect(await byteAt(store, 0)).toBe(0xa0)
    expect(openStore(store, 'read').snapshots.list()).toHaveLength(1)
  })

  test.each([0, 2n ** 60n + 12n])('of an empty disk, whose table of nothing is at %d, go as well', async (tableAt) => {
    const { image, extras } = withExtras()
    image.header('snapshotCount', 0).header('size', 0).header('l1Size', 0).header('l1TableOffset', 0)
    const entry = bitmapEntry({ tableAt, tableSize: 0, flags: 3 })
    image.bytes.set(entry, image.at(extras.directory))
    const store = image.store()
    const report = await repairStore(store)
    expect(codes(report)).toContain('BITMAP_INVALID')
    await expectSound(store)
    expect(bitmapNames(store)).toEqual([])
  })

  test('lie where two other tables would as well: each of them is told, and one of the three is left', async () => {
    const { image, extras } = withExtras()
    image.l1(1, at(extras.snapshotL1))
    image.bytes.set(bitmapEntry({ tableAt: image.at(extras.snapshotL1) }), image.at(extras.directory))
    const store = image.store()
    await mended(store)
    expect(bitmapNames(store)).toEqual([])
    expect(openStore(store, 'read').snapshots.list()).toEqual([])
    expect(await byteAt(store, 1)).toBe(0xa1)
  })

  test('keep what is theirs from packed data, too', async () => {
    const { image, extras } = withExtras()
    const store = image.l2(5, COMPRESSED | at(extras.bitmapData)).store()
    const report = await mended(store)
    expect(report.doubtful).toEqual([{ offset: 5 * C, length: C, snapshot: undefined }])
    expect(bitmapNames(store)).toEqual(['changes'])
  })
})

describe('reference counts that are of no use are made anew', () => {
  const cases: [string, () => CraftedImage, number?][] = [
    ['their table lies where the L1 table does', () => new CraftedImage().header('refcountTableOffset', PLACE.l1 * C)],
    ['their table lies where an L2 table does', () => new CraftedImage().header('refcountTableOffset', PLACE.l2 * C)],
    ['nothing counts the header', () => new CraftedImage().u64(PLACE.refcountTable * C, 0)],
    [
      'the file ends inside their table',
      () => {
        const image = new CraftedImage()
        image.header('refcountTableOffset', image.at(image.grow(1)))
        return image
      },
      7 * C + 8,
    ],
    [
      'the file ends inside a block of them',
      () => {
        const image = new CraftedImage()
        return image.u64(PLACE.refcountTable * C, image.at(image.grow(1)))
      },
      7 * C + 64,
    ],
  ]
  test.each(cases)('%s', async (_, craft, length) => {
    const image = craft()
    if (length !== undefined) image.bytes = image.bytes.subarray(0, length)
    const store = image.store()
    await mended(store)
    expect([await byteAt(store, 0), await byteAt(store, 1), await byteAt(store, 2)]).toEqual([0xa0, 0xa1, 0])
  })

  test('but not where they would need a larger table than there may be: the old ones stay named', async () => {
    const image = new CraftedImage({ clusterBits: 9 })
    const store = image.u64(image.at(PLACE.refcountTable), 0).store(2 ** 40)
    const { code, message } = await refusal(() => repairStore(store))
    expect([code, message]).toEqual(['LIMIT_EXCEEDED', expect.stringContaining('clusters of 512 bytes are too small')])
    const named = Buffer.alloc(12)
    store.read(48, named)
    expect(named).toEqual(image.bytes.subarray(48, 60))
  })

  test('an entry whose place nothing counts any more reads as zero', async () => {
    const image = new CraftedImage().u64(PLACE.refcountTable * C, 0).l2(1, at(PLACE.data1) | COPIED | (1n << 60n))
    const store = image.store()
    const report = await mended(store)
    expect(report.doubtful).toEqual([{ offset: C, length: C, snapshot: undefined }])
    expect([await byteAt(store, 0), await byteAt(store, 1)]).toEqual([0xa0, 0])
  })
})

describe('tables', () => {
  test('an L1 entry that has nothing but reserved bits goes', async () => {
    const store = new CraftedImage().l1(1, 1n << 60n).store()
    const report = await mended(store)
    expect(report.doubtful).toEqual([{ offset: SPAN, length: SPAN, snapshot: undefined }])
  })

  test('one that disk and snapshot share, of which more is wrong than right, goes from both', async () => {
    const { image, extras } = withExtras()
    image.u64(image.at(extras.snapshotL1), at(PLACE.l2)).l1(0, at(PLACE.l2))
    image.bytes.fill(0x55, image.at(PLACE.l2), image.at(PLACE.l2) + C / 2)
    const store = image.store()
    const report = await mended(store)
    expect(report.doubtful).toEqual([
      { offset: 0, length: SPAN, snapshot: undefined },
      { offset: 0, length: SPAN, snapshot: '1' },
    ])
  })

  test('an entry that read as zero, whatever else it said, does so still: nothing is doubtful', async () => {
    const store = new CraftedImage().l2(2, 513n).store()
    const report = await mended(store)
    expect(report.doubtful).toEqual([])
    expect(await byteAt(store, 2)).toBe(0)
  })

  test('an entry behind the end of the disk is mended, and no range of the disk is doubtful', async () => {
    const image = new CraftedImage().header('size', 100 * C).l2(200, at(1 << 20) | COPIED)
    const report = await mended(image.header('l1Size', 1).store())
    expect(codes(report)).toContain('L2_ENTRY_INVALID')
    expect(report.doubtful).toEqual([])
  })
})

describe('a cluster that packed data and plain data share', () => {
  test.each([
    ['the plain one first', 0, 9],
    ['the packed one first', 9, 1],
  ])('is copied for the plain one, for packed data is never written in place: %s', async (_, plain, packed) => {
    const image = new CraftedImage()
    image.l2(0, 0n).l2(1, 0n)
    image.l2(plain, at(PLACE.data0) | COPIED).l2(packed, COMPRESSED | at(PLACE.data0))
    const store = image.store()
    const report = await mended(store)
    const ranges = [plain, packed].map((cluster) => ({ offset: cluster * C, length: C, snapshot: undefined }))
    expect(report.doubtful).toEqual(expect.arrayContaining(ranges))
    const disk = openStore(store, 'read')
    const extent = disk.map(plain * C, C).next().value as { at: number }
    expect(extent.at).not.toBe(PLACE.data0 * C)
  })

  test('or two packed ones: that is as it should be, only the count is wrong', async () => {
    const image = new CraftedImage().l2(0, COMPRESSED | at(PLACE.data0)).l2(9, COMPRESSED | (at(PLACE.data0) + 512n))
    const report = await mended(image.store())
    expect(report.doubtful).toEqual([])
    expect(codes(report)).toEqual(['REFCOUNT_TOO_LOW'])
  })

  test('counts too narrow for what a snapshot shares cannot be mended', async () => {
    const image = new CraftedImage()
    const table = image.grow(2)
    image.bytes.set(snapshotEntry({ l1At: image.at(table + 1), l1Size: 2 }), image.at(table))
    image
      .header('snapshotCount', 1)
      .header('snapshotsOffset', image.at(table))
      .u64(image.at(table + 1), at(PLACE.l2))
    image.header('refcountOrder', 0)
    const block = image.at(PLACE.refcountBlock)
    image.bytes.fill(0, block, block + C)
    const store = image.store()
    const failure = await refusal(async () => {
      await repairStore(store)
    })
    expect(failure.message).toContain('too few for what snapshots or packed data share')
    expect(Buffer.from(store.bytes()).equals(image.bytes)).toBe(true)
  })
})
