import { describe, expect, test } from 'vitest'
import { Chain } from '../../../../lib/chain/chain.ts'
import { promised } from '../../../../lib/io/io.ts'
import { patternFor } from '../../../model/history.ts'
import { rawBase, rawParent } from '../../../support/raw-base.ts'
import { at, BITMAP, child, place, SIZE, type Spoil, state, written, zeroed } from '../../../support/vhdx-blocks.ts'
import { MIB, VhdxFile } from '../../../support/vhdx-file.ts'
import { expectMended, findings, linesOf, repair, sectorsOf } from '../../../support/vhdx-repair.ts'

describe('an entry', () => {
  test('with reserved bits loses them; the block is named', async () => {
    const { file, content } = await written()
    file.setEntry(1, file.entry(1) | 0x80n)
    expect(linesOf(await expectMended(file, content))).toEqual([`BAT_ENTRY_RESERVED ${at(file, 1)} ${MIB}+${MIB}`])
    expect(Buffer.concat((await sectorsOf(await file.read())) as Uint8Array[]).equals(content)).toBe(true)
  })

  test('with reserved bits, and without content, loses them', async () => {
    const { file, content } = await written()
    file.setEntry(4, 0x82n)
    expect(linesOf(await expectMended(file, content))).toEqual([`BAT_ENTRY_RESERVED ${at(file, 4)}`])
    expect(file.entry(4)).toBe(2n)
  })

  test('with a state that does not exist, and a place of its own, holds what lies there', async () => {
    const { file, content } = await written()
    file.setEntry(1, (file.entry(1) & ~7n) | 4n)
    expect(linesOf(await expectMended(file, content))).toEqual([`BAT_STATE_INVALID ${at(file, 1)} ${MIB}+${MIB}`])
    expect(Buffer.concat((await sectorsOf(await file.read())) as Uint8Array[]).equals(content)).toBe(true)
  })

  test.each<[string, (file: VhdxFile) => bigint]>([
    ['no place', () => 4n],
    ['a place past the end', () => BigInt(99 * MIB) | 4n],
    ['the place of another block', (file) => (file.entry(0) & ~7n) | 4n],
  ])('with a state that does not exist, and %s, holds nothing', async (_, entry) => {
    const { file, content } = await written()
    file.setEntry(1, entry(file))
    await expectMended(file, zeroed(content, 1))
    expect(file.entry(1)).toBe(1n)
  })

  test('with a state that does not exist, and the place of another such, holds nothing', async () => {
    const { file, content } = await written()
    const entry = (file.entry(1) & ~7n) | 4n
    file.setEntry(1, entry)
    file.setEntry(5, entry)
    await expectMended(file, content)
    expect([state(file.entry(1)), file.entry(5)]).toEqual([6, 1n])
  })

  test.each<[string, (file: VhdxFile) => bigint]>([
    ['past the end of the file', () => BigInt(99 * MIB)],
    ['of a region', () => BigInt(MIB)],
    ['of another block', (file) => file.entry(0) & ~7n],
  ])('that holds nothing keeps no place %s', async (_, other) => {
    const { file, content } = await written()
    file.setEntry(4, other(file) | 3n)
    const { dataWrite } = file.header
    expect(await findings(file)).toEqual(['BAT_PLACE_NOT_OWN'])
    expect(linesOf(await expectMended(file, content))).toEqual([`BAT_PLACE_NOT_OWN ${at(file, 4)}`])
    expect(file.entry(4)).toBe(3n)
    expect(file.header.dataWrite).toBe(dataWrite)
  })

  test('that holds nothing may keep a place that is its own', async () => {
    const { file, content } = await written()
    const end = file.store.size()
    file.put(end, new Uint8Array(MIB).fill(0x5a))
    file.setEntry(4, BigInt(end) | 3n)
    expect((await expectMended(file, content)).count).toBe(0)
    expect(file.bytes(end, MIB).every((byte) => byte === 0x5a)).toBe(true)
  })

  test('behind the last block is cleared, and its room given back', async () => {
    const { file, content } = await written()
    const end = file.store.size()
    file.put(end, new Uint8Array(MIB).fill(1))
    file.setEntry(9, BigInt(end) | 6n)
    expect(linesOf(await expectMended(file, content))).toEqual([`BAT_ENTRY_STALE ${at(file, 9)}`, `ROOM_UNUSED ${end}`])
    expect(file.entry(9)).toBe(0n)
    expect(file.store.size()).toBe(end)
  })

  test('behind the last block of a child, before that of the sector bitmap, is cleared wherever it leads', async () => {
    const { file, content, below } = await child()
    file.setEntry(9, BigInt(2 * MIB) | 7n)
    expect(linesOf(await expectMended(file, content, below))).toEqual([`BAT_ENTRY_STALE ${at(file, 9)}`])
    expect(file.entry(9)).toBe(0n)
  })

  test('many of them, in more pages than one log entry can hold, are mended in several', async () => {
    const file = await VhdxFile.make(2 ** 40)
    for (let page = 0; page < 300; page++) file.setEntry(page * 512, 0x100n)
    const report = await repair(file)
    expect(report.count).toBe(300)
    expect(await findings(file)).toEqual([])
    expect((await repair(file)).count).toBe(0)
  })
})

