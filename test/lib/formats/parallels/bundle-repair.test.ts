import { createHash } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import {
  checkImage,
  createDisk,
  createInternalSnapshot,
  finish,
  listSnapshots,
  openDisk,
  type RepairOptions,
  type RepairResult,
  repairImage,
  undoImage,
} from '../../../../lib/index.ts'
import { patternFor } from '../../../model/history.ts'
import { scratchFolder } from '../../../support/temp.ts'

const MIB = 1 << 20
const CLUSTER = 64 << 10
const SIZE = 4 * MIB
/** Bytes in an expanding image: its BAT, an entry of four bytes for each cluster. */
const BAT = 64

/** A bundle of three states, each with content of its own: 'base', 'side', which is built upon that too, and what is written. */
async function bundle(options: Readonly<Record<string, string>> = {}): Promise<Bundle> {
  const name = path.join(scratchFolder(), 'disk.hdd')
  const shape = { bundle: 'on', cluster_size: '64K', ...options }
  await (await createDisk(name, { format: 'parallels', size: SIZE, options: shape })).close()
  const made = new Bundle(name)
  await made.write(0, 3 * CLUSTER, 1)
  await createInternalSnapshot(name, 'base')
  await made.write(CLUSTER, CLUSTER, 2)
  return made
}

class Bundle {
  readonly name: string

  constructor(name: string) {
    this.name = name
  }

  get descriptor(): string {
    return fs.readFileSync(path.join(this.name, 'DiskDescriptor.xml'), 'utf8')
  }

  set descriptor(text: string) {
    fs.writeFileSync(path.join(this.name, 'DiskDescriptor.xml'), text)
  }

  /** Files of a state, in the order of its storages. */
  async filesOf(state: string): Promise<string[]> {
    const id = (await listSnapshots(this.name)).find(({ name }) => name === state)?.id ?? state
    const images = this.descriptor.split('<Image>').filter((image) => image.includes(id))
    return images.map((image) => path.join(this.name, /<File>(.*)<\/File>/.exec(image)?.[1] as string))
  }

  async write(offset: number, length: number, fill: number): Promise<void> {
    await using disk = await openDisk(this.name, { writable: true })
    await disk.write(offset, patternFor(offset, length, fill))
  }

  async digest(snapshot?: string): Promise<string> {
    await using disk = await openDisk(this.name, { snapshot })
    const bytes = Buffer.alloc(disk.size)
    await disk.read(0, bytes)
    return createHash('sha256').update(bytes).digest('hex')
  }

  async findings(): Promise<string[]> {
    return (await finish(checkImage(this.name))).findings.map(({ code }) => code)
  }

  async repair(options: RepairOptions = {}): Promise<RepairResult> {
    return await finish(repairImage(this.name, options))
  }
}

/** The state that is written, where the descriptor names none. */
const TOP = '5fbaabe3-6958-40ff-92a7-860e329aab41'

function setU32(file: string, at: number, value: number): void {
  const bytes = fs.readFileSync(file)
  bytes.writeUInt32LE(value, at)
  fs.writeFileSync(file, bytes)
}

