import { describe, expect, test } from 'vitest'
import { Chain } from '../../../../lib/chain/chain.ts'
import { promised } from '../../../../lib/io/io.ts'
import { patternFor } from '../../../model/history.ts'
import { rawBase, rawParent } from '../../../support/raw-base.ts'
import { refusal } from '../../../support/refusal.ts'
import { watchedStore, withoutHoles } from '../../../support/stores.ts'
import { BLOCK, expectMended, nameLocator, SIZE, written } from '../../../support/vhd-damage.ts'
import { VhdFile } from '../../../support/vhd-file.ts'

const SECTOR = 512
const ABSENT = 0xffffffff

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
    expect((await refusal(() => file.write())).message).toContain('Cannot write ')
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
