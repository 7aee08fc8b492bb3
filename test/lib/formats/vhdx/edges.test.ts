import { describe, expect, test } from 'vitest'
import { Chain } from '../../../../lib/chain/chain.ts'
import type { NewParent } from '../../../../lib/contracts/identity.ts'
import type { Layer } from '../../../../lib/contracts/layer.ts'
import { VdiskError } from '../../../../lib/errors.ts'
import { vhdx } from '../../../../lib/formats/vhdx/driver.ts'
import { beginMerge, locatorFor, parentLinkOf } from '../../../../lib/formats/vhdx/linkage.ts'
import { ParentLocator } from '../../../../lib/formats/vhdx/locator.ts'
import { ReplayedStore, replayOnto } from '../../../../lib/formats/vhdx/replay.ts'
import { promised } from '../../../../lib/io/io.ts'
import { MemoryStore } from '../../../../lib/io/memory.ts'
import type { ByteStore } from '../../../../lib/io/store.ts'
import { checkLayer } from '../../../contract/driver-contract.ts'
import { patternFor } from '../../../model/history.ts'
import { rawBase, rawParent } from '../../../support/raw-base.ts'
import { refusal } from '../../../support/refusal.ts'
import { contentOf, delayedStore, watchedStore } from '../../../support/stores.ts'
import { KIB, logEntry, MIB, VhdxFile } from '../../../support/vhdx-file.ts'
import { findings, repair, salvage, sectorsOf } from '../../../support/vhdx-repair.ts'

const SIZE = 4 * MIB
const BITMAP = 4096
const GUID = '11111111-2222-4333-8444-555555555555'

type Updates = NonNullable<Parameters<typeof logEntry>[0]['updates']>

const place = (entry: bigint): number => Number(entry & ~0xfffffn)

/** A store that can do no more than it must. */
function plain(store: MemoryStore): ByteStore {
  const { name } = store
  return {
    name,
    writable: true,
    size: () => store.size(),
    read: (at, target) => store.read(at, target),
    write: (at, source) => store.write(at, source),
    truncate: (size) => store.truncate(size),
    grow: (size) => store.grow(size),
    flush: () => store.flush(),
    close: () => store.close(),
  }
}

/** A file in which all reads that touch a range fail. */
function unreadable(file: VhdxFile, from: number, length: number): void {
  file.wrap((store) =>
    watchedStore(store, ({ kind, at, length: count }) => {
      if (kind !== 'read' || at >= from + length || at + count <= from) return
      throw new VdiskError('IO', { message: 'a test says so', where: { at: from } })
    }),
  )
}

async function bytesOf(layer: Layer, below: readonly Layer[] = []): Promise<Buffer> {
  return Buffer.concat((await sectorsOf(layer, below)) as Uint8Array[])
}

describe('headers', () => {
  test('whose number cannot rise any further are not written, but read', async () => {
    const file = await VhdxFile.make(SIZE)
    file.editHeaders((view) => view.setBigUint64(8, 2n ** 64n - 1n, true), [0])
    const before = contentOf(file.store)
    const layer = await file.write()
    expect(await refusal(() => promised(layer.reserve(0, 512)))).toMatchObject({
      code: 'LIMIT_EXCEEDED',
      where: { structure: 'header', at: 64 * KIB, section: '[MS-VHDX] 2.2.2' },
    })
    expect(Buffer.compare(contentOf(file.store), before)).toBe(0)
    expect((await file.read()).size).toBe(SIZE)
  })

  test.each<[string, (view: DataView) => void]>([
    ['no version', (view) => view.setUint16(66, 0, true)],
    ['no log', (view) => view.setUint32(68, 0, true)],
  ])('that agree about %s say nothing of a log: what waits in it is not known', async (_, edit) => {
    const file = await VhdxFile.make(SIZE)
    const end = file.store.size()
    const page = new Uint8Array(4096).fill(2)
    const updates = [{ at: end - MIB, bytes: page }]
    file.setLog(GUID, [
      { at: 0, bytes: logEntry({ guid: GUID, sequence: 7, tail: 0, updates, flushed: end, last: end }) },
    ])
    file.editHeaders(edit)
    for (const k of [64, 128]) file.put(k * KIB + 4, Buffer.from('xxxx'))
    expect((await salvage(file)).layer.details).not.toHaveProperty('pendingLogEntries')
    expect(await refusal(() => repair(file))).toMatchObject({ code: 'CORRUPT', where: { structure: 'log', at: MIB } })
  })
})