describe('a repair of a bundle', () => {
  test('that is sound has nothing to do', async () => {
    const made = await bundle()
    const files = fs.readdirSync(made.name).map((file) => fs.readFileSync(path.join(made.name, file), 'latin1'))
    expect(await made.repair()).toMatchObject({ format: 'parallels', count: 0, doubtful: [] })
    expect(fs.readdirSync(made.name).map((file) => fs.readFileSync(path.join(made.name, file), 'latin1'))).toEqual(
      files,
    )
  })

  test('mends each of its files, and names every state that may read otherwise', async () => {
    const made = await bundle()
    const [base] = await made.filesOf('base')
    const [top] = await made.filesOf(TOP)
    // Two clusters of the snapshot in one place; one of the disk past the end.
    setU32(base as string, BAT + 8, fs.readFileSync(base as string).readUInt32LE(BAT))
    setU32(top as string, BAT + 20 * 4, 4000)
    expect(await made.findings()).toEqual(['CLUSTER_SHARED', 'ROOM_AT_END', 'CLUSTER_PAST_END'])
    const [{ id } = { id: '' }] = await listSnapshots(made.name)
    const { repaired, doubtful, left } = await made.repair()
    expect(repaired.map(({ code, structure }) => `${code} ${structure.replace(/disk\.hdd.*/, 'F')}`)).toEqual([
      'CLUSTER_SHARED BAT of F',
      'CLUSTER_SHARED BAT of F',
      'CLUSTER_PAST_END BAT of F',
    ])
    expect(doubtful).toEqual([
      { offset: 0, length: CLUSTER, snapshot: undefined },
      { offset: 2 * CLUSTER, length: CLUSTER, snapshot: undefined },
      { offset: 20 * CLUSTER, length: CLUSTER, snapshot: undefined },
      { offset: 0, length: CLUSTER, snapshot: id },
      { offset: 2 * CLUSTER, length: CLUSTER, snapshot: id },
    ])
    expect(left.counts).toEqual({ error: 0, leak: 0, warning: 0 })
    expect(await made.findings()).toEqual([])
    expect((await made.repair()).count).toBe(0)
    await made.write(0, 10, 9)
  })

  test('can be tried, and undone', async () => {
    const made = await bundle()
    const [top] = await made.filesOf(TOP)
    setU32(top as string, BAT + 20 * 4, 4000)
    const before = fs.readFileSync(top as string)
    expect((await made.repair({ dryRun: true })).left.counts.error).toBe(0)
    expect(fs.readFileSync(top as string).equals(before)).toBe(true)
    await made.repair({ undo: true })
    expect(fs.readFileSync(top as string).equals(before)).toBe(false)
    await undoImage(made.name)
    expect(fs.readFileSync(top as string).equals(before)).toBe(true)
  })

  test.each([
    ['expanding', {}],
    ['plain', { type: 'plain' }],
  ])('lengthens a file that holds less than its storage: %s', async (type, options) => {
    const made = await bundle(options)
    const [file] = (await made.filesOf('base')) as [string]
    const before = await made.digest()
    if (type === 'plain') fs.truncateSync(file, SIZE - CLUSTER)
    else setU32(file, 36, (SIZE - CLUSTER) / 512)
    await expect(made.digest()).rejects.toMatchObject({ code: 'CORRUPT', message: expect.stringContaining('holds') })
    expect(await made.findings()).toContain('IMAGE_SIZE')
    {
      await using disk = await openDisk(made.name, { salvage: true })
      await disk.read(SIZE - CLUSTER - 1, new Uint8Array(1))
      await expect(disk.read(SIZE - CLUSTER, new Uint8Array(1))).rejects.toMatchObject({ code: 'CORRUPT' })
    }
    const { repaired, doubtful } = await made.repair()
    expect(repaired.map(({ code }) => code)).toEqual(['IMAGE_SIZE'])
    expect(doubtful.map(({ offset, length }) => [offset, length])).toEqual([
      [SIZE - CLUSTER, CLUSTER],
      [SIZE - CLUSTER, CLUSTER],
    ])
    expect(await made.digest()).toBe(before)
    expect(await made.findings()).toEqual([])
  })

  test('takes a state out of the tree that cannot be read, and keeps its file: the disk can be written again', async () => {
    const made = await bundle()
    const before = await made.digest()
    const [top] = (await made.filesOf(TOP)) as [string]
    const lost = '11111111-2222-3333-4444-555555555555'
    const image = `<Image><GUID>{${lost}}</GUID><Type>Compressed</Type><File>lost.hds</File></Image>`
    const shot = `<Shot><GUID>{${lost}}</GUID><ParentGUID>{99999999-2222-3333-4444-555555555555}</ParentGUID></Shot>`
    const sound = made.descriptor
    made.descriptor = sound
      .replace('</Storage>', `    ${image}\n        </Storage>`)
      .replace('</Snapshots>', `    ${shot}\n    </Snapshots>`)
    fs.copyFileSync(top, path.join(made.name, 'lost.hds'))
    await expect(openDisk(made.name, { writable: true })).rejects.toMatchObject({ code: 'CORRUPT' })
    // What replaces a file cannot be undone: whoever wants to be able to is told before anything is changed.
    await expect(made.repair({ undo: true })).rejects.toMatchObject({ code: 'UNSUPPORTED' })
    expect((await made.repair({ scope: 'leaks' })).count).toBe(0)
    const { repaired, left } = await made.repair()
    expect(repaired).toMatchObject([{ code: 'STATE_BROKEN', message: expect.stringContaining('"lost.hds" stays') }])
    expect(left.findings.map(({ code }) => code)).toEqual(['FILE_UNNAMED'])
    expect(fs.existsSync(path.join(made.name, 'lost.hds'))).toBe(true)
    expect(made.descriptor).not.toContain(lost)
    expect((await made.repair()).count).toBe(0)
    expect(await made.digest()).toBe(before)
    await made.write(0, 10, 9)
  })

  test('leaves what it could only guess: a file that is missing, and a state that is written and broken', async () => {
    const made = await bundle()
    const [file] = (await made.filesOf('base')) as [string]
    fs.renameSync(file, `${file}.away`)
    expect((await made.repair()).left.findings.map(({ code }) => code)).toEqual(['NOT_FOUND'])
    fs.renameSync(`${file}.away`, file)
    expect(await made.findings()).toEqual([])
    const sound = made.descriptor
    made.descriptor = sound.replace(
      /(<ParentGUID>\{)(?!0{8}-)(.)/,
      (_, start, digit) => `${start}${digit === '0' ? 1 : 0}`,
    )
    const before = made.descriptor
    await expect(made.repair()).rejects.toMatchObject({ code: 'CORRUPT' })
    expect(made.descriptor).toBe(before)
  })
})

test('files that its descriptor does not name are told, and stay', async () => {
  const made = await bundle()
  const [top] = (await made.filesOf(TOP)) as [string]
  fs.copyFileSync(top, path.join(made.name, 'extra.hds'))
  fs.writeFileSync(path.join(made.name, 'notes.hds'), 'no image at all')
  expect(await made.findings()).toEqual(['FILE_UNNAMED'])
  expect((await made.repair()).count).toBe(0)
  expect(fs.existsSync(path.join(made.name, 'extra.hds'))).toBe(true)
})
