import { describe, expect, test } from 'vitest'
import { Chain } from '../../../../lib/chain/chain.ts'
import type { LinkEditor } from '../../../../lib/contracts/layer.ts'
import { VdiskError } from '../../../../lib/errors.ts'
import { vhd } from '../../../../lib/formats/vhd/driver.ts'
import { promised } from '../../../../lib/io/io.ts'
import { patternFor } from '../../../model/history.ts'
import { rawBase, rawParent } from '../../../support/raw-base.ts'
import { refusal } from '../../../support/refusal.ts'
import { delayedStore, watchedStore, withoutHoles } from '../../../support/stores.ts'
import { VhdFile } from '../../../support/vhd-file.ts'

const KIB = 1024
const MIB = 1024 * KIB
const SECTOR = 512
const BLOCK = 64 * KIB
const SIZE = 4 * BLOCK

describe('a footer', () => {
  test.each([
    ['dynamic', 'dynamic disk header', 512],
    ['fixed', 'footer', 0],
  ])('of a %s disk alone is no disk', async (subformat, structure, at) => {
    const whole = await VhdFile.make(SIZE, { subformat })
    const file = new VhdFile(whole.at(whole.size - SECTOR, SECTOR))
    expect(await refusal(() => file.read())).toMatchObject({ code: 'CORRUPT', where: { file: 'a', structure, at } })
  })

  test('is not found in what lies before the zeros at the end, nor before more zeros than are searched', async () => {
    const file = await VhdFile.make(SIZE, { subformat: 'fixed' })
    await file.fill(0, patternFor(0, SIZE, 1))
    file.put(SIZE, new Uint8Array(200 * KIB))
    expect(await refusal(() => file.read())).toMatchObject({ code: 'UNSUPPORTED', where: { structure: 'footer' } })
    const zeros = new VhdFile(new Uint8Array(17 * MIB))
    zeros.put(0, file.at(0, SECTOR))
    expect((await refusal(() => zeros.read())).message).toContain('it has no footer')
  })

  test('of a fixed disk that is not right behind it goes there with a repair', async () => {
    const file = await VhdFile.make(SIZE, { subformat: 'fixed' })
    const content = patternFor(0, SIZE, 1)
    await file.fill(0, content)
    file.put(SIZE + 2 * SECTOR, file.at(SIZE, SECTOR))
    expect(await file.findings()).toEqual(['ROOM_UNUSED'])
    expect((await file.repair()).done).toMatchObject([{ code: 'ROOM_UNUSED', at: SIZE }])
    expect([await file.findings(), file.size]).toEqual([[], SIZE + SECTOR])
    expect(Buffer.compare(await file.content(), content)).toBe(0)
  })

  test('that says another thing than its copy is the one that counts: a repair writes the copy anew', async () => {
    const file = await VhdFile.make(SIZE)
    file.editFooters((footer) => footer.writeBigUInt64BE(BigInt(2 * BLOCK), 48), [0])
    expect(await file.findings()).toEqual(['FOOTERS_DIFFER'])
    expect((await file.repair()).done).toMatchObject([{ code: 'FOOTERS_DIFFER', at: 0 }])
    expect([await file.findings(), (await file.read()).size]).toEqual([[], SIZE])
  })

  test('of a resize that was cut short before its copy says the new size, and a repair makes the copy say it', async () => {
    const file = await VhdFile.make(SIZE)
    await file.fill(0, patternFor(0, SIZE, 1))
    const before = file.at(0, SECTOR)
    const chain = new Chain([await file.write()])
    await promised(chain.resize(SIZE + BLOCK))
    await promised(chain.close())
    file.put(0, before)
    expect([await file.findings(), (await file.read()).size]).toEqual([['FOOTERS_DIFFER'], SIZE + BLOCK])
    const report = await file.repair()
    expect([report.done.map(({ code, at }) => [code, at]), report.doubtful]).toEqual([[['FOOTERS_DIFFER', 0]], []])
    expect(await file.findings()).toEqual([])
    const wanted = new Uint8Array(SIZE + BLOCK)
    wanted.set(patternFor(0, SIZE, 1))
    expect(Buffer.compare(await file.content(), wanted)).toBe(0)
  })

  test('at the beginning makes a file one of the format if it is sound, and not of a fixed disk', async () => {
    const probe = async (subformat: string, spoil: (file: VhdFile) => void): Promise<string> => {
      const file = await VhdFile.make(SIZE, { subformat })
      file.put(0, file.at(file.size - SECTOR, SECTOR))
      file.put(file.size - SECTOR, new Uint8Array(SECTOR))
      spoil(file)
      const { bytes, size } = file
      return vhd.probe({ name: 'disk.img', size, head: bytes.subarray(0, 65536), tail: bytes.subarray(-SECTOR) })
    }
    expect(await probe('dynamic', () => {})).toBe('yes')
    expect(await probe('fixed', () => {})).toBe('perhaps')
    expect(await probe('dynamic', (file) => file.setU32(64, 1))).toBe('perhaps')
  })

  test('is put in order once by writers that begin together', async () => {
    const file = await VhdFile.make(SIZE)
    file.store.truncate(file.size - SECTOR)
    let copies = 0
    const watched = watchedStore(file.store, ({ kind, length, at }) => {
      if (kind === 'write' && length === SECTOR && at > 0 && file.size <= at + SECTOR) copies++
    })
    file.folder.files.set('a', delayedStore(watched, 1))
    const layer = await file.write()
    const both = await Promise.all([0, BLOCK].map((offset) => promised(layer.reserve(offset, BLOCK))))
    expect(new Set(both.map(({ at }) => at)).size).toBe(2)
    for (const { abandon } of both) await promised(abandon())
    await promised(layer.close())
    file.folder.files.set('a', file.store)
    expect([copies > 0, await file.findings()]).toEqual([true, []])
  })
})

