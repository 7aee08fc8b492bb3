import { describe, expect, test } from 'vitest'
import { Chain } from '../../../../lib/chain/chain.ts'
import { CheckReport } from '../../../../lib/contracts/check-report.ts'
import type { Image } from '../../../../lib/contracts/image.ts'
import type { InternalSnapshots, WritableLayer } from '../../../../lib/contracts/layer.ts'
import { RepairReport, type RepairScope } from '../../../../lib/contracts/repair.ts'
import { VdiskError } from '../../../../lib/errors.ts'
import { BundleStore } from '../../../../lib/formats/parallels/bundle-files.ts'
import { parallels } from '../../../../lib/formats/parallels/driver.ts'
import { type Io, just, promised, settle } from '../../../../lib/io/io.ts'
import { MemoryStore } from '../../../../lib/io/memory.ts'
import type { ByteStore } from '../../../../lib/io/store.ts'
import { MemoryFolder } from '../../../support/memory-image.ts'
import { ParallelsFile, SECTOR } from '../../../support/parallels-file.ts'
import { refusal } from '../../../support/refusal.ts'
import { watchedStore, withoutHoles } from '../../../support/stores.ts'

/** Bundles in memory, whose files do not fit their descriptor, fail, or cannot be replaced. */

const [ROOT, TOP, SIDE] = [
  '{11111111-2222-3333-4444-555555555555}',
  '{5fbaabe3-6958-40ff-92a7-860e329aab41}',
  '{aaaaaaaa-2222-3333-4444-555555555555}',
] as const
const NONE = '{00000000-0000-0000-0000-000000000000}'

interface Shape {
  /** [start, end, images], in sectors */
  readonly storages?: readonly (readonly [
    number,
    number,
    readonly (readonly [guid: string, file: string, type?: string])[],
  ])[]
  readonly shots?: readonly (readonly [guid: string, parent: string])[]
  readonly clusterSectors?: number
  readonly parameters?: string
}

const GEOMETRY = '<Cylinders>1</Cylinders><Heads>1</Heads><Sectors>64</Sectors>'

/** A descriptor by the specification: docs/interop/prl-xml of QEMU. Without another word a disk of 64 sectors in root.hds. */
function descriptor({
  storages = [[0, 64, [[TOP, 'root.hds']]]],
  shots,
  clusterSectors = 8,
  parameters = GEOMETRY,
}: Shape): string {
  const storage = storages.map(([start, end, images]) => {
    const list = images.map(
      ([guid, file, type = 'Compressed']) =>
        `<Image><GUID>${guid}</GUID><Type>${type}</Type><File>${file}</File></Image>`,
    )
    return `<Storage><Start>${start}</Start><End>${end}</End><Blocksize>${clusterSectors}</Blocksize>${list.join('')}</Storage>`
  })
  const tree = shots?.map(([guid, parent]) => `<Shot><GUID>${guid}</GUID><ParentGUID>${parent}</ParentGUID></Shot>`)
  return `<?xml version="1.0"?><Parallels_disk_image Version="1.0"><Disk_Parameters><Disk_size>64</Disk_size>${parameters}</Disk_Parameters><StorageData>${storage.join('')}</StorageData>${tree ? `<Snapshots>${tree.join('')}</Snapshots>` : ''}</Parallels_disk_image>`
}

/** @param files image files by name; root.hds is there without another word */
function bundle(shape: Shape, files: Readonly<Record<string, ByteStore>> = {}): Image {
  const folder = new MemoryFolder()
  const add = (name: string, content: Uint8Array): void =>
    void folder.files.set(name, new MemoryStore(name, { content }))
  add('DiskDescriptor.xml', Buffer.from(descriptor(shape)))
  add('root.hds', new ParallelsFile({ stored: 3, bat: [1, 2, 3] }).bytes)
  for (const [name, store] of Object.entries(files)) folder.files.set(name, store)
  return folder.image('DiskDescriptor.xml')
}

const part = (sectors: number): MemoryStore => new ParallelsFile({ clusters: Math.ceil(sectors / 8), sectors }).store()
const plain = (length: number): MemoryStore => new MemoryStore('plain', { content: new Uint8Array(length).fill(5) })
const failing = (store: ByteStore): ByteStore =>
  watchedStore(store, ({ kind }) => {
    if (kind === 'read') throw new VdiskError('IO', { message: 'Cannot read: a test says so' })
  })

const open = async (image: Image): Promise<WritableLayer> =>
  (await promised(parallels.open(image, 'write'))) as WritableLayer

