import { createHash } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import type { Bitmap } from '../../../../lib/bytes/bitmap.ts'
import { VdiskError } from '../../../../lib/errors.ts'
import { parallels } from '../../../../lib/formats/parallels/driver.ts'
import { promised } from '../../../../lib/io/io.ts'
import type { MemoryStore } from '../../../../lib/io/memory.ts'
import {
  bitmapFeature,
  codesOf,
  imageOver,
  ParallelsFile,
  readOf,
  repaired,
  SECTOR,
  withDirtyBitmap,
  writing,
} from '../../../support/parallels-file.ts'
import { refusal } from '../../../support/refusal.ts'
import { watchedStore } from '../../../support/stores.ts'

/** Format extensions that cannot be, or hold more than others; and dirty bitmaps that say much with little. */

const ID = Buffer.from('00112233445566778899aabbccddeeff', 'hex')
const NAME = '00112233-4455-6677-8899-aabbccddeeff'

/** Changes the extension in the second stored cluster, which gets a checksum that fits. */
function edited(edit: (file: ParallelsFile, at: number) => unknown, file = withDirtyBitmap()): ParallelsFile {
  const at = file.placeOf(2)
  edit(file, at)
  const sum = createHash('md5')
    .update(file.bytes.subarray(at + 24, at + file.clusterSize))
    .digest()
  return file.put(at + 8, sum)
}

/** A disk of 32 MiB, whose dirty bitmap takes two clusters. @param entries its L1 table */
function large(entries: readonly number[]): MemoryStore {
  return new ParallelsFile({ clusters: 8192, stored: 2, bat: [1] })
    .extension(2, [bitmapFeature(65_536, 1, ID, entries)])
    .store()
}

async function bitsOf(store: MemoryStore): Promise<number | undefined> {
  const layer = await promised(parallels.open(imageOver(store), 'read'))
  if (layer.bitmaps?.list().length !== 1) return undefined
  return ((await promised(layer.bitmaps.read(NAME) as never)) as Bitmap).count()
}

const touch = (store: MemoryStore): Promise<void> =>
  writing(store, (chain) => promised(chain.write(0, Uint8Array.of(9))))

