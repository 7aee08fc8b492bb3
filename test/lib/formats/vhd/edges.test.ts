import { describe, expect, test } from 'vitest'
import { Chain } from '../../../../lib/chain/chain.ts'
import type { LinkEditor } from '../../../../lib/contracts/layer.ts'
import { VdiskError } from '../../../../lib/errors.ts'
import { vhd } from '../../../../lib/formats/vhd/driver.ts'
import { promised } from '../../../../lib/io/io.ts'
import { patternFor } from '../../../model/history.ts'
import { rawBase, rawParent } from '../../../support/raw-base.ts'
import { refusal } from '../../../support/refusal.ts'
import { delayedStore, watchedStore } from '../../../support/stores.ts'
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
