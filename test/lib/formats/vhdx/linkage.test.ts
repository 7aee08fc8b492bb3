import { describe, expect, test } from 'vitest'
import { ZERO_GUID } from '../../../../lib/bytes/guid.ts'
import { Chain } from '../../../../lib/chain/chain.ts'
import type { Identity, NewParent } from '../../../../lib/contracts/identity.ts'
import { vhdx } from '../../../../lib/formats/vhdx/driver.ts'
import type { WritableVhdxLayer } from '../../../../lib/formats/vhdx/layer.ts'
import { beginMerge, endMerge, parentLinkOf } from '../../../../lib/formats/vhdx/linkage.ts'
import { ParentLocator } from '../../../../lib/formats/vhdx/locator.ts'
import { promised } from '../../../../lib/io/io.ts'
import { checkLayer } from '../../../contract/driver-contract.ts'
import { CrashedFile } from '../../../crash/crashed-file.ts'
import { patternFor } from '../../../model/history.ts'
import { Random } from '../../../support/random.ts'
import { contentOf, delayedStore, failingStore, RecordingStore } from '../../../support/stores.ts'
import { KIB, MIB, VhdxFile } from '../../../support/vhdx-file.ts'

const LOCATOR = 'a8d35f2d-b30b-454d-abf7-d3d84834ab0c'
const PARAMETERS = 'caa16737-fa36-4d43-b3b6-33f0aa44e76b'
const A = 'aaaaaaaa-1111-4222-8333-444444444444'
const B = 'bbbbbbbb-1111-4222-8333-444444444444'

const guid = (value: string): Identity => ({ kind: 'guid', value, current: true })

function parentOf(change: Partial<NewParent> = {}): NewParent {
  return {
    path: 'bases/parent.vhdx',
    absolutePath: '/srv/bases/parent.vhdx',
    format: 'vhdx',
    identity: guid(A),
    record: { size: 4 * MIB, stamp: undefined, sample: undefined },
    replaces: undefined,
    ...change,
  }
}

function pairsOf(file: VhdxFile): Record<string, string> {
  const { at, length } = file.item(LOCATOR)
  return Object.fromEntries(ParentLocator.parse({ name: 'a' }, file.bytes(at, length), at).pairs)
}

/** A locator by the book. [MS-VHDX] 2.6.2.6 */
function locatorBytes(pairs: readonly [string, string][], change: (view: DataView) => void = () => {}): Uint8Array {
  const texts = pairs.flat().map((text) => Buffer.from(text, 'utf16le'))
  const head = Buffer.alloc(20 + pairs.length * 12)
  head.set(Buffer.from('b7ef4ab09ed1814ab78925b8e9445913', 'hex'))
  head.writeUInt16LE(pairs.length, 18)
  let at = head.length
  for (const [i] of pairs.entries()) {
    const key = texts[i * 2] as Buffer
    const value = texts[i * 2 + 1] as Buffer
    head.writeUInt32LE(at, 20 + i * 12)
    head.writeUInt32LE(at + key.length, 24 + i * 12)
    head.writeUInt16LE(key.length, 28 + i * 12)
    head.writeUInt16LE(value.length, 30 + i * 12)
    at += key.length + value.length
  }
  const bytes = new Uint8Array(Buffer.concat([head, ...texts]))
  change(new DataView(bytes.buffer))
  return bytes
}