async function findings(image: Image): Promise<string[]> {
  const report = new CheckReport()
  await promised(parallels.check(await promised(parallels.open(image, 'read')), report))
  return report.findings.map(({ code }) => code)
}

async function repaired(image: Image, scope: RepairScope = 'all'): Promise<RepairReport> {
  const report = new RepairReport(scope)
  await promised(parallels.repair?.(image, report) as never)
  return report
}

const branches: Shape = {
  storages: [
    [
      0,
      64,
      [
        [ROOT, 'root.hds'],
        [TOP, 'top.hds'],
        [SIDE, 'side.hds'],
      ],
    ],
  ],
  shots: [
    [ROOT, NONE],
    [TOP, ROOT],
    [SIDE, ROOT],
  ],
}

describe('a check', () => {
  test('tells a geometry and clusters that are not what the descriptor says', async () => {
    expect(await findings(bundle({}))).toEqual([])
    expect(await findings(bundle({ parameters: '' }))).toEqual(['GEOMETRY'])
    expect(await findings(bundle({ parameters: GEOMETRY.replace('>64<', '>63<') }))).toEqual(['GEOMETRY'])
    expect(await findings(bundle({ clusterSectors: 16 }))).toEqual(['BLOCKSIZE'])
  })

  test('tells an image of another branch that cannot be read, but not a medium that fails', async () => {
    const garbage = new MemoryStore('side.hds', { content: new Uint8Array(4096).fill(7) })
    expect(await findings(bundle(branches, { 'top.hds': part(64), 'side.hds': garbage }))).toEqual(['IMAGE_UNREADABLE'])
    const failed = findings(bundle(branches, { 'top.hds': part(64), 'side.hds': failing(part(64)) }))
    expect((await refusal(() => failed)).code).toBe('IO')
  })

  test('looks at what lies beside, but not through a medium that fails', async () => {
    const image = bundle({}, { 'b.hds': part(8), 'c.hds': plain(100), 'd.hds': failing(part(8)) })
    const beside = (...names: string[]): Image => ({ ...image, namesBeside: () => ['root.hds', 'notes.txt', ...names] })
    expect(await findings(beside('b.hds', 'c.hds', 'gone.hds'))).toEqual(['FILE_UNNAMED'])
    expect((await refusal(() => findings(beside('d.hds')))).code).toBe('IO')
  })
})

describe('a bundle of several files', () => {
  const split: Shape = {
    storages: [
      [0, 32, [[TOP, 'a.hds']]],
      [32, 64, [[TOP, 'b.hds', 'Plain']]],
    ],
  }

  test('says so, and reads and writes across them', async () => {
    const layer = await open(bundle(split, { 'a.hds': part(32), 'b.hds': plain(32 * SECTOR) }))
    expect(layer.details).toMatchObject({ type: 'bundle, plain, split', clusterSize: 4096, files: ['a.hds', 'b.hds'] })
    const chain = new Chain([layer])
    await promised(chain.write(31 * SECTOR, new Uint8Array(2 * SECTOR).fill(9)))
    await promised(chain.erase(33 * SECTOR, SECTOR))
    const bytes = new Uint8Array(64 * SECTOR)
    await promised(chain.read(0, bytes))
    const wanted = new Uint8Array(64 * SECTOR).fill(9, 31 * SECTOR, 33 * SECTOR).fill(5, 34 * SECTOR)
    expect(Buffer.compare(bytes, wanted)).toBe(0)
    await promised(chain.close())
  })

  test('on a medium without holes is written all the same', async () => {
    const layer = await open(bundle(split, { 'a.hds': part(32), 'b.hds': withoutHoles(plain(32 * SECTOR)) }))
    const chain = new Chain([layer])
    await promised(chain.erase(40 * SECTOR, SECTOR))
    const bytes = new Uint8Array(3 * SECTOR)
    await promised(chain.read(39 * SECTOR, bytes))
    expect([bytes[SECTOR - 1], bytes[SECTOR], bytes[2 * SECTOR - 1], bytes[2 * SECTOR]]).toEqual([5, 0, 0, 5])
    await promised(chain.close())
  })

  test.each([
    [30 * SECTOR, 'UNSUPPORTED', 'files of the split disk would have to go'],
    [64 * SECTOR + 100, 'REFUSED', 'its sectors have 512 bytes'],
  ])('does not get a size of %i bytes', async (size, code, words) => {
    const layer = await open(bundle(split, { 'a.hds': part(32), 'b.hds': plain(32 * SECTOR) }))
    const error = await refusal(() => promised(layer.resize(size, 0)))
    expect([error.code, error.message.includes(words)]).toEqual([code, true])
  })

  test('that begin between clusters is read, and not written', async () => {
    const shape: Shape = {
      storages: [
        [0, 12, [[TOP, 'a.hds']]],
        [12, 64, [[TOP, 'b.hds']]],
      ],
    }
    const image = bundle(shape, { 'a.hds': part(12), 'b.hds': part(52) })
    expect((await promised(parallels.open(image, 'read'))).size).toBe(64 * SECTOR)
    const error = await refusal(() => open(image))
    expect(error).toMatchObject({ code: 'UNSUPPORTED', where: { structure: 'DiskDescriptor.xml' } })
    expect(error.message).toContain('do not begin where a cluster does')
  })
})

