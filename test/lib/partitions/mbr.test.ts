import { describe, expect, test } from 'vitest'
import { type PartitionTable, promised, readPartitionTable, VdiskError } from '../../../lib/index.ts'
import { MemoryDevice } from '../../support/memory-device.ts'
import { writeGpt, writeMbr } from '../../support/partition-tables.ts'

const MIB = 1 << 20
const EXTENDED = { type: 0x05, firstLba: 100, sectorCount: 4000 }

type Entries = Parameters<typeof writeMbr>[1]

/** A disk with an MBR, and boot records in the sectors that are named. */
function diskOf(entries: Entries, records: Record<number, Entries> = {}): MemoryDevice {
  const disk = new MemoryDevice(4 * MIB)
  writeMbr(disk.bytes, entries, { diskSignature: 0xcafe0001 })
  for (const [sector, own] of Object.entries(records)) writeMbr(disk.bytes, own, { sector: Number(sector) })
  return disk
}

async function tableOf(disk: MemoryDevice, options = {}): Promise<PartitionTable | undefined> {
  return await promised(readPartitionTable(disk, options))
}

/** Number, first sector and sectors of each partition. */
async function placesOf(disk: MemoryDevice): Promise<number[][] | undefined> {
  return (await tableOf(disk))?.partitions.map(({ number, start, length }) => [number, start / 512, length / 512])
}

describe('an MBR', () => {
  test('is read as it was written', async () => {
    const disk = diskOf([
      {},
      { firstLba: 2048, sectorCount: 1024, status: 0x80, type: 7 },
      { firstLba: 3072, sectorCount: 9, type: 0x99 },
    ])
    const common = { label: undefined, logical: false }
    expect(await tableOf(disk)).toEqual({
      kind: 'mbr',
      id: '0xcafe0001',
      sectorSize: 512,
      notes: [],
      partitions: [
        {
          ...common,
          number: 2,
          start: MIB,
          length: MIB / 2,
          type: '0x07',
          typeName: 'NTFS or exFAT',
          uuid: 'cafe0001-02',
          bootable: true,
        },
        {
          ...common,
          number: 3,
          start: MIB * 1.5,
          length: 9 * 512,
          type: '0x99',
          typeName: undefined,
          uuid: 'cafe0001-03',
          bootable: false,
        },
      ],
    })
  })

  test('counts in the sectors of its disk, where they are known', async () => {
    const disk = diskOf([{ firstLba: 256, sectorCount: 16 }])
    expect(await tableOf(disk, { sectorSize: 4096 })).toMatchObject({
      sectorSize: 4096,
      partitions: [{ start: MIB, length: 65536 }],
    })
  })

  test('without a signature gives no UUIDs', async () => {
    const disk = diskOf([])
    writeMbr(disk.bytes, [{ firstLba: 8, sectorCount: 8 }])
    expect(await tableOf(disk)).toMatchObject({ id: '0x00000000', partitions: [{ uuid: undefined }] })
  })

  test('may be empty', async () => {
    expect(await tableOf(diskOf([]))).toMatchObject({ kind: 'mbr', partitions: [], notes: [] })
  })

  test('has partitions that end behind the disk: they are damaged', async () => {
    const disk = diskOf([
      { firstLba: 8000, sectorCount: 193 },
      { firstLba: 2 ** 32 - 1, sectorCount: 2 ** 32 - 1 },
      { firstLba: 8000, sectorCount: 192 },
    ])
    const partitions = (await tableOf(disk))?.partitions
    expect(partitions?.map(({ damaged }) => damaged)).toEqual([
      'it ends behind the disk',
      'it ends behind the disk',
      undefined,
    ])
  })
})

