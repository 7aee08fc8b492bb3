import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import type { Image } from '../../../lib/contracts/image.ts'
import type { Layer } from '../../../lib/contracts/layer.ts'
import { raw } from '../../../lib/formats/raw/driver.ts'
import { type Disk, LayerPool } from '../../../lib/index.ts'
import { HostFile } from '../../../lib/io/host-file.ts'
import { breathe, type Io, promised } from '../../../lib/io/io.ts'
import { sys } from '../../../lib/io/sys.ts'
import { firstDifference } from '../../model/history.ts'
import { descriptorsOf, TELLS_DESCRIPTORS } from '../../support/descriptors.ts'
import { Family } from '../../support/family.ts'
import { refusal } from '../../support/refusal.ts'

const SIZE = (3 << 20) + 512
const FORMATS = ['raw', 'qcow2', 'vhdx'] as const
const counted = describe.skipIf(!TELLS_DESCRIPTORS)

async function twoChildrenOf(format: string): Promise<Family> {
  const family = new Family(SIZE)
  const child = format === 'raw' ? 'qcow2' : format
  await family.make(`base.${format}`, format)
  await family.make('a', child, `base.${format}`)
  await family.make('b', child, `base.${format}`)
  return family
}

counted('two children of one base', () => {
  describe.each(FORMATS)('%s', (format) => {
    test.each([
      ['the first', 'a', 'b'],
      ['the second', 'b', 'a'],
    ])('share it, and %s can go before the other', async (_which, leaves, stays) => {
      const family = await twoChildrenOf(format)
      const base = family.at(`base.${format}`)
      const pool = new LayerPool()
      const disks = { a: await family.open('a', { pool, writable: true }), b: await family.open('b', { pool }) }
      expect(disks.a.chain.layers[0]).toBe(disks.b.chain.layers[0])
      expect(descriptorsOf(base)).toBe(1)
      expect(pool.held().find((layer) => layer.name === base)?.users).toEqual([family.at('a'), family.at('b')])
      expect(disks.b.chain.links[1]?.level).toBe(format === 'raw' ? 'consistent' : 'verified')
      await family.expectSame(disks.a, 'a')
      await family.expectSame(disks.b, 'b')
      await disks[leaves as 'a' | 'b'].close()
      expect(descriptorsOf(base)).toBe(1)
      await family.expectSame(disks[stays as 'a' | 'b'], stays)
      await disks[stays as 'a' | 'b'].close()
      expect([descriptorsOf(base), pool.held()]).toEqual([0, []])
    })
  })

  test('open it once too when both come at the same moment', async () => {
    for (const format of FORMATS) {
      const family = await twoChildrenOf(format)
      const pool = new LayerPool()
      const [a, b] = await Promise.all(['a', 'b'].map((name) => family.open(name, { pool })))
      expect([a?.chain.layers[0] === b?.chain.layers[0], descriptorsOf(family.at(`base.${format}`))]).toEqual([true, 1])
      await Promise.all([a?.close(), b?.close()])
      expect([descriptorsOf(family.at(`base.${format}`)), pool.held()]).toEqual([0, []])
    }
  })

  test('keep others from writing to it, until the last has let it go', async () => {
    const family = await twoChildrenOf('qcow2')
    const pool = new LayerPool()
    const write = async (): Promise<void> => {
      await (await family.open('base.qcow2', { writable: true })).close()
    }
    const [a, b] = [await family.open('a', { pool }), await family.open('b', { pool })]
    if (sys()) expect((await refusal(write)).code).toBe('IN_USE')
    await a.close()
    if (sys()) expect((await refusal(write)).code).toBe('IN_USE')
    await b.close()
    await write()
  })

  test('that wait or lock in different ways do not share it', async () => {
    const family = await twoChildrenOf('qcow2')
    const pool = new LayerPool()
    const disks = [
      await family.open('a', { pool }),
      await family.open('b', { pool, waiting: 'block' }),
      await family.open('b', { pool, locking: false }),
    ]
    expect(new Set(disks.map((disk) => disk.chain.layers[0])).size).toBe(3)
    for (const disk of disks) await disk.close()
    expect(pool.held()).toEqual([])
  })
})

