import zlib from 'node:zlib'
import { describe, expect, test } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import { chooseDriver } from '../../../lib/chain/probe.ts'
import { CheckReport } from '../../../lib/contracts/check-report.ts'
import type { FormatDriver } from '../../../lib/contracts/driver.ts'
import { bochs } from '../../../lib/formats/bochs/driver.ts'
import { cloop } from '../../../lib/formats/cloop/driver.ts'
import { qcow } from '../../../lib/formats/qcow/driver.ts'
import { qed } from '../../../lib/formats/qed/driver.ts'
import { promised } from '../../../lib/io/io.ts'
import { MemoryStore } from '../../../lib/io/memory.ts'
import { CraftedFile } from '../../support/crafted-file.ts'
import { CLUSTER, L1_AT, L2_AT, qcowBytes } from '../../support/qcow-file.ts'
import { refusal } from '../../support/refusal.ts'

/** Formats that are only read, with images that cannot be: nothing is guessed, and no more is read than was asked for. */

function imageOf(bytes: Uint8Array, name = 'image'): Parameters<FormatDriver['open']>[0] {
  const store = new MemoryStore(name, { content: bytes, writable: false })
  const neighbour = (): never => {
    throw new Error('no other file is needed to open one')
  }
  return { name, store, neighbour }
}

async function opened(driver: FormatDriver, bytes: Uint8Array, name?: string): Promise<Chain> {
  return new Chain([await promised(driver.open(imageOf(bytes, name), 'read'))])
}

async function reading(driver: FormatDriver, bytes: Uint8Array, offset: number, length: number): Promise<Uint8Array> {
  const target = new Uint8Array(length)
  await promised((await opened(driver, bytes)).read(offset, target))
  return target
}

async function codes(driver: FormatDriver, bytes: Uint8Array): Promise<string[]> {
  const report = new CheckReport()
  await promised(driver.check(await promised(driver.open(imageOf(bytes), 'read')), report))
  return report.findings.map(({ code }) => code)
}

const full = (value: number, length = CLUSTER): Uint8Array => new Uint8Array(length).fill(value)

type Case = readonly [what: string, edit: (file: CraftedFile) => unknown, code: string]

function cases(driver: FormatDriver, make: () => CraftedFile, table: readonly Case[]): void {
  test.each(table)('%s', async (_, edit, code) => {
    const file = make()
    edit(file)
    expect((await refusal(() => opened(driver, file.bytes))).code).toBe(code)
  })

  test('is known by its first bytes; a file that ends among them is nothing that is known', async () => {
    const { bytes } = make()
    const choose = (image: Uint8Array): Promise<FormatDriver> =>
      promised(chooseDriver(imageOf(image), [bochs, cloop, qcow, qed], { forWriting: false }))
    expect((await choose(bytes)).name).toBe(driver.name)
    for (const length of [0, 1, 3])
      expect((await refusal(() => choose(bytes.subarray(0, length)))).code).toBe('NOT_THIS_FORMAT')
  })

  test('cut off at any place of its first 4 KiB, it is refused or read as far as it goes', async () => {
    const { bytes } = make()
    for (let length = 0; length < Math.min(4096, bytes.length); length += 7) {
      try {
        const chain = await opened(driver, bytes.subarray(0, length))
        await promised(chain.read(0, new Uint8Array(Math.min(chain.size, 65536))))
      } catch (error) {
        expect(error).toMatchObject({ name: 'VdiskError' })
      }
    }
  })
}

