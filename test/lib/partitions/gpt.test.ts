import { describe, expect, test } from 'vitest'
import { type PartitionTable, promised, readPartitionTable, VdiskError } from '../../../lib/index.ts'
import { MemoryDevice } from '../../support/memory-device.ts'
import { DISK_GUID, type GptPlan, LINUX, PARTITION_GUID, writeGpt, writeMbr } from '../../support/partition-tables.ts'

const MIB = 1 << 20

function diskOf(plan: GptPlan = {}, size = 4 * MIB): MemoryDevice {
  const disk = new MemoryDevice(size)
  writeGpt(disk.bytes, plan)
  return disk
}

async function tableOf(disk: MemoryDevice): Promise<PartitionTable | undefined> {
  return await promised(readPartitionTable(disk))
}

const PRIMARY_HEADER = 512
const HEADER_CRC = 16

describe('a GPT', () => {
  test('is read as it was written', async () => {
    const entries = [
      undefined,
      { name: 'Größe 🙂', attributes: 4n },
      { firstLba: 200, lastLba: 200, guid: '00000000-0000-0000-0000-000000000000' },
    ]
    expect(await tableOf(diskOf({ entries }))).toEqual({
      kind: 'gpt',
      id: DISK_GUID,
      sectorSize: 512,
      notes: [],
      partitions: [
        {
          number: 2,
          start: 64 * 512,
          length: 64 * 512,
          type: LINUX,
          typeName: 'Linux',
          label: 'Größe 🙂',
          uuid: PARTITION_GUID,
          bootable: true,
          logical: false,
        },
        {
          number: 3,
          start: 200 * 512,
          length: 512,
          type: LINUX,
          typeName: 'Linux',
          label: undefined,
          uuid: undefined,
          bootable: false,
          logical: false,
        },
      ],
    })
  })

  test('counts in the sectors with which its header is found', async () => {
    const table = await tableOf(diskOf({ sectorSize: 4096 }))
    expect(table).toMatchObject({ sectorSize: 4096, notes: [], partitions: [{ start: 64 * 4096, length: 64 * 4096 }] })
  })

  test('of both sector sizes on one disk: the one that was asked for counts', async () => {
    // The two leave each other alone: entries of 512 lie in front of the header of 4096, whose entries lie at 8192.
    const disk = new MemoryDevice(4 * MIB)
    writeGpt(disk.bytes, { sectorSize: 4096 })
    const header = new MemoryDevice(4 * MIB)
    writeGpt(header.bytes, { primary: { entriesLba: 100 }, backup: null })
    disk.bytes.set(header.bytes.subarray(0, 1024))
    disk.bytes.set(header.bytes.subarray(1024, 1024 + 16384), 100 * 512)
    expect(await promised(readPartitionTable(disk))).toMatchObject({ sectorSize: 512 })
    expect(await promised(readPartitionTable(disk, { sectorSize: 4096 }))).toMatchObject({ sectorSize: 4096 })
  })

  test('may have entries that are larger, as long as they are a power of two', async () => {
    const disk = diskOf({ primary: { entrySize: 256, entryCount: 64 }, entries: [{}, { name: 'in the other half' }] })
    expect((await tableOf(disk))?.partitions).toHaveLength(1)
  })

  test('may have a header that fills its sector', async () => {
    expect((await tableOf(diskOf({ primary: { headerSize: 512 } })))?.notes).toEqual([])
  })
})

function flip(disk: Uint8Array, at: number): void {
  disk[at] = (disk[at] as number) ^ 1
}

