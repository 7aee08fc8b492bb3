import { describe, expect, test } from 'vitest'
import { Chain } from '../../../../lib/chain/chain.ts'
import { promised } from '../../../../lib/io/io.ts'
import type { ByteStore } from '../../../../lib/io/store.ts'
import { patternFor } from '../../../model/history.ts'
import { refusal } from '../../../support/refusal.ts'
import { contentOf } from '../../../support/stores.ts'
import { at, BITMAP, child, place, SIZE, state, written, zeroed } from '../../../support/vhdx-blocks.ts'
import { MIB, VhdxFile } from '../../../support/vhdx-file.ts'
import { expectMended, findings, linesOf, repair, salvage, sectorsOf } from '../../../support/vhdx-repair.ts'

describe('a block that cannot be where its entry says', () => {
  test.each<[string, bigint, string]>([
    ['past the end of the file', BigInt(99 * MIB) | 6n, 'BLOCK_PAST_END'],
    ['at 2^63', (1n << 63n) | 6n, 'BLOCK_PAST_END'],
    ['in the log', BigInt(MIB) | 6n, 'BLOCK_OVERLAPS_REGION'],
    ['in the header section', 6n, 'BLOCK_OVERLAPS_REGION'],
  ])('%s, is lost: it reads as zero and is named, and the file can be written', async (_, entry, code) => {
    const { file, content } = await written()
    file.setEntry(1, entry)
    const { dataWrite } = file.header
    expect(await findings(file)).toContain(code)
    const report = await expectMended(file, zeroed(content, 1))
    expect(linesOf(report)).toEqual([`${code} ${at(file, 1)} ${MIB}+${MIB}`])
    expect(file.entry(1)).toBe(1n)
    expect(file.header.dataWrite).not.toBe(dataWrite)
  })

  test('leaves the room that nobody names to the next repair: what is lost may be in it', async () => {
    const { file } = await written()
    const lost = place(file.entry(1))
    const content = file.bytes(lost, MIB)
    file.setEntry(1, BigInt(99 * MIB) | 6n)
    await repair(file)
    expect(Buffer.compare(file.bytes(lost, MIB), content)).toBe(0)
    expect(linesOf(await repair(file))).toEqual([`ROOM_UNUSED ${lost}`])
    expect(file.bytes(lost, MIB).every((byte) => byte === 0)).toBe(true)
  })

  test('of a child, and present in part, gives way to the parent: only what it held itself is named', async () => {
    const { file, content, below } = await child()
    file.setEntry(1, BigInt(99 * MIB) | 7n)
    const report = await expectMended(file, content, below)
    expect(linesOf(report)).toEqual([
      `BLOCK_PAST_END ${at(file, 1)} ${MIB + 4096}+8192`,
      `BLOCK_PAST_END ${at(file, 1)} ${MIB + 65536}+512`,
    ])
    expect(file.entry(1)).toBe(0n)
  })

  test('of a child, and present in part, is named as a whole if its bits are lost as well', async () => {
    const { file, content, below } = await child()
    file.setEntry(1, BigInt(99 * MIB) | 7n)
    file.setEntry(BITMAP, BigInt(98 * MIB) | 6n)
    const report = await expectMended(file, content, below)
    expect(linesOf(report)).toEqual([
      `BLOCK_PAST_END ${at(file, 1)} ${MIB}+${MIB}`,
      `BLOCK_PAST_END ${at(file, BITMAP)}`,
    ])
  })

  test('of a child, and present as a whole, does not give way to what the parent had before', async () => {
    const { file, content, below } = await child()
    file.setEntry(2, BigInt(99 * MIB) | 6n)
    await expectMended(file, zeroed(content, 2), below)
    expect((await sectorsOf(await file.read(), below))[4096]?.every((byte) => byte === 0)).toBe(true)
  })

  test('of a fixed file reads as zero, and gets new room when it is written', async () => {
    const { file, content } = await written({ subformat: 'fixed' })
    file.setEntry(1, BigInt(99 * MIB) | 6n)
    await expectMended(file, zeroed(content, 1))
    const chain = new Chain([await file.write()])
    await promised(chain.write(MIB, new Uint8Array(512).fill(1)))
    await promised(chain.close())
    expect(state(file.entry(1))).toBe(6)
    expect(await findings(file)).not.toContain('BLOCK_PAST_END')
  })

  test('with many parts is named by one range that covers them', async () => {
    const { file, content, below } = await child()
    const chain = new Chain([...below, await file.write()])
    for (let i = 0; i < 20; i++) await promised(chain.write(4 * MIB + i * 4096, new Uint8Array(512).fill(i)))
    await promised(chain.close())
    file.setEntry(4, BigInt(99 * MIB) | 7n)
    const report = await expectMended(file, content, below)
    expect(linesOf(report)).toEqual([`BLOCK_PAST_END ${at(file, 4)} ${4 * MIB}+${19 * 4096 + 512}`])
  })
})

