import { describe, expect, test } from 'vitest'
import { Chain } from '../../../../lib/chain/chain.ts'
import { RepairReport } from '../../../../lib/contracts/repair.ts'
import { VdiskError } from '../../../../lib/errors.ts'
import { vhdx } from '../../../../lib/formats/vhdx/driver.ts'
import { promised } from '../../../../lib/io/io.ts'
import { checkLayer } from '../../../contract/driver-contract.ts'
import { refusal } from '../../../support/refusal.ts'
import { contentOf, watchedStore } from '../../../support/stores.ts'
import { KIB, MIB, VhdxFile } from '../../../support/vhdx-file.ts'

const ITEM = {
  parameters: 'caa16737-fa36-4d43-b3b6-33f0aa44e76b',
  size: '2fa54224-cd1b-4876-b211-5dbed83bf4b8',
  id: 'beca12ab-b2e6-4523-93ef-c309e000c746',
  logical: '8141bf1d-a96f-4709-ba47-f233a8faab5f',
  physical: 'cda348c7-445d-4471-9cc9-e9885251c556',
}
const BAT_AT = 3 * MIB
/** the first MiB behind everything that a new file of this size has */
const FREE = 4 * MIB

type Spoil = (file: VhdxFile) => void

/** What opening a spoiled file must say, whoever opens it; within limits of time and of bytes read. */
async function refused(spoil: Spoil, code: string, words: string): Promise<void> {
  const file = await VhdxFile.make(4 * MIB)
  spoil(file)
  const before = contentOf(file.store)
  let read = 0
  file.wrap((store) =>
    watchedStore(store, ({ kind, length }) => {
      if (kind === 'read') read += length
    }),
  )
  for (const open of [() => file.read(), () => file.write()]) {
    const began = Date.now()
    const error = await open().then(
      () => undefined,
      (reason: unknown) => reason,
    )
    expect(error).toBeInstanceOf(VdiskError)
    expect((error as VdiskError).code).toBe(code)
    expect((error as VdiskError).message).toContain(words)
    expect((error as VdiskError).where.file).toBe('a')
    expect(Date.now() - began).toBeLessThan(2000)
  }
  expect(read).toBeLessThan(2 * MIB)
  expect(Buffer.compare(contentOf(file.store), before)).toBe(0)
}

const header =
  (edit: (view: DataView) => void): Spoil =>
  (file) =>
    file.editHeaders(edit)
const region =
  (index: number, edit: (view: DataView) => void): Spoil =>
  (file) =>
    file.editRegions((_, bytes) => edit(new DataView(bytes.buffer, bytes.byteOffset + 16 + index * 32, 32)))
const item =
  (id: string, edit: (view: DataView) => void): Spoil =>
  (file) =>
    file.edit(file.item(id).at, file.item(id).length, -1, edit)
const itemEntry =
  (id: string, edit: (view: DataView) => void): Spoil =>
  (file) =>
    file.edit(file.item(id).entryAt, 32, -1, edit)

