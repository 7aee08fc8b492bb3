import zlib from 'node:zlib'
import { beforeAll, describe, expect, test } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import { qcow2 } from '../../../lib/formats/qcow2/driver.ts'
import type { Qcow2Layer } from '../../../lib/formats/qcow2/layer.ts'
import { promised, runSync } from '../../../lib/io/io.ts'
import { loadZstd } from '../../../lib/io/zstd.ts'
import { COMPRESSED, COPIED, CraftedImage, openStore, PLACE } from '../../support/crafted-qcow2.ts'
import { BUDGET, failure, failureOf, findingsOf, memoryOf, placeOf, SLACK } from '../../support/hostile.ts'
import { MemoryFolder } from '../../support/memory-image.ts'
import { countingStore, watchedStore } from '../../support/stores.ts'

const CORRUPT = 'CORRUPT, compressed cluster'

/** An image whose guest cluster 5 is compressed, stored as these bytes. */
function packed(stored: Uint8Array, options: { clusterBits?: number; zstd?: boolean } = {}): CraftedImage {
  const image = new CraftedImage({ clusterBits: options.clusterBits ?? 12 })
  const number = image.grow(Math.max(1, Math.ceil(stored.length / image.cluster)), stored)
  const sectors = BigInt(Math.max(0, Math.ceil(stored.length / 512) - 1))
  const shift = BigInt(62 - (Math.log2(image.cluster) - 8))
  image.l2(5, BigInt(image.at(number)) | (sectors << shift) | COMPRESSED)
  if (options.zstd) image.header('incompatible', 8).header('compressionType', 1)
  return image
}

async function read(image: CraftedImage): Promise<Buffer> {
  const folder = new MemoryFolder()
  folder.files.set('crafted', image.store())
  const chain = new Chain([await promised(qcow2.open(folder.image('crafted'), 'read'))])
  const target = Buffer.alloc(image.cluster)
  await promised(chain.read(5 * image.cluster, target))
  return target
}

const outcome = async (image: CraftedImage): Promise<string> => placeOf(await failure(() => read(image)))

describe('deflate streams', () => {
  test('one that makes exactly a cluster is read, whatever follows it', async () => {
    const stream = zlib.deflateRawSync(Buffer.alloc(4096, 0x5a))
    expect(await read(packed(Buffer.concat([stream, Buffer.alloc(300, 0xff)])))).toEqual(Buffer.alloc(4096, 0x5a))
  })

  test.each([
    ['a byte more than a cluster', zlib.deflateRawSync(Buffer.alloc(4097))],
    ['64 MiB of zeros', zlib.deflateRawSync(Buffer.alloc(64 << 20)).subarray(0, 4096)],
    ['a byte less than a cluster', zlib.deflateRawSync(Buffer.alloc(4095))],
    ['nothing', zlib.deflateRawSync(Buffer.alloc(0))],
    [
      'half a stream',
      zlib.deflateRawSync(Buffer.from(Array.from({ length: 4096 }, (_, i) => (i * i) & 0xff))).subarray(0, 99),
    ],
    ['no stream at all', Buffer.alloc(512, 0xff)],
    ['zeros', Buffer.alloc(512)],
    ['a stream with a zlib header', zlib.deflateSync(Buffer.alloc(4096, 1))],
  ])('%s: refused', async (_, stored) => {
    expect(await outcome(packed(stored))).toBe(CORRUPT)
  })

  test('a bomb costs no more than its cluster', async () => {
    const bomb = zlib.deflateRawSync(Buffer.alloc(256 << 20), { level: 9 })
    const image = packed(bomb.subarray(0, 2 << 20), { clusterBits: 21 })
    const chain = new Chain([openStore(image.store(), 'read')])
    const target = Buffer.alloc(512)
    const memory = memoryOf(() => {
      for (let i = 0; i < 10; i++) {
        expect(placeOf(failureOf(() => runSync(chain.read(5 * image.cluster, target))))).toBe(CORRUPT)
      }
    })
    // Ten times what was stored and what it may become, and not the 256 MiB that it wants to be.
    expect(memory).toBeLessThan(10 * 6 * (1 << 20) + SLACK)
  })

  test('the check says nothing of what is inside, and does not unpack it', async () => {
    const image = packed(Buffer.alloc(512, 0xff))
    expect(await findingsOf(openStore(image.store(), 'read'))).toEqual([])
  })
})

