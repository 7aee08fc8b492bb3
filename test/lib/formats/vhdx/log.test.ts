import { describe, expect, test } from 'vitest'
import { ZERO_GUID } from '../../../../lib/bytes/guid.ts'
import { Chain } from '../../../../lib/chain/chain.ts'
import { VdiskError } from '../../../../lib/errors.ts'
import { vhdx } from '../../../../lib/formats/vhdx/driver.ts'
import { promised } from '../../../../lib/io/io.ts'
import { checkLayer } from '../../../contract/driver-contract.ts'
import { contentOf, RecordingStore, watchedStore } from '../../../support/stores.ts'
import { logEntry, MIB, VhdxFile } from '../../../support/vhdx-file.ts'

const GUID = '11111111-2222-4333-8444-555555555555'
const OTHER = '99999999-2222-4333-8444-555555555555'
const SIZE = 4 * MIB

/** A page of the BAT with one block fully present at `place`. */
function batPage(block: number, place: number): Uint8Array {
  const page = new Uint8Array(4096)
  new DataView(page.buffer).setBigUint64(block * 8, BigInt(place) | 6n, true)
  return page
}

/** A file of four blocks that are not present, with room for three blocks at its end; each tells its number. */
async function fileWithRoom(): Promise<{ file: VhdxFile; end: number; rooms: number[] }> {
  const file = await VhdxFile.make(SIZE)
  const end = file.store.size()
  file.store.truncate(end + 3 * MIB)
  const rooms = [end, end + MIB, end + 2 * MIB]
  for (const [i, at] of rooms.entries()) file.put(at, new Uint8Array(MIB).fill(i + 1))
  return { file, end: end + 3 * MIB, rooms }
}

async function firstByte(file: VhdxFile, offset = 0): Promise<number> {
  const layer = await file.read()
  const byte = new Uint8Array(1)
  await promised(new Chain([layer]).read(offset, byte))
  return byte[0] as number
}

async function refusal(work: Promise<unknown>): Promise<VdiskError> {
  const error = await work.then(
    () => undefined,
    (reason: unknown) => reason,
  )
  expect(error).toBeInstanceOf(VdiskError)
  return error as VdiskError
}

