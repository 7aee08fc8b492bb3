import { describe, expect, test } from 'vitest'
import type { Bitmap } from '../../../../lib/bytes/bitmap.ts'
import { Chain } from '../../../../lib/chain/chain.ts'
import { VdiskError } from '../../../../lib/errors.ts'
import { parallels } from '../../../../lib/formats/parallels/driver.ts'
import { promised } from '../../../../lib/io/io.ts'
import { MemoryStore } from '../../../../lib/io/memory.ts'
import {
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
import { contentOf } from '../../../support/stores.ts'

async function refusalOf(store: MemoryStore, access: 'read' | 'write' = 'read'): Promise<VdiskError> {
  const error = await promised(parallels.open(imageOver(store), access)).then(
    () => undefined,
    (reason: unknown) => reason,
  )
  expect(error).toBeInstanceOf(VdiskError)
  return error as VdiskError
}

describe('an expanding image by the specification', () => {
  test.each([
    ['extended', new ParallelsFile({ stored: 3, bat: [2, 0, 1, 0, 0, 3] })],
    ['classic', new ParallelsFile({ magic: 'WithoutFreeSpace', stored: 3, bat: [2, 0, 1, 0, 0, 3] })],
    [
      'of 63 sectors',
      new ParallelsFile({ magic: 'WithoutFreeSpace', clusterSectors: 63, stored: 3, bat: [2, 0, 1, 0, 0, 3] }),
    ],
    ['with its data further on', new ParallelsFile({ dataAt: 24, stored: 3, bat: [2, 0, 1, 0, 0, 3] })],
    ['with an odd end', new ParallelsFile({ stored: 3, sectors: 63, bat: [2, 0, 1, 0, 0, 3] })],
  ])('%s: clusters are where the BAT says', async (_, file) => {
    const disk = await readOf(file.store())
    const firsts = Array.from({ length: 8 }, (__, cluster) => disk[cluster * file.clusterSize])
    expect(firsts).toEqual([2, 0, 1, 0, 0, 3, 0, 0])
    expect(await codesOf(file.store())).toEqual([])
  })

  test('a size in a classic image has 32 bits, whatever stands behind', async () => {
    const file = new ParallelsFile({ magic: 'WithoutFreeSpace' }).u32(40, 7)
    expect((await readOf(file.store())).length).toBe(64 * SECTOR)
  })

  test('marked as empty it reads as zero, and is not written while its BAT says otherwise', async () => {
    const file = new ParallelsFile({ stored: 1, bat: [1] }).u32(52, 1)
    expect((await readOf(file.store())).every((byte) => byte === 0)).toBe(true)
    expect((await refusalOf(file.store(), 'write')).code).toBe('CORRUPT')
    const clear = new ParallelsFile().u32(52, 1).store()
    await writing(clear, (chain) => promised(chain.write(0, Uint8Array.of(9))))
    expect((await readOf(clear))[0]).toBe(9)
  })

  test('says that it is in use before anything else is written, and that it is closed at the end', async () => {
    const store = new ParallelsFile({ stored: 1, bat: [1] }).store()
    const marks: number[] = []
    const mark = (): number => Buffer.from(contentOf(store)).readUInt32LE(44)
    await writing(store, async (chain) => {
      marks.push(mark())
      await promised(chain.write(0, Uint8Array.of(9)))
      marks.push(mark())
    })
    expect([...marks, mark()]).toEqual([0x312e3276, 0x746f6e59, 0x312e3276])
  })

  test('that was left in use stays so until a repair, whoever writes', async () => {
    const store = new ParallelsFile({ stored: 1, bat: [1] }).u32(44, 0x746f6e59).store()
    expect(await codesOf(store)).toEqual(['NOT_CLOSED'])
    await writing(store, (chain) => promised(chain.write(0, Uint8Array.of(9))))
    expect(await codesOf(store)).toEqual(['NOT_CLOSED'])
    expect((await repaired(store, 'leaks')).count).toBe(0)
    expect((await repaired(store)).done.map(({ code }) => code)).toEqual(['NOT_CLOSED'])
    expect(await codesOf(store)).toEqual([])
    expect((await repaired(store)).count).toBe(0)
  })
})

describe('an expanding image from a stranger is refused', () => {
  const cases: [string, ParallelsFile, string][] = [
    ['another version', new ParallelsFile().u32(16, 3), 'UNSUPPORTED'],
    ['clusters of nothing', new ParallelsFile().u32(28, 0), 'CORRUPT'],
    ['clusters without measure', new ParallelsFile().u32(28, 2 ** 31), 'LIMIT_EXCEEDED'],
    ['clusters that overflow', new ParallelsFile().u32(28, 2 ** 32 - 1), 'LIMIT_EXCEEDED'],
    ['a BAT without measure', new ParallelsFile().u32(32, 2 ** 27 + 1), 'LIMIT_EXCEEDED'],
    ['a BAT of 2^32 - 1 entries', new ParallelsFile().u32(32, 2 ** 32 - 1), 'LIMIT_EXCEEDED'],
    ['a BAT past the end', new ParallelsFile().u32(32, 2 ** 27), 'CORRUPT'],
    ['a BAT too small for the disk', new ParallelsFile().u32(32, 7), 'CORRUPT'],
    ['a disk of 2^63 sectors', new ParallelsFile().u64(36, 2n ** 63n), 'LIMIT_EXCEEDED'],
    ['a disk of 2^64 - 1 sectors', new ParallelsFile().u64(36, 2n ** 64n - 1n), 'LIMIT_EXCEEDED'],
    ['data within the BAT', new ParallelsFile({ clusters: 200, clusterSectors: 1 }).u32(48, 1), 'CORRUPT'],
  ]

  test.each(cases)('with %s', async (_, file, code) => {
    const before = process.memoryUsage().rss
    for (const access of ['read', 'write'] as const) expect((await refusalOf(file.store(), access)).code).toBe(code)
    expect(process.memoryUsage().rss - before).toBeLessThan(64 << 20)
  })

  test('cut off anywhere it is refused, or reads what is left of it, or says where it ends', async () => {
    const { bytes } = new ParallelsFile({ stored: 2, bat: [1, 2] })
    for (let length = 0; length < bytes.length; length += length < 300 ? 1 : SECTOR) {
      const store = new MemoryStore('cut', { content: bytes.subarray(0, length) })
      await readOf(store).catch((error: unknown) => expect(error).toBeInstanceOf(VdiskError))
      await writing(store, (chain) => promised(chain.write(0, Uint8Array.of(1)))).catch((error: unknown) =>
        expect(error).toBeInstanceOf(VdiskError),
      )
    }
  })
})

/** What a check says, and what is left of the disk by a repair: the first byte of each cluster. */
const FAULTS: readonly [string, () => ParallelsFile, string, (number | undefined)[]][] = [
  // QEMU 7.2 says "No errors" to this one.
  ['two clusters in one place', () => new ParallelsFile({ stored: 2, bat: [1, 1, 2] }), 'CLUSTER_SHARED', [1, 1, 2]],
  [
    'a cluster over the BAT',
    () => new ParallelsFile({ stored: 1, dataAt: 16, bat: [1] }).u32(68, 1),
    'CLUSTER_BEFORE_DATA',
    [1, 0],
  ],
  ['a cluster past the end', () => new ParallelsFile({ stored: 1, bat: [1, 9] }), 'CLUSTER_PAST_END', [1, 0]],
  [
    'a cluster that is cut off',
    () => new ParallelsFile({ stored: 2, bat: [1, 2] }).resize(3 * 4096 - 512),
    'CLUSTER_PAST_END',
    [1, 2],
  ],
  [
    'a cluster between two others',
    () => new ParallelsFile({ magic: 'WithoutFreeSpace', stored: 3, bat: [1] }).u32(68, (512 + 4096 + 512) / SECTOR),
    'CLUSTER_MISALIGNED',
    [1, 2],
  ],
]

describe('damage of a BAT', () => {
  test.each(FAULTS)('%s is found, keeps writers away, and is mended', async (_, craft, code, left) => {
    const store = craft().store()
    expect(await codesOf(store)).toContain(code)
    expect(await refusalOf(store, 'write')).toMatchObject({ code: 'CORRUPT' })
    const report = await repaired(store)
    expect(report.done.map((one) => one.code)).toContain(code)
    expect(report.doubtful.length).toBeGreaterThan(0)
    expect(await codesOf(store)).toEqual([])
    const disk = await readOf(store)
    expect(left.map((_value, cluster) => disk[cluster * 4096])).toEqual(left)
    // Nothing is left to do, and what was shared is not any more.
    const before = contentOf(store)
    expect((await repaired(store)).count).toBe(0)
    expect(contentOf(store)).toEqual(before)
    await writing(store, (chain) => promised(chain.write(0, Buffer.alloc(4096, 77))))
    expect((await readOf(store))[4096]).toBe(left[1])
  })

  test('a repair that is cut short anywhere reads no worse, and can be begun again', async () => {
    const whole = new ParallelsFile({ stored: 3, bat: [1, 1, 2, 9, 3] }).store()
    for (let stop = 0; ; stop++) {
      const store = copyOf(whole)
      let left = stop
      const write = store.write.bind(store)
      store.write = (at, source) => {
        if (left-- === 0) throw new VdiskError('IO', { message: 'Cannot write copy: a test says so' })
        write(at, source)
      }
      const failed = await repaired(store).then(
        () => false,
        () => true,
      )
      store.write = write
      const early = await readOf(store).catch(() => undefined)
      if (early) expect([early[0], early[4096], early[8192], early[16384]]).toEqual([1, 1, 2, 3])
      await repaired(store)
      expect(await codesOf(store)).toEqual([])
      const disk = await readOf(store)
      expect([disk[0], disk[4096], disk[8192], disk[16384]]).toEqual([1, 1, 2, 3])
      if (!failed) return
    }
  })

  test('room that belongs to nothing is given back, and only that', async () => {
    const store = new ParallelsFile({ stored: 4, bat: [2] }).store()
    expect(await codesOf(store)).toEqual(['CLUSTER_LEAKED', 'ROOM_AT_END'])
    const report = await repaired(store, 'leaks')
    expect(report.done.map(({ code }) => code).sort()).toEqual(['CLUSTER_LEAKED', 'ROOM_AT_END'])
    expect(await codesOf(store)).toEqual([])
    expect((await readOf(store))[0]).toBe(2)
    expect(store.size()).toBe(3 * 4096)
  })

  test('what lies at the end of a file that was preallocated is used, and cut off at the end', async () => {
    const store = new ParallelsFile({ stored: 1, bat: [1] }).resize(1 << 20).store()
    await writing(store, (chain) => promised(chain.write(4096, Buffer.alloc(4096, 5))))
    expect((await readOf(store))[4096]).toBe(5)
    expect(store.size()).toBe(3 * 4096)
    expect(await codesOf(store)).toEqual([])
  })
})

describe('a format extension', () => {
  const NAME = '00112233-4455-6677-8899-aabbccddeeff'

  async function bitsOf(store: MemoryStore): Promise<number[]> {
    const layer = await promised(parallels.open(imageOver(store), 'read'))
    const [info] = layer.bitmaps?.list() ?? []
    if (!info) return [-1]
    expect(info).toMatchObject({ name: NAME, granularity: 512, consistent: true })
    const bits = (await promised(layer.bitmaps?.read(NAME) as never)) as Bitmap
    return [...Array(bits.length).keys()].filter((bit) => bits.has(bit))
  }

  test('holds dirty bitmaps, which are read, and kept true by whoever writes', async () => {
    const store = withDirtyBitmap().store()
    expect(await bitsOf(store)).toEqual([3, 4])
    expect(await codesOf(store)).toEqual([])
    await writing(store, async (chain) => {
      await promised(chain.write(10 * 512 + 1, Buffer.alloc(512, 1)))
      await promised(chain.flush())
      await promised(chain.erase(4096 * 7, 4096))
    })
    // What holds nothing was zero before: an erasure of it is no change.
    expect(await bitsOf(store)).toEqual([3, 4, 10, 11])
    expect(await codesOf(store)).toEqual([])
    await writing(store, (chain) => promised(chain.write(0, Uint8Array.of(1))))
    expect(await bitsOf(store)).toEqual([0, 3, 4, 10, 11])
    expect(await codesOf(store)).toEqual([])
  })

  test('is not there while the file is in use: after a crash no bitmap says what is not so', async () => {
    const store = withDirtyBitmap().store()
    const layer = await promised(parallels.open(imageOver(store), 'write'))
    await promised(new Chain([layer]).write(0, Uint8Array.of(1)))
    expect(await bitsOf(copyOf(store))).toEqual([-1])
  })

  test('whose bitmap is about another size, or was left by a program that knows none, is not believed and not kept', async () => {
    for (const spoil of [(file: ParallelsFile) => file.u64(36, 63), (file: ParallelsFile) => file.u32(44, 0)]) {
      const store = spoil(withDirtyBitmap()).store()
      const layer = await promised(parallels.open(imageOver(store), 'read'))
      expect(layer.bitmaps?.list()[0]?.consistent).toBe(false)
      await expect(promised(layer.bitmaps?.read(NAME) as never)).rejects.toMatchObject({ code: 'CORRUPT' })
      await writing(store, (chain) => promised(chain.write(0, Uint8Array.of(1))))
      expect(await bitsOf(store)).toEqual([-1])
      expect(await codesOf(store)).toEqual([])
    }
  })

  test('with a wrong checksum is told of, dropped by a repair, and keeps nobody from reading', async () => {
    const file = withDirtyBitmap()
    const store = file.u8(file.placeOf(2) + 60, 1).store()
    expect((await readOf(store))[0]).toBe(1)
    expect(await codesOf(store)).toEqual(['EXTENSION_DAMAGED'])
    await repaired(store)
    expect((await codesOf(store)).filter((code) => code !== 'CLUSTER_LEAKED' && code !== 'ROOM_AT_END')).toEqual([])
  })

  test('with a feature that must be known keeps writers away; one that need not be is kept, or dropped, as it says', async () => {
    const feature = (flags: number): MemoryStore =>
      new ParallelsFile({ stored: 3, bat: [1] })
        .extension(2, [{ magic: 77n, flags, data: Buffer.from('strange') }])
        .store()
    expect(await refusalOf(feature(1), 'write')).toMatchObject({ code: 'UNSUPPORTED' })
    expect((await readOf(feature(1)))[0]).toBe(1)
    for (const [flags, kept] of [
      [2, true],
      [0, false],
    ] as const) {
      const store = feature(flags)
      // The third cluster may be the feature's: it is not written over.
      await writing(store, (chain) => promised(chain.write(4096, Buffer.alloc(4096, 9))))
      const bytes = Buffer.from(contentOf(store))
      expect(bytes.includes('strange')).toBe(kept)
      expect(bytes.readBigUInt64LE(56) !== 0n).toBe(kept)
      if (kept) expect(bytes[3 * 4096]).toBe(3)
      expect((await readOf(store))[4096]).toBe(9)
    }
  })
})
