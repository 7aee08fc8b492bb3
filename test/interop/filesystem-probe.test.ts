import fs from 'node:fs'
import path from 'node:path'
import { expect, test } from 'vitest'
import { type Filesystem, openDisk, probeFilesystem, promised, readPartitionTable } from '../../lib/index.ts'
import { blkidFilesystem, named } from '../support/disk-judges.ts'
import { MemoryDevice } from '../support/memory-device.ts'
import { describeWithPeers, type PeerName, runPeer } from '../support/peers.ts'
import { type Random, randomFor, SEED } from '../support/random.ts'
import { tempFolder } from '../support/temp.ts'

const MIB = 1 << 20
const UUID = '01234567-89ab-4cde-8f01-23456789abcd'
const scratch = tempFolder('filesystems')
let count = 0

/** A new place for a file. */
function place(): string {
  return path.join(scratch, `disk-${++count}`)
}

async function filesystemIn(file: string): Promise<Filesystem | undefined> {
  await using disk = await openDisk(file, { format: 'raw' })
  // A file system that has the whole disk is no partition table, whatever stands in its first sector.
  expect(await promised(readPartitionTable(disk.chain))).toBeUndefined()
  return await promised(probeFilesystem(disk.chain))
}

/** Damages the beginning of a file system in many ways. Whatever comes of it, it comes soon, and is no error. */
async function expectNoHarm(file: string, random: Random): Promise<void> {
  const head = new Uint8Array(128 << 10)
  const handle = fs.openSync(file, 'r')
  fs.readSync(handle, head, 0, head.length, 0)
  fs.closeSync(handle)
  for (let i = 0; i < 200; i++) {
    const device = new MemoryDevice(head.length)
    device.bytes.set(head)
    const base = random.pick([0, 0, 1024, 32 << 10, 64 << 10])
    for (let change = random.below(4); change >= 0; change--) {
      const value = random.pick([0, 1, 0x7f, 0x80, 0xff, random.below(256)])
      const at = base + random.below(128)
      device.bytes.fill(value, at, at + random.pick([1, 2, 4, 8]))
    }
    await promised(probeFilesystem(device))
    await promised(readPartitionTable(device))
    expect(device.calls.length, `VDISK_TEST_SEED=${SEED}`).toBeLessThan(600)
  }
}

type Case = readonly [title: string, type: string, sizeInMib: number, args: readonly string[]]

/** Tests of one program: it is called with the arguments and a file of that size. */
function made(program: PeerName, cases: readonly Case[], input = ''): void {
  describeWithPeers(['blkid', program], `what ${program} makes is named as blkid names it`, () => {
    test.each(cases)('%s', async (title, type, size, args) => {
      const file = place()
      fs.writeFileSync(file, '')
      fs.truncateSync(file, size * MIB)
      runPeer(program, [...args, file], { input })
      const found = await filesystemIn(file)
      expect(named(found)).toEqual(blkidFilesystem(file))
      expect(found?.type).toBe(type)
      await expectNoHarm(file, randomFor(title))
      fs.rmSync(file)
    })
  })
}

