import { describe, expect, test } from 'vitest'
import { promised } from '../../../../lib/io/io.ts'
import { refusal } from '../../../support/refusal.ts'
import { MIB, VhdxFile } from '../../../support/vhdx-file.ts'
import { findings, linesOf, repair, salvage } from '../../../support/vhdx-repair.ts'
import { GUID, ITEM, PARENT, SIZE, type Spoil } from '../../../support/vhdx-spoiled.ts'

describe('the parent locator', () => {
  const LOCATOR_AT = (file: VhdxFile): number => file.item(ITEM.locator).at
  const entryAt = (file: VhdxFile, i: number): number => LOCATOR_AT(file) + 20 + i * 12

  test('with an entry that points outside it keeps the others: a path may be missing', async () => {
    const file = await VhdxFile.make(SIZE, {}, PARENT)
    // linkage, relative path, absolute path
    file.edit(entryAt(file, 1), 12, -1, (view) => view.setUint32(0, 0xffffff, true))
    expect(await refusal(() => file.read())).toMatchObject({
      code: 'CORRUPT',
      where: { structure: 'parent locator', index: 1 },
    })
    const { dataWrite } = file.header
    const report = await repair(file)
    expect(linesOf(report)).toEqual([expect.stringMatching(/^PARENT_LOCATOR_INVALID \d+$/)])
    expect(await findings(file)).toEqual([])
    expect(file.header.dataWrite).toBe(dataWrite)
    expect((await file.read()).parent).toMatchObject({ expects: [{ value: GUID }], references: ['\\\\?\\\\p.vhdx'] })
    expect((await repair(file)).count).toBe(0)
  })

  test.each<[string, Spoil]>([
    ['too short', (file) => file.edit(file.item(ITEM.locator).entryAt, 32, -1, (view) => view.setUint32(20, 10, true))],
    [
      'with more entries than it has room for',
      (file) => file.edit(LOCATOR_AT(file), 20, -1, (view) => view.setUint16(18, 200, true)),
    ],
    [
      'with more entries than anybody writes',
      (file) => file.edit(LOCATOR_AT(file), 20, -1, (view) => view.setUint16(18, 9999, true)),
    ],
    [
      'that is not there',
      (file) => file.edit(file.item(ITEM.locator).entryAt, 32, -1, (view) => view.setUint32(24, 1, true)),
    ],
    [
      'behind the end of the region',
      (file) => file.edit(file.item(ITEM.locator).entryAt, 32, -1, (view) => view.setUint32(16, MIB, true)),
    ],
  ])('%s is written anew, and never becomes no parent: who it is remains to be said', async (_, spoil) => {
    const file = await VhdxFile.make(SIZE, {}, PARENT)
    spoil(file)
    expect(await refusal(() => file.read())).toMatchObject({
      code: expect.stringMatching('CORRUPT|LIMIT|UNSUPP') as string,
    })
    const { layer } = await salvage(file)
    expect(layer.parent).toBeDefined()
    expect(await promised(layer.map(0, 512))).toMatchObject({ kind: 'parent' })
    const report = await repair(file)
    expect(report.done.at(-1)).toMatchObject({ code: 'PARENT_LOCATOR_INVALID' })
    const again = await file.read()
    expect(again.parent).toBeDefined()
    expect(await promised(again.map(0, 512))).toMatchObject({ kind: 'parent' })
    expect(new Set(await findings(file))).toEqual(
      again.parent?.expects.length === 0 ? new Set(['PARENT_LOCATOR_INVALID']) : new Set(),
    )
    expect((await repair(file)).count).toBe(0)
    // Who knows the parent can say it now.
    const writable = await file.write()
    await promised(writable.links.setParent(PARENT))
    await promised(writable.close())
    expect(await findings(file)).toEqual([])
  })

  test('of another kind of parent is left alone; salvage tells of it', async () => {
    const file = await VhdxFile.make(SIZE, {}, PARENT)
    file.put(LOCATOR_AT(file), Uint8Array.of(1, 2, 3))
    expect(await refusal(() => repair(file))).toMatchObject({ code: 'UNSUPPORTED' })
    const { layer, told } = await salvage(file)
    expect(told).toMatchObject([{ code: 'UNSUPPORTED' }])
    expect(layer.parent).toMatchObject({ expects: [], references: [] })
  })

  /** A child with these keys in its locator. */
  async function childWith(pairs: readonly [string, string][]): Promise<VhdxFile> {
    const file = await VhdxFile.make(SIZE, {}, PARENT)
    const texts = pairs.map(([key, value]) => [Buffer.from(key, 'utf16le'), Buffer.from(value, 'utf16le')] as const)
    const head = 20 + pairs.length * 12
    const bytes = Buffer.concat([file.bytes(LOCATOR_AT(file), 16), new Uint8Array(head - 16), ...texts.flat()])
    bytes.writeUInt16LE(pairs.length, 18)
    let at = head
    for (const [i, [key, value]] of texts.entries()) {
      bytes.writeUInt32LE(at, 20 + i * 12)
      bytes.writeUInt32LE(at + key.length, 24 + i * 12)
      bytes.writeUInt16LE(key.length, 28 + i * 12)
      bytes.writeUInt16LE(value.length, 30 + i * 12)
      at += key.length + value.length
    }
    file.put(LOCATOR_AT(file), bytes)
    file.edit(file.item(ITEM.locator).entryAt, 32, -1, (view) => view.setUint32(20, bytes.length, true))
    return file
  }
  const OTHER = '99999999-2222-4333-8444-555555555555'

  test.each<[string, [string, string][], string[], string[]]>([
    [
      'the same key twice with one value',
      [
        ['parent_linkage', `{${GUID}}`],
        ['parent_linkage', `{${GUID}}`],
        ['relative_path', '.\\p'],
      ],
      [GUID],
      ['.\\p'],
    ],
    [
      'a path twice with two values',
      [
        ['parent_linkage', `{${GUID}}`],
        ['relative_path', '.\\p'],
        ['relative_path', '.\\q'],
        ['volume_path', 'v'],
      ],
      [GUID],
      ['v'],
    ],
    [
      'a second linkage alone',
      [
        ['parent_linkage2', `{${OTHER}}`],
        ['relative_path', '.\\p'],
      ],
      [OTHER],
      ['.\\p'],
    ],
    [
      'a second linkage that is no GUID',
      [
        ['parent_linkage', `{${GUID}}`],
        ['parent_linkage2', 'rubbish'],
        ['relative_path', '.\\p'],
      ],
      [GUID],
      ['.\\p'],
    ],
  ])('with %s says afterwards what is certain', async (_, pairs, expects, references) => {
    const file = await childWith(pairs)
    expect((await repair(file)).done).toMatchObject([{ code: 'PARENT_LOCATOR_INVALID', structure: 'parent locator' }])
    const { parent } = await file.read()
    expect(parent?.expects.map(({ value }) => value)).toEqual(expects)
    expect(parent?.references).toEqual(references)
    expect(await findings(file)).toEqual([])
    expect((await repair(file)).count).toBe(0)
  })

  test('with a second linkage that is no GUID is a finding of the check', async () => {
    const pairs: [string, string][] = [
      ['parent_linkage', `{${GUID}}`],
      ['parent_linkage2', 'rubbish'],
      ['relative_path', '.\\p'],
    ]
    expect(await findings(await childWith(pairs))).toEqual(['PARENT_LOCATOR_INVALID'])
  })

  test('with a linkage twice, of two values, has none afterwards: nobody knows which', async () => {
    const file = await childWith([
      ['parent_linkage', `{${GUID}}`],
      ['parent_linkage', `{${OTHER}}`],
      ['relative_path', '.\\p'],
    ])
    await repair(file)
    expect((await file.read()).parent).toMatchObject({ expects: [], references: ['.\\p'] })
    expect(await findings(file)).toEqual(['PARENT_LOCATOR_INVALID'])
    expect((await repair(file)).count).toBe(0)
  })

  test('of a file that lost the bit which says that it has a parent gives it back, where blocks prove it', async () => {
    const file = await VhdxFile.make(SIZE, {}, PARENT)
    const layer = await file.write()
    const room = await promised(layer.reserve(MIB, 512))
    await layer.store.write(room.at, new Uint8Array(512).fill(1))
    await promised(room.publish())
    await promised(layer.close())
    file.put(file.item(ITEM.parameters).at + 4, Buffer.from([0]))
    expect(new Set(await findings(file))).toContain('PARTIAL_WITHOUT_PARENT')
    const report = await repair(file)
    expect(report.done).toMatchObject([{ code: 'PARTIAL_WITHOUT_PARENT', structure: 'metadata region' }])
    // Blocks that it does not have read as zero before, and as the parent does now.
    expect(report.doubtful).toEqual([
      { offset: 0, length: MIB, snapshot: undefined },
      { offset: 2 * MIB, length: SIZE - 2 * MIB, snapshot: undefined },
    ])
    expect(await findings(file)).toEqual([])
    expect(await promised((await file.read()).map(MIB + 512, 512))).toMatchObject({ kind: 'parent' })
  })

  test('of a file without such blocks says nothing: the warning stays, and nothing is changed', async () => {
    const file = await VhdxFile.make(SIZE, {}, PARENT)
    file.put(file.item(ITEM.parameters).at + 4, Buffer.from([0]))
    expect((await repair(file)).count).toBe(0)
    expect(await findings(file)).toEqual(['LOCATOR_WITHOUT_PARENT'])
  })
})
