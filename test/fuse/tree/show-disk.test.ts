import { describe, expect, test } from 'vitest'
import { folderFor, showDisk } from '../../../fuse/tree/exhibit.ts'
import { type DiskFile, type Folder, type Node, Tree } from '../../../fuse/tree/tree.ts'
import type { InternalSnapshots, WritableLayer } from '../../../lib/contracts/layer.ts'
import { qcow2 } from '../../../lib/formats/qcow2/driver.ts'
import { raw } from '../../../lib/formats/raw/driver.ts'
import { Chain, type Device, promised, run, VdiskError } from '../../../lib/index.ts'
import { MemoryDevice } from '../../support/memory-device.ts'
import { MemoryFolder } from '../../support/memory-image.ts'
import { writeGpt } from '../../support/partition-tables.ts'

const MIB = 1 << 20
const IMAGE = '/srv/disk.qcow2'

async function makeLayer(name: string): Promise<WritableLayer> {
  const shape = { size: 4 * MIB, parent: undefined, options: new Map<string, string>() }
  return await promised((qcow2.create as NonNullable<typeof qcow2.create>)(new MemoryFolder().image(name), shape))
}

/** All names below a node, with a stroke behind folders. */
function namesIn(node: Node, prefix = ''): string[] {
  if (node.kind !== 'folder') return []
  return [...node.children].flatMap(([name, child]) =>
    child.kind === 'folder' ? [`${prefix}${name}/`, ...namesIn(child, `${prefix}${name}/`)] : [`${prefix}${name}`],
  )
}

/** A disk in memory, shown at the root of a tree that somebody watches. */
async function makeShown(options: { layers?: string[]; device?: Device } = {}) {
  const layers = await Promise.all((options.layers ?? ['/srv/disk.qcow2']).map(makeLayer))
  const held = { chain: new Chain(layers) }
  const tree = Tree.ofFolder()
  const events: string[] = []
  const exhibit = await promised(
    showDisk(tree, tree.root, { disk: held, image: IMAGE, mode: 'read-write', ...options }),
  )
  tree.onlooker = {
    nameChanged: async (folder, name) => void events.push(`${folder.name}/${name}`),
    resized: async (file) => void events.push(`resized ${file.name}`),
    changed: async (file) => void events.push(`changed ${file.name}`),
  }
  const find = (...names: string[]): DiskFile => {
    const node = names.reduce<Node | undefined>((at, name) => (at as Folder).children.get(name), tree.root)
    if (node?.kind !== 'file') throw new Error(`There is no file ${names.join('/')}`)
    return node
  }
  const edit = (layers.at(-1) as WritableLayer).snapshots?.edit as NonNullable<InternalSnapshots['edit']>
  return { tree, held, layers, exhibit, events, find, edit }
}

async function readOf(device: Device, offset = 0): Promise<number> {
  const byte = new Uint8Array(1)
  await promised(device.read(offset, byte))
  return byte[0] as number
}

const write = (device: Device, value: number): Promise<void> =>
  promised(device.write(0, new Uint8Array(4096).fill(value)))