describe('qcow', () => {
  const make = (): CraftedFile => {
    const file = new CraftedFile(0, 'big')
    file.bytes = qcowBytes([{ plain: full(1) }, { packed: full(2) }, undefined, { plain: full(4) }])
    return file
  }

  cases(qcow, make, [
    ['clusters of 2^8 bytes', (f) => f.u8(32, 8), 'CORRUPT'],
    ['clusters of 2^63 bytes', (f) => f.u8(32, 63), 'CORRUPT'],
    ['tables of 2^40 entries', (f) => f.u8(33, 40), 'CORRUPT'],
    ['a disk of 2^62 bytes', (f) => f.u64(24, 2n ** 62n), 'LIMIT_EXCEEDED'],
    ['an L1 table past the end', (f) => f.u64(40, 2 ** 40), 'CORRUPT'],
    ['an L1 table over the header', (f) => f.u64(40, 8), 'CORRUPT'],
    ['encryption', (f) => f.u32(36, 1), 'UNSUPPORTED'],
    ['another format', (f) => f.u32(0, 7), 'CORRUPT'],
    ['an L1 table between entries', (f) => f.u64(40, 52), 'CORRUPT'],
    ['a name of 64 KiB', (f) => f.u64(8, 48).u32(16, 65536), 'CORRUPT'],
    ['a name past the end', (f) => f.u64(8, 2 ** 33).u32(16, 8), 'CORRUPT'],
  ])

  test('what leads nowhere fails where it is read, and nowhere else; the check tells all of it', async () => {
    const file = make()
    file.u64(L2_AT + 3 * 8, 2 ** 40)
    expect((await reading(qcow, file.bytes, 0, 3 * CLUSTER))[CLUSTER]).toBe(2)
    expect((await refusal(() => reading(qcow, file.bytes, 3 * CLUSTER, 1))).code).toBe('CORRUPT')
    expect(await codes(qcow, file.bytes)).toEqual(['CLUSTER_MISPLACED'])
    file.u64(L1_AT, 2 ** 41)
    expect((await refusal(() => reading(qcow, file.bytes, 0, 1))).code).toBe('CORRUPT')
    expect(await codes(qcow, file.bytes)).toEqual(['CLUSTER_MISPLACED'])
    for (const place of [48, 2 ** 63]) {
      const wrong = make().u64(L2_AT, place === 48 ? 40 : BigInt(place) | 5n)
      expect((await refusal(() => reading(qcow, wrong.bytes, 0, 1))).code).toBe('CORRUPT')
      expect((await reading(qcow, wrong.bytes, CLUSTER, 1))[0]).toBe(2)
      expect(await codes(qcow, wrong.bytes)).toEqual(['CLUSTER_MISPLACED'])
    }
    const between = make().u64(L1_AT, L2_AT + 4)
    expect((await refusal(() => reading(qcow, between.bytes, 0, 1))).message).toContain(`would lie at ${L2_AT + 4}`)
  })

  test('two clusters in one place, or one in a table, are found by the check', async () => {
    const file = make()
    file.bytes.copyWithin(L2_AT + 8 * 2, L2_AT, L2_AT + 8)
    expect(await codes(qcow, file.bytes)).toEqual(['CLUSTERS_OVERLAP'])
    expect(await codes(qcow, make().u64(L2_AT, L2_AT).bytes)).toEqual(['CLUSTERS_OVERLAP'])
  })

  test('two parts of the disk with one L2 table are found by the check, which names all that the table maps', async () => {
    const file = make()
      .u64(24, 2 ** 21 + 3 * CLUSTER)
      .u64(L1_AT + 8, L2_AT)
    const report = new CheckReport()
    await promised(qcow.check(await promised(qcow.open(imageOf(file.bytes), 'read')), report))
    expect(report.findings).toMatchObject([
      { code: 'CLUSTERS_OVERLAP', structure: 'L2 table', at: L2_AT, guest: { offset: 2 ** 21, length: 3 * CLUSTER } },
      { code: 'CLUSTERS_OVERLAP', structure: 'cluster', guest: { offset: 2 ** 21, length: CLUSTER } },
    ])
  })

  test('an L1 table may lie anywhere; a cluster that lies in it is found by the check', async () => {
    const file = make()
    const end = Math.ceil(file.bytes.length / CLUSTER) * CLUSTER
    file
      .resize(end + CLUSTER)
      .u64(40, end)
      .u64(end, L2_AT)
    expect((await reading(qcow, file.bytes, CLUSTER, 1))[0]).toBe(2)
    expect(await codes(qcow, file.bytes)).toEqual([])
    file.u64(L2_AT, end)
    expect(await codes(qcow, file.bytes)).toEqual(['CLUSTERS_OVERLAP'])
  })

  test('a stream that makes more than a cluster, or less, is damage', async () => {
    for (const length of [CLUSTER * 64, CLUSTER - 1]) {
      const bytes = qcowBytes([{ packed: full(9, length) }], CLUSTER)
      expect((await refusal(() => reading(qcow, bytes, 0, 1))).code).toBe('CORRUPT')
    }
  })

  test('tables that all are one table take no longer than they must', async () => {
    const file = make().u64(24, 2 ** 21 * 200)
    const entries = new CraftedFile(48 + 8 * 200, 'big').put(0, file.bytes.subarray(0, 48))
    for (let i = 0; i < 200; i++) entries.u64(48 + i * 8, L2_AT)
    file.put(0, entries.bytes)
    const chain = await opened(qcow, file.bytes)
    const { length } = await promised(chain.map(4 * CLUSTER, chain.size - 4 * CLUSTER))
    expect(length).toBe(508 * CLUSTER)
  })
})

