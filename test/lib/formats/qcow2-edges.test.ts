import { describe, expect, test } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import { VdiskError } from '../../../lib/errors.ts'
import { qcow2 } from '../../../lib/formats/qcow2/driver.ts'
import type { WritableQcow2Layer } from '../../../lib/formats/qcow2/layer.ts'
import { headerV2 } from '../../../lib/formats/qcow2/layout.ts'
import { promised, settle } from '../../../lib/io/io.ts'
import type { MemoryStore } from '../../../lib/io/memory.ts'
import { COMPRESSED, COPIED, CraftedImage, openStore, PLACE, snapshotEntry } from '../../support/crafted-qcow2.ts'
import { at, C } from '../../support/damaged-qcow2.ts'
import { findingsOf } from '../../support/hostile.ts'
import { MemoryFolder } from '../../support/memory-image.ts'
import { Random } from '../../support/random.ts'
import { rawParent } from '../../support/raw-base.ts'
import { refusal } from '../../support/refusal.ts'
import { damageOf, repairStore, salvageStore } from '../../support/repairing.ts'
import { contentOf, countingStore, delayedStore, watchedStore } from '../../support/stores.ts'

const create = qcow2.create as NonNullable<typeof qcow2.create>

async function made(size: number, options: Record<string, string>, path?: string): Promise<MemoryFolder> {
  const folder = new MemoryFolder()
  const parent = path === undefined ? undefined : { ...rawParent(size), path, absolutePath: `/${path}` }
  const shape = { size, parent, options: new Map(Object.entries(options)) }
  await promised((await promised(create(folder.image('a'), shape))).close())
  return folder
}

async function open(folder: MemoryFolder): Promise<WritableQcow2Layer> {
  return (await promised(qcow2.open(folder.image('a'), 'write'))) as WritableQcow2Layer
}

async function read(store: MemoryStore, offset: number, length: number): Promise<Buffer> {
  const bytes = Buffer.alloc(length)
  await promised(new Chain([openStore(store, 'read')]).read(offset, bytes))
  return bytes
}

describe('a header', () => {
  test('of 104 bytes, which knows no kind of compression, stays as long as it is', async () => {
    const store = new CraftedImage().header('headerLength', 104).store()
    const chain = new Chain([openStore(store, 'write')])
    await promised(chain.write(8 * C, Buffer.alloc(C, 0x33)))
    await promised(chain.close())
    expect(Buffer.from(store.bytes()).readUInt32BE(100)).toBe(104)
    expect((await read(store, 8 * C, 1))[0]).toBe(0x33)
    expect(openStore(store, 'read').details.compressionType).toBe('zlib')
  })

  test.each([
    ['an extension stands behind the fields: 104', 0xe2792aca],
    ['what stands there is no extension: 112', 0x12345678],
  ])('whose length cannot be right has that of its content, where one does without: %s', async (_, word) => {
    const image = new CraftedImage().header('headerLength', 13)
    if (word === 0xe2792aca) image.u32(104, word).u32(108, 3).bytes.write('raw', 112, 'latin1')
    const { layer, leftOut } = await salvageStore(image.store())
    expect(leftOut.map(({ message }) => message).join()).toContain('header_length')
    expect(layer.size).toBe(1024 * C)
  })

  test('that would not fit into a cluster is refused before anything is written', async () => {
    const failure = await refusal(async () => {
      await made(1 << 20, { cluster_size: '512' }, 'x'.repeat(500))
    })
    expect(failure).toMatchObject({ code: 'LIMIT_EXCEEDED' })
    const folder = await made(1 << 20, { cluster_size: '512' }, 'base')
    const layer = await open(folder)
    const before = contentOf(folder.image('a').store)
    const path = 'y'.repeat(500)
    const links = layer.links as NonNullable<typeof layer.links>
    await expect(
      promised(links.setParent({ ...rawParent(1 << 20), path, absolutePath: `/${path}` })),
    ).rejects.toMatchObject({ code: 'LIMIT_EXCEEDED' })
    expect(Buffer.from(contentOf(folder.image('a').store)).equals(before)).toBe(true)
    await promised(layer.close())
  })

  test('of another program gets a record of the parent, where there was none', async () => {
    const store = new CraftedImage().backing('old').store()
    const layer = openStore(store, 'write')
    const parent = { ...rawParent(1 << 20), path: 'new', absolutePath: '/new' }
    await promised((layer.links as NonNullable<typeof layer.links>).setParent(parent))
    await promised(layer.close())
    expect(openStore(store, 'read').parent).toMatchObject({ references: ['new'], record: { size: 1 << 20 } })
  })

  test('of version 2 says so', () => {
    expect(openStore(new CraftedImage({ version: 2 }).store(), 'read').details.compat).toBe('0.10')
  })

  test('is none where the file ends before', () => {
    const sample = { name: 'a', size: 7, head: Buffer.from('QFI\xfb\0\0\0', 'latin1'), tail: Buffer.alloc(0) }
    expect(qcow2.probe(sample)).toBe('no')
  })
})

