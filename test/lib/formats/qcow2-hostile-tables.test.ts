import { describe, expect, test } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import type { VdiskError } from '../../../lib/errors.ts'
import { promised, runSync } from '../../../lib/io/io.ts'
import type { MemoryStore } from '../../../lib/io/memory.ts'
import {
  addExtras,
  COMPRESSED,
  COPIED,
  CraftedImage,
  type CraftedOptions,
  openStore,
  PLACE,
} from '../../support/crafted-qcow2.ts'
import { failureOf, findingsOf, placeOf } from '../../support/hostile.ts'
import { countingStore } from '../../support/stores.ts'

const C = 4096

function read(store: MemoryStore, offset: number, length = 16): Buffer {
  const target = Buffer.alloc(length, 0xee)
  runSync(new Chain([openStore(store, 'read')]).read(offset, target))
  return target
}

/** Writes, erases, freezes: everything that changes tables. @returns the first failure of each, and of closing */
function changes(store: MemoryStore, offset: number): (string | undefined)[] {
  const failures: (VdiskError | undefined)[] = []
  const opened = failureOf(() => {
    const layer = openStore(store, 'write')
    const chain = new Chain([layer])
    failures.push(failureOf(() => runSync(chain.write(offset, Buffer.alloc(C, 0x77)))))
    failures.push(failureOf(() => runSync(chain.erase(offset, C))))
    failures.push(failureOf(() => runSync(layer.snapshots.edit?.create('now') as never)))
    failures.push(failureOf(() => runSync(chain.close())))
  })
  return (opened ? [opened] : failures).map((error) => error && placeOf(error))
}

/** Clusters that differ from the crafted image. */
function changedClusters(image: CraftedImage, store: MemoryStore): number[] {
  const after = Buffer.from(store.bytes())
  const changed: number[] = []
  for (let number = 0; number < image.bytes.length / C; number++) {
    const range = [image.at(number), image.at(number + 1)] as const
    if (!after.subarray(...range).equals(image.bytes.subarray(...range))) changed.push(number)
  }
  return changed
}

const bits = (from: number, to: number): number[] => Array.from({ length: to - from + 1 }, (_, i) => from + i)

describe('reserved bits', () => {
  test.each([...bits(0, 8), ...bits(56, 62)])('bit %d of an L1 entry', async (bit) => {
    const image = new CraftedImage()
    image.l1(0, BigInt(image.at(PLACE.l2)) | COPIED | (1n << BigInt(bit)))
    expect(placeOf(failureOf(() => read(image.store(), 0)))).toBe('CORRUPT, L1 table, entry 0, at 12288')
    expect(placeOf(failureOf(() => openStore(image.store(), 'write')))).toBe('CORRUPT, L1 table, entry 0, at 12288')
    expect(await findingsOf(openStore(image.store(), 'read'))).toContain('L1_ENTRY_RESERVED')
    expect(read(image.store(), 3 << 20, 4)).toEqual(Buffer.alloc(4))
  })

  const broken = (options: CraftedOptions, change: (image: CraftedImage) => void) => {
    const image = new CraftedImage(options)
    change(image)
    return image
  }

  const entries: [string, CraftedOptions, (image: CraftedImage) => void][] = [
    ...[...bits(1, 8), ...bits(56, 61)].map((bit): [string, CraftedOptions, (image: CraftedImage) => void] => [
      `bit ${bit} of a standard L2 entry`,
      {},
      (image) => image.l2(1, BigInt(image.at(PLACE.data1)) | COPIED | (1n << BigInt(bit))),
    ]),
    ['bit 0 in version 2', { version: 2 }, (image) => image.l2(1, BigInt(image.at(PLACE.data1)) | COPIED | 1n)],
    ...[0, 4, 8, 58].map((bit): [string, CraftedOptions, (image: CraftedImage) => void] => [
      `bit ${bit} of an extended L2 entry`,
      { clusterBits: 14, extendedL2: true },
      (image) => image.l2(1, BigInt(image.at(PLACE.data1)) | COPIED | (1n << BigInt(bit)), 0xffffffffn),
    ]),
    [
      'a subcluster that is allocated and zero',
      { clusterBits: 14, extendedL2: true },
      (image) => image.l2(1, BigInt(image.at(PLACE.data1)) | COPIED, 0x1_ffffffffn),
    ],
    [
      'subclusters allocated without a place',
      { clusterBits: 14, extendedL2: true },
      (image) => image.l2(1, 0n, 0xffffffffn),
    ],
    [
      'a subcluster bitmap on a compressed cluster',
      { clusterBits: 14, extendedL2: true },
      (image) => image.l2(1, BigInt(image.at(PLACE.data1)) | COMPRESSED, 1n),
    ],
  ]
  test.each(entries)('%s', (_, options, change) => {
    const image = broken(options, change)
    const size = image.cluster
    expect(placeOf(failureOf(() => read(image.store(), size)))).toBe('CORRUPT, L2 table, entry 1')
    expect(read(image.store(), 0, 4)).toEqual(Buffer.alloc(4, 0xa0))
    const store = image.store()
    const chain = new Chain([openStore(store, 'write')])
    for (const change of [chain.write(size + 1, Buffer.alloc(1)), chain.erase(size, size)]) {
      expect(placeOf(failureOf(() => runSync(change)))).toBe('CORRUPT, L2 table, entry 1')
    }
    runSync(chain.close())
    const table = [image.at(PLACE.l2), image.at(PLACE.l2 + 1)] as const
    expect(
      Buffer.from(store.bytes())
        .subarray(...table)
        .equals(image.bytes.subarray(...table)),
    ).toBe(true)
  })

  test.each(bits(0, 8))('bit %d of a refcount table entry: the disk can be read, not written', async (bit) => {
    const image = new CraftedImage()
    image.u64(image.at(PLACE.refcountTable), BigInt(image.at(PLACE.refcountBlock)) | (1n << BigInt(bit)))
    expect(read(image.store(), 0, 4)).toEqual(Buffer.alloc(4, 0xa0))
    expect(placeOf(failureOf(() => openStore(image.store(), 'write')))).toBe('CORRUPT, refcount table, at 4096')
    expect(await findingsOf(openStore(image.store(), 'read'))).toContain('REFCOUNT_TABLE_INVALID')
  })
})

