import { describe, expect, test } from 'vitest'
import { CraftedDmg, RUN } from '../support/crafted-dmg.ts'
import {
  addExtras,
  bitmapEntry,
  bitmapsExtension,
  COPIED,
  CraftedImage,
  type FieldName,
  PLACE,
  snapshotEntry,
} from '../support/crafted-qcow2.ts'
import { scratchFolder } from '../support/temp.ts'
import { VhdxFile } from '../support/vhdx-file.ts'
import { put } from './images.ts'
import { Sandbox } from './sandbox.ts'

const sandbox = Sandbox.forThisFile()
const MIB = 1 << 20
const ITEM = {
  parameters: 'caa16737-fa36-4d43-b3b6-33f0aa44e76b',
  size: '2fa54224-cd1b-4876-b211-5dbed83bf4b8',
  logical: '8141bf1d-a96f-4709-ba47-f233a8faab5f',
}
/** The ends of what fields can hold. */
const SIZES = [0, 1, 2 ** 31 - 1, 2 ** 32 - 1]
const REFUSED = /^(LIMIT_EXCEEDED|CORRUPT|UNSUPPORTED)/

/** All uses end, and those that need the table are refused. */
async function expectRefused(file: string, options: { format?: string } = {}): Promise<void> {
  const seen = await sandbox.use(file, { ...options, uses: ['inspect', 'read', 'check', 'write'] })
  expect(seen.read).toMatch(REFUSED)
  expect(seen.write).toMatch(REFUSED)
}

describe('class 1: tables that claim to be huge', () => {
  const fields: [FieldName, readonly (number | bigint)[]][] = [
    ['l1Size', [...SIZES, 2 ** 22 + 1]],
    ['refcountTableClusters', [0, 2049, ...SIZES.slice(2)]],
    ['snapshotCount', [65537, ...SIZES.slice(2)]],
    ['size', [2n ** 53n, 2n ** 63n, 2n ** 64n - 1n]],
    ['headerLength', SIZES],
  ]
  test.each(fields.flatMap(([field, values]) => values.map((value) => [field, value] as const)))(
    'qcow2: %s of %s',
    async (field, value) => {
      await expectRefused(put(scratchFolder(), 'a', new CraftedImage().header(field, value)))
    },
  )

  test('qcow2: the largest tables that are allowed, in a file without end', async () => {
    const image = new CraftedImage().header('l1Size', 2 ** 22).header('l1TableOffset', 2 ** 33)
    image.header('refcountTableClusters', 2048).header('refcountTableOffset', 2 ** 34)
    const seen = await sandbox.use(put(scratchFolder(), 'a', image, 2 ** 40))
    expect([seen.inspect, seen.read]).toEqual(['fine', 'fine'])
  })

  /** An image with one more table, and where that lies. */
  function withTable(entries: readonly Buffer[]): { image: CraftedImage; at: number; length: number } {
    const image = new CraftedImage()
    const table = Buffer.concat(entries)
    const first = image.grow(Math.ceil(table.length / image.cluster))
    image.bytes.set(table, image.at(first))
    return { image, at: image.at(first), length: table.length }
  }

  function withSnapshots(count: number): CraftedImage {
    const entries = Array.from({ length: count }, (_, i) => snapshotEntry({ id: `${i}`, l1At: 0, l1Size: 0 }))
    const { image, at } = withTable(entries)
    return image.header('snapshotCount', count).header('snapshotsOffset', at)
  }

  test('qcow2: as many snapshots as are allowed', async () => {
    const file = put(scratchFolder(), 'a', withSnapshots(65536))
    const seen = await sandbox.use(file, { uses: ['read', 'check', 'partitions', 'write'] })
    expect(seen).toEqual({ read: 'fine', check: 'fine', partitions: 'fine', write: 'fine' })
  })

  test('qcow2: a repair of thousands of snapshots', async () => {
    const folder = scratchFolder()
    const file = put(folder, 'a', withSnapshots(16384))
    expect(await sandbox.use(file, { uses: ['repair'], mayOpen: [folder] })).toEqual({ repair: 'mends 0' })
  })

  test('qcow2: as many bitmaps as are allowed', async () => {
    const entries = Array.from({ length: 65535 }, (_, i) => bitmapEntry({ name: `${i}`, tableAt: 0, tableSize: 0 }))
    const { image, at, length } = withTable(entries)
    image.header('autoclear', 1).extension(0x23852875, bitmapsExtension({ count: entries.length, length, at }))
    const seen = await sandbox.use(put(scratchFolder(), 'a', image), { uses: ['read', 'check', 'write'] })
    expect(seen).toEqual({ read: 'fine', check: 'finds BITMAP_INCONSISTENT, BITMAP_INVALID', write: 'fine' })
  })

  test('DMG: half as many runs as are allowed', async () => {
    const image = new CraftedDmg().part('all')
    const table = image.table(-1)
    for (let i = 0; i < 1 << 17; i++) {
      table.runs.push({ kind: RUN.ignored, firstSector: i, sectorCount: 1, at: 0, storedLength: 0 })
    }
    table.sectorCount = table.runs.length
    image.trailer.push({ at: 492, width: 8, value: table.sectorCount })
    const seen = await sandbox.use(put(scratchFolder(), 'a', image.bytes()), { uses: ['read', 'check', 'partitions'] })
    expect(seen).toEqual({ read: 'fine', check: 'fine', partitions: 'fine' })
  })

  test.each([65536, 2 ** 32 - 1])('qcow2: a directory of %d bitmaps keeps writers away', async (count) => {
    const image = new CraftedImage().header('autoclear', 1)
    image.extension(0x23852875, bitmapsExtension({ count, length: 2n ** 40n, at: 4096 * 8 }))
    const seen = await sandbox.use(put(scratchFolder(), 'a', image))
    expect(seen).toMatchObject({
      inspect: 'fine',
      read: 'fine',
      check: 'finds BITMAP_DIRECTORY_INVALID, CANNOT_BE_RIGHT',
    })
    expect(seen.write).toMatch(REFUSED)
  })

  const counts: [string, number, (file: VhdxFile, value: number) => void][] = [
    ['regions', 2048, (file, value) => file.editRegions((view) => view.setUint32(8, value, true))],
    [
      'metadata items',
      2048,
      (file, value) => file.edit(file.metadata.at, 32, -1, (view) => view.setUint16(10, value, true)),
    ],
    ['bytes of log', 2 ** 32 - 1, (file, value) => file.editHeaders((view) => view.setUint32(68, value, true))],
  ]
  test.each(counts)('VHDX: too many %s', async (_, most, edit) => {
    for (const value of [most, 65535]) {
      const file = await VhdxFile.make(4 * MIB)
      edit(file, value)
      const seen = await sandbox.use(put(scratchFolder(), 'a', file), { uses: ['inspect', 'read', 'write'] })
      expect(seen.write).toMatch(REFUSED)
    }
  })

  test('VHDX: a disk of 64 TiB whose BAT is not in the file', async () => {
    const file = await VhdxFile.make(4 * MIB)
    file.edit(file.item(ITEM.size).at, 8, -1, (view) => view.setBigUint64(0, 2n ** 46n, true))
    await expectRefused(put(scratchFolder(), 'a', file))
  })
})

