import { describe, expect, test } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import { CheckReport } from '../../../lib/contracts/check-report.ts'
import { isWritable, type WritableLayer } from '../../../lib/contracts/layer.ts'
import { isVdiskError } from '../../../lib/errors.ts'
import { vdi } from '../../../lib/formats/vdi/driver.ts'
import { promised } from '../../../lib/io/io.ts'
import { MemoryStore } from '../../../lib/io/memory.ts'
import type { ByteStore } from '../../../lib/io/store.ts'
import { MemoryFolder } from '../../support/memory-image.ts'
import { refusal } from '../../support/refusal.ts'
import { contentOf } from '../../support/stores.ts'
import { CREATED, FREE, type VdiShape, vdiBytes, vdiStore, ZERO } from '../../support/vdi-file.ts'

/** Files of VDI that cannot be, or should not; and what no other program sees in them. */

const BLOCK = 4096
const SOUND: VdiShape = { entries: [0, FREE, 1, ZERO], size: 4 * BLOCK - 512 }

function open(store: ByteStore, access: 'read' | 'write' = 'read'): Promise<Chain> {
  const folder = new MemoryFolder()
  folder.files.set('a', store)
  return promised(vdi.open(folder.image('a'), access)).then((layer) => new Chain([layer]))
}

async function firstBytes(chain: Chain): Promise<(number | string)[]> {
  const found: (number | string)[] = []
  for (let offset = 0; offset < chain.size; offset += chain.granularity) {
    const byte = new Uint8Array(1)
    try {
      await promised(chain.read(offset, byte))
      found.push(byte[0] as number)
    } catch (error) {
      if (!isVdiskError(error)) throw error
      found.push(error.code)
    }
  }
  return found
}

async function codes(store: ByteStore): Promise<string[]> {
  const report = new CheckReport()
  await promised(vdi.check((await open(store)).layers[0] as never, report))
  return report.findings.map(({ severity, code }) => `${severity} ${code}`)
}

describe('a file that says that it is longer than any medium', () => {
  const FAR = 2 ** 28
  const far = (entries: readonly number[]): MemoryStore => {
    const store = vdiStore({ entries })
    store.truncate(2 ** 52)
    return store
  }

  test('is read and checked for what it holds', async () => {
    const store = far([0, FAR + 7, FAR + 7])
    expect(await firstBytes(await open(store))).toEqual([1, 0, 0])
    const found = await codes(store)
    expect(found.filter((code) => code === 'error BLOCKS_OVERLAP')).toHaveLength(1)
  })

  test('is not written where a block lies too far out to keep account of', async () => {
    const error = await refusal(() => open(far([0, FAR]), 'write'))
    expect(error).toMatchObject({ code: 'LIMIT_EXCEEDED', where: { file: 'a', structure: 'block map', index: 1 } })
    expect(error.advice).toContain('vdisk convert')
    await promised((await open(far([0, FAR - 1]), 'write')).close())
  })
})

describe('a header that cannot be', () => {
  const u32 = (at: number, value: number) => (bytes: Buffer) => bytes.writeUInt32LE(value, at)
  const u64 = (at: number, value: bigint) => (bytes: Buffer) => bytes.writeBigUInt64LE(value, at)

  test.each([
    ['another signature', u32(64, 0xbeda107e), 'CORRUPT'],
    ['version 2.0', u32(68, 0x00020000), 'UNSUPPORTED'],
    ['a header of 300 bytes', u32(72, 300), 'CORRUPT'],
    ['type 0', u32(76, 0), 'UNSUPPORTED'],
    ['type 5', u32(76, 5), 'UNSUPPORTED'],
    ['sectors of 4096 bytes', u32(360, 4096), 'CORRUPT'],
    ['blocks of no bytes', u32(376, 0), 'CORRUPT'],
    ['blocks of 256 bytes', u32(376, 256), 'CORRUPT'],
    ['blocks of 3 MiB', u32(376, 3 << 20), 'CORRUPT'],
    ['blocks of 2 GiB', u32(376, 2 ** 31), 'CORRUPT'],
    ['3 bytes before each block', u32(380, 3), 'CORRUPT'],
    ['more bytes before each block than in it', u32(380, 2 * BLOCK), 'CORRUPT'],
    ['no blocks', u32(384, 0), 'CORRUPT'],
    ['2^31 blocks', u32(384, 2 ** 31), 'LIMIT_EXCEEDED'],
    ['2^32 - 1 blocks', u32(384, 2 ** 32 - 1), 'LIMIT_EXCEEDED'],
    ['a disk of 2^63 bytes', u64(368, 2n ** 63n), 'CORRUPT'],
    ['a disk larger than its blocks', u64(368, 5n * 4096n), 'CORRUPT'],
    ['a disk of half a sector more', u64(368, 768n), 'CORRUPT'],
    ['a map over the header', u32(340, 64), 'CORRUPT'],
    ['a map between entries', u32(340, 514), 'CORRUPT'],
  ] as const)('%s is refused', async (_, edit, code) => {
    const bytes = vdiBytes(SOUND)
    edit(bytes)
    expect((await refusal(() => open(new MemoryStore('a', { content: bytes })))).code).toBe(code)
  })

  test('a file cut off anywhere is refused, or read as far as it goes', async () => {
    const bytes = vdiBytes(SOUND)
    for (let length = 0; length < bytes.length; length += length < 2048 ? 13 : 512) {
      const store = new MemoryStore('a', { content: bytes.subarray(0, length) })
      try {
        const found = await firstBytes(await open(store))
        expect(found.every((one) => [0, 1, 2, 'CORRUPT'].includes(one))).toBe(true)
      } catch (error) {
        expect(isVdiskError(error)).toBe(true)
      }
    }
  })

  test('a map past the end fails where it is read', async () => {
    const bytes = vdiBytes(SOUND)
    bytes.writeUInt32LE(1 << 30, 340)
    const chain = await open(new MemoryStore('a', { content: bytes }))
    expect(await firstBytes(chain)).toEqual(['CORRUPT', 'CORRUPT', 'CORRUPT', 'CORRUPT'])
  })
})

