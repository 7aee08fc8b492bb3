import { describe, expect, test } from 'vitest'
import { checkContent } from '../../../lib/backup/check-content.ts'
import { DigestTable } from '../../../lib/backup/digest-table.ts'
import { DIGEST, digestOf, GRANULE, GranuleSet, SECTION } from '../../../lib/backup/granules.ts'
import { isKnown, stackedDigests } from '../../../lib/backup/stacked-digests.ts'
import type { Device } from '../../../lib/contracts/device.ts'
import { type Io, runSync, settle } from '../../../lib/io/io.ts'
import { MemoryStore } from '../../../lib/io/memory.ts'
import { finish } from '../../../lib/jobs/job.ts'
import { MemoryDevice } from '../../support/memory-device.ts'
import { withoutHoles } from '../../support/stores.ts'

/** A table that holds granules, each with as many bytes of its number as it is long. */
function tableOf(granules: ReadonlyMap<number, Uint8Array>, store = new MemoryStore('digests')): DigestTable {
  const table = runSync(DigestTable.create(store))
  for (const [granule, content] of granules) {
    const section = Math.floor(granule / SECTION)
    const digests = runSync(table.section(section))
    digests.set(digestOf(content), (granule % SECTION) * DIGEST)
    runSync(table.put(section, digests))
  }
  return table
}

const full = (byte: number): Uint8Array => new Uint8Array(GRANULE).fill(byte)

describe('a table of digests', () => {
  const far = 3 * SECTION + 7
  const held = new Map([
    [1, full(1)],
    [far, full(2)],
  ])

  test('has the same sum however sparse its file is', () => {
    const store = new MemoryStore('digests')
    const table = tableOf(held, store)
    const dense = new MemoryStore('dense', { content: store.bytes() })
    expect(store.occupied()).toBeLessThan(dense.occupied())
    const sum = runSync(table.sum())
    expect(runSync(runSync(DigestTable.open(dense)).sum())).toBe(sum)
    expect(runSync(runSync(DigestTable.open(withoutHoles(store))).sum())).toBe(sum)
    expect(runSync(tableOf(new Map([[1, full(1)]])).sum())).not.toBe(sum)
  })

  test('knows which sections may hold any', () => {
    const table = tableOf(held)
    expect(table.sections).toBe(4)
    // A file may know its holes in larger pieces than sections.
    expect([2, 3]).toContain(runSync(table.next(1)))
    expect(runSync(table.next(3))).toBe(3)
    expect(runSync(table.next(4))).toBeUndefined()
    expect(tableOf(new Map()).sections).toBe(0)
  })
})

describe('layers of digests', () => {
  const digestIn = (digests: Uint8Array, granule: number): Uint8Array =>
    digests.subarray(granule * DIGEST, (granule + 1) * DIGEST)

  test('read as the highest that holds a granule', () => {
    const size = 4 * GRANULE
    const lower = tableOf(
      new Map([
        [0, full(1)],
        [1, full(2)],
      ]),
    )
    const upper = tableOf(new Map([[1, full(3)]]))
    const found = runSync(
      stackedDigests(
        [
          { table: lower, size },
          { table: upper, size },
        ],
        0,
      ),
    )
    expect([0, 1, 2].map((granule) => Buffer.from(digestIn(found, granule)))).toEqual(
      [digestOf(full(1)), digestOf(full(3)), new Uint8Array(DIGEST)].map((digest) => Buffer.from(digest)),
    )
  })

  test('over a smaller one: what it hides is zero, and what it cuts in two nobody knows', () => {
    const lowest = tableOf(new Map([0, 1, 2, 3].map((granule) => [granule, full(granule + 1)])))
    const none = tableOf(new Map())
    const stack = (cut: number): Uint8Array =>
      runSync(
        stackedDigests(
          [
            { table: lowest, size: 4 * GRANULE },
            { table: none, size: cut },
            { table: none, size: 4 * GRANULE },
          ],
          0,
        ),
      )
    const zero = Buffer.alloc(DIGEST)
    const torn = stack(2 * GRANULE + 512)
    expect(Buffer.from(digestIn(torn, 1))).toEqual(Buffer.from(digestOf(full(2))))
    expect([1, 2, 3].map((granule) => isKnown(digestIn(torn, granule)))).toEqual([true, false, true])
    expect(Buffer.from(digestIn(torn, 3))).toEqual(zero)
    const between = stack(2 * GRANULE)
    expect([2, 3].map((granule) => Buffer.from(digestIn(between, granule)))).toEqual([zero, zero])
    // Behind all that the lowest holds, too.
    const other = tableOf(new Map([[0, full(1)]]))
    const behind = runSync(
      stackedDigests(
        [
          { table: other, size: 4 * GRANULE },
          { table: none, size: 2 * GRANULE + 512 },
        ],
        0,
      ),
    )
    expect(isKnown(digestIn(behind, 2))).toBe(true)
  })
})

