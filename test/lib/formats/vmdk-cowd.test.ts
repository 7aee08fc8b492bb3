import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import { CheckReport } from '../../../lib/contracts/check-report.ts'
import { RepairReport } from '../../../lib/contracts/repair.ts'
import { vmdk } from '../../../lib/formats/vmdk/driver.ts'
import {
  checkImage,
  createDisk,
  createLayer,
  finish,
  inspectImage,
  mergeImage,
  openDisk,
  resizeDisk,
} from '../../../lib/index.ts'
import { promised } from '../../../lib/io/io.ts'
import { MemoryFolder } from '../../support/memory-image.ts'
import { refusal } from '../../support/refusal.ts'
import { contentOf } from '../../support/stores.ts'
import { scratchFolder } from '../../support/temp.ts'
import { cowdOf, deltaDescriptor } from '../../support/vmdk-esx.ts'

const MIB = 1 << 20
const SECTOR = 512
/** Fields of the header. */
const FREE_SECTOR_AT = 28
const UNCLEAN_AT = 1648
const DIRECTORY_AT = 2048

/** Grains 0, 1 and 4100, each filled with its number and 1, in two tables. */
const CAPACITY = 2 * 4096
const GRAINS = [0, 1, 4100]
/** Bytes of the file where the first table lies: header and one sector of directory are before it. */
const TABLE_AT = 5 * SECTOR

function delta(damage: (bytes: Buffer) => unknown = () => {}): Buffer {
  const bytes = cowdOf(CAPACITY, new Map(GRAINS.map((grain) => [grain, Buffer.alloc(SECTOR, 1 + (grain % 255))])))
  damage(bytes)
  return bytes
}

function folderOf(bytes: Buffer): MemoryFolder {
  const folder = new MemoryFolder()
  void folder.image('disk-delta.vmdk').store.write(0, bytes)
  void folder.image('disk.vmdk').store.write(0, Buffer.from(deltaDescriptor('VMFSSPARSE', CAPACITY, 'disk-delta.vmdk')))
  return folder
}

function deltaIn(folder: MemoryFolder): Buffer {
  return Buffer.from(contentOf(folder.image('disk-delta.vmdk').store))
}

async function findings(folder: MemoryFolder): Promise<string[]> {
  const layer = await promised(vmdk.open(folder.image('disk.vmdk'), 'read'))
  const report = new CheckReport()
  await promised(vmdk.check(layer, report))
  return [...new Set(report.findings.map(({ code }) => code))].sort()
}

async function open(folder: MemoryFolder, access: 'read' | 'write'): Promise<Chain> {
  return new Chain([await promised(vmdk.open(folder.image('disk.vmdk'), access))])
}

/** The first byte of some grains. */
async function firstBytes(folder: MemoryFolder, grains = GRAINS): Promise<(number | undefined)[]> {
  const chain = await open(folder, 'read')
  const bytes = new Uint8Array(chain.size)
  await promised(chain.read(0, bytes))
  return grains.map((grain) => bytes[grain * SECTOR])
}

async function repair(folder: MemoryFolder): Promise<RepairReport> {
  const report = new RepairReport('all')
  await promised((vmdk.repair as NonNullable<typeof vmdk.repair>)(folder.image('disk.vmdk'), report))
  return report
}

describe('a delta of ESX that others made', () => {
  test('is written, and its header tells where free room begins', async () => {
    const folder = folderOf(delta())
    const chain = await open(folder, 'write')
    await promised(chain.write(100 * SECTOR, Buffer.alloc(3 * SECTOR, 0x77)))
    await promised(chain.close())
    expect(await firstBytes(folder, [0, 1, 99, 100, 102, 103, 4100])).toEqual([1, 2, 0, 0x77, 0x77, 0, 21])
    const bytes = deltaIn(folder)
    expect(bytes.readUInt32LE(FREE_SECTOR_AT) * SECTOR).toBe(bytes.length)
    expect(bytes.readUInt32LE(UNCLEAN_AT)).toBe(0)
    expect(await findings(folder)).toEqual([])
  })

  test('says so as long as it is open and written', async () => {
    const folder = folderOf(delta())
    const chain = await open(folder, 'write')
    await promised(chain.write(100 * SECTOR, Buffer.alloc(SECTOR, 0x77)))
    await promised(chain.flush())
    expect(deltaIn(folder).readUInt32LE(UNCLEAN_AT)).toBe(1)
    expect(await findings(folder)).toEqual(['NOT_CLOSED'])
    await promised(chain.close())
  })

  test('with a header that calls content free room is not written over, and then tells the truth', async () => {
    const folder = folderOf(delta((bytes) => bytes.writeUInt32LE(6, FREE_SECTOR_AT)))
    expect(await findings(folder)).toEqual(['FREE_SECTOR_LOW'])
    const chain = await open(folder, 'write')
    await promised(chain.write(5000 * SECTOR, Buffer.alloc(9 * SECTOR, 0x77)))
    await promised(chain.close())
    expect(await firstBytes(folder)).toEqual([1, 2, 21])
    expect(await findings(folder)).toEqual([])
  })

  test('that names no table at all, and is shorter than one, reads as nothing', async () => {
    const folder = folderOf(cowdOf(CAPACITY, new Map()))
    expect(deltaIn(folder).length).toBe(TABLE_AT)
    expect(await firstBytes(folder)).toEqual([0, 0, 0])
    expect(await findings(folder)).toEqual([])
  })

  test.each<[string, (bytes: Buffer) => unknown]>([
    ['two grains in one place', (bytes) => bytes.writeUInt32LE(bytes.readUInt32LE(TABLE_AT), TABLE_AT + 4)],
    ['a grain in the header', (bytes) => bytes.writeUInt32LE(3, TABLE_AT)],
    ['a grain in the directory', (bytes) => bytes.writeUInt32LE(4, TABLE_AT)],
    ['a grain in a table', (bytes) => bytes.writeUInt32LE(6, TABLE_AT)],
    ['a grain past the end', (bytes) => bytes.writeUInt32LE(2 ** 31, TABLE_AT)],
    ['a table past the end', (bytes) => bytes.writeUInt32LE(2 ** 31, DIRECTORY_AT)],
    ['a table in the header', (bytes) => bytes.writeUInt32LE(1, DIRECTORY_AT)],
    ['two tables in one place', (bytes) => bytes.writeUInt32LE(5, DIRECTORY_AT + 4)],
  ])('with %s is not opened for writing, and the check finds it', async (_, damage) => {
    const bytes = delta(damage)
    const folder = folderOf(bytes)
    const error = await refusal(async () => await open(folder, 'write'))
    expect(error.code).toBe('CORRUPT')
    expect(deltaIn(folder).equals(bytes)).toBe(true)
    expect(await findings(folder)).not.toEqual([])
  })
})

