import { describe, expect, test } from 'vitest'
import { Chain } from '../../../../lib/chain/chain.ts'
import { vhd } from '../../../../lib/formats/vhd/driver.ts'
import { promised } from '../../../../lib/io/io.ts'
import { checkLayer } from '../../../contract/driver-contract.ts'
import { patternFor } from '../../../model/history.ts'
import { rawBase, rawParent } from '../../../support/raw-base.ts'
import { refusal } from '../../../support/refusal.ts'
import { watchedStore, withoutHoles } from '../../../support/stores.ts'
import { VhdFile } from '../../../support/vhd-file.ts'

const KIB = 1024
const SECTOR = 512
const BLOCK = 64 * KIB
const SIZE = 6 * BLOCK
const ABSENT = 0xffffffff

/** A disk whose first four blocks hold content, the last two nothing. */
async function written(): Promise<{ file: VhdFile; content: Uint8Array }> {
  const file = await VhdFile.make(SIZE)
  const content = new Uint8Array(SIZE)
  content.set(patternFor(0, 4 * BLOCK, 1))
  await file.fill(0, content.subarray(0, 4 * BLOCK))
  return { file, content }
}

/** Mends a file; afterwards the check finds nothing, it can be written, and to mend it again changes no byte. */
async function expectMended(file: VhdFile): Promise<string[]> {
  const { done } = await file.repair()
  const lines = done.map(({ code, doubtful }) => (doubtful ? `${code} ${doubtful.offset}+${doubtful.length}` : code))
  if (done.some(({ doubtful }) => doubtful)) await file.repair()
  expect(await file.findings()).toEqual([])
  const { bytes } = file
  expect((await file.repair()).done).toEqual([])
  expect(Buffer.compare(file.bytes, bytes)).toBe(0)
  await promised((await file.write()).close())
  return lines
}

describe('a header that cannot be', () => {
  const cases: [string, (header: Buffer) => unknown, string, string][] = [
    ['has another cookie', (header) => header.write('cxsparze'), 'CORRUPT', 'no header where its footer says'],
    ['has another version', (header) => header.writeUInt32BE(0x20000, 24), 'UNSUPPORTED', 'version'],
    ['has blocks of no size', (header) => header.writeUInt32BE(0, 32), 'CORRUPT', 'blocks would have 0 bytes'],
    ['has blocks of odd size', (header) => header.writeUInt32BE(BLOCK + 1, 32), 'CORRUPT', 'blocks would have'],
    ['has blocks of 2 GiB', (header) => header.writeUInt32BE(2 ** 31, 32), 'LIMIT_EXCEEDED', 'blocks have'],
    ['has 2^32 - 1 entries', (header) => header.writeUInt32BE(ABSENT, 28), 'LIMIT_EXCEEDED', 'BAT has 4294967295'],
    ['has too few entries', (header) => header.writeUInt32BE(5, 28), 'CORRUPT', 'too few for a disk'],
    ['has its BAT past the end', (header) => header.writeBigUInt64BE(2n ** 40n, 16), 'CORRUPT', 'BAT would lie at'],
    ['has its BAT at 2^64 - 1', (header) => header.writeBigUInt64BE(2n ** 64n - 1n, 16), 'CORRUPT', 'BAT would lie'],
    ['has its BAT over itself', (header) => header.writeBigUInt64BE(1024n, 16), 'CORRUPT', 'BAT would lie at 1024'],
    ['has its BAT between sectors', (header) => header.writeBigUInt64BE(1540n, 16), 'CORRUPT', 'BAT would lie at 1540'],
  ]
  test.each(cases)('%s: refused, by reader, writer and repair', async (_, edit, code, words) => {
    const { file } = await written()
    file.editHeader(edit)
    const before = file.bytes
    for (const work of [() => file.read(), () => file.write(), () => file.repair()]) {
      const error = await refusal(work)
      expect([error.code, error.where.file]).toEqual([code, 'a'])
      expect(error.message).toContain(words)
    }
    expect(Buffer.compare(file.bytes, before)).toBe(0)
  })

  test('is refused for a wrong checksum; a repair gives it the right one, and calls all of the disk doubtful', async () => {
    const { file, content } = await written()
    file.setU32(512 + 36, 77)
    expect((await refusal(() => file.read())).message).toContain('checksum of its header')
    expect(await expectMended(file)).toEqual([`HEADER_DAMAGED 0+${SIZE}`])
    expect(Buffer.compare(await file.content(), content)).toBe(0)
  })
})

