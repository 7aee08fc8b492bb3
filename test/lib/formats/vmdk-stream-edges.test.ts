import { describe, expect, test } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import { CheckReport } from '../../../lib/contracts/check-report.ts'
import type { Image } from '../../../lib/contracts/image.ts'
import type { Packer, WritableLayer } from '../../../lib/contracts/layer.ts'
import { VdiskError } from '../../../lib/errors.ts'
import { vmdk } from '../../../lib/formats/vmdk/driver.ts'
import { openParts } from '../../../lib/formats/vmdk/open.ts'
import { readSparseHeader } from '../../../lib/formats/vmdk/sparse-header.ts'
import { createStream } from '../../../lib/formats/vmdk/stream/create-stream.ts'
import { GrainMap } from '../../../lib/formats/vmdk/stream/grain-map.ts'
import { StreamWriter } from '../../../lib/formats/vmdk/stream/stream-writer.ts'
import type { WritableStreamExtent } from '../../../lib/formats/vmdk/stream/writable-stream-extent.ts'
import { promised } from '../../../lib/io/io.ts'
import { MemoryFolder } from '../../support/memory-image.ts'
import { randomFor } from '../../support/random.ts'
import { refusal } from '../../support/refusal.ts'
import { contentOf, watchedStore } from '../../support/stores.ts'
import { findings, folderOf, HEAD, image, repaired } from '../../support/vmdk-folder.ts'
import { type MadeStream, streamOf } from '../../support/vmdk-stream.ts'

/** Streams at the borders of what they can be: entries that lead to their last bytes, tables that are missing, 2 TiB. */

const GRAIN = 65536
const SECTOR = 512
const TABLE = 512
/** Two tables. */
const CAPACITY = (2 * TABLE * GRAIN) / SECTOR
const filled = (numbers: readonly number[]): Map<number, Uint8Array> =>
  new Map(numbers.map((grain) => [grain, Buffer.alloc(GRAIN, 1 + (grain % 255))]))

/** What salvage reads at the begin of some grains, and what it leaves out. */
async function salvaged(
  bytes: Uint8Array,
  grains: readonly number[],
): Promise<{ content: (number | undefined)[]; damage: VdiskError[] }> {
  const damage: VdiskError[] = []
  const chain = new Chain([await promised(vmdk.open(salvaging(image(folderOf(bytes)), damage), 'read'))])
  const content: (number | undefined)[] = []
  for (const grain of grains) {
    const first = new Uint8Array(1)
    await promised(chain.read(grain * GRAIN, first))
    content.push(first[0])
  }
  return { content, damage }
}

function salvaging(one: Image, damage: VdiskError[] = []): Image {
  return { ...one, leaveOut: (error) => void damage.push(error) }
}