describe('a place that is not aligned to a cluster', () => {
  test.each([
    [
      'an L1 entry',
      (image: CraftedImage) => image.l1(0, BigInt(image.at(PLACE.l2) + 512) | COPIED),
      'L1 table, entry 0, at 12288',
    ],
    ['data', (image: CraftedImage) => image.l2(0, BigInt(image.at(PLACE.data0) + 512) | COPIED), 'L2 table, entry 0'],
    [
      'a cluster of zeros',
      (image: CraftedImage) => image.l2(0, BigInt(image.at(PLACE.data0) + 512) | COPIED | 1n),
      'L2 table, entry 0',
    ],
  ] as const)('%s', (_, change, place) => {
    const image = change(new CraftedImage())
    expect(placeOf(failureOf(() => read(image.store(), 0)))).toBe(`CORRUPT, ${place}`)
    const store = image.store()
    expect(changes(store, 0)[0]).toBe(`CORRUPT, ${place}`)
    expect(changedClusters(image, store)).toEqual([])
  })
})

/** Where a pointer must not lead, in an image with a snapshot and a bitmap. */
const TARGETS = [
  'refcountTable',
  'refcountBlock',
  'l1',
  'l2',
  'snapshotTable',
  'snapshotL1',
  'directory',
  'bitmapTable',
  'past the end',
  'far past the end',
] as const

function crafted(): { image: CraftedImage; placeOfTarget: (target: (typeof TARGETS)[number]) => number } {
  const image = new CraftedImage()
  const places: Record<string, number> = { ...PLACE, ...addExtras(image) }
  places['past the end'] = image.bytes.length / C
  places['far past the end'] = 2 ** 43
  return { image, placeOfTarget: (target) => image.at(places[target] as number) }
}

/** A table that somebody else claims is nobody's; all else of the disk can be read. */
function expectReadable(image: CraftedImage, claimed: string): void {
  if (claimed === 'l2') expect(failureOf(() => read(image.store(), 0))?.code).toBe('CORRUPT')
  else expect(read(image.store(), 0, 4)).toEqual(Buffer.alloc(4, 0xa0))
}

