import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { chooseFilesystem, type Found, type Wanted } from '../../../fuse/filesystems/filesystem-choice.ts'
import { runSync, type VdiskError } from '../../../lib/index.ts'
import { MemoryDevice } from '../../support/memory-device.ts'
import { must, whyNoPrograms } from '../../support/mounts.ts'
import { refusal } from '../../support/refusal.ts'
import { scratchFolder } from '../../support/temp.ts'

const MIB = 1 << 20
const SECTOR = 512

/** What can be in a partition, made in a part of a file. */
const CONTENTS = {
  ext4: (file: string, at: number, size: number) =>
    must('mkfs.ext4', '-q', '-F', '-E', `offset=${at}`, file, `${size / 1024}k`),
  vfat: (file: string, at: number, size: number) =>
    must('mkfs.vfat', '-F', '12', '--offset', `${at / SECTOR}`, file, `${size / 1024}`),
  luks: (file: string, at: number) => writeAt(file, at, Buffer.from('LUKS\xba\xbe\0\x01', 'latin1')),
  nothing: () => {},
}

interface Part {
  /** as sfdisk has it: a GUID, a letter, or two digits */
  readonly type?: string
  readonly name?: string
  readonly content: keyof typeof CONTENTS
}

function writeAt(file: string, at: number, bytes: Buffer): void {
  const fd = fs.openSync(file, 'r+')
  fs.writeSync(fd, bytes, 0, bytes.length, at)
  fs.closeSync(fd)
}

/** A disk with partitions of 8 MiB each, one after the other. */
function diskWith(label: 'gpt' | 'dos', ...parts: Part[]): MemoryDevice {
  const size = 8 * MIB
  const file = path.join(scratchFolder(), 'disk')
  fs.writeFileSync(file, '')
  fs.truncateSync(file, (parts.length + 1) * size)
  const places = parts.map((_, index) => MIB + index * size)
  const lines = parts.map(({ type = 'L', name }, index) => {
    const named = name === undefined ? '' : `, name="${name}"`
    return `start=${(places[index] as number) / SECTOR}, size=${size / SECTOR}, type=${type}${named}`
  })
  fs.writeFileSync(`${file}.table`, [`label: ${label}`, ...lines].join('\n'))
  must('sh', '-c', `sfdisk --quiet '${file}' < '${file}.table'`)
  for (const [index, { content }] of parts.entries()) CONTENTS[content](file, places[index] as number, size)
  return load(file)
}

/** A disk without partitions. */
function wholeDisk(content: keyof typeof CONTENTS): MemoryDevice {
  const file = path.join(scratchFolder(), 'disk')
  fs.writeFileSync(file, '')
  fs.truncateSync(file, 8 * MIB)
  CONTENTS[content](file, 0, 8 * MIB)
  return load(file)
}

function load(file: string): MemoryDevice {
  const device = new MemoryDevice(fs.statSync(file).size)
  device.bytes.set(fs.readFileSync(file))
  return device
}

const choose = (disk: MemoryDevice, wanted: Wanted = 'sensible'): Found =>
  runSync(chooseFilesystem(disk, wanted, 'server.vhdx'))

/** The error, with what is to be done next. */
async function refused(disk: MemoryDevice, wanted: Wanted = 'sensible'): Promise<VdiskError> {
  return await refusal(async () => choose(disk, wanted))
}

const EFI: Part = { type: 'U', name: 'EFI system partition', content: 'vfat' }
const RESERVED: Part = { type: 'E3C9E316-0B5C-4DB8-817D-F92DF00215AE', content: 'nothing' }
const RECOVERY: Part = { type: 'DE94BBA4-06D1-4D40-A16A-BFD50179D6AC', content: 'ext4' }
const DATA: Part = { name: 'root', content: 'ext4' }
const ENCRYPTED: Part = { name: 'vault', content: 'luks' }

const missing = whyNoPrograms(
  { name: 'sfdisk', package: 'fdisk' },
  { name: 'mkfs.ext4', package: 'e2fsprogs' },
  { name: 'mkfs.vfat', package: 'dosfstools' },
)