describe('a file that cannot be right is refused before it costs anything', () => {
  test.each<[string, Spoil, string, string]>([
    ['no signature', (file) => file.put(0, Buffer.from('vhdxfilf')), 'NOT_THIS_FORMAT', 'does not begin'],
    ['no valid header', (file) => [64, 128].map((k) => file.put(k * KIB + 100, Buffer.from('x'))), 'CORRUPT', 'header'],
    ['version 2', header((view) => view.setUint16(66, 2, true)), 'UNSUPPORTED', 'version 2'],
    ['a log at 4 KiB', header((view) => view.setUint32(72, 4096, true)), 'CORRUPT', 'not aligned'],
    ['a log over the headers', header((view) => view.setUint32(72, 0, true)), 'CORRUPT', 'not aligned'],
    ['a log of 1 KiB', header((view) => view.setUint32(68, 1024, true)), 'CORRUPT', 'not aligned'],
    ['a log at 2^63', header((view) => view.setBigUint64(72, 1n << 63n, true)), 'CORRUPT', 'not aligned'],
    ['a log over the BAT', header((view) => view.setBigUint64(72, BigInt(BAT_AT), true)), 'CORRUPT', 'on top of'],
    [
      'no valid region table',
      (file) => [192, 256].map((k) => file.put(k * KIB, Buffer.from('x'))),
      'CORRUPT',
      'region',
    ],
    ['2048 regions', (file) => file.editRegions((view) => view.setUint32(8, 2048, true)), 'CORRUPT', '2048 entries'],
    ['2^32-1 regions', (file) => file.editRegions((view) => view.setUint32(8, 0xffffffff, true)), 'CORRUPT', 'entries'],
    ['no regions', (file) => file.editRegions((view) => view.setUint32(8, 0, true)), 'CORRUPT', 'no BAT'],
    ['a required region nobody knows', region(0, (view) => view.setUint32(0, 7, true)), 'UNSUPPORTED', '{00000007-'],
    [
      'the same region twice',
      region(1, (view) =>
        new Uint8Array(view.buffer, view.byteOffset, 16).set(Buffer.from('6677c22d23f600429d64115e9bfd4a08', 'hex')),
      ),
      'CORRUPT',
      'twice',
    ],
    ['a BAT at 512 KiB', region(0, (view) => view.setUint32(16, 512 * KIB, true)), 'CORRUPT', 'not aligned'],
    ['a BAT at 2^62', region(0, (view) => view.setUint32(20, 1 << 30, true)), 'CORRUPT', 'not aligned'],
    ['a BAT of no bytes', region(0, (view) => view.setUint32(24, 0, true)), 'CORRUPT', 'not aligned'],
    ['a BAT over the metadata', region(0, (view) => view.setUint32(16, 2 * MIB, true)), 'CORRUPT', 'on top of'],
    ['a BAT past the end', region(0, (view) => view.setUint32(16, 512 * MIB, true)), 'CORRUPT', 'past the end'],
    ['metadata past the end', region(1, (view) => view.setUint32(16, 512 * MIB, true)), 'CORRUPT', 'not in the file'],
    ['no metadata signature', (file) => file.put(2 * MIB, Buffer.from('metadatb')), 'CORRUPT', 'begin with'],
    [
      '2048 metadata items',
      (file) => file.edit(2 * MIB, 32, -1, (view) => view.setUint16(10, 2048, true)),
      'CORRUPT',
      '2048 entries',
    ],
    [
      'no metadata items',
      (file) => file.edit(2 * MIB, 32, -1, (view) => view.setUint16(10, 0, true)),
      'CORRUPT',
      'no file parameters',
    ],
    [
      'a required item nobody knows',
      itemEntry(ITEM.id, (view) => view.setUint32(0, 7, true)),
      'UNSUPPORTED',
      '{00000007-',
    ],
    [
      'an item in the table',
      itemEntry(ITEM.id, (view) => view.setUint32(16, 1024, true)),
      'CORRUPT',
      'outside the region',
    ],
    [
      'an item behind the region',
      itemEntry(ITEM.id, (view) => view.setUint32(16, MIB - 8, true)),
      'CORRUPT',
      'outside the region',
    ],
    [
      'an item at 2^32-1',
      itemEntry(ITEM.id, (view) => view.setUint32(16, 0xffffffff, true)),
      'CORRUPT',
      'outside the region',
    ],
    [
      'an item of 2 MiB',
      itemEntry(ITEM.id, (view) => view.setUint32(20, 2 * MIB, true)),
      'CORRUPT',
      'outside the region',
    ],
    [
      'items on top of each other',
      itemEntry(ITEM.id, (view) => view.setUint32(16, 65536, true)),
      'CORRUPT',
      'on top of',
    ],
    [
      'the same item twice',
      itemEntry(ITEM.physical, (view) =>
        new Uint8Array(view.buffer, view.byteOffset, 16).set(Buffer.from('1dbf41816fa90947ba47f233a8faab5f', 'hex')),
      ),
      'CORRUPT',
      'twice',
    ],
    ['a size of 4 bytes', itemEntry(ITEM.size, (view) => view.setUint32(20, 4, true)), 'CORRUPT', 'instead of 8'],
    ['blocks of no bytes', item(ITEM.parameters, (view) => view.setUint32(0, 0, true)), 'CORRUPT', 'block size'],
    ['blocks of 512 KiB', item(ITEM.parameters, (view) => view.setUint32(0, MIB / 2, true)), 'CORRUPT', 'block size'],
    ['blocks of 3 MiB', item(ITEM.parameters, (view) => view.setUint32(0, 3 * MIB, true)), 'CORRUPT', 'block size'],
    ['blocks of 512 MiB', item(ITEM.parameters, (view) => view.setUint32(0, 512 * MIB, true)), 'CORRUPT', 'block size'],
    ['blocks of 2^32-1', item(ITEM.parameters, (view) => view.setUint32(0, 0xffffffff, true)), 'CORRUPT', 'block size'],
    ['unknown parameters', item(ITEM.parameters, (view) => view.setUint32(4, 8, true)), 'UNSUPPORTED', 'flags'],
    [
      'a parent that is not named',
      item(ITEM.parameters, (view) => view.setUint32(4, 2, true)),
      'CORRUPT',
      'has a parent',
    ],
    ['sectors of no bytes', item(ITEM.logical, (view) => view.setUint32(0, 0, true)), 'CORRUPT', 'sector size'],
    ['sectors of 520 bytes', item(ITEM.logical, (view) => view.setUint32(0, 520, true)), 'CORRUPT', 'sector size'],
    ['physical sectors of 3', item(ITEM.physical, (view) => view.setUint32(0, 3, true)), 'CORRUPT', 'sector size'],
    ['a disk of half a sector', item(ITEM.size, (view) => view.setUint32(0, 256, true)), 'CORRUPT', 'multiple'],
    ['a disk of 65 TiB', item(ITEM.size, (view) => view.setBigUint64(0, 65n << 40n, true)), 'CORRUPT', '64 TiB'],
    [
      'a disk of 2^64-512',
      item(ITEM.size, (view) => view.setBigUint64(0, (1n << 64n) - 512n, true)),
      'CORRUPT',
      '64 TiB',
    ],
    [
      'a disk that the BAT is too small for',
      item(ITEM.size, (view) => view.setBigUint64(0, 1n << 46n, true)),
      'CORRUPT',
      'the disk needs',
    ],
  ])('%s', (_, spoil, code, words) => refused(spoil, code, words))

  test('cut short at any place of its first MiB, it is a typed error', async () => {
    const whole = await VhdxFile.make(4 * MIB)
    const bytes = contentOf(whole.store)
    for (let length = 0; length < 4 * MIB; length += length < 9000 ? 97 : 40961) {
      const file = new VhdxFile()
      file.put(0, bytes.subarray(0, length))
      const error = await file.read().then(
        (layer) => promised(layer.map(0, 512)),
        (reason: unknown) => reason,
      )
      if (length < 3 * MIB + 4096) expect(error, `${length} bytes`).toBeInstanceOf(VdiskError)
    }
  })

  test('with any byte of its tables changed, it opens or is a typed error, and a read ends', async () => {
    const file = await VhdxFile.make(4 * MIB)
    const places = [0, 64 * KIB, 128 * KIB, 192 * KIB, 256 * KIB, 2 * MIB, 2 * MIB + 64 * KIB, BAT_AT]
    for (const place of places) {
      for (let i = 0; i < 200; i += 3) {
        const spoiled = file.copy()
        for (const value of [0xff, 0x01, 0x80]) {
          spoiled.put(place + i, Uint8Array.of((spoiled.bytes(place + i, 1)[0] as number) ^ value))
          try {
            await promised(new Chain([await spoiled.read()]).read(0, new Uint8Array(4096)))
          } catch (error) {
            expect(error).toBeInstanceOf(VdiskError)
          }
        }
      }
    }
  })
})