describe('an exhibit', () => {
  test('shows what there is, from the beginning', async () => {
    const { tree } = await makeShown({ layers: ['/srv/base.qcow2', '/srv/disk.qcow2'] })
    expect(namesIn(tree.root)).toEqual([
      'disk.raw',
      'status.json',
      'layers/',
      'layers/0-base.qcow2.raw',
      'layers/1-disk.qcow2.raw',
    ])
  })

  test('tells of partitions that come and go when it looks again, and leaves alone those that stay', async () => {
    const device = new MemoryDevice(MIB)
    const { tree, exhibit, events, find } = await makeShown({ device })
    writeGpt(device.bytes, { entries: [{ name: 'one' }, { name: 'two', firstLba: 128, lastLba: 191 }] })
    await promised(exhibit.refresh())
    expect(namesIn((tree.root as Folder).children.get('partitions') as Folder)).toEqual(['1-one.raw', '2-two.raw'])
    expect(events).toEqual(['/partitions', 'partitions/1-one.raw', 'partitions/2-two.raw'])
    expect(find('disk.raw').direct).toBe(true)
    const one = find('partitions', '1-one.raw')
    expect([one.start, one.device.size, one.direct, one.content]).toEqual([32768, 32768, true, exhibit.file.content])

    events.length = 0
    writeGpt(device.bytes, { entries: [{ name: 'renamed' }, { name: 'two', firstLba: 256, lastLba: 511 }] })
    await promised(exhibit.refresh())
    // It is the same place, so whoever uses it goes on; the status has what it is called now.
    expect(find('partitions', '1-one.raw')).toBe(one)
    expect((await promised(exhibit.status())).partitions).toMatchObject([
      { label: 'renamed', shownAs: '1-one.raw' },
      {},
    ])
    expect(find('partitions', '2-two.raw').start).toBe(256 * 512)
    expect(events).toEqual(['partitions/2-two.raw', 'partitions/2-two.raw'])

    device.bytes.fill(0)
    await promised(exhibit.refresh())
    expect(namesIn(tree.root)).not.toContain('partitions/')
    expect(find('disk.raw').direct).toBe(false)
  })

  test('looks again when somebody who changed the disk closes it, and only then', async () => {
    const device = new MemoryDevice(MIB)
    const { exhibit, tree } = await makeShown({ device })
    const close = async (): Promise<void> => await run((exhibit.file.onClose as NonNullable<DiskFile['onClose']>)())
    device.calls.length = 0
    await close()
    expect(device.calls).toEqual([])
    writeGpt(device.bytes)
    exhibit.file.touch()
    await close()
    expect(namesIn(tree.root)).toContain('partitions/')
    device.calls.length = 0
    await close()
    expect(device.calls).toEqual([])
  })

  test('of a disk whose table is damaged, or cannot be read, says so and shows the rest', async () => {
    const device = new MemoryDevice(MIB)
    writeGpt(device.bytes, { entries: [{}, { firstLba: 100, lastLba: 99_999 }] })
    const damaged = await makeShown({ device })
    expect(namesIn(damaged.tree.root)).toContain('partitions/')
    const status = await promised(damaged.exhibit.status())
    expect(status.partitions).toMatchObject([{ number: 1 }, { number: 2, shownAs: undefined }])
    expect(status.partitions[1]?.damaged).toBeDefined()
    expect(status.notes).toContainEqual(expect.stringMatching(/^Partition 2 is not shown: /))

    const broken = new MemoryDevice(MIB)
    broken.before = () => {
      throw new VdiskError('IO', { message: 'Cannot read: the medium is gone' })
    }
    const { tree, exhibit } = await makeShown({ device: broken })
    expect(namesIn(tree.root)).toContain('disk.raw')
    expect((await promised(exhibit.status())).notes).toEqual([
      'The partition table cannot be read: Cannot read: the medium is gone',
    ])
  })

  test('shows each snapshot as it was, and nothing once it is deleted', async () => {
    const { held, exhibit, edit, find, tree } = await makeShown()
    await write(held.chain, 1)
    await promised(edit.create('first'))
    await write(held.chain, 2)
    await promised(edit.create('second'))
    await write(held.chain, 3)
    await promised(exhibit.refresh())
    const first = find('snapshots', '1-first.raw')
    const second = find('snapshots', '2-second.raw')
    expect([await readOf(first.device), await readOf(second.device), await readOf(held.chain)]).toEqual([1, 2, 3])
    await write(held.chain, 4)
    expect([await readOf(first.device), await readOf(second.device)]).toEqual([1, 2])
    await expect(async () => promised(first.device.write(0, new Uint8Array(1)))).rejects.toMatchObject({
      code: 'READ_ONLY',
    })
    await promised(edit.delete('1'))
    // Even before anybody has looked again: what it held may be another's.
    await expect(readOf(first.device)).rejects.toMatchObject({ code: 'NOT_FOUND' })
    await promised(exhibit.refresh())
    expect(namesIn(tree.root).filter((name) => name.startsWith('snapshots/'))).toEqual([
      'snapshots/',
      'snapshots/2-second.raw',
    ])
    expect(find('snapshots', '2-second.raw')).toBe(second)
  })

  test('shows through a snapshot what lies in the layers below', async () => {
    const { held, layers, exhibit, edit, find } = await makeShown({ layers: ['/srv/base.qcow2', '/srv/disk.qcow2'] })
    await promised(new Chain(layers.slice(0, 1)).write(MIB, new Uint8Array(4096).fill(9)))
    await promised(edit.create('early'))
    await promised(held.chain.write(MIB, new Uint8Array(4096).fill(1)))
    await promised(exhibit.refresh())
    const snapshot = find('snapshots', '1-early.raw')
    expect([await readOf(snapshot.device, MIB), await readOf(held.chain, MIB)]).toEqual([9, 1])
  })

  test('of a format without snapshots shows none', async () => {
    const chain = new Chain([await promised(raw.open(new MemoryFolder().image('/srv/disk.raw'), 'read'))])
    const tree = Tree.ofFolder()
    await promised(showDisk(tree, tree.root, { disk: { chain }, image: '/srv/disk.raw', mode: 'read-only' }))
    expect(namesIn(tree.root)).toEqual(['disk.raw', 'status.json', 'layers/', 'layers/0-disk.raw.raw'])
    await expect(promised(chain.viewOfSnapshot('1'))).rejects.toMatchObject({ code: 'NOT_FOUND' })
  })

  test('holds few tables of many snapshots at once', async () => {
    const { held, exhibit, edit, find } = await makeShown()
    for (let number = 1; number <= 20; number++) {
      await write(held.chain, number)
      await promised(edit.create(`state ${number}`))
    }
    await promised(exhibit.refresh())
    let opened = 0
    const { viewOfSnapshot } = held.chain
    held.chain.viewOfSnapshot = (id) => {
      opened++
      return viewOfSnapshot.call(held.chain, id)
    }
    for (let round = 0; round < 2; round++) {
      for (let number = 1; number <= 20; number++) {
        expect(await readOf(find('snapshots', `${number}-state ${number}.raw`).device)).toBe(number)
      }
    }
    expect(opened).toBe(40)
    for (let round = 0; round < 5; round++) await readOf(find('snapshots', '20-state 20.raw').device)
    expect(opened).toBe(40)
  })

  test('goes on with the layers that stay when others are exchanged', async () => {
    const { held, layers, exhibit, find, events, tree } = await makeShown()
    await write(held.chain, 1)
    const before = find('layers', '0-disk.qcow2.raw')
    const [base] = layers as [WritableLayer]
    held.chain = new Chain([base, await makeLayer('/srv/live.qcow2')])
    expect(await readOf(before.device)).toBe(1)
    events.length = 0
    await promised(exhibit.refresh())
    expect(find('layers', '0-disk.qcow2.raw')).toBe(before)
    expect(events).toEqual(['layers/1-live.qcow2.raw'])
    held.chain = new Chain([await makeLayer('/srv/other.qcow2')])
    await expect(readOf(before.device)).rejects.toMatchObject({ code: 'NOT_FOUND' })
    await promised(exhibit.refresh())
    expect(namesIn(tree.root).filter((name) => name.startsWith('layers/'))).toEqual([
      'layers/',
      'layers/0-other.qcow2.raw',
    ])
  })

  test('tells of a new size of the disk, and of the layer that is the disk', async () => {
    const { exhibit, events, held } = await makeShown({ layers: ['/srv/base.qcow2', '/srv/disk.qcow2'] })
    await promised(held.chain.resize(8 * MIB))
    await promised(exhibit.resized())
    expect(events).toEqual(['resized disk.raw', 'resized 1-disk.qcow2.raw'])
    expect((await promised(exhibit.status())).size).toBe(8 * MIB)
  })
})

test('several images have a folder each, with a number where two have the same name', () => {
  const tree = Tree.ofFolder()
  const names = ['/a/disk.qcow2', '/b/disk.qcow2', '/c/disk.qcow2', '/a/other.vhdx']
  expect(names.map((image) => folderFor(tree, image).name)).toEqual([
    'disk.qcow2',
    'disk-2.qcow2',
    'disk-3.qcow2',
    'other.vhdx',
  ])
})
