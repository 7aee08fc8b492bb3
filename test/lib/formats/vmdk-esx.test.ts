import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { checkImage, finish, openDisk } from '../../../lib/index.ts'
import { printSeed, type Random, randomFor, randomTest } from '../../support/random.ts'
import { refusal } from '../../support/refusal.ts'
import { scratchFolder } from '../../support/temp.ts'
import { cowdOf, deltaDescriptor, SE_PLACES, type SeContent, seSparseOf } from '../../support/vmdk-esx.ts'

printSeed()

type DeltaType = 'VMFSSPARSE' | 'SESPARSE'

/** A delta over a flat parent of bytes 0xee, or over nothing. */
function written(type: DeltaType, capacity: number, delta: Buffer, withParent = false): string {
  const folder = scratchFolder()
  const at = (name: string): string => path.join(folder, name)
  fs.writeFileSync(at('disk-delta.vmdk'), delta)
  fs.writeFileSync(
    at('disk.vmdk'),
    deltaDescriptor(type, capacity, 'disk-delta.vmdk', withParent ? 'base.vmdk' : undefined),
  )
  if (withParent) {
    const header = 'version=1\nCID=11111111\nparentCID=ffffffff\ncreateType="vmfs"\n'
    fs.writeFileSync(at('base.vmdk'), `# Disk DescriptorFile\n${header}RW ${capacity} VMFS "base-flat.vmdk"\n`)
    fs.writeFileSync(at('base-flat.vmdk'), Buffer.alloc(capacity * 512, 0xee))
  }
  return at('disk.vmdk')
}

async function readAll(file: string): Promise<Buffer> {
  await using disk = await openDisk(file)
  const bytes = Buffer.alloc(disk.size)
  await disk.read(0, bytes)
  return bytes
}

async function codesOf(file: string): Promise<string[]> {
  return (await finish(checkImage(file))).findings.map(({ code }) => code)
}

/** Random grains, with runs and gaps, in more than one table. */
function grainsOf(random: Random, count: number, bytes: number): Map<number, Uint8Array> {
  const numbers = new Set<number>()
  for (let grain = 0; grain < count; grain += 1 + random.below(300)) {
    const run = random.below(20)
    for (let one = grain; one < Math.min(count, grain + run); one++) numbers.add(one)
  }
  return new Map([...numbers].map((grain) => [grain, random.bytes(bytes)]))
}

describe('a delta of ESX (COWD)', () => {
  const CAPACITY = 2 * 4096 + 777

  randomTest('reads as it was written, and its parent elsewhere', async (random) => {
    const grains = grainsOf(random, CAPACITY, 512)
    for (const withParent of [false, true]) {
      const truth = Buffer.alloc(CAPACITY * 512, withParent ? 0xee : 0)
      for (const [grain, content] of grains) truth.set(content, grain * 512)
      const file = written('VMFSSPARSE', CAPACITY, cowdOf(CAPACITY, grains), withParent)
      expect((await readAll(file)).equals(truth)).toBe(true)
      expect(await codesOf(file)).toEqual([])
    }
  })

  test('may have larger grains, of which the last is cut', async () => {
    const content = randomFor('large').bytes(4096)
    const file = written('VMFSSPARSE', 83, cowdOf(83, new Map([[10, content]]), 8))
    expect((await readAll(file)).subarray(80 * 512).equals(Buffer.from(content.subarray(0, 3 * 512)))).toBe(true)
  })

  test('is neighbouring data in one piece', async () => {
    const grains = new Map(Array.from({ length: 100 }, (_, grain) => [grain, Buffer.alloc(512, 1 + grain)] as const))
    await using disk = await openDisk(written('VMFSSPARSE', 4096, cowdOf(4096, grains)))
    const extents = []
    for await (const { kind, length } of disk.extents()) extents.push({ kind, length })
    expect(extents).toEqual([
      { kind: 'data', length: 100 * 512 },
      { kind: 'zero', length: 3996 * 512 },
    ])
  })

  test.each<[string, number, number, string]>([
    ['an unknown version', 4, 2, 'UNSUPPORTED'],
    ['grains that cannot be', 16, 3, 'CORRUPT'],
    ['no grains', 16, 0, 'CORRUPT'],
    ['a directory that is too short', 24, 1, 'CORRUPT'],
    ['a directory past its end', 20, 2 ** 31, 'CORRUPT'],
    ['a smaller disk than the descriptor says', 12, 9, 'CORRUPT'],
  ])('with %s is refused', async (_, at, value, code) => {
    const delta = cowdOf(CAPACITY, new Map([[5, Buffer.alloc(512, 1)]]))
    delta.writeUInt32LE(value, at)
    expect((await refusal(() => readAll(written('VMFSSPARSE', CAPACITY, delta)))).code).toBe(code)
  })

  test('without its parent is no disk of zeros', async () => {
    const file = written('VMFSSPARSE', CAPACITY, cowdOf(CAPACITY, new Map()), true)
    fs.rmSync(path.join(path.dirname(file), 'base.vmdk'))
    expect((await refusal(() => readAll(file))).code).toBe('PARENT_MISSING')
  })
})

