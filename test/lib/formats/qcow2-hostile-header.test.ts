import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import { qcow } from '../../../lib/formats/qcow/driver.ts'
import { qcow2 } from '../../../lib/formats/qcow2/driver.ts'
import { runSync } from '../../../lib/io/io.ts'
import type { ByteStore } from '../../../lib/io/store.ts'
import { CraftedImage, type FieldName, openStore, PLACE } from '../../support/crafted-qcow2.ts'
import { BUDGET, failureOf, findingsOf, memoryOf, placeOf, SLACK } from '../../support/hostile.ts'
import { countingStore } from '../../support/stores.ts'

const M31 = 2 ** 31 - 1
const M32 = 2 ** 32 - 1
/** A sparse file so long that no size a header can name lies outside it. */
const ENDLESS = 2 ** 52

/** Opens and reads a little. @returns where it failed, and what it cost */
function survey(store: ByteStore): { place: string; memory: number; reads: { calls: number; bytes: number } } {
  const { store: counted, counts } = countingStore(store)
  let place = ''
  const memory = memoryOf(() => {
    let chain: Chain | undefined
    const error = failureOf(() => {
      chain = new Chain([openStore(counted, 'read')])
      runSync(chain.read(0, new Uint8Array(Math.min(chain.size, 8192))))
    })
    place = placeOf(error)
    return chain
  })
  return { place, memory, reads: counts.read as { calls: number; bytes: number } }
}