describe('a pointer into a table, or past the end of the file', () => {
  test.each(TARGETS)('of guest data to %s: nothing is read, nothing written', async (target) => {
    const { image, placeOfTarget } = crafted()
    for (const flags of [COPIED, 0n, COPIED | 1n]) {
      image.l2(5, BigInt(placeOfTarget(target)) | flags)
      if ((flags & 1n) === 0n) {
        expect(placeOf(failureOf(() => read(image.store(), 5 * C)))).toBe('CORRUPT, L2 table, entry 5')
      }
      const store = image.store()
      const [write, erase, freeze, close] = changes(store, 5 * C)
      expect([write, erase, freeze]).toEqual(Array(3).fill('CORRUPT, L2 table, entry 5'))
      expect(close).toBeUndefined()
      // The header's sector, and the flag of the bitmap.
      expect(changedClusters(image, store).filter((number) => number !== 0 && number !== 10)).toEqual([])
    }
    expect((await findingsOf(openStore(image.store(), 'read'))).join()).toMatch(/L2_ENTRY_INVALID|DATA_OVERLAPS_TABLE/)
  })

  test.each(TARGETS)('of compressed data to %s', async (target) => {
    const { image, placeOfTarget } = crafted()
    image.l2(5, BigInt(placeOfTarget(target)) | COMPRESSED)
    expect(placeOf(failureOf(() => read(image.store(), 5 * C)))).toBe('CORRUPT, L2 table, entry 5')
    const store = image.store()
    expect(changes(store, 5 * C).slice(0, 3)).toEqual(Array(3).fill('CORRUPT, L2 table, entry 5'))
    expect(changedClusters(image, store).filter((number) => number !== 0 && number !== 10)).toEqual([])
    expect((await findingsOf(openStore(image.store(), 'read'))).join()).toMatch(/L2_ENTRY_INVALID|DATA_OVERLAPS_TABLE/)
  })

  test('of compressed data whose last sectors reach into a table', () => {
    const image = new CraftedImage()
    const free = image.grow(1)
    const table = image.grow(1)
    image.l1(1, BigInt(image.at(table)) | COPIED)
    image.l2(5, BigInt(image.at(free) + C - 512) | (3n << 58n) | COMPRESSED)
    expect(placeOf(failureOf(() => read(image.store(), 5 * C)))).toBe('CORRUPT, L2 table, entry 5')
  })

  test.each(TARGETS)('of the L1 table to %s', (target) => {
    const { image, placeOfTarget } = crafted()
    image.l1(1, BigInt(placeOfTarget(target)) | COPIED)
    // Two entries with one table: a reader cannot say which is wrong, a writer would change both.
    if (target !== 'l2') expect(failureOf(() => read(image.store(), 2 << 20))?.code).toBe('CORRUPT')
    expect(read(image.store(), 0, 4)).toEqual(Buffer.alloc(4, 0xa0))
    const store = image.store()
    expect(changes(store, 2 << 20)).toEqual([expect.stringMatching(/^CORRUPT, L1 table.* at 12296$/)])
    expect(changedClusters(image, store)).toEqual([])
  })

  test.each(TARGETS)('of the refcount table to %s: only a reader opens it', (target) => {
    const { image, placeOfTarget } = crafted()
    image.u64(image.at(PLACE.refcountTable) + 8, placeOfTarget(target))
    expectReadable(image, target)
    const store = image.store()
    // The L2 table is claimed after the blocks: there it is the L1 entry that has no place of its own.
    const place = target === 'l2' ? 'L1 table, entry 0, at 12288' : 'refcount table, at 4104'
    expect(changes(store, 0)).toEqual([`CORRUPT, ${place}`])
    expect(changedClusters(image, store)).toEqual([])
  })

  test('of the refcount table to a block it has already, counted twice: the check tells what the counts hide', async () => {
    const image = new CraftedImage().count(PLACE.refcountBlock, 2)
    image.u64(image.at(PLACE.refcountTable) + 8, image.at(PLACE.refcountBlock))
    expect(placeOf(failureOf(() => openStore(image.store(), 'write')))).toBe('CORRUPT, refcount table, at 4104')
    expect(await findingsOf(openStore(image.store(), 'read'))).toEqual(['TABLES_OVERLAP'])
  })

  test('of the refcount table, in an entry that counts nothing: what keeps a writer away is told by the check', async () => {
    const image = new CraftedImage()
    image.u64(image.at(PLACE.refcountTable) + 300 * 8, image.bytes.length)
    expect(placeOf(failureOf(() => openStore(image.store(), 'write')))).toBe('CORRUPT, refcount table, at 6496')
    expect(await findingsOf(openStore(image.store(), 'read'))).toEqual(['REFCOUNT_TABLE_INVALID'])
  })

  test.each(TARGETS)('of a snapshot to %s: the disk can be read, the snapshot cannot', async (target) => {
    const { image, placeOfTarget } = crafted()
    if (target === 'snapshotL1') return
    image.u64(image.at(7), placeOfTarget(target))
    const layer = openStore(image.store(), 'read')
    expect(
      failureOf(() => runSync(new Chain([runSync(layer.snapshots.open('1'))]).read(0, Buffer.alloc(16))))?.code,
    ).toBe('CORRUPT')
    expectReadable(image, target)
    expect(failureOf(() => openStore(image.store(), 'write'))?.code).toBe('CORRUPT')
    expect((await findingsOf(layer)).length).toBeGreaterThan(0)
  })

  test.each(TARGETS)('of a bitmap table to %s: the bitmap is given up, the rest is not touched', (target) => {
    const { image, placeOfTarget } = crafted()
    image.u64(image.at(11), placeOfTarget(target))
    const error = failureOf(() => runSync(openStore(image.store(), 'read').bitmaps.read('changes')))
    expect(placeOf(error)).toBe('CORRUPT, bitmap table, entry 0, at 45056')
    const store = image.store()
    const layer = openStore(store, 'write')
    const chain = new Chain([layer])
    runSync(chain.write(C, Buffer.alloc(C, 0x77)))
    expect(layer.bitmaps.list()[0]?.consistent).toBe(false)
    runSync(chain.close())
    expect(changedClusters(image, store).filter((number) => ![0, PLACE.data1, 10].includes(number))).toEqual([])
  })

  test('tables that lead to themselves end: as many reads as without', () => {
    const image = new CraftedImage().l1(0, BigInt(3 * C) | COPIED).l1(1, BigInt(3 * C) | COPIED)
    const { store, counts } = countingStore(image.store())
    const error = failureOf(() => runSync(new Chain([openStore(store, 'read')]).read(0, Buffer.alloc(4 << 20))))
    expect(placeOf(error)).toBe('CORRUPT, L1 table, entry 0, at 12288')
    expect(counts.read?.calls).toBeLessThan(10)
  })
})

