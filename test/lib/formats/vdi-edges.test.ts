import { describe, expect, test } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import { CheckReport } from '../../../lib/contracts/check-report.ts'
import type { FormatDriver } from '../../../lib/contracts/driver.ts'
import type { LinkEditor, WritableLayer } from '../../../lib/contracts/layer.ts'
import { RepairReport } from '../../../lib/contracts/repair.ts'
import { vdi } from '../../../lib/formats/vdi/driver.ts'
import { promised } from '../../../lib/io/io.ts'
import { MemoryStore } from '../../../lib/io/memory.ts'
import type { ByteStore } from '../../../lib/io/store.ts'
import { patternFor } from '../../model/history.ts'
import { MemoryFolder } from '../../support/memory-image.ts'
import { rawParent } from '../../support/raw-base.ts'
import { refusal } from '../../support/refusal.ts'
import { watchedStore, withoutHoles } from '../../support/stores.ts'
import { CREATED, FREE, MODIFIED, type VdiShape, vdiBytes, vdiStore, ZERO } from '../../support/vdi-file.ts'

/** VDI files whose map has to move, whose room is short, or which say more or less than others. */

const BLOCK = 4096

function imageOf(store: ByteStore): ReturnType<MemoryFolder['image']> {
  const folder = new MemoryFolder()
  folder.files.set('a', store)
  return folder.image('a')
}

async function open(store: ByteStore): Promise<WritableLayer> {
  return (await promised(vdi.open(imageOf(store), 'write'))) as WritableLayer
}

async function codes(store: ByteStore): Promise<string[]> {
  const report = new CheckReport()
  await promised(vdi.check(await promised(vdi.open(imageOf(store), 'read')), report))
  return report.findings.map(({ severity, code }) => `${severity} ${code}`)
}

async function content(store: ByteStore): Promise<Uint8Array> {
  const layer = await promised(vdi.open(imageOf(store), 'read'))
  const bytes = new Uint8Array(layer.size)
  await promised(new Chain([layer]).read(0, bytes))
  return bytes
}

function create(options: Record<string, string>, size = 1 << 20, parent = false, store = new MemoryStore('a')) {
  const shape = { size, options: new Map(Object.entries(options)), parent: parent ? rawParent(size) : undefined }
  return promised((vdi.create as NonNullable<FormatDriver['create']>)(imageOf(store), shape))
}

describe('a disk that grows', () => {
  const grown = async (shape: VdiShape, blocks: number): Promise<{ store: MemoryStore; header: Buffer }> => {
    const store = vdiStore(shape)
    const before = await content(store)
    const layer = await open(store)
    await promised(layer.resize(blocks * BLOCK, 0))
    await promised(layer.close())
    const after = await content(store)
    expect(Buffer.compare(after.subarray(0, before.length), before)).toBe(0)
    expect(after.subarray(before.length).every((byte) => byte === 0)).toBe(true)
    expect(await codes(store)).toEqual([])
    const header = Buffer.alloc(512)
    store.read(0, header)
    return { store, header }
  }

  test('puts its map before the old one where there is room', async () => {
    const { header } = await grown({ entries: [0, 1], mapAt: 8192, size: 2 * BLOCK - 512 }, 200)
    expect([header.readUInt32LE(340), header.readUInt32LE(344)]).toEqual([512, 8192 + 512])
  })

  test('moves its first blocks away where there is none; a static one has all its blocks then', async () => {
    for (const type of [1, 2]) {
      const { header } = await grown({ entries: [0, 1, 2], type }, 200)
      expect(header.readUInt32LE(344)).toBeGreaterThan(1024)
      expect(header.readUInt32LE(388)).toBe(type === 2 ? 200 : 3)
    }
  })

  test('and is static takes holes that the file has first', async () => {
    const { header } = await grown({ entries: [0, 4, 2], type: 2, mapAt: 1024, dataAt: 2048, allocated: 5 }, 8)
    expect(header.readUInt32LE(388)).toBe(8)
  })

  test('to the size that it has, or to one that cannot be, writes nothing', async () => {
    const store = vdiStore({ entries: [0, 1] })
    const before = store.bytes()
    const layer = await open(store)
    await promised(layer.resize(2 * BLOCK, 0))
    for (const [size, words] of [
      [2 ** 50, 'with its blocks it can have'],
      [2 * BLOCK + 100, 'no whole sectors'],
    ] as const) {
      const error = await refusal(() => promised(layer.resize(size, 0)))
      expect(error).toMatchObject({ code: 'REFUSED', where: { file: 'a' } })
      expect(error.message).toContain(words)
    }
    await promised(layer.close())
    expect(Buffer.compare(store.bytes(), before)).toBe(0)
  })

  test('that is emptied to a few blocks keeps its map behind the old one', async () => {
    const store = vdiStore({ entries: [0, 1, FREE], dataAt: 4096 })
    const layer = await open(store)
    await promised((layer.clear as NonNullable<WritableLayer['clear']>).call(layer, BLOCK))
    await promised(layer.close())
    expect(store.bytes().length).toBeGreaterThanOrEqual(4096)
    expect([
      Buffer.from(store.bytes()).readUInt32LE(340),
      Buffer.compare(await content(store), new Uint8Array(BLOCK)),
    ]).toEqual([1024, 0])
  })
})