describe('an extension', () => {
  const entry = (feature: ReturnType<typeof bitmapFeature>): ParallelsFile =>
    new ParallelsFile({ stored: 3, bat: [1] }).extension(2, [feature])
  const cases: [string, () => ParallelsFile][] = [
    ['lies in the BAT', () => withDirtyBitmap().u64(56, 1)],
    ['lies past the end', () => withDirtyBitmap().u64(56, 2 ** 20)],
    ['begins otherwise', () => withDirtyBitmap().u64(new ParallelsFile().placeOf(2), 0n)],
    ['has a feature longer than itself', () => edited((file, at) => file.u32(at + 24 + 16, 2 ** 20))],
    [
      'goes on to its end',
      () =>
        new ParallelsFile({ stored: 3, bat: [1] }).extension(2, [{ magic: 7n, data: new Uint8Array(4096 - 24 - 24) }]),
    ],
    [
      'has more features than any',
      () =>
        new ParallelsFile({ stored: 3, bat: [1] }).extension(
          2,
          Array.from({ length: 65 }, () => ({ magic: 7n, data: new Uint8Array(0) })),
        ),
    ],
    ['has a bitmap with bits for nothing', () => entry(bitmapFeature(64, 0, ID, [0]))],
    ['has a bitmap with bits for three sectors', () => entry(bitmapFeature(64, 3, ID, [0]))],
    ['has a bitmap of a disk without measure', () => entry(bitmapFeature(2 ** 52, 1, ID, [0]))],
    ['has a bitmap whose table does not end', () => edited((file, at) => file.u32(at + 24 + 24 + 28, 99))],
  ]

  test.each(cases)(
    'that %s keeps nobody from reading, is told, and goes with a repair or a writer',
    async (_, make) => {
      const store = make().store()
      expect((await readOf(store))[0]).toBe(1)
      expect(await codesOf(store)).toEqual(['EXTENSION_DAMAGED'])
      const written = make().store()
      await touch(written)
      expect(await codesOf(written)).not.toContain('EXTENSION_DAMAGED')
      expect((await readOf(written))[0]).toBe(9)
      expect((await repaired(store)).done.map(({ code }) => code)).toContain('EXTENSION_DAMAGED')
      expect(await codesOf(store)).not.toContain('EXTENSION_DAMAGED')
    },
  )

  test('is not taken for damaged where the medium fails', async () => {
    const file = withDirtyBitmap()
    const inner = file.store()
    let fails = true
    const store = watchedStore(inner, ({ kind, at }) => {
      if (fails && kind === 'read' && at === file.placeOf(2)) {
        throw new VdiskError('IO', { message: 'Cannot read crafted: a test says so' })
      }
    }) as MemoryStore
    for (const work of [
      () => promised(parallels.open(imageOver(store), 'read')),
      () => promised(parallels.open(imageOver(store), 'write')),
      () => repaired(store),
    ]) {
      expect((await refusal(work)).code).toBe('IO')
    }
    fails = false
    const layer = await promised(parallels.open(imageOver(store), 'read'))
    fails = true
    const { CheckReport } = await import('../../../../lib/contracts/check-report.ts')
    expect((await refusal(() => promised(parallels.check(layer, new CheckReport())))).code).toBe('IO')
  })

  test.each([
    ['where another cluster lies', (file: ParallelsFile) => file.placeOf(1), 'SHARED'],
    ['before the data', () => 2 * SECTOR, 'BEFORE_DATA'],
    ['between clusters', (file: ParallelsFile) => file.placeOf(3) + SECTOR, 'MISALIGNED'],
  ])('whose bitmap lies %s is told, and keeps writers away', async (_, place, code) => {
    const bare = new ParallelsFile({ stored: 3, bat: [1] })
    const file = bare.extension(2, [bitmapFeature(64, 1, ID, [place(bare) / SECTOR])])
    const codes = await codesOf(file.store())
    expect(codes.some((one) => one.endsWith(`CLUSTER_${code}`))).toBe(true)
    const error = await refusal(() => touch(file.store()))
    expect(error).toMatchObject({ code: 'CORRUPT', where: { file: 'crafted' } })
    expect(error.message).toContain('Cannot write ')
  })

  test('whose bitmap lies past the end is told, and does not keep it', async () => {
    const bare = new ParallelsFile({ stored: 3, bat: [1] })
    const store = bare.extension(2, [bitmapFeature(64, 1, ID, [2 ** 20])]).store()
    expect(await codesOf(store)).toContain('EXTENSION_CLUSTER_PAST_END')
    await touch(store)
    expect([await bitsOf(store), (await codesOf(store)).filter((code) => code !== 'CLUSTER_LEAKED')]).toEqual([
      undefined,
      [],
    ])
  })

  test('with a bitmap and a feature that is not known keeps both', async () => {
    const file = new ParallelsFile({ stored: 3, bat: [1] })
    const strange = { magic: 77n, flags: 2, data: Buffer.from('strange') }
    const store = file.extension(2, [bitmapFeature(64, 1, ID, [0]), strange]).store()
    await touch(store)
    expect([await bitsOf(store), Buffer.from(store.bytes()).includes('strange')]).toEqual([1, true])
    const { details } = await promised(parallels.open(imageOver(store), 'read'))
    expect(details).toMatchObject({ extensionFeatures: 2, closed: true })
  })

  test('has clusters also in an image that is marked as empty, and keeps nobody from writing it', async () => {
    const store = withDirtyBitmap().entry(0, 0).u32(52, 1).store()
    await touch(store)
    expect([(await readOf(store))[0], await bitsOf(store)]).toEqual([9, 3])
  })

  test('of features that are not known keeps their clusters from being called lost', async () => {
    const file = new ParallelsFile({ stored: 3, bat: [1] })
    const store = file.extension(2, [{ magic: 77n, flags: 2, data: Buffer.from('strange') }]).store()
    expect(await codesOf(store)).toEqual([])
    expect((await repaired(store)).count).toBe(0)
  })
})