describe('a parent locator', () => {
  test('as Windows leaves it names three paths, in the order in which they are to be tried', () => {
    const bytes = locatorBytes([
      ['absolute_win32_path', '\\\\?\\D:\\vm\\base.vhdx'],
      ['parent_linkage', `{${A.toUpperCase()}}`],
      ['parent_linkage2', `{${ZERO_GUID}}`],
      ['relative_path', '.\\base.vhdx'],
      ['volume_path', '\\\\?\\Volume{26A21BDA-A627-11D7-9931-806E6F6E6963}\\vm\\base.vhdx'],
    ])
    expect(parentLinkOf(ParentLocator.parse({ name: 'a' }, bytes, 0))).toEqual({
      references: [
        '.\\base.vhdx',
        '\\\\?\\Volume{26A21BDA-A627-11D7-9931-806E6F6E6963}\\vm\\base.vhdx',
        '\\\\?\\D:\\vm\\base.vhdx',
      ],
      format: 'vhdx',
      expects: [guid(A)],
      record: undefined,
      merging: false,
      replaced: undefined,
    })
  })

  test('with two identities is one whose merge was begun: either is the parent', () => {
    const bytes = locatorBytes([
      ['parent_linkage', `{${A}}`],
      ['parent_linkage2', `{${B}}`],
      ['relative_path', 'x'],
    ])
    const link = parentLinkOf(ParentLocator.parse({ name: 'a' }, bytes, 0))
    expect(link).toMatchObject({ expects: [guid(A), guid(B)], merging: true })
  })

  test('whose text ends in a zero is read without it', () => {
    const bytes = locatorBytes([['relative_path', 'x.vhdx\0']])
    expect(ParentLocator.parse({ name: 'a' }, bytes, 0).get('relative_path')).toBe('x.vhdx')
  })

  test('round trips, whatever the order of its keys', () => {
    const pairs = new Map([
      ['z', 'last'],
      ['parent_linkage', `{${A}}`],
      ['vdisk_link', JSON.stringify({ größe: '𝄞' })],
    ])
    const bytes = new ParentLocator(pairs).encode('a')
    expect([...ParentLocator.parse({ name: 'a' }, bytes, 0).pairs]).toEqual([...pairs])
  })

  test.each<[string, Uint8Array, string]>([
    ['of 19 bytes', new Uint8Array(19), 'CORRUPT'],
    ['of another kind', locatorBytes([], (view) => view.setUint8(0, 0)), 'UNSUPPORTED'],
    ['with more entries than room', locatorBytes([['a', 'b']], (view) => view.setUint16(18, 9, true)), 'CORRUPT'],
    ['with 65535 entries', locatorBytes([['a', 'b']], (view) => view.setUint16(18, 65535, true)), 'LIMIT_EXCEEDED'],
    ['with a key outside it', locatorBytes([['a', 'b']], (view) => view.setUint32(20, 4000, true)), 'CORRUPT'],
    ['with a key at 2^32-1', locatorBytes([['a', 'b']], (view) => view.setUint32(20, 0xffffffff, true)), 'CORRUPT'],
    ['with a value outside it', locatorBytes([['a', 'b']], (view) => view.setUint16(30, 4000, true)), 'CORRUPT'],
    ['with half a character', locatorBytes([['a', 'b']], (view) => view.setUint16(30, 1, true)), 'CORRUPT'],
    ['with a key of no length', locatorBytes([['a', 'b']], (view) => view.setUint16(28, 0, true)), 'CORRUPT'],
    [
      'with the same key twice',
      locatorBytes([
        ['a', 'b'],
        ['a', 'c'],
      ]),
      'CORRUPT',
    ],
  ])('%s is refused', (_, bytes, code) => {
    expect(() => ParentLocator.parse({ name: 'a' }, bytes, 0)).toThrow(expect.objectContaining({ code }) as Error)
  })

  test('whose entries share one long text costs no more than a locator can have', () => {
    const bytes = locatorBytes(
      Array.from({ length: 40 }, (_, i) => [`k${i}`, i === 39 ? 'x'.repeat(32767) : 'y'] as [string, string]),
    )
    const view = new DataView(bytes.buffer)
    for (let i = 0; i < 40; i++) {
      view.setUint32(24 + i * 12, view.getUint32(24 + 39 * 12, true), true)
      view.setUint16(30 + i * 12, 65534, true)
    }
    expect(() => ParentLocator.parse({ name: 'a' }, bytes, 0)).toThrow(
      expect.objectContaining({ code: 'LIMIT_EXCEEDED' }) as Error,
    )
  })

  test('that names nobody leaves a child whose parent is not known, and the check says so', async () => {
    const file = await VhdxFile.make(4 * MIB, {}, parentOf())
    const { entryAt, at } = file.item(LOCATOR)
    const bytes = locatorBytes([['something', 'else']])
    file.put(at, bytes)
    file.edit(entryAt, 32, -1, (view) => view.setUint32(20, bytes.length, true))
    const layer = await file.read()
    expect(layer.parent).toMatchObject({ references: [], expects: [] })
    const { findings } = await checkLayer(vhdx, layer)
    expect(findings.map(({ code }) => code)).toEqual(['PARENT_LOCATOR_INVALID', 'PARENT_LOCATOR_INVALID'])
  })
})

