import { describe, expect, test } from 'vitest'
import { parallels } from '../../../../lib/formats/parallels/driver.ts'
import { promised } from '../../../../lib/io/io.ts'
import type { MemoryStore } from '../../../../lib/io/memory.ts'
import {
  bitmapFeature,
  codesOf,
  copyOf,
  imageOver,
  ParallelsFile,
  readOf,
  repaired,
  SECTOR,
  withDirtyBitmap,
  writing,
} from '../../../support/parallels-file.ts'
import { refusal } from '../../../support/refusal.ts'
import { contentOf } from '../../../support/stores.ts'

/** What a repair makes of dirty bitmaps and features that are not known, and where it puts clusters. */

const ID = Buffer.from('00112233445566778899aabbccddeeff', 'hex')
const STRANGE = { magic: 77n, flags: 2, data: Buffer.from('strange') }
const IN_USE_AT = 44
/** More clusters than are kept account of. */
const FAR = 2 ** 28

async function bitmapsOf(store: MemoryStore): Promise<{ name: string; consistent: boolean }[]> {
  const layer = await promised(parallels.open(imageOver(store), 'read'))
  return (layer.bitmaps?.list() ?? []).map(({ name, consistent }) => ({ name, consistent }))
}

async function firstsOf(store: MemoryStore): Promise<number[]> {
  const disk = await readOf(store)
  return [0, 1, 2, 3].map((cluster) => disk[cluster * 4096] as number)
}

async function assertMended(store: MemoryStore): Promise<void> {
  expect(await codesOf(store)).toEqual([])
  expect((await repaired(store)).count).toBe(0)
  const before = await firstsOf(store)
  await writing(store, (chain) => promised(chain.write(7 * 4096, Uint8Array.of(9))))
  expect(await firstsOf(store)).toEqual(before)
}

describe('dirty bitmaps', () => {
  const bare = new ParallelsFile({ stored: 3, bat: [1] })
  const places: readonly [string, number, string][] = [
    ['where another cluster lies', bare.placeOf(2), 'EXTENSION_CLUSTER_SHARED'],
    ['before the data', 2 * SECTOR, 'EXTENSION_CLUSTER_BEFORE_DATA'],
    ['between clusters', bare.placeOf(3) + SECTOR, 'EXTENSION_CLUSTER_MISALIGNED'],
    ['past the end', 2 ** 30, 'EXTENSION_CLUSTER_PAST_END'],
  ]
  const misplaced = (place: number, more: readonly (typeof STRANGE)[] = []): ParallelsFile =>
    new ParallelsFile({ stored: 3, bat: [1] }).extension(2, [bitmapFeature(64, 1, ID, [place / SECTOR]), ...more])

  test.each(places)('that lie %s are dropped, and nothing else', async (_, place, code) => {
    const store = misplaced(place).store()
    expect(await codesOf(store)).toContain(code)
    const report = await repaired(store)
    expect(report.done.map((one) => one.code)).toContain(code)
    expect(report.doubtful).toEqual([])
    expect(await bitmapsOf(store)).toEqual([])
    expect(await firstsOf(store)).toEqual([1, 0, 0, 0])
    await assertMended(store)
  })

  test.each(places)('that lie %s go, a feature that is not known and all that may be its stays', async (_, place) => {
    const store = misplaced(place, [STRANGE]).store()
    await repaired(store)
    const { details } = await promised(parallels.open(imageOver(store), 'read'))
    expect(details).toMatchObject({ extensionFeatures: 1, closed: true })
    const bytes = Buffer.from(contentOf(store))
    expect(bytes.subarray(Number(bytes.readBigUInt64LE(56)) * SECTOR).includes('strange')).toBe(true)
    expect(bytes[bare.placeOf(3)]).toBe(3)
    await assertMended(store)
  })

  test('keep what only room is given back of as it is, wherever they lie', async () => {
    for (const file of [misplaced(bare.placeOf(3) + SECTOR), misplaced(2 ** 30), withDirtyBitmap().u64(56, 1)]) {
      const store = file.store()
      const before = contentOf(store)
      expect((await repaired(store, 'leaks')).count).toBe(0)
      expect(contentOf(store)).toEqual(before)
    }
  })

  test.each([
    ['of an image that was not closed', (file: ParallelsFile) => file.u32(IN_USE_AT, 0x746f6e59)],
    ['of an image of which a cluster was mended', (file: ParallelsFile) => file.entry(1, 99)],
    ['in whose room a cluster lies', (file: ParallelsFile) => file.entry(1, 3)],
  ])('%s are not true any more', async (_, spoil) => {
    const store = spoil(withDirtyBitmap()).store()
    expect((await repaired(store)).done.map(({ code }) => code)).toContain('BITMAPS_OUTDATED')
    expect(await bitmapsOf(store)).toEqual([])
    await assertMended(store)
  })

  test.each(['leaks', 'all'] as const)(
    'that nobody could trust are not trusted for room that was given back: %s',
    async (scope) => {
      const store = withDirtyBitmap()
        .u32(IN_USE_AT, 0)
        .resize(7 * 4096)
        .store()
      expect((await repaired(store, scope)).done.map(({ code }) => code)).toEqual(['ROOM_AT_END'])
      expect(await bitmapsOf(store)).toMatchObject([{ consistent: false }])
    },
  )
})