describe('a size in the header that no file can mean', () => {
  const sizes: [FieldName, number | bigint, string][] = [
    ['l1Size', 0, 'CORRUPT, header, at 36'],
    ['l1Size', 1, 'CORRUPT, header, at 36'],
    ['l1Size', 2 ** 22, 'fine'],
    ['l1Size', 2 ** 22 + 1, 'LIMIT_EXCEEDED, header, at 36'],
    ['l1Size', M31, 'LIMIT_EXCEEDED, header, at 36'],
    ['l1Size', M32, 'LIMIT_EXCEEDED, header, at 36'],
    ['refcountTableClusters', 0, 'CORRUPT, header, at 56'],
    ['refcountTableClusters', 2, 'fine'],
    ['refcountTableClusters', 2048, 'fine'],
    ['refcountTableClusters', 2049, 'LIMIT_EXCEEDED, header, at 56'],
    ['refcountTableClusters', M31, 'LIMIT_EXCEEDED, header, at 56'],
    ['refcountTableClusters', M32, 'LIMIT_EXCEEDED, header, at 56'],
    ['snapshotCount', 1, 'fine'],
    ['snapshotCount', 65536, 'fine'],
    ['snapshotCount', 65537, 'LIMIT_EXCEEDED, header, at 60'],
    ['snapshotCount', M31, 'LIMIT_EXCEEDED, header, at 60'],
    ['snapshotCount', M32, 'LIMIT_EXCEEDED, header, at 60'],
    ['size', 0, 'fine'],
    ['size', 1, 'fine'],
    ['size', 4 << 20, 'fine'],
    ['size', (4 << 20) + 1, 'CORRUPT, header, at 36'],
    ['size', 2 ** 53, 'LIMIT_EXCEEDED, header, at 24'],
    ['size', 2n ** 63n, 'LIMIT_EXCEEDED, header, at 24'],
    ['size', 2n ** 64n - 1n, 'LIMIT_EXCEEDED, header, at 24'],
    ['headerLength', 0, 'CORRUPT, header, at 100'],
    ['headerLength', 103, 'CORRUPT, header, at 100'],
    ['headerLength', 105, 'CORRUPT, header, at 100'],
    ['headerLength', 4096, 'fine'],
    ['headerLength', 4104, 'CORRUPT, header, at 100'],
    ['headerLength', M31, 'CORRUPT, header, at 100'],
    ['headerLength', M32, 'CORRUPT, header, at 100'],
  ]
  test.each(sizes)('%s of %s: %s, for little memory and few reads', async (field, value, expected) => {
    const image = new CraftedImage().header(field, value)
    // Out of the way of what becomes longer, so that nothing but the size speaks against it.
    if (field === 'l1Size') image.header('l1TableOffset', 2 ** 40)
    if (field === 'refcountTableClusters') image.header('refcountTableOffset', 2 ** 40)
    if (field === 'snapshotCount') image.header('snapshotsOffset', 2 ** 40)
    const { place, memory, reads } = survey(image.store(ENDLESS))
    expect(place).toBe(expected)
    expect(memory).toBeLessThan(BUDGET + SLACK)
    expect(reads.bytes).toBeLessThan(BUDGET)
    expect(reads.calls).toBeLessThan(100)
    expect(placeOf(failureOf(() => openStore(image.store(ENDLESS), 'write')))).toBe(expected)
    // Each snapshot without a table is looked at twice: sixty-five thousand take longer than a test should.
    if (expected === 'fine' && value !== 65536)
      expect(await findingsOf(openStore(image.store(ENDLESS), 'read'))).toEqual(expect.any(Array))
  })

  test.each([
    ['backingFileSize', 1, 'fine'],
    ['backingFileSize', 1023, 'fine'],
    ['backingFileSize', 1024, 'CORRUPT, header, at 8'],
    ['backingFileSize', M31, 'CORRUPT, header, at 8'],
    ['backingFileSize', M32, 'CORRUPT, header, at 8'],
    ['backingFileSize', 0, 'CORRUPT, header, at 8'],
    ['backingFileOffset', 111, 'CORRUPT, header, at 8'],
    ['backingFileOffset', 4096 - 3, 'CORRUPT, header, at 8'],
    ['backingFileOffset', 2n ** 63n, 'CORRUPT, header, at 8'],
    ['backingFileOffset', 2n ** 64n - 1n, 'CORRUPT, header, at 8'],
  ] as const)('%s of %s with a name there: %s', (field, value, expected) => {
    const image = new CraftedImage().backing('base', 'raw')
    image.header(field, value)
    expect(placeOf(failureOf(() => openStore(image.store(), 'inspect')))).toMatch(expected)
  })

  test.each([
    [0, 'fine'],
    [4096 - 112 - 8, 'fine'],
    [4096 - 112 - 7, 'CORRUPT, header extension, at 112'],
    [M31, 'CORRUPT, header extension, at 112'],
    [M32, 'CORRUPT, header extension, at 112'],
  ])('a header extension of %d bytes: %s', (length, expected) => {
    const image = new CraftedImage().u32(112, 0x12345678).u32(116, length)
    expect(placeOf(failureOf(() => openStore(image.store(), 'read')))).toBe(expected)
  })

  test.each(['l1TableOffset', 'refcountTableOffset', 'snapshotsOffset'] as const)(
    '%s outside the file, inside the header, or off a cluster is refused at its field',
    (field) => {
      const places = [0, 1, 512, 2048, 4097, 7 * 4096, 2 ** 40, 2n ** 53n, 2n ** 63n, 2n ** 64n - 4096n, 2n ** 64n - 1n]
      for (const at of places) {
        const image = new CraftedImage().header('snapshotCount', 1).header('snapshotsOffset', 6 * 4096)
        const error = failureOf(() => openStore(image.header(field, at).store(), 'read'))
        const fieldAt = { l1TableOffset: 40, refcountTableOffset: 48, snapshotsOffset: 64 }[field]
        expect([at, placeOf(error)]).toEqual([at, `CORRUPT, header, at ${fieldAt}`])
      }
    },
  )

  test.each([2n ** 53n + 1n, 2n ** 64n - 1n])(
    'a place of %d for no snapshots means nothing, and hinders no writer',
    (at) => {
      const store = new CraftedImage().header('snapshotsOffset', at).store()
      const layer = openStore(store, 'write')
      const chain = new Chain([layer])
      runSync(chain.write(0, Buffer.alloc(4096, 0x77)))
      runSync(layer.snapshots.edit?.create('now') as never)
      runSync(chain.close())
      const found = Buffer.alloc(4)
      const again = openStore(store, 'read')
      runSync(new Chain([again]).read(0, found))
      expect([found, again.snapshots.list().length]).toEqual([Buffer.alloc(4, 0x77), 1])
    },
  )

  test.each([2n ** 53n + 1n, 2n ** 64n - 1n])('nor does a place of %d for the L1 table of an empty disk', (at) => {
    const store = new CraftedImage().header('size', 0).header('l1Size', 0).header('l1TableOffset', at).store()
    const chain = new Chain([openStore(store, 'write')])
    runSync(chain.resize(4096))
    runSync(chain.write(0, Buffer.alloc(4096, 0x77)))
    runSync(chain.close())
    const found = Buffer.alloc(4)
    runSync(new Chain([openStore(store, 'read')]).read(0, found))
    expect(found).toEqual(Buffer.alloc(4, 0x77))
  })

  test('two tables that the header puts into one place are refused', () => {
    const on = (field: FieldName, number: number): string =>
      placeOf(failureOf(() => openStore(new CraftedImage().header(field, number * 4096).store(), 'read')))
    expect(on('l1TableOffset', PLACE.refcountTable)).toBe('CORRUPT, header, at 40')
    expect(on('refcountTableOffset', PLACE.l1)).toBe('CORRUPT, header, at 40')
    const image = new CraftedImage().header('snapshotCount', 1).header('snapshotsOffset', PLACE.l1 * 4096)
    expect(placeOf(failureOf(() => openStore(image.store(), 'read')))).toBe('CORRUPT, header, at 64')
  })
})