describe('QED', () => {
  const KIB4 = 4096
  /** Header, L1 of one cluster, L2 of one, three clusters of data. */
  const make = (): CraftedFile => {
    const file = new CraftedFile(6 * KIB4, 'little').text(0, 'QED\0').u32(4, KIB4).u32(8, 1).u32(12, 1)
    file
      .u64(40, KIB4)
      .u64(48, 8 * KIB4)
      .u64(KIB4, 2 * KIB4)
    file
      .u64(2 * KIB4, 3 * KIB4)
      .u64(2 * KIB4 + 8, 4 * KIB4)
      .u64(2 * KIB4 + 16, 1)
      .u64(2 * KIB4 + 32, 5 * KIB4)
    return file.fill(3 * KIB4, 3 * KIB4, 7)
  }

  cases(qed, make, [
    ['clusters of 4095 bytes', (f) => f.u32(4, 4095), 'CORRUPT'],
    ['another format', (f) => f.u32(0, 7), 'CORRUPT'],
    ['clusters of 2^31 bytes', (f) => f.u32(4, 2 ** 31), 'CORRUPT'],
    ['tables of no cluster', (f) => f.u32(8, 0), 'CORRUPT'],
    ['tables of 32 clusters', (f) => f.u32(8, 32), 'CORRUPT'],
    ['a header of no cluster', (f) => f.u32(12, 0), 'CORRUPT'],
    ['a header of 2^32 - 1 clusters', (f) => f.u32(12, 2 ** 32 - 1), 'CORRUPT'],
    ['a feature that is not known', (f) => f.u64(16, 8), 'UNSUPPORTED'],
    ['a disk that its tables do not reach', (f) => f.u64(48, 2n ** 60n), 'LIMIT_EXCEEDED'],
    ['an L1 table past the end', (f) => f.u64(40, 2 ** 40), 'CORRUPT'],
    ['an L1 table between clusters', (f) => f.u64(40, KIB4 + 8), 'CORRUPT'],
    ['a name outside the header', (f) => f.u64(16, 1).u32(56, 4090).u32(60, 20), 'CORRUPT'],
    ['a name without letters', (f) => f.u64(16, 1).u32(56, 64).u32(60, 0), 'CORRUPT'],
  ])

  test('what is there is read, what is marked as zero is zero', async () => {
    const bytes = await reading(qed, make().bytes, 0, 8 * KIB4)
    const held = [0, 1, 2, 3, 4, 5].map((cluster) => bytes[cluster * KIB4])
    expect(held).toEqual([7, 7, 0, 0, 7, 0])
    expect(await codes(qed, make().bytes)).toEqual([])
  })

  test('what leads nowhere fails where it is read, and nowhere else; the check tells all of it', async () => {
    for (const place of [2 ** 40, 3 * KIB4 + 8, 0x800]) {
      const file = make().u64(2 * KIB4 + 8, place)
      expect((await reading(qed, file.bytes, 0, KIB4))[0]).toBe(7)
      expect((await refusal(() => reading(qed, file.bytes, KIB4, 1))).code).toBe('CORRUPT')
      expect(await codes(qed, file.bytes)).toEqual(['CLUSTER_MISPLACED', 'CLUSTERS_LOST'])
    }
    const noTable = make().u64(KIB4, 77 * KIB4)
    const inHeader = make().u64(2 * KIB4 + 8, 0)
    inHeader
      .u32(12, 2)
      .u64(40, 2 * KIB4)
      .u64(2 * KIB4, 3 * KIB4)
      .u64(3 * KIB4, KIB4)
    expect((await refusal(() => reading(qed, inHeader.bytes, 0, 1))).message).toContain('in the header')
    expect((await refusal(() => reading(qed, noTable.bytes, 0, 1))).code).toBe('CORRUPT')
    expect(await codes(qed, noTable.bytes)).toEqual(['CLUSTER_MISPLACED', 'CLUSTERS_LOST'])
  })

  test('where there is no L2 table the disk holds nothing: one extent says so, and the check finds nothing', async () => {
    const span = 512 * KIB4
    const chain = await opened(qed, make().u64(48, 3 * span).bytes)
    expect(await promised(chain.map(span, 2 * span))).toMatchObject({ kind: 'zero', length: 2 * span })
    expect(await promised(chain.map(5 * KIB4, 3 * span - 5 * KIB4))).toMatchObject({ length: 3 * span - 5 * KIB4 })
    expect(await codes(qed, make().u64(48, 3 * span).bytes)).toEqual([])
  })

  test('clusters that share a place, or lie in a table, and the need of a check are found', async () => {
    expect(await codes(qed, make().u64(2 * KIB4 + 8, 3 * KIB4).bytes)).toEqual(['CLUSTERS_OVERLAP', 'CLUSTERS_LOST'])
    expect(await codes(qed, make().u64(2 * KIB4 + 8, 2 * KIB4).bytes)).toEqual(['CLUSTERS_OVERLAP', 'CLUSTERS_LOST'])
    expect(await codes(qed, make().u64(16, 2).bytes)).toEqual(['NOT_CLOSED'])
  })
})