describe('of two copies, one is enough', () => {
  test.each([0, 1])(
    'a damaged header %d leaves the other, is told by the check, and made anew by the next change',
    async (slot) => {
      const file = await VhdxFile.make(4 * MIB)
      file.put([64, 128].map((k) => k * KIB)[slot] as number, Buffer.from('x'))
      const layer = await file.read()
      expect((await checkLayer(vhdx, layer)).findings).toMatchObject([{ code: 'HEADER_DAMAGED', severity: 'warning' }])
      const chain = new Chain([await file.write()])
      await promised(chain.write(0, new Uint8Array(512).fill(1)))
      await promised(chain.close())
      expect((await checkLayer(vhdx, await file.read())).findings).toEqual([])
    },
  )

  test.each([0, 1])('a damaged region table %d leaves the other, and is told by the check', async (slot) => {
    const file = await VhdxFile.make(4 * MIB)
    file.put([192, 256].map((k) => k * KIB)[slot] as number, Buffer.from('x'))
    const findings = (await checkLayer(vhdx, await file.read())).findings
    expect(findings).toMatchObject([
      { code: 'REGION_TABLE_DAMAGED', severity: 'warning', at: [192, 256].map((k) => k * KIB)[slot] },
    ])
  })

  test('two region tables that are valid but not the same are an error', async () => {
    const file = await VhdxFile.make(4 * MIB)
    file.editRegions((view) => view.setUint32(12, 1, true), [1])
    expect((await checkLayer(vhdx, await file.read())).findings).toMatchObject([
      { code: 'REGION_TABLES_DIFFER', severity: 'error' },
    ])
  })

  test('two headers of the same sequence number are one if they are the same, as Disk2vhd leaves them, else none', async () => {
    const file = await VhdxFile.make(4 * MIB)
    file.put(128 * KIB, file.bytes(64 * KIB, 4096))
    expect((await file.read()).size).toBe(4 * MIB)
    file.editHeaders((view) => view.setUint8(32, 77), [1])
    await expect(file.read()).rejects.toMatchObject({ code: 'CORRUPT' })
  })
})

