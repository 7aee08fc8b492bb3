import { describe, expect, test } from 'vitest'
import { Chain } from '../../../../lib/chain/chain.ts'
import type { FormatDriver } from '../../../../lib/contracts/driver.ts'
import type { WritableLayer } from '../../../../lib/contracts/layer.ts'
import { Descriptor } from '../../../../lib/formats/parallels/descriptor.ts'
import { parallels } from '../../../../lib/formats/parallels/driver.ts'
import { promised } from '../../../../lib/io/io.ts'
import { MemoryStore } from '../../../../lib/io/memory.ts'
import {
  codesOf,
  imageOver,
  ParallelsFile,
  readOf,
  repaired,
  SECTOR,
  withDirtyBitmap,
  writing,
} from '../../../support/parallels-file.ts'
import { rawParent } from '../../../support/raw-base.ts'
import { refusal } from '../../../support/refusal.ts'
import { withoutHoles } from '../../../support/stores.ts'

const open = async (store: MemoryStore): Promise<WritableLayer> =>
  (await promised(parallels.open(imageOver(store), 'write'))) as WritableLayer

describe('a header', () => {
  test.each([
    ['with a mark that means nothing', 44, 7, ['IN_USE_INVALID']],
    ['with the version of Parallels Desktop as a mark', 44, 0x37316470, []],
    ['that does not say where the data begins', 48, 0, ['DATA_MISALIGNED']],
    ['that says it is empty', 52, 1, ['MARKED_EMPTY', 'EMPTY_WITH_CLUSTERS']],
  ])('%s is told', async (_, at, value, codes) => {
    const store = new ParallelsFile({ stored: 1, bat: [1] }).u32(at, value).store()
    expect(await codesOf(store)).toEqual(codes)
    const { details } = await promised(parallels.open(imageOver(store), 'read'))
    expect('empty' in details).toBe(at === 52)
  })

  test('whose data begins farther than it could say after a change is told, and not written', async () => {
    const store = new ParallelsFile().u32(48, 0xffffffff).store()
    expect(await codesOf(store)).toEqual(['DATA_TOO_FAR', 'DATA_MISALIGNED'])
    const error = await refusal(() => open(store))
    expect(error).toMatchObject({ code: 'CORRUPT', where: { structure: 'header', at: 48 } })
    expect(error.message).toContain(`its data begins at ${2 ** 41}`)
    expect(error.advice).toContain('vdisk convert')
  })

  test('of another kind is none of the format', async () => {
    const store = new ParallelsFile().text(0, 'WithoutFreeSpicy').store()
    expect(await refusal(() => open(store))).toMatchObject({ code: 'CORRUPT', where: { structure: 'header', at: 0 } })
  })
})

describe('entries behind the end of the disk', () => {
  const shrunk = (entry: number): MemoryStore => new ParallelsFile({ sectors: 8, stored: 2, bat: [1, entry] }).store()

  test('are told, do not hinder a writer, and go with a repair', async () => {
    const store = shrunk(2)
    expect(await codesOf(store)).toEqual(['BAT_ENTRY_STALE'])
    await writing(store, (chain) => promised(chain.write(0, Uint8Array.of(9))))
    const { done } = await repaired(store)
    expect(done).toMatchObject([{ code: 'BAT_ENTRY_STALE', doubtful: undefined }, { code: 'ROOM_AT_END' }])
    expect([await codesOf(store), (await readOf(store))[0]]).toEqual([[], 9])
  })

  test('that lead where no cluster can be keep writers away', async () => {
    const error = await refusal(() => open(shrunk(9)))
    expect(error).toMatchObject({ code: 'CORRUPT', where: { structure: 'BAT', index: 1, at: 68 } })
    expect(error.message).toContain('where no cluster can be')
    const store = shrunk(9)
    await repaired(store)
    await promised((await open(store)).close())
  })
})

