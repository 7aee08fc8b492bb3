import { describe, expect, test } from 'vitest'
import { crc32c } from '../../../lib/bytes/crc32c.ts'
import { Chain } from '../../../lib/chain/chain.ts'
import { CreateOptions } from '../../../lib/contracts/create-options.ts'
import { isVdiskError } from '../../../lib/errors.ts'
import { createOptions } from '../../../lib/formats/qcow2/create.ts'
import { runSync } from '../../../lib/io/io.ts'
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
import { BUDGET, failureOf, findingsOf, memoryOf, placeOf, SLACK } from '../../support/hostile.ts'
import { damageOf } from '../../support/repairing.ts'
import { countingStore } from '../../support/stores.ts'

const C = 4096
const M31 = 2 ** 31 - 1
const M32 = 2 ** 32 - 1
const M64 = 2n ** 64n - 1n
const ENDLESS = 2 ** 52

/** Reads of the disk go on whatever is wrong beside it. */
function expectDisk(image: CraftedImage, fileSize?: number): void {
  const target = Buffer.alloc(4)
  runSync(new Chain([openStore(image.store(fileSize), 'read')]).read(C, target))
  expect(target).toEqual(Buffer.alloc(4, 0xa1))
}

describe('a snapshot table that cannot be right', () => {
  /** An image whose snapshot table holds these entries. */
  function withSnapshots(...entries: Buffer[]): CraftedImage {
    const image = new CraftedImage()
    const number = image.grow(Math.ceil(Buffer.concat(entries).length / C), Buffer.concat(entries))
    return image.header('snapshotCount', entries.length).header('snapshotsOffset', image.at(number))
  }
  const usual = { l1At: 0, l1Size: 0 }

  test.each([
    [1024, 'CORRUPT, snapshot table, entry 0, at 28672'],
    [1025, 'CORRUPT, snapshot table, entry 0, at 28672'],
    [M31, 'CORRUPT, snapshot table, entry 0, at 28672'],
    [M32, 'CORRUPT, snapshot table, entry 0, at 28672'],
  ])('extra data of %d bytes in a file that ends before: %s', async (extraSize, expected) => {
    const image = withSnapshots(snapshotEntry({ ...usual, extraSize }))
    image.bytes = image.bytes.subarray(0, image.at(7) + 64)
    expect(placeOf(failureOf(() => openStore(image.store(), 'write')))).toBe(expected)
    const layer = openStore(image.store(), 'read')
    expect(layer.snapshots.list()).toEqual([])
    expect(placeOf(failureOf(() => runSync(layer.snapshots.open('1'))))).toBe(expected)
    expect(await findingsOf(layer)).toContain('SNAPSHOT_TABLE_INVALID')
    expectDisk(image)
  })

  test.each([1025, M31, M32])('extra data of %d bytes in a file without end costs no memory', (extraSize) => {
    const image = withSnapshots(snapshotEntry({ ...usual, extraSize }))
    const { store, counts } = countingStore(image.store(ENDLESS))
    expect(memoryOf(() => openStore(store, 'inspect'))).toBeLessThan(SLACK)
    expect(counts.read?.bytes).toBeLessThan(1 << 20)
  })

  test('more entries than there are', () => {
    const image = withSnapshots(snapshotEntry(usual)).header('snapshotCount', 1000)
    expect(placeOf(failureOf(() => openStore(image.store(), 'write')))).toMatch(/^CORRUPT, snapshot table, entry \d+/)
    expectDisk(image)
  })

  const flawed: [string, Partial<Parameters<typeof snapshotEntry>[0]>][] = [
    ['an L1 table of 2^22 + 1 entries', { l1At: 2 ** 40, l1Size: 2 ** 22 + 1 }],
    ['an L1 table of 2^31 - 1 entries', { l1At: 2 ** 40, l1Size: M31 }],
    ['an L1 table of 2^32 - 1 entries', { l1At: 2 ** 40, l1Size: M32 }],
    ['an L1 table in the header', { l1At: 0, l1Size: 1 }],
    ['an L1 table off a cluster', { l1At: 5 * C + 512, l1Size: 1 }],
    ['an L1 table at 2^63', { l1At: 2n ** 63n, l1Size: 1 }],
    ['an L1 table at the end of all numbers', { l1At: M64 - 4095n, l1Size: 1 }],
    ['a disk of 2^53 bytes', { diskSize: 2 ** 53 }],
    ['a disk of 2^63 bytes', { diskSize: 2n ** 63n }],
    ['a disk of 2^64 - 1 bytes', { diskSize: M64 }],
  ]
  test.each(flawed)('%s: the snapshot is listed and never used', async (_, entry) => {
    const image = withSnapshots(snapshotEntry({ ...usual, ...entry }))
    const place = 'CORRUPT, snapshot table, at'
    expect(
      memoryOf(() => {
        const layer = openStore(image.store(ENDLESS), 'read')
        expect(layer.snapshots.list()).toHaveLength(1)
        expect(placeOf(failureOf(() => runSync(layer.snapshots.open('before'))))).toContain(place)
        expect(placeOf(failureOf(() => openStore(image.store(ENDLESS), 'write')))).toContain(place)
      }),
    ).toBeLessThan(SLACK)
    expect(await findingsOf(openStore(image.store(), 'read'))).toContain('SNAPSHOT_TABLE_INVALID')
    expectDisk(image)
  })

  test('one that does not say how large the disk was keeps the disk from being resized: it would be, too', () => {
    const store = withSnapshots(snapshotEntry({ ...usual, extraSize: 8 })).store()
    const chain = new Chain([openStore(store, 'write')])
    expect(failureOf(() => runSync(chain.resize(8 << 20)))?.code).toBe('UNSUPPORTED')
    runSync(chain.close())
    expect(openStore(store, 'read').snapshots.list()[0]?.diskSize).toBe(4 << 20)
  })

  test('the largest L1 tables, thousands of them in one place, do not add up', () => {
    const entry = snapshotEntry({ l1At: 2 ** 40, l1Size: 2 ** 22 })
    const image = withSnapshots(...Array.from({ length: 2000 }, () => entry))
    expect(memoryOf(() => openStore(image.store(ENDLESS), 'read'))).toBeLessThan(BUDGET + SLACK)
    expect(failureOf(() => openStore(image.store(ENDLESS), 'write'))?.message).toContain('where another table does')
  })

  test.each([0, 512, M64])(
    'one without a table, said to lie at %d, can be deleted, and the header stays',
    async (at) => {
      const image = withSnapshots(snapshotEntry({ ...usual, l1At: at, l1Size: 0 }))
      const store = image.store()
      expect(await findingsOf(openStore(store, 'read'))).toEqual([])
      const layer = openStore(store, 'write')
      runSync(layer.snapshots.edit?.delete('before') as never)
      runSync(layer.close())
      const again = openStore(store, 'read')
      expect(again.snapshots.list()).toEqual([])
      expect(await findingsOf(again)).toEqual([])
    },
  )

  test('ids that are no plain numbers do not spoil the next one', () => {
    const ids = ['Infinity', '1e308', '99999999999999999999', '-5', '0x10', '3']
    const image = withSnapshots(...ids.map((id) => snapshotEntry({ ...usual, id })))
    const layer = openStore(image.store(), 'write')
    expect(runSync(layer.snapshots.edit?.create('new') as never)).toMatchObject({ id: '4' })
  })

  test('names that mean something to an object are names', () => {
    const names = ['__proto__', 'constructor', 'toString']
    const image = withSnapshots(...names.map((name, i) => snapshotEntry({ ...usual, name, id: String(i) })))
    const { snapshots } = openStore(image.store(), 'read')
    expect(snapshots.list().map(({ name }) => name)).toEqual(names)
    for (const name of names) expect(runSync(snapshots.open(name)).name).toBe(`crafted#${name}`)
    const none = openStore(new CraftedImage().store(), 'read').snapshots
    expect(failureOf(() => runSync(none.open('__proto__')))?.code).toBe('NOT_FOUND')
  })
})

