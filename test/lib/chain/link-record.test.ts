import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test, vi } from 'vitest'
import { crc32c } from '../../../lib/bytes/crc32c.ts'
import {
  checkImage,
  convertDisk,
  createDisk,
  createLayer,
  finish,
  inspectChain,
  inspectImage,
  LayerPool,
  mergeImage,
  openDisk,
  relink,
  undoImage,
} from '../../../lib/index.ts'
import { patternFor } from '../../model/history.ts'
import { expectSameBytes } from '../../support/qemu.ts'
import { refusal } from '../../support/refusal.ts'
import { scratchFolder } from '../../support/temp.ts'

// A child whose format says next to nothing of its parent: what it cannot say stands in the record beside it.
vi.mock('../../../lib/formats/registry.ts', async () => {
  const { qcow2 } = await import('../../../lib/formats/qcow2/driver.ts')
  const { raw } = await import('../../../lib/formats/raw/driver.ts')
  const { forgetful } = await import('../../support/forgetful.ts')
  return { drivers: [qcow2, forgetful, raw] }
})

const SIZE = 4 << 20

interface Scene {
  readonly at: (name: string) => string
  readonly record: string
  read(name: string, options?: Parameters<typeof openDisk>[1]): Promise<Buffer>
  write(name: string, offset: number, fill: number): Promise<void>
}

/** A base of some format, and a forgetful child over it, each with content of its own. */
async function scene(base: 'raw' | 'qcow2' | 'forgetful'): Promise<Scene & { readonly content: Buffer }> {
  const folder = scratchFolder()
  const at = (name: string): string => path.join(folder, name)
  const formats: Record<string, string> = { base }
  const write = async (name: string, offset: number, fill: number): Promise<void> => {
    await using disk = await openDisk(at(name), { writable: true, format: formats[name] ?? 'forgetful' })
    await disk.write(offset, patternFor(offset, 5000, fill))
  }
  const read = async (name: string, options = {}): Promise<Buffer> => {
    await using disk = await openDisk(at(name), { format: formats[name], ...options })
    const bytes = Buffer.alloc(disk.size)
    await disk.read(0, bytes)
    return bytes
  }
  await (await createDisk(at('base'), { format: base, size: SIZE })).close()
  await write('base', 100_000, 1)
  // So long ago that its time says all there is to say; others would take that for a change.
  if (base !== 'qcow2') age(at('base'))
  await (await createDisk(at('child'), { format: 'forgetful', parent: at('base'), parentFormat: base })).close()
  await write('child', 102_000, 2)
  return { at, record: at('child.vdisk-link'), read, write, content: await read('child') }
}

function age(file: string): void {
  const hourAgo = Date.now() / 1000 - 3600
  fs.utimesSync(file, hourAgo, hourAgo)
}

/** Writes past all formats, and leaves everything else as it is. */
function scribble(file: string, at: number, keepTime = false): void {
  const { atime, mtime } = fs.statSync(file)
  const descriptor = fs.openSync(file, 'r+')
  fs.writeSync(descriptor, Buffer.from('scribble'), 0, 8, at)
  fs.closeSync(descriptor)
  if (keepTime) fs.utimesSync(file, atime, mtime)
}

const BASES = ['raw', 'qcow2', 'forgetful'] as const

