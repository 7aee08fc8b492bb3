import { describe, expect, test } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import type { FormatDriver } from '../../../lib/contracts/driver.ts'
import type { InternalSnapshots, Layer, WritableLayer } from '../../../lib/contracts/layer.ts'
import { qcow2 } from '../../../lib/formats/qcow2/driver.ts'
import { vhdx } from '../../../lib/formats/vhdx/driver.ts'
import { promised } from '../../../lib/io/io.ts'
import { MemoryStore } from '../../../lib/io/memory.ts'
import { checkLayer, create } from '../../contract/driver-contract.ts'
import { CrashedFile } from '../../crash/crashed-file.ts'
import { patternFor } from '../../model/history.ts'
import { MemoryFolder } from '../../support/memory-image.ts'
import { Random } from '../../support/random.ts'
import { rawBase, rawParent } from '../../support/raw-base.ts'
import { contentOf, failingStore, type RecordingStore, watchedStore } from '../../support/stores.ts'

const KIB = 1024
const MIB = 1 << 20

interface Case {
  readonly name: string
  readonly driver: FormatDriver
  readonly options: Record<string, string>
  /** bytes of the disk, and of its parent */
  readonly size: number
  readonly below: number
}

const cases: Case[] = [
  { name: 'qcow2', driver: qcow2, options: { cluster_size: '4096' }, size: 256 * KIB, below: 256 * KIB },
  { name: 'qcow2 that was grown', driver: qcow2, options: { cluster_size: '512' }, size: 256 * KIB, below: 100 * KIB },
  {
    name: 'qcow2 over a longer disk',
    driver: qcow2,
    options: { cluster_size: '512' },
    size: 64 * KIB,
    below: 300 * KIB,
  },
  {
    name: 'qcow2 with subclusters',
    driver: qcow2,
    options: { cluster_size: '16k', extended_l2: 'on' },
    size: 256 * KIB,
    below: 200 * KIB,
  },
  { name: 'vhdx', driver: vhdx, options: { block_size: '1M' }, size: 8 * MIB, below: 8 * MIB },
  { name: 'vhdx that was grown', driver: vhdx, options: { block_size: '1M' }, size: 8 * MIB, below: 3 * MIB + 512 },
]

/** A child that holds something here and there, closed; and what its disk reads as. */
async function childOf(
  { driver, options, size, below }: Case,
  base: Layer,
): Promise<{ bytes: Uint8Array; content: Uint8Array }> {
  const folder = new MemoryFolder()
  const layer = await create(driver, folder, 'a', { name: '', size, options }, rawParent(below))
  const chain = new Chain([base, layer])
  for (const part of [0.1, 0.4, 0.45, 0.9]) {
    const at = Math.floor((part * size) / 512) * 512 + 100
    await promised(chain.write(at, patternFor(at, Math.floor(size / 20), 7)))
  }
  await promised(chain.erase(Math.floor(size / 2), Math.floor(size / 5)))
  const content = await contentBehind(chain)
  await promised(chain.close())
  return { bytes: contentOf(folder.image('a').store), content }
}

async function contentBehind(chain: Chain): Promise<Uint8Array> {
  const bytes = new Uint8Array(chain.size)
  await promised(chain.read(0, bytes))
  return bytes
}

async function openFor(driver: FormatDriver, store: MemoryStore | RecordingStore): Promise<WritableLayer> {
  const folder = new MemoryFolder()
  folder.files.set('a', store)
  return (await promised(driver.open(folder.image('a'), 'write'))) as WritableLayer
}

/** Empties a layer, as formats with parents can. */
async function clear(layer: WritableLayer, size: number): Promise<void> {
  await promised((layer.clear as NonNullable<WritableLayer['clear']>)(size))
}

async function errorsOf(driver: FormatDriver, layer: Layer): Promise<unknown[]> {
  return (await checkLayer(driver, layer)).findings.filter(({ severity }) => severity === 'error')
}