describe('a footer that cannot be', () => {
  test.each<[string, (footer: Buffer) => unknown, string]>([
    ['is of version 2', (footer) => footer.writeUInt32BE(0x20000, 12), 'UNSUPPORTED'],
    ['is of type 5', (footer) => footer.writeUInt32BE(5, 60), 'UNSUPPORTED'],
    ['claims 2^62 bytes', (footer) => footer.writeBigUInt64BE(2n ** 62n, 48), 'CORRUPT'],
    ['claims half a sector', (footer) => footer.writeBigUInt64BE(1000n, 48), 'CORRUPT'],
    ['has its header nowhere', (footer) => footer.writeBigUInt64BE(2n ** 64n - 1n, 16), 'CORRUPT'],
    ['is of a fixed disk that is not there', (footer) => footer.writeBigUInt64BE(2n ** 40n, 48), 'CORRUPT'],
  ])('%s: refused', async (name, edit, code) => {
    const { file } = await written()
    file.editFooters((footer) => {
      if (name.includes('fixed')) footer.writeUInt32BE(2, 60)
      edit(footer)
    })
    expect((await refusal(() => file.read())).code).toBe(code)
    expect((await refusal(() => file.write())).code).toBe(code)
  })
})

describe('an entry of the BAT that cannot be', () => {
  test.each<[string, number, string]>([
    ['past the end of the file', 0x7fffffff, 'BLOCK_PAST_END'],
    ['at the last place there is', ABSENT - 1, 'BLOCK_PAST_END'],
    ["at the footer's copy", 0, 'BLOCK_OVERLAPS_STRUCTURE'],
    ['in the header', 2, 'BLOCK_OVERLAPS_STRUCTURE'],
    ['in the BAT', 3, 'BLOCK_OVERLAPS_STRUCTURE'],
  ])('%s: reads fail, never zeros; writers refuse; a repair names what is lost', async (_, entry, code) => {
    const { file, content } = await written()
    file.setEntry(1, entry)
    const chain = new Chain([await file.read()])
    const byte = new Uint8Array(1)
    expect((await refusal(() => promised(chain.read(BLOCK, byte)))).code).toBe('CORRUPT')
    await promised(chain.read(2 * BLOCK, byte))
    expect(byte[0]).toBe(content[2 * BLOCK])
    expect((await refusal(() => file.write())).message).toContain('cannot be written safely')
    expect(await file.findings()).toContain(code)
    expect(await expectMended(file)).toEqual([`${code} ${BLOCK}+${BLOCK}`])
    content.fill(0, BLOCK, 2 * BLOCK)
    expect(Buffer.compare(await file.content(), content)).toBe(0)
  })

  test('two blocks in one place: the check tells both, writers refuse, a repair gives each its own', async () => {
    const { file, content } = await written()
    file.setEntry(2, file.entry(1))
    expect(await file.findings()).toContain('BLOCKS_SHARE_PLACE')
    expect((await refusal(() => file.write())).code).toBe('CORRUPT')
    content.copyWithin(2 * BLOCK, BLOCK, 2 * BLOCK)
    expect(await expectMended(file)).toEqual([
      `BLOCKS_SHARE_PLACE ${BLOCK}+${BLOCK}`,
      `BLOCKS_SHARE_PLACE ${2 * BLOCK}+${BLOCK}`,
    ])
    expect(Buffer.compare(await file.content(), content)).toBe(0)
    await file.fill(BLOCK, new Uint8Array(BLOCK).fill(8))
    expect((await file.content())[2 * BLOCK]).toBe(content[2 * BLOCK])
  })

  test('two blocks that lie half over each other are told apart, too', async () => {
    const { file } = await written()
    file.setEntry(2, file.entry(1) + 16)
    expect(await file.findings()).toContain('BLOCKS_SHARE_PLACE')
    await expectMended(file)
  })

  test('is mended together with its neighbours; entries behind the last block are, too', async () => {
    const { file } = await written()
    file.setEntry(1, 0x7fffffff)
    file.setEntry(2, ABSENT - 1)
    expect(await expectMended(file)).toEqual([`BLOCK_PAST_END ${BLOCK}+${2 * BLOCK}`])
    file.editFooters((footer) => footer.writeBigUInt64BE(BigInt(2 * BLOCK), 48))
    expect((await file.repair()).done.map(({ code }) => code)).toEqual(['BAT_ENTRY_STALE', 'ROOM_UNUSED'])
    expect([file.entry(0) === ABSENT, file.entry(3)]).toEqual([false, ABSENT])
    expect(await file.findings()).toEqual([])
  })

  test('is mended where the footer at the end is lost, too', async () => {
    const { file } = await written()
    file.setEntry(1, 0x7fffffff)
    file.store.truncate(file.size - SECTOR)
    expect(await expectMended(file)).toEqual(['FOOTER_MISSING', `BLOCK_PAST_END ${BLOCK}+${BLOCK}`])
  })

  test('behind the last block does not hinder a writer, wherever it points', async () => {
    const { file, content } = await written()
    file.editFooters((footer) => footer.writeBigUInt64BE(BigInt(2 * BLOCK), 48))
    file.setEntry(3, 0x7fffffff)
    await file.fill(0, Uint8Array.of(1))
    content[0] = 1
    expect(Buffer.compare(await file.content(), content.subarray(0, 2 * BLOCK))).toBe(0)
  })

  test('behind the last block does not come back when the disk grows', async () => {
    const { file } = await written()
    file.editFooters((footer) => footer.writeBigUInt64BE(BigInt(2 * BLOCK), 48))
    expect(await file.findings()).toEqual(['BAT_ENTRY_STALE'])
    const layer = await file.write()
    await promised(layer.resize(4 * BLOCK, 0))
    await promised(layer.close())
    expect((await file.content()).subarray(2 * BLOCK).every((byte) => byte === 0)).toBe(true)
    // Whose room it is nobody can tell for certain: it is lost, and no more.
    expect(await file.findings()).toEqual(['ROOM_UNUSED'])
  })
})