describe.each(BASES)('a forgetful child over %s', (base) => {
  test('finds its parent by the record beside it, and info tells', async () => {
    const { at, record, content } = await scene(base)
    expect(content.subarray(102_000, 107_000)).toEqual(Buffer.from(patternFor(102_000, 5000, 2)))
    expect(content.subarray(100_000, 102_000)).toEqual(Buffer.from(patternFor(100_000, 5000, 1)).subarray(0, 2000))
    const info = await inspectImage(at('child'))
    expect(info).toMatchObject({
      linkRecord: { file: record, state: 'holds' },
      parent: { references: ['base'], format: base },
    })
    const [, child] = await inspectChain(at('child'))
    expect(child?.link?.level).toMatch(base === 'raw' ? /consistent/ : /verified/)
  })

  test('is told from one whose parent was written to', async () => {
    const { at, read, write } = await scene(base)
    await write('base', 2_000_000, 3)
    expect(await refusal(() => read('child'))).toMatchObject({ code: 'PARENT_MISMATCH' })
    const { findings } = await finish(checkImage(at('child')))
    expect(findings).toMatchObject([{ code: 'PARENT_MODIFIED', severity: 'error' }])
  })

  test('stays right when it is merged, and the record says that it is history', async () => {
    const { at, read, record, content } = await scene(base)
    await finish(mergeImage(at('child')))
    expectSameBytes(await read('base'), content, 'base')
    expect((await inspectImage(at('child'))).merged).toMatchObject({ into: 'base' })
    expectSameBytes(await read('child'), content, 'child')
    expect(await refusal(() => openDisk(at('child'), { writable: true }))).toMatchObject({ code: 'REFUSED' })
    expect(fs.existsSync(record)).toBe(true)
  })

  test('leaves no record when it is merged and removed', async () => {
    const { at, read, record, content } = await scene(base)
    await finish(mergeImage(at('child'), { delete: true }))
    expectSameBytes(await read('base'), content, 'base')
    expect([fs.existsSync(at('child')), fs.existsSync(record)]).toEqual([false, false])
  })

  test('is merged away between others: who is above it goes on upon the base', async () => {
    const { at, read, write } = await scene(base)
    await createLayer(at('child'), at('top'), {})
    await write('top', 103_000, 4)
    const content = await read('top')
    await finish(mergeImage(at('child'), { delete: true }))
    expectSameBytes(await read('top'), content, 'top')
    expect((await inspectImage(at('top'))).parent?.references).toEqual(['base'])
  })

  test('follows its parent to another place, if told to', async () => {
    const { at, read, content } = await scene(base)
    fs.renameSync(at('base'), at('moved'))
    expect(await refusal(() => read('child'))).toMatchObject({ code: 'PARENT_MISSING' })
    await relink(at('child'), at('moved'))
    expectSameBytes(await read('child'), content, 'child')
    expect((await inspectImage(at('child'))).linkRecord?.state).toBe('holds')
  })

  test('that has lost its record never reads as zeros, and gets it back without being believed blindly', async () => {
    const { at, read, record, content } = await scene(base)
    fs.rmSync(record)
    const error = await refusal(() => read('child'))
    expect(error).toMatchObject({ code: 'PARENT_MISSING', advice: expect.stringContaining('child.vdisk-link') })
    await relink(at('child'), at('base'), { parentFormat: base, acceptModified: true })
    expectSameBytes(await read('child'), content, 'child')
  })

  test('is made by a conversion, and replaces one that had a record', async () => {
    const { at, read, content } = await scene(base)
    {
      await using disk = await openDisk(at('child'))
      const options = { format: 'forgetful', parent: at('base'), parentFormat: base }
      await finish(convertDisk(disk.chain, at('copy'), options))
      await finish(convertDisk(disk.chain, at('copy'), { ...options, replace: true }))
    }
    expectSameBytes(await read('copy'), content, 'copy')
    expect(fs.readdirSync(at('.')).filter((name) => name.includes('partial'))).toEqual([])
    {
      await using disk = await openDisk(at('child'))
      await finish(convertDisk(disk.chain, at('copy'), { format: 'qcow2', replace: true }))
    }
    expect(fs.existsSync(at('copy.vdisk-link'))).toBe(false)
  })
})

