import { describe, expect, test } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import { CheckReport } from '../../../lib/contracts/check-report.ts'
import { RepairReport } from '../../../lib/contracts/repair.ts'
import { qcow2 } from '../../../lib/formats/qcow2/driver.ts'
import { type Entry, mendEntry, type Surroundings } from '../../../lib/formats/qcow2/repair/entries.ts'
import { promised } from '../../../lib/io/io.ts'
import { MemoryStore } from '../../../lib/io/memory.ts'
import { COMPRESSED, COPIED, CraftedImage, PLACE } from '../../support/crafted-qcow2.ts'
import { at, C } from '../../support/damaged-qcow2.ts'
import { MemoryFolder } from '../../support/memory-image.ts'

/** An image whose data lies in another file, each cluster where the guest has it. ["External data file bit"] */
function withDataFile(extendedL2 = false): { image: CraftedImage; folder: () => MemoryFolder } {
  const image = new CraftedImage({ clusterBits: extendedL2 ? 14 : 12, extendedL2 })
  image.extension(0x44415441, Buffer.from('data')).header('incompatible', extendedL2 ? 20 : 4)
  image.bytes = image.bytes.subarray(0, image.at(PLACE.data0))
  for (const number of [PLACE.data0, PLACE.data1]) image.count(number, 0)
  const all = extendedL2 ? 0xffffffffn : 0n
  image.l2(0, COPIED, all).l2(1, BigInt(image.cluster) | COPIED, all)
  const folder = (): MemoryFolder => {
    const made = new MemoryFolder()
    made.files.set('crafted', image.store())
    const data = new MemoryStore('data')
    data.write(0, Buffer.concat([0xa0, 0xa1, 0xa2].map((byte) => Buffer.alloc(image.cluster, byte))))
    made.files.set('data', data)
    return made
  }
  return { image, folder }
}

async function findings(folder: MemoryFolder): Promise<string[]> {
  const layer = await promised(qcow2.open(folder.image('crafted'), 'read'))
  const report = new CheckReport()
  await promised(qcow2.check(layer, report))
  return [...new Set(report.findings.map(({ code }) => code))].sort()
}

async function repaired(folder: MemoryFolder): Promise<RepairReport> {
  const report = new RepairReport('all')
  await promised((qcow2.repair as NonNullable<typeof qcow2.repair>)(folder.image('crafted'), report))
  return report
}

/** The first byte of each cluster of the disk. */
async function clusters(folder: MemoryFolder, cluster: number, count: number): Promise<number[]> {
  const chain = new Chain([await promised(qcow2.open(folder.image('crafted'), 'read'))])
  const bytes = Buffer.alloc(count * cluster)
  await promised(chain.read(0, bytes))
  return Array.from({ length: count }, (_, i) => bytes[i * cluster] as number)
}

describe('an image with a data file', () => {
  test('is sound as it is made', async () => {
    for (const extended of [false, true]) {
      const { image, folder } = withDataFile(extended)
      expect(await findings(folder())).toEqual([])
      expect(await clusters(folder(), image.cluster, 3)).toEqual([0xa0, 0xa1, 0])
      expect((await repaired(folder())).done).toEqual([])
    }
  })

  test.each([
    ['another place than its own', (image: CraftedImage) => image.l2(1, BigInt(2 * C) | COPIED), 'DATA_FILE_MISMATCH'],
    ['no place, and says that it means one', (image: CraftedImage) => image.l2(1, COPIED), 'DATA_FILE_MISMATCH'],
    ['compressed data', (image: CraftedImage) => image.l2(1, COMPRESSED | at(PLACE.l2)), 'COMPRESSED_WITH_DATA_FILE'],
  ])('an entry that names %s is found, cannot be read, and gets its own place', async (_, damage, code) => {
    const { image, folder } = withDataFile()
    damage(image)
    const made = folder()
    expect(await findings(made)).toContain(code)
    await expect(clusters(made, C, 2)).rejects.toMatchObject({ code: 'CORRUPT' })
    const report = await repaired(made)
    expect(report.doubtful).toEqual([{ offset: C, length: C, snapshot: undefined }])
    expect(await findings(made)).toEqual([])
    expect(await clusters(made, C, 3)).toEqual([0xa0, 0xa1, 0])
    expect((await repaired(made)).done).toEqual([])
  })

  test('that was not closed gets its counts back when it is opened', async () => {
    const { image, folder } = withDataFile()
    image.header('incompatible', 5).count(PLACE.l2, 0)
    const made = folder()
    await promised((await promised(qcow2.open(made.image('crafted'), 'write'))).close())
    expect(await findings(made)).toEqual([])
    expect(await clusters(made, C, 3)).toEqual([0xa0, 0xa1, 0])
  })

  test('keeps its table of entries where somebody has put counts', async () => {
    const { image, folder } = withDataFile()
    image.u64(PLACE.refcountTable * C, PLACE.l2 * C)
    const made = folder()
    const report = await repaired(made)
    expect(report.done).not.toEqual([])
    expect(await findings(made)).toEqual([])
    expect(await clusters(made, C, 3)).toEqual([0xa0, 0xa1, 0])
  })

  test('with extended entries: what is both allocated and zero keeps its bytes', async () => {
    const { image, folder } = withDataFile(true)
    image.l2(1, BigInt(image.cluster) | COPIED, 0x0000000f_ffffffffn)
    const made = folder()
    expect(await findings(made)).toEqual(['SUBCLUSTER_INVALID'])
    const report = await repaired(made)
    expect(report.doubtful).toEqual([{ offset: image.cluster, length: image.cluster, snapshot: undefined }])
    expect(await findings(made)).toEqual([])
    expect(await clusters(made, image.cluster, 2)).toEqual([0xa0, 0xa1])
  })

  test('that is shorter than the disk reads as zero behind it', async () => {
    const { image, folder } = withDataFile()
    image.l2(5, BigInt(5 * C) | COPIED)
    expect((await clusters(folder(), C, 6))[5]).toBe(0)
  })
})

