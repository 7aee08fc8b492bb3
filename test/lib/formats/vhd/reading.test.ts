import { describe, expect, test } from 'vitest'
import { Chain } from '../../../../lib/chain/chain.ts'
import { geometryOf } from '../../../../lib/formats/vhd/disk-geometry.ts'
import { vhd } from '../../../../lib/formats/vhd/driver.ts'
import { promised } from '../../../../lib/io/io.ts'
import { patternFor } from '../../../model/history.ts'
import { rawBase, rawParent } from '../../../support/raw-base.ts'
import { refusal } from '../../../support/refusal.ts'
import { VhdFile } from '../../../support/vhd-file.ts'

const KIB = 1024
const SECTOR = 512

/** The bitmap of a block. */
const bitmapAt = (file: VhdFile, block: number): number => file.entry(block) * SECTOR

describe('sector bitmaps', () => {
  test('have the most significant bit of a byte first', async () => {
    const base = await rawBase(256 * KIB)
    const file = await VhdFile.make(256 * KIB, {}, rawParent(256 * KIB))
    await file.fill(0, new Uint8Array(64 * KIB).fill(9), [base])
    file.put(bitmapAt(file, 0), Buffer.from([0b1000_0010, 0]))
    const content = await file.content([base])
    const shown = Array.from({ length: 16 }, (_, sector) => content[sector * SECTOR] === 9)
    expect(shown.flatMap((own, sector) => (own ? [sector] : []))).toEqual([0, 6])
  })

  test('of a differencing disk leave single sectors to the parent', async () => {
    const base = await rawBase(256 * KIB)
    const below = new Uint8Array(256 * KIB)
    await promised(new Chain([base]).read(0, below))
    const file = await VhdFile.make(256 * KIB, {}, rawParent(256 * KIB))
    await file.fill(64 * KIB, new Uint8Array(64 * KIB).fill(9), [base])
    for (let sector = 0; sector < 128; sector += 3) {
      const at = bitmapAt(file, 1) + (sector >> 3)
      file.put(at, Buffer.from([(file.at(at, 1)[0] as number) & ~(0x80 >> (sector & 7))]))
    }
    const content = await file.content([base])
    for (let sector = 0; sector < 128; sector++) {
      const offset = 64 * KIB + sector * SECTOR
      const wanted = sector % 3 === 0 ? below.subarray(offset, offset + SECTOR) : new Uint8Array(SECTOR).fill(9)
      expect(Buffer.compare(content.subarray(offset, offset + SECTOR), wanted), `sector ${sector}`).toBe(0)
    }
  })

  test('of a dynamic disk say of a sector that it was never written: it is zero, whatever lies there', async () => {
    const file = await VhdFile.make(256 * KIB)
    await file.fill(0, new Uint8Array(64 * KIB).fill(9))
    file.put(bitmapAt(file, 0), Buffer.from([0b0111_1111]))
    const content = await file.content()
    expect([content[0], content[511], content[512]]).toEqual([0, 0, 9])
    await file.fill(100, Uint8Array.of(5))
    const written = await file.content()
    expect([written[0], written[100], written[511], written[512]]).toEqual([0, 5, 0, 9])
  })

  test('of a new block of a dynamic disk are all ones, for programs that look at none', async () => {
    const file = await VhdFile.make(256 * KIB)
    await file.fill(70_000, Uint8Array.of(1))
    expect(file.at(bitmapAt(file, 1), 16).every((byte) => byte === 0xff)).toBe(true)
  })
})

describe('the size of a disk', () => {
  test.each(['vpc ', 'caml', 'qemu', 'vs  ', 'vbox', 'win ', 'tap\0', 'd2v ', 'qem2', 'CTXS', 'wa\0\0'])(
    'made by "%s" is what its footer states, though its geometry holds less',
    async (creator) => {
      const size = 1000 * KIB + SECTOR
      const file = await VhdFile.make(size)
      await file.fill(size - SECTOR, new Uint8Array(SECTOR).fill(7))
      file.editFooters((footer) => footer.write(creator, 28, 'latin1'))
      const { cylinders, heads, sectors } = geometryOf(size)
      expect(cylinders * heads * sectors * SECTOR).toBeLessThan(size)
      expect((await file.content()).at(-1)).toBe(7)
      // QEMU is short of it where it does not know the creator; who checks is told.
      const isKnown = !['vpc ', 'caml', 'qemu', 'vs  ', 'vbox'].includes(creator)
      expect(await file.findings()).toEqual(isKnown ? [] : ['GEOMETRY_DISAGREES'])
      const layer = await file.write()
      await promised(layer.resize(size + 64 * KIB, 0))
      await promised(layer.close())
      expect(await file.findings()).toEqual([])
    },
  )

  test.each([
    [17 * 4 * SECTOR, '1/4/17'],
    [65535 * 16 * 63 * SECTOR, '16191/16/255'],
    [65535 * 16 * 255 * SECTOR, '65535/16/255'],
    [2040 * 2 ** 30, '65535/16/255'],
    [10 << 20, '301/4/17'],
    [1 << 30, '2080/16/63'],
  ])('of %i bytes has the geometry that the specification calculates', (size, geometry) => {
    expect(Object.values(geometryOf(size)).join('/')).toBe(geometry)
  })

  test('original size is what it was made with, and counts for nothing', async () => {
    const file = await VhdFile.make(256 * KIB)
    file.editFooters((footer) => footer.writeBigUInt64BE(123n, 40))
    expect((await file.read()).size).toBe(256 * KIB)
  })
})

