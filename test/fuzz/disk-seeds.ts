import { MemoryStore } from '../../lib/io/memory.ts'
import { exfatBootSector, fatBootSector } from '../../lib/partitions/fat-filesystems.ts'
import { btrfsSuperblock, extSuperblock, xfsSuperblock } from '../../lib/partitions/linux-filesystems.ts'
import { ntfsBootSector } from '../../lib/partitions/microsoft-filesystems.ts'
import { writeGpt, writeMbr } from '../support/partition-tables.ts'
import { diskAnatomy } from './disk-anatomy.ts'
import { only, type Seed } from './seeds.ts'

const SIZE = 1 << 20
const UUID = '01234567-89ab-4cde-8f01-23456789abcd'
const SECTOR = 512

/** Disks as guests leave them: what lies upon them is all that can be wrong with a raw image. */
export function diskSeeds(): Seed[] {
  const disks: Readonly<Record<string, (disk: Uint8Array) => void>> = {
    GPT: (disk) =>
      writeGpt(disk, { entries: [{}, { firstLba: 128, lastLba: 255 }, undefined, { firstLba: 300, lastLba: 999 }] }),
    'GPT of 4 KiB sectors': (disk) => writeGpt(disk, { sectorSize: 4096, entries: [{ firstLba: 16, lastLba: 31 }] }),
    'GPT with file systems': (disk) => {
      writeGpt(disk, { entries: [{}, { firstLba: 256, lastLba: 511 }, { firstLba: 512, lastLba: 1023 }] })
      ext(disk.subarray(64 * SECTOR))
      xfs(disk.subarray(256 * SECTOR))
      btrfs(disk.subarray(512 * SECTOR))
    },
    MBR: (disk) => {
      writeMbr(disk, [
        { firstLba: 64, sectorCount: 64 },
        { firstLba: 256, sectorCount: 300, status: 0x80, type: 7 },
      ])
      ntfs(disk.subarray(64 * SECTOR))
      fat(disk.subarray(256 * SECTOR))
    },
    'logical partitions': (disk) => {
      writeMbr(disk, [
        { firstLba: 64, sectorCount: 64 },
        { type: 5, firstLba: 200, sectorCount: 800 },
      ])
      writeMbr(
        disk,
        [
          { firstLba: 10, sectorCount: 50 },
          { type: 5, firstLba: 100, sectorCount: 100 },
        ],
        { sector: 200 },
      )
      writeMbr(
        disk,
        [
          { firstLba: 10, sectorCount: 50 },
          { type: 5, firstLba: 300, sectorCount: 100 },
        ],
        { sector: 300 },
      )
      writeMbr(disk, [{ firstLba: 10, sectorCount: 50 }], { sector: 500 })
      ext(disk.subarray(210 * SECTOR))
    },
    ext,
    xfs,
    btrfs,
    ntfs,
    fat,
    exfat,
    nothing: () => {},
  }
  return Object.entries(disks).map(([name, write]) => {
    const content = new Uint8Array(SIZE)
    write(content)
    return { name, format: 'raw', files: only(new MemoryStore('disk', { content })), anatomy: diskAnatomy }
  })
}

function ext(disk: Uint8Array): void {
  const counts = { inodeCount: 2048, blockCountLow: 8192, firstDataBlock: 1, logBlockSize: 0, blocksPerGroup: 8192 }
  const features = { compatible: 4, incompatible: 0x40, readOnlyCompatible: 0 }
  const names = { uuid: UUID, volumeName: new Uint8Array(16) }
  extSuperblock.encode({ ...counts, ...features, ...names, inodesPerGroup: 2048, magic: 0xef53 }, disk.subarray(1024))
}

function xfs(disk: Uint8Array): void {
  const sizes = { blockSize: 4096, blockCount: 256, sectorSize: 512, logBlockSize: 12, logSectorSize: 9 }
  const groups = { groupBlocks: 64, groupCount: 4 }
  xfsSuperblock.encode({ magic: 'XFSB', uuid: UUID, volumeName: new Uint8Array(12), ...sizes, ...groups }, disk)
}

function btrfs(disk: Uint8Array): void {
  const names = { fileSystemUuid: UUID, label: new Uint8Array(256), magic: '_BHRfS_M' }
  btrfsSuperblock.encode(
    { ...names, place: 65536, deviceCount: 1, sectorSize: 4096, nodeSize: 16384 },
    disk.subarray(65536),
  )
}

function ntfs(disk: Uint8Array): void {
  const nothing = { reservedSectors: 0, fatCount: 0, rootEntries: 0, fatSectors: 0 }
  const sizes = { sectorSize: SECTOR, clusterSectors: 8, sectorCount: 2047, mftCluster: 4, recordClusters: 0xf6 }
  ntfsBootSector.encode({ name: 'NTFS    ', serial: 5n, ...nothing, ...sizes }, disk)
  disk.set(Buffer.from('FILE'), 4 * 8 * SECTOR + 3 * 1024)
}

function fat(disk: Uint8Array): void {
  const sizes = { sectorSize: SECTOR, clusterSectors: 1, reservedSectors: 2, fatCount: 1, fatSectors: 8 }
  const counts = { rootEntries: 64, sectorCount16: 2048, sectorCount32: 0 }
  fatBootSector.encode({ jump: 0xeb, media: 0xf8, signature: 0xaa55, ...sizes, ...counts }, disk)
  disk.set(Buffer.from('LABEL      \x08', 'latin1'), 10 * SECTOR)
}

function exfat(disk: Uint8Array): void {
  const fixed = { name: 'EXFAT   ', mustBeZero: new Uint8Array(53), signature: 0xaa55 }
  const places = { volumeSectors: 2048, fatOffset: 2, heapOffset: 10, clusterCount: 1000, rootCluster: 2, fatCount: 1 }
  exfatBootSector.encode({ ...fixed, ...places, serial: 0x1234abcd, sectorShift: 9, clusterShift: 0 }, disk)
  disk.set(Buffer.from('\x83\x01L', 'latin1'), 10 * SECTOR)
}
