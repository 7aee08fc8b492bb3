import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { createDisk, openDisk } from '../../../../lib/index.ts'
import { finish } from '../../../../lib/jobs/job.ts'
import { mergeImage } from '../../../../lib/jobs/merge.ts'
import { rawParent } from '../../../support/raw-base.ts'
import { refusal } from '../../../support/refusal.ts'
import { scratchFolder } from '../../../support/temp.ts'
import { VhdFile } from '../../../support/vhd-file.ts'

const KIB = 1024
const SIZE = 256 * KIB
const EPOCH = 946_684_800

/** A child whose locators are these, one after the other behind everything else. */
async function childWith(locators: readonly (readonly [string, Uint8Array])[], name = ''): Promise<VhdFile> {
  const file = await VhdFile.make(SIZE, {}, rawParent(SIZE))
  const footer = file.at(0, 512)
  let at = file.size
  file.editHeader((header) => {
    header.fill(0, 64, 64 + 512 + 192)
    Buffer.from(name, 'utf16le').swap16().copy(header, 64)
    for (const [i, [platform, data]] of locators.entries()) {
      const entry = 576 + i * 24
      header.write(platform, entry, 'latin1')
      header.writeUInt32BE(512, entry + 4)
      header.writeUInt32BE(data.length, entry + 8)
      header.writeBigUInt64BE(BigInt(at), entry + 16)
      file.put(at, data)
      at += 512
    }
  })
  file.put(at, footer)
  return file
}

const wide = (text: string): Uint8Array => Buffer.from(text, 'utf16le')
const references = async (file: VhdFile): Promise<readonly string[] | undefined> =>
  (await file.read()).parent?.references

describe('names of the parent', () => {
  const alias = Buffer.alloc(150)
  alias.writeUInt16BE(2, 6)
  alias.writeUInt8(8, 50)
  alias.write('base.vhd', 51, 'latin1')

  test.each<[string, readonly [string, Uint8Array], string]>([
    ['relative, of Windows', ['W2ru', wide('.\\base.vhd')], '.\\base.vhd'],
    ['absolute, of Windows', ['W2ku', wide('C:\\vm\\base.vhd')], 'C:\\vm\\base.vhd'],
    ['relative, of XenServer', ['W2ru', wide('./base.vhd')], './base.vhd'],
    ['in the other byte order', ['W2ru', Buffer.from(wide('.\\base.vhd')).swap16()], '.\\base.vhd'],
    ['with a zero at the end', ['W2ru', wide('.\\base.vhd\0\0')], '.\\base.vhd'],
    ['relative, of old Windows', ['Wi2r', Buffer.from('.\\base.vhd')], '.\\base.vhd'],
    ['absolute, of old Windows', ['Wi2k', Buffer.from('C:\\base.vhd\0')], 'C:\\base.vhd'],
    ['a URL', ['MacX', Buffer.from('file://localhost/Users/a%20b/base.vhd')], '/Users/a b/base.vhd'],
    ['a URL of XenServer', ['MacX', Buffer.from('file://./base.vhd')], './base.vhd'],
    ['an alias of Mac OS', ['Mac ', alias], 'base.vhd'],
  ])('%s', async (_, locator, name) => {
    expect(await references(await childWith([locator]))).toEqual([name])
  })

  test('are tried relative ones first, that of the header last', async () => {
    const file = await childWith(
      [
        ['Wi2k', Buffer.from('C:\\d.vhd')],
        ['W2ku', wide('C:\\b.vhd')],
        ['MacX', Buffer.from('file:///c.vhd')],
        ['W2ru', wide('.\\a.vhd')],
      ],
      'e.vhd',
    )
    expect(await references(file)).toEqual(['.\\a.vhd', 'C:\\b.vhd', '/c.vhd', 'C:\\d.vhd', 'e.vhd'])
  })

  test('that lie past the end, or are longer than any, are left out', async () => {
    const file = await childWith([['W2ru', wide('.\\a.vhd')]], 'e.vhd')
    file.editHeader((header) => header.writeBigUInt64BE(2n ** 40n, 576 + 16))
    expect(await references(file)).toEqual(['e.vhd'])
    file.editHeader((header) => header.writeUInt32BE(2 ** 31, 576 + 8))
    expect(await references(file)).toEqual(['e.vhd'])
  })

  test.each([
    ['that is too short', alias.subarray(0, 113)],
    ['of another version', Buffer.from(alias).fill(3, 7, 8)],
  ])('an alias %s is left out', async (_, data) => {
    expect(await references(await childWith([['Mac ', data]], 'e.vhd'))).toEqual(['e.vhd'])
  })

  test.each([
    ['../up/base.vhd', '/vm/base.vhd', ['..\\up\\base.vhd', '\\vm\\base.vhd', 'base.vhd']],
    ['./base.vhd', 'C:/vm/base.vhd', ['.\\base.vhd', 'C:\\vm\\base.vhd', 'base.vhd']],
    ['base.vhd', '\\\\server\\vm\\base.vhd', ['.\\base.vhd', '\\\\server\\vm\\base.vhd', 'base.vhd']],
    ['base.vhd', '/a\\b/base.vhd', ['.\\base.vhd', 'base.vhd']],
  ])('%s, which is %s, are written so that Windows finds it', async (path, absolutePath, names) => {
    const file = await VhdFile.make(SIZE, {}, { ...rawParent(SIZE), path, absolutePath })
    expect(await references(file)).toEqual(names)
  })

  test.each([
    ['a\\b.vhd', 'cannot hold a backslash'],
    ['a/'.repeat(20_000), 'longer than anybody would read'],
  ])('that nobody could read are refused', async (path, words) => {
    const error = await refusal(() => VhdFile.make(SIZE, {}, { ...rawParent(SIZE), path }))
    expect(error).toMatchObject({ code: 'REFUSED', where: { file: 'a', structure: 'parent locator' } })
    expect(error.message).toContain(words)
  })

  test('stand for a parent whose id the child does not have, which a check tells', async () => {
    const file = await childWith([['W2ru', wide('.\\base.vhd')]])
    file.editHeader((header) => header.fill(0, 40, 56))
    expect((await file.read()).parent).toMatchObject({ references: ['.\\base.vhd'], expects: [] })
    expect(await file.findings()).toEqual(['PARENT_LOCATOR_INVALID'])
  })

  test('that are none at all are told by the check', async () => {
    const file = await childWith([])
    expect(await file.findings()).toEqual(['PARENT_LOCATOR_INVALID'])
  })
})