describe('a file that was cut off', () => {
  test('within a block keeps what is there of it; the rest reads as zero and is named', async () => {
    const { file, content } = await written()
    const end = file.store.size()
    const last = [0, 1, 2, 3].find((block) => place(file.entry(block)) === end - MIB) as number
    file.store.truncate(end - 300_000)
    const wanted = content.slice().fill(0, (last + 1) * MIB - 300_000, (last + 1) * MIB)
    const report = await expectMended(file, wanted)
    expect(linesOf(report)).toEqual([`BLOCK_PAST_END ${at(file, last)} ${(last + 1) * MIB - 300_000}+300000`])
    expect((await sectorsOf(await file.read())).map((bytes) => bytes?.[0] !== undefined)).not.toContain(false)
    const found = Buffer.concat((await sectorsOf(await file.read())) as Uint8Array[])
    expect(found.equals(wanted)).toBe(true)
    expect(file.store.size()).toBe(end)
  })

  test('within its BAT is left alone', async () => {
    const { file } = await written()
    file.store.truncate(file.bat.at + 100)
    const before = contentOf(file.store)
    expect(await refusal(() => repair(file))).toMatchObject({ code: 'CORRUPT', where: { structure: 'BAT' } })
    expect(Buffer.compare(contentOf(file.store), before)).toBe(0)
  })

  test('can be salvaged: what is there is read, and what is not fails', async () => {
    const { file, content } = await written()
    file.setEntry(0, BigInt(99 * MIB) | 6n)
    const { layer, told } = await salvage(file)
    expect(told).toEqual([])
    const sectors = await sectorsOf(layer)
    expect(sectors.slice(0, 2048).every((bytes) => bytes === undefined)).toBe(true)
    expect(Buffer.concat(sectors.slice(2048) as Uint8Array[]).equals(content.subarray(MIB))).toBe(true)
  })
})

