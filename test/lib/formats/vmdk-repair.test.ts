import { describe, expect, test } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import { CheckReport } from '../../../lib/contracts/check-report.ts'
import { RepairReport, type RepairScope } from '../../../lib/contracts/repair.ts'
import { isVdiskError } from '../../../lib/errors.ts'
import { vmdk } from '../../../lib/formats/vmdk/driver.ts'
import { promised } from '../../../lib/io/io.ts'
import { MemoryFolder } from '../../support/memory-image.ts'
import { refusal } from '../../support/refusal.ts'
import { contentOf } from '../../support/stores.ts'
import { VmdkFile } from '../../support/vmdk-file.ts'

const MIB = 1 << 20
const GRAIN = 4096

function folderOf(file: VmdkFile): MemoryFolder {
  const folder = new MemoryFolder()
  void folder.image('disk.vmdk').store.write(0, file.bytes)
  return folder
}

async function repair(folder: MemoryFolder, scope: RepairScope = 'all'): Promise<RepairReport> {
  const report = new RepairReport(scope)
  await promised((vmdk.repair as NonNullable<typeof vmdk.repair>)(folder.image('disk.vmdk'), report))
  return report
}

async function findings(folder: MemoryFolder): Promise<string[]> {
  const layer = await promised(vmdk.open(folder.image('disk.vmdk'), 'read'))
  const report = new CheckReport()
  await promised(vmdk.check(layer, report))
  return [...new Set(report.findings.map(({ code }) => code))].sort()
}

/** The first byte of each grain; each was filled with its number and 1. */
async function grainsOf(folder: MemoryFolder): Promise<number[]> {
  const chain = new Chain([await promised(vmdk.open(folder.image('disk.vmdk'), 'read'))])
  const bytes = new Uint8Array(chain.size)
  await promised(chain.read(0, bytes))
  return Array.from({ length: 4 }, (_, grain) => bytes[grain * GRAIN] as number)
}

/**
 * Damages a file, mends it, and mends it again, which must find nothing but room: that stays for who looks for lost content
 * until the next time.
 */
async function mended(damage: (file: VmdkFile) => unknown): Promise<{ folder: MemoryFolder; report: RepairReport }> {
  const file = await VmdkFile.make(5 * MIB, [0, 1, 2])
  await damage(file)
  const folder = folderOf(file)
  const report = await repair(folder)
  const again = (await repair(folder)).done.map(({ code }) => code)
  expect(again.filter((code) => code !== 'ROOM_UNUSED' || report.doubtful.length === 0)).toEqual([])
  const once = Buffer.from(contentOf(folder.image('disk.vmdk').store))
  expect((await repair(folder)).count).toBe(0)
  expect(Buffer.compare(once, contentOf(folder.image('disk.vmdk').store))).toBe(0)
  expect(await findings(folder)).toEqual([])
  await promised((await promised(vmdk.open(folder.image('disk.vmdk'), 'write'))).close())
  return { folder, report }
}