describe('a file that was cut short', () => {
  test('inside the last cluster: what is missing of it reads as zero, and can be written', () => {
    const image = new CraftedImage()
    image.bytes = image.bytes.subarray(0, image.at(PLACE.data1) + 512)
    expect(read(image.store(), C, 1024)).toEqual(Buffer.concat([Buffer.alloc(512, 0xa1), Buffer.alloc(512)]))
    const store = image.store()
    const chain = new Chain([openStore(store, 'write')])
    runSync(chain.write(C + 1024, Buffer.alloc(512, 0x55)))
    const found = Buffer.alloc(2048)
    const wanted = Buffer.concat([
      Buffer.alloc(512, 0xa1),
      Buffer.alloc(512),
      Buffer.alloc(512, 0x55),
      Buffer.alloc(512),
    ])
    runSync(chain.read(C, found))
    expect(found).toEqual(wanted)
    runSync(chain.close())
    expect(read(store, C, 2048)).toEqual(wanted)
  })

  test('before it: reads of it fail, writes are refused, the rest is there', async () => {
    const image = new CraftedImage()
    image.bytes = image.bytes.subarray(0, image.at(PLACE.data1))
    const error = failureOf(() => read(image.store(), C))
    expect([placeOf(error), error?.where.offset]).toEqual(['CORRUPT, L2 table, entry 1', C])
    expect(read(image.store(), 0, 4)).toEqual(Buffer.alloc(4, 0xa0))
    expect(changes(image.store(), C)[0]).toBe('CORRUPT, L2 table, entry 1')
    expect(await findingsOf(openStore(image.store(), 'read'))).toContain('L2_ENTRY_INVALID')
  })

  test('inside an L2 table: entries that are there count, the others fail', () => {
    const image = new CraftedImage({ clusterBits: 16 })
    const table = image.grow(1)
    image.l1(1, BigInt(image.at(table)) | COPIED)
    image.bytes = image.bytes.subarray(0, image.at(table) + 8192)
    const half = 2 ** 29
    expect(read(image.store(), half, 4)).toEqual(Buffer.alloc(4))
    const error = failureOf(() => read(image.store(), half + 1024 * 65536))
    expect(placeOf(error)).toBe(`CORRUPT, L2 table, entry 1, at ${image.at(table) + 8192}`)
  })
})

