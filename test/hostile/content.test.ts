import fs from 'node:fs'
import zlib from 'node:zlib'
import { describe, expect, test } from 'vitest'
import { addExtras, COMPRESSED, COPIED, CraftedImage, PLACE } from '../support/crafted-qcow2.ts'
import { scratchFolder } from '../support/temp.ts'
import { KIB, logEntry, VhdxFile } from '../support/vhdx-file.ts'
import { put } from './images.ts'
import { Sandbox } from './sandbox.ts'

const sandbox = Sandbox.forThisFile()
const MIB = 1 << 20
const LOG = '12345678-9abc-4def-8123-456789abcdef'

describe('class 5: pointers into tables, and past the end', () => {
  const TARGETS = [
    'header',
    'refcountTable',
    'refcountBlock',
    'l1',
    'l2',
    'snapshotTable',
    'snapshotL1',
    'directory',
    'end',
  ] as const
  const POINTERS = [
    'L1 entry',
    'L2 entry',
    'compressed',
    'refcount table entry',
    'L1 table',
    'refcount table',
    'snapshot table',
  ] as const

  test.each(POINTERS)('qcow2: %s to any of them: told by a check, and no writer comes near', async (pointer) => {
    for (const target of TARGETS) {
      const image = new CraftedImage()
      const places: Record<string, number> = { ...PLACE, ...addExtras(image), end: image.bytes.length / image.cluster }
      const at = image.at(places[target] as number)
      if (pointer === 'L1 entry') image.l1(1, BigInt(at) | COPIED)
      else if (pointer === 'L2 entry') image.l2(5, BigInt(at) | COPIED)
      else if (pointer === 'compressed') image.l2(5, BigInt(at) | COMPRESSED)
      else if (pointer === 'refcount table entry') image.u64(image.at(PLACE.refcountTable) + 8, at)
      else if (pointer === 'L1 table') image.header('l1TableOffset', at)
      else if (pointer === 'refcount table') image.header('refcountTableOffset', at)
      else image.header('snapshotsOffset', at)
      // A place where nothing else points, or where it should.
      const isNothing = at === 0 && pointer.endsWith('entry')
      // Read as a snapshot table, the zeros of that L1 table are a snapshot of nothing.
      const isSnapshot = pointer === 'snapshot table' && target === 'snapshotL1'
      const isRight =
        `${pointer} ${target}` in
        { 'L1 table l1': 0, 'refcount table refcountTable': 0, 'snapshot table snapshotTable': 0 }
      if (isNothing || isSnapshot || isRight) continue
      const folder = scratchFolder()
      const file = put(folder, 'a', image)
      const seen = await sandbox.use(file, { uses: ['inspect', 'read', 'check', 'write'] })
      expect(seen.check, `${pointer} to ${target}`).not.toBe('fine')
      if (!/^L2|compressed/.test(pointer)) expect(seen.write, `${pointer} to ${target}`).toMatch(/^CORRUPT/)
      else expectTablesKept(image, file)
    }
  })

  /** The tables that the header names are as they were: what is written went elsewhere. */
  function expectTablesKept(image: CraftedImage, file: string): void {
    const after = fs.readFileSync(file)
    for (const table of [PLACE.refcountTable, PLACE.l1]) {
      const range = [image.at(table), image.at(table + 1)] as const
      expect(after.subarray(...range).equals(image.bytes.subarray(...range))).toBe(true)
    }
  }

  const entries: [string, bigint][] = [
    ['the header', 0n],
    ['the log', 1n],
    ['the metadata', 2n],
    ['the BAT', 3n],
    ['the end', 4n],
    ['far behind it', 2n ** 40n],
  ]
  test.each(entries)('VHDX: a BAT entry to %s is read by nobody, and keeps writers away', async (_, mib) => {
    const file = await VhdxFile.make(4 * MIB)
    file.setEntry(0, (mib << 20n) | 6n)
    const seen = await sandbox.use(put(scratchFolder(), 'a', file))
    expect(seen.read).toMatch(/^CORRUPT/)
    expect(seen.write).toMatch(/^CORRUPT/)
    expect(seen.check).toMatch(/^finds /)
  })
})