describe('Bochs', () => {
  /** A catalog of four extents of 4 KiB, each with a map of one sector; the third and the first are there. */
  const make = (): CraftedFile => {
    const file = new CraftedFile(512 + 16 + 2 * (512 + 4096), 'little').text(0, 'Bochs Virtual HD Image')
    file.text(32, 'Redolog').text(48, 'Growing').u32(64, 0x20000).u32(68, 512).u32(72, 4).u32(76, 1).u32(80, 4096)
    file.u64(88, 16384).u32(512, 1).u32(516, 0xffffffff).u32(520, 0).u32(524, 0xffffffff)
    const [first, second] = [528, 528 + 512 + 4096]
    file.u8(first, 0b101).fill(first + 512, 4096, 3)
    return file.u8(second, 0b11000000).fill(second + 512, 4096, 4)
  }

  cases(bochs, make, [
    ['an unknown version', (f) => f.u32(64, 0x30000), 'UNSUPPORTED'],
    ['another format', (f) => f.text(0, 'Voch'), 'CORRUPT'],
    ['a type that is not known', (f) => f.text(48, 'Flatlog'), 'UNSUPPORTED'],
    ['extents of no bytes', (f) => f.u32(80, 0), 'CORRUPT'],
    ['extents of 4095 bytes', (f) => f.u32(80, 4095), 'CORRUPT'],
    ['a map too small for its extent', (f) => f.u32(76, 0), 'CORRUPT'],
    ['a catalog without end', (f) => f.u32(72, 2 ** 31), 'LIMIT_EXCEEDED'],
    ['a catalog past the end', (f) => f.u32(72, 50_000), 'CORRUPT'],
    ['a header over itself', (f) => f.u32(68, 8), 'CORRUPT'],
    ['a disk that its extents do not hold', (f) => f.u64(88, 2 ** 40), 'CORRUPT'],
  ])

  test('sectors that were written are read, all others are zero', async () => {
    const bytes = await reading(bochs, make().bytes, 0, 16384)
    const held = Array.from({ length: 32 }, (_, sector) => bytes[sector * 512])
    expect(held.map(String).join('')).toBe('00000044000000003030000000000000'.slice(0, 32))
    expect(await codes(bochs, make().bytes)).toEqual([])
  })

  test('the old version has its size elsewhere', async () => {
    const file = make().u32(64, 0x10000).u64(84, 8192)
    expect((await opened(bochs, file.bytes)).size).toBe(8192)
  })

  test('a log of changes shows its parent where it holds nothing, and has no other way to name it than by its own name', async () => {
    const log = make().fill(48, 16).text(48, 'Undoable').bytes
    const named = await promised(bochs.open(imageOf(log, 'folder/disk.img.redolog'), 'read'))
    expect(named.parent).toMatchObject({ references: ['disk.img'], format: undefined })
    const nameless = await promised(bochs.open(imageOf(log, 'log'), 'read'))
    expect(nameless.parent?.references).toEqual([])
    expect((await promised(nameless.map(0, 512))).kind).toBe('parent')
    expect((await promised(nameless.map(8192, 512))).kind).toBe('data')
  })

  test('an extent past the end fails where it is read; two in one place are found', async () => {
    const file = make().u32(512, 77)
    expect((await refusal(() => reading(bochs, file.bytes, 0, 512))).code).toBe('CORRUPT')
    expect((await reading(bochs, file.bytes, 8192, 512))[0]).toBe(3)
    expect(await codes(bochs, file.bytes)).toEqual(['EXTENT_MISPLACED'])
    expect(await codes(bochs, make().u32(512, 0).bytes)).toEqual(['EXTENTS_OVERLAP'])
    const cut = make()
    cut.bytes = cut.bytes.subarray(0, cut.bytes.length - 3600)
    const error = await refusal(() => reading(bochs, cut.bytes, 6 * 512, 1024))
    expect([error.code, error.message]).toEqual(['CORRUPT', expect.stringContaining('past the end of the file')])
  })
})

