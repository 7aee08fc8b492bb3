import { describe, expect, test } from 'vitest'
import { ZERO_GUID } from '../../../../lib/bytes/guid.ts'
import { Chain } from '../../../../lib/chain/chain.ts'
import { promised } from '../../../../lib/io/io.ts'
import { patternFor } from '../../../model/history.ts'
import { refusal } from '../../../support/refusal.ts'
import { contentOf } from '../../../support/stores.ts'
import { KIB, logEntry, MIB, VhdxFile } from '../../../support/vhdx-file.ts'
import { expectMended, findings, linesOf, repair, salvage, sectorsOf } from '../../../support/vhdx-repair.ts'

const SIZE = 4 * MIB
const GUID = '11111111-2222-4333-8444-555555555555'
const ITEM = {
  parameters: 'caa16737-fa36-4d43-b3b6-33f0aa44e76b',
  size: '2fa54224-cd1b-4876-b211-5dbed83bf4b8',
  id: 'beca12ab-b2e6-4523-93ef-c309e000c746',
  logical: '8141bf1d-a96f-4709-ba47-f233a8faab5f',
  physical: 'cda348c7-445d-4471-9cc9-e9885251c556',
  locator: 'a8d35f2d-b30b-454d-abf7-d3d84834ab0c',
}
const PARENT = {
  path: 'p.vhdx',
  absolutePath: '/p.vhdx',
  format: 'vhdx',
  identity: { kind: 'guid' as const, value: GUID, current: true },
  record: { size: SIZE, stamp: undefined, sample: undefined },
  replaces: undefined,
}

type Spoil = (file: VhdxFile) => unknown

/** A disk with two blocks of content and two of nothing. */
async function written(options: Record<string, string> = {}): Promise<{ file: VhdxFile; content: Uint8Array }> {
  const file = await VhdxFile.make(SIZE, options)
  const content = new Uint8Array(SIZE)
  content.set(patternFor(0, 2 * MIB - 700, 3))
  const chain = new Chain([await file.write()])
  await promised(chain.write(0, content.subarray(0, 2 * MIB - 700)))
  await promised(chain.close())
  return { file, content }
}

/** Both headers without a checksum that fits. */
const noHeaders: Spoil = (file) => [64, 128].map((k) => file.put(k * KIB + 4, Uint8Array.of(1, 2, 3, 4)))
const wipeHeaders: Spoil = (file) => [64, 128].map((k) => file.put(k * KIB, new Uint8Array(4096)))
const batPage = (file: VhdxFile): Uint8Array => file.bytes(file.bat.at, 4096)

describe('a file without damage', () => {
  test.each(['all', 'leaks'] as const)('is not written to by a repair of %s', async (scope) => {
    const { file } = await written()
    const before = contentOf(file.store)
    expect((await repair(file, scope)).count).toBe(0)
    expect(Buffer.compare(contentOf(file.store), before)).toBe(0)
  })
})

describe('the file type identifier', () => {
  test('is written again where checksums prove what the file is', async () => {
    const { file, content } = await written()
    file.put(0, Buffer.from('vhdyfile'))
    expect(await refusal(() => file.read())).toMatchObject({ code: 'NOT_THIS_FORMAT', where: { at: 0 } })
    expect(linesOf(await expectMended(file, content))).toEqual(['SIGNATURE_DAMAGED 0'])
  })

  test.each<[string, Spoil]>([
    ['a header', (file) => [192, 256].map((k) => file.put(k * KIB, Buffer.from('x')))],
    ['a region table', wipeHeaders],
  ])('%s with its checksum is proof enough', async (_, spoil) => {
    const { file } = await written()
    file.put(0, Buffer.from('x'))
    spoil(file)
    await repair(file).catch(() => undefined)
    expect(Buffer.from(file.bytes(0, 8)).toString()).toBe('vhdxfile')
  })

  test('is not put into a file of which nothing says that it is one', async () => {
    const file = new VhdxFile()
    file.put(0, new Uint8Array(SIZE).fill(7))
    const before = contentOf(file.store)
    expect(await refusal(() => repair(file))).toMatchObject({ code: 'NOT_THIS_FORMAT', where: { at: 0 } })
    expect(Buffer.compare(contentOf(file.store), before)).toBe(0)
  })
})