describe('a child', () => {
  test('of a VHDX file has the keys of the specification and no other', async () => {
    const file = await VhdxFile.make(4 * MIB, {}, parentOf())
    expect(pairsOf(file)).toEqual({
      parent_linkage: `{${A}}`,
      relative_path: '.\\bases\\parent.vhdx',
      absolute_win32_path: '\\\\?\\\\srv\\bases\\parent.vhdx',
    })
    expect((await file.read()).parent).toMatchObject({ format: 'vhdx', expects: [guid(A)], merging: false })
  })

  test.each([
    ['C:/vm/p.vhdx', '\\\\?\\C:\\vm\\p.vhdx'],
    ['D:\\vm\\p.vhdx', '\\\\?\\D:\\vm\\p.vhdx'],
    ['\\\\host\\share\\p.vhdx', '\\\\?\\UNC\\host\\share\\p.vhdx'],
    ['\\\\?\\D:\\p.vhdx', '\\\\?\\D:\\p.vhdx'],
    ['/odd\\name/p.vhdx', undefined],
  ])('names %s as an extended-length path', async (absolutePath, wanted) => {
    const file = await VhdxFile.make(4 * MIB, {}, parentOf({ absolutePath }))
    expect(pairsOf(file).absolute_win32_path).toBe(wanted)
  })

  test.each([
    ['p.vhdx', '.\\p.vhdx'],
    ['../up/p.vhdx', '..\\up\\p.vhdx'],
    ['..odd/p.vhdx', '.\\..odd\\p.vhdx'],
  ])('names %s with backslashes', async (path, wanted) => {
    const file = await VhdxFile.make(4 * MIB, {}, parentOf({ path }))
    expect(pairsOf(file).relative_path).toBe(wanted)
  })

  test('is not made over a parent whose name the format cannot hold', async () => {
    await expect(VhdxFile.make(4 * MIB, {}, parentOf({ path: 'a\\b' }))).rejects.toMatchObject({ code: 'REFUSED' })
    const path = 'x'.repeat(40_000)
    await expect(VhdxFile.make(4 * MIB, {}, parentOf({ path }))).rejects.toMatchObject({ code: 'UNSUPPORTED' })
  })

  test('of another format remembers all that it was told of its parent', async () => {
    const stamp = { size: 77, modified: 1234567890123456789n, inode: 2n ** 60n, born: 5n }
    const identity: Identity = { kind: 'generation', value: `${A}/7`, current: true }
    const record = { size: 4 * MIB, stamp, sample: 'ab'.repeat(16) }
    const file = await VhdxFile.make(4 * MIB, {}, parentOf({ format: 'qcow2', identity, record, path: 'p.qcow2' }))
    const link = (await file.read()).parent
    expect(link).toEqual({
      references: ['.\\p.qcow2', '\\\\?\\\\srv\\bases\\parent.vhdx'],
      format: 'qcow2',
      expects: [identity],
      record,
      merging: false,
      replaced: undefined,
    })
    // The required key is there, and says something else for another state of the parent.
    const linkage = pairsOf(file).parent_linkage
    expect(linkage).toMatch(/^\{[0-9a-f-]{36}\}$/)
    const other = { ...identity, value: `${A}/8` }
    const changed = await VhdxFile.make(4 * MIB, {}, parentOf({ format: 'qcow2', identity: other, record }))
    expect(pairsOf(changed).parent_linkage).not.toBe(linkage)
  })

  test('of a parent without identity expects none, and keeps the record', async () => {
    const file = await VhdxFile.make(4 * MIB, {}, parentOf({ format: 'raw', identity: undefined }))
    const { record } = parentOf()
    expect((await file.read()).parent).toMatchObject({ format: 'raw', expects: [], record })
  })

  test.each([
    '{',
    '[]',
    '7',
    '{"version":2,"format":"raw","size":1}',
    '{"version":1,"size":1}',
    '{"version":1,"format":"raw","size":"x"}',
  ])('whose vdisk_link is %s says nothing of its parent’s format, and nothing is guessed', async (text) => {
    const file = await VhdxFile.make(4 * MIB, {}, parentOf({ format: 'raw', identity: undefined }))
    const { entryAt, at } = file.item(LOCATOR)
    const bytes = locatorBytes([
      ['parent_linkage', `{${A}}`],
      ['relative_path', 'x'],
      ['vdisk_link', text],
    ])
    file.put(at, bytes)
    file.edit(entryAt, 32, -1, (view) => view.setUint32(20, bytes.length, true))
    const layer = await file.read()
    expect(layer.parent).toMatchObject({ format: undefined, expects: [] })
    expect((await checkLayer(vhdx, layer)).findings).toMatchObject([{ code: 'PARENT_LOCATOR_INVALID' }])
  })
})