describe('zstd frames', () => {
  let frame: Buffer

  beforeAll(async () => {
    const zstd = await loadZstd()
    frame = Buffer.from(zstd.compress(Buffer.alloc(4096, 0x5a)))
  })

  /** A frame header with this descriptor and these bytes behind it. */
  const crafted = (descriptor: number, ...rest: (number | Buffer)[]): Buffer =>
    Buffer.concat([
      Buffer.from([0x28, 0xb5, 0x2f, 0xfd, descriptor]),
      ...rest.map((part) => (typeof part === 'number' ? Buffer.from([part]) : part)),
    ])
  const u64 = (value: bigint): Buffer => {
    const bytes = Buffer.alloc(8)
    bytes.writeBigUInt64LE(value)
    return bytes
  }
  const u32 = (value: number): Buffer => {
    const bytes = Buffer.alloc(4)
    bytes.writeUInt32LE(value)
    return bytes
  }
  /** A last block that repeats one byte. */
  const run = (length: number): Buffer => u32((length << 3) | 3).subarray(0, 3)

  test('one that makes exactly a cluster is read, whatever follows it', async () => {
    const image = packed(Buffer.concat([frame, Buffer.alloc(300, 0xff)]), { zstd: true })
    expect(await read(image)).toEqual(Buffer.alloc(4096, 0x5a))
  })

  const wrong: [string, () => Buffer][] = [
    ['a frame that claims 2 GiB', () => crafted(0xa0, u32(2 ** 31), run(4096), 0x5a)],
    ['a frame that claims 2^64 - 1 bytes', () => crafted(0xe0, u64(2n ** 64n - 1n), run(4096), 0x5a)],
    ['a frame that claims a byte too much', () => crafted(0xa0, u32(4097), run(4097), 0x5a)],
    ['a frame that claims nothing', () => crafted(0x20, 0, run(0), 0x5a)],
    ['more than it claims', () => crafted(0xa0, u32(4096), run(100_000), 0x5a)],
    ['more than a cluster, claimed by nobody', () => crafted(0x00, 0x58, run(100_000), 0x5a)],
    ['a window of 3.75 TiB', () => crafted(0x00, 0xff, run(4096), 0x5a)],
    ['a reserved bit', () => crafted(0xa8, u32(4096), run(4096), 0x5a)],
    ['a dictionary that nobody has', () => crafted(0xa3, u32(77), u32(4096), u32(5).subarray(0, 3))],
    ['half a frame', () => frame.subarray(0, 7)],
    ['an empty stream', () => Buffer.alloc(512)],
    ['no frame at all', () => Buffer.alloc(512, 0xff)],
    ['blocks without end', () => crafted(0xa0, u32(4096), Buffer.alloc(500, 2))],
  ]
  test.each(wrong)('%s: refused', async (_, stored) => {
    const before = process.memoryUsage().external
    expect(await outcome(packed(stored(), { zstd: true }))).toBe(CORRUPT)
    expect(process.memoryUsage().external - before).toBeLessThan(SLACK)
  })

  test('any byte of a frame inverted is refused, or makes a cluster', async () => {
    for (let at = 0; at < frame.length; at++) {
      const stored = Buffer.from(frame)
      stored[at] = (stored[at] as number) ^ 0xff
      expect(['fine', CORRUPT]).toContain(await outcome(packed(stored, { zstd: true })))
    }
  })
})

describe('disks that are larger than anything', () => {
  test('the largest disk that there can be opens for little memory and few reads', () => {
    // 2^53 - 512 bytes in clusters of 2 MiB: an L1 table of 128 KiB.
    const image = new CraftedImage({ clusterBits: 21 })
    const size = 2 ** 53 - 512
    image.header('size', size).header('l1Size', 2 ** 14)
    const { store, counts } = countingStore(image.store())
    let layer: Qcow2Layer | undefined
    expect(
      memoryOf(() => {
        layer = openStore(store, 'read')
      }),
    ).toBeLessThan(SLACK)
    const chain = new Chain([layer as Qcow2Layer])
    const tail = Buffer.alloc(512, 1)
    runSync(chain.read(size - 512, tail))
    expect(tail).toEqual(Buffer.alloc(512))
    expect(runSync(chain.map(2 ** 42, size - 2 ** 42))).toMatchObject({ kind: 'zero', length: size - 2 ** 42 })
    expect(counts.read?.calls).toBeLessThan(10)
  })

  test('a file that is one hole of terabytes is checked as far as it is used', async () => {
    const image = new CraftedImage()
    const { store, counts } = countingStore(image.store(2 ** 50))
    expect(await findingsOf(openStore(store, 'read'))).toEqual([])
    expect(counts.read?.calls).toBeLessThan(20)
  })

  test('counts that lie terabytes apart are checked within the bounds of an opening', async () => {
    const image = new CraftedImage()
    const far = 2 ** 40
    image.u64(image.at(PLACE.refcountTable) + 510 * 8, 2 ** 33).u64(image.at(PLACE.refcountTable) + 511 * 8, far)
    let taken = 0
    const before = process.memoryUsage().arrayBuffers
    const store = watchedStore(image.store(far + image.cluster), () => {
      taken = Math.max(taken, process.memoryUsage().arrayBuffers - before)
    })
    expect(await findingsOf(openStore(store, 'read'))).toEqual(['REFCOUNT_MISSING'])
    expect(taken).toBeLessThan(BUDGET + SLACK)
  })

  test('writing near the end of such a disk takes room where the file ends', () => {
    const image = new CraftedImage({ clusterBits: 21 }).header('size', 2 ** 52).header('l1Size', 2 ** 13)
    const store = image.store()
    const chain = new Chain([openStore(store, 'write')])
    runSync(chain.write(2 ** 52 - 512, Buffer.alloc(512, 0x44)))
    runSync(chain.close())
    expect(store.size()).toBeLessThanOrEqual(image.bytes.length + 2 * image.cluster)
  })
})