describe('a fixed file', () => {
  test('that was cut short is read as far as it goes where the user says so', async () => {
    const file = await VhdFile.make(SIZE, { subformat: 'fixed' })
    await file.fill(0, new Uint8Array(SIZE).fill(4))
    const footer = file.at(SIZE, SECTOR)
    file.store.truncate(3 * BLOCK)
    file.put(3 * BLOCK, footer)
    const { layer, told } = await file.salvage()
    expect(told).toMatchObject([{ code: 'CORRUPT', where: { file: 'a', structure: 'footer', at: 3 * BLOCK } }])
    const bytes = new Uint8Array(SIZE)
    await promised(new Chain([layer]).read(0, bytes))
    expect(Buffer.compare(bytes, new Uint8Array(SIZE).fill(4, 0, 3 * BLOCK))).toBe(0)
    expect(layer.details).toMatchObject({ type: 'fixed', geometry: expect.any(String) })
  })

  test('behind whose footer zeros lie loses them with its first change, whichever that is', async () => {
    for (const how of ['write', 'erase', 'grow'] as const) {
      const file = await VhdFile.make(SIZE, { subformat: 'fixed' })
      file.store.truncate(SIZE + 8192)
      const layer = await file.write()
      if (how === 'write') await promised((await promised(layer.reserve(0, SECTOR))).abandon())
      else if (how === 'erase') expect(await promised(layer.erase(0, SECTOR, 'zero'))).toBe(SECTOR)
      else await promised(layer.resize(SIZE + SECTOR, 0))
      await promised(layer.close())
      expect(file.size).toBe((how === 'grow' ? SIZE + SECTOR : SIZE) + SECTOR)
      expect(await file.findings()).toEqual([])
    }
  })

  test('whose footer lies behind its disk grows up to it, and keeps none of what lay between', async () => {
    const file = await VhdFile.make(SIZE, { subformat: 'fixed' })
    const footer = file.at(SIZE, SECTOR)
    file.put(SIZE, new Uint8Array(8 * SECTOR).fill(9))
    file.put(SIZE + 8 * SECTOR, footer)
    const layer = await file.write()
    await promised(layer.resize(SIZE, 0))
    await promised(layer.resize(SIZE + 4 * SECTOR, 0))
    await promised(layer.close())
    expect([file.size, await file.findings()]).toEqual([SIZE + 5 * SECTOR, []])
    expect((await file.content()).every((byte) => byte === 0)).toBe(true)
  })

  test.each([
    ['falloc', `allocate 0+${SIZE}`],
    ['full', `write 0+${SIZE}`],
  ])('is made with preallocation=%s', async (preallocation, wanted) => {
    const asked: string[] = []
    const file = new VhdFile()
    const store = {
      ...watchedStore(file.store, ({ kind, at, length }) => void asked.push(`${kind} ${at}+${length}`)),
      allocate: (at: number, length: number): void => void asked.push(`allocate ${at}+${length}`),
    }
    file.folder.files.set('a', store)
    const options = new Map([
      ['subformat', 'fixed'],
      ['preallocation', preallocation],
    ])
    const create = vhd.create as NonNullable<typeof vhd.create>
    await promised(create(file.folder.image('a'), { size: SIZE, options, parent: undefined }))
    expect(asked).toContain(wanted)
    const refused = promised(create(file.folder.image('a'), { size: SIZE, options, parent: rawParent(SIZE) }))
    expect((await refusal(() => refused)).message).toContain('no place for a parent')
  })
})