describe('the link to the parent', () => {
  test('changes without the content: children of this file know it still', async () => {
    const file = await VhdxFile.make(4 * MIB, {}, parentOf())
    const { fileWrite, dataWrite } = file.header
    const layer = await file.write()
    await promised(layer.links.setParent(parentOf({ path: 'elsewhere/p.vhdx', identity: guid(B), replaces: guid(A) })))
    expect(layer.parent).toMatchObject({ expects: [guid(B)], replaced: guid(A) })
    await promised(layer.close())
    expect(file.header.dataWrite).toBe(dataWrite)
    expect(file.header.fileWrite).not.toBe(fileWrite)
    expect(file.header.log).toBe(ZERO_GUID)
    expect((await file.read()).parent).toMatchObject({ expects: [guid(B)], replaced: guid(A) })
    expect(pairsOf(file).relative_path).toBe('.\\elsewhere\\p.vhdx')
  })

  test('finds room for a longer locator, and leaves metadata items that it does not know untouched', async () => {
    const file = await VhdxFile.make(4 * MIB, {}, parentOf())
    const region = file.metadata.at
    // An optional item of a user right behind the locator.
    const { at, length } = file.item(LOCATOR)
    const mine = at + ((length + 7) & ~7)
    file.put(mine, Buffer.from('what a user keeps here'))
    file.edit(region, 32, -1, (view) => view.setUint16(10, 7, true))
    file.edit(region + 32 + 6 * 32, 32, -1, (view, bytes) => {
      bytes.fill(0x77, 0, 16)
      view.setUint32(16, mine - region, true)
      view.setUint32(20, 22, true)
      view.setUint32(24, 1, true)
    })
    const layer = await file.write()
    await promised(layer.links.setParent(parentOf({ path: `${'long/'.repeat(300)}p.vhdx` })))
    await promised(layer.links.beginMerge(guid(A), guid(B)))
    await promised(layer.links.setParent(undefined))
    expect(layer.parent).toBeUndefined()
    await promised(layer.links.setParent(parentOf()))
    await promised(layer.close())
    const id = '77777777-7777-7777-7777-777777777777'
    expect(file.item(id)).toMatchObject({ at: mine, length: 22 })
    expect(Buffer.from(file.bytes(mine, 22)).toString()).toBe('what a user keeps here')
    expect((await file.read()).parent).toMatchObject({ expects: [guid(A)] })
  })

  test('of a merge into a VHDX parent is the second linkage of the specification, until the merge ends', async () => {
    const file = await VhdxFile.make(4 * MIB, {}, parentOf())
    const layer = await file.write()
    await promised(layer.links.beginMerge(guid(A), guid(B)))
    expect(layer.parent).toMatchObject({ expects: [guid(A), guid(B)], merging: true })
    expect(pairsOf(file)).toMatchObject({ parent_linkage: `{${A}}`, parent_linkage2: `{${B}}` })
    await promised(layer.links.endMerge({ into: 'parent.vhdx', at: 1700000000 }, undefined))
    expect(layer.merged).toEqual({ into: 'parent.vhdx', at: 1700000000 })
    await promised(layer.close())
    const again = await file.read()
    expect(again.parent).toMatchObject({ expects: [guid(B)], merging: false })
    expect(again.merged).toEqual({ into: 'parent.vhdx', at: 1700000000 })
    expect(pairsOf(file).parent_linkage2).toBeUndefined()
  })

  test('of a merge into another format says so in the record', async () => {
    const now: Identity = { kind: 'generation', value: `${A}/7`, current: true }
    const next: Identity = { kind: 'generation', value: `${A}/8`, current: true }
    const file = await VhdxFile.make(4 * MIB, {}, parentOf({ format: 'qcow2', identity: now }))
    const layer = await file.write()
    await promised(layer.links.beginMerge(now, next))
    expect(layer.parent).toMatchObject({ format: 'qcow2', expects: [now, next], merging: true })
    await promised(layer.links.endMerge({ into: 'p.qcow2', at: 5 }, undefined))
    expect(layer.parent).toMatchObject({ format: 'qcow2', expects: [next], merging: false })
    await promised(layer.close())
  })

  test('of a merge into a parent without identity is accepted while the parent changes', async () => {
    const file = await VhdxFile.make(4 * MIB, {}, parentOf({ format: 'raw', identity: undefined }))
    const layer = await file.write()
    await promised(layer.links.beginMerge(undefined, undefined))
    expect(layer.parent).toMatchObject({ expects: [], merging: true })
    await promised(layer.close())
  })

  test('is refused where the record of the parent cannot be read, and the error names the file', () => {
    const locator = new ParentLocator(new Map([['vdisk_link', '{']]))
    for (const work of [
      () => beginMerge('child.vhdx', locator, undefined, undefined),
      () => endMerge('child.vhdx', locator, { into: 'x', at: 1 }, undefined),
    ]) {
      expect(work).toThrow(
        expect.objectContaining({ code: 'CORRUPT', where: expect.objectContaining({ file: 'child.vhdx' }) }) as Error,
      )
    }
  })

  test('is there only where there is a parent', async () => {
    const file = await VhdxFile.make(4 * MIB)
    const layer = await file.write()
    await expect(promised(layer.links.endMerge({ into: 'x', at: 1 }, undefined))).rejects.toThrow(TypeError)
    await promised(layer.links.setParent(undefined))
    expect(layer.parent).toBeUndefined()
    await promised(layer.close())
  })

  test('can be given to a file that had none: what is not present shows the parent from then on', async () => {
    for (const options of [{}, { subformat: 'fixed' }, { block_state_zero: 'on' }]) {
      const file = await VhdxFile.make(4 * MIB, options)
      const layer = await file.write()
      await promised(layer.links.setParent(parentOf()))
      await promised(new Chain([layer]).write(MIB + 512, new Uint8Array(512).fill(7)))
      await promised(layer.close())
      const again = await file.read()
      const kind = 'subformat' in options ? 'data' : 'block_state_zero' in options ? 'zero' : 'parent'
      expect(await promised(again.map(0, 512))).toMatchObject({ kind })
      expect(await promised(again.map(MIB + 512, 512))).toMatchObject({ kind: 'data' })
      expect(again.parent).toMatchObject({ expects: [guid(A)] })
      expect((await checkLayer(vhdx, again)).findings).toEqual([])
    }
  })

  test('taken away leaves a file without sector bitmaps, in which zeros are where the parent showed', async () => {
    const file = await VhdxFile.make(4 * MIB + 1536, {}, parentOf())
    const chain = new Chain([await file.write()])
    const written = [
      [512, 1024],
      [MIB + 77, 70_000],
      [4 * MIB + 512, 512],
    ] as const
    for (const [at, length] of written) await promised(chain.write(at, patternFor(at, length, 9)))
    await promised(chain.erase(2 * MIB, MIB))
    const before = new Uint8Array(chain.size)
    await promised(chain.read(0, before))
    const { dataWrite } = file.header
    const layer = chain.layers[0] as Awaited<ReturnType<VhdxFile['write']>>
    await promised(layer.links.setParent(undefined))
    await promised(chain.write(3 * MIB + 5, Uint8Array.of(1)))
    before[3 * MIB + 5] = 1
    await promised(chain.close())
    expect(file.header.dataWrite).toBe(dataWrite)
    expect(() => file.item(LOCATOR)).toThrow()
    expect(file.u32(file.item(PARAMETERS).at + 4)).toBe(0)
    const again = await file.read()
    const found = new Uint8Array(before.length)
    await promised(new Chain([again]).read(0, found))
    expect(Buffer.compare(found, before)).toBe(0)
    expect(again.parent).toBeUndefined()
    expect((await checkLayer(vhdx, again)).findings).toEqual([])
    for (let block = 0; block < 5; block++) expect(Number(file.entry(block) & 7n)).not.toBe(7)
  })

  test('is the old or the new one after a crash at any moment, and the content with it', async () => {
    const file = await VhdxFile.make(3 * MIB, {}, parentOf())
    const chain = new Chain([await file.write()])
    for (const at of [700, MIB + 9000]) await promised(chain.write(at, patternFor(at, 5000, 3)))
    await promised(chain.close())
    const start = contentOf(file.store)
    const steps = ['relink', 'merge', 'unlink', 'link'] as const
    const scratch = new CrashedFile(start)
    const layer = (await promised(vhdx.open(scratch.folder.image('a'), 'write'))) as WritableVhdxLayer
    const links: unknown[] = [layer.parent]
    for (const step of steps) {
      if (step === 'relink') await promised(layer.links.setParent(parentOf({ path: 'q.vhdx', identity: guid(B) })))
      if (step === 'merge') await promised(layer.links.beginMerge(guid(B), guid(A)))
      if (step === 'unlink') await promised(layer.links.setParent(undefined))
      if (step === 'link') await promised(layer.links.setParent(parentOf()))
      links.push(layer.parent)
    }
    await promised(layer.close())
    for (let seed = 0; seed < 250; seed++) {
      const random = new Random(seed)
      const end = seed < scratch.length ? seed : random.below(scratch.length + 1)
      const crashed = scratch.after(end, random)
      const writable = await promised(vhdx.open(crashed.image('a'), 'write'))
      expect(links).toContainEqual(writable.parent)
      const found = new Uint8Array(5000)
      for (const at of [700, MIB + 9000]) {
        await promised(new Chain([writable]).read(at, found))
        expect(Buffer.compare(found, patternFor(at, 5000, 3))).toBe(0)
      }
      await promised(writable.close())
      const { findings } = await checkLayer(vhdx, await promised(vhdx.open(crashed.image('a'), 'read')))
      expect(findings.filter(({ severity }) => severity === 'error')).toEqual([])
    }
  })
})

