import fs from 'node:fs'
import path from 'node:path'
import zlib from 'node:zlib'
import { describe, expect, test } from 'vitest'
import type { Image } from '../../../lib/contracts/image.ts'
import { isVdiskError } from '../../../lib/errors.ts'
import type { ExtentFile } from '../../../lib/formats/vmdk/extent-file.ts'
import { openParts } from '../../../lib/formats/vmdk/open.ts'
import { createStream } from '../../../lib/formats/vmdk/stream/create-stream.ts'
import type { WritableStreamExtent } from '../../../lib/formats/vmdk/stream/writable-stream-extent.ts'
import { checkImage, finish, openDisk } from '../../../lib/index.ts'
import { promised } from '../../../lib/io/io.ts'
import { CrashedFile } from '../../crash/crashed-file.ts'
import { MemoryFolder } from '../../support/memory-image.ts'
import { printSeed, type Random, randomFor, randomTest } from '../../support/random.ts'
import { refusal } from '../../support/refusal.ts'
import { scratchFolder } from '../../support/temp.ts'
import { type MadeStream, type StreamWish, streamOf } from '../../support/vmdk-stream.ts'

printSeed()

const GRAIN = 65536
/** Two tables and a bit, the last grain cut. */
const CAPACITY = (2 * 512 * GRAIN + 3 * GRAIN + 5 * 512) / 512

function written(bytes: Uint8Array, name = 'disk.vmdk'): string {
  const file = path.join(scratchFolder(), name)
  fs.writeFileSync(file, bytes)
  return file
}

function contentOf(random: Random, numbers: readonly number[]): Map<number, Uint8Array> {
  return new Map(
    numbers.map((number) => {
      const content = Buffer.alloc(GRAIN, number & 255)
      content.set(random.bytes(2000), random.below(GRAIN - 2000))
      return [number, content]
    }),
  )
}

const GRAINS = contentOf(randomFor('grains'), [0, 1, 5, 511, 1024, 1027])
const WISH: StreamWish = { capacity: CAPACITY, grains: GRAINS }

async function readGrain(file: string, grain: number, salvage = false): Promise<Buffer> {
  await using disk = await openDisk(file, { salvage, format: 'vmdk' })
  const bytes = Buffer.alloc(Math.min(GRAIN, disk.size - grain * GRAIN))
  await disk.read(grain * GRAIN, bytes)
  return bytes
}

async function codesOf(file: string): Promise<string[]> {
  return (await finish(checkImage(file))).findings.map(({ code }) => code)
}

function changed({ bytes }: MadeStream, change: (copy: Buffer) => void): Buffer {
  const copy = Buffer.from(bytes)
  change(copy)
  return copy
}

describe('a stream of packed grains', () => {
  randomTest('reads at any place as it was written, the last grain cut', async (random) => {
    const file = written(streamOf(WISH).bytes)
    await using disk = await openDisk(file)
    expect(disk.size).toBe(CAPACITY * 512)
    const truth = Buffer.alloc(disk.size)
    for (const [grain, content] of GRAINS) truth.set(content.subarray(0, disk.size - grain * GRAIN), grain * GRAIN)
    for (let times = 0; times < 60; times++) {
      const near = random.pick([...GRAINS.keys(), 700]) * GRAIN + random.below(3 * GRAIN) - GRAIN
      const offset = Math.max(0, Math.min(near, disk.size - 1))
      const bytes = Buffer.alloc(1 + random.below(Math.min(5 * GRAIN, disk.size - offset)))
      await disk.read(offset, bytes)
      expect(bytes.equals(truth.subarray(offset, offset + bytes.length))).toBe(true)
    }
    expect(await codesOf(file)).toEqual([])
  })

  test('is empty in long runs, for which no table is looked at', async () => {
    const capacity = 2 ** 37 / 512
    await using disk = await openDisk(
      written(streamOf({ capacity, grains: contentOf(randomFor('far'), [2 ** 20]) }).bytes),
    )
    const extents = []
    for await (const extent of disk.extents()) extents.push(extent)
    expect(extents.map(({ length }) => length)).toEqual([2 ** 36, GRAIN, 2 ** 37 - 2 ** 36 - GRAIN])
  })

  test('may leave out of its last grain what is behind the end of the disk', async () => {
    const grains = new Map([[1027, Buffer.alloc(5 * 512, 9)]])
    const file = written(streamOf({ ...WISH, grains }).bytes)
    expect((await readGrain(file, 1027)).equals(Buffer.alloc(5 * 512, 9))).toBe(true)
  })

  test('whose last grain lacks some of the disk is damaged', async () => {
    const file = written(streamOf({ ...WISH, grains: new Map([[1027, Buffer.alloc(4 * 512, 9)]]) }).bytes)
    expect((await refusal(() => readGrain(file, 1027))).code).toBe('CORRUPT')
  })

  test('is not opened for writing', async () => {
    const file = written(streamOf(WISH).bytes)
    expect((await refusal(() => openDisk(file, { writable: true }))).code).toBe('READ_ONLY')
  })

  test('that is a child shows its parent where it holds nothing, and without it nothing', async () => {
    const file = written(streamOf({ ...WISH, parentCid: '11111111' }).bytes)
    expect((await refusal(() => openDisk(file))).code).toBe('PARENT_MISSING')
  })
})