describe('class 2: places and lengths that overflow', () => {
  const places = [2n ** 53n, 2n ** 63n, 2n ** 64n - 4096n, 2n ** 64n - 1n]
  test.each(places)('qcow2: tables at %s', async (at) => {
    for (const field of ['l1TableOffset', 'refcountTableOffset', 'backingFileOffset'] as const) {
      await expectRefused(put(scratchFolder(), 'a', new CraftedImage().header(field, at).header('backingFileSize', 4)))
    }
  })

  test.each(places)('qcow2: an L1 table of a snapshot at %s keeps writers away', async (l1At) => {
    const image = new CraftedImage()
    const entry = snapshotEntry({ l1At, l1Size: 2 ** 22 })
    const number = image.grow(1, entry)
    image.header('snapshotCount', 1).header('snapshotsOffset', image.at(number))
    const seen = await sandbox.use(put(scratchFolder(), 'a', image))
    expect(seen).toMatchObject({ inspect: 'fine', read: 'fine', check: 'finds SNAPSHOT_TABLE_INVALID' })
    expect(seen.write).toMatch(REFUSED)
  })

  test.each(places)('VHDX: a region and a log at %s', async (at) => {
    const region = await VhdxFile.make(4 * MIB)
    region.editRegions((view) => view.setBigUint64(32, at, true))
    await expectRefused(put(scratchFolder(), 'region', region))
    const log = await VhdxFile.make(4 * MIB)
    log.editHeaders((view) => view.setBigUint64(72, at, true))
    expect((await sandbox.use(put(scratchFolder(), 'log', log), { uses: ['read', 'write'] })).write).toMatch(REFUSED)
  })
})

