import { describe, expect, test } from 'vitest'
import type { Struct } from '../../../lib/bytes/struct.ts'
import { Chain } from '../../../lib/chain/chain.ts'
import { raw } from '../../../lib/formats/raw/driver.ts'
import { type Filesystem, probeFilesystem, promised } from '../../../lib/index.ts'
import {
  LVM_CHECKED_FROM,
  luksHeader,
  lvmChecksum,
  lvmLabel,
  raidSuperblock,
} from '../../../lib/partitions/container-signatures.ts'
import {
  btrfsSuperblock,
  extSuperblock,
  f2fsSuperblock,
  squashfsSuperblock,
  swapHeader,
  xfsSuperblock,
} from '../../../lib/partitions/linux-filesystems.ts'
import { ntfsBootSector } from '../../../lib/partitions/microsoft-filesystems.ts'
import { create } from '../../contract/driver-contract.ts'
import { MemoryDevice } from '../../support/memory-device.ts'
import { MemoryFolder } from '../../support/memory-image.ts'

/** A magic number is believed only if all else makes sense: here one thing after the other does not. */

const UUID = '01234567-89ab-4cde-8f01-23456789abcd'

type Values = Readonly<Record<string, unknown>>

async function found(write: (disk: Uint8Array) => void): Promise<Filesystem | undefined> {
  const disk = new MemoryDevice(1 << 20)
  write(disk.bytes)
  return await promised(probeFilesystem(disk))
}

/**
 * @param layout what lies at `at`, with values that make sense
 * @param wrong fields of which each alone makes it something else, or nothing
 */
function believes(
  type: string,
  layout: Struct<never>,
  at: number,
  plain: Values,
  wrong: readonly Values[],
  finish: (disk: Uint8Array) => void = () => {},
): void {
  const write = (values: Values) => (disk: Uint8Array) => {
    layout.encode(values as never, disk.subarray(at))
    finish(disk)
  }
  describe(type, () => {
    test('is believed if all makes sense', async () => {
      expect(await found(write(plain))).toMatchObject({ type })
    })
    test.each(wrong.map((change) => [JSON.stringify(change), change] as const))('is not with %s', async (_, change) => {
      expect(await found(write({ ...plain, ...change }))).toBeUndefined()
    })
  })
}

const EXT = {
  inodeCount: 2048,
  blockCountLow: 8192,
  firstDataBlock: 1,
  logBlockSize: 0,
  blocksPerGroup: 8192,
  inodesPerGroup: 2048,
  magic: 0xef53,
  compatible: 0,
  incompatible: 0,
  readOnlyCompatible: 0,
  uuid: UUID,
  volumeName: new Uint8Array(16),
}
believes('ext2', extSuperblock as Struct<never>, 1024, EXT, [
  { inodeCount: 0 },
  { blockCountLow: 0 },
  { firstDataBlock: 2 },
  { logBlockSize: 7 },
  { blocksPerGroup: 0 },
  { inodesPerGroup: 0 },
  { inodesPerGroup: 8193 },
  // A journal that lies on a device of its own.
  { incompatible: 8 },
])
test.each([
  ['ext3', { compatible: 4 }],
  ['ext4', { incompatible: 0x40 }],
  ['ext4', { compatible: 4, readOnlyCompatible: 0x400 }],
] as const)('%s is told by the features %o', async (type, features) => {
  expect(await found((disk) => extSuperblock.encode({ ...EXT, ...features }, disk.subarray(1024)))).toMatchObject({
    type,
  })
})

const XFS = {
  magic: 'XFSB',
  blockSize: 4096,
  blockCount: 256,
  uuid: UUID,
  groupBlocks: 64,
  groupCount: 4,
  sectorSize: 512,
  volumeName: new Uint8Array(12),
  logBlockSize: 12,
  logSectorSize: 9,
}
believes('xfs', xfsSuperblock as Struct<never>, 0, XFS, [
  { blockSize: 4095 },
  { logBlockSize: 40, blockSize: 256 },
  { sectorSize: 1024 },
  { sectorSize: 256, logSectorSize: 8 },
  { blockCount: 0 },
  { blockCount: 257 },
])

const BTRFS = {
  fileSystemUuid: UUID,
  place: 65536,
  magic: '_BHRfS_M',
  deviceCount: 1,
  sectorSize: 4096,
  nodeSize: 16384,
  label: new Uint8Array(256),
}
believes('btrfs', btrfsSuperblock as Struct<never>, 65536, BTRFS, [
  // A copy of another place.
  { place: 64 << 20 },
  { sectorSize: 4097 },
  { nodeSize: 0 },
  { deviceCount: 0 },
])
test('one of several devices of a btrfs is not mounted alone', async () => {
  const several = await found((disk) => btrfsSuperblock.encode({ ...BTRFS, deviceCount: 3 }, disk.subarray(65536)))
  expect(several).toMatchObject({
    type: 'btrfs',
    mountable: false,
    remark: expect.stringContaining('one of 3 devices'),
  })
})

const F2FS = {
  magic: 0xf2f52010,
  logSectorSize: 9,
  logSectorsPerBlock: 3,
  logBlockSize: 12,
  blockCount: 99,
  uuid: UUID,
  volumeName: 'x',
}
believes('f2fs', f2fsSuperblock as Struct<never>, 1024, F2FS, [{ logBlockSize: 13 }, { blockCount: 0 }])

const SQUASHFS = { magic: 'hsqs', blockSize: 131072, logBlockSize: 17, major: 4, usedBytes: 4096 }
believes('squashfs', squashfsSuperblock as Struct<never>, 0, SQUASHFS, [
  { blockSize: 131073 },
  { logBlockSize: 32, blockSize: 1 },
  { major: 3 },
  { usedBytes: 95 },
])