describe.skipIf(missing)(`the choice of a file system${missing ? ` (skipped: ${missing})` : ''}`, () => {
  test.each<['gpt' | 'dos', Part[], number]>([
    ['gpt', [EFI, RESERVED, DATA, RECOVERY], 3],
    ['gpt', [{ name: 'boot', content: 'ext4' }, DATA], 2],
    ['dos', [{ type: 'ef', content: 'vfat' }, { content: 'ext4' }, { type: '27', content: 'vfat' }], 2],
    ['gpt', [DATA, { content: 'nothing' }], 1],
  ])('is the partition with the data, of a table %s with %o', (label, parts, number) => {
    const { partition, filesystem } = choose(diskWith(label, ...parts))
    expect(partition?.number).toBe(number)
    expect(filesystem.type).toBe('ext4')
  })

  test('is the disk itself where it has no partitions', () => {
    expect(choose(wholeDisk('ext4'))).toMatchObject({ partition: undefined, filesystem: { type: 'ext4' } })
    expect(choose(wholeDisk('vfat'))).toMatchObject({ partition: undefined, filesystem: { type: 'vfat' } })
  })

  test('is any partition that is asked for by its number', () => {
    const disk = diskWith('gpt', EFI, DATA)
    expect(choose(disk, 1)).toMatchObject({ partition: { number: 1 }, filesystem: { type: 'vfat' } })
    expect(choose(disk, 2)).toMatchObject({ partition: { number: 2 }, filesystem: { type: 'ext4' } })
  })

  test('is left to the user where several may be meant', async () => {
    const { code, message, advice } = await refused(diskWith('gpt', EFI, DATA, { content: 'vfat' }))
    expect(code).toBe('REFUSED')
    expect(message).toBe('Cannot choose a file system of server.vhdx: 2 of its partitions may be meant')
    expect(advice).toBe('Say which: --partition 2 (8 MiB, ext4, Linux, "root"); --partition 3 (8 MiB, vfat, Linux)')
  })

  test('does not fall on a small boot partition beside a large encrypted one', async () => {
    const { message, advice } = await refused(diskWith('gpt', { content: 'ext4' }, ENCRYPTED))
    expect(message).toContain('2 of its partitions may be meant')
    expect(advice).toContain('--partition 2 (8 MiB, luks')
    const alone = await refused(diskWith('gpt', { name: 'boot', content: 'ext4' }, ENCRYPTED))
    expect(alone.message).toBe(
      'Cannot mount partition 2 of server.vhdx: it holds a LUKS container: unlock it with cryptsetup first',
    )
  })

  test('is refused where there are only partitions for machines', async () => {
    const { code, message, advice } = await refused(diskWith('gpt', EFI, RESERVED))
    expect(code).toBe('REFUSED')
    expect(message).toContain('hold only what machines boot from')
    expect(advice).toContain('--partition 1 (')
  })

  test('is refused where no partition has the number, with a list of those there are', async () => {
    const { code, message, advice } = await refused(diskWith('gpt', EFI, DATA), 7)
    expect(code).toBe('NOT_FOUND')
    expect(message).toBe('Cannot mount partition 7 of server.vhdx: there is none of this number')
    expect(advice).toMatch(/^There are: --partition 1 .*; --partition 2 .*"root"\)$/)
  })

  test('is refused where there is nothing to be mounted', async () => {
    const empty = await refused(wholeDisk('nothing'))
    expect([empty.code, empty.message]).toEqual([
      'NOT_FOUND',
      'Cannot mount server.vhdx: it holds no file system that is known here',
    ])
    const blank = await refused(diskWith('gpt', DATA, { content: 'nothing' }), 2)
    expect(blank.message).toBe('Cannot mount partition 2 of server.vhdx: it holds no file system that is known here')
    const unformatted = await refused(diskWith('dos', { content: 'nothing' }))
    expect(unformatted).toMatchObject({ code: 'NOT_FOUND', advice: expect.stringContaining('no known file system') })
  })

  test('tells who asks for a partition of a disk without any what there is instead', async () => {
    const { code, message, advice } = await refused(wholeDisk('ext4'), 1)
    expect([code, message]).toEqual(['NOT_FOUND', 'Cannot mount partition 1 of server.vhdx: it has no partitions'])
    expect(advice).toBe('The disk itself is a file system, ext4: --filesystem')
  })

  test('is refused of a disk that has to be unlocked first, and of a table without partitions', async () => {
    const locked = await refused(wholeDisk('luks'))
    expect([locked.code, locked.message]).toEqual([
      'REFUSED',
      expect.stringMatching(/^Cannot mount server\.vhdx: it holds .*LUKS/i),
    ])
    const none = await refused(diskWith('gpt'), 1)
    expect([none.code, none.advice]).toEqual(['NOT_FOUND', 'There are: no partitions at all'])
  })

  test('is refused where the partition does not lie on the disk', async () => {
    const whole = diskWith('dos', DATA)
    const cut = new MemoryDevice(5 * MIB)
    cut.bytes.set(whole.bytes.subarray(0, cut.size))
    expect((await refused(cut, 1)).code).toBe('CORRUPT')
    expect(await refused(cut)).toMatchObject({ code: 'NOT_FOUND', advice: expect.stringContaining('--partition 1 (') })
  })
})