describe('sector bitmaps', () => {
  test.each<[string, (file: VhdxFile) => bigint, string[]]>([
    ['that is not there', () => 0n, ['BITMAP_MISSING']],
    ['past the end of the file', () => BigInt(99 * MIB) | 6n, ['BLOCK_PAST_END', 'BITMAP_MISSING']],
    ['in a region', () => BigInt(2 * MIB) | 6n, ['BLOCK_OVERLAPS_REGION', 'BITMAP_MISSING']],
    ['in no state, without a place', () => 5n, ['BAT_STATE_INVALID', 'BITMAP_MISSING']],
  ])('one %s is made of what the blocks hold: what is not zero is theirs', async (_, entry, codes) => {
    const { file, content, below } = await child()
    file.setEntry(BITMAP, entry(file))
    const report = await expectMended(file, content, below)
    expect(report.done.map(({ code }) => code)).toEqual(codes)
    expect(report.done.at(-1)).toMatchObject({ at: at(file, BITMAP), doubtful: { offset: MIB, length: MIB } })
    // No sector of the child holds zeros over something else of the parent's: so nothing at all is lost.
    const sectors = await sectorsOf(await file.read(), below)
    expect(Buffer.concat(sectors as Uint8Array[]).equals(content)).toBe(true)
  })

  test('one in a state that does not exist, with a place of its own, is taken for present', async () => {
    const { file, content, below } = await child()
    file.setEntry(BITMAP, (file.entry(BITMAP) & ~7n) | 2n)
    const report = await expectMended(file, content, below)
    expect(linesOf(report)).toEqual([`BAT_STATE_INVALID ${at(file, BITMAP)} ${MIB}+${MIB}`])
    expect(Buffer.concat((await sectorsOf(await file.read(), below)) as Uint8Array[]).equals(content)).toBe(true)
  })

  test('one with reserved bits loses them, and nothing is doubtful', async () => {
    const { file, content, below } = await child()
    file.setEntry(BITMAP, file.entry(BITMAP) | 0x80n)
    expect(linesOf(await expectMended(file, content, below))).toEqual([`BAT_ENTRY_RESERVED ${at(file, BITMAP)}`])
  })

  test('one that nobody needs, and that lies nowhere, goes', async () => {
    const base = await rawBase(SIZE)
    const file = await VhdxFile.make(SIZE, {}, rawParent(SIZE))
    const content = new Uint8Array(SIZE)
    await promised(new Chain([base]).read(0, content))
    file.setEntry(BITMAP, BigInt(99 * MIB) | 6n)
    expect(linesOf(await expectMended(file, content, [base]))).toEqual([`BLOCK_PAST_END ${at(file, BITMAP)}`])
    expect(file.entry(BITMAP)).toBe(0n)
    file.setEntry(BITMAP, 3n)
    expect(linesOf(await expectMended(file, content, [base]))).toEqual([`BAT_STATE_INVALID ${at(file, BITMAP)}`])
    expect(file.entry(BITMAP)).toBe(0n)
  })

  test('one that is not there keeps no place that is not its own', async () => {
    const { file } = await child()
    const own = file.entry(BITMAP)
    file.setEntry(0, 0n)
    file.setEntry(1, 0n)
    file.setEntry(BITMAP, BigInt(99 * MIB))
    expect(await findings(file)).toContain('BAT_PLACE_NOT_OWN')
    await repair(file)
    expect(file.entry(BITMAP)).toBe(0n)
    file.setEntry(BITMAP, own & ~7n)
    expect((await repair(file)).done.map(({ code }) => code)).not.toContain('BAT_PLACE_NOT_OWN')
  })

  test('of several chunks are found each for itself, also where the BAT has holes', async () => {
    // Blocks of 256 MiB and sectors of 512 bytes: sixteen blocks to a chunk.
    const file = await VhdxFile.make(40 * 4096 * MIB, { block_size: '256M' }, rawParent(40 * 4096 * MIB))
    const layer = await file.write()
    for (const block of [3, 4, 40, 600]) {
      const room = await promised(layer.reserve(block * 256 * MIB + 4096, 4096))
      await layer.store.write(room.at, new Uint8Array(4096).fill(block % 251))
      await promised(room.publish())
    }
    await promised(layer.close())
    const chunkEntry = (chunk: number): number => chunk * 17 + 16
    for (const chunk of [0, 2, 37]) file.setEntry(chunkEntry(chunk), 0n)
    const report = await repair(file)
    expect(linesOf(report)).toEqual([
      `BITMAP_MISSING ${at(file, chunkEntry(0))} ${3 * 256 * MIB}+${512 * MIB}`,
      `BITMAP_MISSING ${at(file, chunkEntry(2))} ${40 * 256 * MIB}+${256 * MIB}`,
      `BITMAP_MISSING ${at(file, chunkEntry(37))} ${600 * 256 * MIB}+${256 * MIB}`,
    ])
    const again = await file.read()
    for (const block of [3, 4, 40, 600]) {
      const extent = await promised(again.map(block * 256 * MIB + 4096, 8192))
      expect(extent).toMatchObject({ kind: 'data', length: 4096 })
      expect(await promised(again.map(block * 256 * MIB, 4096))).toMatchObject({ kind: 'parent' })
    }
    await repair(file)
    expect(await findings(file)).toEqual([])
  })

  test('with bits behind the end of the disk lose them', async () => {
    const { file, content, below } = await child(SIZE - 512)
    const chain = new Chain([...below, await file.write()])
    await promised(chain.write(5 * MIB, patternFor(0, 512, 3)))
    content.set(patternFor(0, 512, 3), 5 * MIB)
    await promised(chain.close())
    const bits = place(file.entry(BITMAP)) + 5 * 256
    file.put(bits + 255, Uint8Array.of(0x80))
    expect(await findings(file)).toEqual(['BITS_PAST_END'])
    expect(linesOf(await expectMended(file, content, below))).toEqual([`BITS_PAST_END ${bits}`])
    expect(file.bytes(bits + 255, 1)).toEqual(Uint8Array.of(0))
  })

  test.each<[string, Spoil, string[]]>([
    [
      'in the place of a block',
      (file) => file.setEntry(3, file.entry(BITMAP)),
      ['BLOCKS_SHARE_PLACE', 'BITS_PAST_END'],
    ],
    ['nowhere', (file) => file.setEntry(BITMAP, 0n), ['BITMAP_MISSING']],
  ])('%s get room behind the end of the file, and have no bits behind that of the disk', async (_, spoil, codes) => {
    const { file, below } = await child(SIZE - 512)
    const chain = new Chain([...below, await file.write()])
    await promised(chain.write(5 * MIB, patternFor(0, 512, 3)))
    await promised(chain.close())
    file.put(place(file.entry(BITMAP)) + 5 * 256 + 255, Uint8Array.of(0x80))
    spoil(file)
    const report = await repair(file)
    expect([...new Set(report.done.map(({ code }) => code))]).toEqual(codes)
    expect(await findings(file)).not.toContain('BITS_PAST_END')
  })
})

