import { describe, expect, test } from 'vitest'
import { Chain } from '../../../../lib/chain/chain.ts'
import { vhd } from '../../../../lib/formats/vhd/driver.ts'
import { promised } from '../../../../lib/io/io.ts'
import { checkLayer } from '../../../contract/driver-contract.ts'
import { refusal } from '../../../support/refusal.ts'
import { BLOCK, expectMended, nameLocator, SIZE, written } from '../../../support/vhd-damage.ts'
import { VhdFile } from '../../../support/vhd-file.ts'

const KIB = 1024
const SECTOR = 512
const ABSENT = 0xffffffff

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

  test('and has a locator over entries that the disk needs is not written: a repair lowers the count, and touches no entry', async () => {
    const { file, content } = await spacious(64 * KIB)
    const locator = TABLE + 16
    nameLocator(file, locator, 600)
    claim(file, 200)
    // An entry that cannot be, if it is one; it may be a part of the parent's name as well.
    file.setEntry(5, 0x61006200)
    const expectRefused = async (): Promise<void> => {
      const error = await refusal(() => file.write())
      expect(error).toMatchObject({ code: 'CORRUPT', where: { file: 'a', structure: 'BAT', at: TABLE } })
      expect(error.message).toContain(`the parent locator at ${locator} lies over entries of its BAT`)
      expect(error.advice).toContain('vdisk convert')
    }
    expect(await file.findings()).toEqual(['BAT_OVERLAPS', 'BAT_TOO_LARGE', 'BLOCK_PAST_END'])
    await expectRefused()
    expect((await file.repair()).done.map(({ code }) => code)).toEqual(['BAT_TOO_LARGE'])
    expect([claimed(file), file.entry(5)]).toEqual([6, 0x61006200])
    expect(await file.findings()).toEqual(['BAT_OVERLAPS', 'BLOCK_PAST_END'])
    await expectRefused()
    file.setEntry(5, ABSENT)
    expect(Buffer.compare(await file.content(), content)).toBe(0)
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
