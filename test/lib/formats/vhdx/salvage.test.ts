import { describe, expect, test } from 'vitest'
import { Chain } from '../../../../lib/chain/chain.ts'
import type { Gate } from '../../../../lib/chain/gate.ts'
import { openChain } from '../../../../lib/chain/open.ts'
import type { VdiskError } from '../../../../lib/errors.ts'
import { vhdx } from '../../../../lib/formats/vhdx/driver.ts'
import { promised } from '../../../../lib/io/io.ts'
import { checkLayer } from '../../../contract/driver-contract.ts'
import { patternFor } from '../../../model/history.ts'
import { refusal } from '../../../support/refusal.ts'
import { contentOf } from '../../../support/stores.ts'
import { KIB, logEntry, MIB, VhdxFile } from '../../../support/vhdx-file.ts'
import { salvage, sectorsOf } from '../../../support/vhdx-repair.ts'

const SIZE = 4 * MIB
const GUID = '11111111-2222-4333-8444-555555555555'
const LOCATOR = 'a8d35f2d-b30b-454d-abf7-d3d84834ab0c'
const PARENT = {
  path: 'p.vhdx',
  absolutePath: '/p.vhdx',
  format: 'vhdx',
  identity: { kind: 'guid' as const, value: GUID, current: true },
  record: { size: SIZE, stamp: undefined, sample: undefined },
  replaces: undefined,
}

/** Code and structure of everything that salvage was told, one line each. */
const lines = (told: readonly VdiskError[]): string[] => told.map(({ code, where }) => `${code} ${where.structure}`)

async function written(): Promise<{ file: VhdxFile; content: Buffer }> {
  const file = await VhdxFile.make(SIZE)
  const content = Buffer.alloc(SIZE)
  content.set(patternFor(0, 2 * MIB, 3))
  const chain = new Chain([await file.write()])
  await promised(chain.write(0, content.subarray(0, 2 * MIB)))
  await promised(chain.close())
  return { file, content }
}

/** The change that maps block 0 waits in a log. */
async function waiting(): Promise<{ file: VhdxFile; content: Buffer }> {
  const { file, content } = await written()
  const end = file.store.size()
  const page = file.bytes(file.bat.at, 4096)
  file.setEntry(0, 0n)
  const updates = [{ at: file.bat.at, bytes: page }]
  const bytes = logEntry({ guid: GUID, sequence: 7, tail: 0, updates, flushed: end, last: end })
  file.setLog(GUID, [{ at: 0, bytes }])
  return { file, content }
}

async function salvaged(file: VhdxFile): Promise<{ content: Buffer; told: string[] }> {
  const before = contentOf(file.store)
  const { layer, told } = await salvage(file)
  const content = Buffer.concat((await sectorsOf(layer)) as Uint8Array[])
  // Whatever is left out, the rest can be checked.
  await checkLayer(vhdx, layer)
  expect(Buffer.compare(contentOf(file.store), before)).toBe(0)
  return { content, told: lines(told) }
}

/** What a normal open says, which must name the way. */
async function refused(file: VhdxFile): Promise<VdiskError> {
  const error = await refusal(() => file.read())
  expect(error.advice).toContain('--salvage')
  return error
}