describe('region tables', () => {
  test('that put the metadata before and over the BAT are refused', async () => {
    const file = await VhdxFile.make(SIZE)
    file.editRegions((view) => view.setUint32(16 + 32 + 24, 2 * MIB, true))
    expect(await refusal(() => file.read())).toMatchObject({
      code: 'CORRUPT',
      message: expect.stringContaining('metadata region and its BAT lie on top') as string,
      where: { at: file.bat.at, section: '[MS-VHDX] 2.2.3.2' },
    })
  })

  test('damaged in different places are joined, whichever is damaged first', async () => {
    const file = await VhdxFile.make(SIZE)
    file.put(192 * KIB + 30_000, Buffer.from('y'))
    file.put(256 * KIB + 17, Buffer.from('x'))
    expect((await repair(file)).done.map(({ code }) => code)).toEqual(['REGION_TABLE_DAMAGED', 'REGION_TABLE_DAMAGED'])
    expect(await findings(file)).toEqual([])
  })

  test('that differ, and cannot be read with, are not taken for damaged', async () => {
    const file = await VhdxFile.make(SIZE)
    file.editRegions((view) => view.setUint32(12, 1, true), [1])
    unreadable(file, file.metadata.at, 4096)
    expect(await refusal(() => repair(file))).toMatchObject({ code: 'IO' })
  })
})

describe('metadata', () => {
  /** Adds items of users, and says so. */
  function addItems(file: VhdxFile, count: number, of: { offset: number; length: number; flags: number }): void {
    const { at } = file.metadata
    for (let i = 0; i < count; i++) {
      file.edit(at + 32 + (5 + i) * 32, 32, -1, (view) => {
        view.setUint32(0, 100 + i, true)
        view.setUint32(16, of.offset, true)
        view.setUint32(20, of.length, true)
        view.setUint32(24, of.flags, true)
      })
    }
    file.edit(at, 32, -1, (view) => view.setUint16(10, 5 + count, true))
  }
  const parent: NewParent = rawParent(SIZE)

  test('may have items of users that are empty; more than 1024 are refused', async () => {
    const file = await VhdxFile.make(SIZE)
    addItems(file, 1024, { offset: 0, length: 0, flags: 1 })
    expect((await file.read()).structure.metadata.items).toHaveLength(1029)
    addItems(file, 1025, { offset: 0, length: 0, flags: 1 })
    expect(await refusal(() => file.read())).toMatchObject({
      code: 'CORRUPT',
      where: { structure: 'metadata table', at: file.metadata.at },
    })
    expect((await salvage(file)).told).toMatchObject([{ code: 'CORRUPT' }])
  })

  test('with empty items has room for a locator behind the others', async () => {
    const file = await VhdxFile.make(SIZE)
    addItems(file, 2, { offset: 0, length: 0, flags: 1 })
    const layer = await file.write()
    await promised(layer.links.setParent(parent))
    await promised(layer.close())
    expect((await file.read()).parent).toMatchObject({ references: ['.\\base', '\\\\?\\\\base'] })
    expect((await file.read()).structure.metadata.items).toHaveLength(8)
  })

  test('that is full has no room for a locator, and nothing is changed', async () => {
    const file = await VhdxFile.make(SIZE)
    addItems(file, 1, { offset: 64 * KIB + 64, length: MIB - 64 * KIB - 64, flags: 0 })
    const layer = await file.write()
    expect(await refusal(() => promised(layer.links.setParent(parent)))).toMatchObject({
      code: 'UNSUPPORTED',
      where: { structure: 'metadata region', at: file.metadata.at, section: '[MS-VHDX] 2.6' },
    })
    await promised(layer.close())
    expect((await file.read()).parent).toBeUndefined()
  })

  test('of which the end of the file cuts off an item is refused, with the place of its entry', async () => {
    const file = await VhdxFile.make(SIZE)
    const end = file.store.size()
    file.put(end, file.bytes(file.metadata.at, MIB))
    file.editRegions((view) => view.setBigUint64(16 + 32 + 16, BigInt(end), true))
    file.store.truncate(end + 64 * KIB + 10)
    expect(await refusal(() => file.read())).toMatchObject({
      code: 'CORRUPT',
      message: expect.stringContaining('virtual disk size lies past the end') as string,
      where: { structure: 'metadata table', index: 1 },
    })
  })
})