describe('a log that was left behind', () => {
  test('is replayed in memory for who reads, and the file stays as it is', async () => {
    const { file, end, rooms } = await fileWithRoom()
    const updates = [{ at: file.bat.at, bytes: batPage(0, rooms[1] as number) }]
    file.setLog(GUID, [
      { at: 0, bytes: logEntry({ guid: GUID, sequence: 7, tail: 0, updates, flushed: end, last: end }) },
    ])
    const before = contentOf(file.store)
    expect(await firstByte(file)).toBe(2)
    const layer = await file.read()
    const report = await checkLayer(vhdx, layer)
    expect(report.findings.filter(({ code }) => code !== 'ROOM_UNUSED').map(({ code }) => code)).toEqual([
      'LOG_PENDING',
    ])
    expect(layer.details.pendingLogEntries).toBe(1)
    expect(Buffer.compare(contentOf(file.store), before)).toBe(0)
  })

  test('is replayed on the medium for who writes: the file says first that it changes, last that the log is empty', async () => {
    const { file, end, rooms } = await fileWithRoom()
    const { fileWrite, dataWrite } = file.header
    const updates = [{ at: file.bat.at, bytes: batPage(0, rooms[2] as number) }]
    file.setLog(GUID, [
      { at: 8192, bytes: logEntry({ guid: GUID, sequence: 1, tail: 8192, updates, flushed: end, last: end }) },
    ])
    const recorder = new RecordingStore(file.store)
    file.wrap(() => recorder)
    const layer = await file.write()
    const order = recorder.log.map((entry) =>
      entry.kind === 'write' ? (entry.at < 192 * 1024 ? 'header' : 'table') : entry.kind,
    )
    const headers = ['header', 'flush', 'header', 'flush']
    expect(order).toEqual([...headers, 'table', 'flush', ...headers])
    await promised(layer.close())
    expect(file.header.log).toBe(ZERO_GUID)
    expect(file.header.fileWrite).not.toBe(fileWrite)
    expect(file.header.dataWrite).toBe(dataWrite)
    expect(await firstByte(file)).toBe(3)
  })

  test('replayed after a crash in the middle of its replay gives the same', async () => {
    const { file, end, rooms } = await fileWithRoom()
    const updates = [{ at: file.bat.at, bytes: batPage(0, rooms[0] as number) }]
    file.setLog(GUID, [
      { at: 0, bytes: logEntry({ guid: GUID, sequence: 1, tail: 0, updates, flushed: end, last: end + MIB }) },
    ])
    const recorder = new RecordingStore(file.copy().store)
    const scratch = new VhdxFile()
    scratch.wrap(() => recorder)
    await promised((await scratch.write()).close())
    for (let cut = 0; cut <= recorder.log.length; cut++) {
      const crashed = file.copy()
      for (const entry of recorder.log.slice(0, cut)) {
        if (entry.kind === 'write') crashed.put(entry.at, entry.bytes)
        if (entry.kind === 'truncate') crashed.store.truncate(entry.size)
      }
      await promised((await crashed.write()).close())
      expect(await firstByte(crashed)).toBe(1)
      expect(crashed.store.size()).toBe(end + MIB)
    }
  })

  test('of several entries is replayed from the tail to the head, also around the end of the log', async () => {
    const { file, end, rooms } = await fileWithRoom()
    const size = file.logLength
    const places = [size - 16384, size - 8192, 0]
    const entries = places.map((at, i) => ({
      at,
      bytes: logEntry({
        guid: GUID,
        sequence: 40 + i,
        tail: places[0] as number,
        updates: [{ at: file.bat.at, bytes: batPage(0, rooms[i] as number) }],
        flushed: end,
        last: end,
      }),
    }))
    file.setLog(GUID, entries)
    expect((await file.read()).details.pendingLogEntries).toBe(3)
    expect(await firstByte(file)).toBe(3)
  })

  test('whose last entry begins before the end of the log and ends at its beginning is whole', async () => {
    const { file, end, rooms } = await fileWithRoom()
    const at = file.logLength - 4096
    const updates = [{ at: file.bat.at, bytes: batPage(0, rooms[1] as number) }]
    file.setLog(GUID, [
      { at, bytes: logEntry({ guid: GUID, sequence: 3, tail: at, updates, flushed: end, last: end }) },
    ])
    expect(await firstByte(file)).toBe(2)
  })

  test('is replayed from its tail on: what lies before was applied, and may be overtaken', async () => {
    const { file, end, rooms } = await fileWithRoom()
    const stale = [{ at: file.bat.at, bytes: batPage(1, rooms[2] as number) }]
    const fresh = [{ at: file.bat.at + 4096, bytes: batPage(0, 0) }]
    const old = logEntry({ guid: GUID, sequence: 5, tail: 0, updates: stale, flushed: end, last: end })
    const head = logEntry({ guid: GUID, sequence: 6, tail: old.length, updates: fresh, flushed: end, last: end })
    file.setLog(GUID, [
      { at: 0, bytes: old },
      { at: old.length, bytes: head },
    ])
    expect((await file.read()).details.pendingLogEntries).toBe(1)
    expect(await firstByte(file, MIB)).toBe(0)
  })

  test('counts with its newest complete sequence, wherever that lies', async () => {
    const { file, end, rooms } = await fileWithRoom()
    const entry = (sequence: number, tail: number, room: number) =>
      logEntry({
        guid: GUID,
        sequence,
        tail,
        updates: [{ at: file.bat.at, bytes: batPage(0, rooms[room] as number) }],
        flushed: end,
        last: end,
      })
    file.setLog(GUID, [
      { at: 0, bytes: entry(11, 0, 0) },
      { at: 65536, bytes: entry(12, 65536, 1) },
      { at: 131072, bytes: entry(9, 131072, 2) },
    ])
    expect(await firstByte(file)).toBe(2)
  })

  test('of a torn entry falls back to the sequence before it', async () => {
    const { file, end, rooms } = await fileWithRoom()
    const entry = (sequence: number, tail: number, room: number) =>
      logEntry({
        guid: GUID,
        sequence,
        tail,
        updates: [{ at: file.bat.at, bytes: batPage(0, rooms[room] as number) }],
        flushed: end,
        last: end,
      })
    const newer = entry(2, 65536, 1)
    for (const tear of [0, 40, 70, 100, 4096, 4100, 6000, 8191]) {
      const torn = newer.slice()
      torn[tear] = (torn[tear] as number) ^ 0x10
      file.setLog(GUID, [
        { at: 0, bytes: entry(1, 0, 0) },
        { at: 65536, bytes: torn },
      ])
      expect(await firstByte(file), `byte ${tear}`).toBe(1)
    }
  })

  test.each([
    ['the LogGuid of another session', { guid: OTHER }],
    ['a sequence number of zero', { sequence: 0 }],
    ['a tail that no entry lies at', { tail: 4096 }],
    ['a tail outside the log', { tail: 2 * MIB }],
    ['a length that is no multiple of 4 KiB', { spoil: (view: DataView) => view.setUint32(8, 8200, true) }],
    ['a length beyond the log', { spoil: (view: DataView) => view.setUint32(8, 2 * MIB, true) }],
    ['a length of zero', { spoil: (view: DataView) => view.setUint32(8, 0, true) }],
    ['more descriptors than it has room for', { spoil: (view: DataView) => view.setUint32(24, 4000, true) }],
    ['2^32-1 descriptors', { spoil: (view: DataView) => view.setUint32(24, 0xffffffff, true) }],
    ['a descriptor of another sequence number', { spoil: (view: DataView) => view.setUint32(64 + 24, 77, true) }],
    ['a descriptor of no known kind', { spoil: (view: DataView) => view.setUint32(64, 77, true) }],
    ['an update that is not aligned', { spoil: (view: DataView) => view.setUint32(64 + 16, 512, true) }],
    ['a data sector of another sequence number', { spoil: (view: DataView) => view.setUint32(8188, 77, true) }],
    ['a data sector without its mark', { spoil: (view: DataView) => view.setUint32(4096, 77, true) }],
  ])('whose only entry has %s is corrupt', async (_, change) => {
    const { file, end, rooms } = await fileWithRoom()
    const updates = [{ at: file.bat.at, bytes: batPage(0, rooms[0] as number) }]
    const bytes = logEntry({ guid: GUID, sequence: 1, tail: 0, updates, flushed: end, last: end, ...change })
    file.setLog(GUID, [{ at: 0, bytes }])
    for (const work of [() => file.read(), () => file.write()]) {
      const error = await refusal(work())
      expect(error.code).toBe('CORRUPT')
      expect(error.where).toMatchObject({ file: 'a', structure: 'log', section: '[MS-VHDX] 2.3.3' })
    }
  })

  test('of a file that is shorter than it was is refused: it was cut short', async () => {
    const { file, end } = await fileWithRoom()
    file.setLog(GUID, [{ at: 0, bytes: logEntry({ guid: GUID, sequence: 1, tail: 0, flushed: end + MIB, last: end }) }])
    const error = await refusal(file.read())
    expect(error.code).toBe('CORRUPT')
    expect(error.message).toContain('cut short')
  })

  test('lengthens the file to what its structures need', async () => {
    const { file, end } = await fileWithRoom()
    const updates = [{ at: file.bat.at, bytes: batPage(0, end) }]
    const bytes = logEntry({ guid: GUID, sequence: 1, tail: 0, updates, flushed: end, last: end + 5 * MIB })
    file.setLog(GUID, [{ at: 0, bytes }])
    expect(await firstByte(file)).toBe(0)
    await promised((await file.write()).close())
    expect(file.store.size()).toBe(end + 5 * MIB)
  })

  test('zeroes ranges in the order in which it says so', async () => {
    const { file, end, rooms } = await fileWithRoom()
    const bat = file.bat.at
    const updates = [
      { at: bat, bytes: batPage(0, rooms[0] as number) },
      { at: bat, zeros: 65536 },
      { at: bat, bytes: batPage(1, rooms[1] as number) },
      { at: bat + 4096, zeros: 0 },
    ]
    file.setLog(GUID, [
      { at: 0, bytes: logEntry({ guid: GUID, sequence: 1, tail: 0, updates, flushed: end, last: end }) },
    ])
    expect(await firstByte(file, 0)).toBe(0)
    expect(await firstByte(file, MIB)).toBe(2)
    await promised((await file.write()).close())
    expect(await firstByte(file, 0)).toBe(0)
    expect(await firstByte(file, MIB)).toBe(2)
  })

  test('forgets what it wrote where it zeroes afterwards', async () => {
    const { file, end, rooms } = await fileWithRoom()
    const bat = file.bat.at
    for (const zeros of [4096, 1 << 20]) {
      const updates = [
        { at: bat, bytes: batPage(0, rooms[0] as number) },
        { at: bat, zeros },
      ]
      const bytes = logEntry({ guid: GUID, sequence: 1, tail: 0, updates, flushed: end, last: end })
      file.setLog(GUID, [{ at: 0, bytes }])
      expect(await firstByte(file, 0)).toBe(0)
    }
  })

  test('may hold region tables: they change through the log', async () => {
    const { file, end } = await fileWithRoom()
    const table = file.bytes(192 * 1024, 65536)
    file.editRegions((view) => view.setUint32(8, 0, true))
    const updates = [192, 256].flatMap((kib) =>
      Array.from({ length: 16 }, (_, i) => ({
        at: kib * 1024 + i * 4096,
        bytes: table.slice(i * 4096, (i + 1) * 4096),
      })),
    )
    file.setLog(GUID, [
      { at: 0, bytes: logEntry({ guid: GUID, sequence: 1, tail: 0, updates, flushed: end, last: end }) },
    ])
    expect((await file.read()).size).toBe(SIZE)
  })

  test.each([
    ['the file identifier', 0],
    ['a header', 64 * 1024],
    ['the other header', 128 * 1024],
    ['the log itself', MIB],
    ['the end of the log', 2 * MIB - 4096],
  ])('that writes over %s is refused', async (_, at) => {
    const { file, end } = await fileWithRoom()
    for (const update of [
      { at, bytes: new Uint8Array(4096) },
      { at, zeros: 4096 },
    ]) {
      const bytes = logEntry({ guid: GUID, sequence: 1, tail: 0, updates: [update], flushed: end, last: end })
      file.setLog(GUID, [{ at: 0, bytes }])
      expect((await refusal(file.read())).code).toBe('CORRUPT')
      expect((await refusal(file.write())).code).toBe('CORRUPT')
    }
  })

  test.each([
    ['past the end', [{ at: 64 * MIB, bytes: new Uint8Array(4096) }], 'CORRUPT'],
    ['at 2^60', [{ at: 1n << 60n, bytes: new Uint8Array(4096) }], 'CORRUPT'],
    ['from before the log into it', [{ at: 192 * 1024, zeros: MIB }], 'CORRUPT'],
    ['2^50 bytes of zeros', [{ at: 3 * MIB, zeros: 1n << 50n }], 'LIMIT_EXCEEDED'],
  ])('that writes %s is refused', async (_, updates, code) => {
    const { file, end } = await fileWithRoom()
    const bytes = logEntry({ guid: GUID, sequence: 1, tail: 0, updates, flushed: end, last: end })
    file.setLog(GUID, [{ at: 0, bytes }])
    expect((await refusal(file.read())).code).toBe(code)
    expect((await refusal(file.write())).code).toBe(code)
  })

  test('that claims a file of 2^60 bytes is refused', async () => {
    const { file, end } = await fileWithRoom()
    const bytes = logEntry({ guid: GUID, sequence: 1, tail: 0, flushed: end, last: 2 ** 60 })
    file.setLog(GUID, [{ at: 0, bytes }])
    expect((await refusal(file.read())).code).toBe('LIMIT_EXCEEDED')
  })

  test('of another version is refused, and ignored where there is nothing to replay', async () => {
    const { file, end } = await fileWithRoom()
    file.editHeaders((view) => view.setUint16(64, 1, true))
    expect((await file.read()).size).toBe(SIZE)
    file.setLog(GUID, [{ at: 0, bytes: logEntry({ guid: GUID, sequence: 1, tail: 0, flushed: end, last: end }) }])
    expect((await refusal(file.read())).code).toBe('UNSUPPORTED')
  })

  test('of another version is followed by one of ours', async () => {
    const { file } = await fileWithRoom()
    file.editHeaders((view) => view.setUint16(64, 1, true))
    const chain = new Chain([await file.write()])
    await promised(chain.write(0, Uint8Array.of(77)))
    await promised(chain.flush())
    expect(await firstByte(file.copy())).toBe(77)
    await promised(chain.close())
  })

  test('that is larger than anything that could be replayed in memory is refused before it is read', async () => {
    const { file } = await fileWithRoom()
    file.store.truncate(2 ** 33)
    file.editHeaders((view, bytes) => {
      view.setUint32(68, 2 ** 31, true)
      view.setBigUint64(72, 2n ** 32n, true)
      bytes.fill(1, 48, 64)
    })
    let read = 0
    file.wrap((store) =>
      watchedStore(store, ({ kind, length }) => {
        if (kind === 'read') read += length
      }),
    )
    expect((await refusal(file.read())).code).toBe('LIMIT_EXCEEDED')
    expect(read).toBeLessThan(65536)
  })

  test('that is missing, or that nobody could replay, keeps the file from being written, not from being read', async () => {
    for (const length of [0, 128 * MIB]) {
      const { file } = await fileWithRoom()
      file.store.truncate(256 * MIB)
      file.editHeaders((view) => {
        view.setUint32(68, length, true)
        view.setUint32(72, 64 * MIB, true)
      })
      expect((await file.read()).size).toBe(SIZE)
      expect((await refusal(file.write())).code).toBe('UNSUPPORTED')
    }
  })

  test('of entries that lie on top of each other costs no more than a few times its length', async () => {
    const { file, end } = await fileWithRoom()
    // Each sector begins an entry that counts all others behind it as padding of its own.
    const sectors = file.logLength / 4096
    const entries = Array.from({ length: sectors - 1 }, (_, i) => ({
      at: i * 4096,
      bytes: logEntry({ guid: GUID, sequence: 1, tail: 0, flushed: end, last: end }),
    }))
    file.setLog(GUID, entries)
    for (let i = sectors - 2; i >= 0; i--) {
      file.edit(file.logAt + i * 4096, (sectors - i) * 4096, 4, (view) => {
        view.setUint32(8, (sectors - i) * 4096, true)
        view.setUint32(12, 4096 * (sectors - 1), true)
      })
    }
    const began = Date.now()
    const error = await refusal(file.read())
    expect(error.code).toBe('CORRUPT')
    expect(error.message).toContain('on top of each other')
    expect(Date.now() - began).toBeLessThan(5000)
  })
})