const SWAP = { version: 1, lastPage: 255, uuid: UUID, label: new Uint8Array(16) }
believes('swap', swapHeader as Struct<never>, 1024, SWAP, [{ version: 0 }, { version: 2 }, { lastPage: 0 }], (disk) =>
  disk.set(Buffer.from('SWAPSPACE2'), 4086),
)

const LUKS = {
  magic: Buffer.from('LUKS\xba\xbe', 'latin1'),
  version: 2,
  label: new Uint8Array(48),
  uuid: new Uint8Array(40),
}
believes('luks', luksHeader as Struct<never>, 0, LUKS, [
  { version: 0 },
  { version: 3 },
  { magic: Buffer.from('LUKS\xba\xbf', 'latin1') },
])

test('luks has a label since its version 2, as long as the field or shorter', async () => {
  const label = Buffer.from('secrets'.padEnd(48, '!'))
  const labelOf = async (change: Values) =>
    (await found((disk) => luksHeader.encode({ ...LUKS, ...change } as never, disk)))?.label
  expect(await labelOf({ label })).toBe('secrets'.padEnd(48, '!'))
  expect(await labelOf({ label: Buffer.from('secrets'.padEnd(48, '\0')) })).toBe('secrets')
  expect(await labelOf({ label, version: 1 })).toBeUndefined()
})

const LVM = { magic: 'LABELONE', sector: 1, checksum: 0, headerAt: 32, type: 'LVM2 001' }
believes('lvm', lvmLabel as Struct<never>, 512, LVM, [{ sector: 0 }, { type: 'LVM1 001' }], (disk) => {
  const checksum = lvmChecksum(disk.subarray(512 + LVM_CHECKED_FROM, 1024))
  lvmLabel.patch(disk.subarray(512), { checksum })
})
test('lvm is not believed with a wrong checksum, and has no UUID where that cannot lie', async () => {
  expect(await found((disk) => lvmLabel.encode(LVM, disk.subarray(512)))).toBeUndefined()
  const far = await found((disk) => {
    lvmLabel.encode({ ...LVM, headerAt: 500 }, disk.subarray(512))
    lvmLabel.patch(disk.subarray(512), { checksum: lvmChecksum(disk.subarray(512 + LVM_CHECKED_FROM, 1024)) })
  })
  expect(far).toMatchObject({ type: 'lvm', uuid: undefined })
})

const RAID = { magic: 0xa92b4efc, major: 1, arrayUuid: UUID, arrayName: new Uint8Array(32), place: 8 }
believes('raid', raidSuperblock as Struct<never>, 4096, RAID, [{ major: 2 }, { place: 0 }])

const NTFS = {
  name: 'NTFS    ',
  sectorSize: 512,
  clusterSectors: 8,
  reservedSectors: 0,
  fatCount: 0,
  rootEntries: 0,
  fatSectors: 0,
  sectorCount: 2047,
  mftCluster: 4,
  recordClusters: 0xf6,
  serial: 5n,
}
believes('ntfs', ntfsBootSector as Struct<never>, 0, NTFS, [
  { sectorSize: 500 },
  { sectorSize: 128 },
  { sectorSize: 8192 },
  { sectorCount: 0 },
  { reservedSectors: 1 },
  { fatCount: 2 },
  { rootEntries: 1 },
  { fatSectors: 1 },
  { clusterSectors: 3 },
  { clusterSectors: 0 },
  { recordClusters: 0 },
  { clusterSectors: 0x81 },
  { recordClusters: 0x81 },
])
test('an NTFS without a serial number has no UUID', async () => {
  expect(await found((disk) => ntfsBootSector.encode({ ...NTFS, serial: 0n }, disk))).toMatchObject({
    type: 'ntfs',
    uuid: undefined,
  })
})
test('the master file table of an NTFS may lie anywhere, and its records may say anything', async () => {
  const far = await found((disk) => ntfsBootSector.encode({ ...NTFS, mftCluster: 2 ** 52 }, disk))
  expect(far).toMatchObject({ type: 'ntfs', label: undefined, uuid: '0000000000000005' })
  for (const [attributesAt, type, length] of [
    [0, 1, 24],
    [65535, 1, 24],
    [56, 0x60, 0],
    [56, 0x60, 2 ** 31],
    [56, 1, 24],
  ]) {
    const filesystem = await found((disk) => {
      ntfsBootSector.encode(NTFS, disk)
      const record = disk.subarray(4 * 4096 + 3 * 1024)
      record.set(Buffer.from('FILE'))
      const view = new DataView(record.buffer, record.byteOffset)
      view.setUint16(20, attributesAt as number, true)
      view.setUint32(56, type as number, true)
      view.setUint32(60, length as number, true)
    })
    expect(filesystem).toMatchObject({ type: 'ntfs', label: undefined })
  }
})

test('on a large disk no structure is read that claims to be huge', async () => {
  const layer = await create(raw, new MemoryFolder(), 'disk', { name: '', size: 2 ** 40 })
  const boot = new Uint8Array(512)
  // A file record of 1 GiB, in the middle of the disk.
  ntfsBootSector.encode({ ...NTFS, mftCluster: 2 ** 20, recordClusters: 0xe2 }, boot)
  const disk = new Chain([layer])
  await promised(disk.write(0, boot))
  let largest = 0
  const read = disk.read.bind(disk)
  disk.read = (offset, target) => {
    largest = Math.max(largest, target.length)
    return read(offset, target)
  }
  expect(await promised(probeFilesystem(disk))).toMatchObject({ type: 'ntfs', label: undefined })
  expect(largest).toBeLessThan(2 << 20)
  await promised(disk.close())
})