describe('the parent locator', () => {
  const linkOf = (changes: object): string =>
    JSON.stringify({ version: 1, format: 'qcow2', identity: { kind: 'generation', value: 'x' }, size: 5, ...changes })
  const read = (changes: object) => parentLinkOf(new ParentLocator(new Map([['vdisk_link', linkOf(changes)]])))

  test('takes an identity of a kind that it does not know for none', () => {
    expect(read({}).expects).toMatchObject([{ kind: 'generation', value: 'x' }])
    expect(read({ identity: { kind: 'colour', value: 'x' } }).expects).toEqual([])
  })

  test.each([
    { modified: '1', inode: 2, born: '3' },
    { modified: 'x', inode: '2', born: '3' },
    { inode: '2', born: '3' },
  ])('takes a stamp with numbers that are none for none: %o', (stamp) => {
    expect(read({ stamp: { size: 5, ...stamp } }).record).toEqual({ size: 5, stamp: undefined, sample: undefined })
  })

  test('is never made without the identity that it needs', () => {
    const identity = { kind: 'cid' as const, value: '1', current: true }
    expect(() => locatorFor('a', { ...rawParent(5), format: 'vhdx', identity }, undefined)).toThrow(TypeError)
    expect(() => beginMerge('a', new ParentLocator(new Map()), identity, identity)).toThrow(TypeError)
  })
})