describe('a cluster that reads as zero and has a place of its own', () => {
  test('keeps the place when a part of it is written, and its rest reads as zero', async () => {
    const image = new CraftedImage()
    const place = image.grow(1)
    const store = image
      .fill(place, 0xee)
      .l2(2, at(place) | COPIED | 1n)
      .store()
    const chain = new Chain([openStore(store, 'write')])
    await promised(chain.write(2 * C + 100, Buffer.alloc(50, 0x44)))
    await promised(chain.close())
    const bytes = await read(store, 2 * C, C)
    expect([bytes[99], bytes[100], bytes[149], bytes[150], bytes[C - 1]]).toEqual([0, 0x44, 0x44, 0, 0])
    expect(
      openStore(store, 'read')
        .map(2 * C, C)
        .next().value,
    ).toMatchObject({ kind: 'data', at: place * C })
    expect(await findingsOf(openStore(store, 'read'))).toEqual([])
  })
})

test('an image that is only opened for writing is neither written nor made durable; one that is, is', async () => {
  const folder = await made(1 << 20, {})
  const { store, counts } = countingStore(folder.image('a').store)
  for (const writes of [false, true]) {
    const layer = await promised(qcow2.open({ ...folder.image('a'), store }, 'write'))
    const chain = new Chain([layer])
    if (writes) await promised(chain.write(0, Buffer.alloc(512, 1)))
    await promised(chain.close())
    expect([(counts.write?.calls ?? 0) > 0, (counts.flush?.calls ?? 0) > 0]).toEqual([writes, writes])
  }
})

describe('an image that was made, and closed without a change,', () => {
  test.each<[string, number, Record<string, string>]>([
    ['is small', 1 << 20, {}],
    ['has a table of refcounts that its L1 table made grow', 2 ** 36, { cluster_size: '512' }],
    ['has one that its preallocated clusters made grow', 48 << 20, { cluster_size: '512', preallocation: 'metadata' }],
  ])('%s: all of it is on the medium, and no room is lost', async (_, size, options) => {
    const folder = new MemoryFolder()
    let isDurable = true
    const store = watchedStore(folder.image('a').store, ({ kind }) => {
      if (kind !== 'read') isDurable = kind === 'flush'
    })
    const shape = { size, parent: undefined, options: new Map(Object.entries(options)) }
    await promised((await promised(create({ ...folder.image('a'), store }, shape))).close())
    expect(isDurable).toBe(true)
    expect(await findingsOf(await open(folder))).toEqual([])
  })
})

test('a write over two clusters side by side ends where the entry of the second cannot be right', async () => {
  const store = new CraftedImage().l2(1, at(PLACE.data1) | COPIED | (1n << 60n)).store()
  const chain = new Chain([openStore(store, 'write')])
  const failure = await refusal(async () => {
    await promised(chain.write(0, Buffer.alloc(2 * C, 0x55)))
  })
  expect(failure.code).toBe('CORRUPT')
  await promised(chain.close())
  // What the damaged entry may mean is not written over.
  expect(store.bytes()[PLACE.data1 * C]).toBe(0xa1)
})

