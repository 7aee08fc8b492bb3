import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { guidToBytes, guidToMixedEndian } from '../../../lib/bytes/guid.ts'
import { type Filesystem, probeFilesystem, promised, readPartitionTable, VdiskError } from '../../../lib/index.ts'
import {
  LVM_CHECKED_FROM,
  lvmChecksum,
  lvmLabel,
  raidSuperblock,
} from '../../../lib/partitions/container-signatures.ts'
import { blkidFilesystem, named } from '../../support/disk-judges.ts'
import { MemoryDevice } from '../../support/memory-device.ts'
import { describeWithPeers } from '../../support/peers.ts'
import { randomTest } from '../../support/random.ts'
import { tempFolder } from '../../support/temp.ts'

/** What mkfs programs make is compared with blkid elsewhere; here are those that nothing at hand makes, and what is none. */

/** Larger than a floppy disk, on which blkid looks for fewer things. */
const SIZE = 2 << 20
const UUID = '01234567-89ab-4cde-8f01-23456789abcd'
const scratch = tempFolder('signatures')

function put(disk: Uint8Array, at: number, ...pieces: (string | Uint8Array)[]): void {
  for (const piece of pieces) {
    const bytes = typeof piece === 'string' ? Buffer.from(piece, 'latin1') : piece
    disk.set(bytes, at)
    at += bytes.length
  }
}

function number(value: number, length: number, order: 'big' | 'little' = 'little'): Uint8Array {
  const bytes = Buffer.alloc(length)
  if (order === 'big') bytes.writeUIntBE(value, length - Math.min(6, length), Math.min(6, length))
  else bytes.writeUIntLE(value, 0, Math.min(6, length))
  return bytes
}

function xdr(text: string): Uint8Array {
  return Buffer.concat([number(text.length, 4, 'big'), Buffer.from(text), Buffer.alloc(-text.length & 3)])
}

/** A pair of a ZFS label: its lengths, its name, its kind, how many, and the value. */
function zfsPair(name: string, kind: number, value: Uint8Array): Uint8Array {
  const rest = Buffer.concat([xdr(name), number(kind, 4, 'big'), number(1, 4, 'big'), value])
  return Buffer.concat([number(rest.length + 8, 4, 'big'), number(rest.length + 8, 4, 'big'), rest])
}

interface Made {
  readonly write: (disk: Uint8Array) => void
  readonly expected: Partial<Filesystem>
  /** bytes that blkid wants a device to have before it looks */
  readonly least?: number
}

const RAID = (place: number): ((disk: Uint8Array) => void) => {
  return (disk) =>
    raidSuperblock.encode(
      {
        magic: 0xa92b4efc,
        major: 1,
        arrayUuid: UUID,
        arrayName: new Uint8Array(Buffer.from('host:md0'.padEnd(32, '\0'))),
        place: place / 512,
      },
      disk.subarray(place),
    )
}