describe('class 6: data that two parts of a disk share', () => {
  test('qcow2: a check finds it', async () => {
    const image = new CraftedImage()
    image.l2(5, BigInt(image.at(PLACE.data0)) | COPIED)
    const file = put(scratchFolder(), 'a', image)
    expect((await sandbox.use(file, { uses: ['check'] })).check).toBe('finds REFCOUNT_TOO_LOW')
  })

  test('qcow2: counted twice and not marked as its own, it is copied before it is written', async () => {
    const image = new CraftedImage().count(PLACE.data0, 2)
    image.l2(0, BigInt(image.at(PLACE.data0))).l2(5, BigInt(image.at(PLACE.data0)))
    const file = put(scratchFolder(), 'a', image)
    expect((await sandbox.use(file, { uses: ['write'] })).write).toBe('fine')
    const shared = [image.at(PLACE.data0), image.at(PLACE.data0 + 1)] as const
    expect(
      fs
        .readFileSync(file)
        .subarray(...shared)
        .equals(image.bytes.subarray(...shared)),
    ).toBe(true)
  })

  test('VHDX: two blocks in one place keep writers away', async () => {
    const file = await VhdxFile.make(4 * MIB)
    file.store.truncate(8 * MIB)
    for (const block of [0, 1]) file.setEntry(block, (5n << 20n) | 6n)
    const seen = await sandbox.use(put(scratchFolder(), 'a', file))
    expect([seen.read, seen.check]).toEqual(['fine', expect.stringMatching(/^finds /)])
    expect(seen.write).toMatch(/^CORRUPT/)
  })
})

describe('class 14: bombs in compressed clusters', () => {
  test('qcow2: a stream of a gigabyte ends with its cluster', async () => {
    const image = new CraftedImage()
    const stored = zlib.deflateRawSync(Buffer.alloc(64 << 20))
    const number = image.grow(Math.ceil(stored.length / image.cluster), stored)
    const sectors = BigInt(Math.min(15, Math.ceil(stored.length / 512) - 1))
    image.l2(0, BigInt(image.at(number)) | (sectors << 58n) | COMPRESSED)
    expect((await sandbox.use(put(scratchFolder(), 'a', image))).read).toMatch(/^(CORRUPT|fine)/)
  })

  test('qcow2: hundreds of clusters of 2 MiB from one small stream', async () => {
    const image = new CraftedImage({ clusterBits: 21 })
    const stored = zlib.deflateRawSync(Buffer.alloc(2 << 20))
    const number = image.grow(1, stored)
    const sectors = BigInt(Math.ceil(stored.length / 512) - 1)
    for (let i = 0; i < 400; i++) image.l2(i, BigInt(image.at(number)) | (sectors << 49n) | COMPRESSED)
    expect((await sandbox.use(put(scratchFolder(), 'a', image), { uses: ['read', 'check'] })).read).toBe('fine')
  })
})

describe('class 15: disks larger than anything', () => {
  test('qcow2: the largest there can be', async () => {
    const image = new CraftedImage({ clusterBits: 21 }).header('size', 2 ** 53 - 512).header('l1Size', 2 ** 14)
    const seen = await sandbox.use(put(scratchFolder(), 'a', image))
    expect(new Set(Object.values(seen))).toEqual(new Set(['fine']))
  })

  test('VHDX: 64 TiB', async () => {
    const file = await VhdxFile.make(2 ** 46, { block_size: '256M' })
    const seen = await sandbox.use(put(scratchFolder(), 'a', file))
    expect(new Set(Object.values(seen))).toEqual(new Set(['fine']))
  })

  test('raw: a hole of terabytes', async () => {
    const seen = await sandbox.use(put(scratchFolder(), 'a', Buffer.alloc(512), 2 ** 42), { format: 'raw' })
    expect(new Set(Object.values(seen))).toEqual(new Set(['fine']))
  })
})

