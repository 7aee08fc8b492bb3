import { describe, expect, test } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import type { Identity } from '../../../lib/contracts/identity.ts'
import type { LinkEditor, WritableLayer } from '../../../lib/contracts/layer.ts'
import { vmdk } from '../../../lib/formats/vmdk/driver.ts'
import { promised } from '../../../lib/io/io.ts'
import { MemoryFolder } from '../../support/memory-image.ts'
import { rawBase, rawParent } from '../../support/raw-base.ts'
import { refusal } from '../../support/refusal.ts'
import { delayedStore, withoutHoles } from '../../support/stores.ts'
import { VmdkFile } from '../../support/vmdk-file.ts'
import { content, create, findings, folderOf, HEAD, image, open, repaired } from '../../support/vmdk-folder.ts'

/** Grain tables in places of all kinds, and disks of parts of all kinds. */

const MIB = 1 << 20
const KIB = 1 << 10

const errorsIn = async (folder: MemoryFolder): Promise<string[]> =>
  (await findings(folder)).filter((code) => code.startsWith('error'))

/** A file whose directory, and its copy, name none of these tables. */
function withoutTables(file: VmdkFile, tables: readonly number[]): VmdkFile {
  for (const table of tables) {
    for (const copy of [false, true]) file.bytes.writeUInt32LE(0, file.directoryEntryAt(table, copy))
  }
  return file
}

describe('a table', () => {
  test('that is damaged is read from its copy, also by who goes on writing', async () => {
    const file = await VmdkFile.make(MIB, [0, 1])
    file.setEntry(1, 2 ** 31, 'own')
    const bytes = await content(folderOf(file.bytes))
    expect([bytes[0], bytes[4096], bytes[8192]]).toEqual([1, 2, 0])
  })

  test('whose copy names one place twice is no better for that', async () => {
    const file = await VmdkFile.make(MIB, [0, 1])
    file.setEntry(0, file.entry(1), 'copy').setEntry(1, 2 ** 31, 'own')
    const chain = new Chain([await promised(vmdk.open(image(folderOf(file.bytes)), 'read'))])
    const error = await refusal(() => promised(chain.read(4096, new Uint8Array(1))))
    expect(error).toMatchObject({
      code: 'CORRUPT',
      where: { structure: 'grain table', index: 1, offset: 4096, at: file.entryAt(1) },
    })
  })

  test('may lie behind the one that follows it on the disk', async () => {
    const file = await VmdkFile.make(5 * MIB, [])
    for (const copy of [false, true]) {
      const [first, second] = [0, 1].map((table) => file.tableAt(table, copy) / 512) as [number, number]
      file.bytes.writeUInt32LE(second, file.directoryEntryAt(0, copy))
      file.bytes.writeUInt32LE(first, file.directoryEntryAt(1, copy))
    }
    const folder = folderOf(file.bytes)
    const chain = new Chain([await open(folder)])
    await promised(chain.write(2 * MIB - 4096, Buffer.alloc(8192, 7)))
    await promised(chain.close())
    const wanted = new Uint8Array(5 * MIB).fill(7, 2 * MIB - 4096, 2 * MIB + 4096)
    expect(Buffer.compare(await content(folder), wanted)).toBe(0)
    expect(await errorsIn(folder)).toEqual([])
  })

  test('that is made shares its room with the next one', async () => {
    const folder = folderOf(withoutTables(await VmdkFile.make(96 * MIB, [], { grain_size: '64K' }), [1, 2]).bytes)
    const before = image(folder).store.size() as number
    const chain = new Chain([await open(folder)])
    for (const at of [32 * MIB, 64 * MIB]) await promised(chain.write(at, Buffer.alloc(64 * KIB, 7)))
    await promised(chain.close())
    // Two grains, and one for both tables and their copies.
    expect((image(folder).store.size() as number) - before).toBeLessThanOrEqual(4 * 64 * KIB - 1)
    const reopened = new Chain([await promised(vmdk.open(image(folder), 'read'))])
    for (const at of [32 * MIB, 64 * MIB]) {
      const byte = new Uint8Array(1)
      await promised(reopened.read(at, byte))
      expect(byte[0]).toBe(7)
    }
    expect(await errorsIn(folder)).toEqual([])
  })

  test('that two writers need at once is made once', async () => {
    const folder = folderOf(withoutTables(await VmdkFile.make(5 * MIB, []), [1]).bytes)
    const before = await image(folder).store.size()
    folder.files.set('disk.vmdk', delayedStore(image(folder).store, 3))
    const layer = await open(folder)
    const chain = new Chain([layer])
    const grains = [512, 513, 700, 1023]
    await Promise.all(grains.map((grain) => promised(chain.write(grain * 4096, Buffer.alloc(4096, 7)))))
    await promised(chain.close())
    const wanted = new Uint8Array(5 * MIB)
    for (const grain of grains) wanted.fill(7, grain * 4096, (grain + 1) * 4096)
    expect(Buffer.compare(await content(folder), wanted)).toBe(0)
    // One grain of room holds the table and its copy.
    expect((await image(folder).store.size()) - before).toBe((grains.length + 1) * 4096)
    expect(await findings(folder)).toEqual([])
  })

  test('with entries behind the end of the disk says nothing when the disk grows over them', async () => {
    const file = await VmdkFile.make(MIB, [0])
    file.setEntry(256, file.entry(0))
    const folder = folderOf(file.bytes)
    const layer = await open(folder)
    await promised((layer as WritableLayer).resize(2 * MIB, 0))
    await promised(layer.close())
    expect(Buffer.compare(await content(folder), new Uint8Array(2 * MIB).fill(1, 0, 4096))).toBe(0)
    expect(await errorsIn(folder)).toEqual([])
  })

  test('is made where a delta of ESX that holds nothing grows over what its parent has', async () => {
    const folder = new MemoryFolder()
    const size = MIB
    const base = await rawBase(size + 4096)
    const layer = await create({ subformat: 'vmfsSparse' }, size, { parent: rawParent(size + 4096), folder })
    await promised(layer.resize(size + 4096, size + 4096))
    await promised(layer.close())
    const chain = new Chain([base, await promised(vmdk.open(image(folder), 'read'))])
    const grown = new Uint8Array(4096).fill(9)
    await promised(chain.read(size, grown))
    expect(grown.every((byte) => byte === 0)).toBe(true)
    expect(await errorsIn(folder)).toEqual([])
  })
})