counted('a chain whose layers are shared', () => {
  test('ends its reads before it lets them go, and others go on', async () => {
    const family = await twoChildrenOf('raw')
    const pool = new LayerPool()
    const a = await family.open('a', { pool })
    const wholes = Array.from({ length: 8 }, () => new Uint8Array(SIZE))
    const reads = wholes.map((bytes) => a.read(0, bytes))
    const closing = a.close()
    const b = await family.open('b', { pool })
    await Promise.all([...reads, closing])
    for (const bytes of wholes) expect(firstDifference(bytes, family.model('a'))).toBeUndefined()
    await family.expectSame(b, 'b')
    const last = new Uint8Array(SIZE)
    await Promise.all([b.read(0, last), b.close()])
    expect(firstDifference(last, family.model('b'))).toBeUndefined()
    expect(descriptorsOf(family.at('base.raw'))).toBe(0)
  })

  test('ends the reads of its views, which end with it', async () => {
    const family = await twoChildrenOf('raw')
    const disk = await family.open('a', { pool: new LayerPool() })
    const view = disk.chain.viewAt(0)
    const bytes = new Uint8Array(SIZE)
    await Promise.all([promised(view.read(0, bytes)), disk.close()])
    expect(firstDifference(bytes, family.model('base.raw'))).toBeUndefined()
    const late: (() => Io<unknown>)[] = [() => view.read(0, new Uint8Array(1)), () => view.map(0, 1)]
    for (const work of late) expect((await refusal(() => promised(work()))).code).toBe('REFUSED')
  })

  test('keeps them when a view of it is closed', async () => {
    const family = await twoChildrenOf('qcow2')
    await using disk = await family.open('a', { pool: new LayerPool() })
    const view = disk.chain.viewAt(0)
    await promised(view.close())
    expect((await refusal(() => promised(view.read(0, new Uint8Array(1))))).code).toBe('REFUSED')
    await family.expectSame(disk, 'a')
  })

  test('and an image that is only read itself: one opening serves all', async () => {
    const family = await twoChildrenOf('qcow2')
    const pool = new LayerPool()
    const names = ['a', 'a', 'base.qcow2', 'b']
    const disks = await Promise.all(names.map((name) => family.open(name, { pool })))
    expect(['a', 'b', 'base.qcow2'].map((name) => descriptorsOf(family.at(name)))).toEqual([1, 1, 1])
    for (const [i, disk] of disks.entries()) {
      await family.expectSame(disk, names[i] as string)
      await disk.close()
    }
    expect(pool.held()).toEqual([])
  })
})

counted('a base that is another file by now', () => {
  test('is another layer, though it has the same name', async () => {
    const family = await twoChildrenOf('raw')
    const base = family.at('base.raw')
    const pool = new LayerPool()
    const a = await family.open('a', { pool })
    fs.copyFileSync(base, `${base}.copy`)
    fs.renameSync(`${base}.copy`, base)
    const b = await family.open('b', { pool })
    expect(b.chain.layers[0]).not.toBe(a.chain.layers[0])
    expect(b.chain.links[1]?.reason).toBe('PARENT_COPIED')
    expect([descriptorsOf(base), pool.held().length]).toEqual([1, 4])
    await a.close()
    await family.expectSame(b, 'b')
    await b.close()
    expect(pool.held()).toEqual([])
  })

  test('and one that was written to without asking is read anew, and judged as it is', async () => {
    const family = await twoChildrenOf('raw')
    const pool = new LayerPool()
    const a = await family.open('a', { pool })
    fs.utimesSync(family.at('base.raw'), 1_700_000_000, 1_700_000_000)
    expect((await refusal(() => family.open('b', { pool }))).code).toBe('PARENT_MISMATCH')
    const b = await family.open('b', { pool, verify: 'warn' })
    expect(b.chain.layers[0]).not.toBe(a.chain.layers[0])
    await a.close()
    await b.close()
    expect(pool.held()).toEqual([])
  })
})

