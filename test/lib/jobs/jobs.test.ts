import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import {
  checkImage,
  compareDisks,
  convertDisk,
  createDisk,
  createInternalSnapshot,
  createLayer,
  deleteInternalSnapshot,
  finish,
  inspectChain,
  inspectImage,
  isVdiskError,
  listSnapshots,
  mapDisk,
  openDisk,
  resizeDisk,
  revertToSnapshot,
} from '../../../lib/index.ts'
import { patternFor } from '../../model/history.ts'
import { tempFolder } from '../../support/temp.ts'

const folder = tempFolder('jobs')
const at = (name: string): string => path.join(folder, name)
const MIB = 1 << 20

async function make(
  name: string,
  size: number,
  parent?: string,
  writes: readonly (readonly [number, number])[] = [],
): Promise<string> {
  await using disk = await createDisk(at(name), { format: 'qcow2', size, parent: parent && at(parent), replace: true })
  for (const [offset, length] of writes) await disk.write(offset, patternFor(offset, length, parent ? 101 : 1))
  return at(name)
}

async function contentOf(file: string, format?: string): Promise<Buffer> {
  await using disk = await openDisk(file, { format })
  const bytes = Buffer.alloc(disk.size)
  await disk.read(0, bytes)
  return bytes
}

async function codeOf(work: () => Promise<unknown>): Promise<string | undefined> {
  try {
    await work()
  } catch (error) {
    return isVdiskError(error) ? error.code : `untyped: ${String(error)}`
  }
  return undefined
}

describe('convert', () => {
  test('a chain becomes one raw file with the same content, and zeros stay holes', async () => {
    await make('c-base.qcow2', 8 * MIB, undefined, [
      [0, 100_000],
      [5 * MIB, MIB],
    ])
    const top = await make('c-top.qcow2', 8 * MIB, 'c-base.qcow2', [
      [50_000, 4096],
      [7 * MIB, 1000],
    ])
    {
      await using disk = await openDisk(top, { writable: true })
      await disk.erase(5 * MIB, MIB)
    }
    await using source = await openDisk(top)
    await finish(convertDisk(source.chain, at('c.raw'), { format: 'raw' }))
    expect((await contentOf(at('c.raw'), 'raw')).equals(await contentOf(top))).toBe(true)
    expect(fs.statSync(at('c.raw')).blocks * 512).toBeLessThan(MIB)
  })

  test.each(['zlib', 'zstd'])('compressed with %s it reads the same and takes less room', async (compress) => {
    const source = await make('p.qcow2', 6 * MIB)
    {
      await using disk = await openDisk(source, { writable: true })
      await disk.write(70_000, Buffer.alloc(3 * MIB, 'compressible '))
      await disk.write(5 * MIB + 123, patternFor(0, 999, 3))
    }
    const name = at(`p-${compress}.qcow2`)
    await using disk = await openDisk(source)
    await finish(convertDisk(disk.chain, name, { format: 'qcow2', compress }))
    expect((await contentOf(name)).equals(await contentOf(source))).toBe(true)
    expect(fs.statSync(name).size).toBeLessThan(MIB)
  })

  test('over a parent only what differs is stored, whichever file the parent is', async () => {
    await make('k-base.qcow2', 4 * MIB, undefined, [[0, 3 * MIB]])
    const top = await make('k-top.qcow2', 4 * MIB, 'k-base.qcow2', [[MIB, 65536]])
    fs.copyFileSync(at('k-base.qcow2'), at('k-copy.qcow2'))
    for (const parent of ['k-base.qcow2', 'k-copy.qcow2']) {
      await using disk = await openDisk(top)
      await finish(convertDisk(disk.chain, at('k-out.qcow2'), { format: 'qcow2', parent: at(parent), replace: true }))
      expect((await contentOf(at('k-out.qcow2'))).equals(await contentOf(top))).toBe(true)
      await using out = await openDisk(at('k-out.qcow2'))
      let own = 0
      for await (const extent of mapDisk(out.chain)) if (extent.depth === 1) own += extent.length
      expect(own).toBe(65536)
    }
  })

  test('it refuses to write over what it reads, or over what exists', async () => {
    const file = await make('r.qcow2', MIB)
    fs.writeFileSync(at('exists.raw'), 'precious')
    await using disk = await openDisk(file)
    expect(await codeOf(() => finish(convertDisk(disk.chain, file, { format: 'raw', replace: true })))).toBe('REFUSED')
    expect(await codeOf(() => finish(convertDisk(disk.chain, at('exists.raw'), { format: 'raw' })))).toBe('REFUSED')
    expect(fs.readFileSync(at('exists.raw'), 'utf8')).toBe('precious')
  })

  test('cancelled, it leaves no file behind', async () => {
    const file = await make('x.qcow2', 64 * MIB, undefined, [[0, 16 * MIB]])
    await using disk = await openDisk(file)
    const abort = new AbortController()
    abort.abort()
    const job = convertDisk(disk.chain, at('x.raw'), { format: 'raw', signal: abort.signal })
    expect(await codeOf(() => finish(job))).toBe('CANCELLED')
    expect(fs.readdirSync(folder).filter((name) => name.startsWith('x.raw'))).toEqual([])
  })
})

