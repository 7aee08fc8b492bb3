import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { finish, openDisk, type RepairResult, repairImage } from '../../lib/index.ts'
import { corpusEntries, corpusMissing, restored } from '../support/corpus.ts'
import { describeWithPeers } from '../support/peers.ts'
import {
  expectAgreement,
  expectCleanByQemu,
  expectSameBytes,
  ourCheckStatus,
  ourReading,
  Qemu,
} from '../support/qemu.ts'
import { printSeed, type Random, randomTest } from '../support/random.ts'
import { scratchFolder } from '../support/temp.ts'

printSeed()

/** Larger disks are not compared byte by byte. */
const COMPARED = 256 << 20

/** Both contents without the ranges of the disk that are doubtful. */
function expectSameBut(found: Uint8Array, wanted: Uint8Array, { doubtful }: RepairResult, what: string): void {
  const [a, b] = [found.slice(), wanted.slice()]
  for (const { offset, length, snapshot } of doubtful) {
    if (snapshot === undefined) for (const bytes of [a, b]) bytes.fill(0, offset, offset + length)
  }
  expectSameBytes(a, b, what)
}

describeWithPeers(['qemu-img'], 'damaged images of other makers', () => {
  const damaged = corpusEntries.filter(({ expect: wanted, format }) => {
    return wanted === 'check-finds-then-repair' && format === 'qcow2'
  })
  describe.skipIf(corpusMissing)(`from the corpus${corpusMissing ? ` (skipped: ${corpusMissing})` : ''}`, () => {
    test.each(damaged)('$id is clean for QEMU after our repair, and reads as before', async (entry) => {
      const file = restored(entry, scratchFolder())
      const qemu = new Qemu(path.dirname(file))
      const name = path.basename(file)
      const before = entry.virtual_size <= COMPARED ? qemu.reads(name) : undefined
      const result = await finish(repairImage(file))
      expect(result.left.findings).toEqual([])
      expectCleanByQemu(qemu, name)
      if (before) expectSameBut(await ourReading(file), before, result, entry.id)
      expect((await finish(repairImage(file))).count).toBe(0)
    })
  })
})

/** The file as numbers, and where its tables are. */
class Tables {
  readonly bytes: Buffer
  private readonly file: string

  constructor(file: string) {
    this.file = file
    this.bytes = fs.readFileSync(file)
  }

  get cluster(): number {
    return 2 ** this.bytes.readUInt32BE(20)
  }

  /** Places of L1 entries that lead to a table. */
  l1Entries(): number[] {
    const at = this.u64(40)
    const all = Array.from({ length: this.bytes.readUInt32BE(36) }, (_, i) => at + i * 8)
    return all.filter((place) => this.u64(place) !== 0)
  }

  /** Places of L2 entries of eight bytes that lead to data. */
  l2Entries(): number[] {
    return this.l1Entries().flatMap((l1) => {
      const table = this.place(l1)
      const all = Array.from({ length: this.cluster / 8 }, (_, i) => table + i * 8)
      return all.filter((place) => this.u64(place) > 1)
    })
  }

  refcountBlocks(): number[] {
    const at = this.u64(48)
    const all = Array.from({ length: this.cluster / 8 }, (_, i) => this.u64(at + i * 8))
    return all.filter((place) => place !== 0)
  }

  /** The place in an entry, without its flags: with them it is no exact number. */
  place(at: number): number {
    return Number(this.bytes.readBigUInt64BE(at) & 0x00ff_ffff_ffff_fe00n)
  }

  u64(at: number): number {
    return Number(this.bytes.readBigUInt64BE(at))
  }

  /** Changes the number at a place by its bits. */
  change(at: number, by: (value: bigint) => bigint): void {
    this.bytes.writeBigUInt64BE(BigInt.asUintN(64, by(this.bytes.readBigUInt64BE(at))), at)
  }

  save(): void {
    fs.writeFileSync(this.file, this.bytes)
  }
}

/** Where the tables of a sound image have something. */
interface Entries {
  readonly l1: readonly number[]
  readonly l2: readonly number[]
  readonly blocks: readonly number[]
}