describe('making a disk', () => {
  test.each<[string, Record<string, string>, number, boolean, string]>([
    ['a child', {}, 1 << 20, true, 'no place for a parent'],
    ['half a sector', {}, 1000, false, 'its sectors have 512 bytes'],
    ['clusters of half a sector', { cluster_size: '256' }, 1 << 20, false, 'clusters cannot have 256 bytes'],
    ['a plain disk without a bundle', { type: 'plain' }, 1 << 20, false, 'only a bundle is plain or split'],
    ['a split disk without a bundle', { split: 'on' }, 1 << 20, false, 'only a bundle is plain or split'],
    ['a BAT beyond reason', { cluster_size: '512' }, 2 ** 40, false, 'its BAT would be too large'],
    ['a classic disk of 4 TiB', { magic: 'classic' }, 2 ** 42, false, 'counts sectors in 32 bits'],
    [
      'pieces that are no whole clusters',
      { bundle: 'on', split: 'on', cluster_size: '768K' },
      1 << 20,
      false,
      'would not be whole clusters',
    ],
  ])('refuses %s', async (_, options, size, isChild, words) => {
    const store = new MemoryStore('a')
    const shape = { size, options: new Map(Object.entries(options)), parent: isChild ? rawParent(size) : undefined }
    const create = parallels.create as NonNullable<FormatDriver['create']>
    const error = await refusal(() => promised(create(imageOver(store), shape)))
    expect(error).toMatchObject({ code: 'REFUSED', where: { file: 'crafted' } })
    expect([error.message.includes(words), store.size()]).toEqual([true, 0])
  })
})

describe('a change of size', () => {
  test.each([
    ['extended', 1000, 'its sectors have 512 bytes'],
    ['extended', 2 ** 45, 'its BAT would be too large'],
    ['classic', 2 ** 42, 'counts sectors in 32 bits'],
  ])('of one that is %s to %i bytes is refused', async (kind, size, words) => {
    const magic = kind === 'classic' ? 'WithoutFreeSpace' : 'WithouFreSpacExt'
    const store = new ParallelsFile({ magic, clusterSectors: 256 }).store()
    const before = store.bytes()
    const layer = await open(store)
    const error = await refusal(() => promised(layer.resize(size, 0)))
    expect(error).toMatchObject({ code: 'REFUSED', where: { file: 'crafted' } })
    expect(error.message).toContain(words)
    await promised(layer.resize(layer.size, 0))
    await promised(layer.close())
    expect(Buffer.compare(store.bytes(), before)).toBe(0)
  })

  test('of a disk without heads leaves its cylinders; what its file does not have reads as zero', async () => {
    const file = new ParallelsFile({ clusters: 1, sectors: 7, stored: 1, bat: [1] }).u32(20, 0).u32(24, 5)
    const store = file.resize(4096 + 7 * SECTOR).store()
    const layer = await open(store)
    await promised(layer.resize(9 * SECTOR, 0))
    await promised(layer.close())
    const disk = await readOf(store)
    expect(disk.subarray(0, 7 * SECTOR).every((byte) => byte === 1)).toBe(true)
    expect(disk.subarray(7 * SECTOR).every((byte) => byte === 0)).toBe(true)
    expect(Buffer.from(store.bytes()).readUInt32LE(24)).toBe(5)
    expect(await codesOf(store)).toEqual([])
  })
})

describe('a repair', () => {
  test('of leaks alone does not say that an image was closed which was not', async () => {
    const store = new ParallelsFile({ stored: 4, bat: [2] }).u32(44, 0x746f6e59).store()
    expect((await repaired(store, 'leaks')).done.map(({ code }) => code)).toEqual(['ROOM_AT_END', 'CLUSTER_LEAKED'])
    expect(await codesOf(store)).toEqual(['NOT_CLOSED'])
  })

  test('mends more faults than it keeps in mind', async () => {
    const file = new ParallelsFile({ clusters: 10_100, stored: 1 })
    for (let cluster = 0; cluster < 10_100; cluster++) file.entry(cluster, cluster === 10_099 ? 1 : 9)
    const store = file.store()
    const { done } = await repaired(store)
    expect(new Set(done.map(({ code }) => code))).toEqual(new Set(['CLUSTER_PAST_END']))
    expect([await codesOf(store), (await readOf(store)).at(-1)]).toEqual([[], 1])
  })
})

test('a BAT that is mostly a hole is passed over, but for what memory has of it', async () => {
  const store = new MemoryStore('crafted')
  const shape = { size: 2 ** 36, options: new Map([['cluster_size', '64K']]), parent: undefined }
  const create = parallels.create as NonNullable<FormatDriver['create']>
  const layer = (await promised(create(imageOver(store), shape))) as WritableLayer
  const chain = new Chain([layer])
  // Entries in three pages, far from each other; they wait in memory.
  const places = [3 * 2 ** 30, 2 ** 35, 2 ** 36 - 2 ** 16] as const
  for (const [i, offset] of places.entries()) await promised(chain.write(offset, Uint8Array.of(i + 1)))
  expect(await promised(chain.map(0, 2 ** 36))).toMatchObject({ kind: 'zero', length: places[0] })
  const behind = places[0] + 2 ** 16
  expect(await promised(chain.map(behind, 2 ** 36 - behind))).toMatchObject({ length: 2 ** 35 - behind })
  await promised(chain.close())
  expect(store.occupied()).toBeLessThan(16 * 2 ** 16)
  expect(await codesOf(store)).toEqual([])
  const again = new Chain([await promised(parallels.open(imageOver(store), 'read'))])
  const bytes = new Uint8Array(1)
  for (const [i, offset] of places.entries()) {
    await promised(again.read(offset, bytes))
    expect(bytes[0]).toBe(i + 1)
  }
})

