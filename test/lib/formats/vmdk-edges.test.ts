import { describe, expect, test } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import { CheckReport } from '../../../lib/contracts/check-report.ts'
import type { NewParent } from '../../../lib/contracts/identity.ts'
import type { LinkEditor, WritableLayer } from '../../../lib/contracts/layer.ts'
import { RepairReport, type RepairScope } from '../../../lib/contracts/repair.ts'
import { vmdk } from '../../../lib/formats/vmdk/driver.ts'
import { promised } from '../../../lib/io/io.ts'
import { MemoryStore } from '../../../lib/io/memory.ts'
import { MemoryFolder } from '../../support/memory-image.ts'
import { rawParent } from '../../support/raw-base.ts'
import { refusal } from '../../support/refusal.ts'
import { watchedStore } from '../../support/stores.ts'
import { VmdkFile } from '../../support/vmdk-file.ts'

/** VMDKs of several parts and of odd ones, and what their makers, checks and repairs say to them. */

const MIB = 1 << 20
const SECTOR = 512
const HEAD = '# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType="custom"\n'

/** @param parts files beside the image `disk.vmdk`: their bytes, or how many zeros they are */
function folderOf(
  content: Uint8Array | string,
  parts: Readonly<Record<string, Uint8Array | number>> = {},
): MemoryFolder {
  const folder = new MemoryFolder()
  const add = (name: string, bytes: Uint8Array): void =>
    void folder.files.set(name, new MemoryStore(name, { content: bytes }))
  add('disk.vmdk', typeof content === 'string' ? Buffer.from(content, 'latin1') : content)
  for (const [name, part] of Object.entries(parts)) add(name, typeof part === 'number' ? new Uint8Array(part) : part)
  return folder
}

const image = (folder: MemoryFolder): ReturnType<MemoryFolder['image']> => folder.image('disk.vmdk')

async function open(folder: MemoryFolder): Promise<WritableLayer> {
  return (await promised(vmdk.open(image(folder), 'write'))) as WritableLayer
}

async function findings(folder: MemoryFolder): Promise<string[]> {
  const report = new CheckReport()
  await promised(vmdk.check(await promised(vmdk.open(image(folder), 'read')), report))
  return report.findings.map(({ severity, code }) => `${severity} ${code}`)
}

async function repaired(folder: MemoryFolder, scope: RepairScope = 'all'): Promise<RepairReport> {
  const report = new RepairReport(scope)
  await promised((vmdk.repair as NonNullable<typeof vmdk.repair>)(image(folder), report))
  return report
}

async function content(folder: MemoryFolder): Promise<Uint8Array> {
  const layer = await promised(vmdk.open(image(folder), 'read'))
  const bytes = new Uint8Array(layer.size)
  await promised(new Chain([layer]).read(0, bytes))
  return bytes
}

async function create(
  options: Readonly<Record<string, string>>,
  size: number,
  { parent, folder = new MemoryFolder() }: { parent?: NewParent | undefined; folder?: MemoryFolder } = {},
): Promise<WritableLayer> {
  const make = vmdk.create as NonNullable<typeof vmdk.create>
  return await promised(make(image(folder), { size, parent, options: new Map(Object.entries(options)) }))
}