describe('what is beside an image', () => {
  test('never makes a child of what is none', async () => {
    const { at, record, read } = await scene('qcow2')
    await (await createDisk(at('plain'), { format: 'forgetful', size: SIZE })).close()
    fs.copyFileSync(record, at('plain.vdisk-link'))
    expect((await read('plain')).every((byte) => byte === 0)).toBe(true)
    expect(await inspectImage(at('plain'))).toMatchObject({ parent: undefined, linkRecord: { state: 'stale' } })
    const { findings } = await finish(checkImage(at('plain')))
    expect(findings).toMatchObject([{ code: 'LINK_RECORD_STALE', severity: 'warning' }])
  })

  test.each([
    ['cut short', (text: string) => text.slice(0, -20)],
    ['with a bit flipped', (text: string) => text.replace('base', 'bise')],
    ['empty', () => ''],
    ['of a later version', (text: string) => text.replace('"version":1', '"version":2')],
    ['no text at all', () => '\u0000'.repeat(5000)],
    ['larger than any', () => `${'x'.repeat(70_000)}\n`],
  ])('says nothing where it is %s', async (_, spoil) => {
    const { at, record, read } = await scene('qcow2')
    fs.writeFileSync(record, spoil(fs.readFileSync(record, 'utf8')))
    expect(await refusal(() => read('child'))).toMatchObject({ code: 'PARENT_MISSING' })
    expect((await inspectImage(at('child'))).linkRecord).toMatchObject({ state: 'damaged' })
    const { findings } = await finish(checkImage(at('child')))
    expect(findings).toContainEqual(expect.objectContaining({ code: 'LINK_RECORD_DAMAGED' }))
  })

  test('is not followed where it is a link, or a folder', async () => {
    const { at, record, read } = await scene('qcow2')
    fs.renameSync(record, at('elsewhere'))
    fs.symlinkSync('elsewhere', record)
    expect(await refusal(() => read('child'))).toMatchObject({ code: 'PARENT_MISSING' })
    fs.rmSync(record)
    fs.mkdirSync(record)
    expect(await refusal(() => read('child'))).toMatchObject({ code: 'PARENT_MISSING' })
  })

  test.each(['../outside', '/etc/hostname', 'nbd://host/x', 'child', 'a\u0000b'])(
    'leads through the gate like any name in an image: %j',
    async (name) => {
      const { record, read } = await scene('qcow2')
      fs.writeFileSync(
        record,
        rewritten(record, (fields) => ({ ...fields, path: name })),
      )
      const error = await refusal(() => read('child'))
      expect(['REFUSED', 'CHAIN_CYCLE', 'PARENT_MISSING']).toContain(error.code)
    },
  )

  test('may be whatever a stranger wrote: nothing but a VdiskError comes of it', async () => {
    const { record, read } = await scene('raw')
    const strange = [
      null,
      -1,
      1e300,
      'x'.repeat(5000),
      [],
      {},
      { size: -1 },
      { kind: 'guid', value: 7 },
      '__proto__',
      true,
    ]
    const text = fs.readFileSync(record, 'utf8')
    const keys = Object.keys(JSON.parse(text.slice(9)) as object)
    for (const key of keys) {
      for (const value of strange) {
        fs.writeFileSync(
          record,
          rewritten(record, (fields) => ({ ...fields, [key]: value }), text),
        )
        await read('child').catch((error: unknown) => expect(error).toMatchObject({ name: 'VdiskError' }))
      }
    }
  })

  test('is stale once another image lies in the place of the one it was written for', async () => {
    const { at, write, read } = await scene('raw')
    await (await createDisk(at('other'), { format: 'raw', size: SIZE })).close()
    fs.writeFileSync(at('other'), patternFor(0, SIZE, 7))
    const over = { format: 'forgetful', parent: at('other'), parentFormat: 'raw' }
    await (await createDisk(at('stranger'), over)).close()
    await write('stranger', 0, 8)
    fs.copyFileSync(at('stranger'), at('child'))
    expect(await refusal(() => read('child'))).toMatchObject({ code: 'PARENT_MISSING' })
    expect((await inspectImage(at('child'))).linkRecord?.state).toBe('stale')
    // With its own record it is whole again.
    fs.copyFileSync(at('stranger.vdisk-link'), at('child.vdisk-link'))
    expectSameBytes(await read('child'), await read('stranger'), 'child')
  })

  test('holds with the line that fits, where several are in it', async () => {
    const { at, record, read, content } = await scene('raw')
    const before = fs.readFileSync(at('child'))
    fs.writeFileSync(at('other'), patternFor(0, SIZE, 7))
    await relink(at('child'), at('other'), { parentFormat: 'raw', acceptModified: true })
    expect((await inspectImage(at('child'))).parent?.references).toEqual(['other'])
    // As if the change of the image had never become durable.
    fs.writeFileSync(at('child'), before)
    expect((await inspectImage(at('child'))).parent?.references).toEqual(['base'])
    expectSameBytes(await read('child'), content, 'child')
    expect(fs.readFileSync(record, 'utf8').trimEnd().split('\n').length).toBe(3)
  })

  test('keeps the last states of the link, and does not grow for ever', async () => {
    const { at, record, read, content } = await scene('raw')
    for (let i = 0; i < 80; i++) await relink(at('child'), at('base'), { parentFormat: 'raw' })
    expect(fs.statSync(record).size).toBeLessThan(33_000)
    expectSameBytes(await read('child'), content, 'child')
  })

  test('goes on after a line that was cut short by a crash', async () => {
    const { at, record, read, content } = await scene('raw')
    fs.appendFileSync(record, '12345678 {"version":1,"lin')
    expectSameBytes(await read('child'), content, 'child')
    await relink(at('child'), at('base'), { parentFormat: 'raw' })
    expectSameBytes(await read('child'), content, 'child')
  })
})