describe('a file that has lost its parent', () => {
  const ITEM = { parameters: 'caa16737-fa36-4d43-b3b6-33f0aa44e76b', locator: 'a8d35f2d-b30b-454d-abf7-d3d84834ab0c' }
  /** The file says that it has no parent, and nothing says which one it was. */
  const orphan: Spoil = (file) => {
    file.put(file.item(ITEM.parameters).at + 4, Buffer.from([0]))
    const { entryAt } = file.item(ITEM.locator)
    const count = file.u32(file.metadata.at + 8) >>> 16
    expect(entryAt).toBe(file.metadata.at + 32 + (count - 1) * 32)
    file.put(entryAt, new Uint8Array(32))
    file.edit(file.metadata.at, 32, -1, (view) => view.setUint16(10, count - 1, true))
  }

  test('keeps of its blocks what they hold themselves, and is zero where the parent was', async () => {
    const { file, content } = await child()
    orphan(file)
    const wanted = new Uint8Array(SIZE)
    for (const [from, to] of [
      [MIB + 4096, MIB + 12288],
      [MIB + 65536, MIB + 66048],
      [2 * MIB, 3 * MIB],
    ] as const) {
      wanted.set(content.subarray(from, to), from)
    }
    const report = await expectMended(file, wanted)
    expect(linesOf(report)).toEqual([
      `PARTIAL_WITHOUT_PARENT ${at(file, 1)} ${MIB}+${MIB}`,
      `BITMAP_WITHOUT_PARENT ${at(file, BITMAP)}`,
    ])
    expect(Buffer.concat((await sectorsOf(await file.read())) as Uint8Array[]).equals(wanted)).toBe(true)
  })

  test('keeps all of a block whose bits are lost too', async () => {
    const { file, content } = await child()
    orphan(file)
    file.setEntry(BITMAP, 0n)
    const held = file.bytes(place(file.entry(1)), MIB)
    const wanted = new Uint8Array(SIZE)
    wanted.set(content.subarray(2 * MIB, 3 * MIB), 2 * MIB)
    const report = await expectMended(file, wanted)
    expect(linesOf(report)).toEqual([`PARTIAL_WITHOUT_PARENT ${at(file, 1)} ${MIB}+${MIB}`])
    const sectors = await sectorsOf(await file.read())
    expect(Buffer.concat(sectors.slice(2048, 4096) as Uint8Array[]).equals(held)).toBe(true)
  })

  test('does not make zero what another block reads in the same place', async () => {
    const { file, content } = await child()
    orphan(file)
    file.setEntry(4, (file.entry(1) & ~7n) | 6n)
    const before = await sectorsOf(await file.read())
    const report = await repair(file)
    expect(report.done.map(({ code }) => code)).toEqual([
      'BLOCKS_SHARE_PLACE',
      'PARTIAL_WITHOUT_PARENT',
      'BITMAP_WITHOUT_PARENT',
    ])
    const after = await sectorsOf(await file.read())
    const lower = (sectors: readonly (Uint8Array | undefined)[]): Buffer =>
      Buffer.concat(sectors.slice(4 * 2048, 5 * 2048) as Uint8Array[])
    expect(lower(after).equals(lower(before))).toBe(true)
    expect(after[2048 + 8]).toEqual(content.slice(MIB + 4096, MIB + 4608))
  })
})