describe('snapshots and the tables they share', () => {
  test('tables that a deleted snapshot leaves can be used again', async () => {
    const image = new CraftedImage()
    addExtras(image)
    const store = image.store()
    const layer = openStore(store, 'write')
    const chain = new Chain([layer])
    runSync(layer.snapshots.edit?.create('second') as never)
    runSync(chain.write(0, Buffer.alloc(8 * C, 1)))
    runSync(layer.snapshots.edit?.delete('second') as never)
    for (let round = 0; round < 4; round++) {
      runSync(chain.write((2 << 20) + round * 8 * C, Buffer.alloc(8 * C, 2)))
      runSync(chain.flush())
    }
    runSync(chain.close())
    expect(await findingsOf(openStore(store, 'read'))).toEqual([])
  })

  test('an entry that cannot be right stops a snapshot, and leaves the counts as they were', async () => {
    const image = new CraftedImage().l2(511, BigInt(PLACE.data0 * C + 512) | COPIED)
    const store = image.store()
    const layer = openStore(store, 'write')
    expect(placeOf(failureOf(() => runSync(layer.snapshots.edit?.create('new') as never)))).toBe(
      'CORRUPT, L2 table, entry 511',
    )
    runSync(layer.close())
    const block = [image.at(PLACE.refcountBlock), image.at(PLACE.refcountBlock + 1)] as const
    expect(
      Buffer.from(store.bytes())
        .subarray(...block)
        .equals(image.bytes.subarray(...block)),
    ).toBe(true)
  })
})