describe('making a disk', () => {
  test.each<[string, Record<string, string>, number, boolean, string]>([
    ['a hardware version that is no number', { hwversion: 'x' }, MIB, false, 'hwversion cannot be "x"'],
    ['grains of 3 KiB', { grain_size: '3K' }, MIB, false, 'grain_size cannot be 3K'],
    [
      'parts of half a grain',
      { subformat: 'twoGbMaxExtentSparse', extent_size: '100K' },
      MIB,
      false,
      'a multiple of the size of grains',
    ],
    ['a sparse file of 4 TiB', {}, 2 ** 42, false, 'less than 2 TiB'],
    [
      'more parts than any',
      { subformat: 'twoGbMaxExtentFlat', extent_size: '1M' },
      5 * 2 ** 30,
      false,
      'more than 4096 files',
    ],
    ['a flat child', { subformat: 'monolithicFlat' }, MIB, true, 'no place for a parent'],
    ['marks of zeros in a flat file', { subformat: 'monolithicFlat', zeroed_grain: 'on' }, MIB, false, 'has no grains'],
    ['marks of zeros for ESX', { subformat: 'vmfsSparse', zeroed_grain: 'on' }, MIB, false, 'no mark for grains'],
    ['a stream with other grains', { subformat: 'streamOptimized', grain_size: '4K' }, MIB, false, 'grains of 64K'],
    ['a stream as a child', { subformat: 'streamOptimized' }, MIB, true, 'a stream holds a whole disk'],
    ['room for a sparse file', { preallocation: 'full' }, MIB, false, 'needs a flat subformat'],
  ])('refuses %s', async (_, options, size, isChild, words) => {
    const folder = new MemoryFolder()
    const failed = create(options, size, { parent: isChild ? rawParent(size) : undefined, folder })
    const error = await refusal(() => failed)
    expect(error).toMatchObject({ code: 'REFUSED', where: { file: 'disk.vmdk' } })
    expect([error.message.includes(words), image(folder).store.size()]).toEqual([true, 0])
  })

  test.each([
    ['"', 'a name in a descriptor'],
    ['a\nb', 'a name in a descriptor'],
  ])('refuses a parent called %j', async (path) => {
    const failed = create({}, MIB, { parent: { ...rawParent(MIB), path } })
    expect(await refusal(() => failed)).toMatchObject({ code: 'REFUSED' })
  })

  test('refuses a VMDK without a content id as a parent', async () => {
    const failed = create({}, MIB, { parent: { ...rawParent(MIB), format: 'vmdk' } })
    expect((await refusal(() => failed)).message).toContain('content id')
  })

  test('for Workstation 6 has its hardware version', async () => {
    expect((await create({ compat6: 'on' }, MIB)).details).toMatchObject({ hardwareVersion: '6' })
  })

  test.each([
    ['falloc', `allocate 0+${MIB}`],
    ['full', `write 0+${MIB}`],
  ])('flat, with preallocation=%s takes its room', async (preallocation, wanted) => {
    const asked: string[] = []
    const folder = new MemoryFolder((inner) => ({
      ...watchedStore(inner, ({ kind, at, length }) => void asked.push(`${kind} ${at}+${length}`)),
      allocate: (at: number, length: number): void => void asked.push(`allocate ${at}+${length}`),
    }))
    await create({ subformat: 'monolithicFlat', preallocation }, MIB, { folder })
    expect(asked).toContain(wanted)
  })
})