describe('entries that lead where no block can be', () => {
  test('fail where they are read, and keep the image from being written', async () => {
    for (const entry of [77, 0xfffffffd, 2 ** 31]) {
      const shape = { ...SOUND, entries: [0, entry, 1, ZERO] }
      expect(await firstBytes(await open(vdiStore(shape)))).toEqual([1, 'CORRUPT', 2, 0])
      expect(await codes(vdiStore(shape))).toContain('error BLOCK_MISPLACED')
      expect(await refusal(() => open(vdiStore(shape), 'write'))).toMatchObject({
        code: 'CORRUPT',
        advice: expect.stringContaining('--repair'),
      })
    }
  })

  test('two blocks in one place are read, are found, and are not written', async () => {
    const shape = { ...SOUND, entries: [0, 0, 1, ZERO], allocated: 2 }
    expect(await firstBytes(await open(vdiStore(shape)))).toEqual([1, 1, 2, 0])
    expect(await codes(vdiStore(shape))).toEqual(['error BLOCKS_OVERLAP'])
    expect((await refusal(() => open(vdiStore(shape), 'write'))).code).toBe('CORRUPT')
  })

  test('a map that reaches into the blocks is found, and not written', async () => {
    const shape = { ...SOUND, dataAt: 512, entries: [1, 2, FREE, ZERO] }
    expect(await codes(vdiStore(shape))).toContain('error MAP_OVERLAPS')
    expect((await refusal(() => open(vdiStore(shape), 'write'))).code).toBe('CORRUPT')
    // Its first block is where the map lies: that is no block.
    const first = vdiBytes({ ...shape, entries: [0, 1, FREE, ZERO] })
    expect((await firstBytes(await open(new MemoryStore('a', { content: first }))))[0]).toBe('CORRUPT')
  })
})

describe('what the header counts', () => {
  test('a block that is not counted is found, and our next block does not take its place', async () => {
    const store = vdiStore({ ...SOUND, entries: [0, FREE, 2, ZERO], allocated: 1 })
    expect(await codes(store)).toEqual(['error BLOCK_NOT_COUNTED', 'leak BLOCKS_UNUSED'])
    const chain = await open(store, 'write')
    await promised(chain.write(BLOCK, new Uint8Array(BLOCK).fill(9)))
    await promised(chain.write(3 * BLOCK, new Uint8Array(512).fill(8)))
    await promised(chain.close())
    expect(await firstBytes(await open(store))).toEqual([1, 9, 3, 8])
    expect(await codes(store)).toEqual([])
  })

  test('blocks that nothing uses are told, and taken out when the image is closed after a change', async () => {
    const store = vdiStore({ ...SOUND, entries: [5, FREE, 1, ZERO], allocated: 6 })
    expect(await codes(store)).toEqual(['leak BLOCKS_UNUSED'])
    const size = store.size()
    const chain = await open(store, 'write')
    await promised(chain.write(10, Uint8Array.of(7)))
    await promised(chain.close())
    expect(await codes(store)).toEqual([])
    expect(await firstBytes(await open(store))).toEqual([6, 0, 2, 0])
    expect(store.size()).toBe(size - 4 * BLOCK)
  })

  test('an image that was only opened for writing stays as it was, to the byte', async () => {
    const store = vdiStore({ ...SOUND, entries: [5, FREE, 1, ZERO], allocated: 6 })
    const before = contentOf(store)
    await promised((await open(store, 'write')).close())
    expect(Buffer.compare(contentOf(store), before)).toBe(0)
  })
})