describe.each(cases)('clearing a layer: $name', (one) => {
  const { driver, below, size } = one

  test('shows the parent everywhere, keeps the link, changes the identity, gives the room back', async () => {
    const base = await rawBase(below)
    const { bytes } = await childOf(one, base)
    const store = new MemoryStore('a', { content: bytes })
    const layer = await openFor(driver, store)
    const { parent } = layer
    const next = layer.nextIdentity
    await clear(layer, below)
    expect(layer.size).toBe(below)
    expect(layer.identity).toEqual(next)
    expect(await promised(layer.map(0, below))).toMatchObject({ kind: 'parent' })
    const chain = new Chain([base, layer])
    expect(Buffer.compare(await contentBehind(chain), patternFor(0, below, 200))).toBe(0)
    await promised(chain.write(1000, patternFor(0, 3000, 3)))
    await promised(chain.close())
    const again = await openFor(driver, store)
    expect(again.parent).toEqual(parent)
    const wanted = patternFor(0, below, 200)
    wanted.set(patternFor(0, 3000, 3), 1000)
    expect(Buffer.compare(await contentBehind(new Chain([base, again])), wanted)).toBe(0)
    expect((await checkLayer(driver, again)).findings).toEqual([])
    expect(store.size()).toBeLessThanOrEqual(Math.max(bytes.length, 8 * MIB))
  })

  test('a crash at any moment leaves the old disk or the new one, and no damage', async () => {
    const base = await rawBase(below)
    const { bytes, content } = await childOf(one, base)
    const file = new CrashedFile(bytes)
    const layer = (await promised(driver.open(file.folder.image('a'), 'write'))) as WritableLayer
    await clear(layer, below)
    const durable = file.length
    await promised(layer.close())
    const found = new Set<string>()
    for (let end = 0; end <= file.length; end++) {
      for (let seed = 0; seed < 3; seed++) {
        const where = `crash at ${end}, seed ${seed}`
        const after = file.after(end, seed === 0 ? 'none' : new Random(end * 31 + seed))
        const crashed = await promised(driver.open(after.image('a'), 'write'))
        const state = crashed.size === below ? patternFor(0, below, 200) : content
        const disk = await contentBehind(new Chain([base, crashed]))
        const isNew = Buffer.compare(disk, patternFor(0, below, 200)) === 0
        expect(isNew || Buffer.compare(disk, content) === 0, where).toBe(true)
        if (end >= durable) expect(isNew, where).toBe(true)
        if (size !== below) expect(Buffer.compare(disk, state), where).toBe(0)
        found.add(isNew ? 'new' : 'old')
        await promised(crashed.close())
        expect(await errorsOf(driver, await promised(driver.open(after.image('a'), 'write'))), where).toEqual([])
      }
    }
    expect([...found].sort()).toEqual(['new', 'old'])
  })

  test('that fails leaves the old disk or the new one, and works when it is done again', async () => {
    const base = await rawBase(below)
    const { bytes } = await childOf(one, base)
    for (let index = 0, done = false; !done; index++) {
      const medium = new MemoryStore('a', { content: bytes })
      const failing = failingStore(medium, { index, code: 'NO_SPACE', kinds: ['write', 'truncate', 'flush'] })
      const layer = await openFor(driver, failing as unknown as MemoryStore)
      const where = `fault at ${index}`
      const chain = new Chain([base, layer])
      // Some room is on its way to being free.
      await promised(chain.erase(0, size / 2)).catch(() => {})
      await promised(chain.flush()).catch(() => {})
      const before = await contentBehind(chain)
      try {
        await clear(layer, below)
      } catch (error) {
        expect(error, where).toMatchObject({ code: 'NO_SPACE' })
        const disk = await contentBehind(chain)
        const known = [before, patternFor(0, below, 200)].some((state) => Buffer.compare(state, disk) === 0)
        expect(known, where).toBe(true)
        // What is written now lies in no room that is given up later.
        for (let at = 0; at + size / 8 < disk.length; at += size / 4) {
          const part = patternFor(at, Math.floor(size / 8), 8)
          disk.set(part, at)
          await promised(chain.write(at, part))
          await promised(chain.flush())
        }
        for (let n = 0; n < 3; n++) await promised(chain.flush())
        await promised(chain.write(0, disk.subarray(0, 512)))
        expect(Buffer.compare(await contentBehind(chain), disk), where).toBe(0)
        await clear(layer, below)
      }
      done = !failing.fired
      expect(Buffer.compare(await contentBehind(new Chain([base, layer])), patternFor(0, below, 200)), where).toBe(0)
      try {
        await promised(layer.close())
      } catch {
        await promised((await openFor(driver, medium)).close())
      }
      expect(await errorsOf(driver, await openFor(driver, medium)), where).toEqual([])
    }
  })
})