/** Damage that can be told from an image that is all right. */
const DAMAGES: readonly ((tables: Tables, random: Random, entries: Entries) => void)[] = [
  (tables, random, { l2 }) => tables.change(random.pick(l2), (value) => value | (1n << 57n)),
  (tables, random, { l2 }) => tables.change(random.pick(l2), (value) => value ^ 0x3800_0000_0000n),
  (tables, random, { l2 }) => tables.change(random.pick(l2), (value) => value ^ (1n << 63n)),
  (tables, random, { l2 }) => {
    // Both in one table: if the one that is right were lost with a table of its own, nothing would tell of the other.
    const from = random.pick(l2)
    const beside = l2.filter((place) => Math.floor(place / tables.cluster) === Math.floor(from / tables.cluster))
    const other = tables.bytes.readBigUInt64BE(from)
    tables.change(random.pick(beside), () => other)
  },
  (tables, random, { l1 }) => tables.change(random.pick(l1), (value) => value | (1n << 40n)),
  (tables, random, { blocks }) => {
    const block = random.pick(blocks)
    for (let i = 0; i < 20; i++) tables.bytes[block + random.below(Math.min(400, tables.cluster))] = random.below(4)
  },
  (tables, random) => {
    // Unless another damage has put the table elsewhere.
    const at = tables.u64(48)
    if (at + 512 <= tables.bytes.length) tables.bytes.fill(random.below(256), at, at + 512)
  },
  (tables, random) => tables.change(48, (value) => value ^ (1n << BigInt(random.below(40)))),
  (tables) => tables.change(96, (value) => value | (7n << 32n)),
]

const VARIANTS: readonly { options: Record<string, string>; size: number; cluster: number; snapshots?: boolean }[] = [
  { options: {}, size: 3 << 20, cluster: 65536 },
  { options: { cluster_size: '512' }, size: 200 << 10, cluster: 512 },
  { options: { cluster_size: '4K', refcount_bits: '64' }, size: 1 << 20, cluster: 4096 },
  { options: { cluster_size: '1K', refcount_bits: '1' }, size: 400 << 10, cluster: 1024, snapshots: false },
  { options: { cluster_size: '4K', lazy_refcounts: 'on', refcount_bits: '32' }, size: 1 << 20, cluster: 4096 },
]