describe('a stream of another kind is refused', () => {
  test.each<[string, number, number, string]>([
    ['of a later version', 4, 4, 'UNSUPPORTED'],
    ['packed without markers', 8, 0x10001, 'UNSUPPORTED'],
    ['of markers without packing', 8, 0x20001, 'CORRUPT'],
    ['packed by an unknown method', 76, 0x020a, 'UNSUPPORTED'],
    ['of grains that no memory should hold', 20, 1 << 21, 'LIMIT_EXCEEDED'],
    ['of grains that cannot be', 20, 100, 'CORRUPT'],
    ['that is packed, and says it is not', 8, 1, 'CORRUPT'],
    ['of a disk beyond all bounds', 16, 2 ** 30, 'LIMIT_EXCEEDED'],
  ])('%s', async (_, at, value, code) => {
    const made = streamOf(WISH)
    const file = written(
      changed(made, (copy) => {
        for (const header of [0, made.footerAt]) copy.writeUInt32LE(value, header + at)
      }),
    )
    expect((await refusal(() => openDisk(file))).code).toBe(code)
  })
})

test.each([
  ['flags', 8, 3],
  ['size of grains', 20, 64],
  ['size of tables', 45, 1],
  ['method', 77, 0],
])('a stream whose header and footer differ in their %s is refused', async (_, at, value) => {
  const made = streamOf(WISH)
  const file = written(changed(made, (copy) => copy.writeUInt8(value, made.footerAt + at)))
  expect((await refusal(() => openDisk(file))).code).toBe('CORRUPT')
})

describe('a grain is never guessed', () => {
  test.each<[string, Partial<StreamWish>, string]>([
    ['it says that it is another one', { markerSector: (grain) => grain * 128 + 128 }, 'WRONG_GRAIN'],
    ['it says that it lies behind the disk', { markerSector: () => 2 ** 40 }, 'NO_GRAIN'],
    ['it says that it has more bytes than there is room for', { markerSize: () => 2 ** 31 }, 'NO_GRAIN'],
    ['it says that it is no grain', { markerSize: () => 0 }, 'NO_GRAIN'],
    ['it is shorter than a grain', { pack: (content) => zlib.deflateSync(content.subarray(1)) }, ''],
    ['it is longer than a grain', { pack: (content) => zlib.deflateSync(Buffer.concat([content, content])) }, ''],
    ['it would unpack to a thousand times a grain', { pack: () => zlib.deflateSync(Buffer.alloc(64 << 20)) }, ''],
    ['it has no zlib header', { pack: zlib.deflateRawSync }, ''],
    ['its checksum is wrong', { pack: (content) => flipLast(zlib.deflateSync(content)) }, ''],
    ['its stream is cut', { markerSize: (size) => size - 5 }, ''],
  ])('where %s', async (_, wish, code) => {
    const file = written(streamOf({ ...WISH, ...wish }).bytes)
    const { code: found, where } = await refusal(() => readGrain(file, 5))
    expect({ found, structure: where.structure }).toEqual({ found: 'CORRUPT', structure: 'grain' })
    if (code !== '') expect(await codesOf(file)).toContain(code)
  })

  test.each([
    ['before the grains', 20],
    ['behind the file', 2 ** 31],
    ['at what stands for zeros, which the header does not allow', 1],
  ])('where its table says that it lies %s', async (_, sector) => {
    const made = streamOf(WISH)
    const file = written(changed(made, (copy) => copy.writeUInt32LE(sector, (made.tableAt.get(0) as number) + 5 * 4)))
    expect((await refusal(() => readGrain(file, 5))).code).toBe('CORRUPT')
    expect(await codesOf(file)).toContain('ENTRY_OUTSIDE')
    expect((await readGrain(file, 1)).equals(GRAINS.get(1) as Buffer)).toBe(true)
  })
})