describe('a log', () => {
  const END = 4 * MIB
  const entry = (sequence: number, tail: number, updates: Updates = []) =>
    logEntry({ guid: GUID, sequence, tail, updates, flushed: END, last: END })

  test('of entries that all point at a place where none is, costs one look at each of them', async () => {
    const file = await VhdxFile.make(SIZE)
    const entries = Array.from({ length: 8 }, (_, i) => ({ at: i * 4096, bytes: entry(5 + i, 512 * KIB) }))
    file.setLog(GUID, [...entries, { at: 100 * 4096, bytes: entry(3, 100 * 4096) }])
    expect((await file.read()).details).toMatchObject({ pendingLogEntries: 1 })
  })

  test('does not count an entry that zeroes a piece of a sector', async () => {
    const file = await VhdxFile.make(SIZE)
    file.setLog(GUID, [
      { at: 0, bytes: entry(5, 0) },
      { at: 4096, bytes: entry(6, 4096, [{ at: 3 * MIB, zeros: 100 }]) },
    ])
    expect((await file.read()).structure.pendingLog).toMatchObject({ entries: 1, updates: [] })
  })

  const replayed = (updates: readonly object[], store: ByteStore, fileEnd = MIB): Promise<ReplayedStore> =>
    promised(ReplayedStore.over(store, { updates, entries: 1, fileEnd, durableEnd: 0 } as never))
  const sector = (at: number, value: number) => ({ kind: 'data', at, bytes: new Uint8Array(4096).fill(value) })
  const zeros = (at: number, length: number) => ({ kind: 'zero', at, length })

  test('in memory keeps the order of what it writes and zeroes, also where ranges meet or many sectors go', async () => {
    const base = new MemoryStore('a', { content: new Uint8Array(MIB).fill(9) })
    const many = Array.from({ length: 20 }, (_, i) => sector(i * 8192, 1))
    const view = await replayed(
      [...many, zeros(0, 8192), zeros(8192, 8192), zeros(65536, 4096), sector(4096, 2), zeros(16 * 8192, 4096)],
      base,
    )
    const found = new Uint8Array(MIB)
    await view.read(0, found)
    expect([0, 4096, 8192, 16384, 65536, 16 * 8192, 17 * 8192, 500_000].map((at) => found[at])).toEqual([
      0, 2, 0, 1, 0, 0, 1, 9,
    ])
  })

  test('in memory is laid over what comes later as well', async () => {
    const base = new MemoryStore('a', { content: new Uint8Array(MIB).fill(9) })
    const view = await replayed([sector(4096, 3), zeros(0, 4096)], delayedStore(base, 4))
    const found = new Uint8Array(12288)
    await view.read(0, found)
    expect([found[0], found[4096], found[8192]]).toEqual([0, 3, 9])
  })

  test('in memory ends where the file will', async () => {
    const view = await replayed([], new MemoryStore('a', { content: new Uint8Array(10) }), 100)
    expect(() => view.read(96, new Uint8Array(5))).toThrow(expect.objectContaining({ code: 'OUT_OF_RANGE' }) as Error)
    expect(view.read(90, new Uint8Array(10))).toBeUndefined()
  })

  test('that zeroes the same places over and over is refused before it costs much', async () => {
    const many = Array.from({ length: 9000 }, (_, i) => sector(2 ** 33 + i * 4096, 1))
    const again = Array.from({ length: 9000 }, () => zeros(0, 2 ** 32))
    const store = new MemoryStore('a')
    await expect(replayed([...many, ...again], store, 2 ** 40)).rejects.toMatchObject({
      code: 'LIMIT_EXCEEDED',
      where: { structure: 'log' },
    })
  })

  test('is replayed onto a file in which no holes can be made', async () => {
    const store = new MemoryStore('a', { content: new Uint8Array(3 * MIB).fill(9) })
    const log = { updates: [zeros(4096, MIB + 4096)], entries: 1, fileEnd: 3 * MIB, durableEnd: 0 }
    await promised(replayOnto(plain(store), log as never))
    const found = contentOf(store)
    expect([4095, 4096, MIB + 8191, MIB + 8192].map((at) => found[at])).toEqual([9, 0, 0, 9])
  })
})

describe('what the medium cannot read is no damage', () => {
  test('of the log, in salvage too', async () => {
    const file = await VhdxFile.make(SIZE)
    file.setLog(GUID, [{ at: 0, bytes: new Uint8Array(4096).fill(1) }])
    unreadable(file, MIB, MIB)
    expect(await refusal(() => salvage(file))).toMatchObject({ code: 'IO' })
  })

  test('of a page of the BAT', async () => {
    const file = await VhdxFile.make(SIZE)
    unreadable(file, file.bat.at, 4096)
    const layer = await file.read()
    expect(await refusal(() => promised(layer.map(0, 512)))).toMatchObject({ code: 'IO' })
  })

  test('of the bits of the last block, in a check and in a repair', async () => {
    const file = await VhdxFile.make(SIZE - 512, {}, rawParent(SIZE))
    const chain = new Chain([await rawBase(SIZE), await file.write()])
    await promised(chain.write(3 * MIB, new Uint8Array(512).fill(1)))
    await promised(chain.close())
    unreadable(file, place(file.entry(BITMAP)), MIB)
    const layer = await file.read()
    expect(await refusal(() => checkLayer(vhdx, layer))).toMatchObject({ code: 'IO' })
    expect(await refusal(() => repair(file))).toMatchObject({ code: 'IO' })
  })
})