describe('a GPT of which the primary copy is damaged is read from its backup', () => {
  const damages: Record<string, [GptPlan['primary'] | ((disk: Uint8Array) => void), string]> = {
    'a wrong checksum': [(disk) => flip(disk, PRIMARY_HEADER + HEADER_CRC), 'checksum of its header'],
    'a changed GUID': [(disk) => flip(disk, PRIMARY_HEADER + 60), 'checksum of its header'],
    'no header': [(disk) => void disk.fill(0, 512, 1024), 'there is none'],
    'another signature': [{ signature: 'EFI PARTS'.slice(1) }, 'there is none'],
    'a changed entry': [(disk) => flip(disk, 1024 + 300), 'checksum of its entries'],
    'another place': [{ myLba: 2 }, 'was written for sector 2'],
    'another revision': [{ revision: 0x20000 }, 'revision 2.0'],
    'a small header': [{ headerSize: 91 }, '91 bytes'],
    'a large header': [{ headerSize: 513 }, '513 bytes'],
    'a huge header': [{ headerSize: 2 ** 32 - 1 }, '4294967295 bytes'],
    'entries of 0 bytes': [{ entrySize: 0 }, '0 bytes each'],
    'entries of 1 byte': [{ entrySize: 1 }, '1 bytes each'],
    'entries of 384 bytes': [{ entrySize: 384 }, '384 bytes each'],
    'entries of 2 GiB': [{ entrySize: 2 ** 31 }, '128 entries of 2147483648 bytes'],
    'no entries': [{ entryCount: 0 }, '0 entries'],
    '2^32 entries': [{ entryCount: 2 ** 32 - 1 }, '4294967295 entries'],
    'entries behind the disk': [{ entriesLba: 2 ** 40 }, 'do not lie on the disk'],
    'entries nowhere': [{ entriesLba: 2 ** 53 - 1 }, 'do not lie on the disk'],
    'entries upon the MBR': [{ entriesLba: 0 }, 'do not lie on the disk'],
    'a range that ends before it begins': [{ firstUsableLba: 100, lastUsableLba: 99 }, 'ends before it begins'],
  }
  test.each(Object.entries(damages))('%s', async (_, [damage, why]) => {
    const disk = diskOf(typeof damage === 'function' ? {} : { primary: damage ?? {} })
    if (typeof damage === 'function') damage(disk.bytes)
    const table = await tableOf(disk)
    expect(table).toMatchObject({ kind: 'gpt', id: DISK_GUID, partitions: [{ number: 1, start: 32768 }] })
    expect(table?.notes).toEqual([expect.stringMatching(`^its GPT was read from the backup, since .*${why}`)])
  })

  test('and where its header cannot be read at all', async () => {
    const disk = diskOf({ sectorSize: 4096 })
    disk.before = (call) => {
      if (call.startsWith('read 4096 ')) throw new VdiskError('IO', { message: 'the medium is bad here' })
      return undefined
    }
    const table = await tableOf(disk)
    expect(table).toMatchObject({ kind: 'gpt', sectorSize: 4096 })
    expect(table?.notes.join()).toContain('the medium is bad here')
  })

  test('which a header with damaged entries still points at when the disk has grown', async () => {
    const disk = new MemoryDevice(8 * MIB)
    writeGpt(disk.bytes.subarray(0, 4 * MIB))
    disk.bytes.fill(0xff, 1024, 2048)
    expect((await tableOf(disk))?.notes.join()).toContain('read from the backup')
  })
})

describe('a GPT of which the backup is missing or differs is read from the primary copy, with a note', () => {
  test.each<[string, GptPlan['backup'], string]>([
    ['none', null, 'cannot be used: there is none'],
    ['damaged', { headerCrc: 5 }, 'cannot be used: the checksum of its header'],
    ['of another disk', { diskGuid: PARTITION_GUID }, 'says something else'],
    ['of another state', { entriesCrc: 7 }, 'cannot be used: the checksum of its entries'],
  ])('%s', async (_, backup, why) => {
    const table = await tableOf(diskOf({ backup }))
    expect(table?.partitions).toHaveLength(1)
    expect(table?.notes).toEqual([expect.stringContaining(why)])
  })

  test('the disk was enlarged', async () => {
    const disk = new MemoryDevice(8 * MIB)
    writeGpt(disk.bytes.subarray(0, 4 * MIB))
    expect((await tableOf(disk))?.notes).toEqual([expect.stringContaining('has grown since its GPT was written')])
  })

  test('the disk was cut: what no longer lies on it is damaged', async () => {
    const large = diskOf({ entries: [{}, { firstLba: 5000, lastLba: 6000 }] })
    const disk = new MemoryDevice(2 * MIB)
    disk.bytes.set(large.bytes.subarray(0, 2 * MIB))
    const table = await tableOf(disk)
    expect(table?.notes).toEqual([expect.stringContaining('of a larger disk, of 4 MiB')])
    expect(table?.partitions.map(({ damaged }) => damaged)).toEqual([undefined, 'it ends behind the disk'])
  })

  test('its place cannot be read', async () => {
    const disk = diskOf()
    disk.before = (call) => {
      if (call.startsWith(`read ${4 * MIB - 4096} `)) throw new VdiskError('CORRUPT', { message: 'a bad cluster' })
      return undefined
    }
    expect((await tableOf(disk))?.notes).toEqual([expect.stringContaining('a bad cluster')])
  })
})