randomTest(
  'whatever is changed in a stream, a grain is what was written, or empty, or an error that says why',
  async (random) => {
    const made = streamOf(WISH)
    const places = [
      { at: 0, length: 512 },
      { at: 512, length: 300 },
      ...[...made.grainAt.values()].map((at) => ({ at, length: 40 })),
      ...[...made.tableAt.values()].map((at) => ({ at: at - 512, length: 1024 })),
      { at: made.directoryAt - 512, length: 2560 },
    ]
    const file = written(made.bytes)
    let read = 0
    for (let times = 0; times < 250; times++) {
      const damaged = Buffer.from(made.bytes)
      for (let changes = 1 + random.below(3); changes > 0; changes--) {
        const { at, length } = random.pick(places)
        const place = Math.min(at + random.below(length), damaged.length - 4)
        if (random.chance(0.5)) damaged[place] = random.below(256)
        else damaged.writeUInt32LE(random.pick([0, 1, 2, 127, 128, 0xffffffff, random.below(600)]), place)
      }
      fs.writeFileSync(file, damaged)
      for (const salvage of [false, true]) {
        for (const [grain, content] of GRAINS) {
          try {
            const found = await readGrain(file, grain, salvage)
            const same = found.equals(content.subarray(0, found.length))
            expect(same || found.every((byte) => byte === 0), `grain ${grain}, round ${times}`).toBe(true)
            read++
          } catch (error) {
            // A disk that became smaller has no such grain.
            if (!isVdiskError(error) && !(error instanceof RangeError)) throw error
          }
        }
      }
      try {
        await finish(checkImage(file))
      } catch (error) {
        if (!isVdiskError(error)) throw error
      }
    }
    expect(read).toBeGreaterThan(100)
  },
)

describe('the check of a stream finds', () => {
  const made = streamOf(WISH)

  test('two entries that lead to one grain', async () => {
    const at = (made.tableAt.get(0) as number) + 4
    const file = written(changed(made, (copy) => copy.writeUInt32LE((made.grainAt.get(5) as number) / 512, at)))
    expect(await codesOf(file)).toEqual(['CROSS_LINKED', 'MARKERS_DISAGREE'])
  })

  test('a grain that only those see who read from front to back', async () => {
    const file = written(changed(made, (copy) => copy.writeUInt32LE(0, (made.tableAt.get(0) as number) + 4)))
    const { findings } = await finish(checkImage(file))
    expect(findings.map(({ code, guest }) => ({ code, guest }))).toEqual([
      { code: 'MARKERS_DISAGREE', guest: { offset: GRAIN, length: GRAIN } },
    ])
  })

  test('grains that are out of order', async () => {
    const grains = new Map([5, 1, 0].map((grain) => [grain, GRAINS.get(grain) as Uint8Array]))
    expect(await codesOf(written(streamOf({ ...WISH, grains }).bytes))).toEqual(['OUT_OF_ORDER'])
  })

  test('a marker that means nothing', async () => {
    const at = (made.tableAt.get(0) as number) - 512 + 12
    expect(await codesOf(written(changed(made, (copy) => copy.writeUInt32LE(99, at))))).toEqual(['BAD_MARKER'])
  })
})