describe('a data file', () => {
  test.each([
    ['plain entries', {}],
    ['extended entries', { extended_l2: 'on', cluster_size: '16K' }],
  ])('is written in place where it holds data already: %s', async (_, options) => {
    const folder = await made(1 << 20, { data_file: 'data', ...options })
    const chain = new Chain([await open(folder)])
    for (const byte of [0x11, 0x22]) await promised(chain.write(70_000, Buffer.alloc(1000, byte)))
    await promised(chain.write(70_500, Buffer.alloc(100, 0x33)))
    await promised(chain.close())
    const bytes = Buffer.alloc(1002)
    await promised(new Chain([await open(folder)]).read(69_999, bytes))
    expect([0, 1, 501, 600, 601, 1000, 1001].map((i) => bytes[i])).toEqual([0, 0x22, 0x33, 0x33, 0x22, 0x22, 0])
    expect(await findingsOf(await open(folder))).toEqual([])
    expect((await open(folder)).packer).toBeUndefined()
  })

  test('that answers late is waited for', async () => {
    const folder = await made(1 << 20, { data_file: 'data' })
    const chain = new Chain([await open(folder)])
    await promised(chain.write(0, Buffer.alloc(1000, 0x11)))
    await promised(chain.close())
    const slow = delayedStore(folder.files.get('data') as MemoryStore, 1)
    const inner = slow.size.bind(slow)
    folder.files.set('data', { ...slow, size: () => Promise.resolve(inner()) })
    const bytes = Buffer.alloc(2000)
    await promised(new Chain([await promised(qcow2.open(folder.image('a'), 'read'))]).read(0, bytes))
    expect([bytes[0], bytes[999], bytes[1000]]).toEqual([0x11, 0x11, 0])
  })

  test('is closed where the image cannot be opened after all', async () => {
    const folder = await made(1 << 20, { data_file: 'data' })
    const { store } = folder.image('a')
    const table = Number(Buffer.from(contentOf(store)).readBigUInt64BE(48))
    folder.files.set(
      'a',
      watchedStore(store, ({ kind, at: place }) => {
        if (kind !== 'read' || place !== table) return
        throw new VdiskError('IO', { message: 'Cannot read: a test says so', where: {} })
      }),
    )
    let closed = 0
    const data = folder.files.get('data') as MemoryStore
    const close = data.close.bind(data)
    data.close = () => {
      closed++
      return close()
    }
    await expect(promised(qcow2.open(folder.image('a'), 'read'))).rejects.toMatchObject({ code: 'IO' })
    expect(closed).toBe(1)
  })
})

describe('a disk that does not end with a cluster', () => {
  test.each(['data', 'packed'])('reads as zero where it grew, if a snapshot has its last cluster: %s', async (kind) => {
    const folder = await made(5 * 4096 + 512, { cluster_size: '4096' })
    const layer = await open(folder)
    const chain = new Chain([layer])
    const last = Buffer.alloc(512, 0x66)
    if (kind === 'data') await promised(chain.write(5 * 4096, last))
    else {
      const packer = layer.packer as NonNullable<typeof layer.packer>
      // Another program may have packed what lies behind the end as well.
      const packed = (await promised(settle(packer.pack(Buffer.alloc(4096, 0x66))))) as Uint8Array
      await promised(packer.store(5 * 4096, packed))
    }
    await promised((layer.snapshots.edit as NonNullable<typeof layer.snapshots.edit>).create('before'))
    await promised(chain.resize(6 * 4096))
    await promised(chain.close())
    const again = new Chain([await open(folder)])
    const bytes = Buffer.alloc(4096)
    await promised(again.read(5 * 4096, bytes))
    expect(bytes.subarray(0, 512).equals(last)).toBe(true)
    expect(bytes.subarray(512).every((byte) => byte === 0)).toBe(true)
    const view = await promised(again.viewOfSnapshot('before'))
    const old = Buffer.alloc(512)
    await promised(view.read(5 * 4096, old))
    expect(old.equals(last)).toBe(true)
    expect(await findingsOf(again.layers[0] as WritableQcow2Layer)).toEqual([])
  })
})