const MADE: Record<string, Made> = {
  HFS_Plus: {
    write: (disk) => {
      put(disk, 1024, 'H+', number(4, 2, 'big'))
      put(disk, 1024 + 40, number(4096, 4, 'big'), number(256, 4, 'big'))
      put(disk, 1024 + 104, Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8))
      put(disk, 1024 + 272, number(40960, 8, 'big'), number(0, 4), number(10, 4, 'big'), number(16, 4, 'big'))
      put(disk, 1024 + 292, number(10, 4, 'big'))
      const catalog = 16 * 4096
      put(disk, catalog + 8, '\x01\x01', number(3, 2, 'big'))
      put(disk, catalog + 14, number(1, 2, 'big'), number(2, 4, 'big'), number(2, 4, 'big'), number(2, 4, 'big'))
      put(disk, catalog + 32, number(4096, 2, 'big'))
      put(disk, catalog + 2 * 4096 + 8, '\xff\x01', number(1, 2, 'big'))
      put(
        disk,
        catalog + 2 * 4096 + 14,
        number(18, 2, 'big'),
        number(1, 4, 'big'),
        number(6, 2, 'big'),
        '\0V\0o\0l\0 \0\xfc\0!',
      )
    },
    expected: { type: 'hfsplus', label: 'Vol \u00fc!', mountable: true },
  },
  APFS: {
    write: (disk) => {
      put(disk, 24, number(0x80000001, 4))
      put(disk, 32, 'NXSB', number(4096, 4), number(256, 8))
      put(disk, 72, guidToBytes(UUID))
    },
    expected: { type: 'apfs', uuid: UUID },
  },
  ReFS: {
    write: (disk) => {
      put(disk, 3, 'ReFS\0\0\0\0')
      put(disk, 16, 'FSRS')
      put(disk, 32, number(512, 4))
    },
    expected: { type: 'refs' },
  },
  BitLocker: {
    write: (disk) => {
      put(disk, 0, '\xeb\x58\x90-FVE-FS-')
      put(disk, 160, guidToMixedEndian('4967d63b-2e29-4ad8-8399-f6a339e3d001'), number(65536, 8))
      put(disk, 65536, '-FVE-FS-', number(64, 2), number(2, 2))
      put(disk, 510, '\x55\xaa')
    },
    expected: { type: 'bitlocker', mountable: false },
  },
  BitLocker_To_Go: {
    write: (disk) => {
      put(disk, 0, '\xeb\x58\x90MSWIN4.1')
      put(disk, 424, guidToMixedEndian('4967d63b-2e29-4ad8-8399-f6a339e3d001'))
      put(disk, 510, '\x55\xaa')
    },
    expected: { type: 'bitlocker', mountable: false },
  },
  LVM: {
    write: (disk) => {
      put(disk, 512 + 32, 'K994MBSn1r7rpShQEWDgUP87Dr9d0MFa')
      lvmLabel.encode({ magic: 'LABELONE', sector: 1, checksum: 0, headerAt: 32, type: 'LVM2 001' }, disk.subarray(512))
      lvmLabel.patch(disk.subarray(512), { checksum: lvmChecksum(disk.subarray(512 + LVM_CHECKED_FROM, 1024)) })
    },
    expected: { type: 'lvm', uuid: 'K994MB-Sn1r-7rpS-hQEW-DgUP-87Dr-9d0MFa', mountable: false },
  },
  RAID_1_2: { write: RAID(4096), expected: { type: 'raid', label: 'host:md0', uuid: UUID, mountable: false } },
  RAID_1_1: { write: RAID(0), expected: { type: 'raid', uuid: UUID } },
  RAID_1_0: { write: RAID(SIZE - 8192), expected: { type: 'raid', uuid: UUID } },
  RAID_0_90: {
    write: (disk) => put(disk, SIZE - 65536, number(0xa92b4efc, 4), number(0, 4), number(90, 4)),
    expected: { type: 'raid', uuid: undefined },
  },
  ZFS: {
    write: (disk) => {
      const pairs = [
        zfsPair('version', 8, number(5000, 8, 'big')),
        zfsPair('name', 9, xdr('tank')),
        zfsPair('pool_guid', 8, number(123456789012, 8, 'big')),
      ]
      put(disk, 16384, '\x01\x01\0\0', number(0, 4), number(1, 4, 'big'), ...pairs)
      for (let slot = 0; slot < 8; slot++) put(disk, 131072 + slot * 1024, number(0xbab10c, 8))
    },
    expected: { type: 'zfs', label: 'tank', uuid: '123456789012', mountable: false },
    least: 64 << 20,
  },
  UDF: {
    write: (disk) =>
      put(disk, 32768, '\0BEA01\x01', new Uint8Array(2041), '\0NSR03\x01', new Uint8Array(2041), '\0TEA01\x01'),
    expected: { type: 'udf' },
  },
  ISO_9660_and_UDF: {
    write: (disk) => {
      put(disk, 32768, '\x01CD001\x01', new Uint8Array(2041), '\xffCD001\x01', new Uint8Array(2041), '\0BEA01\x01')
      put(disk, 32768 + 3 * 2048, '\0NSR02\x01', new Uint8Array(2041), '\0TEA01\x01')
    },
    expected: { type: 'udf' },
  },
}

function diskOf(write: (disk: Uint8Array) => void, size = SIZE): MemoryDevice {
  const device = new MemoryDevice(size)
  write(device.bytes)
  return device
}

async function filesystemOn(device: MemoryDevice): Promise<Filesystem | undefined> {
  return await promised(probeFilesystem(device))
}

describe('what is known by its superblock', () => {
  test.each(Object.entries(MADE))('%s', async (_, { write, expected }) => {
    const found = await filesystemOn(diskOf(write))
    expect(found).toMatchObject(expected)
    if (found?.mountable) expect(found.remark).toBeUndefined()
    else expect(found?.remark).toMatch(/first$/)
  })
})

describeWithPeers(['blkid'], 'blkid knows the same', () => {
  const UNKNOWN_WITHOUT_MORE = ['UDF', 'ISO_9660_and_UDF', 'BitLocker_To_Go', 'RAID_0_90']
  test.each(Object.entries(MADE).filter(([name]) => !UNKNOWN_WITHOUT_MORE.includes(name)))('%s', async (name, made) => {
    const device = diskOf(made.write)
    const file = path.join(scratch, name)
    fs.writeFileSync(file, device.bytes)
    if (made.least) fs.truncateSync(file, made.least)
    expect(named(await filesystemOn(device))).toEqual(blkidFilesystem(file))
  })
})