describe('a stream whose end is damaged', () => {
  const made = streamOf(WISH)

  test.each<[string, (copy: Buffer) => Buffer]>([
    ['has lost its footer', (copy) => copy.subarray(0, -1024)],
    ['has lost all behind its directory', (copy) => copy.subarray(0, made.directoryAt + 512)],
    ['has another footer', (copy) => copy.fill(7, made.footerAt, made.footerAt + 512)],
    ['has lost its directory', (copy) => copy.subarray(0, made.directoryAt - 512)],
    ['has lost its last table too', (copy) => copy.subarray(0, (made.tableAt.get(2) as number) - 512)],
    ['ends in junk', (copy) => Buffer.concat([copy, Buffer.alloc(777, 3)])],
    ['has a directory that leads out of the file', (copy) => copy.fill(0xff, made.directoryAt, made.directoryAt + 4)],
  ])('and %s is refused, and read whole by salvage', async (_, damage) => {
    const file = written(damage(Buffer.from(made.bytes)))
    expect((await refusal(() => openDisk(file))).code).toBe('CORRUPT')
    for (const [grain, content] of GRAINS) {
      const found = await readGrain(file, grain, true)
      expect(found.equals(content.subarray(0, found.length))).toBe(true)
    }
    expect(await codesOf(file)).toContain('CANNOT_BE_RIGHT')
  })

  test('inside a grain is read by salvage as far as it goes, and it is told where that is', async () => {
    const at = made.grainAt.get(511) as number
    await using disk = await openDisk(written(made.bytes.subarray(0, at + 20)), { salvage: true })
    const bytes = Buffer.alloc(GRAIN)
    await disk.read(5 * GRAIN, bytes)
    expect(bytes.equals(GRAINS.get(5) as Buffer)).toBe(true)
    expect(disk.notes.join()).toContain(`stops at ${at}`)
  })
})

function flipLast(bytes: Buffer): Buffer {
  bytes[bytes.length - 1] = (bytes.at(-1) as number) ^ 1
  return bytes
}

