import { describe, expect, test } from 'vitest'
import { ZERO_GUID } from '../../../../lib/bytes/guid.ts'
import { refusal } from '../../../support/refusal.ts'
import { contentOf } from '../../../support/stores.ts'
import { KIB, MIB, type VhdxFile } from '../../../support/vhdx-file.ts'
import { expectMended, findings, linesOf, repair, salvage, sectorsOf } from '../../../support/vhdx-repair.ts'
import { ITEM, type Spoil, written } from '../../../support/vhdx-spoiled.ts'

describe('the region table', () => {
  test.each([0, 1])('a damaged copy, %d, is written anew', async (slot) => {
    const { file, content } = await written()
    const at = [192, 256].map((k) => k * KIB)[slot] as number
    file.put(at + 40000, Buffer.from('x'))
    const { dataWrite } = file.header
    expect(await findings(file)).toEqual(['REGION_TABLE_DAMAGED'])
    expect(linesOf(await expectMended(file, content))).toEqual([`REGION_TABLE_DAMAGED ${at}`])
    expect(file.header.dataWrite).toBe(dataWrite)
  })

  test('both copies damaged in different places: together they are whole', async () => {
    const { file, content } = await written()
    file.put(192 * KIB + 17, Buffer.from('x'))
    file.put(256 * KIB + 30000, Buffer.from('y'))
    expect(await refusal(() => file.read())).toMatchObject({
      code: 'CORRUPT',
      where: { structure: 'region table' },
      advice: expect.stringContaining('--salvage') as string,
    })
    expect(linesOf(await expectMended(file, content))).toEqual([
      `REGION_TABLE_DAMAGED ${192 * KIB}`,
      `REGION_TABLE_DAMAGED ${256 * KIB}`,
    ])
  })

  test('both copies the same, with a checksum that does not fit: that is all that is damaged', async () => {
    const { file, content } = await written()
    for (const k of [192, 256]) file.put(k * KIB + 4, Buffer.from('abcd'))
    expect(linesOf(await expectMended(file, content))).toHaveLength(2)
  })

  test.each<[string, Spoil]>([
    ['in the same place', (file) => [192, 256].map((k, i) => file.put(k * KIB + 20, Buffer.from([i])))],
    [
      'in too many places',
      (file) => {
        for (let sector = 0; sector < 10; sector++) file.put(192 * KIB + sector * 512, Buffer.from('x'))
        file.put(256 * KIB + 33 * 512, Buffer.from('x'))
      },
    ],
    ['and without a signature', (file) => [192, 256].map((k) => file.put(k * KIB, Buffer.from('x')))],
  ])('both copies damaged %s: where the BAT lies would be a guess', async (_, spoil) => {
    const { file } = await written()
    spoil(file)
    const before = contentOf(file.store)
    expect(await refusal(() => repair(file))).toMatchObject({ code: 'CORRUPT', where: { structure: 'region table' } })
    expect(await refusal(() => salvage(file))).toMatchObject({ code: 'CORRUPT', where: { structure: 'region table' } })
    expect(Buffer.compare(contentOf(file.store), before)).toBe(0)
  })

  test('two valid copies that name the same places: the first counts', async () => {
    const { file, content } = await written()
    file.editRegions((view) => view.setUint32(12, 1, true), [1])
    expect(linesOf(await expectMended(file, content))).toEqual([`REGION_TABLES_DIFFER ${256 * KIB}`])
  })

  test.each([0, 1])('two valid copies, of which %d leads nowhere: the other counts', async (slot) => {
    const { file, content } = await written()
    file.editRegions((view) => view.setBigUint64(16 + 32 + 16, BigInt(64 * MIB), true), [slot])
    const at = [192, 256].map((k) => k * KIB)[slot] as number
    expect(linesOf(await expectMended(file, content))).toEqual([`REGION_TABLES_DIFFER ${at}`])
  })

  test('two valid copies that both lead somewhere else stay, and stay a finding', async () => {
    const { file } = await written()
    file.store.truncate(16 * MIB)
    file.editRegions((view) => view.setBigUint64(16 + 16, BigInt(14 * MIB), true), [1])
    const before = contentOf(file.store).slice(0, MIB)
    await repair(file)
    expect(await findings(file)).toContain('REGION_TABLES_DIFFER')
    expect(Buffer.compare(contentOf(file.store).slice(192 * KIB, MIB), before.slice(192 * KIB))).toBe(0)
  })

  test.each<[string, (view: DataView) => void]>([
    ['lies at no whole MiB', (view) => view.setBigUint64(16, 12345n, true)],
    ['lies where the BAT does', (view) => view.setBigUint64(16, BigInt(3 * MIB), true)],
  ])('an entry of a region that nobody needs, and which %s, goes', async (_, edit) => {
    const { file, content } = await written()
    file.editRegions((view, bytes) => {
      view.setUint32(8, 3, true)
      const entry = new DataView(bytes.buffer, bytes.byteOffset + 16 + 2 * 32, 32)
      entry.setUint32(0, 7, true)
      entry.setBigUint64(16, BigInt(20 * MIB), true)
      entry.setUint32(24, MIB, true)
      edit(entry)
    })
    expect(await refusal(() => file.read())).toMatchObject({ code: 'CORRUPT', where: { structure: 'region table' } })
    const { layer, told } = await salvage(file)
    expect(told).toMatchObject([{ code: 'CORRUPT', where: { structure: 'region table' } }])
    expect(Buffer.concat((await sectorsOf(layer)) as Uint8Array[]).equals(content)).toBe(true)
    expect(linesOf(await expectMended(file, content))).toEqual([
      `REGION_DROPPED ${192 * KIB}`,
      `REGION_DROPPED ${256 * KIB}`,
    ])
    expect(file.u32(192 * KIB + 8)).toBe(2)
  })

  test('with a required region that nobody knows is left alone', async () => {
    const { file } = await written()
    file.editRegions((view, bytes) => {
      view.setUint32(8, 3, true)
      const entry = new DataView(bytes.buffer, bytes.byteOffset + 16 + 2 * 32, 32)
      entry.setUint32(0, 7, true)
      entry.setBigUint64(16, BigInt(20 * MIB), true)
      entry.setUint32(24, MIB, true)
      entry.setUint32(28, 1, true)
    })
    for (const slot of [0, 1]) {
      file.put([64, 128].map((k) => k * KIB)[slot] as number, new Uint8Array(4096))
      expect(await refusal(() => repair(file))).toMatchObject({ code: 'UNSUPPORTED', where: { index: 2 } })
      expect((await salvage(file)).told.map(({ code }) => code)).toContain('UNSUPPORTED')
    }
    expect(file.bytes(64 * KIB, 4)).toEqual(new Uint8Array(4))
  })
})

