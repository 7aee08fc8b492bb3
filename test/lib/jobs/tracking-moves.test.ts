import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import {
  type ChangedExtent,
  changesSince,
  checkpoint,
  createDisk,
  createLayer,
  enableTracking,
  finish,
  mergeImage,
  openDisk,
  relink,
  trackingStatus,
  undoImage,
} from '../../../lib/index.ts'
import { refusal } from '../../support/refusal.ts'
import { scratchFolder } from '../../support/temp.ts'

const MiB = 1 << 20
const G = 65536
const SIZE = 64 * MiB

/** How a file must be opened; raw is never probed. */
const how = (file: string): { format?: string } => (file.endsWith('.raw') ? { format: 'raw' } : {})

async function made(format: string): Promise<{ file: string; first: string }> {
  const file = path.join(scratchFolder(), `disk.${format}`)
  await (await createDisk(file, { format, size: SIZE })).close()
  return { file, first: await enableTracking(file, how(file)) }
}

async function write(file: string, granule: number, length = 100): Promise<void> {
  await using disk = await openDisk(file, { writable: true, ...how(file) })
  await disk.write(granule * G, new Uint8Array(length).fill(granule + 1))
}

/** The disk goes on in a new file. */
async function layered(file: string, name: string): Promise<string> {
  const overlay = path.join(path.dirname(file), name)
  const format = file.endsWith('.raw') ? { format: 'qcow2', parentFormat: 'raw' } : {}
  return (await createLayer(file, overlay, format)).file
}

/** Granules that changed since a token; or why all count. */
async function changed(file: string, since: string): Promise<readonly number[] | string> {
  const granules: number[] = []
  const visit = ({ offset, length }: ChangedExtent): void => {
    for (let at = offset; at < offset + length; at += G) granules.push(at / G)
  }
  const { full } = await changesSince(file, since, { ...how(file), visit })
  return full ?? granules
}

const FORMATS = ['raw', 'qcow2', 'vhdx', 'vmdk', 'vhd', 'vdi']

describe.each(FORMATS)('the record of a disk of %s', (format) => {
  test('goes along to a new layer, and further', async () => {
    const { file, first } = await made(format)
    await write(file, 3)
    const second = await checkpoint(file, how(file))
    const one = await layered(file, 'one')
    expect(await changed(one, first)).toEqual([3])
    expect(await changed(one, second)).toEqual([])
    await write(one, 5)
    const third = await checkpoint(one)
    const two = await layered(one, 'two')
    await write(two, 7)
    expect(await changed(two, first)).toEqual([3, 5, 7])
    expect(await changed(two, second)).toEqual([5, 7])
    expect(await changed(two, third)).toEqual([7])
    expect((await trackingStatus(two)).problem).toBeUndefined()
  })

  test('leaves behind only where the disk goes on', async () => {
    const { file, first } = await made(format)
    const layer = await layered(file, 'layer')
    expect(await changed(file, first)).toBe(`the disk goes on in ${layer}`)
    await write(layer, 1)
    const second = await checkpoint(layer)
    await write(file, 2)
    // Since that token the layer has changed by nothing, but this file never had what was written to the layer.
    for (const token of [first, second]) expect(await changed(file, token)).toContain('began anew')
    const sidecar = fs.readdirSync(path.dirname(file)).filter((name) => name.includes('.partial'))
    expect(sidecar).toEqual([])
  })

  test('comes back with a merge: what was written over the layer is told, and nothing else (VMware KB 2136854)', async () => {
    const { file, first } = await made(format)
    await write(file, 3)
    const layer = await layered(file, 'layer')
    await write(layer, 5)
    const second = await checkpoint(layer)
    await write(layer, 6)
    await finish(mergeImage(layer, { parentFormat: how(file).format }))
    expect(await changed(file, first)).toEqual([3, 5, 6])
    expect(await changed(file, second)).toEqual([6])
    expect(await changed(layer, first)).toBe(`the disk goes on in ${file}`)
    await write(file, 9)
    expect(await changed(file, second)).toEqual([6, 9])
  })

  test('stays with a disk of which a layer below is merged', async () => {
    const { file, first } = await made(format)
    const layers = [file]
    for (const name of ['one', 'two', 'top']) {
      layers.push(await layered(layers.at(-1) as string, name))
      await write(layers.at(-1) as string, layers.length)
    }
    const [, one, two, top] = layers as [string, string, string, string]
    const second = await checkpoint(top)
    await finish(mergeImage(two, { delete: true }))
    expect(fs.readdirSync(path.dirname(file)).filter((name) => name.startsWith('two'))).toEqual([])
    expect(await changed(top, first)).toEqual([2, 3, 4])
    await write(top, 8)
    expect(await changed(top, second)).toEqual([8])
    await finish(mergeImage(top, { into: file, parentFormat: how(file).format }))
    expect(await changed(file, first)).toEqual([2, 3, 4, 8])
    expect(await changed(file, second)).toEqual([8])
    expect(await changed(one, first)).toContain('goes on')
  })
})