describe('the identity', () => {
  test('is that of the current header: the other one may hold an older', async () => {
    const file = await VhdxFile.make(4 * MIB)
    file.editHeaders((_, bytes) => bytes.fill(0x11, 32, 48), [0])
    file.editHeaders((_, bytes) => bytes.fill(0x22, 32, 48), [1])
    const value = '22222222-2222-2222-2222-222222222222'
    expect((await file.read()).identity).toEqual({ kind: 'guid', value, current: true })
  })

  test('changes before the data, in both headers, and only once', async () => {
    const file = await VhdxFile.make(4 * MIB, { subformat: 'fixed' })
    const before = file.header
    const recorder = new RecordingStore(file.store)
    file.wrap(() => recorder)
    const layer = await file.write()
    const next = layer.nextIdentity
    expect(layer.identity?.value).toBe(before.dataWrite)
    const chain = new Chain([layer])
    await promised(chain.write(5, Uint8Array.of(1, 2, 3)))
    await promised(chain.write(MIB, Uint8Array.of(1)))
    const kinds = recorder.log.map((entry) =>
      entry.kind === 'write' ? (entry.at < 192 * KIB ? 'header' : 'data') : entry.kind,
    )
    expect(kinds).toEqual(['header', 'flush', 'header', 'flush', 'data', 'data'])
    expect(layer.identity).toEqual(next)
    expect(layer.nextIdentity).toEqual(next)
    await promised(chain.close())
    expect(file.header.dataWrite).toBe(next.value)
    expect(file.header.fileWrite).not.toBe(before.fileWrite)
    expect(file.guid(64 * KIB + 32)).toBe(file.guid(128 * KIB + 32))
    expect(file.guid(64 * KIB + 16)).toBe(file.guid(128 * KIB + 16))
  })

  test('changes once, however many begin to write at the same time', async () => {
    const file = await VhdxFile.make(4 * MIB, { subformat: 'fixed' })
    const { sequence } = file.header
    file.wrap((store) => delayedStore(store, 7))
    const chain = new Chain([await file.write()])
    await Promise.all([0, 1, 2, 3].map((block) => promised(chain.write(block * MIB, Uint8Array.of(block)))))
    expect(file.header.sequence).toBe(sequence + 2n)
    await promised(chain.close())
  })

  test('changes with the size, and before it', async () => {
    const file = await VhdxFile.make(4 * MIB)
    const { dataWrite } = file.header
    const layer = await file.write()
    await promised(layer.resize(5 * MIB, 0))
    await promised(layer.close())
    expect(file.header.dataWrite).not.toBe(dataWrite)
  })

  test('stays where an erasure changes nothing, and so does every byte', async () => {
    const file = await VhdxFile.make(4 * MIB)
    const before = contentOf(file.store)
    const chain = new Chain([await file.write()])
    await promised(chain.erase(0, 4 * MIB))
    await promised(chain.flush())
    await promised(chain.close())
    expect(Buffer.compare(contentOf(file.store), before)).toBe(0)
  })

  test('that could not be changed keeps the data from being written', async () => {
    for (const index of [0, 1]) {
      const file = await VhdxFile.make(4 * MIB, { subformat: 'fixed' })
      const start = contentOf(file.store)
      const failing = failingStore(file.store, { index, code: 'IO', kinds: ['write'] })
      file.wrap(() => failing)
      const layer = await file.write()
      const next = layer.nextIdentity
      const chain = new Chain([layer])
      await expect(promised(chain.write(0, Uint8Array.of(1)))).rejects.toMatchObject({ code: 'IO' })
      expect(Buffer.compare(contentOf(file.store).subarray(MIB), start.subarray(MIB))).toBe(0)
      await promised(chain.write(0, Uint8Array.of(1)))
      await promised(chain.close())
      expect(file.header.dataWrite).toBe(next.value)
    }
  })
})