describe('repair of a VMDK', () => {
  test('has nothing to do where nothing is wrong', async () => {
    const { report } = await mended(() => {})
    expect(report.count).toBe(0)
  })

  test('gives a grain that overlaps others in part a place of its own, with what it read', async () => {
    let before = Buffer.alloc(0)
    const { folder, report } = await mended((file) => {
      // The grain of 8 sectors begins within the one of grain 0, and ends within that of grain 2.
      const [first, last] = [file.entry(0), file.entry(2)].sort((a, b) => a - b) as [number, number]
      file.setEntry(2, first + 8).setEntry(1, first + 3)
      before = Buffer.from(file.bytes.subarray((first + 3) * 512, (first + 11) * 512))
      expect(last - first).toBe(16)
    })
    expect(report.done.map(({ code }) => code)).toEqual(['GRAIN_SHARED', 'GRAIN_SHARED', 'GRAIN_SHARED'])
    expect(report.doubtful).toMatchObject([{ offset: 0, length: 3 * GRAIN }])
    const chain = new Chain([await promised(vmdk.open(folder.image('disk.vmdk'), 'read'))])
    const bytes = Buffer.alloc(GRAIN)
    await promised(chain.read(GRAIN, bytes))
    expect(bytes.equals(before)).toBe(true)
    // What the others have changes no more with it.
    expect([...(await grainsOf(folder))].slice(0, 3)).toEqual([1, 1, 2])
  })

  test('leaves grains alone that lie side by side, on whatever borders', async () => {
    const file = await VmdkFile.make(5 * MIB, [0, 1, 2])
    const first = Math.min(...[0, 1, 2].map((grain) => file.entry(grain)))
    const folder = folderOf(
      file
        .setEntry(0, first + 1)
        .setEntry(1, first + 9)
        .setEntry(2, 0),
    )
    expect((await repair(folder)).done).toEqual([])
    expect(Buffer.compare(contentOf(folder.image('disk.vmdk').store), file.bytes)).toBe(0)
  })

  test('writes no descriptor where the header says that one lies, and tables do', async () => {
    const file = await VmdkFile.make(5 * MIB, [0, 1, 2])
    file.patch({ descriptorOffset: file.tableAt(0) / 512, descriptorSize: 4 })
    const folder = folderOf(file)
    const error = await refusal(() => repair(folder))
    expect(error).toMatchObject({ code: 'CORRUPT', where: { structure: 'descriptor', at: file.tableAt(0) } })
    expect(Buffer.compare(contentOf(folder.image('disk.vmdk').store), file.bytes)).toBe(0)
  })

  test.each<[string, (file: VmdkFile) => unknown, string]>([
    ['a table that differs from its copy', (file) => file.setEntry(2, 0, 'copy'), 'TABLE_COPIES_DIFFER'],
    ['a damaged table whose copy is sound', (file) => file.setEntry(1, 2 ** 31, 'own'), 'TABLE_COPIES_DIFFER'],
    ['a damaged copy', (file) => file.setEntry(1, 2 ** 31, 'copy'), 'TABLE_COPIES_DIFFER'],
    [
      'a table in an impossible place',
      (file) => file.bytes.writeUInt32LE(2 ** 31, file.directoryEntryAt(0)),
      'TABLE_MISPLACED',
    ],
    [
      'a copy in an impossible place',
      (file) => file.bytes.writeUInt32LE(2 ** 31, file.directoryEntryAt(0, true)),
      'TABLE_COPY_MISSING',
    ],
    ['a directory past the end', (file) => file.patch({ directoryOffset: 2n ** 33n }), 'DIRECTORY_DAMAGED'],
    [
      'a copy of the directory past the end',
      (file) => file.patch({ redundantDirectoryOffset: 2 ** 33 }),
      'DIRECTORY_COPY_DAMAGED',
    ],
    ['the mark of an open file', (file) => file.patch({ unclean: 1 }), 'NOT_CLOSED'],
    ['no content id', (file) => file.describe(file.descriptor.replace(/CID=\w+\n/, '')), 'CONTENT_ID_MISSING'],
    ['another size', (file) => file.describe(file.descriptor.replace('RW 10240', 'RW 10000')), 'SIZES_DIFFER'],
    ['a key twice', (file) => file.describe(`${file.descriptor}CID=00000001\n`), 'DESCRIPTOR_DAMAGED'],
    ['a line that means nothing', (file) => file.describe(`${file.descriptor}\nwhat?\n`), 'DESCRIPTOR_DAMAGED'],
  ])('mends %s without losing anything', async (_, damage, code) => {
    const { folder, report } = await mended(damage)
    expect(report.done.map((one) => one.code)).toContain(code)
    expect(report.doubtful).toEqual([])
    expect(await grainsOf(folder)).toEqual([1, 2, 3, 0])
  })

  test('keeps what is known of the disk', async () => {
    const { folder } = await mended((file) =>
      file.describe(`${file.descriptor}ddb.uuid = "60 00"\nddb.uuid = "other"\n\xff\xfe\n`),
    )
    const { identity, details } = await promised(vmdk.open(folder.image('disk.vmdk'), 'inspect'))
    expect(identity?.kind).toBe('cid')
    expect(details.uuid).toBe('60 00')
  })

  test('a grain in an impossible place is given up, and its range named', async () => {
    const { folder, report } = await mended((file) => file.setEntry(1, 2 ** 31))
    expect(report.doubtful).toEqual([{ offset: GRAIN, length: GRAIN, snapshot: undefined }])
    expect(await grainsOf(folder)).toEqual([1, 0, 3, 0])
  })

  test('grains that share a place get places of their own, and both ranges are named', async () => {
    const { folder, report } = await mended((file) => file.setEntry(2, file.entry(0)))
    expect(report.doubtful.map(({ offset }) => offset)).toEqual([0, 2 * GRAIN])
    expect(await grainsOf(folder)).toEqual([1, 2, 1, 0])
  })

  test('a table that is lost with its copy takes its range along, and no more', async () => {
    const { folder, report } = await mended((file) => {
      for (const copy of [false, true]) file.bytes.writeUInt32LE(2 ** 31, file.directoryEntryAt(1, copy))
    })
    expect(report.doubtful).toEqual([{ offset: 2 * MIB, length: 2 * MIB, snapshot: undefined }])
    expect(await grainsOf(folder)).toEqual([1, 2, 3, 0])
  })

  test('a lost descriptor is made anew from the header; whether there was a parent it cannot know', async () => {
    const { folder, report } = await mended((file) => file.describe('\x01\x02\x03'))
    expect(report.doubtful).toEqual([{ offset: 0, length: 5 * MIB, snapshot: undefined }])
    expect(await grainsOf(folder)).toEqual([1, 2, 3, 0])
  })

  test('a lost descriptor of its own is made anew from the files that are called as its parts', async () => {
    const folder = new MemoryFolder()
    const options = new Map(Object.entries({ subformat: 'twoGbMaxExtentSparse', grain_size: '4K', extent_size: '1M' }))
    const create = vmdk.create as NonNullable<typeof vmdk.create>
    const image = folder.image('disk.vmdk')
    await promised((await promised(create(image, { size: 3 * MIB, parent: undefined, options }))).close())
    await image.store.truncate(0)
    await repair(folder)
    expect(await findings(folder)).toEqual([])
    expect((await promised(vmdk.open(image, 'read'))).size).toBe(3 * MIB)
  })

  test('a lost descriptor without any such file stays lost, and it is said which is missing', async () => {
    const folder = new MemoryFolder()
    folder.image('disk.vmdk')
    const error = await repair(folder).catch((reason: unknown) => reason)
    expect(isVdiskError(error, 'NOT_FOUND') && error.message).toContain('disk-flat.vmdk')
  })

  test('of leaks alone gives back room, and touches nothing else', async () => {
    const file = (await VmdkFile.make(5 * MIB, [0, 1, 2])).setEntry(1, 0)
    file.setEntry(3, 2 ** 31)
    const folder = folderOf(file)
    expect((await repair(folder, 'leaks')).done.map(({ code }) => code)).toEqual(['ROOM_UNUSED'])
    expect(await findings(folder)).toEqual(['GRAIN_MISPLACED'])
  })
})
