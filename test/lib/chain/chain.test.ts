import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import type { FormatDriver } from '../../../lib/contracts/driver.ts'
import type { Layer } from '../../../lib/contracts/layer.ts'
import { qcow2 } from '../../../lib/formats/qcow2/driver.ts'
import { raw } from '../../../lib/formats/raw/driver.ts'
import { vhdx } from '../../../lib/formats/vhdx/driver.ts'
import { createDisk, openDisk } from '../../../lib/index.ts'
import { just, promised } from '../../../lib/io/io.ts'
import { MemoryStore } from '../../../lib/io/memory.ts'
import type { ByteStore } from '../../../lib/io/store.ts'
import { type DeviceCase, deviceContract } from '../../contract/device-contract.ts'
import { create } from '../../contract/driver-contract.ts'
import { patternFor } from '../../model/history.ts'
import { MemoryDevice } from '../../support/memory-device.ts'
import { MemoryFolder } from '../../support/memory-image.ts'
import { delayedStore } from '../../support/stores.ts'
import { tempFolder } from '../../support/temp.ts'

const SIZE = (5 << 20) + 1536
const folder = tempFolder('chain')
let number = 0

/** Layers in memory, each with something of its own; the base is a little shorter than the rest. */
async function layersOf(
  drivers: readonly FormatDriver[],
  options: Record<string, string>,
  wrap?: (store: ByteStore) => ByteStore,
): Promise<{ layers: Layer[]; content: Uint8Array }> {
  const files = new MemoryFolder(wrap)
  const layers: Layer[] = []
  const content = new Uint8Array(SIZE)
  for (const [depth, driver] of drivers.entries()) {
    const size = depth === 0 && drivers.length > 1 ? SIZE - 512 * 300 : SIZE
    const below = layers.at(-1)
    const parent = below && {
      path: below.name,
      absolutePath: `/${below.name}`,
      format: below.format,
      identity: below.identity,
      record: { size: below.size, stamp: undefined, sample: undefined },
      details: below.details,
      replaces: undefined,
    }
    const variant = { name: '', size, options: driver.name === 'raw' ? {} : options }
    const layer = await create(driver, files, `layer-${depth}`, variant, parent)
    layers.push(layer)
    const chain = new Chain(layers)
    const source = patternFor(depth, 1_200_000, 30 + depth)
    await promised(chain.write(depth * 900_001, source))
    content.set(source, depth * 900_001)
    await promised(chain.flush())
  }
  return { layers, content }
}

async function inMemory(
  drivers: readonly FormatDriver[],
  options: Record<string, string>,
  wrap?: (store: ByteStore) => ByteStore,
): Promise<DeviceCase> {
  const { layers, content } = await layersOf(drivers, options, wrap)
  const device = new Chain(layers)
  return { device, readOnly: new Chain(layers, { readOnly: true }), content, end: () => promised(device.close()) }
}

/** Files, where the kernel does some of the work. */
async function onDisk(format: string, options: Record<string, string>): Promise<DeviceCase> {
  const at = path.join(folder, String(number++))
  const content = new Uint8Array(SIZE)
  const shape = { format, options }
  const base = await createDisk(`${at}-base`, { ...shape, size: SIZE })
  content.set(patternFor(0, 2_000_000, 8), 100)
  await base.write(100, content.subarray(100, 2_000_100))
  await base.close()
  const isChild = format !== 'raw'
  const name = isChild ? `${at}-child` : `${at}-base`
  const disk = isChild
    ? await createDisk(name, { ...shape, parent: `${at}-base` })
    : await openDisk(name, { writable: true, format })
  const readOnly = await openDisk(`${at}-base`, { format, locking: false })
  return {
    device: disk.chain,
    readOnly: readOnly.chain,
    content,
    end: async () => {
      await disk.close()
      await readOnly.close()
    },
  }
}

const SMALL = { cluster_size: '4K' }
const BLOCKS = { block_size: '1M' }

deviceContract('a raw image', () => inMemory([raw], {}))
deviceContract('a qcow2 image', () => inMemory([qcow2], {}))
deviceContract('a qcow2 image with extended L2 entries', () => inMemory([qcow2], { extended_l2: 'on' }))
deviceContract('a VHDX image', () => inMemory([vhdx], BLOCKS))
deviceContract('a chain of qcow2 over raw', () => inMemory([raw, qcow2, qcow2], SMALL))
deviceContract('a chain of VHDX', () => inMemory([vhdx, vhdx, vhdx], BLOCKS))
deviceContract('a chain of slow stores', () => inMemory([raw, qcow2, qcow2], SMALL, (store) => delayedStore(store, 11)))
deviceContract('a chain of slow VHDX stores', () => inMemory([vhdx, vhdx], BLOCKS, (store) => delayedStore(store, 12)))
deviceContract('a raw file', () => onDisk('raw', {}))
deviceContract('a chain of qcow2 files', () => onDisk('qcow2', {}))
deviceContract('a chain of VHDX files', () => onDisk('vhdx', BLOCKS))