describe('a snapshot', () => {
  const editOf = async (image: Image): Promise<NonNullable<InternalSnapshots['edit']>> =>
    ((await open(image)).snapshots as InternalSnapshots).edit as NonNullable<InternalSnapshots['edit']>

  test.each([
    ['', 'empty or too long'],
    ['x'.repeat(1001), 'empty or too long'],
    [ROOT.slice(1, -1), 'has one called'],
  ])('is not kept by the name "%s"', async (name, words) => {
    const edit = await editOf(bundle(branches, { 'top.hds': part(64), 'side.hds': part(64) }))
    const error = await refusal(() => promised(edit.create(name)))
    expect([error.code, error.message.includes(words)]).toEqual(['REFUSED', true])
  })

  test('is not kept where files cannot be replaced, and what was made for it goes', async () => {
    const removed: string[] = []
    const image = bundle({})
    const removeNeighbour = (name: string): Io<void> => just(void removed.push(name))
    const edit = await editOf({ ...image, removeNeighbour })
    expect((await refusal(() => promised(edit.create('a')))).message).toContain('files cannot be replaced')
    expect(removed).toEqual([expect.stringMatching(/\.hds$/)])
    const bare = await editOf(bundle({}))
    expect((await refusal(() => promised(bare.create('a')))).message).toContain('files cannot be replaced')
  })
})

describe('where files can be replaced', () => {
  /** A bundle whose descriptor can be replaced, as it is by then. */
  function replaceable(shape: Shape, files: Readonly<Record<string, ByteStore>>): { image: Image; again: () => Image } {
    const folder = new MemoryFolder()
    void folder.image('DiskDescriptor.xml').store.write(0, Buffer.from(descriptor(shape)))
    for (const [name, store] of Object.entries(files)) folder.files.set(name, store)
    const again = (): Image => ({
      ...folder.image('DiskDescriptor.xml'),
      takeOver: (name) => just(void folder.files.set('DiskDescriptor.xml', folder.image(name).store)),
      removeNeighbour: (name) => just(void folder.files.delete(name)),
    })
    return { image: again(), again }
  }
  const bare: Shape = { storages: [[0, 64, [[TOP, 'a.hds', 'Plain']]]], shots: [], clusterSectors: 0, parameters: '' }

  test('a disk without a geometry grows, and has none then', async () => {
    const { image, again } = replaceable(bare, { 'a.hds': plain(64 * SECTOR) })
    const layer = await open(image)
    await promised(layer.resize(72 * SECTOR, 0))
    await promised(layer.close())
    const bytes = new Uint8Array(72 * SECTOR)
    await promised(new Chain([await promised(parallels.open(again(), 'read'))]).read(0, bytes))
    expect(Buffer.compare(bytes, new Uint8Array(72 * SECTOR).fill(5, 0, 64 * SECTOR))).toBe(0)
    expect(Buffer.from((again().store as MemoryStore).bytes()).includes('Cylinders')).toBe(false)
  })

  test('a disk that says nothing of states and clusters keeps a snapshot, which a check has nothing to say of', async () => {
    const { image, again } = replaceable(bare, { 'a.hds': plain(64 * SECTOR) })
    const layer = await open(image)
    const { edit } = layer.snapshots as InternalSnapshots
    await promised((edit as NonNullable<typeof edit>).create('first'))
    await promised(new Chain([layer]).write(0, Uint8Array.of(9)))
    await promised(layer.close())
    const reopened = await promised(parallels.open(again(), 'read'))
    const snapshots = reopened.snapshots as InternalSnapshots
    expect(snapshots.list().map(({ name }) => name)).toEqual(['first'])
    const view = await promised(snapshots.open('first'))
    const byte = new Uint8Array(1)
    await promised(new Chain([view]).read(0, byte))
    expect(byte[0]).toBe(5)
    await promised(new Chain([reopened]).read(0, byte))
    expect(byte[0]).toBe(9)
    const report = new CheckReport()
    await promised(parallels.check(view, report))
    expect(report.findings).toEqual([])
  })
})

