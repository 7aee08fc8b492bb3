import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { checkImage, createDisk, finish, openDisk, promised } from '../../../lib/index.ts'
import { refusal } from '../../support/refusal.ts'
import { scratchFolder, tempFolder } from '../../support/temp.ts'

/** Shapes of images that a user may ask for: those that cannot be, and those beside the usual one. */

const SIZE = 1 << 20
const folder = tempFolder('shapes')

async function refusedToMake(options: Record<string, string>, size = SIZE, parent = false): Promise<unknown> {
  const folder = scratchFolder()
  const at = (name: string): string => path.join(folder, name)
  if (parent) await (await createDisk(at('base'), { format: 'qcow2', size })).close()
  const shape = { format: 'qcow2', size, options, ...(parent ? { parent: at('base') } : {}) }
  const { code, message, where } = await refusal(() => createDisk(at('disk'), shape))
  expect(fs.readdirSync(folder).filter((name) => name !== 'base')).toEqual([])
  return { code, why: message.replace(/^[^:]*: /, ''), file: path.basename(where.file ?? '') }
}

describe('no image is made', () => {
  test.each<[Record<string, string>, string]>([
    [{ cluster_size: '300' }, 'cluster_size cannot be 300'],
    [{ cluster_size: '4M' }, 'cluster_size cannot be 4M'],
    [{ extended_l2: 'on', cluster_size: '8K' }, 'extended_l2 needs a cluster_size of at least 16K'],
    [{ compat: '0.10', lazy_refcounts: 'on' }, 'lazy_refcounts=on needs compat=1.1'],
    [{ compat: '0.10', data_file: 'data' }, 'data_file needs compat=1.1'],
    [{ data_file_raw: 'on' }, 'data_file_raw needs data_file'],
  ])('with %o', async (options, why) => {
    expect(await refusedToMake(options)).toEqual({ code: 'REFUSED', why, file: 'disk' })
  })

  test.each<[Record<string, string>, string]>([
    [{ preallocation: 'metadata' }, 'preallocated clusters would hide the parent'],
    [{ data_file: 'data', data_file_raw: 'on' }, 'a raw data file leaves no place for a parent'],
  ])('with %o over a parent', async (options, why) => {
    expect(await refusedToMake(options, SIZE, true)).toEqual({ code: 'REFUSED', why, file: 'disk' })
  })

  test('whose first table would be larger than tables may be', async () => {
    expect(await refusedToMake({ cluster_size: '512' }, 2 ** 40)).toEqual({
      code: 'REFUSED',
      why: 'clusters of 512 bytes are too small for a disk of 1099511627776',
      file: 'disk',
    })
  })
})

describe.each<[Record<string, string>]>([
  [{ preallocation: 'metadata' }],
  [{ preallocation: 'falloc' }],
  [{ preallocation: 'full' }],
  [{ preallocation: 'metadata', extended_l2: 'on' }],
  [{ data_file: 'data' }],
  [{ data_file: 'filled', preallocation: 'full' }],
  [{ data_file: 'plain', data_file_raw: 'on' }],
  [{ refcount_bits: '8', lazy_refcounts: 'on' }],
  [{ compat: '0.10' }],
])('an image made with %o', (options) => {
  const at = path.join(folder, Object.entries(options).flat().join('-'))

  test('reads as zero, keeps what is written, erased and resized, and is sound', async () => {
    const expected = Buffer.alloc(SIZE + 65536)
    {
      await using disk = await createDisk(at, { format: 'qcow2', size: SIZE, options })
      expect((await readAll(disk)).every((byte) => byte === 0)).toBe(true)
      const source = Buffer.alloc(200_000, 7)
      await disk.write(100_000, source)
      expected.set(source, 100_000)
      await disk.erase(131_072, 131_072)
      expected.fill(0, 131_072, 262_144)
      await promised(disk.chain.resize(SIZE + 65536))
      await disk.write(SIZE, Buffer.alloc(512, 9))
      expected.fill(9, SIZE, SIZE + 512)
    }
    expect((await finish(checkImage(at))).findings).toEqual([])
    await using again = await openDisk(at, { writable: true })
    expect(Buffer.compare(await readAll(again), expected)).toBe(0)
    // What is cut off does not come back.
    await promised(again.chain.resize(131_072))
    await promised(again.chain.resize(SIZE + 65536))
    expected.fill(0, 131_072)
    expect(Buffer.compare(await readAll(again), expected)).toBe(0)
    // And a size that cannot be changes nothing.
    for (const size of [1000, 2 ** 52 + 512]) {
      const error = await refusal(() => promised(again.chain.resize(size)))
      expect(['REFUSED', 'UNSUPPORTED']).toContain(error.code)
      expect(error.where.file).toBe(at)
    }
    expect(again.size).toBe(SIZE + 65536)
  })
})

async function readAll(disk: { size: number; read(offset: number, target: Uint8Array): Promise<unknown> }) {
  const found = Buffer.alloc(disk.size)
  await disk.read(0, found)
  return found
}

describe('a snapshot', () => {
  test.each(['', 'n'.repeat(256)])('is not made with the name "%s"', async (name) => {
    const at = path.join(scratchFolder(), 'disk.qcow2')
    await using disk = await createDisk(at, { format: 'qcow2', size: SIZE })
    const { edit, list } = topSnapshots(disk)
    const error = await refusal(() => promised(edit.create(name)))
    expect([error.code, error.message]).toEqual(['REFUSED', expect.stringContaining('a name has 1 to 255 bytes')])
    expect(list()).toEqual([])
  })

  test('of an image of version 2 does not know its size, so that stays', async () => {
    const at = path.join(scratchFolder(), 'disk.qcow2')
    await using disk = await createDisk(at, { format: 'qcow2', size: SIZE, options: { compat: '0.10' } })
    await promised(topSnapshots(disk).edit.create('one'))
    const error = await refusal(() => promised(disk.chain.resize(2 * SIZE)))
    expect([error.message, error.advice]).toEqual([
      expect.stringContaining('its snapshots do not know their size'),
      expect.stringContaining('compat=1.1'),
    ])
    expect(disk.size).toBe(SIZE)
  })
})

function topSnapshots({ chain }: Awaited<ReturnType<typeof openDisk>>) {
  const snapshots = chain.layers.at(-1)?.snapshots
  if (!snapshots?.edit) throw new Error('there should be snapshots')
  return { edit: snapshots.edit, list: () => snapshots.list() }
}

describe('a raw image', () => {
  test.each(['off', 'falloc', 'full'])('made with preallocation=%s has its size, and reads as zero', async (how) => {
    const at = path.join(scratchFolder(), 'disk.raw')
    await using disk = await createDisk(at, { format: 'raw', size: SIZE, options: { preallocation: how } })
    expect((await readAll(disk)).every((byte) => byte === 0)).toBe(true)
    const { size, blocks } = fs.statSync(at)
    expect([size, blocks * 512 >= SIZE]).toEqual([SIZE, how !== 'off'])
  })

  test('has no place for a parent', async () => {
    const folder = scratchFolder()
    const base = path.join(folder, 'base')
    await (await createDisk(base, { format: 'qcow2', size: SIZE })).close()
    const error = await refusal(() =>
      createDisk(path.join(folder, 'disk'), { format: 'raw', size: SIZE, parent: base }),
    )
    expect(error).toMatchObject({ code: 'REFUSED', advice: 'Choose qcow2 or vhdx for a child.' })
    expect(fs.readdirSync(folder)).toEqual(['base'])
  })
})