describe('a dirty bitmap', () => {
  test('of another name is not found', async () => {
    const layer = await promised(parallels.open(imageOver(withDirtyBitmap().store()), 'read'))
    const error = await refusal(() => promised(layer.bitmaps?.read('other') as never))
    expect(error).toMatchObject({ code: 'NOT_FOUND', where: { file: 'crafted' } })
  })

  test.each([
    ['all set, and all clear', [1, 0], 32_768, 32_768],
    ['all clear, and all set', [0, 1], 32_768, 32_769],
    ['clear for what its table does not say', [], 0, 1],
  ])('that is %s takes no room for that', async (_, entries, before, after) => {
    const store = large(entries)
    expect(await bitsOf(store)).toBe(before)
    await touch(store)
    expect(await bitsOf(store)).toBe(after)
    expect(await codesOf(store)).toEqual([])
  })

  test('a part of which lies where no cluster can be is not read, and not kept', async () => {
    const store = large([1, 2 ** 30])
    expect(await refusal(() => bitsOf(store))).toMatchObject({ code: 'CORRUPT', where: { structure: 'dirty bitmap' } })
    expect(await codesOf(store)).toEqual(['EXTENSION_CLUSTER_PAST_END'])
  })

  test('that is too large for memory is not read, and not kept', async () => {
    const sectors = 2 ** 28
    const store = new ParallelsFile({ clusterSectors: 4096, clusters: sectors / 4096, stored: 2, bat: [1] })
      .extension(2, [bitmapFeature(sectors, 1, ID, [0])])
      .store()
    expect((await refusal(() => bitsOf(store))).code).toBe('LIMIT_EXCEEDED')
    await touch(store)
    expect(await bitsOf(store)).toBeUndefined()
  })

  test('whose table would not fit any more is dropped, and with it the clusters that it took', async () => {
    const clusters = 53 * 4096
    const store = new ParallelsFile({ clusterSectors: 1, clusters, stored: 2, bat: [1] })
      .extension(2, [bitmapFeature(clusters, 1, ID, [])])
      .store()
    expect(await bitsOf(store)).toBe(0)
    await touch(store)
    expect([await bitsOf(store), await codesOf(store)]).toEqual([undefined, []])
  })

  test('about a disk of another size is told', async () => {
    expect(await codesOf(withDirtyBitmap().u64(36, 63).store())).toContain('BITMAP_SIZE')
  })

  test('for which there is no room is dropped, and the disk is closed all the same', async () => {
    const store = withDirtyBitmap().store()
    let isFull = false
    const [write, grow, truncate] = [store.write.bind(store), store.grow.bind(store), store.truncate.bind(store)]
    const refuse = (end: number): void => {
      if (isFull && end > store.size()) throw new VdiskError('NO_SPACE', { message: 'Cannot write: a test says so' })
    }
    store.write = (at, source) => {
      refuse(at + source.length)
      write(at, source)
    }
    store.grow = (size) => {
      refuse(size)
      grow(size)
    }
    store.truncate = (size) => {
      refuse(size)
      truncate(size)
    }
    await writing(store, async (chain) => {
      for (let cluster = 0; cluster < 8; cluster++) {
        await promised(chain.write(cluster * 4096, Uint8Array.of(cluster + 1)))
        // What was the extension's is free after some of these, and taken by the next cluster.
        for (let i = 0; i < 3; i++) await promised(chain.flush())
      }
      isFull = true
    })
    expect([await bitsOf(store), (await readOf(store))[7 * 4096]]).toEqual([undefined, 8])
    expect(await codesOf(store)).toEqual([])
  })
})