describe('a header that says', () => {
  test('nothing of who it is makes no child possible, which a check tells', async () => {
    const store = vdiStore({ entries: [0], created: '00000000-0000-0000-0000-000000000000' })
    expect(await codes(store)).toEqual(['warning IDENTITY_MISSING'])
    expect((await open(store)).identity).toBeUndefined()
  })

  test('whose child it is, and a comment, tells so', async () => {
    const bytes = vdiBytes({ entries: [0, ZERO], type: 4, linkage: CREATED, parentModified: MODIFIED })
    bytes.write('of a user', 84, 'latin1')
    const layer = await open(new MemoryStore('a', { content: bytes }))
    expect(layer.details).toMatchObject({
      type: 'differencing',
      linkage: CREATED,
      parentModified: MODIFIED,
      comment: 'of a user',
    })
  })

  test('who its parent is, says it as that does', async () => {
    const store = vdiStore({ entries: [0, FREE] })
    const layer = await open(store)
    const links = layer.links as LinkEditor
    const identity = { kind: 'content', value: `${CREATED}/${MODIFIED}`, current: true } as never
    await promised(links.setParent({ ...rawParent(2 * BLOCK), format: 'vdi', identity }))
    await promised(layer.close())
    expect((await open(store)).details).toMatchObject({ linkage: CREATED, parentModified: MODIFIED })
  })

  test.each([
    ['too little', (bytes: Buffer) => bytes.subarray(0, 67)],
    ['another signature', (bytes: Buffer) => bytes.fill(0, 64, 68)],
  ])('%s is not of the format', (_, edit) => {
    const bytes = edit(vdiBytes({ entries: [0] }))
    expect(vdi.probe({ name: 'a.vdi', size: bytes.length, head: bytes, tail: bytes })).toBe('no')
  })
})

describe('making a disk', () => {
  test.each<[string, Record<string, string>, number, boolean, string]>([
    ['blocks of 3 KiB', { block_size: '3K' }, 1 << 20, false, 'block_size cannot be 3072'],
    ['blocks of 2 KiB', { block_size: '2K' }, 1 << 20, false, 'block_size cannot be 2048'],
    ['blocks of 512 MiB', { block_size: '512M' }, 1 << 20, false, 'block_size cannot be'],
    ['a map beyond reason', { block_size: '4K' }, 2 ** 40, false, 'too many blocks'],
    ['a static child', { static: 'on' }, 1 << 20, true, 'has no parent'],
    ['room for what is not static', { preallocation: 'full' }, 1 << 20, false, 'needs static=on'],
  ])('refuses %s', async (_, options, size, isChild, words) => {
    const store = new MemoryStore('a')
    await expect(create(options, size, isChild, store)).rejects.toThrow(words)
    expect(store.size()).toBe(0)
  })

  test.each([
    ['falloc', `allocate ${2 << 20}+${1 << 20}`],
    ['full', `write ${2 << 20}+${1 << 20}`],
  ])('with preallocation=%s takes the room of its blocks', async (preallocation, wanted) => {
    const asked: string[] = []
    const inner = new MemoryStore('a')
    const store = {
      ...watchedStore(inner, ({ kind, at, length }) => void asked.push(`${kind} ${at}+${length}`)),
      allocate: (at: number, length: number) => void asked.push(`allocate ${at}+${length}`),
    }
    await create({ static: 'on', preallocation }, 1 << 20, false, store as never)
    expect(asked).toContain(wanted)
  })
})

