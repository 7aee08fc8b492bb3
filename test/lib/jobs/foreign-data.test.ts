import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { createDisk, finish, inspectChain, mergeImage, openDisk, relink } from '../../../lib/index.ts'
import { changesSince, enableTracking } from '../../../lib/jobs/tracking.ts'
import { describeWithPeers, runPeer } from '../../support/peers.ts'
import { refusal } from '../../support/refusal.ts'
import { scratchFolder } from '../../support/temp.ts'

const MIB = 1 << 20
const SIZE = 8 * MIB

/** Images whose data lies as it is in another file, and the name of that file. */
const KINDS: readonly [string, string, Record<string, string>, (folder: string) => string][] = [
  ['qcow2 with a data file', 'base.qcow2', { data_file: 'base.data' }, () => 'base.data'],
  ['qcow2 with a raw data file', 'base.qcow2', { data_file: 'base.data', data_file_raw: 'on' }, () => 'base.data'],
  ['VMDK, flat', 'base.vmdk', { subformat: 'monolithicFlat' }, () => 'base-flat.vmdk'],
  ['VMDK, flat in pieces', 'base.vmdk', { subformat: 'twoGbMaxExtentFlat', extent_size: '4M' }, () => 'base-f001.vmdk'],
  [
    'Parallels, plain',
    'base.hdd',
    { bundle: 'on', type: 'plain' },
    (folder) =>
      path.join(
        'base.hdd',
        fs.readdirSync(path.join(folder, 'base.hdd')).find((name) => name.endsWith('.hds')) as string,
      ),
  ],
]

interface Made {
  readonly base: string
  /** the file that holds the data */
  readonly data: string
  readonly format: string
}

async function make(name: string, options: Record<string, string>, dataOf: (folder: string) => string): Promise<Made> {
  const folder = scratchFolder()
  const base = path.join(folder, name)
  const format = { '.qcow2': 'qcow2', '.vmdk': 'vmdk', '.hdd': 'parallels' }[path.extname(name)] as string
  {
    await using disk = await createDisk(base, { format, size: SIZE, options })
    await disk.write(0, new Uint8Array(SIZE).fill(1))
  }
  return { base, data: path.join(folder, dataOf(folder)), format }
}

async function childOf({ base }: Made, format: string): Promise<string> {
  const child = path.join(path.dirname(base), `child.${format}`)
  await (await createDisk(child, { format, parent: base })).close()
  return child
}

/** Writes to the data file behind the back of its image. */
function dd(file: string, offset: number): void {
  const words = [
    `of=${file}`,
    'if=/dev/urandom',
    'bs=512',
    'count=1',
    `seek=${offset / 512}`,
    'conv=notrunc',
    'status=none',
  ]
  execFileSync('dd', words)
}

const link = async (child: string): Promise<string | undefined> =>
  (await inspectChain(child)).find((layer) => layer.link)?.link?.level

describe.each(KINDS)('who writes to the data of another image alone: %s', (_, name, options, dataOf) => {
  const made = (): Promise<Made> => make(name, options, dataOf)

  test('is noticed by a child', async () => {
    const image = await made()
    const child = await childOf(image, name === 'base.qcow2' ? 'vhdx' : 'qcow2')
    await (await openDisk(child)).close()
    expect(['verified', 'consistent']).toContain(await link(child))
    dd(image.data, 3 * MIB)
    expect(await link(child)).toBe('mismatch')
    const error = await refusal(async () => (await openDisk(child)).close())
    expect([error.code, error.message.includes('written to after the child was made')]).toEqual([
      'PARENT_MISMATCH',
      true,
    ])
    expect((await refusal(() => finish(mergeImage(child)))).code).toBe('PARENT_MISMATCH')
    await relink(child, image.base, { acceptModified: true })
    await (await openDisk(child)).close()
    await finish(mergeImage(child))
  })

  test('is noticed by the record of changes: all counts as changed', async () => {
    const { base, data, format } = await made()
    const token = await enableTracking(base, { format })
    {
      await using disk = await openDisk(base, { writable: true, format })
      await disk.write(MIB, Uint8Array.of(2))
    }
    const extents: number[] = []
    const visit = ({ length }: { length: number }): unknown => extents.push(length)
    expect((await changesSince(base, token, { format, visit })).full).toBeUndefined()
    expect(extents).toEqual([65536])
    dd(data, 3 * MIB)
    expect((await changesSince(base, token, { format, visit: () => {} })).full).toBeDefined()
  })

  test('is not suspected where nobody has, and the image is read, or linked to', async () => {
    const image = await made()
    const child = await childOf(image, 'qcow2')
    await (await openDisk(image.base)).close()
    await childOf(image, 'vhdx')
    await (await openDisk(child)).close()
    expect(['verified', 'consistent']).toContain(await link(child))
  })
})

test('a parent whose link alone was changed is not suspected, for its data file tells', async () => {
  const image = await make('base.qcow2', { data_file: 'base.data' }, () => 'base.data')
  const folder = path.dirname(image.base)
  const [middle, top] = ['middle.qcow2', 'top.qcow2'].map((name) => path.join(folder, name)) as [string, string]
  const shape = { format: 'qcow2', parent: image.base, options: { data_file: 'middle.data' } }
  {
    await using disk = await createDisk(middle, shape)
    await disk.write(MIB, Uint8Array.of(3))
  }
  await (await createDisk(top, { format: 'qcow2', parent: middle })).close()
  fs.renameSync(image.base, path.join(folder, 'moved.qcow2'))
  await relink(middle, path.join(folder, 'moved.qcow2'))
  await (await openDisk(top)).close()
  expect((await inspectChain(top)).map((layer) => layer.link?.level)).not.toContain('mismatch')
  await finish(mergeImage(middle))
  await using disk = await openDisk(top)
  const found = new Uint8Array(1)
  await disk.read(MIB, found)
  expect(found[0]).toBe(3)
})

test('an image that is replaced leaves its data file, which may be a disk by itself', async () => {
  const { base, data } = await make('base.qcow2', { data_file: 'base-data.raw' }, () => 'base-data.raw')
  await (await createDisk(base, { format: 'qcow2', size: MIB, replace: true })).close()
  expect(fs.statSync(data).size).toBe(SIZE)
})

describeWithPeers(['qemu-io'], 'QEMU', () => {
  test('that writes through the image is noticed, and so is its data file', async () => {
    const image = await make('base.qcow2', { data_file: 'base.data' }, () => 'base.data')
    const child = await childOf(image, 'qcow2')
    const nodes = `driver=qcow2,file.driver=file,file.filename=${image.base},data-file.driver=file,data-file.filename=${image.data}`
    runPeer('qemu-io', ['--image-opts', nodes, '-c', 'write -P 9 1M 64k'])
    expect(await link(child)).toBe('mismatch')
    await relink(child, image.base, { acceptModified: true })
    expect(await link(child)).not.toBe('mismatch')
    runPeer('qemu-io', ['-f', 'raw', '-c', 'write -P 7 5M 512', image.data])
    expect(await link(child)).toBe('mismatch')
  })
})