describe('a bitmap directory that cannot be right', () => {
  /** An image with this extension, and these entries in its directory. */
  function withBitmaps(entries: Buffer, extension?: Buffer): CraftedImage {
    const image = new CraftedImage()
    const directory = image.grow(Math.max(1, Math.ceil(entries.length / C)), entries)
    const fields = { count: 1, length: entries.length, at: image.at(directory) }
    image.extension(0x23852875, extension ?? bitmapsExtension(fields))
    return image.header('autoclear', 1)
  }
  const entry = (change: Partial<Parameters<typeof bitmapEntry>[0]> = {}): Buffer =>
    bitmapEntry({ tableAt: PLACE.data1 * C, ...change })

  const directories: [string, Buffer][] = [
    ['an extension without content', Buffer.alloc(0)],
    ['an extension of 23 bytes', Buffer.alloc(23, 1)],
    ['65536 entries', bitmapsExtension({ count: 65536, length: 32, at: 7 * C })],
    ['2^32 - 1 entries', bitmapsExtension({ count: M32, length: 32, at: 7 * C })],
    ['more entries than bytes', bitmapsExtension({ count: 2, length: 32, at: 7 * C })],
    ['64 MiB and one byte', bitmapsExtension({ count: 1, length: (64 << 20) + 1, at: 7 * C })],
    ['2^63 bytes', bitmapsExtension({ count: 1, length: 2n ** 63n, at: 7 * C })],
    ['2^64 - 1 bytes', bitmapsExtension({ count: 1, length: M64, at: 7 * C })],
    ['a place in the header', bitmapsExtension({ count: 1, length: 32, at: 0 })],
    ['a place off a cluster', bitmapsExtension({ count: 1, length: 32, at: 7 * C + 8 })],
    ['a place at 2^63', bitmapsExtension({ count: 1, length: 32, at: 2n ** 63n })],
    ['a place at the end of all numbers', bitmapsExtension({ count: 1, length: 4096, at: M64 - 4095n })],
  ]
  test.each(directories)('%s: the disk can be read, not written', async (_, extension) => {
    const image = withBitmaps(entry(), extension)
    expect(
      memoryOf(() => {
        expect(placeOf(failureOf(() => openStore(image.store(ENDLESS), 'write')))).toMatch(/^CORRUPT, bitmap directory/)
        const { bitmaps } = openStore(image.store(ENDLESS), 'read')
        expect(bitmaps.list()).toEqual([])
        expect(placeOf(failureOf(() => runSync(bitmaps.read('changes'))))).toMatch(/^CORRUPT, bitmap directory/)
      }),
    ).toBeLessThan(SLACK)
    expect(await findingsOf(openStore(image.store(), 'read'))).toContain('BITMAP_DIRECTORY_INVALID')
    expectDisk(image)
  })

  test.each([
    ['a name without length', entry({ nameSize: 0 })],
    ['a name that leaves the directory', entry({ nameSize: 9 })],
    ['a name of 65535 bytes', entry({ nameSize: 65535 })],
    ['extra data of 2^32 - 1 bytes', entry({ extraSize: M32 })],
  ])('%s', (_, directory) => {
    const image = withBitmaps(directory)
    expect(placeOf(failureOf(() => openStore(image.store(), 'write')))).toBe('CORRUPT, bitmap directory, at 28672')
    expectDisk(image)
  })

  test('two bitmaps of one name', () => {
    const image = withBitmaps(Buffer.concat([entry(), entry()]), bitmapsExtension({ count: 2, length: 64, at: 7 * C }))
    const error = failureOf(() => openStore(image.store(), 'write'))
    expect([placeOf(error), error?.message]).toEqual([
      'CORRUPT, bitmap directory, at 28704',
      expect.stringContaining('two bitmaps are called "changes"'),
    ])
    expectDisk(image)
  })

  test('as many names as there can be are read once each', () => {
    const entries = Array.from({ length: 65535 }, (_, i) => entry({ name: `b${String(i).padStart(6, '0')}` }))
    const all = Buffer.concat(entries)
    const image = withBitmaps(all, bitmapsExtension({ count: 65535, length: all.length, at: 7 * C }))
    expect(openStore(image.store(), 'read').bitmaps.list()).toHaveLength(65535)
  })

  test('names that mean something to an object are names', () => {
    const names = ['__proto__', 'constructor', 'hasOwnProperty']
    const all = Buffer.concat(names.map((name) => entry({ name })))
    const image = withBitmaps(all, bitmapsExtension({ count: 3, length: all.length, at: 7 * C }))
    const { bitmaps } = openStore(image.store(), 'read')
    expect(bitmaps.list().map(({ name }) => name)).toEqual(names)
    const none = openStore(new CraftedImage().store(), 'read').bitmaps
    expect(failureOf(() => runSync(none.read('__proto__')))?.code).toBe('NOT_FOUND')
  })

  test('a directory that a writer without bitmaps left behind hinders nobody', async () => {
    const image = withBitmaps(entry({ nameSize: 9 })).header('autoclear', 0)
    const store = image.store()
    const chain = new Chain([openStore(store, 'write')])
    runSync(chain.write(C, Buffer.alloc(C, 0x77)))
    runSync(chain.close())
    expect(await findingsOf(openStore(store, 'read'))).toEqual(['BITMAP_DIRECTORY_INVALID', 'LEAKED_CLUSTER'])
    // No damage: whoever wrote there was right to take the directory for nothing.
    expect(await damageOf(store)).toEqual(['LEAKED_CLUSTER'])
  })
})