// What tests of doors put in place of a chain must behave like one.
deviceContract(
  'the disk in memory of the tests',
  async () => {
    const device = new MemoryDevice(SIZE)
    device.bytes.set(patternFor(0, 1_000_000, 4), 70_000)
    return { device, readOnly: new MemoryDevice(SIZE, { writable: false }), content: device.bytes.slice() }
  },
  { stores: false },
)

describe('a view of the layers below', () => {
  test('is the disk as it was, cannot be written, and closes nothing', async () => {
    const { layers } = await layersOf([raw, qcow2, qcow2], SMALL)
    const chain = new Chain(layers)
    const view = chain.viewAt(1)
    expect([view.size, view.writable, view.name]).toEqual([SIZE, false, 'layer-1'])
    const before = new Uint8Array(SIZE)
    await promised(view.read(0, before))
    await promised(chain.write(0, patternFor(0, 3_000_000, 99)))
    const after = new Uint8Array(SIZE)
    await promised(view.read(0, after))
    expect(Buffer.compare(after, before)).toBe(0)
    expect(chain.viewAt(0).size).toBe(SIZE - 512 * 300)
    await promised(chain.close())
  })
})

describe('a chain', () => {
  test('that waits while the disk becomes smaller refuses what is outside then', async () => {
    const { layers } = await layersOf([qcow2], SMALL, (store) => delayedStore(store, 5))
    const chain = new Chain(layers)
    const source = new MemoryStore('other', { content: new Uint8Array(4096).fill(1) })
    // All wait for the first; when their turn comes, the disk has changed.
    const changes = [
      chain.write(4 << 20, new Uint8Array(4096).fill(2)),
      chain.resize(1 << 20),
      chain.write(4 << 20, new Uint8Array(4096).fill(1)),
      chain.erase(4 << 20, 4096),
      chain.transfer(4 << 20, source, 0, 4096),
    ].map((io) => promised<unknown>(io))
    const outcomes = await Promise.allSettled(changes)
    const ended = outcomes.map((one) => (one.status === 'rejected' ? one.reason : 'done'))
    const refused = expect.objectContaining({ code: 'OUT_OF_RANGE', where: { file: 'layer-0', offset: 4 << 20 } })
    expect(ended).toEqual(['done', 'done', refused, refused, refused])
    expect(chain.size).toBe(1 << 20)
    await promised(chain.close())
  })

  test('has at least one layer', () => {
    expect(() => new Chain([])).toThrow(TypeError)
  })

  test('has the size it had after a resize that cannot be', async () => {
    const { layers } = await layersOf([qcow2], SMALL)
    const chain = new Chain(layers)
    for (const size of [-1, 0.5, 2 ** 53]) {
      await expect(promised(chain.resize(size))).rejects.toMatchObject({
        code: 'OUT_OF_RANGE',
        where: { file: 'layer-0' },
      })
    }
    expect(chain.size).toBe(SIZE)
    await promised(chain.close())
  })

  test('finds no snapshot where its format has none', async () => {
    const { layers } = await layersOf([raw], {})
    const chain = new Chain(layers)
    await expect(promised(chain.viewOfSnapshot('1'))).rejects.toMatchObject({
      code: 'NOT_FOUND',
      where: { file: 'layer-0' },
    })
    await promised(chain.close())
  })

  test('closes all of its layers, though one of them fails, and tells of the failure', async () => {
    const { layers } = await layersOf([raw, qcow2, qcow2], SMALL)
    const closed: number[] = []
    const failing = layers.map((layer, depth) =>
      Object.assign(Object.create(layer), {
        close() {
          closed.push(depth)
          if (depth === 1) throw new Error('it does not close')
          return just(undefined)
        },
      }),
    )
    await expect(promised(new Chain(failing).close())).rejects.toThrow('it does not close')
    expect(closed).toEqual([2, 1, 0])
  })
})

describe('a disk', () => {
  test('is closed once, however often it is asked to', async () => {
    for (const format of ['raw', 'qcow2', 'vhdx']) {
      const disk = await createDisk(path.join(folder, `closed.${format}`), { format, size: 1 << 20 })
      await disk.write(0, Uint8Array.of(1))
      await disk.close()
      await disk.close()
      await disk[Symbol.asyncDispose]()
    }
  })

  test('takes no position that is not a whole number below 2^53', async () => {
    await using disk = await createDisk(path.join(folder, 'positions.qcow2'), { format: 'qcow2', size: 1 << 20 })
    for (const position of [-1, 0.5, Number.NaN, 2 ** 53, 2n ** 60n]) {
      await expect(disk.read(position, new Uint8Array(1))).rejects.toMatchObject({ code: 'OUT_OF_RANGE' })
      await expect(disk.write(position, new Uint8Array(1))).rejects.toMatchObject({ code: 'OUT_OF_RANGE' })
      await expect(disk.erase(0, position)).rejects.toMatchObject({ code: 'OUT_OF_RANGE' })
    }
    await disk.write(4096n, Uint8Array.of(7))
    const found = new Uint8Array(1)
    await disk.read(4096, found)
    expect(found[0]).toBe(7)
  })
})