made('mkfs.ext4', [
  ['ext2', 'ext2', 8, ['-q', '-F', '-t', 'ext2', '-L', 'a label', '-U', UUID]],
  ['ext2 with large blocks', 'ext2', 64, ['-q', '-F', '-t', 'ext2', '-b', '4096']],
  ['ext3', 'ext3', 16, ['-q', '-F', '-t', 'ext3', '-L', '0123456789abcdef']],
  ['ext4', 'ext4', 16, ['-q', '-F', '-L', 'root']],
  ['ext4 with large clusters', 'ext4', 64, ['-q', '-F', '-O', 'bigalloc,^64bit', '-C', '65536']],
  ['ext4 without a journal', 'ext4', 16, ['-q', '-F', '-O', '^has_journal']],
])
made('mkfs.xfs', [
  ['XFS', 'xfs', 512, ['-q', '-L', 'xfs-label']],
  ['XFS, old, with large sectors', 'xfs', 512, ['-q', '-m', 'crc=0', '-s', 'size=4096', '-b', 'size=4096']],
])
made('mkfs.btrfs', [
  ['btrfs', 'btrfs', 256, ['-q', '-L', 'a label', '-U', UUID]],
  ['btrfs with another checksum', 'btrfs', 256, ['-q', '--csum', 'sha256']],
])
made('mkfs.vfat', [
  ['FAT12', 'vfat', 2, ['-F', '12', '-n', 'SMALL', '-i', '0012abcd']],
  ['FAT16', 'vfat', 32, ['-F', '16', '-n', 'A LABEL']],
  ['FAT32', 'vfat', 64, ['-F', '32', '-n', 'EFI']],
  ['FAT32 in large sectors', 'vfat', 512, ['-F', '32', '-S', '4096', '-n', 'LARGE']],
  ['FAT without a label', 'vfat', 64, []],
])
made('mkfs.ntfs', [
  ['NTFS', 'ntfs', 16, ['-q', '-F', '-f', '-L', 'a label']],
  ['NTFS without a label', 'ntfs', 16, ['-q', '-F', '-f']],
  ['NTFS with large clusters', 'ntfs', 64, ['-q', '-F', '-f', '-c', '65536', '-L', 'x']],
  ['NTFS in large sectors', 'ntfs', 64, ['-q', '-F', '-f', '-s', '4096', '-L', 'y']],
])
made('mkfs.exfat', [
  ['exFAT', 'exfat', 16, ['-L', 'a label']],
  ['exFAT without a label', 'exfat', 16, []],
])
made('mkfs.f2fs', [['F2FS', 'f2fs', 128, ['-q', '-l', 'flash']]])
made('mkswap', [
  ['swap', 'swap', 1, ['-q', '-L', 'swapspace', '-U', UUID]],
  ['swap of a machine with large pages', 'swap', 1, ['-q', '--pagesize', '65536']],
])
made(
  'cryptsetup',
  [
    ['LUKS1', 'luks', 16, ['luksFormat', '-q', '--type', 'luks1', '--pbkdf-force-iterations', '1000']],
    [
      'LUKS2',
      'luks',
      32,
      [
        'luksFormat',
        '-q',
        '--type',
        'luks2',
        '--pbkdf',
        'pbkdf2',
        '--label',
        'safe',
        '--pbkdf-force-iterations',
        '1000',
      ],
    ],
  ],
  'passphrase',
)

/** Tests of one program that packs a folder: it is called with the arguments of `line`. */
function packed(
  program: PeerName,
  title: string,
  type: string,
  line: (folder: string, file: string) => string[],
): void {
  describeWithPeers(['blkid', program], `what ${program} makes is named as blkid names it`, () => {
    test(title, async () => {
      const folder = place()
      fs.mkdirSync(folder)
      fs.writeFileSync(path.join(folder, 'greeting'), 'hello')
      const file = place()
      runPeer(program, line(folder, file))
      const found = await filesystemIn(file)
      expect(named(found)).toEqual(blkidFilesystem(file))
      expect(found?.type).toBe(type)
    })
  })
}

packed('mksquashfs', 'squashfs', 'squashfs', (folder, file) => [folder, file, '-quiet', '-no-progress'])
packed('xorrisofs', 'ISO 9660', 'iso9660', (folder, file) => ['-quiet', '-V', 'A_LABEL', '-o', file, folder])
packed('xorrisofs', 'ISO 9660 with longer names', 'iso9660', (folder, file) => [
  '-quiet',
  '-J',
  '-R',
  '-V',
  'Disc 1',
  '-o',
  file,
  folder,
])

describeWithPeers(['blkid', 'mkfs.ext4', 'mkfs.vfat', 'mkfs.exfat'], 'a file system made over another', () => {
  const over = (...programs: PeerName[]): string => {
    const file = place()
    fs.writeFileSync(file, '')
    fs.truncateSync(file, 64 * MIB)
    for (const program of programs) runPeer(program, [...(program === 'mkfs.ext4' ? ['-q', '-F'] : []), file])
    return file
  }
  test.each<[string, PeerName[]]>([
    ['ext4', ['mkfs.vfat', 'mkfs.ext4']],
    ['vfat', ['mkfs.ext4', 'mkfs.vfat']],
    ['exfat', ['mkfs.ext4', 'mkfs.exfat']],
    ['ext4', ['mkfs.exfat', 'mkfs.ext4']],
  ])('%s', async (type, programs) => {
    expect(await filesystemIn(over(...programs))).toMatchObject({ type })
  })
})