describe('children', () => {
  test.each([
    ['of type differencing', { type: 4, linkage: CREATED }],
    ['of type undo', { type: 3, linkage: CREATED }],
    ['that do not say of whom', { type: 4 }],
    ['that call themselves dynamic, and name a parent', { type: 1, linkage: CREATED }],
    ['that call themselves static, and name a parent', { type: 2, linkage: CREATED }],
  ])('%s never read as zeros where they are silent', async (_, how) => {
    const chain = await open(vdiStore({ ...SOUND, ...how }))
    const top = chain.layers[0] as WritableLayer
    expect(top.parent).toBeDefined()
    expect((await promised(top.map(BLOCK, BLOCK))).kind).toBe('parent')
    expect((await promised(top.map(3 * BLOCK, 512))).kind).toBe('zero')
  })

  test('one that does not say of whom is found by the check', async () => {
    expect(await codes(vdiStore({ ...SOUND, type: 4 }))).toEqual(['error PARENT_UNKNOWN'])
  })
})

describe('other versions and shapes', () => {
  test('the first version is read, and not written', async () => {
    const now = vdiBytes(SOUND)
    const bytes = Buffer.alloc(420 + 16 + 2 * BLOCK)
    now.copy(bytes, 0, 0, 68)
    bytes.writeUInt32LE(2, 68)
    bytes.writeUInt32LE(1, 72)
    bytes.writeBigUInt64LE(BigInt(4 * BLOCK), 352)
    for (const [i, value] of [BLOCK, 4, 2].entries()) bytes.writeUInt32LE(value, 360 + i * 4)
    now.copy(bytes, 372, 392, 424)
    for (const [i, entry] of [0, FREE, 1, ZERO].entries()) bytes.writeUInt32LE(entry, 420 + i * 4)
    bytes.fill(1, 436, 436 + BLOCK).fill(2, 436 + BLOCK)
    const store = new MemoryStore('a', { content: bytes })
    const chain = await open(store)
    expect(await firstBytes(chain)).toEqual([1, 0, 2, 0])
    expect(chain.layers[0]?.details).toMatchObject({ type: 'dynamic', version: '0.2' })
    expect((await refusal(() => open(store, 'write'))).code).toBe('UNSUPPORTED')
  })

  test('bytes before each block are passed over, and such a file is not written', async () => {
    const shape = { ...SOUND, blockExtra: 512 }
    expect(await firstBytes(await open(vdiStore(shape)))).toEqual([1, 0, 2, 0])
    expect((await refusal(() => open(vdiStore(shape), 'write'))).code).toBe('UNSUPPORTED')
  })

  test('what of the header is nobody’s, and the comment of a user, stay as they were', async () => {
    const bytes = vdiBytes(SOUND)
    bytes.write('the comment of a user', 84, 'latin1')
    bytes.fill(0x5a, 472, 512)
    const store = new MemoryStore('a', { content: bytes })
    const chain = await open(store, 'write')
    await promised(chain.write(BLOCK, new Uint8Array(600).fill(4)))
    await promised(chain.close())
    const after = Buffer.from(contentOf(store))
    expect(after.subarray(84, 105).toString()).toBe('the comment of a user')
    expect(after.subarray(472, 512).every((byte) => byte === 0x5a)).toBe(true)
    expect(after.subarray(392, 408).equals(bytes.subarray(392, 408))).toBe(true)
    expect(after.subarray(408, 424).equals(bytes.subarray(408, 424))).toBe(false)
  })
})

describe('room that was given up', () => {
  test('is used again after a flush, never before, and reads as zero then', async () => {
    const store = vdiStore({ ...SOUND, entries: [0, 1, 2, FREE], size: 4 * BLOCK })
    const chain = await open(store, 'write')
    const place = async (offset: number): Promise<number> => {
      const extent = await promised(chain.map(offset, 1))
      return extent.kind === 'data' ? extent.at : -1
    }
    const given = await place(BLOCK)
    await promised(chain.erase(BLOCK, BLOCK))
    await promised(chain.write(3 * BLOCK, Uint8Array.of(9)))
    expect(await place(3 * BLOCK)).not.toBe(given)
    await promised(chain.erase(3 * BLOCK, BLOCK))
    for (let i = 0; i < 3; i++) await promised(chain.flush())
    await promised(chain.write(3 * BLOCK + 100, Uint8Array.of(9)))
    expect(await place(3 * BLOCK)).toBe(given)
    const bytes = new Uint8Array(BLOCK)
    await promised(chain.read(3 * BLOCK, bytes))
    expect(bytes.findIndex((byte) => byte !== 0)).toBe(100)
    await promised(chain.close())
  })

  test('a disk that is emptied, and filled without a flush between, is sound when it is closed', async () => {
    const entries = Array.from({ length: 64 }, (_, i) => i)
    const store = vdiStore({ entries })
    const chain = await open(store, 'write')
    await promised(chain.erase(0, chain.size))
    await promised(chain.write(0, new Uint8Array(chain.size).fill(6)))
    expect(isWritable(chain.layers[0] as never)).toBe(true)
    await promised(chain.close())
    expect(await codes(store)).toEqual([])
    // No program may find more blocks in a file than its disk has.
    expect(Buffer.from(contentOf(store)).readUInt32LE(388)).toBe(64)
    expect(new Set(await firstBytes(await open(store)))).toEqual(new Set([6]))
  })
})