describe('logical partitions', () => {
  test('are numbered from 5, and lie relative to their records', async () => {
    const disk = diskOf([{ firstLba: 8, sectorCount: 8 }, EXTENDED], {
      100: [
        { firstLba: 10, sectorCount: 20 },
        { type: 5, firstLba: 200, sectorCount: 100 },
      ],
      300: [
        { firstLba: 1, sectorCount: 50 },
        { type: 5, firstLba: 150, sectorCount: 40 },
      ],
      // Records need not be in order of their places.
      250: [{ firstLba: 2, sectorCount: 30 }],
    })
    expect(await placesOf(disk)).toEqual([
      [1, 8, 8],
      [2, 100, 4000],
      [5, 110, 20],
      [6, 301, 50],
      [7, 252, 30],
    ])
    const table = await tableOf(disk)
    expect(table?.partitions.map(({ logical }) => logical)).toEqual([false, false, true, true, true])
    expect(table?.partitions.at(-1)).toMatchObject({ uuid: 'cafe0001-07' })
    expect(table?.notes).toEqual([])
  })

  test('may be missing in a record that only has a link', async () => {
    const disk = diskOf([EXTENDED], {
      100: [{ type: 0 }, { type: 0x0f, firstLba: 10, sectorCount: 10 }],
      110: [{ firstLba: 1, sectorCount: 2 }],
    })
    expect(await placesOf(disk)).toEqual([
      [1, 100, 4000],
      [5, 111, 2],
    ])
  })

  const link = (firstLba: number): Entries => [
    { firstLba: 1, sectorCount: 1 },
    { type: 5, firstLba, sectorCount: 10 },
  ]
  test.each<[string, Record<number, Entries>, string, number]>([
    [
      'a link to itself',
      {
        100: [
          { firstLba: 1, sectorCount: 1 },
          { type: 5, firstLba: 0, sectorCount: 1 },
        ],
      },
      'circle',
      1,
    ],
    ['a circle of three', { 100: link(10), 110: link(20), 120: link(10) }, 'circle', 3],
    ['a link out of its box', { 100: link(4000) }, 'out of the extended partition', 1],
    ['a link far away', { 100: link(2 ** 32 - 1) }, 'out of the extended partition', 1],
    ['a link to what is no record', { 100: link(10) }, 'no boot record at 56320', 1],
    ['no record at all', {}, 'no boot record at 51200', 0],
  ])('%s ends the chain, with a note', async (_, records, why, count) => {
    const table = await tableOf(diskOf([EXTENDED], records))
    expect(table?.notes[0]).toContain(why)
    expect(table?.notes[0]).toContain(count === 0 ? 'cannot be read' : `after number ${4 + count}`)
    expect(table?.partitions.filter(({ logical }) => logical)).toHaveLength(count)
  })

  test('a chain without end is followed for a while', async () => {
    const records = Object.fromEntries(Array.from({ length: 1000 }, (_, i) => [100 + 2 * i, link(2 * i + 2)]))
    const table = await tableOf(diskOf([EXTENDED], records))
    expect(table?.notes).toEqual([expect.stringContaining('more than 256 records')])
    expect(table?.partitions).toHaveLength(1 + 256)
  })

  test('a box behind the disk cannot be looked into', async () => {
    const table = await tableOf(diskOf([{ ...EXTENDED, firstLba: 9000 }]))
    expect(table?.partitions).toMatchObject([{ damaged: 'it ends behind the disk' }])
    expect(table?.notes).toEqual([expect.stringContaining('leads behind the disk')])
  })

  test('a record that cannot be read ends the chain', async () => {
    const disk = diskOf([EXTENDED], { 100: link(100) })
    disk.before = (call) => {
      if (call.startsWith('read 102400 ')) throw new VdiskError('IO', { message: 'the medium is bad here' })
      return undefined
    }
    expect((await tableOf(disk))?.notes).toEqual([expect.stringContaining('the medium is bad here')])
  })

  test('only the first of two extended partitions is looked into', async () => {
    const disk = diskOf([EXTENDED, { type: 0x0f, firstLba: 5000, sectorCount: 100 }], {
      100: [{ firstLba: 1, sectorCount: 2 }],
      5000: [{ firstLba: 1, sectorCount: 2 }],
    })
    const table = await tableOf(disk)
    expect(table?.partitions.map(({ number }) => number)).toEqual([1, 2, 5])
    expect(table?.notes).toEqual([expect.stringContaining('more than one extended')])
  })

  test('a logical partition that overlaps a primary one is told; that it lies in its box is not', async () => {
    const disk = diskOf([{ firstLba: 8, sectorCount: 103 }, EXTENDED], { 100: [{ firstLba: 10, sectorCount: 20 }] })
    expect((await tableOf(disk))?.notes).toEqual([expect.stringContaining('partition 5 overlaps partition 1')])
  })
})

describe('what is no MBR', () => {
  test.each<[string, (disk: MemoryDevice) => void]>([
    ['zeros', () => {}],
    ['a table without signature', ({ bytes }) => writeMbr(bytes, [{ firstLba: 8, sectorCount: 8 }], { signature: 0 })],
    ['the code of a boot sector', ({ bytes }) => writeMbr(bytes, [{ status: 0x41, firstLba: 8, sectorCount: 8 }])],
  ])('%s', async (_, write) => {
    const disk = new MemoryDevice(MIB)
    write(disk)
    expect(await tableOf(disk)).toBeUndefined()
  })

  test('a boot program in front of a file system that has the whole disk', async () => {
    const disk = diskOf([])
    disk.bytes.set(Buffer.from('SWAPSPACE2'), 4086)
    disk.bytes.set([1, 0, 0, 0, 99], 1024)
    expect(await tableOf(disk)).toBeUndefined()
    // With a partition it is a table, whatever was left behind it.
    writeMbr(disk.bytes, [{ firstLba: 2048, sectorCount: 8 }])
    expect(await tableOf(disk)).toMatchObject({ partitions: [{ number: 1 }] })
  })

  test('a boot sector that was written over the MBR of a GPT: that is gone', async () => {
    const disk = new MemoryDevice(MIB)
    writeGpt(disk.bytes)
    writeMbr(disk.bytes, [{ status: 0x41, firstLba: 8, sectorCount: 8 }])
    expect(await tableOf(disk)).toBeUndefined()
  })

  test('a disk too small for one', async () => {
    expect(await tableOf(new MemoryDevice(511))).toBeUndefined()
    expect(await tableOf(new MemoryDevice(0))).toBeUndefined()
  })

  test('a first sector that cannot be read is an error', async () => {
    const disk = diskOf([])
    disk.before = () => {
      throw new VdiskError('IO', { message: 'the medium is bad here' })
    }
    await expect(tableOf(disk)).rejects.toMatchObject({ code: 'IO' })
  })
})