describe('metadata', () => {
  const entryOf =
    (id: string, edit: (view: DataView) => void): Spoil =>
    (file) =>
      file.edit(file.item(id).entryAt, 32, -1, edit)

  test.each<[string, Spoil, string]>([
    ['a table without its signature', (file) => file.put(file.metadata.at, Buffer.from('metadatb')), 'metadata table'],
    [
      'a table that claims too many entries',
      (file) => file.put(file.metadata.at + 10, Buffer.from([0, 8])),
      'metadata table',
    ],
    ['a table that claims too few', (file) => file.put(file.metadata.at + 10, Buffer.from([1, 0])), 'metadata table'],
    ['no identity of the disk', entryOf(ITEM.id, (view) => view.setUint32(24, 1, true)), 'metadata table'],
    [
      'an identity of the disk of four bytes',
      entryOf(ITEM.id, (view) => view.setUint32(20, 4, true)),
      'metadata table',
    ],
    [
      'an identity of the disk outside the region',
      entryOf(ITEM.id, (view) => view.setUint32(16, 1024, true)),
      'metadata table',
    ],
    [
      'an identity of the disk on top of its size',
      (file) => entryOf(ITEM.id, (view) => view.setUint32(16, file.u32(file.item(ITEM.size).entryAt + 16), true))(file),
      'metadata table',
    ],
    [
      'a physical sector size of 3',
      (file) => file.put(file.item(ITEM.physical).at, Buffer.from([3, 0])),
      'metadata region',
    ],
    ['no physical sector size', entryOf(ITEM.physical, (view) => view.setUint32(20, 3, true)), 'metadata table'],
  ])('with %s is written anew', async (_, spoil, structure) => {
    const { file, content } = await written()
    spoil(file)
    expect(await refusal(() => file.read())).toMatchObject({
      code: expect.stringMatching('CORRUPT|UNSUPPORTED') as string,
    })
    const { layer, told } = await salvage(file)
    expect(told.at(0)).toMatchObject({ where: { structure } })
    expect(Buffer.concat((await sectorsOf(layer)) as Uint8Array[]).equals(content)).toBe(true)
    const report = await expectMended(file, content)
    expect(report.done.map(({ code }) => code)).toContain('METADATA_DAMAGED')
    const { details } = await file.read()
    expect(details).toMatchObject({ physicalSectorSize: 4096 })
    expect(details.virtualDiskId).not.toBe(ZERO_GUID)
  })

  test.each<[string, Spoil]>([
    ['lies outside the region', (file) => addItem(file, { offset: 99 })],
    ['is there twice', (file) => [addItem(file, {}), addItem(file, {})]],
    [
      'lies on top of the size of the disk',
      (file) => addItem(file, { offset: file.u32(file.item(ITEM.size).entryAt + 16) }),
    ],
  ])('an item that nobody needs, and which %s, goes', async (_, spoil) => {
    const { file, content } = await written()
    spoil(file)
    expect(await refusal(() => file.read())).toMatchObject({ code: 'CORRUPT', where: { structure: 'metadata table' } })
    const report = await expectMended(file, content)
    expect(report.done.map(({ code }) => code)).toEqual(['METADATA_DAMAGED'])
  })

  test('with rubbish behind the entries that the table claims, as Hyper-V leaves it, is sound', async () => {
    const { file } = await written()
    file.put(file.metadata.at + 32 + 5 * 32, file.bytes(file.item(ITEM.id).entryAt, 32))
    expect((await salvage(file)).told).toEqual([])
    expect((await repair(file)).count).toBe(0)
  })

  test('an item that nobody needs, and which is sound, stays when the table is written anew', async () => {
    const { file, content } = await written()
    addItem(file, {})
    file.put(file.metadata.at + 512 * KIB, Buffer.from('something'))
    file.put(file.metadata.at, Buffer.from('x'))
    await expectMended(file, content)
    const { at, length } = file.item('00000007-0000-0000-0000-000000000000')
    expect(Buffer.from(file.bytes(at, length)).toString()).toBe('something')
  })

  test.each<[string, Spoil]>([
    ['block size', (file) => file.put(file.item(ITEM.parameters).at, Buffer.from([1]))],
    ['size', entryOf(ITEM.size, (view) => view.setUint32(16, 7, true))],
    ['sector size', (file) => file.put(file.item(ITEM.logical).at, Buffer.from([3]))],
    ['file parameters', entryOf(ITEM.parameters, (view) => view.setUint32(20, 4, true))],
    ['items at all', (file) => file.put(file.metadata.at, new Uint8Array(64 * KIB))],
  ])('without its %s is left alone: that would be a guess', async (_, spoil) => {
    const { file } = await written()
    spoil(file)
    const before = contentOf(file.store)
    expect(await refusal(() => repair(file))).toMatchObject({ code: 'CORRUPT' })
    expect(await refusal(() => salvage(file))).toMatchObject({ code: 'CORRUPT' })
    expect(Buffer.compare(contentOf(file.store), before)).toBe(0)
  })

  test('with a required item that nobody knows is left alone, and salvage tells of it', async () => {
    const { file, content } = await written()
    addItem(file, { flags: 4 })
    expect(await refusal(() => repair(file))).toMatchObject({ code: 'UNSUPPORTED', where: { index: 5 } })
    const { layer, told } = await salvage(file)
    expect(told).toMatchObject([{ code: 'UNSUPPORTED', where: { index: 5 } }])
    expect(Buffer.concat((await sectorsOf(layer)) as Uint8Array[]).equals(content)).toBe(true)
  })

  test('with flags that nobody knows is left alone, and salvage tells of it', async () => {
    const { file } = await written()
    file.put(file.item(ITEM.parameters).at + 4, Buffer.from([8]))
    expect(await refusal(() => repair(file))).toMatchObject({ code: 'UNSUPPORTED' })
    expect((await salvage(file)).told).toMatchObject([{ code: 'UNSUPPORTED' }])
  })

  /** An item of 9 bytes that is not the format's, behind the others. */
  function addItem(file: VhdxFile, { offset = 512 * KIB, flags = 0 }: { offset?: number; flags?: number }): void {
    const { at } = file.metadata
    const count = file.u32(at + 8) >>> 16
    file.edit(at + 32 + count * 32, 32, -1, (view) => {
      view.setUint32(0, 7, true)
      view.setUint32(16, offset, true)
      view.setUint32(20, 9, true)
      view.setUint32(24, flags, true)
    })
    file.edit(at, 32, -1, (view) => view.setUint16(10, count + 1, true))
  }
})