describe('a child and its parent', () => {
  const make = async (): Promise<{ base: string; child: string }> => {
    const folder = scratchFolder()
    const [base, child] = [path.join(folder, 'base.vhd'), path.join(folder, 'child.vhd')]
    await using disk = await createDisk(base, { format: 'vhd', size: SIZE })
    await disk.write(0, new Uint8Array(SIZE).fill(1))
    await disk.close()
    await (await createDisk(child, { format: 'vhd', parent: base })).close()
    return { base, child }
  }
  /** As a child of another program: nothing lies beside it. */
  const foreign = ({ child }: { child: string }): void => fs.rmSync(`${child}.vdisk-link`, { force: true })

  test('what is written of it: id, time, two names', async () => {
    const { base, child } = await make()
    const bytes = fs.readFileSync(child)
    const parent = fs.readFileSync(base)
    expect(bytes.subarray(512 + 40, 512 + 56)).toEqual(parent.subarray(68, 84))
    expect(bytes.readUInt32BE(512 + 56)).toBe(Math.floor(fs.statSync(base).mtimeMs / 1000) - EPOCH)
    const names = [0, 1].map((i) => {
      const entry = 512 + 576 + i * 24
      const at = Number(bytes.readBigUInt64BE(entry + 16))
      const name = bytes.subarray(at, at + bytes.readUInt32BE(entry + 8)).toString('utf16le')
      return [bytes.toString('latin1', entry, entry + 4), name]
    })
    expect(names).toEqual([
      ['W2ru', '.\\base.vhd'],
      ['W2ku', fs.realpathSync(base).replaceAll('/', '\\')],
    ])
  })

  test('that has another time is told, and read', async () => {
    const { base, child } = await make()
    foreign({ child })
    {
      await using disk = await openDisk(child)
      expect(disk.notes).toEqual([])
    }
    fs.utimesSync(base, 1_000_000_000, 1_000_000_000)
    await using disk = await openDisk(child)
    expect(disk.notes.join()).toContain('changed at another time')
    const byte = new Uint8Array(1)
    await disk.read(9, byte)
    expect(byte[0]).toBe(1)
  })

  test('that has another id is refused', async () => {
    const { base, child } = await make()
    foreign({ child })
    fs.rmSync(base)
    await (await createDisk(base, { format: 'vhd', size: SIZE })).close()
    expect((await refusal(async () => (await openDisk(child)).close())).code).toBe('PARENT_MISMATCH')
  })

  test('that is missing is missed, and never read as zeros', async () => {
    const { base, child } = await make()
    fs.rmSync(base)
    expect((await refusal(async () => (await openDisk(child)).close())).code).toBe('PARENT_MISSING')
  })

  test('keep their ids when they are written', async () => {
    const { base } = await make()
    const before = fs.readFileSync(base).subarray(68, 84)
    await using disk = await openDisk(base, { writable: true })
    await disk.write(0, Uint8Array.of(2))
    await disk.close()
    expect(fs.readFileSync(base).subarray(68, 84)).toEqual(before)
  })

  test('of another program are merged as ours are', async () => {
    const { base, child } = await make()
    foreign({ child })
    {
      await using disk = await openDisk(child, { writable: true })
      await disk.write(70_000, new Uint8Array(5000).fill(3))
    }
    await finish(mergeImage(child, { delete: true }))
    await using disk = await openDisk(base)
    const bytes = new Uint8Array(SIZE)
    await disk.read(0, bytes)
    expect([bytes[69_999], bytes[70_000], bytes[74_999], bytes[75_000]]).toEqual([1, 3, 3, 1])
  })

  test('a change of its link alone does not change the time by which others know the file', async () => {
    const { base, child } = await make()
    const grandchild = path.join(path.dirname(child), 'grandchild.vhd')
    await (await createDisk(grandchild, { format: 'vhd', parent: child })).close()
    const { relink } = await import('../../../../lib/jobs/relink.ts')
    const before = fs.statSync(child, { bigint: true }).mtimeNs
    fs.renameSync(base, path.join(path.dirname(base), 'moved.vhd'))
    await relink(child, path.join(path.dirname(base), 'moved.vhd'))
    expect(fs.statSync(child, { bigint: true }).mtimeNs).toBe(before)
    await using disk = await openDisk(grandchild)
    expect(disk.notes).toEqual([])
  })
})