describe('a bitmap that cannot be right', () => {
  const flawed: [string, Partial<Parameters<typeof bitmapEntry>[0]>][] = [
    ['a table of no entries', { tableSize: 0 }],
    ['a table of 2 entries', { tableSize: 2 }],
    ['a table of 2^31 - 1 entries', { tableSize: M31 }],
    ['a table of 2^32 - 1 entries', { tableSize: M32 }],
    ['a table of 2^32 - 1 entries, in use', { tableSize: M32, flags: 3 }],
    ['a table in the header', { tableAt: 0 }],
    ['a table off a cluster', { tableAt: 11 * C + 8 }],
    ['a table at 2^63', { tableAt: 2n ** 63n }],
    ['a granularity of 1 byte', { granularityBits: 0 }],
    ['a granularity of 256 bytes', { granularityBits: 8 }],
    ['a granularity of 2^32 bytes', { granularityBits: 32 }],
    ['a granularity of 2^255 bytes', { granularityBits: 255 }],
    ['another type', { type: 2 }],
    ['an unknown flag', { flags: 2 | 16 }],
  ]
  test.each(flawed)('%s: listed, never read', async (_, change) => {
    const image = new CraftedImage()
    const places = addExtras(image)
    image.bytes.set(bitmapEntry({ tableAt: image.at(places.bitmapTable), ...change }), image.at(places.directory))
    expect(
      memoryOf(() => {
        const { bitmaps } = openStore(image.store(ENDLESS), 'read')
        expect(bitmaps.list()).toMatchObject([{ name: 'changes', consistent: false }])
        expect(placeOf(failureOf(() => runSync(bitmaps.read('changes'))))).toBe('CORRUPT, bitmap')
      }),
    ).toBeLessThan(SLACK)
    expect(await findingsOf(openStore(image.store(ENDLESS), 'read'))).toContain('BITMAP_INVALID')
    expectDisk(image)
  })

  test('one that is in use may have the table of a size that the disk had before', async () => {
    const image = new CraftedImage()
    const places = addExtras(image)
    const entry = bitmapEntry({ tableAt: image.at(places.bitmapTable), tableSize: 2, flags: 3 })
    image.bytes.set(entry, image.at(places.directory))
    const layer = openStore(image.store(), 'write')
    expect(await findingsOf(layer)).toEqual(['BITMAP_INCONSISTENT'])
    expect(layer.bitmaps.list()).toMatchObject([{ name: 'changes', consistent: false }])
    expect(placeOf(failureOf(() => runSync(layer.bitmaps.read('changes'))))).toBe('CORRUPT, bitmap')
    runSync((layer.bitmaps.edit as NonNullable<typeof layer.bitmaps.edit>).remove('changes'))
    // Nothing of it is left counted.
    expect(await findingsOf(layer)).toEqual([])
    runSync(layer.close())
  })

  test('a bitmap of a disk so large that the bits alone are gigabytes', () => {
    const image = new CraftedImage({ clusterBits: 21 })
    const places = addExtras(image)
    const size = 2 ** 48
    const tableSize = size / 2 ** 9 / 8 / 2 ** 21
    image
      .header('size', size)
      .header('l1Size', size / 2 ** 39)
      .header('l1TableOffset', 2 ** 50)
    const entry = bitmapEntry({ tableAt: 2 ** 51, tableSize, granularityBits: 9 })
    image.bytes.set(entry, image.at(places.directory))
    const { bitmaps } = openStore(image.store(ENDLESS), 'read')
    expect(failureOf(() => runSync(bitmaps.read('changes')))?.message).toContain('more than any bitmap may have')
  })

  test('data that the file ends before counts as unreadable, not as unchanged', () => {
    const image = new CraftedImage()
    const places = addExtras(image)
    image.bytes = image.bytes.subarray(0, image.at(places.bitmapData))
    const error = failureOf(() => runSync(openStore(image.store(), 'read').bitmaps.read('changes')))
    expect(placeOf(error)).toBe(`CORRUPT, bitmap table, entry 0, at ${image.at(places.bitmapTable)}`)
  })
})