describe('mapping', () => {
  test('ends before a block whose entry cannot be right, though it would lie where the next one does', async () => {
    const file = await VhdxFile.make(SIZE, { subformat: 'fixed' })
    file.setEntry(1, file.entry(1) | 0x80n)
    const layer = await file.read()
    expect(await promised(layer.map(0, SIZE))).toMatchObject({ kind: 'data', length: MIB })
    expect(await promised(layer.map(2 * MIB, 2 * MIB))).toMatchObject({ kind: 'data', length: 2 * MIB })
  })

  test('of a child goes on over blocks that say that they are not there, and ends where a hole of the table begins', async () => {
    const size = 40_000 * MIB
    const file = await VhdxFile.make(size, {}, rawParent(size))
    for (let block = 0; block < 600; block++) file.setEntry(block, 2n)
    const layer = await file.read()
    expect(await promised(layer.map(0, size))).toEqual({ kind: 'zero', length: 600 * MIB })
    expect((await promised(layer.map(600 * MIB, size - 600 * MIB))).kind).toBe('parent')
  })
})

describe('a child', () => {
  async function child(): Promise<{ file: VhdxFile; base: Layer; content: Buffer }> {
    const base = await rawBase(SIZE)
    const content = await bytesOf(base)
    const file = await VhdxFile.make(SIZE, {}, rawParent(SIZE))
    const chain = new Chain([base, await file.write()])
    content.set(patternFor(0, 8192, 1), MIB)
    await promised(chain.write(MIB, patternFor(0, 8192, 1)))
    await promised(chain.close())
    return { file, base, content }
  }

  test('erased in part where it holds nothing is as it was; where it is zero, too', async () => {
    const { file, base, content } = await child()
    const layer = await file.write()
    const chain = new Chain([base, layer])
    expect(await promised(layer.allocation.erase(2 * MIB + 512, 1024, 'parent'))).toBe(1024)
    await promised(chain.erase(3 * MIB, MIB))
    content.fill(0, 3 * MIB)
    expect(await promised(layer.allocation.erase(3 * MIB + 512, 1024, 'zero'))).toBe(1024)
    await promised(chain.close())
    expect((await bytesOf(await file.read(), [base])).equals(content)).toBe(true)
  })

  test('is emptied in one step, and its room given back; also where no holes can be made', async () => {
    for (const wrap of [(store: MemoryStore): ByteStore => store, plain]) {
      const { file, base } = await child()
      file.wrap(() => wrap(file.store))
      const layer = await file.write()
      await promised(layer.clear(SIZE))
      await promised(layer.close())
      expect((await bytesOf(await file.read(), [base])).equals(await bytesOf(base))).toBe(true)
      expect(file.store.size()).toBe(file.bat.at + file.bat.length)
      expect(await findings(file)).toEqual([])
    }
  })

  test('of a size that it has already is not resized', async () => {
    const { file } = await child()
    const before = contentOf(file.store)
    const layer = await file.write()
    await promised(layer.resize(SIZE, SIZE))
    await promised(layer.close())
    expect(Buffer.compare(contentOf(file.store), before)).toBe(0)
  })

  test('without sector bitmaps in some chunks is unlinked as any other: what the parent showed is zero', async () => {
    // Blocks of 256 MiB and sectors of 512 bytes: sixteen blocks to a chunk.
    const size = 12_288 * MIB
    const file = await VhdxFile.make(size, { block_size: '256M' }, rawParent(size))
    const layer = await file.write()
    const room = await promised(layer.reserve(20 * 256 * MIB + 4096, 4096))
    await layer.store.write(room.at, new Uint8Array(4096).fill(5))
    await promised(room.publish())
    await promised(layer.links.setParent(undefined))
    await promised(layer.close())
    const again = await file.read()
    expect(again.parent).toBeUndefined()
    const found = new Uint8Array(12_288)
    await promised(new Chain([again]).read(20 * 256 * MIB, found))
    expect([found[0], found[4096], found[8192]]).toEqual([0, 5, 0])
    expect(Number(file.entry(16) & 7n)).toBe(0)
    expect(Number(file.entry(33) & 7n)).toBe(0)
    expect(await findings(file)).toEqual([])
  })

  test('of which a sector bitmap is gone when a block is to be seen keeps what it had', async () => {
    const { file, base, content } = await child()
    const layer = await file.write()
    const room = await promised(layer.reserve(2 * MIB, 512))
    // The entry of its bitmap is spoiled behind the writer's back, before the block is to be seen.
    const bitmap = file.entry(BITMAP)
    layer.structure.bat.tables.drop(file.bat.at, file.bat.length)
    file.setEntry(BITMAP, 0n)
    expect(await refusal(() => promised(room.publish()))).toMatchObject({
      code: 'CORRUPT',
      where: { section: '[MS-VHDX] 2.5.1.2' },
    })
    file.setEntry(BITMAP, bitmap)
    layer.structure.bat.tables.drop(file.bat.at, file.bat.length)
    await promised(layer.close())
    expect((await bytesOf(await file.read(), [base])).equals(content)).toBe(true)
    expect(await findings(file)).toEqual([])
  })
})