describe('a stream', () => {
  test('whose table leads to its last bytes has no grain there', async () => {
    const made = streamOf({ capacity: CAPACITY, grains: filled([0, 1]) })
    // Five bytes behind the end of the stream: the footer is where it was looked for, counted from the end of the file.
    const bytes = Buffer.concat([made.bytes.subarray(0, -1024), Buffer.alloc(5), made.bytes.subarray(-1024)])
    bytes.writeUInt32LE(Math.floor(bytes.length / SECTOR), made.tableAt.get(0) as number)
    const folder = folderOf(bytes)
    const chain = new Chain([await promised(vmdk.open(image(folder), 'read'))])
    const error = await refusal(() => promised(chain.read(0, new Uint8Array(SECTOR))))
    expect(error).toMatchObject({ code: 'CORRUPT', where: { structure: 'grain', at: bytes.length - 5 } })
    expect(error.advice).toContain('vdisk check')
    const grain = new Uint8Array(1)
    await promised(chain.read(GRAIN, grain))
    expect(grain[0]).toBe(2)
    expect(await findings(folder)).toContain('error NO_GRAIN')
  })

  test('that is shorter than a footer has none', async () => {
    const { bytes } = streamOf({ capacity: CAPACITY, grains: filled([0]) })
    const error = await refusal(() => promised(vmdk.open(image(folderOf(bytes.subarray(0, 900))), 'read')))
    expect(error).toMatchObject({ code: 'CORRUPT', where: { structure: 'header', at: 0 } })
    expect(error.message).toContain('no footer')
    expect(error.advice).toContain('--salvage')
  })

  test('with another directory than its footer names is told', async () => {
    const made = streamOf({ capacity: CAPACITY, grains: filled([0]) })
    const at = made.directoryAt - SECTOR
    const block = made.bytes.subarray(at, at + 2 * SECTOR)
    const bytes = Buffer.concat([made.bytes.subarray(0, at), block, made.bytes.subarray(at)])
    const layer = await promised(vmdk.open(image(folderOf(bytes)), 'read'))
    const report = new CheckReport()
    await promised(vmdk.check(layer, report))
    expect(report.findings).toMatchObject([
      { code: 'MARKERS_DISAGREE', severity: 'error', structure: 'stream', at: at + 2 * SECTOR },
    ])
  })

  test('may mark grains as zero, which hides the parent', async () => {
    const made = streamOf({ capacity: CAPACITY, grains: filled([0]), parentCid: '11111111', flags: 0x30005 })
    for (const grain of [2, 3]) made.bytes.writeUInt32LE(1, (made.tableAt.get(0) as number) + grain * 4)
    const folder = folderOf(made.bytes)
    const layer = await promised(vmdk.open(image(folder), 'read'))
    const kinds = []
    for (const grain of [0, 1, 2, 4]) kinds.push(await promised(layer.map(grain * GRAIN, 9 * GRAIN)))
    expect(kinds.map(({ kind, length }) => [kind, length / GRAIN])).toEqual([
      ['packed', 1],
      ['parent', 1],
      ['zero', 2],
      ['parent', 9],
    ])
    expect((await findings(folder)).filter((code) => code.startsWith('error'))).toEqual([])
  })

  test('that is a part of a disk is closed with it', async () => {
    const parts = ['a', 'b'].map((name) => [name, streamOf({ capacity: CAPACITY, grains: filled([1]) }).bytes] as const)
    const lines = parts.map(([name]) => `RW ${CAPACITY} SPARSE "${name}"\n`)
    const folder = folderOf(HEAD + lines.join(''), Object.fromEntries(parts))
    const closed: string[] = []
    for (const [name, store] of folder.files) {
      folder.files.set(name, { ...watchedStore(store, () => {}), close: () => void closed.push(name) })
    }
    const chain = new Chain([await promised(vmdk.open(image(folder), 'read'))])
    const byte = new Uint8Array(1)
    await promised(chain.read((TABLE * 2 + 1) * GRAIN, byte))
    expect(byte[0]).toBe(2)
    await promised(chain.close())
    expect(closed.sort()).toEqual(['a', 'b', 'disk.vmdk'])
  })
})

/** Fields of a header, and of the footer that repeats it. */
const FIELD = { descriptorOffset: 28, descriptorSize: 36, redundant: 48, directory: 56, overhead: 64 } as const