describe('a count that says a table is free', () => {
  const tables = ['header', 'refcountTable', 'refcountBlock', 'l1', 'l2'] as const
  const extras = ['snapshotTable', 'snapshotL1', 'snapshotL2', 'directory', 'bitmapTable'] as const
  test.each([...tables, ...extras])('%s: no room is taken, nothing overwritten', async (name) => {
    const image = new CraftedImage()
    const places: Record<string, number> = { ...PLACE, ...addExtras(image) }
    image.count(places[name] as number, 0)
    const store = image.store()
    const chain = new Chain([openStore(store, 'write')])
    const error = failureOf(() => runSync(chain.write(9 * C, Buffer.alloc(C, 0x77))))
    expect(placeOf(error)).toBe(`CORRUPT, refcount block, at ${image.at(places[name] as number)}`)
    runSync(chain.close())
    // The header's sector, counts, and the flag of the bitmap.
    expect(changedClusters(image, store).filter((number) => ![0, PLACE.refcountBlock, 10].includes(number))).toEqual([])
    expect(await findingsOf(openStore(image.store(), 'read'))).toContain('REFCOUNT_MISSING')
  })

  test('a new refcount block is not put upon a table that no block counts', () => {
    const image = new CraftedImage()
    for (let number = 0; number < 2048; number++) image.count(number, 1)
    image.bytes = Buffer.concat([image.bytes, Buffer.alloc((2049 - 7) * C)])
    image.l1(1, BigInt(2048 * C) | COPIED)
    const store = image.store()
    const chain = new Chain([openStore(store, 'write')])
    expect(placeOf(failureOf(() => runSync(chain.write(9 * C, Buffer.alloc(C, 0x77)))))).toBe(
      `CORRUPT, refcount block, at ${2048 * C}`,
    )
    expect(changedClusters(image, store).filter((number) => number !== 0)).toEqual([])
  })

  test('no block for the header: refused', () => {
    const image = new CraftedImage()
    image.u64(image.at(PLACE.refcountTable), 0)
    const chain = new Chain([openStore(image.store(), 'write')])
    expect(failureOf(() => runSync(chain.write(9 * C, Buffer.alloc(C, 0x77))))?.code).toBe('CORRUPT')
  })
})

describe('counts that are wrong for data', () => {
  test('two guest clusters in one place are found, with the ranges of both', async () => {
    const image = new CraftedImage().l2(5, BigInt(PLACE.data1 * C) | COPIED)
    const layer = openStore(image.store(), 'read')
    const { CheckReport } = await import('../../../lib/contracts/check-report.ts')
    const { qcow2 } = await import('../../../lib/formats/qcow2/driver.ts')
    const report = new CheckReport()
    await promised(qcow2.check(layer, report))
    expect(report.counts).toEqual({ error: 2, leak: 0, warning: 0 })
    expect(report.findings.map(({ code, at, guest }) => [code, at, guest])).toEqual([
      ['REFCOUNT_TOO_LOW', PLACE.data1 * C, { offset: C, length: C }],
      ['REFCOUNT_TOO_LOW', PLACE.data1 * C, { offset: 5 * C, length: C }],
    ])
  })

  test('a count that would fall below zero is told by the flush, which does all else it should', () => {
    const image = new CraftedImage()
    const last = image.grow(1)
    image.l2(5, BigInt(image.at(last))).l2(6, BigInt(image.at(last)))
    const store = image.store()
    const chain = new Chain([openStore(store, 'write')])
    runSync(chain.erase(5 * C, 2 * C))
    runSync(chain.flush())
    runSync(chain.write(9 * C, Buffer.alloc(C, 0x7a)))
    const error = failureOf(() => runSync(chain.flush()))
    expect(placeOf(error)).toBe(`CORRUPT, refcount block, at ${image.at(last)}`)
    expect(error?.message).toContain('more often than it is counted')
    expect(read(store, 9 * C, 4)).toEqual(Buffer.alloc(4, 0x7a))
    runSync(chain.close())
  })
})