describe('repair of a delta of ESX', () => {
  test('separates a grain from the rest of one that the end of the disk cuts: it is needed when the disk grows', async () => {
    const grain = 8 * SECTOR
    const contents = [1, 0].map((number) => [number, Buffer.alloc(grain, 1 + number)] as const)
    const bytes = cowdOf(13, new Map(contents), 8)
    const cut = bytes.readUInt32LE(TABLE_AT + 4)
    bytes.writeUInt32LE(cut + 5, TABLE_AT)
    const folder = new MemoryFolder()
    void folder.image('disk-delta.vmdk').store.write(0, bytes)
    void folder.image('disk.vmdk').store.write(0, Buffer.from(deltaDescriptor('VMFSSPARSE', 13, 'disk-delta.vmdk')))
    // What the moved entry left behind is nobody's.
    expect(await findings(folder)).toEqual(['GRAIN_SHARED', 'ROOM_UNUSED'])
    expect((await refusal(() => open(folder, 'write'))).code).toBe('CORRUPT')
    expect((await repair(folder)).done.map(({ code }) => code)).toEqual(['GRAIN_SHARED', 'GRAIN_SHARED'])
    expect(await findings(folder)).not.toContain('GRAIN_SHARED')
    await promised((await open(folder, 'write')).close())
    const disk = Buffer.alloc(13 * SECTOR)
    await promised((await open(folder, 'read')).read(0, disk))
    const wanted = Buffer.alloc(13 * SECTOR, 2).fill(1, 3 * SECTOR, grain)
    expect(disk.equals(wanted)).toBe(true)
  })

  test.each([2 ** 40 - 512, 2 ** 60])('cuts off a hole behind it of any length: %d', async (length) => {
    const folder = folderOf(delta())
    const { store } = folder.image('disk-delta.vmdk')
    const size = store.size()
    void store.truncate(length)
    expect((await repair(folder)).done.map(({ code }) => code)).toEqual(['ROOM_UNUSED'])
    expect(store.size()).toBe(size)
    expect(await firstBytes(folder)).toEqual(GRAINS.map((grain) => 1 + (grain % 255)))
  })

  test.each<[string, (bytes: Buffer) => unknown, string, (number | undefined)[]]>([
    [
      'two grains in one place',
      (bytes) => bytes.writeUInt32LE(bytes.readUInt32LE(TABLE_AT), TABLE_AT + 4),
      'GRAIN_SHARED',
      [1, 1, 21],
    ],
    ['a grain past the end', (bytes) => bytes.writeUInt32LE(2 ** 31, TABLE_AT), 'GRAIN_MISPLACED', [0, 2, 21]],
    ['a grain in the header', (bytes) => bytes.writeUInt32LE(3, TABLE_AT), 'GRAIN_MISPLACED', [0, 2, 21]],
    ['a table past the end', (bytes) => bytes.writeUInt32LE(2 ** 31, DIRECTORY_AT), 'TABLE_MISPLACED', [0, 0, 21]],
    [
      'a header that calls content free',
      (bytes) => bytes.writeUInt32LE(9, FREE_SECTOR_AT),
      'FREE_SECTOR_LOW',
      [1, 2, 21],
    ],
    ['an open file', (bytes) => bytes.writeUInt32LE(1, UNCLEAN_AT), 'NOT_CLOSED', [1, 2, 21]],
  ])('mends %s', async (_, damage, code, content) => {
    const folder = folderOf(delta(damage))
    expect((await repair(folder)).done.map((one) => one.code)).toContain(code)
    expect(await firstBytes(folder)).toEqual(content)
    // Room in which lost content may be stays until the next time.
    await repair(folder)
    expect(await findings(folder)).toEqual([])
    expect((await repair(folder)).count).toBe(0)
    const bytes = deltaIn(folder)
    expect(bytes.readUInt32LE(FREE_SECTOR_AT) * SECTOR).toBe(bytes.length)
    await promised((await open(folder, 'write')).close())
  })
})