describe('a BAT entry that cannot be right', () => {
  const reading = async (entry: bigint, prepare: Spoil = () => {}): Promise<unknown> => {
    const file = await VhdxFile.make(4 * MIB)
    file.store.truncate(8 * MIB)
    prepare(file)
    file.setEntry(1, entry)
    const chain = new Chain([await file.read()])
    // The block before it reads as ever.
    await promised(chain.read(0, new Uint8Array(MIB)))
    return promised(chain.read(MIB - 512, new Uint8Array(4096)))
  }

  test.each([
    ['the state that does not exist', BigInt(FREE) | 4n, 'does not exist'],
    ['reserved bits', BigInt(FREE) | 6n | 0x80n, 'reserved bits'],
    ['a place past the end', BigInt(8 * MIB) | 6n, 'past the end'],
    ['a place at 2^63', (1n << 63n) | 6n, 'past the end'],
    ['a place in the header section', 6n, 'header section'],
    ['a place in the log', BigInt(MIB) | 6n, 'log'],
    ['a place in the metadata', BigInt(2 * MIB) | 6n, 'metadata region'],
    ['a place in the BAT', BigInt(BAT_AT) | 6n, 'BAT'],
    ['a partially present block without a parent', BigInt(FREE) | 7n, 'no parent'],
  ])('with %s fails the read of its block, and no other', async (_, entry, words) => {
    await expect(reading(entry)).rejects.toMatchObject({
      code: 'CORRUPT',
      message: expect.stringContaining(words) as string,
      where: { structure: 'BAT', index: 1, at: BAT_AT + 8, offset: MIB },
    })
  })

  test.each([1n, 2n, 3n, 5n])('the state %d reads as zero, whatever place it keeps', async (state) => {
    await expect(reading(BigInt(FREE) | state)).resolves.toBeUndefined()
  })

  test('a file in which two blocks share a place can be read and checked, but not written', async () => {
    const file = await VhdxFile.make(4 * MIB)
    file.store.truncate(8 * MIB)
    file.setEntry(0, BigInt(5 * MIB) | 6n)
    file.setEntry(2, BigInt(5 * MIB) | 6n)
    const { findings } = await checkLayer(vhdx, await file.read())
    expect(findings).toMatchObject([
      {
        code: 'BLOCKS_SHARE_PLACE',
        severity: 'error',
        at: BAT_AT + 16,
        guest: { offset: 2 * MIB, length: MIB },
        message: expect.stringContaining('block 0 and block 2') as string,
      },
    ])
    await expect(file.write()).rejects.toMatchObject({ code: 'CORRUPT' })
  })

  test.each([
    [0, 2],
    [2, 0],
  ])('an entry that holds nothing may keep the place of a block: %d that of %d', async (empty, full) => {
    const file = await VhdxFile.make(4 * MIB)
    file.store.truncate(8 * MIB)
    file.put(5 * MIB, new Uint8Array(MIB).fill(0x11))
    file.setEntry(full, BigInt(5 * MIB) | 6n)
    file.setEntry(empty, BigInt(5 * MIB))
    const found = (await checkLayer(vhdx, await file.read())).findings.filter(({ severity }) => severity !== 'leak')
    expect(found.map(({ code, severity }) => [code, severity])).toEqual([['BAT_PLACE_NOT_OWN', 'warning']])
    const chain = new Chain([await file.write()])
    await promised(chain.write(empty * MIB, new Uint8Array(MIB).fill(0x22)))
    await promised(chain.close())
    for (const [block, byte] of [
      [full, 0x11],
      [empty, 0x22],
    ] as const) {
      const found = new Uint8Array(MIB)
      await promised(new Chain([await file.read()]).read(block * MIB, found))
      expect(Buffer.compare(found, new Uint8Array(MIB).fill(byte)), `block ${block}`).toBe(0)
    }
  })

  test('an entry of a child behind its last block is left of a larger disk: it harms nobody, and does not come back', async () => {
    const identity = { kind: 'guid', value: '01234567-89ab-4cde-8f01-23456789abcd', current: true } as const
    const record = { size: MIB, stamp: undefined, sample: undefined }
    const parent = { path: 'p', absolutePath: '/p', format: 'vhdx', identity, record, replaces: undefined }
    for (const place of [0, 5 * MIB]) {
      const file = await VhdxFile.make(4 * MIB, {}, parent)
      file.store.truncate(8 * MIB)
      file.put(5 * MIB, new Uint8Array(MIB).fill(0x66))
      file.setEntry(8, BigInt(place) | 6n)
      const codes = (await checkLayer(vhdx, await file.read())).findings.map(({ code }) => code)
      expect(codes.filter((code) => code !== 'ROOM_UNUSED')).toEqual(['BAT_ENTRY_STALE'])
      const layer = await file.write()
      await promised(layer.resize(16 * MIB, MIB))
      await promised(layer.close())
      const extent = await promised((await file.read()).map(8 * MIB, MIB))
      expect(extent.kind).not.toBe('data')
    }
  })

  test('a file whose blocks reach into its regions, or past its end, is not written either', async () => {
    for (const entry of [BigInt(MIB) | 6n, BigInt(64 * MIB) | 6n]) {
      const file = await VhdxFile.make(4 * MIB)
      file.setEntry(0, entry)
      await expect(file.write()).rejects.toMatchObject({ code: 'CORRUPT' })
    }
  })
})