describe('compare', () => {
  test('finds the first byte that differs, and all ranges on request', async () => {
    const a = await make('a.qcow2', 4 * MIB, undefined, [[0, 2 * MIB]])
    fs.copyFileSync(a, at('b.qcow2'))
    {
      await using b = await openDisk(at('b.qcow2'), { writable: true })
      await b.write(123_456, Buffer.from([0xfe, 0xfe]))
      await b.write(3 * MIB, Buffer.from([1]))
    }
    await using x = await openDisk(a)
    await using y = await openDisk(at('b.qcow2'))
    expect(await finish(compareDisks(x.chain, y.chain))).toMatchObject({ equal: false, firstDifference: 123_456 })
    const ranges: unknown[] = []
    await finish(compareDisks(x.chain, y.chain, { all: true, onDifference: (range) => ranges.push(range) }))
    expect(ranges).toEqual([
      { offset: 122_880, length: 4096 },
      { offset: 3 * MIB, length: 4096 },
    ])
  })

  test('a longer disk is equal if the rest is zero', async () => {
    await using x = await openDisk(await make('s.qcow2', MIB, undefined, [[0, 5000]]))
    await using y = await openDisk(await make('l.qcow2', 3 * MIB, undefined, [[0, 5000]]))
    await using z = await openDisk(
      await make('m.qcow2', 3 * MIB, undefined, [
        [0, 5000],
        [2 * MIB, 1],
      ]),
    )
    expect((await finish(compareDisks(x.chain, y.chain))).equal).toBe(true)
    expect((await finish(compareDisks(z.chain, x.chain))).firstDifference).toBe(2 * MIB)
  })
})

describe('map', () => {
  test('covers the disk once, in order, with the layer that speaks', async () => {
    await make('map-base.qcow2', 4 * MIB, undefined, [[MIB, MIB]])
    const top = await make('map-top.qcow2', 4 * MIB, 'map-base.qcow2', [[MIB + 65536, 65536]])
    await using disk = await openDisk(top)
    const runs: [number, number, string, number | undefined][] = []
    for await (const { offset, length, kind, depth } of mapDisk(disk.chain)) runs.push([offset, length, kind, depth])
    expect(runs).toEqual([
      [0, MIB, 'zero', undefined],
      [MIB, 65536, 'data', 0],
      [MIB + 65536, 65536, 'data', 1],
      [MIB + 131072, MIB - 131072, 'data', 0],
      [2 * MIB, 2 * MIB, 'zero', undefined],
    ])
  })
})