describe('class 18: a log that writes where it should not', () => {
  const bytes = Buffer.alloc(4 * KIB, 0x66)
  const updates: [
    string,
    { at: number | bigint; bytes: Uint8Array } | { at: number | bigint; zeros: number | bigint },
  ][] = [
    ['the file identifier', { at: 0, bytes }],
    ['a header', { at: 64 * KIB, bytes }],
    ['the log itself', { at: MIB + 4 * KIB, bytes }],
    ['a place off its sectors', { at: 2 * MIB + 512, bytes }],
    ['behind what the file may have', { at: 2 ** 40, bytes }],
    ['the end of all numbers', { at: 2n ** 64n - 4096n, bytes }],
    ['zeros without end', { at: 2 * MIB, zeros: 2n ** 63n }],
    ['zeros over a header', { at: 64 * KIB, zeros: 4 * KIB }],
  ]
  test.each(updates)('VHDX: %s: refused, and nothing was written', async (_, update) => {
    const file = await VhdxFile.make(4 * MIB)
    const size = file.store.size()
    const entry = { guid: LOG, sequence: 1, tail: 0, updates: [update], flushed: size, last: size }
    file.setLog(LOG, [{ at: 0, bytes: logEntry(entry) }])
    const name = put(scratchFolder(), 'a', file)
    const before = fs.readFileSync(name)
    const seen = await sandbox.use(name)
    expect([seen.read, seen.write].filter((outcome) => !/^(CORRUPT|LIMIT_EXCEEDED)/.test(outcome))).toEqual([])
    expect(seen.check).toMatch(/^finds (CANNOT_BE_RIGHT|LIMIT_EXCEEDED)/)
    expect(fs.readFileSync(name).equals(before)).toBe(true)
  })

  test('VHDX: a sound one is replayed in memory for readers, who change nothing', async () => {
    const file = await VhdxFile.make(4 * MIB)
    const size = file.store.size()
    const sector = Buffer.from(file.bytes(3 * MIB, 4 * KIB))
    const entry = {
      guid: LOG,
      sequence: 1,
      tail: 0,
      updates: [{ at: 3 * MIB, bytes: sector }],
      flushed: size,
      last: size,
    }
    file.setLog(LOG, [{ at: 0, bytes: logEntry(entry) }])
    const name = put(scratchFolder(), 'a', file)
    const before = fs.readFileSync(name)
    const seen = await sandbox.use(name, { uses: ['inspect', 'read', 'partitions'] })
    expect(new Set(Object.values(seen))).toEqual(new Set(['fine']))
    expect(fs.readFileSync(name).equals(before)).toBe(true)
  })
})

describe('class 19: checksums', () => {
  test.each([
    ['headers', 64 * KIB, 128 * KIB],
    ['region tables', 192 * KIB, 256 * KIB],
  ])('VHDX: one of two %s is enough, none is not', async (_, first, second) => {
    const file = await VhdxFile.make(4 * MIB)
    file.put(first + 30, Buffer.from([0x99]))
    expect((await sandbox.use(put(scratchFolder(), 'one', file), { uses: ['read'] })).read).toBe('fine')
    file.put(second + 30, Buffer.from([0x99]))
    expect((await sandbox.use(put(scratchFolder(), 'two', file), { uses: ['read'] })).read).toMatch(/^CORRUPT/)
  })

  test('VHDX: a log entry that does not fit its checksum was never there', async () => {
    const file = await VhdxFile.make(4 * MIB)
    const size = file.store.size()
    const zeros = { at: 2 * MIB, zeros: 4 * KIB }
    const entry = logEntry({ guid: LOG, sequence: 1, tail: 0, updates: [zeros], flushed: size, last: size })
    entry[100] = (entry[100] as number) ^ 1
    file.setLog(LOG, [{ at: 0, bytes: entry }])
    const seen = await sandbox.use(put(scratchFolder(), 'a', file), { uses: ['read', 'write'] })
    expect(seen.read).toBe(seen.write)
  })
})

describe('class 20: files that were cut short', () => {
  const steps = [...Array.from({ length: 43 }, (_, i) => i * 97), ...Array.from({ length: 14 }, (_, i) => i * 512)]

  test('qcow2: anywhere', async () => {
    const image = new CraftedImage({ clusterBits: 9 })
    addExtras(image)
    for (const size of steps.filter((at) => at < image.bytes.length)) {
      const seen = await sandbox.use(put(scratchFolder(), 'a', image, size), {
        format: 'qcow2',
        uses: ['read', 'write'],
      })
      if (size < 3 * 512) expect(seen.read, `${size} bytes`).toMatch(/^(NOT_THIS_FORMAT|CORRUPT)/)
    }
  })

  test('VHDX: anywhere', async () => {
    const file = await VhdxFile.make(4 * MIB)
    for (const size of [...steps, 64 * KIB, 65 * KIB, 128 * KIB, 200 * KIB, MIB, 2 * MIB, 3 * MIB, 4 * MIB - 512]) {
      const seen = await sandbox.use(put(scratchFolder(), 'a', file, size), { format: 'vhdx', uses: ['read', 'write'] })
      if (size < 3 * MIB) expect(seen.read, `${size} bytes`).toMatch(/^(NOT_THIS_FORMAT|CORRUPT)/)
    }
  })
})