/** The header names so many bytes at a place as the data of a parent locator. ["Dynamic Disk Header Format"] */
function nameLocator(file: VhdFile, at: number, length: number): void {
  file.editHeader((header) => {
    header.write('W2ku', 576)
    header.writeUInt32BE(length, 576 + 8)
    header.writeBigUInt64BE(BigInt(at), 576 + 16)
  })
}

describe('a parent locator that is named', () => {
  test('behind the end of the file has its place to itself when the file grows: no block comes to lie there', async () => {
    const { file, content } = await written()
    const locator = file.size + 2 * BLOCK
    nameLocator(file, locator, 40)
    const added = patternFor(4 * BLOCK, 2 * BLOCK, 2)
    await file.fill(4 * BLOCK, added)
    content.set(added, 4 * BLOCK)
    expect(await file.findings()).toEqual([])
    expect(file.entry(5) * SECTOR).toBeGreaterThan(locator)
    await promised((await file.write()).close())
    expect(Buffer.compare(await file.content(), content)).toBe(0)
  })

  test('behind the end of the file has its place to itself when blocks get copies', async () => {
    const { file } = await written()
    const locator = file.size + BLOCK
    nameLocator(file, locator, 40)
    for (const block of [2, 3, 4, 5]) file.setEntry(block, file.entry(0))
    await expectMended(file)
    expect(file.entry(5) * SECTOR).toBeGreaterThan(locator)
  })

  test('where a BAT goes on that says it is larger is not taken for entries', async () => {
    const { file } = await written()
    const locator = file.table + SECTOR
    nameLocator(file, locator, 40)
    const name = Buffer.alloc(40, 'a name')
    file.put(locator, name)
    file.editHeader((header) => header.writeUInt32BE(SECTOR / 4 + 10, 28))
    await file.repair()
    expect(file.at(locator, 40).equals(name)).toBe(true)
  })
})