describe('a descriptor of its own', () => {
  const seven = new Uint8Array(16 * SECTOR).fill(7)

  test('may have the lines of Windows, parts of zeros, and parts that are only read', async () => {
    const text = `${HEAD}RW 2 FLAT "b" 1\nRW 2 ZERO\nRDONLY 2 FLAT "b" 3\n`
    const folder = folderOf(text.replaceAll('\n', '\r\n'), { b: seven })
    const wanted = new Uint8Array(6 * SECTOR).fill(7).fill(0, 2 * SECTOR, 4 * SECTOR)
    expect(Buffer.compare(await content(folder), wanted)).toBe(0)
    expect(await findings(folder)).toEqual([])
    const chain = new Chain([await open(folder)])
    await promised(chain.write(100, Uint8Array.of(9)))
    await promised(chain.close())
    wanted[100] = 9
    expect(Buffer.compare(await content(folder), wanted)).toBe(0)
  })

  test.each([
    ['a flat part without a file', 'RW 1 FLAT\n', 'UNSUPPORTED', 'names no file'],
    ['a sparse part without a file', 'RW 8 SPARSE\n', 'UNSUPPORTED', 'names no file'],
    ['a delta of ESX without a file', 'RW 8 VMFSSPARSE\n', 'UNSUPPORTED', 'names no file'],
    ['a space-efficient part without a file', 'RW 8 SESPARSE\n', 'UNSUPPORTED', 'names no file'],
    ['a sparse part that is none', 'RW 8 SPARSE "b"\n', 'CORRUPT', 'no sparse extent'],
    ['a delta of ESX that is none', 'RW 8 VMFSSPARSE "b"\n', 'CORRUPT', 'no delta of ESX'],
    ['a space-efficient part that is none', 'RW 8 SESPARSE "b"\n', 'CORRUPT', 'no space-efficient extent'],
    ['a delta of ESX that is too short', 'RW 8 VMFSSPARSE "short"\n', 'CORRUPT', 'ends'],
    ['a space-efficient part that is too short', 'RW 8 SESPARSE "short"\n', 'CORRUPT', 'ends'],
    ['parts that together are too large', 'RW 8796093022208 ZERO\n'.repeat(3), 'LIMIT_EXCEEDED', 'the disk would have'],
  ])('with %s is refused', async (_, lines, code, words) => {
    const folder = folderOf(HEAD + lines, { b: seven, short: 10 })
    const error = await refusal(() => promised(vmdk.open(image(folder), 'read')))
    expect(error.code).toBe(code)
    expect(error.message).toContain(words)
  })

  test('with a sparse part that begins within a grain is refused', async () => {
    const sparse = await VmdkFile.make(MIB, [0])
    const folder = folderOf(`${HEAD}RW 1 FLAT "b" 0\nRW 2048 SPARSE "s"\n`, { b: seven, s: sparse.bytes })
    expect((await refusal(() => open(folder))).code).toBe('UNSUPPORTED')
  })

  test('in a file of which it says that there are more is no disk', async () => {
    const file = await VmdkFile.make(MIB, [0])
    file.describe(file.descriptor.replace(/^RW .*$/m, '$&\nRW 2048 SPARSE "other"'))
    expect((await refusal(() => open(folderOf(file.bytes)))).message).toContain('one of 2 parts of a disk')
  })

  test('of a flat file that is too short is not written', async () => {
    const folder = folderOf(`${HEAD}RW 20 FLAT "b" 0\n`, { b: seven })
    expect(await refusal(() => open(folder))).toMatchObject({ code: 'CORRUPT', where: { structure: 'descriptor' } })
  })

  test('of a part of a file shrinks and grows within it, and shows nothing of what lay behind', async () => {
    const folder = folderOf(`${HEAD}RW 8 FLAT "b" 1\n`, { b: seven })
    const layer = await open(folder)
    await promised(layer.resize(4 * SECTOR, 0))
    await promised(layer.resize(4 * SECTOR, 0))
    await promised(layer.resize(10 * SECTOR, 0))
    await promised(layer.close())
    const wanted = new Uint8Array(10 * SECTOR).fill(7, 0, 4 * SECTOR)
    expect(Buffer.compare(await content(folder), wanted)).toBe(0)
    expect((folder.files.get('b') as MemoryStore).size()).toBe(16 * SECTOR)
  })

  test.each([
    ['RW 8 FLAT "b" 0\n', 1000, 'its sectors have 512 bytes'],
    ['RW 8 FLAT "b" 0\n', 0, 'a file without content is no part of a disk'],
    ['RW 4 FLAT "b" 0\nRDONLY 4 FLAT "b" 4\n', 16 * SECTOR, 'its last part is not to be written'],
    ['RW 4 FLAT "b" 0\nRW 4 FLAT "b" 4\n', 5000 * 4 * SECTOR, 'more than 4096 files'],
  ])('%j does not become %i bytes', async (lines, size, words) => {
    const layer = await open(folderOf(HEAD + lines, { b: seven }))
    const error = await refusal(() => promised(layer.resize(size, 0)))
    expect(error).toMatchObject({ code: 'REFUSED', where: { file: 'disk.vmdk' } })
    expect(error.message).toContain(words)
  })

  test('of several files cannot be emptied in one step', async () => {
    const layer = await open(folderOf(`${HEAD}RW 4 FLAT "b" 0\nRW 4 FLAT "b" 4\n`, { b: seven }))
    const clear = layer.clear as NonNullable<WritableLayer['clear']>
    const error = await refusal(() => promised(clear.call(layer, 8 * SECTOR)))
    expect(error).toMatchObject({ code: 'UNSUPPORTED', where: { file: 'disk.vmdk' } })
  })

  test('does not become a sparse file beyond what tables can name', async () => {
    const file = await VmdkFile.make(MIB, [0])
    const layer = await open(folderOf(file.bytes))
    expect((await refusal(() => promised(layer.resize(2 ** 42, 0)))).message).toContain('would hold more than')
  })
})