describe('a stream whose header is damaged', () => {
  const stream = (grains: readonly number[] = [0]): MadeStream =>
    streamOf({ capacity: CAPACITY, grains: filled(grains) })
  const put = (bytes: Buffer, at: number, value: bigint): void => void bytes.writeBigUInt64LE(value, at)

  test.each([
    ['over the header', 0n],
    ['over the descriptor', 20n],
    ['past the end of the file', 2n ** 40n],
  ])('by which its first grain would lie %s is told, and not written', async (words, overhead) => {
    const made = stream([])
    put(made.bytes, made.footerAt + FIELD.overhead, overhead)
    const folder = folderOf(made.bytes)
    expect(await findings(folder)).toContain('error OVERHEAD_WRONG')
    const error = await refusal(() => promised(vmdk.open(image(folder), 'write')))
    expect(error).toMatchObject({ code: 'CORRUPT', where: { file: 'disk.vmdk', structure: 'header', at: 0 } })
    expect(error.message).toContain(words)
    expect(error.advice).toContain('make it anew')
  })

  test('in what it says of a second directory, and of a descriptor that it has not, gets a footer that says nothing of them', async () => {
    const made = stream([])
    put(made.bytes, FIELD.descriptorOffset, 0n)
    put(made.bytes, FIELD.descriptorSize, 2n ** 60n)
    put(made.bytes, made.footerAt + FIELD.redundant, 2n ** 61n)
    const folder = folderOf(`${HEAD}RW ${CAPACITY} SPARSE "a"\n`, { a: made.bytes })
    const layer = (await promised(vmdk.open(image(folder), 'write'))) as WritableLayer
    const packer = layer.packer as Packer
    await promised(packer.store(0, (await packer.pack(new Uint8Array(GRAIN).fill(3))) as Uint8Array))
    await promised(layer.close())
    expect(await findings(folder)).toEqual([])
    const first = new Uint8Array(1)
    await promised(new Chain([await promised(vmdk.open(image(folder), 'read'))]).read(5, first))
    expect(first[0]).toBe(3)
  })

  test.each([
    [
      'a table in its descriptor',
      (made: MadeStream) => made.bytes.writeUInt32LE(5, made.directoryAt + 4),
      'descriptor',
    ],
    ['a table over its descriptor', (made: MadeStream) => made.bytes.writeUInt32LE(18, made.directoryAt), 'descriptor'],
    ['its directory in its descriptor', (made: MadeStream) => put(made.bytes, made.footerAt + 56, 2n), 'descriptor'],
    ['a table past its end', (made: MadeStream) => made.bytes.writeUInt32LE(1 << 20, made.directoryAt), 'past its end'],
    ['its directory nowhere', (made: MadeStream) => put(made.bytes, made.footerAt + 56, 0n), 'its header lies'],
  ])('so that it has %s is refused', async (_, damage, words) => {
    const made = stream([0, TABLE])
    damage(made)
    for (const access of ['read', 'write'] as const) {
      const error = await refusal(() => promised(vmdk.open(image(folderOf(made.bytes)), access)))
      expect(error).toMatchObject({ code: 'CORRUPT', where: { structure: 'grain directory' } })
      expect(error.message).toContain(words)
      expect(error.advice).toContain('--salvage')
    }
  })

  test('so that its descriptor lies among grains is not repaired: grains would be lost', async () => {
    const made = stream()
    put(made.bytes, FIELD.descriptorOffset, 128n)
    const folder = folderOf(made.bytes)
    const error = await refusal(() => repaired(folder))
    const at = 128 * SECTOR
    expect(error).toMatchObject({ code: 'CORRUPT', where: { file: 'disk.vmdk', structure: 'descriptor', at } })
    expect(error.advice).toContain('Nothing was changed')
    expect(Buffer.compare(contentOf(image(folder).store), made.bytes)).toBe(0)
  })
})

/** A stream that was cut before its directory. */
function withoutEnd({ bytes, directoryAt }: MadeStream): Uint8Array {
  return bytes.subarray(0, directoryAt - SECTOR)
}

describe('salvage of a stream', () => {
  test('whose footer names no directory goes by the marks between grains', async () => {
    const made = streamOf({ capacity: CAPACITY, grains: filled([0, 1, TABLE]) })
    made.bytes.writeBigUInt64LE(0n, made.footerAt + 56)
    const { content, damage } = await salvaged(made.bytes, [0, 1, TABLE])
    expect(content).toEqual([1, 2, (TABLE % 255) + 1])
    expect(damage.map(({ where }) => where.structure)).toEqual(['grain directory'])
  })
})