describe('a stream that is written', () => {
  const text = Buffer.from(
    `# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType="streamOptimized"\nRW ${CAPACITY} SPARSE "x"\n`,
  )

  async function opened(image: Image): Promise<WritableStreamExtent> {
    const { extents } = await promised(openParts(image, 'write'))
    return extents[0] as WritableStreamExtent
  }

  /** Writes grains, and flushes before those whose index is named. */
  async function make(grains: ReadonlyMap<number, Uint8Array>, flushes: readonly number[] = []): Promise<Image> {
    const image = new MemoryFolder().image('disk.vmdk')
    await promised(createStream(image.store, CAPACITY * 512, text))
    const extent = await opened(image)
    for (const [index, [grain, content]] of [...grains].entries()) {
      if (flushes.includes(index)) await promised(extent.flush())
      const packed = (await extent.packer.pack(content)) as Uint8Array
      await promised(extent.packer.store(grain * GRAIN, packed))
    }
    await promised(extent.end())
    return image
  }

  function bytesOf({ store }: Image): Buffer {
    const bytes = Buffer.alloc(store.size() as number)
    void store.read(0, bytes)
    return bytes
  }

  test.each([[[]], [[0]], [[2, 4]], [[1, 2, 3, 4, 5]]])(
    'reads back, also if it was flushed before grains %j',
    async (flushes) => {
      const file = written(bytesOf(await make(GRAINS, flushes)))
      for (const [grain, content] of GRAINS) {
        const found = await readGrain(file, grain)
        expect(found.equals(content.subarray(0, found.length))).toBe(true)
      }
      expect(await codesOf(file)).toEqual([])
    },
  )

  test('is the same bytes, however often it was flushed, and as the specification lays it out', async () => {
    const [once, often] = [bytesOf(await make(GRAINS)), bytesOf(await make(GRAINS, [1, 2, 3]))]
    expect(once.equals(often)).toBe(true)
    const { bytes } = streamOf({ ...WISH, pack: (content) => zlib.deflateSync(content, { level: 6 }) })
    expect(once.subarray(128 * 512).equals(bytes.subarray(128 * 512))).toBe(true)
  })

  test('reads what it holds while it is written', async () => {
    const image = new MemoryFolder().image('disk.vmdk')
    await promised(createStream(image.store, CAPACITY * 512, text))
    const extent = await opened(image)
    for (const [grain, content] of GRAINS) {
      await promised(extent.packer.store(grain * GRAIN, (await extent.packer.pack(content)) as Uint8Array))
      const found = await promised(extent.map(grain * GRAIN, 512))
      if (found.kind !== 'packed') throw new Error(`it is ${found.kind}`)
      const stored = new Uint8Array(found.packed.storedLength)
      void image.store.read(found.packed.at, stored)
      expect(Buffer.compare(found.packed.unpack(stored), content.subarray(0, found.packed.length))).toBe(0)
    }
  })

  test('is written in order, once, and by whole grains', async () => {
    const image = await make(GRAINS)
    expect((await refusal(() => opened(image))).code).toBe('READ_ONLY')
    const empty = new MemoryFolder().image('disk.vmdk')
    await promised(createStream(empty.store, CAPACITY * 512, text))
    const extent = await opened(empty)
    const packed = (await extent.packer.pack(Buffer.alloc(GRAIN, 1))) as Uint8Array
    await promised(extent.packer.store(GRAIN, packed))
    for (const offset of [GRAIN, 0]) {
      expect((await refusal(() => promised(extent.packer.store(offset, packed)))).code).toBe('UNSUPPORTED')
    }
    expect((await refusal(() => promised(extent.reserve()))).code).toBe('READ_ONLY')
  })

  test('whose grain would not become smaller holds it all the same', async () => {
    const noise = randomFor('noise').bytes(GRAIN)
    const file = written(bytesOf(await make(new Map([[3, noise]]))))
    expect((await readGrain(file, 3)).equals(noise)).toBe(true)
  })

  randomTest('is whole after a crash at any moment, or says that it is not', async (random) => {
    const empty = new MemoryFolder().image('disk.vmdk')
    await promised(createStream(empty.store, CAPACITY * 512, text))
    const scratch = new CrashedFile(bytesOf(empty))
    const extent = await opened(scratch.folder.image('a'))
    /** where each flush had ended, and what was durable then */
    const acknowledged: { length: number; grains: Set<number> }[] = [{ length: 0, grains: new Set() }]
    const written: number[] = []
    for (const [index, [grain, content]] of [...GRAINS].entries()) {
      await promised(extent.packer.store(grain * GRAIN, (await extent.packer.pack(content)) as Uint8Array))
      written.push(grain)
      if (index === 2) {
        await promised(extent.flush())
        acknowledged.push({ length: scratch.length, grains: new Set(written) })
      }
    }
    await promised(extent.end())
    acknowledged.push({ length: scratch.length, grains: new Set(written) })
    const outcomes = { whole: 0, refused: 0 }
    for (let end = 0; end <= scratch.length; end++) {
      for (const kept of ['all', 'none', ...Array.from({ length: 12 }, () => random)] as const) {
        const crashed = scratch.after(end, kept).image('a')
        const promise = acknowledged.findLast(({ length }) => length <= end)?.grains ?? new Set()
        try {
          const { extents } = await promised(openParts(crashed, 'read'))
          for (const [grain, content] of GRAINS) {
            const found = await promised((extents[0] as ExtentFile).map(grain * GRAIN, 1))
            if (found.kind !== 'packed') {
              expect(promise.has(grain), `grain ${grain}, crash before ${end}`).toBe(false)
              continue
            }
            const stored = new Uint8Array(found.packed.storedLength)
            await crashed.store.read(found.packed.at, stored)
            expect(Buffer.compare(found.packed.unpack(stored), content.subarray(0, found.packed.length))).toBe(0)
          }
          outcomes.whole++
        } catch (error) {
          if (!isVdiskError(error, 'CORRUPT')) throw error
          outcomes.refused++
        }
      }
    }
    // At rest it is never refused.
    const { extents } = await promised(openParts(scratch.after(scratch.length, 'none').image('a'), 'read'))
    expect((await promised((extents[0] as ExtentFile).map(0, 1))).kind).toBe('packed')
    expect(outcomes.whole).toBeGreaterThan(20)
    expect(outcomes.refused).toBeGreaterThan(20)
  })
})