describeWithPeers(['qemu-img', 'qemu-io'], 'images by QEMU, damaged and repaired', () => {
  for (const { options, size, cluster, snapshots } of VARIANTS) {
    const title = Object.entries(options).map(([name, value]) => `${name}=${value}`)
    randomTest(`read as before but for what is called doubtful: ${title.join(' ')}`, async (random) => {
      for (let round = 0; round < 4; round++) {
        const qemu = new Qemu(scratchFolder())
        qemu.create('a', size, options)
        qemu.io('a', qemu.history(random, { size, cluster, steps: 12 }))
        if (snapshots !== false) qemu.img(['snapshot', '-c', 'x', 'a'])
        qemu.img(['bitmap', '--add', 'a', 'b'])
        qemu.io('a', [qemu.write(random, 0, size / 2)])
        const content = qemu.reads('a')
        const tables = new Tables(qemu.path('a'))
        const entries = { l1: tables.l1Entries(), l2: tables.l2Entries(), blocks: tables.refcountBlocks() }
        const done = Array.from({ length: 1 + random.below(3) }, () => random.below(DAMAGES.length))
        for (const which of done) DAMAGES[which]?.(tables, random, entries)
        tables.save()
        const result = await finish(repairImage(qemu.path('a')))
        expect(result.left.findings).toEqual([])
        const found = await expectAgreement(qemu, 'a')
        expectSameBut(found, content, result, `after damages ${done.join(', ')}, what is not doubtful`)
        expect((await finish(repairImage(qemu.path('a')))).count).toBe(0)
        // It goes on as an image like any other.
        qemu.io('a', qemu.history(random, { size, cluster, steps: 4 }))
        await expectAgreement(qemu, 'a')
      }
    })
  }

  test('where counts alone are wrong, QEMU mends the same', async () => {
    const qemu = new Qemu(scratchFolder())
    qemu.create('a', 4 << 20)
    qemu.io('a', ['write -P 1 0 1M', 'write -P 2 2M 300k'])
    qemu.img(['snapshot', '-c', 'x', 'a'])
    qemu.io('a', ['write -P 3 64k 64k'])
    const tables = new Tables(qemu.path('a'))
    const block = tables.refcountBlocks()[0] as number
    for (const number of [4, 6, 9, 40]) tables.bytes.writeUInt16BE((number * 7) % 5, block + number * 2)
    tables.save()
    fs.copyFileSync(qemu.path('a'), qemu.path('theirs'))
    qemu.img(['check', '-q', '-r', 'all', 'theirs'], [0, 2, 3])
    const { left } = await finish(repairImage(qemu.path('a')))
    expect(left.findings).toEqual([])
    expectSameBytes(await expectAgreement(qemu, 'a'), qemu.reads('theirs'), 'the disk')
    expectSameBytes(qemu.readsSnapshot('a', 'x'), qemu.readsSnapshot('theirs', 'x'), 'the snapshot')
  })

  test('two places that QEMU leaves with one cluster have one each, and a write to the one does not show in the other', async () => {
    const qemu = new Qemu(scratchFolder())
    qemu.create('a', 1 << 20)
    qemu.io('a', ['write -P 1 0 64k', 'write -P 2 64k 64k'])
    const tables = new Tables(qemu.path('a'))
    const [first, second] = tables.l2Entries() as [number, number]
    tables.change(second, () => tables.bytes.readBigUInt64BE(first))
    tables.save()
    const { doubtful } = await finish(repairImage(qemu.path('a')))
    expect(doubtful).toEqual([{ offset: 0, length: 128 << 10, snapshot: undefined }])
    qemu.io('a', ['write -P 9 0 64k'])
    const content = await expectAgreement(qemu, 'a')
    expect([content[0], content[64 << 10]]).toEqual([9, 1])
  })

  // QEMU 7.2 places a refcount block on the mapped cluster, and the guest reads counts as its data.
  test('lazy refcounts: a cluster that is mapped past the end of the file gets no table of ours', async () => {
    const qemu = new Qemu(scratchFolder())
    qemu.create('a', 200 << 10, { lazy_refcounts: 'on', cluster_size: '512', refcount_bits: '64' })
    qemu.io('a', ['write -P 1 0 100k', 'write -P 2 150k 20k'])
    const content = qemu.reads('a')
    const tables = new Tables(qemu.path('a'))
    tables.bytes.fill(0, tables.u64(48) + 8, tables.u64(48) + 512)
    tables.bytes[79] = 1
    tables.save()
    fs.truncateSync(qemu.path('a'), tables.bytes.length - 10 * 512)
    const result = await finish(repairImage(qemu.path('a')))
    expect(result.left.findings).toEqual([])
    const found = await expectAgreement(qemu, 'a')
    expectSameBut(found, content, result, 'what is not doubtful')
    for (const { offset, length } of result.doubtful) {
      expect(found.subarray(offset, offset + length).every((byte) => byte === 0)).toBe(true)
    }
  })

  test('a torn header with bitmaps: the second half of its cluster is the old one', async () => {
    const qemu = new Qemu(scratchFolder())
    qemu.create('a', 1 << 20)
    qemu.io('a', ['write -P 1 0 100k'])
    const old = fs.readFileSync(qemu.path('a'))
    const content = qemu.reads('a')
    qemu.img(['bitmap', '--add', 'a', 'b'])
    const now = fs.readFileSync(qemu.path('a'))
    now.set(old.subarray(512, 65536), 512)
    fs.writeFileSync(qemu.path('a'), now)
    expect(qemu.check('a').status).toBe(1)
    await using disk = await openDisk(qemu.path('a'), { salvage: true })
    expect(disk.size).toBe(1 << 20)
    await disk.close()
    await finish(repairImage(qemu.path('a')))
    expectSameBytes(await expectAgreement(qemu, 'a'), content, 'the disk')
    expect(await ourCheckStatus(qemu.path('a'))).toBe(0)
  })
})