describe('a disk without a byte', () => {
  test('gets its tables back with the snapshot that it goes back to', async () => {
    const folder = await made(1 << 20, { cluster_size: '4096' })
    const layer = await open(folder)
    const chain = new Chain([layer])
    await promised(chain.write(9000, Buffer.alloc(100, 0x77)))
    const edit = layer.snapshots.edit as NonNullable<typeof layer.snapshots.edit>
    await promised(edit.create('before'))
    await promised(chain.resize(0))
    await promised(edit.revert('before'))
    expect(layer.size).toBe(1 << 20)
    const bytes = Buffer.alloc(100)
    await promised(chain.read(9000, bytes))
    expect(bytes.every((byte) => byte === 0x77)).toBe(true)
    await promised(chain.close())
    expect(await findingsOf(await open(folder))).toEqual([])
  })

  test.each([{}, { data_file: 'data' }])(
    'is what a disk of %j becomes that is emptied for a parent without one',
    async (options) => {
      const folder = await made(1 << 20, { cluster_size: '4096', ...options })
      const layer = await open(folder)
      await promised(new Chain([layer]).write(0, Buffer.alloc(9000, 0x77)))
      await promised((layer.clear as NonNullable<typeof layer.clear>)(0))
      expect(layer.size).toBe(0)
      // Once more, where there is nothing left to give up.
      await promised((layer.clear as NonNullable<typeof layer.clear>)(0))
      await promised(layer.close())
      const again = await open(folder)
      expect(again.size).toBe(0)
      expect(await findingsOf(again)).toEqual([])
      if (options.data_file) expect(contentOf(folder.image('data').store)).toHaveLength(0)
    },
  )
})

test('a disk without a byte needs no table: one that is too large, and nowhere, is taken out of its header', async () => {
  const image = new CraftedImage()
  image
    .header('size', 0)
    .header('l1Size', 0x00ffffff)
    .u64(headerV2.offsetOf('l1TableOffset'), 2 ** 61)
  const store = image.store()
  expect((await refusal(async () => openStore(store, 'read'))).where).toMatchObject({ structure: 'header', at: 36 })
  expect((await repairStore(store)).done).not.toEqual([])
  expect(openStore(store, 'read').size).toBe(0)
  expect(await damageOf(store)).toEqual([])
})

describe('what a check finds', () => {
  test('an L1 entry that begins in the middle of a cluster', async () => {
    const store = new CraftedImage().l1(0, (at(PLACE.l2) + 512n) | COPIED).store()
    expect(await findingsOf(openStore(store, 'read'))).toContain('L1_ENTRY_INVALID')
    await expect(read(store, 0, 1)).rejects.toMatchObject({ code: 'CORRUPT' })
  })

  test.each([
    ['a packed cluster that has subclusters', COMPRESSED | BigInt(5 << 14), 1n, 'L2_ENTRY_RESERVED'],
    ['subclusters without a place', 0n, 1n, 'SUBCLUSTER_INVALID'],
    ['a part that is there and zero', BigInt(5 << 14) | COPIED, 0x00000001_00000001n, 'SUBCLUSTER_INVALID'],
    ['a place that is none', BigInt((5 << 14) + 512) | COPIED, 1n, 'L2_ENTRY_INVALID'],
  ])('in extended entries: %s', async (_, entry, bitmap, code) => {
    const store = new CraftedImage({ clusterBits: 14, extendedL2: true }).l2(0, entry, bitmap).store()
    expect(await findingsOf(openStore(store, 'read'))).toContain(code)
    await expect(read(store, 0, 1)).rejects.toMatchObject({ code: 'CORRUPT' })
  })

  test('is told once, however many pieces the counts of a file come in', async () => {
    // Counts are gone through 16 Mi clusters at a time: 8 GiB.
    const image = new CraftedImage({ clusterBits: 9 }).l2(1, BigInt(PLACE.data1 * 512) | COPIED | (1n << 60n))
    const layer = openStore(image.store(9 * 2 ** 30), 'read')
    const findings = await findingsOf(layer)
    expect(findings.filter((code) => code === 'L2_ENTRY_RESERVED')).toHaveLength(1)
  })
})

