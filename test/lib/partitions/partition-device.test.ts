import { expect, test } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import { qcow2 } from '../../../lib/formats/qcow2/driver.ts'
import { raw } from '../../../lib/formats/raw/driver.ts'
import { type FormatDriver, type Partition, PartitionDevice, promised } from '../../../lib/index.ts'
import { type DeviceCase, deviceContract } from '../../contract/device-contract.ts'
import { create } from '../../contract/driver-contract.ts'
import { patternFor } from '../../model/history.ts'
import { MemoryDevice } from '../../support/memory-device.ts'
import { MemoryFolder } from '../../support/memory-image.ts'
import { refusal } from '../../support/refusal.ts'

const LENGTH = (4 << 20) + 1536
const DISK = 8 << 20

function partitionOf(start: number, length = LENGTH): Partition {
  return {
    number: 2,
    start,
    length,
    type: '0x83',
    typeName: 'Linux',
    label: undefined,
    uuid: undefined,
    bootable: false,
    logical: false,
  }
}

/** A partition in the middle of an image that has something everywhere. */
async function partitionOn(driver: FormatDriver, start: number): Promise<DeviceCase> {
  const layer = await create(driver, new MemoryFolder(), 'disk', { name: '', size: DISK })
  const chain = new Chain([layer])
  const content = patternFor(0, 3_000_000, 4)
  await promised(chain.write(start - 512, content))
  const window = new Uint8Array(LENGTH)
  window.set(content.subarray(512))
  return {
    device: new PartitionDevice(chain, partitionOf(start)),
    readOnly: new PartitionDevice(new Chain([layer], { readOnly: true }), partitionOf(start)),
    content: window,
    end: () => promised(chain.close()),
  }
}

deviceContract('a partition on a raw image', () => partitionOn(raw, 1 << 20))
deviceContract('a partition on a qcow2 image', () => partitionOn(qcow2, 1 << 20))
deviceContract('a partition that no granule begins with', () => partitionOn(qcow2, 63 * 512))
deviceContract(
  'a partition on a disk that offers no more than it must',
  async () => {
    const disk = new MemoryDevice(DISK)
    const readOnly = new MemoryDevice(DISK, { writable: false })
    const partition = partitionOf(1 << 20)
    return {
      device: new PartitionDevice(disk, partition),
      readOnly: new PartitionDevice(readOnly, partition),
      content: new Uint8Array(LENGTH),
    }
  },
  { stores: false },
)

test('what lies beside a partition stays as it is, whatever is done within', async () => {
  const disk = new MemoryDevice(4096)
  disk.bytes.fill(0xee)
  const partition = new PartitionDevice(disk, partitionOf(1024, 2048))
  await promised(partition.write(0, new Uint8Array(2048).fill(1)))
  await promised(partition.erase(1024, 1024))
  const expected = [...new Array(1024).fill(0xee), ...new Array(1024).fill(1), ...new Array(1024).fill(0)]
  expect([...disk.bytes]).toEqual([...expected, ...new Array(1024).fill(0xee)])
})

test('a partition tells its disk what it is told, and offers what that offers', async () => {
  const disk = new MemoryDevice(4096)
  let hastened = 0
  const partition = new PartitionDevice(Object.assign(disk, { hasten: () => hastened++ }), partitionOf(0, 512))
  partition.hasten()
  await promised(partition.flush())
  expect([hastened, disk.calls]).toEqual([1, ['flush']])
  expect(partition.transfer).toBeUndefined()
  expect(partition).toMatchObject({ name: 'memory, partition 2', granularity: disk.granularity })
})

test('a partition that its disk cannot hold is refused, with the reason', async () => {
  const disk = new MemoryDevice(4096)
  const make = (partition: Partition) => async () => new PartitionDevice(disk, partition)
  expect(await refusal(make({ ...partitionOf(0, 0), damaged: 'it ends before it begins' }))).toMatchObject({
    code: 'CORRUPT',
    message: 'Cannot use partition 2 of memory: it ends before it begins',
    where: { file: 'memory', structure: 'partition table', index: 2 },
  })
  expect(await refusal(make(partitionOf(4096, 1)))).toMatchObject({ code: 'CORRUPT' })
  await make(partitionOf(4096, 0))()
})
