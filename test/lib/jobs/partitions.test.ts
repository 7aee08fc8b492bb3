import { expect, test } from 'vitest'
import { createDisk, inspectPartitions, promised, sectorSizeOf, surveyDisk, VdiskError } from '../../../lib/index.ts'
import { MemoryDevice } from '../../support/memory-device.ts'
import { writeGpt, writeMbr } from '../../support/partition-tables.ts'
import { scratchFolder } from '../../support/temp.ts'

const MIB = 1 << 20

test('a disk is surveyed: every partition, what it holds, and a name for it', async () => {
  const disk = new MemoryDevice(8 * MIB)
  writeMbr(disk.bytes, [
    { firstLba: 2048, sectorCount: 2048, type: 0x82 },
    { firstLba: 4096, sectorCount: 4096, type: 0x05 },
    { firstLba: 9000, sectorCount: 9000 },
  ])
  writeMbr(disk.bytes, [{ firstLba: 8, sectorCount: 100 }], { sector: 4096 })
  disk.bytes.set(Buffer.from('SWAPSPACE2'), MIB + 4086)
  disk.bytes.set([1, 0, 0, 0, 99], MIB + 1024)
  const { table, partitions, notes } = await promised(surveyDisk(disk))
  expect([table, notes]).toEqual([{ kind: 'mbr', id: '0x00000000', sectorSize: 512 }, []])
  expect(partitions.map(({ number, fileName, filesystem }) => [number, fileName, filesystem?.type])).toEqual([
    [1, '1-linux-swap.swap', 'swap'],
    [2, undefined, undefined],
    [3, undefined, undefined],
    [5, '5-linux.raw', undefined],
  ])
})

test('a partition that cannot be read is a note; the others are told', async () => {
  const disk = new MemoryDevice(4 * MIB)
  writeGpt(disk.bytes, { entries: [{}, { firstLba: 2048, lastLba: 4095 }] })
  disk.before = (call) => {
    if (call.startsWith(`read ${64 * 512} `)) throw new VdiskError('IO', { message: 'the medium is bad here' })
    return undefined
  }
  const { partitions, notes } = await promised(surveyDisk(disk))
  expect(partitions.map(({ fileName }) => fileName)).toEqual(['1-linux.raw', '2-linux.raw'])
  expect(notes).toEqual(['what partition 1 holds cannot be read: the medium is bad here'])
})

test('an MBR in a VHDX of 4096-byte sectors counts in these', async () => {
  const file = `${scratchFolder()}/disk.vhdx`
  const options = { logical_sector_size: '4096' }
  {
    await using disk = await createDisk(file, { format: 'vhdx', size: 16 * MIB, options })
    const sector = new Uint8Array(512)
    writeMbr(sector, [{ firstLba: 256, sectorCount: 256 }])
    await disk.write(0, sector)
    expect(sectorSizeOf(disk.chain)).toBe(4096)
  }
  expect(await inspectPartitions(file)).toMatchObject({
    size: 16 * MIB,
    table: { sectorSize: 4096 },
    partitions: [{ start: MIB, length: MIB }],
  })
})