describe('geometry that cannot be', () => {
  test.each([
    ['clusterBits', 0, 'CORRUPT, header, at 20'],
    ['clusterBits', 8, 'CORRUPT, header, at 20'],
    ['clusterBits', 22, 'CORRUPT, header, at 20'],
    ['clusterBits', 63, 'CORRUPT, header, at 20'],
    ['clusterBits', M32, 'CORRUPT, header, at 20'],
    ['refcountOrder', 7, 'CORRUPT, header, at 96'],
    ['refcountOrder', 255, 'CORRUPT, header, at 96'],
    ['refcountOrder', M32, 'CORRUPT, header, at 96'],
    ['compressionType', 1, 'CORRUPT, header, at 104'],
    ['incompatible', 8, 'CORRUPT, header, at 104'],
    ['incompatible', 16, 'CORRUPT, header, at 20'],
    ['version', 0, 'UNSUPPORTED, header, at 4'],
    ['version', 1, 'UNSUPPORTED, header, at 4'],
    ['version', 4, 'UNSUPPORTED, header, at 4'],
    ['version', M32, 'UNSUPPORTED, header, at 4'],
    ['cryptMethod', 1, 'UNSUPPORTED, header, at 32'],
    ['cryptMethod', 2, 'UNSUPPORTED, header, at 32'],
    ['cryptMethod', 3, 'UNSUPPORTED, header, at 32'],
  ] as const)('%s of %d: %s', (field, value, expected) => {
    for (const access of ['inspect', 'read', 'write'] as const) {
      const image = new CraftedImage().header(field, value)
      expect(placeOf(failureOf(() => openStore(image.store(), access)))).toBe(expected)
    }
  })

  test('an encrypted image says how it is encrypted', () => {
    const error = failureOf(() => openStore(new CraftedImage().header('cryptMethod', 2).store(), 'read'))
    expect(error?.message).toContain('LUKS')
    expect(error?.advice).toContain('Decrypt')
  })

  test('an image of version 1 is of another format, one of a later version is refused, and not taken for a raw disk', () => {
    for (const version of [1, 4]) {
      const { bytes } = new CraftedImage().header('version', version)
      const sample = { name: 'a', size: bytes.length, head: bytes, tail: bytes }
      expect([qcow.probe(sample), qcow2.probe(sample)]).toEqual(version === 1 ? ['yes', 'no'] : ['no', 'yes'])
    }
  })
})