counted('an opening that fails half way', () => {
  test('lets go what it took, and nothing else', async () => {
    const family = new Family(SIZE)
    await family.make('base.qcow2', 'qcow2')
    await family.make('middle.qcow2', 'qcow2', 'base.qcow2')
    await family.make('leaf.qcow2', 'qcow2', 'middle.qcow2')
    await family.make('other.qcow2', 'qcow2', 'base.qcow2')
    const pool = new LayerPool()
    const other = await family.open('other.qcow2', { pool })
    const before = pool.held()
    // All layers can be opened, and the last link is wrong.
    await using middle = await family.open('middle.qcow2', { writable: true })
    await middle.write(0, Uint8Array.of(1))
    await middle.close()
    for (const writable of [false, true]) {
      expect((await refusal(() => family.open('leaf.qcow2', { pool, writable }))).code).toBe('PARENT_MISMATCH')
      expect(pool.held()).toEqual(before)
    }
    // The top can be opened, what it is built upon cannot.
    fs.renameSync(family.at('middle.qcow2'), family.at('away'))
    for (const writable of [false, true]) {
      expect((await refusal(() => family.open('leaf.qcow2', { pool, writable }))).code).toBe('PARENT_MISSING')
      expect([pool.held(), descriptorsOf(family.at('leaf.qcow2'))]).toEqual([before, 0])
    }
    fs.writeFileSync(family.at('middle.qcow2'), 'QFI\u00fb no image', 'latin1')
    for (const writable of [false, true]) {
      await refusal(() => family.open('leaf.qcow2', { pool, writable }))
      expect([pool.held(), descriptorsOf(family.at('middle.qcow2'))]).toEqual([before, 0])
    }
    await family.expectSame(other, 'other.qcow2')
    await other.close()
    expect([pool.held(), descriptorsOf(family.at('base.qcow2'))]).toEqual([[], 0])
  })

  test('does not fail the one that waited for it', async () => {
    const family = new Family(SIZE)
    await family.make('base.raw', 'raw')
    const file = family.at('base.raw')
    const pool = new LayerPool()
    let openings = 0
    const take = async (user: string): Promise<Layer> => {
      const store = HostFile.open(file)
      const image: Image = { name: file, store, neighbour: () => unreachable() }
      try {
        return await promised(pool.take(image, 'raw', user, failFirst))
      } catch (error) {
        store.close()
        throw error
      }
    }
    function* failFirst(image: Image): Io<Layer> {
      const number = openings++
      yield* breathe()
      if (number === 0) throw new Error('the first one fails')
      return yield* raw.open(image, 'read')
    }
    const [first, second, third] = await Promise.allSettled([take('1'), take('2'), take('3')])
    expect(first).toMatchObject({ status: 'rejected', reason: { message: 'the first one fails' } })
    expect([second?.status, third?.status, openings]).toEqual(['fulfilled', 'fulfilled', 2])
    const [layer, same] = [second, third].map((one) => (one as PromiseFulfilledResult<Layer>).value) as [Layer, Layer]
    expect([layer === same, descriptorsOf(file)]).toEqual([true, 1])
    await promised(pool.release(layer, '2'))
    expect(descriptorsOf(file)).toBe(1)
    await promised(pool.release(layer, '3'))
    expect([descriptorsOf(file), pool.held()]).toEqual([0, []])
  })
})