test('a disk of a suspended machine tells so', async () => {
  const file = await VhdFile.make(SIZE)
  file.editFooters((footer) => footer.writeUInt8(1, 84))
  expect((await file.read()).details).toMatchObject({ type: 'dynamic', savedState: true })
})

test('room that a block had is zero for the next one, also where no holes can be made', async () => {
  const file = await VhdFile.make(SIZE)
  file.folder.files.set('a', withoutHoles(file.store))
  const chain = new Chain([await file.write()])
  const place = async (offset: number): Promise<number | undefined> => {
    const extent = await promised(chain.map(offset, 1))
    return extent.kind === 'data' ? extent.at : undefined
  }
  await promised(chain.write(0, new Uint8Array(BLOCK).fill(7)))
  const given = await place(0)
  await promised(chain.erase(0, BLOCK))
  for (let i = 0; i < 3; i++) await promised(chain.flush())
  await promised(chain.write(2 * BLOCK + 5, Uint8Array.of(1)))
  expect(await place(2 * BLOCK)).toBe(given)
  await promised(chain.close())
  const wanted = new Uint8Array(SIZE)
  wanted[2 * BLOCK + 5] = 1
  expect(Buffer.compare(await file.content(), wanted)).toBe(0)
})

test('an emptied disk has no block, and has lost no room', async () => {
  const file = await VhdFile.make(SIZE)
  await file.fill(0, patternFor(0, SIZE, 1))
  const layer = await file.write()
  await promised((layer.clear as NonNullable<typeof layer.clear>).call(layer, 2 * BLOCK))
  await promised(layer.close())
  expect(await file.findings()).toEqual([])
  expect(Buffer.compare(await file.content(), new Uint8Array(2 * BLOCK))).toBe(0)
})

