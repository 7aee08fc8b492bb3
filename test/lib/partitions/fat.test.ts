import { describe, expect, test } from 'vitest'
import { type Filesystem, probeFilesystem, promised } from '../../../lib/index.ts'
import { exfatBootSector, fatBootSector } from '../../../lib/partitions/fat-filesystems.ts'
import { MemoryDevice } from '../../support/memory-device.ts'

/** Labels of FAT and exFAT are entries of a directory, which may have seen much since it was made. */

const SECTOR = 512
const FAT_AT = 2 * SECTOR
const SECTORS_OF_FAT = 8
const BEHIND = FAT_AT + SECTORS_OF_FAT * SECTOR

type Boot = Parameters<typeof fatBootSector.encode>[0]

/** A disk with one FAT of 8 sectors behind two reserved ones. */
function fat(change: Partial<Boot>): MemoryDevice {
  const disk = new MemoryDevice(1 << 20)
  const plain: Boot = {
    jump: 0xeb,
    sectorSize: SECTOR,
    clusterSectors: 1,
    reservedSectors: 2,
    fatCount: 1,
    rootEntries: 64,
    sectorCount16: 2048,
    media: 0xf8,
    fatSectors: SECTORS_OF_FAT,
    sectorCount32: 0,
    signature: 0xaa55,
  }
  fatBootSector.encode({ ...plain, ...change }, disk.bytes)
  return disk
}

/** FAT32 with its root directory in cluster 2, and chains of clusters as given. */
function fat32(chain: Record<number, number>): MemoryDevice {
  const disk = fat({ rootEntries: 0, fatSectors: 0 })
  const view = new DataView(disk.bytes.buffer)
  view.setUint32(36, SECTORS_OF_FAT, true)
  view.setUint32(44, 2, true)
  for (const [cluster, next] of Object.entries(chain)) view.setUint32(FAT_AT + Number(cluster) * 4, next, true)
  return disk
}

function clusterAt(cluster: number): number {
  return BEHIND + (cluster - 2) * SECTOR
}

function entry(name: string, attributes: number): Uint8Array {
  const bytes = new Uint8Array(32)
  bytes.set(Buffer.from(name, 'latin1'))
  bytes[11] = attributes
  return bytes
}

function putEntries(disk: MemoryDevice, at: number, ...entries: Uint8Array[]): MemoryDevice {
  for (const [i, one] of entries.entries()) disk.bytes.set(one, at + i * 32)
  return disk
}

async function found(disk: MemoryDevice): Promise<Filesystem | undefined> {
  return await promised(probeFilesystem(disk))
}

const FILE = 0x20
const VOLUME = 0x08
const FULL = Array.from({ length: SECTOR / 32 }, (_, i) => entry(`FILE${i}`.padEnd(11), FILE))

describe('the label of a FAT', () => {
  test.each<[string, Uint8Array[], string | undefined]>([
    ['is the first of its kind', [entry('FILE       ', FILE), entry('LABEL      ', VOLUME)], 'LABEL'],
    ['is not one that was deleted', [entry('\xe5LD        ', VOLUME), entry('NEW        ', VOLUME)], 'NEW'],
    ['is not part of a long name', [entry('Along name ', 0x0f), entry('LABEL      ', VOLUME)], 'LABEL'],
    ['is no folder', [entry('FOLDER     ', VOLUME | 0x10)], undefined],
    ['may begin with what else means deleted', [entry('\x05T\xc9        ', VOLUME)], '\xe5T\xc9'],
    ['lies before the end of the directory', [new Uint8Array(32), entry('OLD        ', VOLUME)], undefined],
  ])('%s', async (_, entries, label) => {
    const filesystem = await found(putEntries(fat({}), BEHIND, ...entries))
    expect(filesystem).toMatchObject({ type: 'vfat' })
    expect(filesystem?.label).toBe(label)
  })

  test('is found wherever the chain of the root directory leads', async () => {
    const disk = putEntries(fat32({ 2: 7, 7: 0xf0000005 }), clusterAt(2), ...FULL)
    putEntries(disk, clusterAt(7), ...FULL)
    putEntries(disk, clusterAt(5), entry('FAR AWAY   ', VOLUME))
    expect(await found(disk)).toMatchObject({ label: 'FAR AWAY' })
  })

  test.each<[string, Record<number, number>]>([
    ['a chain that goes in a circle', { 2: 3, 3: 2 }],
    ['a chain that leads behind the disk', { 2: 0x0fffff00 }],
    ['a chain that leads nowhere', { 2: 1 }],
    ['a chain that ends', { 2: 0x0fffffff }],
  ])('%s has none', async (_, chain) => {
    const disk = putEntries(fat32(chain), clusterAt(2), ...FULL)
    putEntries(disk, clusterAt(3), ...FULL)
    const filesystem = await found(disk)
    expect(filesystem).toMatchObject({ type: 'vfat' })
    expect(filesystem?.label).toBeUndefined()
    expect(disk.calls.length).toBeLessThan(40)
  })
})