describe('the rules about names', () => {
  test('are kept for each chain, whatever another one has open', async () => {
    const family = new Family(SIZE)
    const [inside, outside] = [family.at('inside'), family.at('outside')]
    for (const folder of [inside, outside]) fs.mkdirSync(folder)
    await family.make('inside/base.raw', 'raw')
    await family.make('inside/a.qcow2', 'qcow2', 'inside/base.raw')
    await family.make('outside/b.qcow2', 'qcow2', 'inside/base.raw', { allow: [inside] })
    const pool = new LayerPool()
    await using a = await family.open('inside/a.qcow2', { pool })
    expect((await refusal(() => family.open('outside/b.qcow2', { pool }))).code).toBe('REFUSED')
    await using b = await family.open('outside/b.qcow2', { pool, allow: [inside] })
    expect(b.chain.layers[0]).toBe(a.chain.layers[0])
  })

  test('are kept for the data file of a shared image too', async () => {
    const family = new Family(SIZE)
    const [inside, outside, data] = [family.at('inside'), family.at('outside'), family.at('data')]
    for (const folder of [inside, outside, data]) fs.mkdirSync(folder)
    const dataFile = path.join(data, 'base.data')
    await family.make('inside/base.qcow2', 'qcow2', undefined, { options: { data_file: dataFile }, allow: [data] })
    await family.make('inside/a.qcow2', 'qcow2', 'inside/base.qcow2', { allow: [data] })
    await family.make('outside/b.qcow2', 'qcow2', 'inside/base.qcow2', { allow: [data, inside] })
    const pool = new LayerPool()
    const a = await family.open('inside/a.qcow2', { pool, allow: [data] })
    expect((await refusal(() => family.open('outside/b.qcow2', { pool, allow: [inside] }))).code).toBe('REFUSED')
    const b = await family.open('outside/b.qcow2', { pool, allow: [inside, data] })
    expect(b.chain.layers[0]).toBe(a.chain.layers[0])
    await b.close()
    // Another data file in its place: the image is the same file, and yet another disk.
    fs.copyFileSync(dataFile, `${dataFile}.copy`)
    fs.renameSync(`${dataFile}.copy`, dataFile)
    const again = await family.open('outside/b.qcow2', { pool, allow: [inside, data] })
    expect(again.chain.layers[0]).not.toBe(a.chain.layers[0])
    await family.expectSame(again, 'outside/b.qcow2')
    await a.close()
    await family.expectSame(again, 'outside/b.qcow2')
    await again.close()
    expect(pool.held()).toEqual([])
  })
})

describe('a file that a disk of the process writes to', () => {
  const pooled = { pool: new LayerPool() }

  test.skipIf(!sys())('is nobody else\u2019s layer: locks of one process stand against each other', async () => {
    const family = await twoChildrenOf('qcow2')
    await using base = await family.open('base.qcow2', { writable: true })
    expect((await refusal(() => family.open('a'))).code).toBe('IN_USE')
    await base.close()
    await using _a = await family.open('a')
    expect((await refusal(() => family.open('base.qcow2', { writable: true }))).code).toBe('IN_USE')
  })

  test.each([true, false])('is refused by name (locking: %s)', async (locking) => {
    const family = await twoChildrenOf('qcow2')
    const base = family.at('base.qcow2')
    const open = (name: string, writable: boolean): Promise<Disk> => family.open(name, { ...pooled, locking, writable })
    const writer = await open('base.qcow2', true)
    expect(await refusal(() => open('a', true))).toMatchObject({
      code: 'IN_USE',
      message: `Cannot open ${base} for reading: this process writes to it, as the disk ${base}`,
    })
    for (const writable of [true, false])
      expect((await refusal(() => open('base.qcow2', writable))).code).toBe('IN_USE')
    await writer.close()
    const [a, b] = [await open('a', true), await open('b', false)]
    expect(await refusal(() => open('base.qcow2', true))).toMatchObject({
      code: 'IN_USE',
      message: `Cannot open ${base} for writing: this process reads it, as a layer of ${family.at('a')}, ${family.at('b')}`,
    })
    await a.close()
    await b.close()
    await (await open('base.qcow2', true)).close()
  })

  test('is free again when it could not be opened', async () => {
    const family = await twoChildrenOf('qcow2')
    fs.renameSync(family.at('base.qcow2'), family.at('away'))
    await refusal(() => family.open('a', { ...pooled, writable: true }))
    fs.renameSync(family.at('away'), family.at('base.qcow2'))
    await (await family.open('a', { ...pooled, writable: true })).close()
  })
})

function unreachable(): never {
  throw new Error('it names no other file')
}