describe('a repair', () => {
  const repaired = async (store: ByteStore): Promise<RepairReport> => {
    const report = new RepairReport('all')
    await promised((vdi.repair as NonNullable<FormatDriver['repair']>)(imageOf(store), report))
    return report
  }

  test('goes on where there are more damages than it keeps in mind', async () => {
    // Those that lie side by side count as one.
    const entryOf = (block: number): number => (block % 2 === 0 ? FREE : 900_000 + block)
    const entries = Array.from({ length: 140_000 }, (_, block) => (block === 139_999 ? 0 : entryOf(block)))
    const store = vdiStore({ entries, allocated: 1 })
    const { done } = await repaired(store)
    expect(new Set(done.map(({ code }) => code))).toEqual(new Set(['BLOCK_MISPLACED']))
    expect(await codes(store)).toEqual([])
    expect((await content(store)).subarray(-BLOCK)).toEqual(new Uint8Array(BLOCK).fill(1))
  })

  test('tells entries that lie side by side at once, with all that they were of', async () => {
    const entries = [0, 900, 901, 902, 1, FREE, 903, 1000]
    const { done } = await repaired(vdiStore({ entries, allocated: 2 }))
    expect(done.map(({ doubtful }) => doubtful)).toEqual([
      { offset: BLOCK, length: 3 * BLOCK, snapshot: undefined },
      { offset: 6 * BLOCK, length: 2 * BLOCK, snapshot: undefined },
    ])
    expect(done[0]?.message).toMatch(/^the entries of blocks 1 to 3 name no places/)
  })

  test('does not copy a place that all blocks name', async () => {
    const store = vdiStore({ entries: Array<number>(40).fill(0), allocated: 1 })
    const before = store.bytes()
    const error = await refusal(() => repaired(store))
    expect(error).toMatchObject({ code: 'CORRUPT', where: { file: 'a', structure: 'block map', at: 512 } })
    expect(Buffer.compare(store.bytes(), before)).toBe(0)
  })

  test('takes a block that lies where the map does for lost, and the map away from the others', async () => {
    const store = vdiStore({ entries: [0, 1, FREE, ZERO], dataAt: 512 })
    const { doubtful } = await repaired(store)
    expect(doubtful).toEqual([{ offset: 0, length: BLOCK, snapshot: undefined }])
    expect(await codes(store)).toEqual([])
    expect((await content(store)).subarray(BLOCK, 2 * BLOCK)).toEqual(new Uint8Array(BLOCK).fill(2))
  })
})

test('room behind the last block is told where the medium knows no holes, too', async () => {
  const store = vdiStore({ entries: [0], length: 300_000 })
  expect(await codes(withoutHoles(store))).toEqual(['warning ROOM_UNUSED'])
})

test('a static disk is erased in place, and what reads as zero already stays as it is', async () => {
  const store = vdiStore({ entries: [0, ZERO, 1], type: 2 })
  const layer = await open(store)
  const chain = new Chain([layer])
  await promised(chain.write(0, patternFor(0, BLOCK, 3)))
  await promised(chain.erase(100, 3 * BLOCK - 200))
  await promised(chain.close())
  const bytes = await content(store)
  expect(bytes.subarray(100, 3 * BLOCK - 100).every((byte) => byte === 0)).toBe(true)
  expect([bytes[99], bytes[3 * BLOCK - 100]]).toEqual([patternFor(0, BLOCK, 3)[99], 2])
})