test('a repair leaves the clusters of bitmaps to them', async () => {
  const store = withDirtyBitmap().entry(1, 1).store()
  expect((await repaired(store)).done.map(({ code }) => code)).toEqual(['CLUSTER_SHARED', 'CLUSTER_SHARED'])
  const layer = await promised(parallels.open(imageOver(store), 'read'))
  expect([layer.bitmaps?.list()[0]?.consistent, await codesOf(store)]).toEqual([true, []])
})

test('room that holds something is lost where no holes are known, too', async () => {
  const store = new ParallelsFile({ stored: 3, bat: [3] }).store()
  expect(await codesOf(withoutHoles(store) as MemoryStore)).toEqual(['CLUSTER_LEAKED'])
})

describe('a descriptor', () => {
  const [root, top] = ['{11111111-2222-3333-4444-555555555555}', '{5fbaabe3-6958-40ff-92a7-860e329aab41}']
  const image = (guid: string): string =>
    `<Image><GUID>${guid}</GUID><Type>Compressed</Type><File>${guid.slice(1, 3)}.hds</File></Image>`
  const storage = (start: number, end: number, images = image(root)): string =>
    `<Storage><Start>${start}</Start><End>${end}</End><Blocksize>8</Blocksize>${images}</Storage>`
  const text = (storages: string, parameters = '<Disk_size>64</Disk_size>', version = ' Version="1.0"'): string =>
    `<Parallels_disk_image${version}><Disk_Parameters>${parameters}</Disk_Parameters><StorageData>${storages}</StorageData></Parallels_disk_image>`
  const guid = (index: number): string => `{${String(index).padStart(8, '0')}-0000-0000-0000-000000000001}`
  const many = (count: number, of: (index: number) => string): string =>
    Array.from({ length: count }, (_, i) => of(i)).join('')
  const parse = (xml: string): Descriptor => Descriptor.parse('a', Buffer.from(xml))

  test('without a tree has the one state that its images are of', () => {
    const { shots, top: written } = parse(text(storage(0, 64)))
    expect([...shots.keys()]).toEqual([root.slice(1, -1)])
    expect(written).toBe(root.slice(1, -1))
  })

  test.each([
    ['of something else', '<Other/>', 'CORRUPT', 'no description of a Parallels disk'],
    ['without a version', text(storage(0, 64), undefined, ''), 'UNSUPPORTED', 'of version ""'],
    ['without a size', text(storage(0, 64), ''), 'CORRUPT', 'has no Disk_size'],
    [
      'with two sizes',
      text(storage(0, 64), '<Disk_size>64</Disk_size>'.repeat(2)),
      'CORRUPT',
      'more than one Disk_size',
    ],
    ['with a gap', text(storage(0, 8) + storage(16, 64)), 'CORRUPT', 'the one before ends at 4096'],
    [
      'with a storage of nothing',
      text(storage(0, 0) + storage(0, 64)),
      'CORRUPT',
      'a storage covers the disk from 0 to 0',
    ],
    ['with storages without number', text('<Storage/>'.repeat(4097)), 'LIMIT_EXCEEDED', '4097 storages'],
    [
      'with images without number',
      text(
        storage(
          0,
          64,
          many(1025, (i) => image(guid(i))),
        ),
      ),
      'LIMIT_EXCEEDED',
      '1024 images',
    ],
    ['with states that nothing relates', text(storage(0, 64, image(root) + image(top))), 'CORRUPT', 'several states'],
    ['without images', text(storage(0, 64, '')), 'CORRUPT', 'several states'],
  ])('%s is refused', async (_, xml, code, words) => {
    const error = await refusal(async () => parse(xml))
    expect(error).toMatchObject({ code, where: { file: 'a', structure: 'DiskDescriptor.xml' } })
    expect(error.message).toContain(words)
  })

  test('knows no branch of a state that is not there', () => {
    expect(() => parse(text(storage(0, 64))).branchOf('gone')).toThrow('state gone is built upon gone')
  })
})