describe('a repair', () => {
  test('tells where a file cannot be opened for another reason than that it is not there', async () => {
    const neighbour = (): never => {
      throw new VdiskError('IO', { message: 'Cannot open: a test says so' })
    }
    expect((await refusal(() => repaired({ ...bundle({}), neighbour }))).code).toBe('IO')
  })

  test('makes a plain file as long as its storage, unless only leaks are mended', async () => {
    const store = plain(60 * SECTOR)
    const image = bundle({ storages: [[0, 64, [[TOP, 'a.hds', 'Plain']]]] }, { 'a.hds': store })
    expect((await repaired(image, 'leaks')).done).toEqual([])
    const { done, doubtful } = await repaired(image)
    expect(done).toMatchObject([{ code: 'IMAGE_SIZE' }])
    expect(doubtful).toEqual([{ offset: 60 * SECTOR, length: 4 * SECTOR, snapshot: undefined }])
    expect([store.size(), (await repaired(image)).done]).toEqual([64 * SECTOR, []])
  })

  test('leaves what is missing or no image to the check, and mends a file once', async () => {
    const shape: Shape = {
      ...branches,
      storages: [
        [
          0,
          64,
          [
            [ROOT, 'root.hds'],
            [TOP, 'gone.hds'],
            [SIDE, 'root.hds'],
          ],
        ],
      ],
    }
    const broken = new ParallelsFile({ stored: 3, bat: [1, 2, 9] }).store()
    const { done, doubtful } = await repaired(bundle(shape, { 'root.hds': broken }))
    expect(done.map(({ code, structure }) => `${code} ${structure}`)).toEqual([
      'CLUSTER_PAST_END BAT of root.hds',
      'ROOM_AT_END file of root.hds',
    ])
    // All three states show what the root holds.
    expect(doubtful.map(({ snapshot }) => snapshot)).toEqual([undefined, ROOT.slice(1, -1), SIDE.slice(1, -1)])
    const garbage = new MemoryStore('root.hds', { content: new Uint8Array(4096).fill(7) })
    expect((await repaired(bundle({}, { 'root.hds': garbage }))).done).toEqual([])
    expect((await refusal(() => repaired(bundle({}, { 'root.hds': failing(part(64)) })))).code).toBe('IO')
  })
})

test('a bundle is as large as all of its files, and as young as the youngest', async () => {
  const stamped = (size: number, modified: bigint): ByteStore => ({
    ...watchedStore(plain(size), () => {}),
    occupied: () => 4096,
    stamp: () => ({ size, modified, inode: modified, born: 0n }),
  })
  const files = [stamped(100, 7n), stamped(50, 9n), plain(30)]
  const store = new BundleStore(stamped(20, 7n), () => files)
  expect([await store.size(), await store.occupied()]).toEqual([200, 3 * 4096 + 65_536])
  expect(store.stamp()).toEqual({ size: 170, modified: 9n, inode: 7n, born: 0n })
  const bare = new BundleStore(
    watchedStore(plain(20), () => {}),
    () => [],
  )
  expect([bare.fileId(), await bare.occupied()]).toEqual(['plain', 20])
  expect(bare.stamp()).toEqual({ size: 0, modified: 0n, inode: 0n, born: 0n })
  await promised(settle(bare.close()))
})

test('a table that needs more room sends the clusters behind it away, and what they hold comes along', async () => {
  const file = new ParallelsFile({ clusterSectors: 1, stored: 4, bat: [2, 0, 1, 4, 3] })
  const store = file.store()
  const image: Image = { ...bundle({}), store }
  const before = new Uint8Array(8 * SECTOR)
  const layer = await open(image)
  const chain = new Chain([layer])
  await promised(chain.read(0, before))
  await promised(chain.resize(300 * SECTOR))
  await promised(chain.close())
  const after = new Uint8Array(300 * SECTOR)
  await promised(new Chain([await promised(parallels.open(image, 'read'))]).read(0, after))
  expect(Buffer.compare(after.subarray(0, 8 * SECTOR), before)).toBe(0)
  expect(after.subarray(8 * SECTOR).every((byte) => byte === 0)).toBe(true)
  expect(Buffer.from(store.bytes()).readUInt32LE(48)).toBe(3)
  expect(await findings(image)).toEqual([])
})