interface HeaderNumbers {
  readonly size: bigint
  readonly l1Size: bigint
  readonly l1At: bigint
  readonly tableAt: bigint
  readonly tableClusters: bigint
  readonly count: bigint
  readonly snapshotsAt: bigint
}

describe('bounds agree with arithmetic that cannot overflow', () => {
  /** Sizes and places at which one of the bounds, or the exactness of a number, ends. */
  const interesting = [0n, 1n, 4095n, 4096n, 8192n, 28672n, 2n ** 31n, 2n ** 32n, 2n ** 53n, 2n ** 56n, 2n ** 63n]
  const u64 = fc
    .tuple(fc.constantFrom(...interesting), fc.bigInt(-4097n, 4097n), fc.constantFrom(1n, 4096n))
    .map(([base, shift, unit]) => BigInt.asUintN(64, base + shift * unit))
  const u32 = u64.map((value) => BigInt.asUintN(32, value))

  const mostly = (wild: fc.Arbitrary<bigint>, ...usual: bigint[]): fc.Arbitrary<bigint> =>
    fc.oneof({ weight: 1, arbitrary: wild }, { weight: 9, arbitrary: fc.constantFrom(...usual) })

  /** What the specification and our limits say, in numbers of any size. */
  function acceptable(field: HeaderNumbers, fileSize: bigint): boolean {
    const { size, l1Size, l1At, tableAt, tableClusters, count, snapshotsAt } = field
    const span = 512n * 4096n
    const ranges: [bigint, bigint, bigint][] = [[tableAt, tableClusters * 4096n, 1n]]
    if (l1Size > 0n) ranges.push([l1At, l1Size * 8n, l1Size * 8n])
    if (count > 0n) ranges.push([snapshotsAt, count, 1n])
    const cover = ([at, length]: [bigint, bigint, bigint]): bigint[] => [at / 4096n, (at + length - 1n) / 4096n]
    return (
      size < 2n ** 53n &&
      l1Size <= 2n ** 22n &&
      l1Size * span >= size &&
      tableClusters >= 1n &&
      tableClusters <= 2048n &&
      count <= 65536n &&
      ranges.every(([at, , present]) => at % 4096n === 0n && at >= 4096n && at + present <= fileSize) &&
      ranges.every((a, i) =>
        ranges.slice(0, i).every((b) => {
          const [[firstA, lastA], [firstB, lastB]] = [cover(a), cover(b)] as [[bigint, bigint], [bigint, bigint]]
          return firstA > lastB || firstB > lastA
        }),
      )
    )
  }

  // Tables of many megabytes are read a thousand times: on a busy machine that takes minutes.
  test('for every combination of sizes and places', () => {
    const fields = fc.record({
      size: mostly(u64, 4n << 20n, 1n << 40n),
      l1Size: mostly(u32, 2n, 1048576n, 4194304n, 4194305n),
      l1At: mostly(u64, 3n * 4096n, 1n << 30n, 1n << 36n),
      tableAt: mostly(u64, 4096n, 4096n, 2n * 4096n),
      tableClusters: mostly(u32, 1n, 1n, 2n, 2048n, 2049n),
      count: mostly(u32, 0n, 0n, 1n, 65536n, 65537n),
      snapshotsAt: mostly(u64, 6n * 4096n, 1n << 35n),
    })
    let accepted = 0
    fc.assert(
      fc.property(fields, fc.constantFrom(28672, 2 ** 40, 2 ** 40), (field, fileSize) => {
        const image = new CraftedImage()
          .header('size', field.size)
          .header('l1Size', field.l1Size)
          .header('l1TableOffset', field.l1At)
          .header('refcountTableOffset', field.tableAt)
          .header('refcountTableClusters', field.tableClusters)
          .header('snapshotCount', field.count)
          .header('snapshotsOffset', field.snapshotsAt)
        const error = failureOf(() => openStore(image.store(fileSize), 'inspect'))
        const expected = acceptable(field, BigInt(fileSize))
        if (expected) accepted++
        expect(error?.where.structure === 'header').toBe(!expected)
      }),
      { numRuns: 3000 },
    )
    // Else the property would say nothing about what must be let through.
    expect(accepted).toBeGreaterThan(200)
  }, 300_000)
})