describe('headers', () => {
  test.each([0, 1])('a damaged one, %d, is written anew, and the identity stays', async (slot) => {
    const { file, content } = await written()
    const at = [64, 128].map((k) => k * KIB)[slot] as number
    file.put(at + 1000, Buffer.from('x'))
    const { dataWrite } = file.header
    expect(await findings(file)).toEqual(['HEADER_DAMAGED'])
    expect(linesOf(await expectMended(file, content))).toEqual([`HEADER_DAMAGED ${at}`])
    expect(file.header.dataWrite).toBe(dataWrite)
  })

  test('neither valid, but of one mind about the log: both are made anew, with a new identity', async () => {
    const { file, content } = await written({ log_size: '2M' })
    const { dataWrite } = file.header
    noHeaders(file)
    expect(await refusal(() => file.read())).toMatchObject({ code: 'CORRUPT', where: { structure: 'header' } })
    expect(linesOf(await expectMended(file, content))).toEqual([`HEADERS_LOST ${64 * KIB}`])
    expect(file.header.dataWrite).not.toBe(dataWrite)
    expect([file.logAt, file.logLength]).toEqual([MIB, 2 * MIB])
  })

  test('neither valid, but of one mind about a log that waits: it is replayed', async () => {
    const { file, content } = await written()
    const page = batPage(file)
    const end = file.store.size()
    file.setEntry(0, 0n)
    const updates = [{ at: file.bat.at, bytes: page }]
    file.setLog(GUID, [
      { at: 0, bytes: logEntry({ guid: GUID, sequence: 7, tail: 0, updates, flushed: end, last: end }) },
    ])
    noHeaders(file)
    const { layer } = await salvage(file)
    expect(layer.identity).toBeUndefined()
    expect(Buffer.concat((await sectorsOf(layer)) as Uint8Array[]).equals(content)).toBe(true)
    expect(linesOf(await expectMended(file, content))).toEqual([`HEADERS_LOST ${64 * KIB}`, `LOG_PENDING ${MIB}`])
  })

  test('two of the same number that differ in who they are: both are made anew', async () => {
    const { file, content } = await written()
    file.editHeaders((view) => view.setBigUint64(8, 70n, true))
    file.editHeaders((view) => view.setUint8(32, 77), [1])
    expect(linesOf(await expectMended(file, content))).toEqual([`HEADERS_LOST ${64 * KIB}`])
    expect(file.header.sequence).toBeGreaterThan(70n)
  })

  test('both wiped out: a file that never had anything in its log gets new ones', async () => {
    const file = await VhdxFile.make(SIZE, { subformat: 'fixed' })
    const content = patternFor(0, SIZE, 9)
    const at = Number(file.entry(0) & ~0xfffffn)
    file.put(at, content)
    wipeHeaders(file)
    expect(linesOf(await expectMended(file, content))).toEqual([`HEADERS_LOST ${64 * KIB}`])
    expect([file.logAt, file.logLength]).toEqual([MIB, MIB])
  })

  test('both wiped out, and a log whose changes are all made: they are made anew', async () => {
    const { file, content } = await written()
    // One session wrote its tables once: nothing else is in the log.
    wipeHeaders(file)
    expect(linesOf(await expectMended(file, content))).toEqual([`HEADERS_LOST ${64 * KIB}`])
  })

  test('both wiped out, and a log that may wait: that would be a guess, and nothing is changed', async () => {
    const { file } = await written()
    file.setEntry(0, 0n)
    wipeHeaders(file)
    const before = contentOf(file.store)
    expect(await refusal(() => repair(file))).toMatchObject({
      code: 'CORRUPT',
      where: { structure: 'log', at: MIB },
      advice: expect.stringContaining('--salvage') as string,
    })
    expect(Buffer.compare(contentOf(file.store), before)).toBe(0)
  })

  test('both wiped out where another program has put something else at 1 MiB: the log goes behind everything', async () => {
    const { file, content } = await written({ log_size: '2M' })
    // The BAT moves to where the log was; nothing else is in its old place.
    const bat = file.bytes(file.bat.at, MIB)
    const old = file.bat.at
    file.put(MIB, bat)
    file.put(2 * MIB, new Uint8Array(MIB))
    file.put(old, new Uint8Array(MIB))
    file.editRegions((view) => view.setUint32(16 + 16, MIB, true))
    wipeHeaders(file)
    const end = file.store.size()
    await repair(file)
    expect([file.logAt, file.logLength]).toEqual([end, MIB])
    await expectMended(file, content)
  })

  test('of a version that nobody knows are left alone', async () => {
    const { file } = await written()
    file.editHeaders((view) => view.setUint16(66, 2, true))
    expect(await refusal(() => repair(file))).toMatchObject({
      code: 'UNSUPPORTED',
      where: { section: '[MS-VHDX] 2.2.2' },
    })
  })

  test('that name a log where none can be, of a file that was closed, get a new one when a table must change', async () => {
    const { file, content } = await written()
    file.editHeaders((view) => view.setBigUint64(72, BigInt(file.bat.at), true))
    file.setEntry(3, 0x100n)
    expect(await refusal(() => file.read())).toMatchObject({ code: 'CORRUPT' })
    const end = file.store.size()
    expect(linesOf(await expectMended(file, content))).toEqual([`BAT_ENTRY_RESERVED ${file.bat.at + 24}`])
    expect([file.logAt, file.logLength]).toEqual([MIB, MIB])
    expect(file.store.size()).toBe(end)
  })
})