describe('a set of granules', () => {
  test('takes what a range touches, up to the end of the disk', () => {
    const set = new GranuleSet(3 * GRANULE + 100)
    set.add(GRANULE - 1, 2)
    set.add(3 * GRANULE, 10 * GRANULE)
    expect([...set.runs(0)]).toEqual([
      { first: 0, end: 2 },
      { first: 3, end: 4 },
    ])
    expect(set.bytes()).toBe(2 * GRANULE + 100)
    expect([set.has(2), set.has(3), set.has(5 * SECTION)]).toEqual([false, true, false])
    expect([...set.runs(7)]).toEqual([])
  })

  test('of a whole section keeps it, whatever is added', () => {
    const set = new GranuleSet(3 * SECTION * GRANULE)
    set.add(0, 2 * SECTION * GRANULE)
    set.add(SECTION * GRANULE + 5 * GRANULE, GRANULE)
    expect(set.touched).toEqual([0, 1])
    expect([...set.runs(1)]).toEqual([{ first: SECTION, end: 2 * SECTION }])
  })
})

describe('a disk that is compared with digests', () => {
  test('names what differs, neighbours joined, a thousand at most, and counts all', async () => {
    const granules = 2100
    const disk = new MemoryDevice(granules * GRANULE)
    const table = tableOf(new Map(Array.from({ length: granules }, (_, i) => [i, full(0)])))
    for (let granule = 0; granule < granules; granule += 2) disk.bytes[granule * GRANULE + 5] = 1
    disk.bytes[GRANULE] = 1
    const { differences, differing, read } = await finish(
      checkContent(disk, [{ table, size: disk.size }], { phase: 'verify' }),
    )
    expect(differences).toHaveLength(1000)
    expect(differences[0]).toEqual({ offset: 0, length: 3 * GRANULE })
    expect(differences[1]).toEqual({ offset: 4 * GRANULE, length: GRANULE })
    expect(differing).toBe((granules / 2 + 1) * GRANULE)
    expect(read).toBe(disk.size)
  })

  test('of many sections is looked at in samples: eight granules of a section, of some thousand sections', async () => {
    const sections = 4096
    const reads: number[] = []
    const disk = {
      name: 'large',
      size: sections * SECTION * GRANULE,
      *read(offset: number, target: Uint8Array): Io<void> {
        reads.push(offset)
        yield* settle(target.fill(0))
      },
    } as unknown as Device
    // In each section two runs: 8 granules, and 8 behind some that the layer does not hold.
    const zero = digestOf(new Uint8Array(GRANULE))
    const digests = new Uint8Array(SECTION * DIGEST)
    for (const granule of [0, 1, 2, 3, 4, 5, 6, 7, 20, 21, 22, 23, 24, 25, 26, 27]) digests.set(zero, granule * DIGEST)
    const table = {
      *section(): Io<Uint8Array> {
        return yield* settle(digests)
      },
    } as unknown as DigestTable
    let turn = 0
    const random = (): number => (turn++ % 16) / 16
    const how = { phase: 'verify', quick: true, random }
    const { differences } = await finish(checkContent(disk, [{ table, size: disk.size }], how))
    expect(differences).toEqual([])
    const bySection = new Map<number, number[]>()
    for (const offset of reads) {
      const granule = offset / GRANULE
      const section = Math.floor(granule / SECTION)
      bySection.set(section, [...(bySection.get(section) ?? []), granule % SECTION])
    }
    expect(bySection.size).toBeGreaterThan(500)
    expect(bySection.size).toBeLessThan(2000)
    for (const granules of bySection.values()) {
      expect(granules.length).toBeLessThanOrEqual(8)
      expect(granules).toEqual(granules.toSorted((a, b) => a - b))
      for (const granule of granules) expect(granule < 8 || (granule >= 20 && granule < 28)).toBe(true)
    }
    expect([...bySection.values()].some((granules) => granules.some((granule) => granule >= 20))).toBe(true)
  })
})