describe('a linkage extension that no program wrote', () => {
  /** A payload with a right checksum. */
  function payload(change: (bytes: Buffer) => void): Buffer {
    const bytes = Buffer.alloc(200)
    bytes.writeUInt16BE(1, 0)
    bytes.write('0123456789abcdef', 8)
    bytes.writeBigUInt64BE(1n, 24)
    change(bytes)
    bytes.writeUInt32BE(crc32c(bytes), 4)
    return bytes
  }

  test.each([
    ['a generation of 2^64 - 1', (bytes: Buffer) => bytes.writeBigUInt64BE(M64, 24)],
    ['a generation of 2^53 - 1', (bytes: Buffer) => bytes.writeBigUInt64BE(2n ** 53n - 1n, 24)],
    ['a parent of 2^63 bytes', (bytes: Buffer) => bytes.writeBigUInt64BE(2n ** 63n, 112)],
    ['a merge after the end of time', (bytes: Buffer) => bytes.writeBigUInt64BE(2n ** 52n, 168)],
    ['a closing after the end of time', (bytes: Buffer) => bytes.writeBigUInt64BE(2n ** 52n, 48)],
    ['another version', (bytes: Buffer) => bytes.writeUInt16BE(2, 0)],
  ])('%s: it is kept and not used, and the image can be written', (_, change) => {
    const data = payload((bytes) => {
      // Said to be merged, so that the date would be shown.
      bytes.writeUInt16BE(2, 2)
      change(bytes)
    })
    const image = new CraftedImage().extension(0x76646c6b, data).header('autoclear', 2n ** 63n)
    const store = image.store()
    const layer = openStore(store, 'write')
    expect([layer.identity, layer.merged]).toEqual([undefined, undefined])
    const chain = new Chain([layer])
    runSync(chain.write(0, Buffer.alloc(1)))
    runSync(chain.close())
    expect(Buffer.from(store.bytes()).includes(data)).toBe(true)
  })

  test('what is right is used', () => {
    const image = new CraftedImage()
      .extension(
        0x76646c6b,
        payload(() => {}),
      )
      .header('autoclear', 2n ** 63n)
    const value = '30313233-3435-3637-3839-616263646566/1'
    expect(openStore(image.store(), 'read').identity).toEqual({ kind: 'generation', value, current: true })
  })
})

test('options named like parts of an object are unknown options', () => {
  for (const name of ['__proto__', 'constructor', 'toString']) {
    const work = (): unknown => new CreateOptions('a', 'qcow2', createOptions, new Map([[name, 'x']]))
    expect(failureOf(work)).toMatchObject({ code: 'REFUSED', where: { file: 'a' } })
  }
  expect(
    isVdiskError(failureOf(() => new CreateOptions('a', 'qcow2', createOptions, new Map([['compat', '__proto__']])))),
  ).toBe(true)
})