describe('a child', () => {
  const child = async (): Promise<VhdFile> => {
    const file = await VhdFile.make(SIZE, {}, rawParent(SIZE))
    await file.fill(BLOCK + 4096, new Uint8Array(8192).fill(7), [await rawBase(SIZE)])
    return file
  }

  test('that loses its parent reads as zero where that showed, also for programs that look at no bits', async () => {
    const file = await child()
    const layer = await file.write()
    const links = layer.links as LinkEditor
    await promised(links.setParent(undefined))
    const { size } = file
    await promised(links.setParent(undefined))
    expect(file.size).toBe(size)
    await promised(layer.close())
    expect((await file.read()).parent).toBeUndefined()
    const wanted = new Uint8Array(SIZE).fill(7, BLOCK + 4096, BLOCK + 4096 + 8192)
    expect(Buffer.compare(await file.content(), wanted)).toBe(0)
    const block = file.at(file.entry(1) * SECTOR, SECTOR + BLOCK)
    expect(block.subarray(0, 16).every((bits) => bits === 0xff)).toBe(true)
    expect(Buffer.compare(block.subarray(SECTOR), wanted.subarray(BLOCK, 2 * BLOCK))).toBe(0)
  })

  test('gives single sectors back to its parent', async () => {
    const file = await child()
    const base = await rawBase(SIZE)
    const wanted = await file.content([base])
    const below = new Uint8Array(SIZE)
    await promised(new Chain([base]).read(0, below))
    const layer = await file.write()
    const offset = BLOCK + 4096 + 3 * SECTOR
    expect(await promised(layer.erase(offset, 2 * SECTOR, 'parent'))).toBe(2 * SECTOR)
    await promised(layer.close())
    wanted.set(below.subarray(offset, offset + 2 * SECTOR), offset)
    expect(Buffer.compare(await file.content([base]), wanted)).toBe(0)
  })

  test('hides its parent with bits alone where it has no room yet, and with holes where it has', async () => {
    const file = await child()
    const base = await rawBase(SIZE)
    const wanted = (await file.content([base])).fill(0, 2 * BLOCK, 2 * BLOCK + 8192).fill(0, BLOCK, BLOCK + 4096)
    const layer = await file.write()
    expect(await promised(layer.erase(2 * BLOCK + SECTOR, 8192, 'zero'))).toBe(0)
    expect(await promised(layer.erase(2 * BLOCK, 2 * SECTOR, 'zero'))).toBe(0)
    expect(await promised(layer.erase(2 * BLOCK, 8192, 'zero'))).toBe(8192)
    expect(await promised(layer.erase(BLOCK, 8192, 'zero'))).toBe(4096)
    await promised(layer.close())
    expect(Buffer.compare(await file.content([base]), wanted)).toBe(0)
    file.folder.files.set('a', withoutHoles(file.store))
    const other = await file.write()
    expect(await promised(other.erase(2 * BLOCK + 8192, 8192, 'zero'))).toBe(0)
    expect(await promised(other.erase(BLOCK + 4096, 8192, 'zero'))).toBe(0)
    await promised(other.close())
  })

  test('shows its parent again in whole sectors only, but for the last of a disk', async () => {
    const size = BLOCK + 3 * SECTOR
    const file = await VhdFile.make(size, {}, rawParent(SIZE))
    await file.fill(0, new Uint8Array(size).fill(7), [await rawBase(SIZE)])
    const layer = await file.write()
    expect(await promised(layer.erase(100, 2 * SECTOR, 'parent'))).toBe(0)
    expect(await promised(layer.erase(SECTOR, SECTOR - 1, 'parent'))).toBe(0)
    expect(await promised(layer.erase(BLOCK + 2 * SECTOR, SECTOR, 'parent'))).toBe(SECTOR)
    await promised(layer.close())
    const content = await file.content([await rawBase(SIZE)])
    const last = BLOCK + 2 * SECTOR
    expect(content.subarray(0, last).every((byte) => byte === 7)).toBe(true)
    expect(Buffer.compare(content.subarray(last), patternFor(last, SECTOR, 200))).toBe(0)
  })

  test("whose new blocks are its parent's too is zero there", async () => {
    const file = await VhdFile.make(2 * BLOCK, {}, rawParent(SIZE))
    const layer = await file.write()
    await promised(layer.resize(SIZE, SIZE))
    await promised(layer.close())
    const content = await file.content([await rawBase(SIZE)])
    expect(Buffer.compare(content.subarray(0, 2 * BLOCK), patternFor(0, 2 * BLOCK, 200))).toBe(0)
    expect(content.subarray(2 * BLOCK).every((byte) => byte === 0)).toBe(true)
  })

  test('that grows hides what its parent has behind its old end', async () => {
    const size = BLOCK + 8192
    const file = await VhdFile.make(size, {}, rawParent(SIZE))
    const layer = await file.write()
    await promised(layer.resize(2 * BLOCK, SIZE))
    await promised(layer.close())
    const content = await file.content([await rawBase(SIZE)])
    expect(content.subarray(0, size).some((byte) => byte === 0)).toBe(true)
    expect(Buffer.compare(content.subarray(0, size), patternFor(0, size, 200))).toBe(0)
    expect(content.subarray(size).every((byte) => byte === 0)).toBe(true)
  })

  test.each([
    ['may not be set does not fail for it', 'REFUSED', undefined],
    ['cannot be set tells so', 'IO', 'IO'],
  ] as const)('whose time %s', async (_, code, wanted) => {
    const file = await child()
    const stamp = { size: file.size, modified: 5n, inode: 1n, born: 1n }
    const setModified = (): void => {
      throw new VdiskError(code, { message: 'Cannot set the time of a: a test says so' })
    }
    file.folder.files.set('a', { ...watchedStore(file.store, () => {}), stamp: () => stamp, setModified })
    const layer = await file.write()
    await promised((layer.links as LinkEditor).setParent(rawParent(SIZE)))
    const failed = promised(layer.close())
    if (wanted === undefined) await failed
    else expect((await refusal(() => failed)).code).toBe(wanted)
  })
})