describe('what a descriptor says of a parent', () => {
  const child = async (): Promise<MemoryFolder> => {
    const folder = new MemoryFolder()
    await promised((await create({ grain_size: '4K' }, MIB, { parent: rawParent(MIB), folder })).close())
    return folder
  }

  test('goes with the parent', async () => {
    const folder = await child()
    const layer = await open(folder)
    expect((await promised(layer.map(0, 4096))).kind).toBe('parent')
    await promised((layer.links as LinkEditor).setParent(undefined))
    expect((await promised(layer.map(0, 4096))).kind).toBe('zero')
    await promised(layer.close())
    expect((await promised(vmdk.open(image(folder), 'read'))).parent).toBeUndefined()
  })

  test.each([
    ['cannot be read', (text: string) => text.replace(/(ddb\.vdisk\.link\s*=\s*").*"/, '$1nonsense"'), 1],
    ['names no file', (text: string) => text.replace(/^parentFileNameHint.*\n/m, ''), 1],
    [
      'has no id',
      (text: string) => text.replace(/^parentCID=\w+/m, 'parentCID=ffffffff').replace(/^ddb\.vdisk\.link.*\n/m, ''),
      1,
    ],
  ])('and %s is told', async (_, edit, count) => {
    const made = await child()
    const file = Object.assign(Object.create(VmdkFile.prototype), {
      bytes: Buffer.from((image(made).store as MemoryStore).bytes()),
    }) as VmdkFile
    const before = file.descriptor
    file.describe(edit(before))
    expect(file.descriptor).not.toBe(before)
    const folder = folderOf(file.bytes)
    expect((await findings(folder)).filter((code) => code.includes('PARENT'))).toHaveLength(count)
    expect((await promised(vmdk.open(image(folder), 'read'))).parent).toBeDefined()
  })

  test('and nobody can read goes with a repair', async () => {
    const file = await VmdkFile.make(MIB, [0])
    file.describe(
      `${file.descriptor.replace('parentCID=ffffffff', 'parentCID=0a0b0c0d')}parentFileNameHint="base.vmdk"\nddb.vdisk.link = "nonsense"\n`,
    )
    const folder = folderOf(file.bytes)
    expect((await repaired(folder)).done.map(({ code }) => code)).toContain('PARENT_LINK_INVALID')
    expect((await promised(vmdk.open(image(folder), 'read'))).parent).toMatchObject({ references: ['base.vmdk'] })
    expect(await findings(folder)).toEqual([])
  })

  test('and of a merge that is no note of one is none', async () => {
    const file = await VmdkFile.make(MIB, [0])
    file.describe(`${file.descriptor}ddb.vdisk.merged = "[1]"\n`)
    expect((await promised(vmdk.open(image(folderOf(file.bytes)), 'read'))).merged).toBeUndefined()
  })
})

describe('a check', () => {
  test.each<[string, (file: VmdkFile) => unknown, string]>([
    ['a table whose copy differs', (file) => file.setEntry(2, 0, 'copy'), 'error TABLE_COPIES_DIFFER'],
    [
      'a table whose copy differs, of a file that was not closed',
      (file) => file.setEntry(2, 0, 'copy').patch({ unclean: 1 }),
      'warning TABLE_COPIES_DIFFER',
    ],
    [
      'a copy of a table that is not there',
      (file) => file.bytes.writeUInt32LE(0, file.directoryEntryAt(0, true)),
      'warning TABLE_COPY_MISSING',
    ],
    [
      'a copy of a table in an impossible place',
      (file) => file.bytes.writeUInt32LE(2 ** 31, file.directoryEntryAt(0, true)),
      'warning TABLE_COPY_MISSING',
    ],
    [
      'a table in an impossible place',
      (file) => file.bytes.writeUInt32LE(2 ** 31, file.directoryEntryAt(0)),
      'error TABLE_MISPLACED',
    ],
    ['a directory past the end', (file) => file.patch({ directoryOffset: 2n ** 33n }), 'error DIRECTORY_DAMAGED'],
    [
      'a copy of the directory past the end',
      (file) => file.patch({ redundantDirectoryOffset: 2 ** 33 }),
      'error DIRECTORY_COPY_DAMAGED',
    ],
  ])('tells %s; what it holds is read', async (_, damage, code) => {
    const file = await VmdkFile.make(5 * MIB, [0, 1, 2])
    damage(file)
    const folder = folderOf(file.bytes)
    expect(await findings(folder)).toContain(code)
    const bytes = await content(folder)
    expect([bytes[0], bytes[4096], bytes[8192], bytes[12_288]]).toEqual([1, 2, 3, 0])
  })

  test.each<[string, (file: VmdkFile) => unknown, string]>([
    ['directory lies past its end', (file) => file.patch({ directoryOffset: 2n ** 33n }), 'grain directory lies past'],
    ['copy of the directory does', (file) => file.patch({ redundantDirectoryOffset: 2 ** 33 }), 'copy of its grain'],
    ['table does', (file) => file.bytes.writeUInt32LE(2 ** 31, file.directoryEntryAt(0)), 'where no table can be'],
  ])('is what a writer does not wait for: a file whose %s is not written', async (_, damage, words) => {
    const file = await VmdkFile.make(5 * MIB, [0])
    damage(file)
    const error = await refusal(() => open(folderOf(file.bytes)))
    expect(error).toMatchObject({ code: 'CORRUPT', where: { structure: 'grain directory' } })
    expect(error.message).toContain(words)
  })

  test('finds a grain between others, which is read, not written, and keeps its room with a repair', async () => {
    const file = await VmdkFile.make(MIB, [0, 1, 2])
    const sector = file.entry(1)
    file.setEntry(2, 0).setEntry(1, sector + 1)
    const folder = folderOf(file.bytes)
    expect((await content(folder))[4096]).toBe(2)
    expect((await refusal(() => open(folder))).code).toBe('UNSUPPORTED')
    expect((await repaired(folder)).done).toEqual([])
  })
})

describe('a repair', () => {
  test('cuts room off the end that belongs to nothing', async () => {
    const file = await VmdkFile.make(MIB, [0])
    const folder = folderOf(Buffer.concat([file.bytes, Buffer.alloc(8192, 5)]))
    expect((await repaired(folder, 'leaks')).done.map(({ code }) => code)).toEqual(['ROOM_UNUSED'])
    expect([image(folder).store.size(), await findings(folder)]).toEqual([file.bytes.length, []])
  })

  test.each([
    ['several flat files', { 'disk-f001.vmdk': 4096, 'disk-f002.vmdk': 8192 }, 12_288, 'twoGbMaxExtentFlat'],
    ['one of several flat files', { 'disk-f001.vmdk': 4096 }, 4096, 'twoGbMaxExtentFlat'],
    ['a flat file', { 'disk-flat.vmdk': 4096 }, 4096, 'monolithicFlat'],
  ])('makes a lost descriptor anew from %s', async (_, parts, size, subformat) => {
    const folder = folderOf('', parts)
    const { done, doubtful } = await repaired(folder)
    expect(done.map(({ code }) => code)).toContain('DESCRIPTOR_DAMAGED')
    expect(doubtful).toEqual([{ offset: 0, length: size, snapshot: undefined }])
    const layer = await promised(vmdk.open(image(folder), 'read'))
    expect([layer.size, layer.details.subformat]).toEqual([size, subformat])
  })

  test('of leaks does not mend a descriptor, nor any other that of a device', async () => {
    const broken = folderOf(`${HEAD}what?\nRW 8 FLAT "b" 0\n`, { b: 4096 })
    expect((await refusal(() => repaired(broken, 'leaks'))).code).toBe('CORRUPT')
    expect((await repaired(broken)).done.map(({ code }) => code)).toEqual(['DESCRIPTOR_DAMAGED'])
    const device = folderOf(`${HEAD.replace('custom', 'fullDevice')}RW 8 FLAT "b" 0\n`, { b: 4096 })
    expect((await refusal(() => repaired(device))).code).toBe('UNSUPPORTED')
  })

  test('does not take a file of zeros for a sparse part', async () => {
    const folder = folderOf('', { 'disk-s001.vmdk': 4096 })
    expect((await refusal(() => repaired(folder))).code).toBe('CORRUPT')
  })
})