describe('what is no file system', () => {
  test.each([0, 1, 511, 512, 4095, 65536, SIZE])('%s bytes of zeros', async (size) => {
    expect(await filesystemOn(new MemoryDevice(size))).toBeUndefined()
  })

  const MAGICS: Record<string, (disk: Uint8Array) => void> = {
    ext4: (disk) => put(disk, 1024 + 0x38, number(0xef53, 2)),
    XFS: (disk) => put(disk, 0, 'XFSB'),
    btrfs: (disk) => put(disk, 65536 + 64, '_BHRfS_M'),
    F2FS: (disk) => put(disk, 1024, number(0xf2f52010, 4)),
    squashfs: (disk) => put(disk, 0, 'hsqs'),
    swap: (disk) => put(disk, 4086, 'SWAPSPACE2'),
    NTFS: (disk) => put(disk, 3, 'NTFS    '),
    exFAT: (disk) => put(disk, 3, 'EXFAT   '),
    FAT: (disk) => put(disk, 0, '\xeb\x3c\x90mkfs.fat', new Uint8Array(499), '\x55\xaa'),
    LUKS: (disk) => put(disk, 0, 'LUKS\xba\xbe'),
    LVM: (disk) => put(disk, 512, 'LABELONE'),
    RAID: (disk) => put(disk, 4096, number(0xa92b4efc, 4)),
    HFS_Plus: (disk) => put(disk, 1024, 'H+'),
    APFS: (disk) => put(disk, 32, 'NXSB'),
    ISO_9660: (disk) => put(disk, 32768, '\x02CD001\x01'),
  }
  test.each(Object.entries(MAGICS))('the magic number of %s alone', async (_, write) => {
    expect(await filesystemOn(diskOf(write))).toBeUndefined()
  })

  randomTest('random bytes, with and without magic numbers, are no tables either', async (random) => {
    for (let i = 0; i < 60; i++) {
      const device = new MemoryDevice(random.pick([512, 4096, 70_000, 150_000]))
      device.bytes.set(random.bytes(device.size))
      expect(await filesystemOn(device)).toBeUndefined()
      expect(await promised(readPartitionTable(device))).toBeUndefined()
      device.bytes.set([0x55, 0xaa], 510)
      expect(await promised(readPartitionTable(device))).toBeUndefined()
      for (const write of Object.values(MAGICS)) if (device.size === 150_000 && random.chance(0.2)) write(device.bytes)
      await filesystemOn(device)
      await promised(readPartitionTable(device))
    }
  })
})

test('a ZFS label counts only with the name, the GUID and the version of its pool', async () => {
  const pairs = {
    version: zfsPair('version', 8, number(5000, 8, 'big')),
    name: zfsPair('name', 9, xdr('tank')),
    pool_guid: zfsPair('pool_guid', 8, number(7, 8, 'big')),
  }
  const labelled = async (...chosen: Uint8Array[]): Promise<string | undefined> => {
    const device = new MemoryDevice(SIZE)
    put(device.bytes, 16 << 10, '\x01\x01\0\0', number(0, 8), ...chosen)
    return (await promised(probeFilesystem(device)))?.type
  }
  const { version, name, pool_guid } = pairs
  expect(await labelled(version, name, pool_guid)).toBe('zfs')
  expect(await labelled(name, pool_guid)).toBeUndefined()
  expect(await labelled(version, pool_guid)).toBeUndefined()
  expect(await labelled(version, name)).toBeUndefined()
  expect(await labelled(version, name, zfsPair('pool_guid', 8, number(7, 4, 'big')))).toBeUndefined()
})

test('a volume of BitLocker To Go has its identifier in one of two places', async () => {
  for (const at of [160, 424]) {
    const device = new MemoryDevice(SIZE)
    put(device.bytes, 0, '\xeb\x58\x90MSWIN4.1')
    expect(await filesystemOn(device)).not.toMatchObject({ type: 'bitlocker' })
    put(device.bytes, at, guidToMixedEndian('92a84d3b-dd80-4d0e-9e4e-b1e3284eaed8'))
    expect(await filesystemOn(device)).toMatchObject({ type: 'bitlocker', mountable: false })
  }
})

test('little is read, and a disk that cannot be read says so', async () => {
  const device = new MemoryDevice(SIZE)
  await filesystemOn(device)
  expect(device.calls.length).toBeLessThan(20)
  device.before = () => {
    throw new VdiskError('IO', { message: 'the medium is bad here' })
  }
  await expect(filesystemOn(device)).rejects.toMatchObject({ code: 'IO' })
})
