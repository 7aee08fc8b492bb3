import { describe, expect, test } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import type { WritableLayer } from '../../../lib/contracts/layer.ts'
import { VdiskError } from '../../../lib/errors.ts'
import { vmdk } from '../../../lib/formats/vmdk/driver.ts'
import { type Io, just, promised } from '../../../lib/io/io.ts'
import type { MemoryStore } from '../../../lib/io/memory.ts'
import { MemoryFolder } from '../../support/memory-image.ts'
import { refusal } from '../../support/refusal.ts'
import { watchedStore } from '../../support/stores.ts'
import { VmdkFile } from '../../support/vmdk-file.ts'
import { content, create, findings, folderOf, HEAD, image, open } from '../../support/vmdk-folder.ts'

/** Descriptors with parts of all kinds, legal and not, and what becomes of them when the size of the disk changes. */

const MIB = 1 << 20
const SECTOR = 512

describe('a descriptor of its own', () => {
  const seven = new Uint8Array(16 * SECTOR).fill(7)

  test('may have the lines of Windows, parts of zeros, and parts that are only read', async () => {
    const text = `${HEAD}RW 2 FLAT "b" 1\nRW 2 ZERO\nRDONLY 2 FLAT "b" 3\n`
    const folder = folderOf(text.replaceAll('\n', '\r\n'), { b: seven })
    const wanted = new Uint8Array(6 * SECTOR).fill(7).fill(0, 2 * SECTOR, 4 * SECTOR)
    expect(Buffer.compare(await content(folder), wanted)).toBe(0)
    expect(await findings(folder)).toEqual([])
    const layer = await open(folder)
    expect(layer.details).toMatchObject({ files: ['b', 'b'] })
    const chain = new Chain([layer])
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

  test.each([
    ['flat parts that overlap', 'RW 4 FLAT "b" 0\nRW 4 FLAT "b" 3\n'],
    ['a flat part within one that is only read', 'RDONLY 4 FLAT "b" 2\nRW 1 FLAT "b" 4\n'],
    ['a part that comes twice, the second time as the content of another', 'RW 4 VMFS "b"\nRW 8 ZERO\nRW 4 VMFS "b"\n'],
  ])('with %s is read, and not written: a write to one would change the other', async (_, lines) => {
    const folder = folderOf(HEAD + lines, { b: seven })
    expect((await content(folder))[0]).toBe(7)
    expect(await findings(folder)).toEqual(['error PARTS_OVERLAP'])
    const error = await refusal(() => open(folder))
    expect(error).toMatchObject({ code: 'CORRUPT', where: { file: 'disk.vmdk', structure: 'descriptor' } })
    expect([error.message.includes('in one place of "b"'), error.advice?.includes('vdisk convert')]).toEqual([
      true,
      true,
    ])
  })

  test.each([
    ['is not written where they overlap', 3, ['error PARTS_OVERLAP']],
    ['is written where they lie apart', 4, []],
  ])('with two names of one file for two parts %s', async (_, second, found) => {
    const folder = folderOf(`${HEAD}RW 4 FLAT "b" 0\nRW 4 FLAT "c" ${second}\n`, { b: seven })
    folder.files.set('c', Object.assign(folder.image('b').store, { fileId: () => 'the same' }))
    expect(await findings(folder)).toEqual(found)
    if (found.length === 0) return await promised((await open(folder)).close())
    const error = await refusal(() => open(folder))
    expect(error).toMatchObject({ code: 'CORRUPT', where: { file: 'disk.vmdk', structure: 'descriptor' } })
    expect(error.message).toContain('parts 1 and 2 of the disk lie in one place of "c"')
  })

  test('with parts that are members of one container has no parts in one place', async () => {
    const folder = folderOf(`${HEAD}RW 4 FLAT "b"\nRW 4 FLAT "c"\n`, { b: seven, c: seven })
    for (const member of ['b', 'c']) {
      const wrapping = { container: 'ova', member, fileSize: 1 << 20 }
      Object.assign(folder.image(member).store, { fileId: () => 'the same', wrapping })
    }
    expect(await findings(folder)).toEqual([])
  })

  test('with parts that name a file and are nothing of it is written: zeros, and none', async () => {
    const folder = folderOf(`${HEAD}RW 4 FLAT "b" 0\nRW 4 ZERO "b"\nRW 0 FLAT "b" 1\n`, { b: seven })
    expect(await findings(folder)).toEqual([])
    const chain = new Chain([await open(folder)])
    await promised(chain.write(SECTOR, Uint8Array.of(9)))
    await promised(chain.close())
    expect([...(await content(folder))].indexOf(9)).toBe(SECTOR)
  })

  test('keeps a file of which it gives up one part and not the other', async () => {
    const text = `${HEAD}RW 4 FLAT "disk-f001.vmdk" 0\nRW 4 FLAT "disk-f001.vmdk" 4\n`
    const folder = folderOf(text, { 'disk-f001.vmdk': seven })
    const removeNeighbour = (name: string): Io<void> => {
      folder.files.delete(name)
      return just(undefined)
    }
    const layer = (await promised(vmdk.open({ ...image(folder), removeNeighbour }, 'write'))) as WritableLayer
    await promised(layer.resize(4 * SECTOR, 0))
    await promised(layer.close())
    expect([...folder.files.keys()].sort()).toEqual(['disk-f001.vmdk', 'disk.vmdk'])
    expect(Buffer.compare(await content(folder), new Uint8Array(4 * SECTOR).fill(7))).toBe(0)
  })

  test('does not grow in its last part over another one in the same file', async () => {
    const folder = folderOf(`${HEAD}RW 8 FLAT "b" 4\nRW 4 FLAT "b" 0\n`, { b: seven })
    const layer = await open(folder)
    const error = await refusal(() => promised(layer.resize(14 * SECTOR, 0)))
    expect(error).toMatchObject({ code: 'REFUSED', where: { file: 'disk.vmdk' } })
    expect([error.message.includes('in one place of "b"'), error.advice?.includes('vdisk convert')]).toEqual([
      true,
      true,
    ])
    await promised(layer.close())
    expect(Buffer.compare(await content(folder), new Uint8Array(12 * SECTOR).fill(7))).toBe(0)
  })

  test('with one sparse file for two parts is not written, and for two that are only read is as good as others', async () => {
    const { bytes } = await VmdkFile.make(MIB, [0])
    const lines = (access: string): string => `${access} 2048 SPARSE "b"\n`.repeat(2)
    const folder = folderOf(HEAD + lines('RW'), { b: bytes })
    expect(await findings(folder)).toEqual(['error PARTS_OVERLAP'])
    expect((await refusal(() => open(folder))).code).toBe('CORRUPT')
    const onlyRead = folderOf(HEAD + lines('RDONLY'), { b: bytes })
    expect(await findings(onlyRead)).toEqual([])
    expect([...(await content(onlyRead))].filter((byte) => byte === 1).length).toBe(2 * 4096)
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

  test('of several files grows by files of its own, and leaves those of others when it shrinks', async () => {
    const lines = 'RW 4 FLAT "b" 0\nRW 4 ZERO\nRW 4 FLAT "b" 4\n'
    const folder = folderOf(HEAD + lines, { b: seven })
    const layer = await open(folder)
    await promised(layer.resize(22 * SECTOR, 0))
    await promised(layer.close())
    const text = Buffer.from((image(folder).store as MemoryStore).bytes()).toString('latin1')
    expect(text.match(/^RW .*$/gm)).toEqual([
      'RW 4 FLAT "b" 0',
      'RW 4 ZERO',
      'RW 4 FLAT "b" 4',
      'RW 4 FLAT "disk-f004.vmdk" 0',
      'RW 4 FLAT "disk-f005.vmdk" 0',
      'RW 2 FLAT "disk-f006.vmdk" 0',
    ])
    const wanted = new Uint8Array(22 * SECTOR).fill(7, 0, 4 * SECTOR).fill(7, 8 * SECTOR, 12 * SECTOR)
    expect(Buffer.compare(await content(folder), wanted)).toBe(0)
    const again = await open(folder)
    await promised(again.resize(4 * SECTOR, 0))
    await promised(again.close())
    expect(Buffer.compare(await content(folder), wanted.subarray(0, 4 * SECTOR))).toBe(0)
    expect((folder.files.get('b') as MemoryStore).size()).toBe(16 * SECTOR)
  })

  test('of which only what it says of itself was opened is not read', async () => {
    const folder = folderOf(`${HEAD}RW 8 FLAT "gone" 0\n`)
    const layer = await promised(vmdk.open(image(folder), 'inspect'))
    expect((await refusal(() => promised(layer.map(0, 512)))).code).toBe('REFUSED')
  })

  test('whose files cannot be closed tells so, and closes the others', async () => {
    const folder = folderOf(`${HEAD}RW 4 FLAT "b" 0\nRW 4 FLAT "c" 0\n`, { b: seven, c: seven })
    const closed: string[] = []
    for (const name of ['b', 'c']) {
      const close = (): void => {
        closed.push(name)
        if (name === 'b') throw new VdiskError('IO', { message: 'Cannot close b: a test says so' })
      }
      folder.files.set(name, { ...watchedStore(folder.image(name).store, () => {}), close })
    }
    const layer = await promised(vmdk.open(image(folder), 'read'))
    expect((await refusal(() => promised(layer.close()))).code).toBe('IO')
    expect(closed).toEqual(['b', 'c'])
  })

  test('of several files cannot be emptied in one step', async () => {
    const layer = await open(folderOf(`${HEAD}RW 4 FLAT "b" 0\nRW 4 FLAT "b" 4\n`, { b: seven }))
    const clear = layer.clear as NonNullable<WritableLayer['clear']>
    const error = await refusal(() => promised(clear.call(layer, 8 * SECTOR)))
    expect(error).toMatchObject({ code: 'UNSUPPORTED', where: { file: 'disk.vmdk' } })
  })

  test('in one sparse file is emptied in one step', async () => {
    const file = await VmdkFile.make(6 * MIB, [0, 600])
    const folder = folderOf(file.bytes)
    const layer = await open(folder)
    const clear = layer.clear as NonNullable<WritableLayer['clear']>
    await promised(clear.call(layer, 3 * MIB))
    await promised(layer.close())
    expect(Buffer.compare(await content(folder), new Uint8Array(3 * MIB))).toBe(0)
    expect(await findings(folder)).toEqual([])
  })

  test('whose files would have names that are taken is not made; nor where the medium fails', async () => {
    for (const code of ['REFUSED', 'IO'] as const) {
      const neighbour = (): never => {
        throw new VdiskError(code, { message: 'Cannot make it: a test says so' })
      }
      const shape = { size: MIB, parent: undefined, options: new Map([['subformat', 'monolithicFlat']]) }
      const make = vmdk.create as NonNullable<typeof vmdk.create>
      const failed = promised(make({ ...image(new MemoryFolder()), neighbour }, shape))
      expect((await refusal(() => failed)).code).toBe(code)
    }
  })

  test('in a sparse file that says little gets what it lacks when the disk changes', async () => {
    const file = await VmdkFile.make(MIB, [0])
    file.describe('# Disk DescriptorFile\n# and no more\n')
    const folder = folderOf(file.bytes)
    const { identity, details } = await open(folder)
    expect([identity, details.subformat]).toEqual([undefined, ''])
    const layer = await open(folder)
    await promised(layer.resize(2 * MIB, 0))
    await promised(layer.close())
    const after = await open(folder)
    expect([after.size, after.identity?.kind]).toEqual([2 * MIB, 'cid'])
  })

  test('keeps the geometry of its controller when the disk grows', async () => {
    const folder = new MemoryFolder()
    const layer = await create({ adapter_type: 'lsilogic', grain_size: '4K' }, 64 * MIB, { folder })
    const before = layer.details
    await promised(layer.resize(128 * MIB, 0))
    await promised(layer.close())
    const text = Buffer.from((image(folder).store as MemoryStore).bytes().subarray(0, 8192)).toString('latin1')
    expect(before).toMatchObject({ adapterType: 'lsilogic' })
    expect(/ddb\.geometry\.cylinders = "(\d+)"/.exec(text)?.[1]).toBe('16')
    expect(/ddb\.geometry\.heads = "(\d+)"/.exec(text)?.[1]).toBe('255')
  })

  test('that is large and holds nothing has tables that take no room', async () => {
    const folder = new MemoryFolder()
    await promised((await create({}, 64 * 1024 * MIB, { folder })).close())
    expect((image(folder).store as MemoryStore).occupied()).toBeLessThan(2 * MIB)
    expect(await findings(folder)).toEqual([])
    await promised((await open(folder)).close())
  })

  test('does not become a sparse file beyond what tables can name', async () => {
    const file = await VmdkFile.make(MIB, [0])
    const layer = await open(folderOf(file.bytes))
    expect((await refusal(() => promised(layer.resize(2 ** 42, 0)))).message).toContain('would hold more than')
  })
})