describe('a relink', () => {
  /** A tracked child of a format, and its parent in a folder of its own. */
  async function child(format: string, parentFormat: string) {
    const folder = scratchFolder()
    const [old, later] = ['old', 'new'].map((name) => path.join(folder, name)) as [string, string]
    fs.mkdirSync(old)
    fs.mkdirSync(later)
    const parent = path.join(old, `base.${parentFormat}`)
    await (await createDisk(parent, { format: parentFormat, size: SIZE })).close()
    await write(parent, 1)
    const file = path.join(folder, `disk.${format}`)
    const options = { allow: [old, later], parentFormat: how(parent).format }
    await (await createDisk(file, { format, parent, ...options })).close()
    const first = await enableTracking(file, options)
    const change = async (granule: number): Promise<void> => {
      await using disk = await openDisk(file, { writable: true, ...options })
      await disk.write(granule * G, new Uint8Array(100).fill(granule + 1))
    }
    const since = async (token: string): Promise<readonly number[] | string> => {
      const granules: number[] = []
      const { full } = await changesSince(file, token, { ...options, visit: ({ offset }) => granules.push(offset / G) })
      return full ?? granules
    }
    await change(3)
    const second = await checkpoint(file, options)
    await change(5)
    const moved = path.join(later, path.basename(parent))
    return { file, parent, moved, options, first, second, since, change }
  }

  test.each([
    ['qcow2', false],
    ['qcow2', true],
    ['vhdx', false],
    ['vhdx', true],
  ] as const)(
    'to where the parent has moved changes nothing: tokens stay exact (%s, to be undone: %s)',
    async (format, undo) => {
      const { file, parent, moved, options, first, second, since, change } = await child(format, format)
      fs.renameSync(parent, moved)
      await relink(file, moved, { ...options, undo })
      expect(await since(first)).toEqual([3, 5])
      expect(await since(second)).toEqual([5])
      await change(7)
      expect(await since(second)).toEqual([5, 7])
      expect((await trackingStatus(file, options)).problem).toBeUndefined()
    },
  )

  test('is undone, and tells that', async () => {
    const { file, parent, moved, options, second, since } = await child('qcow2', 'qcow2')
    fs.copyFileSync(parent, moved)
    const { mtime } = fs.statSync(parent)
    fs.utimesSync(moved, mtime, mtime)
    await relink(file, moved, { ...options, undo: true, acceptModified: true })
    await undoImage(file, options)
    expect(await since(second)).toMatch(/^"relink to .*base\.qcow2" was undone$/)
  })

  test('to a parent that is not known to be what it was tells all', async () => {
    const { file, parent, moved, options, second, since, change } = await child('qcow2', 'raw')
    fs.renameSync(parent, moved)
    await relink(file, moved, options)
    expect(await since(second)).toBe(`it is not known that its parent is what it was, since a relink to ${moved}`)
    await change(7)
    expect(await since(second)).toContain(`since a relink to ${moved}`)
  })

  test('to another parent tells all', async () => {
    const { file, parent, moved, options, second, since } = await child('qcow2', 'qcow2')
    fs.renameSync(parent, moved)
    await write(moved, 9)
    await relink(file, moved, { ...options, acceptModified: true })
    expect(await since(second)).toBe(`it was relinked to another parent than it had: ${moved}`)
  })

  test('of an image that another program wrote to before does not hide that', async () => {
    const { file, parent, moved, options, second, since } = await child('qcow2', 'qcow2')
    fs.renameSync(parent, moved)
    fs.utimesSync(file, 1, 1)
    await relink(file, moved, options)
    expect(await since(second)).toContain('another program wrote to the image')
  })

  test('that fails leaves tokens as good as they were', async () => {
    const { file, parent, moved, options, second, since } = await child('qcow2', 'qcow2')
    fs.copyFileSync(parent, moved)
    await write(moved, 9)
    expect((await refusal(() => relink(file, moved, options))).code).toBe('PARENT_MISMATCH')
    expect(await since(second)).toEqual([5])
  })
})