describe('salvage reads on', () => {
  test('a sound file: nothing is left out', async () => {
    const { file, content } = await written()
    const found = await salvaged(file)
    expect(found.told).toEqual([])
    expect(found.content.equals(content)).toBe(true)
  })

  test('without the signature; only who asks for salvage is told of it so', async () => {
    const { file, content } = await written()
    file.put(0, Buffer.from('x'))
    const found = await salvaged(file)
    expect(found.told).toEqual(['NOT_THIS_FORMAT file type identifier'])
    expect(found.content.equals(content)).toBe(true)
    expect((await refusal(() => file.read())).advice).toBeUndefined()
  })

  test('without headers, and then the content is nobody’s', async () => {
    const { file, content } = await written()
    for (const k of [64, 128]) file.put(k * KIB, new Uint8Array(4096))
    expect(await refused(file)).toMatchObject({ code: 'CORRUPT', where: { structure: 'header' } })
    const found = await salvaged(file)
    expect(found.told).toEqual(['CORRUPT header'])
    expect(found.content.equals(content)).toBe(true)
    expect((await salvage(file)).layer.identity).toBeUndefined()
  })

  test('with two headers of one number that disagree about the log: it is not replayed', async () => {
    const { file, content } = await waiting()
    file.editHeaders((view) => view.setBigUint64(8, 70n, true))
    file.editHeaders((view) => view.setUint8(48, 77), [1])
    const found = await salvaged(file)
    expect(found.told).toEqual(['CORRUPT header'])
    expect(found.content.equals(Buffer.concat([Buffer.alloc(MIB), content.subarray(MIB)]))).toBe(true)
  })

  test('without a log that cannot be replayed: what the tables were before it', async () => {
    const { file, content } = await waiting()
    file.put(file.logAt + 5000, Buffer.from('x'))
    expect(await refused(file)).toMatchObject({ code: 'CORRUPT', where: { structure: 'log' } })
    const found = await salvaged(file)
    expect(found.told).toEqual(['CORRUPT log'])
    expect(found.content.equals(Buffer.concat([Buffer.alloc(MIB), content.subarray(MIB)]))).toBe(true)
  })

  test('without a log that is too large to be replayed', async () => {
    const { file } = await waiting()
    file.store.truncate(256 * MIB)
    file.editHeaders((view) => {
      view.setUint32(68, 65 * MIB, true)
      view.setBigUint64(72, BigInt(128 * MIB), true)
    })
    expect(await refused(file)).toMatchObject({ code: 'LIMIT_EXCEEDED', where: { structure: 'log' } })
    expect((await salvaged(file)).told).toEqual(['LIMIT_EXCEEDED log'])
  })

  test('without a log of a version that nobody knows', async () => {
    const { file } = await waiting()
    file.editHeaders((view) => view.setUint16(64, 3, true))
    expect(await refused(file)).toMatchObject({ code: 'UNSUPPORTED', where: { structure: 'header' } })
    expect((await salvaged(file)).told).toEqual(['UNSUPPORTED header'])
  })

  test.each<[string, (view: DataView, file: VhdxFile) => void]>([
    ['outside the file', (view) => view.setBigUint64(72, BigInt(64 * MIB), true)],
    ['at no whole MiB', (view) => view.setBigUint64(72, 4096n, true)],
    ['of no length', (view) => view.setUint32(68, 0, true)],
  ])('without a log %s', async (_, edit) => {
    const { file } = await waiting()
    file.editHeaders((view) => edit(view, file))
    expect(await refused(file)).toMatchObject({ code: 'CORRUPT', where: { structure: 'header' } })
    expect((await salvaged(file)).told).toEqual(['CORRUPT header'])
  })

  test('without a log in the place of the BAT, if nothing waits in it; else there is nothing to go by', async () => {
    const { file, content } = await written()
    file.editHeaders((view) => view.setBigUint64(72, BigInt(file.bat.at), true))
    expect(await refused(file)).toMatchObject({ code: 'CORRUPT', where: { structure: 'region table' } })
    const found = await salvaged(file)
    expect(found.told).toEqual(['CORRUPT region table'])
    expect(found.content.equals(content)).toBe(true)
    const other = (await waiting()).file
    other.editHeaders((view) => view.setBigUint64(72, BigInt(other.bat.at), true))
    other.put(other.bat.at, logEntry({ guid: GUID, sequence: 7, tail: 0, flushed: 0, last: 0 }))
    expect(await refusal(() => salvage(other))).toMatchObject({ code: 'CORRUPT', where: { structure: 'region table' } })
  })

  test('a file that was cut short: its log is replayed, and what was cut off fails instead of reading as zero', async () => {
    const { file, content } = await waiting()
    file.store.truncate(file.store.size() - 4096)
    expect(await refused(file)).toMatchObject({ code: 'CORRUPT', where: { structure: 'log' } })
    const { layer, told } = await salvage(file)
    expect(lines(told)).toEqual(['CORRUPT log'])
    const sectors = await sectorsOf(layer)
    expect(Buffer.concat(sectors.slice(0, 2048) as Uint8Array[]).equals(content.subarray(0, MIB))).toBe(true)
    expect(sectors.slice(2048, 4096).every((bytes) => bytes === undefined)).toBe(true)
    expect(sectors.slice(4096).every((bytes) => bytes?.every((byte) => byte === 0))).toBe(true)
    expect((await checkLayer(vhdx, layer)).findings.map(({ code }) => code)).toContain('LOG_PENDING')
  })

  test('without a parent that is named, it has one all the same: what it showed is missing, never zero', async () => {
    const file = await VhdxFile.make(SIZE, {}, PARENT)
    file.put(file.item(LOCATOR).at + 18, Buffer.from([0, 0]))
    const told: VdiskError[] = []
    const image = { ...file.folder.image('a'), leaveOut: (damage: VdiskError) => told.push(damage) }
    // No name is left that could be taken to the gate.
    const options = { access: 'read', verify: 'strict', drivers: [vhdx], gate: {} as Gate } as const
    const error = await refusal(() => promised(openChain(image, options)))
    expect(lines(told)).toEqual([])
    expect(error).toMatchObject({ code: 'PARENT_MISSING', where: { structure: 'parent reference' } })
  })

  test('never for writing: the same damage keeps a file from being changed', async () => {
    const { file } = await written()
    for (const k of [64, 128]) file.put(k * KIB, new Uint8Array(4096))
    const before = contentOf(file.store)
    expect(await refusal(() => file.write())).toMatchObject({ code: 'CORRUPT' })
    expect(Buffer.compare(contentOf(file.store), before)).toBe(0)
  })
})
