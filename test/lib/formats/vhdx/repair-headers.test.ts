import { describe, expect, test } from 'vitest'
import { ZERO_GUID } from '../../../../lib/bytes/guid.ts'
import { patternFor } from '../../../model/history.ts'
import { refusal } from '../../../support/refusal.ts'
import { contentOf } from '../../../support/stores.ts'
import { KIB, logEntry, MIB, VhdxFile } from '../../../support/vhdx-file.ts'
import { expectMended, findings, linesOf, repair, salvage, sectorsOf } from '../../../support/vhdx-repair.ts'
import { batPage, GUID, noHeaders, SIZE, type Spoil, wipeHeaders, written } from '../../../support/vhdx-spoiled.ts'

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