describe('a change of size', () => {
  test.each([
    [2041 * 2 ** 30, 'at most 2040 GiB'],
    [SIZE + 100, 'its sectors have 512 bytes'],
  ])('to %i bytes is refused, and changes nothing', async (size, words) => {
    for (const subformat of ['dynamic', 'fixed']) {
      const file = await VhdFile.make(SIZE, { subformat })
      const before = file.bytes
      const layer = await file.write()
      const error = await refusal(() => promised(layer.resize(size, 0)))
      expect(error).toMatchObject({ code: 'REFUSED', where: { file: 'a' } })
      expect(error.message).toContain(words)
      await promised(layer.close())
      expect(Buffer.compare(file.bytes, before)).toBe(0)
    }
  })

  test('to the size that it has writes nothing; nor does a flush of nothing', async () => {
    const file = await VhdFile.make(SIZE)
    file.put(0, new Uint8Array(SECTOR))
    const before = file.bytes
    const layer = await file.write()
    await promised(layer.resize(SIZE, 0))
    await promised(layer.flush())
    await promised(layer.close())
    expect(Buffer.compare(file.bytes, before)).toBe(0)
  })
})

describe('a file that cannot become longer', () => {
  test('takes no further block: entries count sectors', async () => {
    const file = await VhdFile.make(SIZE)
    const last = 0xffffffff * SECTOR - SECTOR
    const stride = SECTOR + BLOCK
    file.editFooters((footer) => footer.writeBigUInt64BE(BigInt(2 * BLOCK), 48))
    file.setEntry(3, (last - stride) / SECTOR)
    file.put(last, file.at(0, SECTOR))
    const layer = await file.write()
    const error = await refusal(() => promised(layer.reserve(0, BLOCK)))
    expect(error).toMatchObject({ code: 'NO_SPACE', where: { file: 'a', structure: 'BAT' } })
  })

  test('is not made more than twice as large by a repair', async () => {
    const file = await VhdFile.make(3 * 64 * MIB, { block_size: '64M' })
    await file.fill(0, Uint8Array.of(1))
    for (const block of [1, 2]) file.setEntry(block, file.entry(0))
    const error = await refusal(() => file.repair())
    expect(error).toMatchObject({ code: 'LIMIT_EXCEEDED', where: { file: 'a', structure: 'BAT' } })
  })
})