describe('what has the form of a FAT, but makes no sense as one', () => {
  test.each<[string, Partial<Boot>]>([
    ['no signature', { signature: 0 }],
    ['no jump', { jump: 0x33 }],
    ['sectors of 0 bytes', { sectorSize: 0 }],
    ['sectors of 1000 bytes', { sectorSize: 1000 }],
    ['sectors of 32768 bytes', { sectorSize: 32768 }],
    ['clusters of 3 sectors', { clusterSectors: 3 }],
    ['nothing reserved', { reservedSectors: 0 }],
    ['no FAT', { fatCount: 0 }],
    ['too many FATs', { fatCount: 9 }],
    ['an unknown medium', { media: 0x12 }],
    ['no root directory', { rootEntries: 0 }],
    ['no room for clusters', { sectorCount16: 14 }],
    ['no sectors', { sectorCount16: 0 }],
  ])('%s', async (_, change) => {
    expect(await found(fat({}))).toMatchObject({ type: 'vfat' })
    expect(await found(fat(change))).toBeUndefined()
  })
})

test.each([
  ['the mark of a serial number and a label', 0x29, 0x1234abcd, '1234-ABCD'],
  ['the mark of a serial number alone', 0x28, 0x1234abcd, '1234-ABCD'],
  ['no such mark', 0, 0x1234abcd, undefined],
  ['a serial number of zero', 0x29, 0, undefined],
])('FAT with %s', async (_, mark, serial, uuid) => {
  const disk = fat({})
  const view = new DataView(disk.bytes.buffer)
  view.setUint8(38, mark)
  view.setUint32(39, serial, true)
  expect(await found(disk)).toMatchObject({ type: 'vfat', uuid })
})

type ExfatBoot = Parameters<typeof exfatBootSector.encode>[0]

/** An exFAT whose root directory is cluster 2, of one sector. */
function exfat(change: Partial<ExfatBoot> = {}): MemoryDevice {
  const disk = new MemoryDevice(1 << 20)
  const plain: ExfatBoot = {
    name: 'EXFAT   ',
    mustBeZero: new Uint8Array(53),
    volumeSectors: 2048,
    fatOffset: FAT_AT / SECTOR,
    heapOffset: BEHIND / SECTOR,
    clusterCount: 1000,
    rootCluster: 2,
    serial: 0x1234abcd,
    sectorShift: 9,
    clusterShift: 0,
    fatCount: 1,
    signature: 0xaa55,
  }
  exfatBootSector.encode({ ...plain, ...change }, disk.bytes)
  return disk
}

describe('exFAT', () => {
  const label = (characters: number, text: string): Uint8Array => {
    const bytes = new Uint8Array(32)
    bytes.set([0x83, characters])
    bytes.set(Buffer.from(text, 'utf16le'), 2)
    return bytes
  }

  test('has a label of as many characters as it says, and a serial number', async () => {
    const disk = putEntries(exfat(), BEHIND, entry('\x81', 0), label(5, 'GrößeXYZ'))
    expect(await found(disk)).toMatchObject({ type: 'exfat', label: 'Größe', uuid: '1234-ABCD' })
  })

  test('may have an empty label, or none', async () => {
    expect((await found(putEntries(exfat(), BEHIND, label(0, ''))))?.label).toBeUndefined()
    expect((await found(exfat()))?.label).toBeUndefined()
  })

  test.each<[string, Partial<ExfatBoot>]>([
    ['something where zeros must be', { mustBeZero: new Uint8Array(53).fill(1) }],
    ['no signature', { signature: 0 }],
    ['tiny sectors', { sectorShift: 8 }],
    ['huge sectors', { sectorShift: 13 }],
    ['huge clusters', { clusterShift: 17 }],
    ['no clusters', { clusterCount: 0 }],
    ['no root directory', { rootCluster: 0 }],
    ['no FAT', { fatCount: 0 }],
  ])('is not what has %s', async (_, change) => {
    expect(await found(exfat(change))).toBeUndefined()
  })

  test('with places behind the disk has no label', async () => {
    for (const change of [{ heapOffset: 2 ** 32 - 1 }, { rootCluster: 2 ** 32 - 1 }, { fatOffset: 2 ** 32 - 1 }]) {
      expect(await found(putEntries(exfat(change), BEHIND, ...FULL))).toMatchObject({ type: 'exfat' })
    }
  })
})