describe('a disk of several parts', () => {
  test('is written only where its descriptor allows that', async () => {
    const folder = folderOf(`${HEAD}RW 8 FLAT "a" 0\nRDONLY 8 FLAT "b" 0\nRW 8 ZERO\n`, { a: 4096, b: 4096 })
    const layer = await open(folder)
    for (const offset of [4096, 8192]) {
      const error = await refusal(() => promised(layer.reserve(offset, 512)))
      expect(error).toMatchObject({ code: 'READ_ONLY', where: { file: 'disk.vmdk', structure: 'descriptor', offset } })
      expect(error.advice).toContain('vdisk convert')
    }
    await promised((await promised(layer.reserve(0, 512))).publish())
  })

  test('gets no parent where a part could not show it', async () => {
    expect((await open(folderOf(`${HEAD}RW 8 FLAT "a" 0\nRW 8 ZERO\n`, { a: 4096 }))).links).toBeUndefined()
  })

  test('in flat files gives nothing back where no holes are known; what is erased is zero all the same', async () => {
    const folder = folderOf(`${HEAD}RW 64 FLAT "a" 0\n`, { a: Buffer.alloc(32 * KIB, 9) })
    folder.files.set('a', withoutHoles(folder.image('a').store))
    const chain = new Chain([await open(folder)])
    await promised(chain.erase(4096, 8192))
    await promised(chain.close())
    expect(Buffer.compare(await content(folder), new Uint8Array(32 * KIB).fill(9).fill(0, 4096, 12_288))).toBe(0)
  })
})

describe('a repair', () => {
  test('leaves room between grains as it is where no holes are known', async () => {
    const file = await VmdkFile.make(MIB, [0, 1, 2])
    file.setEntry(1, 0)
    const folder = folderOf(file.bytes)
    folder.files.set('disk.vmdk', withoutHoles(image(folder).store))
    const { done } = await repaired(folder, 'leaks')
    expect(done.map(({ code }) => code)).toEqual(['ROOM_UNUSED'])
    const bytes = await content(folder)
    expect([bytes[0], bytes[4096], bytes[8192]]).toEqual([1, 0, 3])
  })

  test('of a disk of zeros whose type is lost makes it one of flat files', async () => {
    const folder = folderOf(`${HEAD.replace(/^createType.*\n/m, '')}what?\nRW 8 ZERO\n`)
    expect((await repaired(folder)).done.map(({ code }) => code)).toEqual(['DESCRIPTOR_DAMAGED'])
    const layer = await promised(vmdk.open(image(folder), 'read'))
    expect([layer.size, layer.details.subformat]).toEqual([4096, 'monolithicFlat'])
  })
})

describe('a child that others made', () => {
  const identityOf = (value: string): Identity => ({ kind: 'cid', value, current: true })
  const parent = identityOf('0a0b0c0d')

  test('is merged without knowing more of its parent than the id', async () => {
    const file = await VmdkFile.make(MIB, [0])
    const text = file.descriptor.replace('parentCID=ffffffff', `parentCID=${parent.value}`)
    file.describe(`${text}parentFileNameHint="base.vmdk"\n`)
    const folder = folderOf(file.bytes)
    const layer = await open(folder)
    const links = layer.links as LinkEditor
    await promised(links.beginMerge(parent, identityOf('01020304')))
    expect(layer.parent).toMatchObject({ merging: true, record: undefined, expects: [parent, { value: '01020304' }] })
    await promised(links.endMerge({ into: 'base.vmdk', at: 5 }, undefined))
    await promised(layer.close())
    const merged = await promised(vmdk.open(image(folder), 'read'))
    expect(merged.merged).toEqual({ into: 'base.vmdk', at: 5 })
    expect(merged.parent).toMatchObject({ merging: false, record: undefined, expects: [{ value: '01020304' }] })
  })
})