describe('class 3: geometry that cannot be', () => {
  test.each([0, 8, 22, 63, 2 ** 32 - 1])('qcow2: clusters of 2^%d bytes', async (bits) => {
    await expectRefused(put(scratchFolder(), 'a', new CraftedImage().header('clusterBits', bits)))
  })

  test.each([7, 63, 2 ** 32 - 1])('qcow2: counts of 2^%d bits', async (order) => {
    await expectRefused(put(scratchFolder(), 'a', new CraftedImage().header('refcountOrder', order)))
  })

  test.each([0, 1, 3 * MIB, 512 * MIB, 2 ** 31])('VHDX: blocks of %d bytes', async (size) => {
    const file = await VhdxFile.make(4 * MIB)
    file.edit(file.item(ITEM.parameters).at, 8, -1, (view) => view.setUint32(0, size, true))
    await expectRefused(put(scratchFolder(), 'a', file))
  })

  test.each([0, 3, 513, 1024])('VHDX: sectors of %d bytes', async (size) => {
    const file = await VhdxFile.make(4 * MIB)
    file.edit(file.item(ITEM.logical).at, 4, -1, (view) => view.setUint32(0, size, true))
    await expectRefused(put(scratchFolder(), 'a', file))
  })
})

describe('class 4: reserved bits, and places off their unit', () => {
  test.each([0, 8, 56, 62])('qcow2: bit %d of an L1 entry', async (bit) => {
    const image = new CraftedImage().l1(0, 0n)
    image.l1(0, BigInt(image.at(PLACE.l2)) | COPIED | (1n << BigInt(bit)))
    await expectRefused(put(scratchFolder(), 'a', image))
  })

  test.each([1, 8, 56, 61])('qcow2: bit %d of an L2 entry', async (bit) => {
    const image = new CraftedImage()
    image.l2(0, BigInt(image.at(PLACE.data0)) | COPIED | (1n << BigInt(bit)))
    await expectRefused(put(scratchFolder(), 'a', image))
  })

  test.each([5, 31, 63])('qcow2: the unknown incompatible feature %d', async (bit) => {
    await expectRefused(put(scratchFolder(), 'a', new CraftedImage().header('incompatible', 1n << BigInt(bit))))
  })

  test.each([3, 10, 19])('VHDX: bit %d of a BAT entry', async (bit) => {
    const file = await VhdxFile.make(4 * MIB)
    file.store.truncate(8 * MIB)
    file.setEntry(0, (5n << 20n) | 6n | (1n << BigInt(bit)))
    await expectRefused(put(scratchFolder(), 'a', file))
  })

  test.each([4])('VHDX: the reserved state %d', async (state) => {
    const file = await VhdxFile.make(4 * MIB)
    file.setEntry(0, BigInt(state))
    await expectRefused(put(scratchFolder(), 'a', file))
  })
})

describe('class 7: tables that lead to themselves', () => {
  test('qcow2: an L1 entry to the L1 table, an L2 entry to the L2 table, a block that counts itself away', async () => {
    const l1 = new CraftedImage()
    l1.l1(0, BigInt(l1.at(PLACE.l1)) | COPIED)
    await expectRefused(put(scratchFolder(), 'l1', l1))
    const l2 = new CraftedImage()
    l2.l2(0, BigInt(l2.at(PLACE.l2)) | COPIED)
    await expectRefused(put(scratchFolder(), 'l2', l2))
    const block = new CraftedImage()
    block.u64(block.at(PLACE.refcountTable), block.at(PLACE.refcountTable))
    expect((await sandbox.use(put(scratchFolder(), 'block', block))).write).toMatch(REFUSED)
  })

  test('qcow2: thousands of snapshots with one L1 table, which is the disk’s', async () => {
    const image = new CraftedImage()
    const entry = snapshotEntry({ l1At: image.at(PLACE.l1), l1Size: 2 })
    const table = Buffer.concat(Array.from({ length: 4000 }, () => entry))
    const number = image.grow(Math.ceil(table.length / image.cluster), table)
    image.header('snapshotCount', 4000).header('snapshotsOffset', image.at(number))
    const seen = await sandbox.use(put(scratchFolder(), 'a', image))
    expect(seen.read).toBe('fine')
    expect(seen.write).toMatch(REFUSED)
  })

  test('VHDX: a region table whose regions lie upon each other, and a BAT entry to the BAT', async () => {
    const regions = await VhdxFile.make(4 * MIB)
    const { at } = regions.bat
    regions.editRegions((view) => {
      for (const entry of [16, 48]) view.setBigUint64(entry + 16, BigInt(at), true)
    })
    await expectRefused(put(scratchFolder(), 'regions', regions))
    const entry = await VhdxFile.make(4 * MIB)
    entry.setEntry(0, BigInt(at) | 6n)
    await expectRefused(put(scratchFolder(), 'entry', entry))
  })

  test('a snapshot, a bitmap and the disk that share all their tables', async () => {
    const image = new CraftedImage()
    const places = addExtras(image)
    image.u64(image.at(places.snapshotL1), image.at(PLACE.l1))
    image.u64(image.at(places.bitmapTable), image.at(places.bitmapTable))
    const seen = await sandbox.use(put(scratchFolder(), 'a', image))
    expect(seen).toMatchObject({ inspect: 'fine', read: 'fine' })
    expect(seen.check).toMatch(/^finds /)
  })
})