describe('the check', () => {
  const child = {
    path: 'p.vhdx',
    absolutePath: '/p.vhdx',
    format: 'vhdx',
    identity: { kind: 'guid' as const, value: '11111111-2222-4333-8444-555555555555', current: true },
    record: { size: 4 * MIB, stamp: undefined, sample: undefined },
    replaces: undefined,
  }
  const CHUNK_ENTRY = 4096

  test.each<[string, boolean, Spoil, string]>([
    ['reserved bits', false, (file) => file.setEntry(0, 0x100n), 'error BAT_ENTRY_RESERVED'],
    ['a state that does not exist', false, (file) => file.setEntry(0, 4n), 'error BAT_STATE_INVALID'],
    ['a block in a region', false, (file) => file.setEntry(0, BigInt(MIB) | 6n), 'error BLOCK_OVERLAPS_REGION'],
    ['a block past the end', false, (file) => file.setEntry(0, BigInt(99 * MIB) | 6n), 'error BLOCK_PAST_END'],
    [
      'a block in part without a parent',
      false,
      (file) => file.setEntry(0, BigInt(5 * MIB) | 7n),
      'error PARTIAL_WITHOUT_PARENT',
    ],
    [
      'an entry behind the last block',
      false,
      (file) => file.setEntry(9, BigInt(5 * MIB) | 6n),
      'warning BAT_ENTRY_STALE',
    ],
    [
      'a sector bitmap without a parent',
      false,
      (file) =>
        file.put(file.item(ITEM.size).at, Buffer.from([0, 0, 0, 0, 2])) ??
        file.setEntry(CHUNK_ENTRY, BigInt(5 * MIB) | 6n),
      'warning BITMAP_WITHOUT_PARENT',
    ],
    ['a missing sector bitmap', true, (file) => file.setEntry(0, BigInt(5 * MIB) | 7n), 'error BITMAP_MISSING'],
    [
      'a sector bitmap in a region',
      true,
      (file) => file.setEntry(CHUNK_ENTRY, BigInt(MIB) | 6n),
      'error BLOCK_OVERLAPS_REGION',
    ],
    [
      'a sector bitmap past the end',
      true,
      (file) => file.setEntry(CHUNK_ENTRY, BigInt(99 * MIB) | 6n),
      'error BLOCK_PAST_END',
    ],
    ['a sector bitmap in no state', true, (file) => file.setEntry(CHUNK_ENTRY, 3n), 'error BAT_STATE_INVALID'],
    [
      'a bitmap where a block is',
      true,
      (file) => [file.setEntry(0, BigInt(5 * MIB) | 6n), file.setEntry(CHUNK_ENTRY, BigInt(5 * MIB) | 6n)],
      'error BLOCKS_SHARE_PLACE',
    ],
    ['room that nothing refers to', false, (file) => file.put(6 * MIB + 5, Buffer.from('x')), 'warning ROOM_UNUSED'],
  ])('finds %s', async (_, hasParent, spoil, wanted) => {
    const file = await VhdxFile.make(4 * MIB, {}, hasParent ? child : undefined)
    file.store.truncate(8 * MIB)
    spoil(file)
    const { findings } = await checkLayer(vhdx, await file.read())
    expect(findings.map(({ severity, code }) => `${severity} ${code}`)).toEqual([wanted])
  })

  test('finds bits of sectors behind the end of the disk', async () => {
    const file = await VhdxFile.make(4 * MIB - 512, {}, child)
    file.store.truncate(8 * MIB)
    file.setEntry(3, BigInt(5 * MIB) | 7n)
    file.setEntry(CHUNK_ENTRY, BigInt(6 * MIB) | 6n)
    file.put(6 * MIB + 4 * 256 - 1, Uint8Array.of(0x80))
    const { findings } = await checkLayer(vhdx, await file.read())
    expect(findings).toMatchObject([{ code: 'BITS_PAST_END', severity: 'warning' }])
  })

  test('says nothing of free room that takes no room', async () => {
    const file = await VhdxFile.make(4 * MIB)
    file.store.truncate(64 * MIB)
    expect((await checkLayer(vhdx, await file.read())).findings).toEqual([])
  })
})

describe('a file that says that it is longer than any VHDX', () => {
  test.each([2 ** 47 + 1, 2 ** 60])('is read and checked, and neither written nor repaired: %d', async (length) => {
    const file = await VhdxFile.make(4 * MIB)
    file.store.truncate(length)
    const layer = await file.read()
    expect((await checkLayer(vhdx, layer)).findings.map(({ code }) => code)).toContain('FILE_TOO_LARGE')
    const repair = vhdx.repair as NonNullable<typeof vhdx.repair>
    for (const work of [() => file.write(), () => promised(repair(file.folder.image('a'), new RepairReport('all')))]) {
      const error = await refusal(work)
      expect(error).toMatchObject({ code: 'LIMIT_EXCEEDED', where: { file: 'a', structure: 'file', at: 2 ** 47 } })
      expect(error.advice).toContain('vdisk convert')
    }
    expect(file.store.size()).toBe(length)
  })
})