describe('footers', () => {
  const spoilings: [string, (file: VhdFile) => void][] = [
    ['is lost', (file) => file.store.truncate(file.size - SECTOR)],
    ['is torn', (file) => file.put(file.size - 200, new Uint8Array(150).fill(3))],
    ['is cut in two', (file) => file.store.truncate(file.size - 100)],
    ['is zero, for the file has grown', (file) => file.store.truncate(file.size + 8192)],
    ['has a wrong checksum', (file) => file.setU32(file.size - SECTOR + 64, 1)],
    ['of the beginning is lost', (file) => file.put(0, new Uint8Array(SECTOR))],
    ['of the beginning is torn', (file) => file.put(20, new Uint8Array(100).fill(3))],
  ]

  test.each(spoilings)('where one %s, the other counts; a write puts both in order', async (_, spoil) => {
    const file = await VhdFile.make(256 * KIB)
    const wanted = patternFor(0, 100_000, 1)
    await file.fill(1000, wanted)
    spoil(file)
    expect(Buffer.compare((await file.content()).subarray(1000, 101_000), wanted)).toBe(0)
    expect((await file.findings())[0]).toMatch(/^FOOTER_(MISSING|DAMAGED)$/)
    await file.fill(200_000, Uint8Array.of(1))
    expect(await file.findings()).toEqual([])
    expect(Buffer.compare((await file.content()).subarray(1000, 101_000), wanted)).toBe(0)
    expect(Buffer.compare(file.at(0, SECTOR), file.at(file.size - SECTOR, SECTOR))).toBe(0)
  })

  test.each(spoilings)('where one %s, a repair makes it anew', async (_, spoil) => {
    const file = await VhdFile.make(256 * KIB)
    await file.fill(1000, patternFor(0, 100_000, 1))
    const before = await file.content()
    spoil(file)
    const { done } = await file.repair()
    // Where the file has grown the old footer is left somewhere in it: that room is given back.
    expect(done.slice(1).map(({ code }) => code)).toEqual(done.length > 1 ? ['ROOM_UNUSED'] : [])
    expect(done[0]?.code).toMatch(/^FOOTER_(MISSING|DAMAGED)$/)
    expect(await file.findings()).toEqual([])
    expect(Buffer.compare(await file.content(), before)).toBe(0)
    const bytes = file.bytes
    expect((await file.repair()).done).toEqual([])
    expect(Buffer.compare(file.bytes, bytes)).toBe(0)
  })

  test('of 511 bytes, as they were before 2004, are read and left as they are', async () => {
    const fixed = await VhdFile.make(256 * KIB, { subformat: 'fixed' })
    fixed.store.truncate(fixed.size - 1)
    const { bytes, size } = fixed
    expect(vhd.probe({ name: 'a', size, head: bytes.subarray(0, 65536), tail: bytes.subarray(-SECTOR) })).toBe('yes')
    await fixed.fill(5000, Uint8Array.of(1))
    expect(fixed.size).toBe(256 * KIB + 511)
    expect((await fixed.content())[5000]).toBe(1)
    const dynamic = await VhdFile.make(256 * KIB)
    dynamic.store.truncate(dynamic.size - 1)
    await dynamic.fill(5000, Uint8Array.of(1))
    expect((await dynamic.content())[5000]).toBe(1)
    expect(await dynamic.findings()).toEqual([])
  })

  test('with wrong checksums are refused, and believed where the user says so', async () => {
    const file = await VhdFile.make(256 * KIB)
    await file.fill(0, Uint8Array.of(4))
    for (const at of [0, file.size - SECTOR]) file.setU32(at + 64, 1)
    file.setU32(512 + 36, 1)
    const error = await refusal(() => file.read())
    expect(error.code).toBe('CORRUPT')
    expect(error.message).toContain('checksum of its footer is wrong')
    expect(error.advice).toMatch(/--force.*--repair --force/)
    const { layer, told } = await file.salvage()
    expect(told.map(({ message }) => message.split(': ')[1])).toEqual([
      'the checksum of its footer is wrong',
      'the checksum of its header is wrong',
    ])
    const first = new Uint8Array(1)
    await promised(new Chain([layer]).read(0, first))
    expect(first).toEqual(Uint8Array.of(4))
    expect((await refusal(() => file.repair())).message).toContain('there is no copy')
  })

  test.each(['dynamic', 'fixed'])(
    'with wrong checksums of a %s disk get right ones where the user says so',
    async (subformat) => {
      const file = await VhdFile.make(256 * KIB, { subformat })
      await file.fill(0, Uint8Array.of(4))
      const ends = subformat === 'fixed' ? [file.size - SECTOR] : [0, file.size - SECTOR]
      const sound = file.bytes
      for (const at of ends) file.setU32(at + 64, 1)
      expect((await refusal(() => file.repair('leaks', { ignoreChecksums: true }))).message).toContain(
        'there is no copy',
      )
      const { done, doubtful } = await file.repair('all', { ignoreChecksums: true })
      expect(done.map(({ code }) => code)).toEqual(ends.map(() => 'FOOTER_DAMAGED'))
      expect(doubtful).toEqual([{ offset: 0, length: 256 * KIB, snapshot: undefined }])
      expect(Buffer.compare(file.bytes, sound)).toBe(0)
    },
  )

  test('of which the only one left has a wrong checksum make both anew where the user says so', async () => {
    const file = await VhdFile.make(256 * KIB)
    await file.fill(0, Uint8Array.of(4))
    const sound = file.bytes
    file.setU32(64, 1)
    file.put(file.size - SECTOR, new Uint8Array(SECTOR))
    await file.repair('all', { ignoreChecksums: true })
    expect(Buffer.compare(file.bytes, sound)).toBe(0)
  })

  test('of a fixed disk that grew and lost its end is found before the zeros', async () => {
    const file = await VhdFile.make(256 * KIB, { subformat: 'fixed' })
    await file.fill(0, Uint8Array.of(4))
    file.store.truncate(512 * KIB)
    expect((await file.content())[0]).toBe(4)
    expect(await file.findings()).toEqual(['FOOTER_NOT_LAST'])
    expect((await file.repair()).done.map(({ code }) => code)).toEqual(['FOOTER_NOT_LAST'])
    expect(file.size).toBe(256 * KIB + SECTOR)
    expect(await file.findings()).toEqual([])
  })

  test('make a file one of the format; a file of that name without one is not taken for a raw disk', () => {
    const empty = new Uint8Array(65536)
    const probe = (name: string): string => vhd.probe({ name, size: 65536, head: empty, tail: empty.subarray(-SECTOR) })
    expect([probe('disk.vhd'), probe('disk.img')]).toEqual(['perhaps', 'no'])
  })
})