describe('partitions that cannot be', () => {
  test.each<[string, [number, number], string]>([
    ['end before they begin', [200, 150], 'it ends before it begins'],
    ['end behind the disk', [64, 8192], 'it ends behind the disk'],
    ['lie behind the disk', [2 ** 40, 2 ** 40 + 7], 'it ends behind the disk'],
    ['lie nowhere', [2 ** 53 - 2, 2 ** 53 - 1], 'it ends behind the disk'],
  ])('%s: they are listed as damaged', async (_, [firstLba, lastLba], damaged) => {
    const table = await tableOf(diskOf({ entries: [{ firstLba, lastLba }, {}] }))
    expect(table?.partitions).toMatchObject([{ damaged }, { number: 2 }])
    expect(table?.partitions[1]).not.toHaveProperty('damaged')
  })

  test('overlap: each is told once', async () => {
    const entries = [
      { firstLba: 64, lastLba: 1000 },
      { firstLba: 100, lastLba: 200 },
      { firstLba: 1000, lastLba: 1001 },
    ]
    expect((await tableOf(diskOf({ entries })))?.notes).toEqual([
      expect.stringContaining('partition 2 overlaps partition 1'),
      expect.stringContaining('partition 3 overlaps partition 1'),
    ])
  })

  test('overlap all together: a few are told', async () => {
    const notes = (await tableOf(diskOf({ entries: Array.from({ length: 128 }, () => ({})) })))?.notes
    expect(notes).toHaveLength(9)
    expect(notes?.at(-1)).toBe('119 more partitions overlap others')
  })

  test('lie outside of the range for them: that is a note', async () => {
    const notes = (await tableOf(diskOf({ entries: [{ firstLba: 1, lastLba: 5 }] })))?.notes
    expect(notes).toEqual([expect.stringContaining('outside of the range')])
  })
})

describe('whether a GPT counts is for the MBR to say', () => {
  test('an MBR with partitions of its own replaced it', async () => {
    const disk = diskOf()
    writeMbr(disk.bytes, [{ firstLba: 8, sectorCount: 100 }])
    expect(await tableOf(disk)).toMatchObject({ kind: 'mbr', partitions: [{ number: 1, start: 4096 }] })
  })

  test('a hybrid: the GPT counts', async () => {
    const disk = diskOf()
    writeMbr(disk.bytes, [
      { firstLba: 64, sectorCount: 64, type: 0x0c },
      { firstLba: 1, sectorCount: 33, type: 0xee },
    ])
    const table = await tableOf(disk)
    expect(table).toMatchObject({ kind: 'gpt', partitions: [{ label: undefined, type: LINUX }] })
    expect(table?.notes).toEqual([expect.stringContaining('hybrid')])
  })

  test('with nothing left of the MBR a good primary copy counts, and a backup alone does not', async () => {
    const disk = diskOf()
    disk.bytes.fill(0, 0, 512)
    expect((await tableOf(disk))?.notes).toEqual([expect.stringContaining('no protective MBR')])
    disk.bytes.fill(0, 0, 4096)
    expect(await tableOf(disk)).toBeUndefined()
  })

  test('a protective MBR without any GPT: what else the MBR says is told, and what was lost', async () => {
    const disk = diskOf({ primary: { headerCrc: 1 }, backup: { headerCrc: 2 } })
    const table = await tableOf(disk)
    expect(table).toMatchObject({ kind: 'mbr', partitions: [] })
    expect(table?.notes).toEqual([expect.stringMatching(/its GPT is lost.*checksum.*the backup neither: the checksum/)])
  })
})

test('little is read of a disk, whatever its GPT says', async () => {
  for (const primary of [{ entryCount: 2 ** 32 - 1 }, { entryCount: 8192 }, { entriesLba: 2 ** 52 }]) {
    const disk = diskOf({ primary, backup: primary })
    await tableOf(disk)
    const read = disk.calls.map((call) => Number(call.split(' ')[2])).reduce((sum, length) => sum + length, 0)
    expect(read).toBeLessThan(3 * MIB)
  }
})