describe('a header that says that the BAT has more entries than there is room for', () => {
  const TABLE = 1536
  const told = 'the header says that the BAT has'

  /** Moves the four blocks behind `gap` bytes, which belong to nothing; the footer goes behind them. */
  async function spacious(gap: number): Promise<{ file: VhdFile; content: Uint8Array }> {
    const { file, content } = await written()
    const first = file.entry(0) * SECTOR
    const blocks = file.at(first, file.size - first)
    file.store.deallocate(first, gap)
    file.put(first + gap, blocks)
    for (let block = 0; block < 4; block++) file.setEntry(block, file.entry(block) + gap / SECTOR)
    expect([file.table, await file.findings()]).toEqual([TABLE, []])
    return { file, content }
  }
  const claim = (file: VhdFile, entries: number): void => file.editHeader((header) => header.writeUInt32BE(entries, 28))
  const claimed = (file: VhdFile): number => file.u32(512 + 28)

  /** The check tells it with these words, and nothing else; who would write is refused with the same; the content is read. */
  async function expectTold(file: VhdFile, words: string, content: Uint8Array): Promise<void> {
    const { findings } = await checkLayer(vhd, await file.read())
    expect(findings).toMatchObject([{ code: 'BAT_TOO_LARGE', severity: 'error', at: 512 }])
    expect(findings[0]?.message).toContain(words)
    expect(findings[0]?.message).toContain('vdisk check IMAGE --repair')
    const error = await refusal(() => file.write())
    expect(error).toMatchObject({ code: 'CORRUPT', where: { file: 'a', structure: 'dynamic disk header', at: 512 } })
    expect(error.where.section).toBe('[VHD 1.0] Dynamic Disk Header Format')
    expect(error.message).toContain(words)
    expect(error.advice).toContain('vdisk check IMAGE --repair')
    expect(Buffer.compare(await file.content(), content)).toBe(0)
  }

  test('but for the data of a parent locator: a repair leaves as many as fit before it', async () => {
    const { file, content } = await spacious(64 * KIB)
    const name = Buffer.alloc(40, 'a name')
    nameLocator(file, TABLE + 3 * SECTOR, 40)
    file.put(TABLE + 3 * SECTOR, name)
    claim(file, (4 * SECTOR) / 4)
    await expectTold(
      file,
      `${told} 512 entries, which would reach into the parent locator at ${TABLE + 3 * SECTOR}`,
      content,
    )
    expect(await expectMended(file)).toEqual(['BAT_TOO_LARGE', 'BAT_ENTRY_STALE'])
    expect([claimed(file), file.at(TABLE + 3 * SECTOR, 40).equals(name)]).toEqual([(3 * SECTOR) / 4, true])
    expect(Buffer.compare(await file.content(), content)).toBe(0)
    const layer = await file.write()
    await promised(layer.resize(500 * BLOCK, 0))
    await promised(layer.close())
    expect([await file.findings(), file.at(TABLE + 3 * SECTOR, 40).equals(name)]).toEqual([[], true])
  })

  test('but for a locator that lies between sectors: a repair keeps each byte of it', async () => {
    const { file, content } = await spacious(64 * KIB)
    nameLocator(file, TABLE + 44, 40)
    const name = Buffer.alloc(40, 'a name')
    file.put(TABLE + 44, name)
    claim(file, 12)
    await expectTold(file, `the parent locator at ${TABLE + 44}; the disk needs 6`, content)
    await expectMended(file)
    expect([claimed(file), file.at(TABLE + 44, 40).equals(name)]).toEqual([11, true])
  })

  test('but for the footer: a repair leaves as many as fit before it, and blocks where they are', async () => {
    const { file, content } = await written()
    const { size } = file
    claim(file, size / 4)
    await expectTold(file, `${size / 4} entries, which would reach into block 0 at ${file.entry(0) * SECTOR}`, content)
    expect(await expectMended(file)).toEqual(['BAT_TOO_LARGE', 'BAT_ENTRY_STALE'])
    expect(claimed(file)).toBe((file.entry(0) * SECTOR - TABLE) / 4)
    expect(Buffer.compare(await file.content(), content)).toBe(0)
  })

  test.each([
    ['the footer', (file: VhdFile) => file.size - SECTOR, () => {}],
    [
      'the end of the file',
      (file: VhdFile) => file.size,
      (file: VhdFile) => file.put(file.size - SECTOR, new Uint8Array(8)),
    ],
  ])('but for %s alone: a disk without blocks keeps as many as fit', async (name, end, spoil) => {
    const file = await VhdFile.make(SIZE)
    spoil(file)
    const at = end(file)
    claim(file, (at - TABLE) / 4)
    expect(await file.findings()).not.toContain('BAT_TOO_LARGE')
    claim(file, (at - TABLE) / 4 + 1)
    const { findings } = await checkLayer(vhd, await file.read())
    expect(findings.find(({ code }) => code === 'BAT_TOO_LARGE')?.message).toContain(
      `reach into ${name} at ${at}; the disk needs 6`,
    )
    expect((await refusal(() => file.write())).message).toContain(`reach into ${name} at ${at}`)
    claim(file, 1 << 20)
    await expectMended(file)
    expect(claimed(file)).toBe((file.size - SECTOR - TABLE) / 4)
  })

  test('but for the header, behind which others lie: a repair leaves as many as fit before it', async () => {
    const { file, content } = await spacious(64 * KIB)
    const at = TABLE + 2 * SECTOR
    file.put(at, file.at(512, 1024))
    file.put(512, new Uint8Array(1024))
    file.editFooters((footer) => footer.writeBigUInt64BE(BigInt(at), 16))
    const header = file.at(at, 1024)
    header.writeUInt32BE(300, 28)
    header.writeUInt32BE(0, 36)
    header.writeUInt32BE(~header.reduce((sum, byte) => sum + byte, 0) >>> 0, 36)
    file.put(at, header)
    const { findings } = await checkLayer(vhd, await file.read())
    expect(findings).toMatchObject([{ code: 'BAT_TOO_LARGE', at }])
    expect(findings[0]?.message).toContain(`reach into the header at ${at}`)
    expect((await refusal(() => file.write())).message).toContain(`reach into the header at ${at}`)
    expect(Buffer.compare(await file.content(), content)).toBe(0)
    expect((await file.repair()).done.map(({ code }) => code)).toEqual(['BAT_TOO_LARGE', 'BAT_ENTRY_STALE'])
    expect([await file.findings(), file.u32(at + 28)]).toEqual([[], 256])
    expect(Buffer.compare(await file.content(), content)).toBe(0)
  })

  test('and reaches over all that the file holds: what lies first counts', async () => {
    const { file, content } = await spacious(64 * KIB)
    nameLocator(file, TABLE + 3 * SECTOR, 40)
    claim(file, file.size / 4)
    await expectTold(file, `reach into the parent locator at ${TABLE + 3 * SECTOR}`, content)
    await expectMended(file)
    expect(claimed(file)).toBe((3 * SECTOR) / 4)
    expect(Buffer.compare(await file.content(), content)).toBe(0)
  })

  test('is not what is wrong where a block would reach past the end of the file', async () => {
    const file = await VhdFile.make(SIZE)
    const footer = file.size - SECTOR
    file.put(file.size + SECTOR, file.at(footer, SECTOR))
    file.put(footer, new Uint8Array(2 * SECTOR).fill(0xff))
    const spare = (footer + 2 * SECTOR - TABLE) / 4
    claim(file, spare)
    file.setEntry(1, TABLE / SECTOR + 1)
    expect(await file.findings()).toEqual(['BLOCK_OVERLAPS_STRUCTURE'])
    expect(await expectMended(file)).toEqual([`BLOCK_OVERLAPS_STRUCTURE ${BLOCK}+${BLOCK}`])
    expect([claimed(file), file.entry(1)]).toEqual([spare, ABSENT])
  })

  test('but for blocks: reads of those fail, the others are read; a repair keeps them, and names them', async () => {
    const { file, content } = await written()
    const first = file.entry(0) * SECTOR
    claim(file, (file.entry(2) * SECTOR - TABLE) / 4)
    const chain = new Chain([await file.read()])
    const byte = new Uint8Array(1)
    expect((await refusal(() => promised(chain.read(BLOCK, byte)))).code).toBe('CORRUPT')
    await promised(chain.read(3 * BLOCK, byte))
    expect(byte[0]).toBe(content[3 * BLOCK])
    const words = `reach into block 0 at ${first}; the disk needs 6`
    const { findings } = await checkLayer(vhd, await file.read())
    expect(findings.map(({ code }) => code)).toEqual([
      'BAT_TOO_LARGE',
      'BLOCK_OVERLAPS_STRUCTURE',
      'BLOCK_OVERLAPS_STRUCTURE',
    ])
    expect(findings[0]?.message).toContain(words)
    expect((await refusal(() => file.write())).message).toContain(words)
    const report = await file.repair()
    expect(report.done.map(({ code }) => code)).toEqual(['BAT_TOO_LARGE', 'BAT_ENTRY_STALE'])
    expect(report.doubtful).toEqual([{ offset: 0, length: 2 * BLOCK, snapshot: undefined }])
    await expectMended(file)
    expect(claimed(file)).toBe((first - TABLE) / 4)
    expect(Buffer.compare(await file.content(), content)).toBe(0)
  })

  test('but for two blocks in the wrong order: the one that lies first counts', async () => {
    const { file, content } = await written()
    const places = [0, 1].map((block) => file.entry(block))
    const blocks = places.map((entry) => file.at(entry * SECTOR, SECTOR + BLOCK))
    for (const block of [0, 1]) {
      file.put((places[1 - block] as number) * SECTOR, blocks[block] as Buffer)
      file.setEntry(block, places[1 - block] as number)
    }
    claim(file, file.size / 4)
    await expectTold(file, `reach into block 1 at ${(places[0] as number) * SECTOR}`, content)
    await expectMended(file)
    expect(Buffer.compare(await file.content(), content)).toBe(0)
  })

  test('never becomes smaller than the disk: a block in the entries that it needs is what is wrong', async () => {
    const file = await VhdFile.make(200 * BLOCK)
    await file.fill(0, new Uint8Array(BLOCK).fill(1))
    file.setEntry(1, TABLE / SECTOR + 1)
    claim(file, 256)
    expect(await file.findings()).toEqual(['BLOCK_OVERLAPS_STRUCTURE'])
    await expectMended(file)
    expect([claimed(file), file.entry(1)]).toEqual([256, ABSENT])
  })

  test('where a locator begins among the entries that the disk needs, and goes on behind: it keeps what it needs', async () => {
    const { file, content } = await spacious(64 * KIB)
    nameLocator(file, TABLE + 16, 600)
    claim(file, 200)
    await expectTold(file, `reach into the parent locator at ${TABLE + 16}`, content)
    await expectMended(file)
    expect(claimed(file)).toBe(6)
  })

  test('is not mended by a repair of leaks, which says so', async () => {
    const { file } = await written()
    claim(file, file.size / 4)
    const { bytes } = file
    expect((await refusal(() => file.repair('leaks'))).message).toContain(told)
    expect(Buffer.compare(file.bytes, bytes)).toBe(0)
  })

  test('may be many more than the disk needs, where nothing else lies: the disk grows into them', async () => {
    const { file } = await spacious(64 * KIB)
    file.put(TABLE + SECTOR, new Uint8Array(64 * KIB - SECTOR).fill(0xff))
    claim(file, (64 * KIB) / 4)
    expect([await file.findings(), (await file.repair()).done]).toEqual([[], []])
    const layer = await file.write()
    await promised(layer.resize(1000 * BLOCK, 0))
    await promised(layer.close())
    expect([await file.findings(), file.table, claimed(file)]).toEqual([[], TABLE, (64 * KIB) / 4])
  })
})