describe('making a disk', () => {
  const create = (options: Record<string, string>, size = 1 << 20): Promise<VhdFile> => VhdFile.make(size, options)

  test('for Azure makes it fixed, and whole MiB', async () => {
    const file = await create({ azure: 'on' }, (1 << 20) + 1)
    expect(file.size).toBe((2 << 20) + SECTOR)
    expect(file.u32(file.size - SECTOR + 60)).toBe(2)
  })

  test.each<[string, Record<string, string>, RegExp]>([
    ['a block size that is no power of two', { block_size: '3M' }, /block_size cannot be 3M/],
    ['a block size below 4K', { block_size: '1K' }, /block_size cannot be 1K/],
    ['a dynamic disk for Azure', { azure: 'on', subformat: 'dynamic' }, /Azure/],
    ['room for a dynamic disk', { preallocation: 'full' }, /needs subformat=fixed/],
  ])('refuses %s', async (_, options, words) => {
    await expect(create(options)).rejects.toThrow(words)
  })

  test('refuses more than 2040 GiB, and blocks that make too large a table', async () => {
    await expect(create({}, 2040 * 2 ** 30 + 1)).rejects.toThrow(/2040 GiB/)
    await expect(create({ block_size: '4K' }, 2 ** 40)).rejects.toThrow(/too small/)
  })
})