describe('a space-efficient delta (seSparse)', () => {
  const GRAINS = 3 * 4096 + 100
  const CAPACITY = GRAINS * 8 - 3

  function contents(random: Random): Map<number, SeContent> {
    const grains = new Map<number, SeContent>(grainsOf(random, GRAINS, 4096))
    for (let times = 0; times < 40; times++)
      grains.set(random.below(GRAINS), random.pick(['zero', 'unmapped'] as const))
    for (let grain = 4096; grain < 8192; grain++) grains.delete(grain)
    return grains
  }

  randomTest('reads as it was written, and its parent elsewhere', async (random) => {
    const grains = contents(random)
    for (const withParent of [false, true]) {
      const truth = Buffer.alloc(GRAINS * 4096, withParent ? 0xee : 0)
      for (const [grain, content] of grains) {
        if (content instanceof Uint8Array) truth.set(content, grain * 4096)
        else truth.fill(0, grain * 4096, (grain + 1) * 4096)
      }
      const file = written('SESPARSE', CAPACITY, seSparseOf(CAPACITY, grains), withParent)
      expect((await readAll(file)).equals(truth.subarray(0, CAPACITY * 512))).toBe(true)
      expect(await codesOf(file)).toEqual([])
    }
  })

  const SMALL = seSparseOf(
    800,
    new Map([
      [3, Buffer.alloc(4096, 7)],
      [9, Buffer.alloc(4096, 8)],
    ]),
  )

  test('is not opened for writing, and stays as it is', async () => {
    const file = written('SESPARSE', 800, SMALL)
    expect((await refusal(() => openDisk(file, { writable: true }))).code).toBe('READ_ONLY')
    expect(fs.readFileSync(path.join(path.dirname(file), 'disk-delta.vmdk')).equals(SMALL)).toBe(true)
  })

  test.each<[string, number, bigint, string]>([
    ['is of an unknown version', 8, 1n, 'UNSUPPORTED'],
    ['has other grains', 24, 16n, 'UNSUPPORTED'],
    ['has other tables', 32, 32n, 'UNSUPPORTED'],
    ['has flags', 40, 1n, 'UNSUPPORTED'],
    ['has a journal that waits', SE_PLACES.volatile + 24, 1n, 'UNSUPPORTED'],
    ['has lost its second header', SE_PLACES.volatile, 0n, 'CORRUPT'],
    ['has a directory past its end', 128, 2n ** 40n, 'CORRUPT'],
    ['has a directory that is too small', 136, 0n, 'CORRUPT'],
    ['has a disk beyond all bounds', 16, 2n ** 60n, 'LIMIT_EXCEEDED'],
    ['has a directory entry of no table', SE_PLACES.directory, 0x1000000000000009n, 'CORRUPT'],
    ['has a directory entry that means nothing', SE_PLACES.directory, 5n, 'CORRUPT'],
  ])('that %s is refused', async (_, at, value, code) => {
    const delta = Buffer.from(SMALL)
    delta.writeBigUInt64LE(value, at)
    expect((await refusal(() => readAll(written('SESPARSE', 800, delta)))).code).toBe(code)
  })

  test.each<[string, bigint, string]>([
    ['means nothing', 0x4000000000000000n, 'BAD_ENTRY'],
    ['says that it is silent, and more', 1n, 'BAD_ENTRY'],
    ['leads past the grains', 0x3fff000000000000n, 'BAD_ENTRY'],
    ['leads to the grain of another', 0x3000000000000000n, 'CROSS_LINKED'],
  ])('has a grain whose entry %s, and the check finds it', async (_, entry, code) => {
    const delta = Buffer.from(SMALL)
    delta.writeBigUInt64LE(entry, SE_PLACES.tables + 3 * 8)
    const file = written('SESPARSE', 800, delta)
    expect(await codesOf(file)).toEqual([code])
    if (code === 'BAD_ENTRY') expect((await refusal(() => readAll(file))).code).toBe('CORRUPT')
  })
})