describe('snapshots', () => {
  test('that are as many as there may be: another one is refused', async () => {
    const image = new CraftedImage()
    const entries = 65536
    const entry = snapshotEntry({ l1At: 0, l1Size: 0, diskSize: 0 })
    const table = image.bytes.length
    image.bytes = Buffer.concat([image.bytes, Buffer.alloc(Math.ceil((entries * entry.length) / C) * C)])
    for (let i = 0; i < entries; i++) entry.copy(image.bytes, table + i * entry.length)
    for (let number = table / C; number < image.bytes.length / C; number++) image.count(number, 1)
    const layer = openStore(image.header('snapshotCount', entries).header('snapshotsOffset', table).store(), 'write')
    const { edit } = layer.snapshots
    const failure = await refusal(async () => {
      await promised((edit as NonNullable<typeof edit>).create('one more'))
    })
    expect(failure.message).toContain('there are 65536 already')
    await promised(layer.close())
  })
})

describe('a close', () => {
  test.each([
    ['by one who may not set the time of the file', 'REFUSED', true],
    ['on a medium that fails', 'IO', false],
  ] as const)('%s leaves an image whose identity is known', async (_, code, closes) => {
    const folder = await made(1 << 20, {})
    const inner = folder.image('a').store as MemoryStore
    const stamp = (): { size: number; modified: bigint; inode: bigint; born: bigint } => ({
      size: inner.size(),
      modified: 1n,
      inode: 1n,
      born: 1n,
    })
    const restamp = (): void => {
      throw new VdiskError(code, { message: 'Cannot set the time: a test says so', where: {} })
    }
    const marked = watchedStore(inner, () => {})
    folder.files.set('a', { ...marked, stamp, restamp })
    const layer = await open(folder)
    await promised(new Chain([layer]).write(0, Buffer.alloc(512, 1)))
    const ending = promised(layer.close())
    if (closes) await ending
    else await expect(ending).rejects.toMatchObject({ code })
    folder.files.set('a', { ...marked, stamp })
    const again = await promised(qcow2.open(folder.image('a'), 'read'))
    expect(again.identity?.current).toBe(true)
  })

  test('by another program takes the mark away: the identity says nothing any more', async () => {
    const folder = await made(1 << 20, {})
    const { store } = folder.image('a')
    const bytes = Buffer.from(contentOf(store))
    expect((await promised(qcow2.open(folder.image('a'), 'read'))).identity?.current).toBe(true)
    bytes.writeBigUInt64BE(0n, 88)
    await store.write(88, bytes.subarray(88, 96))
    expect((await promised(qcow2.open(folder.image('a'), 'read'))).identity?.current).toBe(false)
  })
})

test('a cluster that packing does not make smaller is not packed', async () => {
  const folder = await made(1 << 20, { cluster_size: '4096' })
  const layer = await open(folder)
  const noise = new Random(1).bytes(4096)
  expect(await promised(settle((layer.packer as NonNullable<typeof layer.packer>).pack(noise)))).toBeUndefined()
  await promised(layer.close())
})

test.each([
  ['in one file', {}, []],
  // It is made first, and opened then.
  ['with its data in another file', { data_file: 'data' }, ['data', 'data']],
] as const)(
  'an image %s for which there is no room is not made, and what was opened for it is closed',
  async (_, options, wanted) => {
    const closed: string[] = []
    const folder = new MemoryFolder((inner) => ({
      ...watchedStore(inner, ({ kind, length }) => {
        if (kind === 'write' && length >= 1 << 20)
          throw new VdiskError('NO_SPACE', { message: 'Cannot write: a test says so' })
      }),
      close: () => void closed.push(inner.name),
    }))
    const shape = {
      size: 4 << 20,
      parent: undefined,
      options: new Map(Object.entries({ preallocation: 'full', ...options })),
    }
    const failed = promised(create(folder.image('a'), shape))
    expect([(await refusal(() => failed)).code, closed]).toEqual(['NO_SPACE', wanted])
  },
)