describe('blocks that share a place', () => {
  test('get copies of it: the guest reads what it read before, and a write changes one only', async () => {
    const { file, content } = await written()
    const kept = place(file.entry(0))
    for (const block of [2, 3]) file.setEntry(block, file.entry(0))
    const { dataWrite } = file.header
    const wanted = content.slice()
    for (const block of [2, 3]) wanted.set(content.subarray(0, MIB), block * MIB)
    const report = await expectMended(file, wanted)
    expect(linesOf(report)).toEqual([
      `BLOCKS_SHARE_PLACE ${at(file, 0)} 0+${MIB}`,
      `BLOCKS_SHARE_PLACE ${at(file, 2)} ${2 * MIB}+${MIB}`,
      `BLOCKS_SHARE_PLACE ${at(file, 3)} ${3 * MIB}+${MIB}`,
    ])
    expect(place(file.entry(0))).toBe(kept)
    expect(file.header.dataWrite).toBe(dataWrite)
    expect(Buffer.concat((await sectorsOf(await file.read())) as Uint8Array[]).equals(wanted)).toBe(true)
    const chain = new Chain([await file.write()])
    await promised(chain.write(3 * MIB, new Uint8Array(MIB).fill(0xaa)))
    await promised(chain.close())
    wanted.fill(0xaa, 3 * MIB, 4 * MIB)
    expect(Buffer.concat((await sectorsOf(await file.read())) as Uint8Array[]).equals(wanted)).toBe(true)
  })

  test('in part only, as blocks of several MiB can, too', async () => {
    const file = await VhdxFile.make(SIZE, { block_size: '2M' })
    const chain = new Chain([await file.write()])
    await promised(chain.write(0, patternFor(0, SIZE, 5)))
    await promised(chain.close())
    file.setEntry(2, file.entry(1) + BigInt(MIB))
    file.store.truncate(file.store.size() + MIB)
    const wanted = Buffer.concat((await sectorsOf(await file.read())) as Uint8Array[])
    const report = await expectMended(file, wanted)
    expect(linesOf(report)).toEqual([
      `BLOCKS_SHARE_PLACE ${at(file, 1)} ${2 * MIB}+${2 * MIB}`,
      `BLOCKS_SHARE_PLACE ${at(file, 2)} ${4 * MIB}+${2 * MIB}`,
    ])
    expect(Buffer.concat((await sectorsOf(await file.read())) as Uint8Array[]).equals(wanted)).toBe(true)
  })

  test('behind one another in the file’s cut off end are copied as far as there is something', async () => {
    const { file, content } = await written()
    const end = file.store.size()
    const last = [0, 1, 2, 3].find((block) => place(file.entry(block)) === end - MIB) as number
    file.setEntry(5, file.entry(last))
    file.store.truncate(end - 4096)
    const wanted = content.slice()
    wanted.copyWithin(5 * MIB, last * MIB, (last + 1) * MIB)
    const report = await expectMended(file, wanted)
    expect(report.done.map(({ code }) => code)).toEqual([
      'BLOCK_PAST_END',
      'BLOCKS_SHARE_PLACE',
      'BLOCK_PAST_END',
      'BLOCKS_SHARE_PLACE',
    ])
    const sectors = await sectorsOf(await file.read())
    expect(Buffer.compare(sectors[5 * 2048] as Uint8Array, content.subarray(last * MIB, last * MIB + 512))).toBe(0)
    expect(sectors.at(-1)?.every((byte) => byte === 0)).toBe(true)
  })

  test('one of them the log, where the disk has no more of the block, has a copy of what the disk has', async () => {
    const size = 3 * MIB
    const file = await VhdxFile.make(size, { block_size: '2M' })
    const content = patternFor(0, size, 5)
    const chain = new Chain([await file.write()])
    await promised(chain.write(0, content))
    await promised(chain.close())
    const [before, oldLog] = [place(file.entry(1)), file.logAt]
    const log = before + MIB
    file.put(log, file.bytes(oldLog, file.logLength))
    file.editHeaders((view) => view.setBigUint64(72, BigInt(log), true))
    const [wrong] = (await findings(file)).filter((code) => code.startsWith('BLOCK'))
    expect(wrong).toBe('BLOCK_OVERLAPS_REGION')
    expect(await refusal(async () => await file.write())).toMatchObject({
      code: 'CORRUPT',
      where: { structure: 'BAT' },
    })
    const report = await expectMended(file, content)
    const unused = [oldLog, before].map((room) => `ROOM_UNUSED ${room}`)
    expect(linesOf(report)).toEqual([`BLOCK_OVERLAPS_REGION ${at(file, 1)}`, ...unused])
    expect(place(file.entry(1))).toBeGreaterThan(log)
    expect(file.bytes(place(file.entry(1)) + MIB, MIB).every((byte) => byte === 0)).toBe(true)
    expect(Buffer.concat((await sectorsOf(await file.read())) as Uint8Array[]).equals(content)).toBe(true)
    await promised(new Chain([await file.write()]).close())
  })

  test('so many that copies would be far larger than the file are left alone: that is no accident', async () => {
    const file = await VhdxFile.make(4096 * MIB)
    file.store.truncate(file.store.size() + MIB)
    const shared = BigInt(file.store.size() - MIB) | 6n
    for (let block = 0; block < 200; block++) file.setEntry(block, shared)
    expect(await refusal(() => repair(file))).toMatchObject({ code: 'LIMIT_EXCEEDED', where: { structure: 'BAT' } })
  })

  test('one of them a sector bitmap: the bitmap gets a copy, and all that it decides about is named', async () => {
    const { file, content, below } = await child()
    file.setEntry(2, (file.entry(BITMAP) & ~0xfffffn) | 6n)
    const report = await expectMended(file, content, below)
    expect(linesOf(report)).toEqual([
      `BLOCKS_SHARE_PLACE ${at(file, 2)} ${2 * MIB}+${MIB}`,
      `BLOCKS_SHARE_PLACE ${at(file, BITMAP)} ${MIB}+${MIB}`,
    ])
    // Nothing was written to both, so the bits are right.
    const sectors = await sectorsOf(await file.read(), below)
    expect(Buffer.concat(sectors.slice(2048, 4096) as Uint8Array[]).equals(content.subarray(MIB, 2 * MIB))).toBe(true)
  })
})