describe('the check', () => {
  test('tells of a place that is kept where a block lies, in blocks and in sector bitmaps', async () => {
    const file = await VhdxFile.make(SIZE, {}, rawParent(SIZE))
    file.store.truncate(8 * MIB)
    file.setEntry(0, BigInt(4 * MIB) | 6n)
    file.setEntry(1, BigInt(4 * MIB) | 3n)
    file.setEntry(2, BigInt(5 * MIB) | 3n)
    file.setEntry(BITMAP, BigInt(4 * MIB))
    const { findings: found } = await checkLayer(vhdx, await file.read())
    expect(found.map(({ code, at, severity }) => [severity, code, at])).toEqual([
      ['warning', 'BAT_PLACE_NOT_OWN', file.bat.at + 8],
      ['warning', 'BAT_PLACE_NOT_OWN', file.bat.at + BITMAP * 8],
    ])
  })

  test('tells of a place that is kept in part where a block lies', async () => {
    const file = await VhdxFile.make(8 * MIB, { block_size: '2M' })
    file.store.truncate(10 * MIB)
    file.setEntry(0, BigInt(5 * MIB) | 6n)
    file.setEntry(1, BigInt(4 * MIB) | 3n)
    expect(await findings(file)).toEqual(['BAT_PLACE_NOT_OWN'])
  })

  test('names those blocks that share a place, and not their neighbours', async () => {
    const file = await VhdxFile.make(SIZE)
    file.store.truncate(8 * MIB)
    file.setEntry(0, BigInt(4 * MIB) | 6n)
    file.setEntry(1, BigInt(5 * MIB) | 6n)
    file.setEntry(2, BigInt(5 * MIB) | 6n)
    const { findings: found } = await checkLayer(vhdx, await file.read())
    expect(found).toMatchObject([{ code: 'BLOCKS_SHARE_PLACE', guest: { offset: 2 * MIB, length: MIB } }])
  })

  test('tells of reserved bits in the entry of a sector bitmap, and of a linkage that is no GUID', async () => {
    const file = await VhdxFile.make(SIZE, {}, rawParent(SIZE))
    file.store.truncate(8 * MIB)
    file.setEntry(BITMAP, BigInt(4 * MIB) | 6n | 0x80n)
    expect(await findings(file)).toEqual(['BAT_ENTRY_RESERVED'])
  })
})