describe('clearing a qcow2 layer', () => {
  const one = cases[0] as Case

  test('keeps its internal snapshots', async () => {
    const base = await rawBase(one.below)
    const { bytes, content } = await childOf(one, base)
    const store = new MemoryStore('a', { content: bytes })
    const layer = await openFor(qcow2, store)
    await promised(
      ((layer.snapshots as InternalSnapshots).edit as NonNullable<InternalSnapshots['edit']>).create('kept'),
    )
    const chain = new Chain([base, layer])
    await promised(chain.write(0, patternFor(0, 50 * KIB, 9)))
    await clear(layer, one.below)
    await promised(chain.write(0, patternFor(0, 50 * KIB, 10)))
    await promised(chain.close())
    const again = await openFor(qcow2, store)
    expect((await checkLayer(qcow2, again)).findings).toEqual([])
    const kept = await promised((again.snapshots as InternalSnapshots).open('kept'))
    expect(Buffer.compare(await contentBehind(new Chain([base, kept])), content)).toBe(0)
  })

  test('refuses where an entry cannot be right, and changes nothing', async () => {
    const base = await rawBase(one.below)
    const { bytes } = await childOf(one, base)
    const view = new DataView(bytes.buffer)
    const l2At = Number(view.getBigUint64(Number(view.getBigUint64(40))) & 0xfffffffffffe00n)
    // An entry of the disk's last clusters that leads into the header.
    view.setBigUint64(l2At + 60 * 8, (1n << 63n) | 512n)
    const store = new MemoryStore('a', { content: bytes.slice() })
    const layer = await openFor(qcow2, store)
    await expect(clear(layer, one.below)).rejects.toMatchObject({ code: 'CORRUPT' })
    const head = contentOf(store).subarray(24, 72)
    expect(Buffer.compare(head, bytes.subarray(24, 72))).toBe(0)
  })

  test('over a parent that does not end at a sector has the size that a new child has', async () => {
    const base = await rawBase(1000)
    const layer = await create(qcow2, new MemoryFolder(), 'a', { name: '', size: 64 * KIB }, rawParent(1000))
    await clear(layer, 1000)
    expect(layer.size).toBe(1024)
    const wanted = new Uint8Array(1024)
    wanted.set(patternFor(0, 1000, 200))
    expect(Buffer.compare(await contentBehind(new Chain([base, layer])), wanted)).toBe(0)
  })

  test('with a data file leaves the data alone until the image has switched', async () => {
    const base = await rawBase(one.below)
    const folder = new MemoryFolder()
    const options = { cluster_size: '4096', data_file: 'data' }
    const made = await create(qcow2, folder, 'a', { name: '', size: one.size, options }, rawParent(one.below))
    const chain = new Chain([base, made])
    await promised(chain.write(5000, patternFor(0, 60 * KIB, 4)))
    await promised(chain.close())
    const bytes = contentOf(folder.image('a').store)
    const file = new CrashedFile(bytes)
    folder.files.set('a', file.folder.store('a'))
    let touched: number | undefined
    const data = folder.files.get('data') as MemoryStore
    const watched = watchedStore(data, ({ kind }) => {
      if (kind !== 'read' && kind !== 'flush') touched ??= file.length
    })
    folder.files.set('data', watched)
    const layer = (await promised(qcow2.open(folder.image('a'), 'write'))) as WritableLayer
    await clear(layer, one.below)
    await promised(layer.close())
    expect(touched).toBeGreaterThan(0)
    const seen = new MemoryFolder()
    seen.files.set('a', file.after(touched as number, 'none').store('a'))
    seen.files.set('data', data)
    const crashed = await promised(qcow2.open(seen.image('a'), 'read'))
    expect(Buffer.compare(await contentBehind(new Chain([base, crashed])), patternFor(0, one.below, 200))).toBe(0)
    expect(data.occupied?.() ?? 0).toBeLessThan(4096)
    expect((await checkLayer(qcow2, await promised(qcow2.open(folder.image('a'), 'read')))).findings).toEqual([])
  })
})

describe('clearing a vhdx layer', () => {
  test('makes the file short again, with the table at its front', async () => {
    const one = cases[4] as Case
    const base = await rawBase(one.below)
    const { bytes } = await childOf({ ...one, size: 64 * MIB, below: one.below }, base)
    const store = new MemoryStore('a', { content: bytes })
    const layer = await openFor(vhdx, store)
    await clear(layer, one.below)
    await promised(layer.close())
    expect(store.size()).toBeLessThanOrEqual(5 * MIB)
  })

  test('a place where sector bitmaps lay can take a table', async () => {
    const one = cases[4] as Case
    const base = await rawBase(one.below)
    const store = new MemoryStore('a')
    const folder = new MemoryFolder()
    folder.files.set('a', store)
    const chain = new Chain([base, await create(vhdx, folder, 'a', { ...one }, rawParent(one.below))])
    const layer = chain.layers.at(-1) as WritableLayer
    await promised(chain.write(700, patternFor(0, 5000, 1)))
    await promised(chain.flush())
    await clear(layer, one.below)
    for (let n = 0; n < 3; n++) await promised(chain.flush())
    // More than the table has entries for: it moves to the room that is free.
    await promised(chain.resize(300_000 * MIB))
    const found = new Uint8Array(one.below)
    await promised(chain.read(0, found))
    expect(Buffer.compare(found, patternFor(0, one.below, 200))).toBe(0)
    await promised(chain.close())
    expect(await errorsOf(vhdx, await openFor(vhdx, store))).toEqual([])
  })
})