describe('cloop', () => {
  const BLOCK = 4096
  const make = (): CraftedFile => {
    const blocks = [full(1, BLOCK), full(0, BLOCK), full(3, BLOCK)].map((block) => zlib.deflateSync(block))
    const table = 136 + 4 * 8
    const file = new CraftedFile(table + blocks.reduce((sum, { length }) => sum + length, 0), 'big')
    file.text(0, '#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0\n').u32(128, BLOCK).u32(132, 3)
    let at = table
    for (const [i, block] of blocks.entries()) {
      file.u64(136 + i * 8, at).put(at, block)
      at += block.length
    }
    return file.u64(136 + 3 * 8, at)
  }

  cases(cloop, make, [
    ['blocks of no bytes', (f) => f.u32(128, 0), 'CORRUPT'],
    ['blocks of 513 bytes', (f) => f.u32(128, 513), 'CORRUPT'],
    ['blocks of 4 GiB', (f) => f.u32(128, 2 ** 32 - 512), 'LIMIT_EXCEEDED'],
    ['2^32 - 1 blocks', (f) => f.u32(132, 2 ** 32 - 1), 'LIMIT_EXCEEDED'],
    ['a table past the end', (f) => f.u32(132, 50_000), 'CORRUPT'],
    ['another version', (f) => f.text(11, 'V3.0'), 'UNSUPPORTED'],
    ['a script of something else', (f) => f.text(10, '# Format'), 'CORRUPT'],
  ])

  test('blocks are unpacked one by one', async () => {
    const bytes = await reading(cloop, make().bytes, 0, 3 * BLOCK)
    expect([bytes[0], bytes[BLOCK - 1], bytes[BLOCK], bytes[3 * BLOCK - 1]]).toEqual([1, 1, 0, 3])
    expect(await codes(cloop, make().bytes)).toEqual([])
  })

  test.each([
    ['goes nowhere', 136 + 8, 168],
    ['leads past the end', 136 + 16, 2 ** 41],
    ['leads into the table', 136, 140],
  ])('an offset that %s fails where it is read; the check tells it', async (_, at, value) => {
    const file = make().u64(at, value)
    const block = Math.min(2, (at - 136) / 8)
    expect((await refusal(() => reading(cloop, file.bytes, Math.max(0, block - 1) * BLOCK, 2 * BLOCK))).code).toBe(
      'CORRUPT',
    )
    expect((await codes(cloop, file.bytes)).every((code) => code === 'BLOCK_MISPLACED')).toBe(true)
    expect((await codes(cloop, file.bytes)).length).toBeGreaterThan(0)
  })

  test('blocks side by side that begin in one place are told at once; the one that ends elsewhere is read', async () => {
    const [good, count] = [700, 1200]
    const table = 136 + (count + 1) * 8
    const stream = zlib.deflateSync(full(5, BLOCK))
    const file = new CraftedFile(table + stream.length, 'big')
    file.put(0, make().bytes.subarray(0, 136)).u32(132, count).put(table, stream)
    for (let block = 0; block <= good; block++) file.u64(136 + block * 8, table)
    file.u64(136 + (good + 1) * 8, table + stream.length)
    expect((await reading(cloop, file.bytes, good * BLOCK, BLOCK))[0]).toBe(5)
    const report = new CheckReport()
    await promised(cloop.check(await promised(cloop.open(imageOf(file.bytes), 'read')), report))
    expect(report.findings.map(({ message, guest, at }) => [message, guest, at])).toEqual([
      [`each of the blocks 0 to 699 would reach from ${table} to ${table}`, { offset: 0, length: 700 * BLOCK }, 136],
      [
        `block 701 would reach from ${table + stream.length} to 0`,
        { offset: 701 * BLOCK, length: BLOCK },
        136 + 701 * 8,
      ],
      [
        'each of the blocks 702 to 1199 would lie at 0, in the table of offsets',
        { offset: 702 * BLOCK, length: 498 * BLOCK },
        136 + 702 * 8,
      ],
    ])
  })

  test.each([
    ['makes more than a block', zlib.deflateSync(full(0, BLOCK * 100)), /damaged stream/],
    ['makes less than a block', zlib.deflateSync(full(0, BLOCK - 1)), /holds 4095 bytes instead of 4096/],
    ['is longer than what cannot be packed', full(0, 2 * BLOCK + 4097), /would be 12289 bytes of 4096/],
  ])('a stream that %s is damage', async (_, stream, words) => {
    const file = make()
    const end = file.bytes.length
    file
      .resize(end + stream.length)
      .put(end, stream)
      .u64(136 + 16, end)
      .u64(136 + 24, end + stream.length)
    const error = await refusal(() => reading(cloop, file.bytes, 2 * BLOCK, 1))
    expect(error).toMatchObject({ code: 'CORRUPT', where: { index: 2, at: 136 + 16, offset: 2 * BLOCK } })
    expect(error.message).toMatch(words)
  })
})