describe('features', () => {
  test.each([5, 17, 31, 32, 62, 63])('the unknown incompatible bit %d is refused by its number', (bit) => {
    const error = failureOf(() =>
      openStore(new CraftedImage().header('incompatible', 1n << BigInt(bit)).store(), 'read'),
    )
    expect(placeOf(error)).toBe('UNSUPPORTED, header, at 72')
    expect(error?.message).toMatch(new RegExp(`bit ${bit}$`))
  })

  test('of several unknown bits each is named, known ones are not', () => {
    const bits = (1n << 63n) | (1n << 6n) | 1n
    const error = failureOf(() => openStore(new CraftedImage().header('incompatible', bits).store(), 'read'))
    expect(error?.message).toMatch(/know: bit 6, bit 63$/)
  })

  test('unknown compatible bits and extensions stay as they are, byte by byte, when the image is written', () => {
    const image = new CraftedImage().header('compatible', 1n << 40n)
    const odd = Buffer.from('odd length!'.repeat(7))
    image.extension(0xdeadbeef, odd).extension(0x01020304, Buffer.alloc(0)).extension(0xdeadbeef, Buffer.from('twice'))
    const store = image.store()
    const chain = new Chain([openStore(store, 'write')])
    runSync(chain.write(3 * 4096, Buffer.alloc(4096, 1)))
    runSync(chain.close())
    const header = store.bytes()
    expect(Buffer.from(header).readBigUInt64BE(80)).toBe(1n << 40n)
    for (const [type, data] of [
      [0xdeadbeef, odd],
      [0x01020304, Buffer.alloc(0)],
      [0xdeadbeef, Buffer.from('twice')],
    ] as const) {
      const head = Buffer.alloc(8)
      head.writeUInt32BE(type)
      head.writeUInt32BE(data.length, 4)
      expect(Buffer.from(header).includes(Buffer.concat([head, data]))).toBe(true)
    }
  })

  test('unknown autoclear bits stay while nothing changes, and are cleared with the first change', () => {
    const image = new CraftedImage().header('autoclear', (1n << 50n) | (1n << 2n))
    const store = image.store()
    runSync(openStore(store, 'write').close())
    expect(Buffer.from(store.bytes()).equals(image.bytes)).toBe(true)
    const chain = new Chain([openStore(store, 'write')])
    runSync(chain.write(0, Buffer.alloc(1, 1)))
    expect(Buffer.from(store.bytes()).readBigUInt64BE(88)).toBe(0n)
  })

  test('what is marked as corrupt can be read and checked, not written', async () => {
    const image = new CraftedImage().header('incompatible', 2)
    expect(placeOf(failureOf(() => openStore(image.store(), 'write')))).toBe('CORRUPT, header, at 72')
    expect(await findingsOf(openStore(image.store(), 'read'))).toEqual(['MARKED_CORRUPT'])
  })

  test('the name of a parent that is no valid text survives a change of the header', () => {
    const name = Buffer.from('b\xe4se.qcow2', 'latin1')
    const store = new CraftedImage().backing(name, 'qcow2').store()
    const layer = openStore(store, 'write')
    runSync(layer.session.beginMetadata())
    layer.session.linkage = undefined
    runSync(layer.links.beginMerge(undefined, undefined))
    runSync(layer.close())
    const bytes = Buffer.from(store.bytes())
    const at = Number(bytes.readBigUInt64BE(8))
    expect(bytes.subarray(at, at + bytes.readUInt32BE(16)).equals(name)).toBe(true)
  })
})