describe('room that is lost', () => {
  test('is none where it is a hole', async () => {
    const { file } = await written()
    const places = [1, 2].map((block) => file.entry(block) * SECTOR)
    for (const block of [1, 2]) file.setEntry(block, ABSENT)
    expect(await file.findings()).toEqual(['ROOM_UNUSED'])
    for (const at of places) file.store.deallocate(at, SECTOR + BLOCK)
    expect(await file.findings()).toEqual([])
  })

  test('between blocks is given back by a repair of leaks, where holes can be made', async () => {
    const { file } = await written()
    const places = [0, 2].map((block) => file.entry(block) * SECTOR)
    for (const block of [0, 2]) file.setEntry(block, ABSENT)
    file.folder.files.set('a', withoutHoles(file.store))
    expect((await file.repair('leaks')).done).toEqual([])
    file.folder.files.set('a', file.store)
    expect((await file.repair('leaks')).done.map(({ code }) => code)).toEqual(['ROOM_UNUSED', 'ROOM_UNUSED'])
    for (const at of places) expect(file.at(at, SECTOR + BLOCK).every((byte) => byte === 0)).toBe(true)
    expect(await file.findings()).toEqual([])
  })

  test('at the end is cut off by a repair of leaks where the footer is lost, too', async () => {
    const { file, content } = await written()
    const { size } = file
    file.put(size - SECTOR, new Uint8Array(3 * BLOCK).fill(6))
    expect(await file.findings()).toEqual(['FOOTER_MISSING', 'ROOM_UNUSED'])
    expect((await file.repair('leaks')).done.map(({ code }) => code)).toEqual(['ROOM_UNUSED'])
    expect([await file.findings(), file.size]).toEqual([[], size])
    expect(Buffer.compare(await file.content(), content)).toBe(0)
  })

  test('at the end of the file is told, and cut off by a repair of leaks', async () => {
    const { file, content } = await written()
    const footer = file.at(file.size - SECTOR, SECTOR)
    file.put(file.size - SECTOR, new Uint8Array(3 * BLOCK).fill(6))
    file.put(file.size, footer)
    expect(await file.findings()).toEqual(['ROOM_UNUSED'])
    expect((await file.repair('leaks')).done.map(({ code }) => code)).toEqual(['ROOM_UNUSED'])
    expect(await file.findings()).toEqual([])
    expect(Buffer.compare(await file.content(), content)).toBe(0)
    expect(file.size).toBeLessThan(4 * BLOCK + 8 * 4096 + 4096)
  })

  test('between blocks is used by the next block that is made', async () => {
    const { file } = await written()
    const layer = await file.write()
    await promised(new Chain([layer]).erase(BLOCK, BLOCK))
    await promised(layer.close())
    const { size } = file
    expect(file.entry(1)).toBe(ABSENT)
    await file.fill(5 * BLOCK, Uint8Array.of(1))
    expect(file.size).toBe(size)
    expect(await file.findings()).toEqual([])
    expect((await file.content())[5 * BLOCK + 1]).toBe(0)
  })
})