describe('a change of the link that can be undone', () => {
  test('is undone in the record, too', async () => {
    const { at, record, read, content } = await scene('raw')
    const before = [fs.readFileSync(at('child')), fs.readFileSync(record)]
    fs.writeFileSync(at('other'), patternFor(0, SIZE, 7))
    await relink(at('child'), at('other'), { parentFormat: 'raw', acceptModified: true, undo: true })
    expect((await inspectImage(at('child'))).parent?.references).toEqual(['other'])
    await undoImage(at('child'))
    expect(
      [fs.readFileSync(at('child')), fs.readFileSync(record)].map((one, i) => one.equals(before[i] as Buffer)),
    ).toEqual([true, true])
    expectSameBytes(await read('child'), content, 'child')
  })

  test('may make the record', async () => {
    const { at, record, read, content } = await scene('raw')
    fs.rmSync(record)
    await relink(at('child'), at('base'), { parentFormat: 'raw', acceptModified: true, undo: true })
    expectSameBytes(await read('child'), content, 'child')
    expect(fs.readdirSync(at('.')).filter((name) => name.includes('partial'))).toEqual([])
  })
})

test('who shares layers is given another one when the record beside it is another', async () => {
  const { at, record } = await scene('raw')
  fs.copyFileSync(at('base'), at('copy'))
  const pool = new LayerPool()
  await using first = await openDisk(at('child'), { pool })
  await using same = await openDisk(at('child'), { pool })
  fs.writeFileSync(
    record,
    rewritten(record, (fields) => ({ ...fields, path: 'copy' })),
  )
  await using second = await openDisk(at('child'), { pool })
  const tops = [first, same, second].map(({ chain }) => chain.layers.at(-1))
  expect([tops[0] === tops[1], tops[0] === tops[2]]).toEqual([true, false])
  expect([first, second].map(({ chain }) => path.basename(chain.layers[0]?.name ?? ''))).toEqual(['base', 'copy'])
})

describe('what a time does not tell', () => {
  test('a parent that was written to, and whose time was set back', async () => {
    const { at, read } = await scene('raw')
    scribble(at('base'), 0, true)
    expect(await refusal(() => read('child'))).toMatchObject({ code: 'PARENT_MISMATCH' })
  })

  test('a parent that was only renamed there and back is the same', async () => {
    const { at, read, content } = await scene('raw')
    fs.renameSync(at('base'), at('away'))
    fs.renameSync(at('away'), at('base'))
    expectSameBytes(await read('child'), content, 'child')
    const [, child] = await inspectChain(at('child'))
    expect(child?.link).toMatchObject({ level: 'consistent', reason: undefined })
  })

  test('a copy of the parent is known by its content, and a copy of another state is not', async () => {
    const { at, read, content } = await scene('forgetful')
    fs.renameSync(at('base'), at('original'))
    fs.copyFileSync(at('original'), at('base'))
    expectSameBytes(await read('child'), content, 'child')
    const [, child] = await inspectChain(at('child'))
    expect(child?.link).toMatchObject({ level: 'consistent', reason: 'PARENT_COPIED' })
  })
})

/** The last line of a record, with other fields and the right checksum. */
function rewritten(
  record: string,
  change: (fields: object) => object,
  text: string = fs.readFileSync(record, 'utf8'),
): string {
  const line = text.trimEnd().split('\n').at(-1) as string
  const document = JSON.stringify(change(JSON.parse(line.slice(9)) as object))
  return `${checksum(document)} ${document}\n`
}

function checksum(document: string): string {
  return crc32c(Buffer.from(document)).toString(16).padStart(8, '0')
}