describe('an entry that cannot be right', () => {
  const [copied, packed] = [0x80000000, 0x40000000]
  const plain: Surroundings = {
    version: 3,
    extended: false,
    hasDataFile: false,
    clusterBits: 16,
    guestOffset: 5 << 16,
    isRoom: () => true,
    isCounted: true,
  }
  const entry = (high: number, low: number, zero = 0, allocated = 0): Entry => ({ high, low, zero, allocated })

  test.each<[string, Entry, Partial<Surroundings>, Entry & { doubtful: boolean }]>([
    [
      'in a data file gets the place that it must have, and stays zero where it was',
      entry(copied, (7 << 16) | 1),
      { hasDataFile: true },
      { ...entry(copied, (5 << 16) | 1), doubtful: true },
    ],
    [
      'in a data file was packed: all of it is there',
      entry(packed, 7 << 16),
      { hasDataFile: true, extended: true },
      { ...entry(copied, 5 << 16, 0, 0xffffffff), doubtful: true },
    ],
    [
      'in a data file is both zero and allocated: it is allocated',
      entry(copied, 7 << 16, 0xff, 0x0f),
      { hasDataFile: true, extended: true },
      { ...entry(copied, 5 << 16, 0xf0, 0x0f), doubtful: true },
    ],
    [
      'reads as zero as it did, without its place',
      entry(copied | 1, (7 << 16) | 513),
      {},
      { ...entry(0, 1), doubtful: false },
    ],
    ['has nothing but bits that it cannot have', entry(0x10000000, 0), {}, { ...entry(0, 0), doubtful: true }],
    [
      'is packed and flagged, and would lie in no table: the flag goes',
      entry((copied | packed) >>> 0, 0x1234),
      { isCounted: false },
      { ...entry(packed, 0x1234), doubtful: false },
    ],
    [
      'is flagged as packed, and else the place of a cluster with parts both zero and allocated: these are allocated',
      entry((copied | packed) >>> 0, 7 << 16, 0xff, 0x0f),
      { extended: true },
      { ...entry(copied, 7 << 16, 0xf0, 0x0f), doubtful: true },
    ],
    [
      'is packed where a table lies: it reads as zero',
      entry(packed, 0x1234),
      { isRoom: () => false, isCounted: false },
      { ...entry(0, 1), doubtful: true },
    ],
    [
      'of version 2 goes',
      entry(packed, 0x1234),
      { isRoom: () => false, isCounted: false, version: 2 },
      { ...entry(0, 0), doubtful: true },
    ],
    [
      'extended, says of no part that it has bytes: zeros stay zeros',
      entry(0, 0x200, 0xff, 0),
      { extended: true, isCounted: false },
      { ...entry(0, 0, 0xff), doubtful: true },
    ],
    [
      'extended, has bytes nowhere: the parts that had them read as zero',
      entry(0, 0x200, 0xf0, 0x0f),
      { extended: true, isCounted: false },
      { ...entry(0, 0, 0xff), doubtful: true },
    ],
  ])('%s', (_, before, of, wanted) => {
    const { done, ...mended } = mendEntry(before, { ...plain, ...of })
    expect(mended).toEqual(wanted)
    expect(done).not.toBe('')
  })
})