test('truncated anywhere, a file opens or says why not', async () => {
  const { file } = await written()
  const { bytes } = file
  for (let length = 0; length < 4096; length += 97) {
    const cut = new VhdFile(bytes.subarray(0, length))
    const failed = await refusal(() => cut.content()).catch(() => undefined)
    expect(failed?.code ?? 'UNSUPPORTED').toMatch(/^(UNSUPPORTED|CORRUPT|OUT_OF_RANGE)$/)
  }
  for (let length = 4096; length < bytes.length - SECTOR; length += 20_011) {
    const cut = new VhdFile(bytes.subarray(0, length))
    expect((await refusal(() => cut.content())).code).toBe('CORRUPT')
  }
})

describe("XenServer's batmap", () => {
  /** Lays a batmap behind the BAT, as XenServer makes one. */
  async function withBatmap(bits: number): Promise<VhdFile> {
    const base = await rawBase(SIZE)
    const file = await VhdFile.make(SIZE, {}, rawParent(SIZE))
    // Its place is that of the parent's names: those go, as the header has one too.
    file.editHeader((header) => header.fill(0, 576, 576 + 192))
    file.editFooters((footer) => {
      footer.write('tap\0', 28, 'latin1')
      footer.writeUInt32BE(0x10003, 32)
    })
    const at = file.table + SECTOR
    const map = Buffer.alloc(2 * SECTOR)
    map.write('tdbatmap', 0, 'latin1')
    map.writeBigUInt64BE(BigInt(at + SECTOR), 8)
    map.writeUInt32BE(1, 16)
    map.writeUInt32BE(0x10002, 20)
    map.writeUInt8(bits, SECTOR)
    map.writeUInt32BE(~bits >>> 0, 24)
    file.put(at, map)
    if (file.size < at + 3 * SECTOR) file.put(at + 2 * SECTOR, file.at(0, SECTOR))
    await file.fill(0, new Uint8Array(BLOCK).fill(3), [base])
    return file
  }

  test('is kept while blocks are written, and not written over', async () => {
    const file = await withBatmap(0x80)
    expect(file.at(file.table + SECTOR, 8).toString()).toBe('tdbatmap')
    expect(file.at(file.table + 2 * SECTOR, 1)[0]).toBe(0x80)
    expect(await file.findings()).toEqual([])
    expect((await file.read()).details).toMatchObject({ batmap: true, creator: 'tap\0'.trim().replace('\0', '') })
    expect((await file.repair()).done).toEqual([])
  })

  test('has a place that no block may have', async () => {
    const file = await withBatmap(0x80)
    file.setEntry(0, file.table / SECTOR + 1)
    const error = await refusal(() => file.write())
    expect(error).toMatchObject({ code: 'CORRUPT', where: { file: 'a', structure: 'BAT', at: file.table } })
    expect(error.message).toContain('where the batmap header does')
  })

  test('says nothing any more before a block may lose sectors', async () => {
    const file = await withBatmap(0x80)
    const layer = await file.write()
    expect(await promised(layer.erase(0, 4096, 'parent'))).toBe(4096)
    await promised(layer.close())
    expect(file.at(file.table + 2 * SECTOR, 1)[0]).toBe(0)
    expect(file.u32(file.table + SECTOR + 24)).toBe(0xffffffff)
    expect(await file.findings()).toEqual([])
  })

  test('goes along when the BAT has to move', async () => {
    const file = await withBatmap(0x80)
    const before = file.table
    const layer = await file.write()
    await promised(layer.resize(200 * BLOCK, 0))
    await promised(layer.close())
    expect(file.table).not.toBe(before)
    expect(file.at(file.table + 2 * SECTOR, 8).toString()).toBe('tdbatmap')
    expect(await file.findings()).toEqual([])
  })

  test('is written to once: what it says no more need not be taken back', async () => {
    const file = await withBatmap(0x80)
    const writes: number[] = []
    file.folder.files.set(
      'a',
      watchedStore(file.store, ({ kind, at }) => {
        if (kind === 'write') writes.push(at)
      }),
    )
    for (const offset of [0, 4096]) {
      const layer = await file.write()
      for (const start of [offset, offset + 8192]) await promised(layer.erase(start, 4096, 'parent'))
      await promised(layer.close())
    }
    expect(writes.filter((at) => at === file.table + 2 * SECTOR)).toHaveLength(1)
  })

  test('whose checksum is wrong is told, and not used', async () => {
    const file = await withBatmap(0x80)
    file.setU32(file.table + SECTOR + 24, 1)
    expect(await file.findings()).toEqual(['BATMAP_DAMAGED'])
    expect((await file.repair()).done.map(({ code }) => code)).toEqual(['BATMAP_WRONG'])
    expect(await file.findings()).toEqual([])
  })

  test('that calls a block whole that cannot be read is no other damage', async () => {
    const file = await withBatmap(0x80)
    file.setEntry(0, 0x7fffff)
    expect(await file.findings()).toEqual(['BLOCK_PAST_END', 'ROOM_UNUSED'])
  })

  /** The BAT is said to have so many sectors more, which say nothing; batmap and block lie behind them. */
  async function withSpareEntries(sectors: number): Promise<VhdFile> {
    const file = await withBatmap(0x80)
    const at = file.table + SECTOR
    const rest = file.at(at, file.size - at)
    rest.writeBigUInt64BE(BigInt(at + (sectors + 1) * SECTOR), 8)
    file.put(at, new Uint8Array(sectors * SECTOR).fill(0xff))
    file.put(at + sectors * SECTOR, rest)
    file.setEntry(0, file.entry(0) + sectors)
    file.editHeader((header) => header.writeUInt32BE(((sectors + 1) * SECTOR) / 4, 28))
    expect([await file.findings(), (await file.read()).details]).toMatchObject([[], { batmap: true }])
    return file
  }

  test('comes along when the BAT turns out to be too large', async () => {
    const file = await withSpareEntries(8)
    nameLocator(file, file.table + 3 * SECTOR, 40)
    expect(await file.findings()).toEqual(['BAT_TOO_LARGE'])
    expect((await file.repair()).done.map(({ code }) => code)).toEqual(['BAT_TOO_LARGE'])
    expect([await file.findings(), file.u32(512 + 28)]).toEqual([[], 6])
    expect(file.at(file.table + SECTOR, 8).toString()).toBe('tdbatmap')
    expect((await file.read()).details).toMatchObject({ batmap: true })
  })

  test('is given up where there is no room for it behind a BAT that was too large', async () => {
    const file = await withSpareEntries(8)
    const name = Buffer.alloc(40, 'a name')
    nameLocator(file, file.table + 2 * SECTOR, 40)
    file.put(file.table + 2 * SECTOR, name)
    await file.repair()
    expect([await file.findings(), file.u32(512 + 28)]).toEqual([[], 6])
    expect((await file.read()).details).not.toHaveProperty('batmap')
    expect(file.at(file.table + 2 * SECTOR, 40).equals(name)).toBe(true)
  })

  test('that is wrong is told, and made to say nothing', async () => {
    const file = await withBatmap(0xc0)
    expect(await file.findings()).toEqual(['BATMAP_WRONG'])
    expect((await file.repair()).done.map(({ code }) => code)).toEqual(['BATMAP_WRONG'])
    expect(await file.findings()).toEqual([])
  })
})