describe('a log', () => {
  /** A change of the BAT that waits in the log: the file shows block 0 only when it is replayed. */
  async function waiting(options: { flushed?: number; spoil?: (bytes: Uint8Array) => void } = {}): Promise<{
    file: VhdxFile
    content: Uint8Array
  }> {
    const { file, content } = await written()
    const end = file.store.size()
    const updates = [{ at: file.bat.at, bytes: batPage(file) }]
    file.setEntry(0, 0n)
    const flushed = options.flushed ?? end
    const bytes = logEntry({ guid: GUID, sequence: 7, tail: 0, updates, flushed, last: Math.max(end, flushed) })
    options.spoil?.(bytes)
    file.setLog(GUID, [{ at: 0, bytes }])
    return { file, content }
  }

  test('that was left behind is replayed, and the identity stays', async () => {
    const { file, content } = await waiting()
    const { dataWrite, fileWrite } = file.header
    expect(await findings(file)).toEqual(['LOG_PENDING'])
    expect(linesOf(await expectMended(file, content))).toEqual([`LOG_PENDING ${MIB}`])
    expect(file.header).toMatchObject({ dataWrite, log: ZERO_GUID })
    expect(file.header.fileWrite).not.toBe(fileWrite)
  })

  test('is replayed as far as it is whole: what a crash tore behind that was never promised', async () => {
    const { file, content } = await waiting()
    const end = file.store.size()
    const updates = [{ at: file.bat.at, bytes: new Uint8Array(4096) }]
    const torn = logEntry({ guid: GUID, sequence: 8, tail: 0, updates, flushed: end, last: end })
    torn[5000] = (torn[5000] as number) ^ 1
    file.put(file.logAt + 2 * 4096, torn)
    expect(linesOf(await expectMended(file, content))).toEqual([`LOG_PENDING ${MIB}`])
  })

  test('is replayed by a repair of leaks too, as by anybody who writes', async () => {
    const { file } = await waiting()
    expect((await repair(file, 'leaks')).done).toEqual([])
    expect(await findings(file)).toEqual([])
  })

  test('that cannot be replayed is set aside: the tables stand, and all of the disk is doubtful', async () => {
    const { file } = await waiting({ spoil: (bytes) => bytes.fill(0, 4096, 4200) })
    const { dataWrite } = file.header
    expect(await refusal(() => file.read())).toMatchObject({
      code: 'CORRUPT',
      where: { structure: 'log', at: MIB },
      advice: expect.stringContaining('--salvage') as string,
    })
    expect(linesOf(await expectMended(file, new Uint8Array(SIZE)))).toEqual([`LOG_UNUSABLE ${MIB} 0+${SIZE}`])
    expect(file.header.dataWrite).not.toBe(dataWrite)
  })

  test('that cannot be replayed stays where it is if the tables make no sense without it', async () => {
    const { file } = await waiting({ spoil: (bytes) => bytes.fill(0, 4096, 4200) })
    file.put(file.metadata.at, new Uint8Array(4096))
    const before = contentOf(file.store)
    expect(await refusal(() => repair(file))).toMatchObject({ code: 'CORRUPT', where: { structure: 'metadata table' } })
    expect(Buffer.compare(contentOf(file.store), before)).toBe(0)
  })

  test('that writes over the headers is set aside', async () => {
    const { file } = await written()
    const end = file.store.size()
    const updates = [{ at: 64 * KIB, bytes: new Uint8Array(4096).fill(1) }]
    file.setLog(GUID, [
      { at: 0, bytes: logEntry({ guid: GUID, sequence: 7, tail: 0, updates, flushed: end, last: end }) },
    ])
    expect(linesOf(await repair(file))).toEqual([`LOG_UNUSABLE ${MIB} 0+${SIZE}`])
    expect(await findings(file)).toEqual([])
  })

  test('that the headers put outside the file is set aside', async () => {
    const { file } = await waiting()
    file.editHeaders((view) => view.setBigUint64(72, BigInt(64 * MIB), true))
    expect(linesOf(await repair(file))[0]).toMatch(/^LOG_UNUSABLE \d+ 0\+4194304$/)
    // The block that the log spoke of is not lost with it.
    expect(await findings(file)).toEqual(['ROOM_UNUSED'])
    expect([file.logAt, file.logLength]).toEqual([MIB, MIB])
    expect(file.header.log).toBe(ZERO_GUID)
  })

  test('of another version is left alone', async () => {
    const { file } = await waiting()
    file.editHeaders((view) => view.setUint16(64, 1, true))
    expect(await refusal(() => repair(file))).toMatchObject({ code: 'UNSUPPORTED' })
  })

  test('that is too large to be replayed is left alone', async () => {
    const { file } = await waiting()
    file.store.truncate(256 * MIB)
    file.editHeaders((view) => {
      view.setUint32(68, 65 * MIB, true)
      view.setBigUint64(72, BigInt(128 * MIB), true)
    })
    expect(await refusal(() => repair(file))).toMatchObject({ code: 'LIMIT_EXCEEDED', where: { structure: 'log' } })
  })

  test('of a file that was cut short since is replayed, and what was cut off is named', async () => {
    const { file, content } = await waiting()
    const end = file.store.size()
    // The last block in the file is the second one of the disk.
    file.store.truncate(end - MIB / 2)
    expect(await refusal(() => file.read())).toMatchObject({ code: 'CORRUPT', where: { structure: 'log' } })
    const { dataWrite } = file.header
    const cut = content.slice()
    cut.fill(0, 1.5 * MIB, 2 * MIB)
    expect(linesOf(await expectMended(file, cut))).toEqual([
      `LOG_PENDING ${MIB}`,
      `BLOCK_PAST_END ${file.bat.at + 8} ${1.5 * MIB}+${MIB / 2}`,
    ])
    expect(file.header.dataWrite).not.toBe(dataWrite)
  })
})

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
    expect((await repair(file)).done).toMatchObject([{ code: 'PARTIAL_WITHOUT_PARENT', structure: 'metadata region' }])
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