describe('salvage of a stream without its end', () => {
  test('finds grains that lie behind a table which should have them', async () => {
    const made = streamOf({ capacity: CAPACITY, grains: filled([0, TABLE, 1]) })
    const { content, damage } = await salvaged(withoutEnd(made), [0, 1, TABLE])
    expect(content).toEqual([1, 2, (TABLE % 255) + 1])
    expect(damage.map(({ where }) => where.structure)).toEqual(['footer', 'stream'])
  })

  test('goes by the marks between grains where a table says something else', async () => {
    const made = streamOf({ capacity: CAPACITY, grains: filled([0, 1, TABLE]) })
    made.bytes.writeUInt32LE(0, (made.tableAt.get(0) as number) + 4)
    const { content } = await salvaged(withoutEnd(made), [0, 1, TABLE])
    expect(content).toEqual([1, 2, (TABLE % 255) + 1])
  })

  test('takes no table for that of grains which are of several', async () => {
    const markerSector = (grain: number): number => ((grain === 1 ? TABLE : grain) * GRAIN) / SECTOR
    const made = streamOf({ capacity: CAPACITY, grains: filled([0, 1]), markerSector })
    const { content } = await salvaged(withoutEnd(made), [0, 1, TABLE])
    expect(content).toEqual([1, 0, 2])
  })

  test('does not make more tables than a disk of a stream lacks', async () => {
    const count = 4097
    const { bytes } = streamOf({ capacity: (count * TABLE * GRAIN) / SECTOR, grains: new Map() })
    const blocks = Buffer.alloc(count * SECTOR)
    for (let table = 0; table < count; table++) {
      blocks.writeBigUInt64LE(BigInt((table * TABLE * GRAIN) / SECTOR), table * SECTOR)
      blocks.writeUInt32LE(1, table * SECTOR + 8)
    }
    const cut = Buffer.concat([bytes.subarray(0, 128 * SECTOR), blocks])
    const error = await refusal(() => salvaged(cut, [0]))
    const at = cut.length - SECTOR
    expect(error).toMatchObject({ code: 'LIMIT_EXCEEDED', where: { file: 'disk.vmdk', structure: 'grain table', at } })
  })

  test('takes no failure of the medium for damage', async () => {
    const made = streamOf({ capacity: CAPACITY, grains: filled([0]) })
    const folder = folderOf(made.bytes)
    const failing = watchedStore(image(folder).store, ({ kind, at }) => {
      if (kind !== 'read' || at !== made.directoryAt) return
      throw new VdiskError('IO', { message: 'Cannot read disk.vmdk: a test says so', where: { file: 'disk.vmdk', at } })
    })
    const damage: VdiskError[] = []
    const one = { ...salvaging(image(folder), damage), store: failing }
    expect(await refusal(() => promised(vmdk.open(one, 'read')))).toMatchObject({ code: 'IO' })
    expect(damage).toEqual([])
  })
})

describe('a stream that is written', () => {
  const text = Buffer.from(`${HEAD.replace('custom', 'streamOptimized')}RW ${CAPACITY} SPARSE "disk.vmdk"\n`)

  async function made(): Promise<{ one: Image; extent: WritableStreamExtent }> {
    const one = new MemoryFolder().image('disk.vmdk')
    await promised(createStream(one.store, CAPACITY * SECTOR, text))
    const { extents } = await promised(openParts(one, 'write'))
    return { one, extent: extents[0] as WritableStreamExtent }
  }

  test('has no room for a descriptor of any length', async () => {
    const { store } = new MemoryFolder().image('disk.vmdk')
    const error = await refusal(() => promised(createStream(store, CAPACITY * SECTOR, Buffer.alloc(10_241, 35))))
    expect(error).toMatchObject({ code: 'LIMIT_EXCEEDED', where: { file: 'disk.vmdk', structure: 'descriptor' } })
    expect([error.message.includes('room for 10240'), store.size()]).toEqual([true, 0])
    expect(error.advice).toContain('shorter name')
  })

  test('erases what was never written, and no more', async () => {
    const { extent } = await made()
    const packed = (await extent.packer.pack(Buffer.alloc(GRAIN, 1))) as Uint8Array
    await promised(extent.packer.store(0, packed))
    expect(await promised(extent.erase(0, 2 * GRAIN))).toBe(0)
    expect(await promised(extent.erase(GRAIN, 3 * GRAIN))).toBe(3 * GRAIN)
  })

  test('is not kept in memory until somebody flushes', async () => {
    const { one, extent } = await made()
    const noise = randomFor('noise').bytes(GRAIN)
    const packed = (await extent.packer.pack(noise)) as Uint8Array
    for (let grain = 0; grain < 17; grain++) await promised(extent.packer.store(grain * GRAIN, packed))
    expect(one.store.size()).toBeGreaterThan(128 * SECTOR + 2 ** 20)
    await promised(extent.end())
    const found = new Uint8Array(GRAIN)
    await promised(new Chain([await promised(vmdk.open(one, 'read'))]).read(16 * GRAIN, found))
    expect(Buffer.compare(found, noise)).toBe(0)
  })

  test('ends before 2 TiB, since no table could name what is behind', async () => {
    const { one } = await made()
    const size = one.store.size()
    const header = await promised(readSparseHeader(one, one.store))
    const far = { ...header, overhead: 2 ** 41 - SECTOR }
    const writer = new StreamWriter(one.store, far, new GrainMap(one.store, far, new Uint32Array(2)))
    const error = await refusal(() => promised(writer.put(0, new Uint8Array(600))))
    expect(error).toMatchObject({ code: 'LIMIT_EXCEEDED', where: { file: 'disk.vmdk', structure: 'grain table' } })
    expect([error.advice?.includes('qcow2'), one.store.size()]).toEqual([true, size])
  })
})