describe('info', () => {
  test('of one file opens no other', async () => {
    await make('i-base.qcow2', MIB)
    const top = await make('i-top.qcow2', MIB, 'i-base.qcow2')
    fs.rmSync(at('i-base.qcow2'))
    const info = await inspectImage(top)
    expect(info).toMatchObject({
      format: 'qcow2',
      size: MIB,
      parent: { references: ['i-base.qcow2'], format: 'qcow2' },
    })
  })

  test('of a broken chain tells what is left of it, and where it breaks', async () => {
    for (const format of ['qcow2', 'vhdx']) {
      const name = (stem: string): string => at(`b-${stem}.${format}`)
      for (const [stem, parent] of [['base'], ['low', 'base'], ['mid', 'low'], ['top', 'mid']] as const) {
        await (await createDisk(name(stem), { format, size: MIB, parent: parent && name(parent) })).close()
      }
      fs.rmSync(name('base'))
      const layers = await inspectChain(name('top'))
      expect(layers.map(({ name, link, broken }) => [path.basename(name), link?.level, broken?.code])).toEqual([
        [`b-low.${format}`, undefined, 'PARENT_MISSING'],
        [`b-mid.${format}`, 'verified', undefined],
        [`b-top.${format}`, 'verified', undefined],
      ])
      expect(layers[0]?.broken?.message).toContain(`b-base.${format}`)
      expect(layers[0]?.broken?.advice).toContain('vdisk relink')
      const check = await finish(checkImage(name('top'), { chain: true }))
      expect(check.checked.map((file) => path.basename(file))).toEqual(
        ['top', 'mid', 'low'].map((stem) => `b-${stem}.${format}`),
      )
      expect(check.findings.map(({ code, layer }) => [code, path.basename(layer)])).toEqual([
        ['PARENT_MISSING', `b-low.${format}`],
      ])
      expect(await codeOf(() => openDisk(name('top')))).toBe('PARENT_MISSING')
    }
  })

  test('of a chain tells the verdict of every link', async () => {
    await make('v-base.qcow2', MIB, undefined, [[0, 512]])
    await make('v-mid.qcow2', MIB, 'v-base.qcow2')
    const top = await make('v-top.qcow2', MIB, 'v-mid.qcow2')
    const layers = await inspectChain(top)
    expect(layers.map(({ depth, link }) => [depth, link?.level])).toEqual([
      [0, undefined],
      [1, 'verified'],
      [2, 'verified'],
    ])
  })
})

describe('resize', () => {
  test('what is new reads as zero, even over a longer parent', async () => {
    await make('z-base.qcow2', 3 * MIB, undefined, [[0, 3 * MIB]])
    const top = await make('z-top.qcow2', MIB + 700, 'z-base.qcow2')
    const before = await contentOf(top)
    await resizeDisk(top, 4 * MIB)
    const after = await contentOf(top)
    expect(after.subarray(0, before.length).equals(before)).toBe(true)
    expect(after.subarray(before.length).every((byte) => byte === 0)).toBe(true)
  })

  test('smaller only when asked to, and never under its children', async () => {
    await make('y.qcow2', 2 * MIB)
    expect(await codeOf(() => resizeDisk(at('y.qcow2'), MIB))).toBe('REFUSED')
    expect(await resizeDisk(at('y.qcow2'), (size) => size - MIB, { shrink: true })).toEqual({
      before: 2 * MIB,
      after: MIB,
    })
    await make('y-child.qcow2', MIB, 'y.qcow2')
    expect(await codeOf(() => resizeDisk(at('y.qcow2'), 2 * MIB))).toBe('REFUSED')
  })
})

describe('snapshots', () => {
  test('inside the image: kept, gone back to, dropped', async () => {
    const file = await make('n.qcow2', 2 * MIB, undefined, [[0, MIB]])
    const first = await contentOf(file)
    const { id } = await createInternalSnapshot(file, 'first')
    {
      await using disk = await openDisk(file, { writable: true })
      await disk.write(1000, Buffer.alloc(200_000, 7))
    }
    expect(await listSnapshots(file)).toMatchObject([{ kind: 'internal', id, name: 'first', size: 2 * MIB }])
    expect(await revertToSnapshot(file, 'first')).toBe('internal')
    expect((await contentOf(file)).equals(first)).toBe(true)
    await deleteInternalSnapshot(file, id)
    expect(await listSnapshots(file)).toEqual([])
    expect((await contentOf(file)).equals(first)).toBe(true)
    expect(await codeOf(() => revertToSnapshot(file, 'first'))).toBe('NOT_FOUND')
  })

  test('by a layer: the image is frozen, the layer takes the writes and can be emptied', async () => {
    const file = await make('f.qcow2', 2 * MIB, undefined, [[0, MIB]])
    const frozen = await contentOf(file)
    await createLayer(file, at('f-2.qcow2'), {})
    {
      await using disk = await openDisk(at('f-2.qcow2'), { writable: true })
      await disk.write(5000, Buffer.alloc(100_000, 9))
    }
    expect((await contentOf(file)).equals(frozen)).toBe(true)
    expect(await codeOf(() => revertToSnapshot(file, 'anything'))).toBe('REFUSED')
    expect(await revertToSnapshot(at('f-2.qcow2'), 'f.qcow2')).toBe('layer')
    expect((await contentOf(at('f-2.qcow2'))).equals(frozen)).toBe(true)
  })
})