describe('a new file', () => {
  test('of more than 64 TiB is refused', async () => {
    const error = await refusal(() => VhdxFile.make(2 ** 46 + 512))
    expect(error).toMatchObject({ code: 'REFUSED', message: expect.stringContaining('64 TiB') as string })
  })

  test('that is fixed reserves its room where the medium can', async () => {
    const file = new VhdxFile()
    const reserved: [number, number][] = []
    file.wrap((store) => ({
      ...plain(store as MemoryStore),
      allocate: (at, length) => void reserved.push([at, length]),
    }))
    const options = new Map([
      ['block_size', '1M'],
      ['subformat', 'fixed'],
      ['preallocation', 'falloc'],
    ])
    const layer = await promised(
      (vhdx.create as NonNullable<typeof vhdx.create>)(file.folder.image('a'), {
        size: SIZE,
        parent: undefined,
        options,
      }),
    )
    await promised(layer.close())
    expect(reserved).toEqual([[file.bat.at + file.bat.length, SIZE]])
  })
})

describe('a repair', () => {
  test('finds the sector bitmap missing of the chunk before one that has nothing but its own', async () => {
    const size = 12_288 * MIB
    const file = await VhdxFile.make(size, { block_size: '256M' }, rawParent(size))
    const layer = await file.write()
    for (const block of [3, 20]) await promised((await promised(layer.reserve(block * 256 * MIB, 4096))).publish())
    await promised(layer.close())
    file.setEntry(16, 0n)
    file.setEntry(21, 0n)
    expect((await repair(file)).done.map(({ code, at }) => [code, at])).toEqual([
      ['BITMAP_MISSING', file.bat.at + 16 * 8],
    ])
  })

  test('copies of a block what is not zero, and takes no room for the rest', async () => {
    const file = await VhdxFile.make(8 * MIB, { block_size: '4M' })
    const chain = new Chain([await file.write()])
    await promised(chain.write(2 * MIB, patternFor(0, MIB, 3)))
    await promised(chain.close())
    const at = place(file.entry(0))
    file.put(at, new Uint8Array(MIB))
    file.setEntry(1, file.entry(0))
    await repair(file)
    const copy = place(file.entry(1))
    expect(copy).not.toBe(at)
    expect(Buffer.compare(file.bytes(copy, 4 * MIB), file.bytes(at, 4 * MIB))).toBe(0)
    expect(file.store.segment(copy)).toEqual({ kind: 'hole', length: 2 * MIB })
  })

  test('of lost headers takes a log that zeroes what is zero for carried out; not one that does more', async () => {
    const make = async (updates: Updates, last = 4 * MIB): Promise<VhdxFile> => {
      const file = await VhdxFile.make(SIZE)
      const bytes = logEntry({ guid: GUID, sequence: 7, tail: 0, updates, flushed: 4 * MIB, last })
      file.put(MIB, bytes)
      for (const k of [64, 128]) file.put(k * KIB, new Uint8Array(4096))
      return file
    }
    const done = await make([{ at: 3 * MIB, zeros: 8192 }])
    expect((await repair(done)).done.map(({ code }) => code)).toEqual(['HEADERS_LOST'])
    for (const [updates, last] of [
      [[{ at: 2 * MIB, zeros: 4096 }], 4 * MIB],
      [[], 5 * MIB],
      [[{ at: 300 * MIB, zeros: 65 * MIB }], 400 * MIB],
    ] as const) {
      expect(await refusal(async () => repair(await make(updates, last)))).toMatchObject({ code: 'CORRUPT' })
    }
    const torn = await make([])
    torn.put(MIB + 70, Buffer.from('x'))
    expect(await refusal(() => repair(torn))).toMatchObject({ code: 'CORRUPT', where: { structure: 'log' } })
    const failing = await make([])
    // The log can be looked through, but not be read as one.
    let reads = 0
    failing.wrap((store) =>
      watchedStore(store, ({ kind, at }) => {
        if (kind === 'read' && at === MIB && reads++ > 0) throw new VdiskError('IO', { message: 'a test says so' })
      }),
    )
    expect(await refusal(() => repair(failing))).toMatchObject({ code: 'IO' })
  })
})