describe('an image that was not closed', () => {
  const dirty = (image: CraftedImage): CraftedImage => image.header('incompatible', 1)

  test('its counts are made anew, behind what is mapped past the end of the file', async () => {
    const image = dirty(new CraftedImage())
    // The crash took the end of the file, and the counts; the entry had been written.
    image.l2(5, BigInt(image.at(9)) | COPIED)
    image.count(PLACE.data1, 0)
    const store = image.store()
    const chain = new Chain([openStore(store, 'write')])
    runSync(chain.write(7 * image.cluster, Buffer.alloc(image.cluster, 0x77)))
    runSync(chain.close())
    const target = Buffer.alloc(image.cluster)
    const again = new Chain([openStore(store, 'read')])
    runSync(again.read(5 * image.cluster, target))
    expect(target).toEqual(Buffer.alloc(image.cluster))
    expect(await findingsOf(openStore(store, 'read'))).toEqual([])
  })

  test.each([
    ['data', (image: CraftedImage) => image.l2(5, (2n ** 55n) | COPIED)],
    ['compressed data', (image: CraftedImage) => image.l2(5, (2n ** 54n) | COMPRESSED)],
  ])('%s far past the end is damage: no room is kept for it', (_, change) => {
    const image = change(dirty(new CraftedImage()))
    const { store, counts } = countingStore(image.store())
    expect(placeOf(failureOf(() => openStore(store, 'write')))).toMatch(/^CORRUPT, L2 table, at \d+$/)
    expect([counts.write, counts.truncate]).toEqual([undefined, undefined])
  })

  test('an entry off its cluster does not keep the counts from being made anew, and stays', () => {
    const entry = (2n ** 31n - 512n) | COPIED
    const image = dirty(new CraftedImage()).count(PLACE.data0, 0).l2(7, entry)
    const store = image.store()
    const chain = new Chain([openStore(store, 'write')])
    expect(placeOf(failureOf(() => runSync(chain.read(7 * 4096, Buffer.alloc(4)))))).toBe('CORRUPT, L2 table, entry 7')
    runSync(chain.write(0, Buffer.alloc(4096, 0x77)))
    runSync(chain.close())
    expect(Buffer.from(store.bytes()).readBigUInt64BE(image.at(PLACE.l2) + 7 * 8)).toBe(entry)
  })

  test('a file that is one hole of terabytes has its counts made anew as far as it is used', () => {
    const image = dirty(new CraftedImage()).count(PLACE.data0, 0)
    const { store, counts } = countingStore(image.store(2 ** 42))
    const chain = new Chain([openStore(store, 'write')])
    const found = Buffer.alloc(4)
    runSync(chain.read(0, found))
    expect(found).toEqual(Buffer.alloc(4, 0xa0))
    expect(counts.read?.calls).toBeLessThan(60)
    expect(counts.write?.bytes).toBeLessThan(1 << 20)
  })

  test('tables that overlap are refused before anything is made anew', () => {
    const image = dirty(new CraftedImage())
    image.u64(image.at(PLACE.refcountTable) + 8, image.at(PLACE.l1))
    const { store, counts } = countingStore(image.store())
    expect(placeOf(failureOf(() => openStore(store, 'write')))).toBe('CORRUPT, refcount table, at 4104')
    expect(counts.write).toBeUndefined()
  })
})