describe('room that belongs to nothing', () => {
  test('is punched within the file, and cut off at its end', async () => {
    const { file, content } = await written()
    const end = file.store.size()
    const lost = place(file.entry(1))
    file.setEntry(1, 0n)
    file.put(end + MIB, new Uint8Array(2 * MIB).fill(3))
    expect(await findings(file)).toEqual(['ROOM_UNUSED', 'ROOM_UNUSED'])
    const { dataWrite, fileWrite } = file.header
    const report = await repair(file, 'leaks')
    expect(linesOf(report)).toEqual([`ROOM_UNUSED ${lost}`, `ROOM_UNUSED ${end}`])
    expect(file.store.size()).toBe(end)
    expect(file.store.segment(lost)).toEqual({ kind: 'hole', length: MIB })
    expect(file.header).toMatchObject({ dataWrite })
    expect(file.header.fileWrite).not.toBe(fileWrite)
    await expectMended(file, zeroed(content, 1))
    expect((await repair(file, 'leaks')).count).toBe(0)
  })

  test('is cut off at the end where nothing can be punched, and stays elsewhere', async () => {
    const { file } = await written()
    const end = file.store.size()
    const lost = place(file.entry(1))
    file.setEntry(1, 0n)
    file.put(end, new Uint8Array(MIB).fill(3))
    const { store } = file
    const plain: ByteStore = {
      name: 'a',
      writable: true,
      size: () => store.size(),
      read: (from, target) => store.read(from, target),
      write: (to, source) => store.write(to, source),
      truncate: (size) => store.truncate(size),
      grow: (size) => store.grow(size),
      flush: () => store.flush(),
      close: () => store.close(),
    }
    expect(linesOf(await repair(file, 'leaks', plain))).toEqual([`ROOM_UNUSED ${end}`])
    expect(file.store.size()).toBe(end)
    expect(file.bytes(lost, 1)).not.toEqual(Uint8Array.of(0))
    expect((await repair(file, 'leaks', plain)).count).toBe(0)
  })

  test('is not given back by a repair of leaks where the tables do not say for certain whose it is', async () => {
    const { file } = await written()
    file.setEntry(2, file.entry(0))
    const before = contentOf(file.store)
    expect(await refusal(() => repair(file, 'leaks'))).toMatchObject({
      code: 'CORRUPT',
      where: { structure: 'BAT', index: 2 },
    })
    expect(Buffer.compare(contentOf(file.store), before)).toBe(0)
  })

  test('stays in a file that has no log, and so cannot be written', async () => {
    const { file } = await written()
    file.editHeaders((view) => view.setUint32(68, 0, true))
    file.put(file.store.size(), new Uint8Array(MIB).fill(3))
    const before = contentOf(file.store)
    expect((await repair(file)).count).toBe(0)
    expect(Buffer.compare(contentOf(file.store), before)).toBe(0)
  })
})