describe('a delta of ESX over a flat disk of ESX', () => {
  /** A `vmfs` disk of 3 MiB of bytes 0xee, its CID, and a new delta over it. */
  async function pair(): Promise<{ base: string; child: string; cid: string }> {
    const folder = scratchFolder()
    const [base, child] = [path.join(folder, 'vm.vmdk'), path.join(folder, 'vm-000001.vmdk')]
    {
      await using disk = await createDisk(base, { format: 'vmdk', size: 3 * MIB, options: { subformat: 'vmfs' } })
      await disk.write(0, Buffer.alloc(3 * MIB, 0xee))
    }
    await (await createDisk(child, { format: 'vmdk', parent: base, options: { subformat: 'vmfsSparse' } })).close()
    return { base, child, cid: cidOf(base) }
  }

  const cidOf = (file: string): string => /^CID=(.*)$/m.exec(fs.readFileSync(file, 'latin1'))?.[1] ?? ''

  async function bytesOf(file: string): Promise<Buffer> {
    await using disk = await openDisk(file)
    const bytes = Buffer.alloc(disk.size)
    await disk.read(0, bytes)
    return bytes
  }

  test('consists of the files that ESX would make', async () => {
    const { base, child, cid } = await pair()
    const text = fs.readFileSync(child, 'latin1')
    expect(text).toContain(`parentCID=${cid}`)
    expect(text).toContain('createType="vmfsSparse"')
    expect(text).toContain('RW 6144 VMFSSPARSE "vm-000001-delta.vmdk"')
    expect((await inspectImage(child)).details).toMatchObject({ subformat: 'vmfsSparse' })
    expect((await bytesOf(child)).equals(await bytesOf(base))).toBe(true)
  })

  test('changes its own content id before its first data, and leaves the base alone', async () => {
    const { base, child, cid } = await pair()
    const own = cidOf(child)
    const flat = fs.readFileSync(base.replace('.vmdk', '-flat.vmdk'))
    {
      await using disk = await openDisk(child, { writable: true })
      expect(cidOf(child)).toBe(own)
      await disk.write(MIB + 7, Buffer.alloc(5000, 0x55))
      expect(cidOf(child)).not.toBe(own)
    }
    expect(cidOf(base)).toBe(cid)
    expect(fs.readFileSync(base.replace('.vmdk', '-flat.vmdk')).equals(flat)).toBe(true)
    const wanted = Buffer.alloc(3 * MIB, 0xee).fill(0x55, MIB + 7, MIB + 5007)
    expect((await bytesOf(child)).equals(wanted)).toBe(true)
    expect((await finish(checkImage(child))).findings).toEqual([])
  })

  test('is merged into it', async () => {
    const { base, child, cid } = await pair()
    {
      await using disk = await openDisk(child, { writable: true })
      await disk.write(MIB, Buffer.alloc(5000, 0x55))
    }
    const wanted = await bytesOf(child)
    await finish(mergeImage(child))
    expect((await bytesOf(base)).equals(wanted)).toBe(true)
    expect(cidOf(base)).not.toBe(cid)
  })

  test('grows, and what is new is zero', async () => {
    const { base, child } = await pair()
    await resizeDisk(child, 2 * MIB, { shrink: true })
    await resizeDisk(child, 5 * MIB + 512)
    const bytes = await bytesOf(child)
    expect(bytes.subarray(0, 2 * MIB).equals((await bytesOf(base)).subarray(0, 2 * MIB))).toBe(true)
    expect(bytes.subarray(2 * MIB).every((byte) => byte === 0)).toBe(true)
    expect((await finish(checkImage(child))).findings).toEqual([])
  })

  test('is made by a snapshot that names its type', async () => {
    const { base } = await pair()
    const top = base.replace('.vmdk', '-000002.vmdk')
    await createLayer(base, top, { options: { subformat: 'vmfsSparse' } })
    expect((await inspectImage(top)).details).toMatchObject({ subformat: 'vmfsSparse' })
  })

  test.each([
    [{ grain_size: '256' }, /grain_size cannot be/],
    [{ zeroed_grain: 'on' }, /no mark for grains of zeros/],
    [{ preallocation: 'full' }, /preallocation=full needs a flat/],
  ])('is not made with %o', async (options, why) => {
    const file = path.join(scratchFolder(), 'a.vmdk')
    const all = { subformat: 'vmfsSparse', ...options }
    const error = await refusal(() => createDisk(file, { format: 'vmdk', size: MIB, options: all }))
    expect(error.message).toMatch(why)
    expect(fs.existsSync(file)).toBe(false)
  })
})
