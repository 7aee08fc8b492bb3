import { describe, expect, test } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import type { LinkEditor } from '../../../lib/contracts/layer.ts'
import { DescriptorRoom } from '../../../lib/formats/vmdk/descriptor-room.ts'
import { vmdk } from '../../../lib/formats/vmdk/driver.ts'
import { promised } from '../../../lib/io/io.ts'
import { MemoryStore } from '../../../lib/io/memory.ts'
import { MemoryFolder } from '../../support/memory-image.ts'
import { rawParent } from '../../support/raw-base.ts'
import { refusal } from '../../support/refusal.ts'
import { RecordingStore, watchedStore, withoutHoles } from '../../support/stores.ts'
import { VmdkFile } from '../../support/vmdk-file.ts'
import { content, create, findings, folderOf, HEAD, image, open, repaired } from '../../support/vmdk-folder.ts'

/** What cannot be made, what a descriptor says of a parent, and what a check and a repair say of odd files. */

const MIB = 1 << 20

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

  // What is noted of the parent in words of ours counts only together with the id that belongs to it.
  test.each(['vmdk', 'raw'])('and is a note of a %s that says no more is older than its id', async (format) => {
    const file = await VmdkFile.make(MIB, [0])
    const note = `{|22version|22:1,|22format|22:|22${format}|22}`
    const text = file.descriptor.replace('parentCID=ffffffff', 'parentCID=0a0b0c0d')
    file.describe(`${text}parentFileNameHint="base"\nddb.vdisk.link = "${note}"\n`)
    const { parent } = await promised(vmdk.open(image(folderOf(file.bytes)), 'read'))
    expect(parent).toMatchObject({ format: 'vmdk', expects: [{ value: '0a0b0c0d' }], record: undefined })
  })

  test('may be any name in UTF-8, and no other in another encoding', async () => {
    const file = await VmdkFile.make(MIB, [0])
    const layer = await open(folderOf(file.bytes))
    await promised((layer.links as LinkEditor).setParent({ ...rawParent(MIB), path: 'ä.img' }))
    expect(layer.parent?.references).toEqual(['ä.img'])
    file.describe(`${file.descriptor}encoding="windows-1252"\n`)
    const other = await open(folderOf(file.bytes))
    const error = await refusal(() =>
      promised((other.links as LinkEditor).setParent({ ...rawParent(MIB), path: 'ä.img' })),
    )
    expect(error).toMatchObject({ code: 'REFUSED', where: { file: 'disk.vmdk' } })
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
  ])('goes further than a writer: a file whose %s is not written', async (_, damage, words) => {
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

describe('tables that are not there', () => {
  test.each([
    ['with their copies', [false, true]],
    ['of a file without copies', [false]],
  ])('%s are zeros, and are made where something is written', async (_, copies) => {
    const file = await VmdkFile.make(6 * MIB, [0, 600])
    if (copies.length === 1) file.patch({ flags: 1 })
    for (const copy of copies) file.bytes.writeUInt32LE(0, file.directoryEntryAt(1, copy))
    const folder = folderOf(file.bytes)
    expect((await findings(folder)).filter((code) => code.startsWith('error'))).toEqual([])
    const chain = new Chain([await open(folder)])
    await promised(chain.write(3 * MIB, new Uint8Array(100).fill(9)))
    await promised(chain.close())
    const wanted = new Uint8Array(6 * MIB).fill(1, 0, 4096).fill(9, 3 * MIB, 3 * MIB + 100)
    expect(Buffer.compare(await content(folder), wanted)).toBe(0)
    expect((await findings(folder)).filter((code) => code.startsWith('error'))).toEqual([])
  })
})

test('room that belongs to nothing is told where no holes are known, too', async () => {
  const file = await VmdkFile.make(MIB, [0])
  const folder = folderOf(Buffer.concat([file.bytes, Buffer.alloc(8192, 5)]))
  folder.files.set('disk.vmdk', withoutHoles(image(folder).store))
  expect(await findings(folder)).toEqual(['leak ROOM_UNUSED'])
})

describe('a repair', () => {
  test('finishes a change of the descriptor that was not finished', async () => {
    const file = await VmdkFile.make(MIB, [0])
    const { descriptorOffset, descriptorSize } = file.header
    const recording = new RecordingStore(new MemoryStore('disk.vmdk', { content: file.bytes }))
    const room = await promised(DescriptorRoom.read(recording, descriptorOffset * 512, descriptorSize * 512))
    const longer = file.descriptor.replace('# Extent', `#${'x'.repeat(600)}\n# Extent`)
    await promised(room.replace(Buffer.from(longer, 'latin1')))
    const store = new MemoryStore('disk.vmdk', { content: file.bytes })
    const [note] = recording.log
    if (note?.kind === 'write') store.write(note.at, note.bytes)
    const folder = folderOf(store.bytes())
    expect((await findings(folder)).filter((code) => code.includes('DESCRIPTOR'))).toHaveLength(1)
    expect((await repaired(folder)).done.map(({ code }) => code)).toEqual(['DESCRIPTOR_UNFINISHED'])
    expect(await findings(folder)).toEqual([])
  })

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

  test('leaves a stream, and tables that lie one over the other, as they are', async () => {
    const folder = new MemoryFolder()
    await promised((await create({ subformat: 'streamOptimized' }, MIB, { folder })).close())
    expect((await repaired(folder)).done).toEqual([])
    const file = await VmdkFile.make(5 * MIB, [0])
    file.bytes.copy(file.bytes, file.directoryEntryAt(1), file.directoryEntryAt(0), file.directoryEntryAt(0) + 4)
    const before = Buffer.from(file.bytes)
    const overlapping = folderOf(file.bytes)
    expect((await refusal(() => repaired(overlapping))).code).toBe('CORRUPT')
    expect(Buffer.compare((image(overlapping).store as MemoryStore).bytes(), before)).toBe(0)
  })

  test('does not take a file of zeros for a sparse part', async () => {
    const folder = folderOf('', { 'disk-s001.vmdk': 4096 })
    expect((await refusal(() => repaired(folder))).code).toBe('CORRUPT')
  })
})
