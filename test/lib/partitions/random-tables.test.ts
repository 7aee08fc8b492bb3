import { expect } from 'vitest'
import {
  type Partition,
  PartitionDevice,
  type PartitionTable,
  promised,
  readPartitionTable,
  surveyDisk,
} from '../../../lib/index.ts'
import { MemoryDevice } from '../../support/memory-device.ts'
import { writeGpt, writeMbr } from '../../support/partition-tables.ts'
import { type Random, randomTest } from '../../support/random.ts'

const SIZE = 1 << 20
const SECTORS = SIZE / 512

/** What must be so whatever a disk says, for those who believe the answer. */
function expectSound(table: PartitionTable, disk: MemoryDevice): void {
  const { partitions, notes } = table
  expect(new Set(partitions.map(({ number }) => number)).size).toBe(partitions.length)
  expect(notes.length).toBeLessThan(16)
  // One expectation for all: there may be hundreds of partitions, hundreds of times.
  expect(partitions.filter((partition) => !isSound(partition, disk))).toEqual([])
  const read = disk.calls.map((call) => Number(call.split(' ')[2])).reduce((sum, bytes) => sum + bytes, 0)
  expect(read).toBeLessThan(6 * SIZE)
  expect(disk.calls.length).toBeLessThan(400)
}

/** Whether a partition lies on its disk and can be used, or is damaged and cannot. */
function isSound(partition: Partition, disk: MemoryDevice): boolean {
  const { start, length, damaged } = partition
  const fits = start >= 0 && length > 0 && start + length <= disk.size
  try {
    return new PartitionDevice(disk, partition).size === length && fits && damaged === undefined
  } catch {
    return damaged !== undefined && !fits
  }
}

/** A number that somebody may have put there to hurt. */
function anyNumber(random: Random, bits: 32 | 53): number {
  const far = [2 ** 31, 2 ** 32 - 1, ...(bits === 53 ? [2 ** 32, 2 ** 52, 2 ** 53 - 1] : [])]
  return random.chance(0.6) ? random.below(SECTORS + 8) : random.pick([0, 1, 2, 34, SECTORS - 1, SECTORS, ...far])
}

randomTest('a GPT may say anything: what is told of it fits the disk', async (random) => {
  let served = 0
  for (let i = 0; i < 200; i++) {
    const disk = new MemoryDevice(SIZE)
    const field = (): object => {
      const name = random.pick([
        'entrySize',
        'entryCount',
        'headerSize',
        'firstUsableLba',
        'lastUsableLba',
        'entriesLba',
      ])
      const wide = name.endsWith('Lba')
      return random.chance(0.5) ? {} : { [name]: anyNumber(random, wide ? 53 : 32) }
    }
    const entries = Array.from({ length: random.below(12) }, () => ({
      firstLba: anyNumber(random, 53),
      lastLba: anyNumber(random, 53),
    }))
    writeGpt(disk.bytes, { entries, primary: field(), backup: random.chance(0.3) ? null : field() })
    const table = await promised(readPartitionTable(disk))
    if (!table) continue
    expectSound(table, disk)
    served += table.partitions.filter(({ damaged }) => damaged === undefined).length
    await promised(surveyDisk(disk))
  }
  // Else nothing was tested.
  expect(served).toBeGreaterThan(50)
})

randomTest('an MBR may say anything: what is told of it fits the disk', async (random) => {
  let logical = 0
  for (let i = 0; i < 200; i++) {
    const disk = new MemoryDevice(SIZE)
    const entry = (type: number): object => ({
      type,
      firstLba: anyNumber(random, 32),
      sectorCount: anyNumber(random, 32),
    })
    const boxAt = 1 + random.below(40)
    const box = {
      type: random.pick([0x05, 0x0f, 0x85]),
      firstLba: boxAt,
      sectorCount: random.pick([SECTORS, 100, 2 ** 32 - 1]),
    }
    writeMbr(disk.bytes, [entry(0x83), box, entry(0x05), entry(0)])
    for (let sector = boxAt; sector < boxAt + 40; sector += 1 + random.below(3)) {
      const link = { type: 0x05, firstLba: random.below(40), sectorCount: 1 + random.below(9) }
      writeMbr(disk.bytes, random.chance(0.9) ? [entry(0x83), link] : [entry(0x83)], { sector })
    }
    const table = await promised(readPartitionTable(disk))
    if (!table) continue
    expectSound(table, disk)
    logical += table.partitions.filter((partition) => partition.logical).length
    await promised(surveyDisk(disk))
  }
  expect(logical).toBeGreaterThan(100)
})

randomTest('any bytes of a good table may be others', async (random) => {
  for (let i = 0; i < 200; i++) {
    const disk = new MemoryDevice(SIZE)
    writeGpt(disk.bytes, { entries: [{}, { firstLba: 200, lastLba: 300 }] })
    for (let change = random.below(6); change >= 0; change--) {
      const at = random.pick([
        440 + random.below(72),
        512 + random.below(92),
        1024 + random.below(256),
        SIZE - 512 + random.below(92),
      ])
      disk.bytes[at] = random.below(256)
    }
    const table = await promised(readPartitionTable(disk))
    if (table) expectSound(table, disk)
  }
})