describe('a cluster that has to lie elsewhere', () => {
  test('goes where nothing lies, not behind an end too far away', async () => {
    const store = new ParallelsFile({ stored: 2, bat: [1, 0, 0, 1] }).store()
    store.grow(FAR * 4096 + 3 * 4096)
    await repaired(store)
    expect(await firstsOf(store)).toEqual([1, 0, 0, 1])
    await assertMended(store)
  })

  test('comes back from too far away, and what the file has not of it is zero', async () => {
    const file = new ParallelsFile({ stored: 3, bat: [1] }).u32(64 + 4, FAR + 1)
    const store = file.store()
    const place = (FAR + 1) * 4096
    store.write(place, Buffer.alloc(1024, 8))
    expect(await codesOf(store)).toContain('CLUSTER_TOO_FAR')
    const report = await repaired(store)
    expect(report.doubtful).toMatchObject([{ offset: 4096, length: 4096 }])
    expect([...(await readOf(store)).subarray(4096, 8192)]).toEqual([...Buffer.alloc(4096).fill(8, 0, 1024)])
    await assertMended(store)
  })

  test('of more than is copied at a time comes back whole, over what lay there before', async () => {
    const [cluster, there] = [4 << 20, (1 << 20) + 5000]
    const shape = { clusterSectors: cluster / SECTOR, clusters: 2, stored: 2, bat: [1] }
    const store = new ParallelsFile(shape).u32(64 + 4, FAR + 1).store()
    // The file ends in the second of four pieces. What lies behind the first cluster is nobody's.
    store.write((FAR + 1) * cluster, Buffer.alloc(there, 8))
    expect(await codesOf(store)).toContain('CLUSTER_TOO_FAR')
    await repaired(store)
    const bytes = Buffer.from(await readOf(store))
    expect(bytes.subarray(cluster).equals(Buffer.alloc(cluster).fill(8, 0, there))).toBe(true)
    expect(bytes.subarray(0, cluster).equals(Buffer.alloc(cluster, 1))).toBe(true)
    await assertMended(store)
  })

  test('is not looked for in a file of which all may be the room of features, and that is too long to keep account of', async () => {
    const store = new ParallelsFile({ stored: 3, bat: [1] }).extension(2, [STRANGE]).store()
    await writing(copyOf(store), (chain) => promised(chain.write(4096, Buffer.alloc(512, 5))))
    store.grow(FAR * 4096 + 2 ** 30)
    const error = await refusal(() => writing(store, async () => {}))
    expect(error).toMatchObject({ code: 'LIMIT_EXCEEDED', where: { file: 'crafted', structure: 'file' } })
    expect(error.advice).toContain('vdisk convert')
    expect(await firstsOf(store)).toEqual([1, 0, 0, 0])
  })

  test('is refused where features may have all the room that is near', async () => {
    const store = new ParallelsFile({ stored: 3, bat: [1, 1] }).extension(2, [STRANGE]).store()
    store.grow(FAR * 4096 + 3 * 4096)
    const marked = (): number => {
      const head = Buffer.alloc(64)
      store.read(0, head)
      return head.readUInt32LE(IN_USE_AT)
    }
    const before = marked()
    expect(await refusal(() => repaired(store))).toMatchObject({ code: 'NO_SPACE', where: { file: 'crafted' } })
    expect([marked(), store.size(), await firstsOf(store)]).toEqual([before, FAR * 4096 + 3 * 4096, [1, 1, 0, 0]])
  })

  test('is not taken for one that was named past the end', async () => {
    const store = new ParallelsFile({ stored: 1, bat: [1, 1, 2] }).store()
    await repaired(store)
    expect(await firstsOf(store)).toEqual([1, 1, 0, 0])
    await assertMended(store)
  })
})
