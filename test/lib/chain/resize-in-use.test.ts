import { describe, expect, test } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import type { FormatDriver } from '../../../lib/contracts/driver.ts'
import type { Layer } from '../../../lib/contracts/layer.ts'
import { isVdiskError } from '../../../lib/errors.ts'
import { qcow2 } from '../../../lib/formats/qcow2/driver.ts'
import { raw } from '../../../lib/formats/raw/driver.ts'
import { vdi } from '../../../lib/formats/vdi/driver.ts'
import { vhdx } from '../../../lib/formats/vhdx/driver.ts'
import { breathe, promised, settle } from '../../../lib/io/io.ts'
import type { ByteStore } from '../../../lib/io/store.ts'
import { create } from '../../contract/driver-contract.ts'
import { patternFor } from '../../model/history.ts'
import { MemoryFolder } from '../../support/memory-image.ts'
import { printSeed, randomTest } from '../../support/random.ts'
import { rawParent } from '../../support/raw-base.ts'
import { delayedStore, watchedStore } from '../../support/stores.ts'
import { FREE, vdiBytes } from '../../support/vdi-file.ts'

printSeed()

const KIB = 1 << 10
const MIB = 1 << 20

/** What these disks hold at most places; all else is zero. */
const TRUTH = patternFor(0, 8 * MIB, 9)

async function layerOf(
  driver: FormatDriver,
  size: number,
  options: Record<string, string>,
  wrap: (store: ByteStore) => ByteStore,
  parentSize?: number,
): Promise<Layer> {
  const folder = new MemoryFolder(wrap)
  const parent = parentSize === undefined ? undefined : rawParent(parentSize)
  return await create(driver, folder, 'disk', { name: '', size, options }, parent)
}

/** A base that holds the truth everywhere. */
async function baseOf(size: number, wrap: (store: ByteStore) => ByteStore): Promise<Layer> {
  const folder = new MemoryFolder(wrap)
  const layer = await create(raw, folder, 'base', { name: '', size, options: {} })
  const chain = new Chain([layer])
  await promised(chain.write(0, TRUTH.subarray(0, size)))
  return layer
}

/** Where bytes are neither what they should be nor zero. */
function foreignIn(found: Uint8Array, offset: number): number | undefined {
  const at = found.findIndex((byte, i) => byte !== 0 && byte !== TRUTH[offset + i])
  return at < 0 ? undefined : offset + at
}

/** What waits there passes when it is opened. */
function gate(): { readonly passed: Promise<void>; open(): void } {
  let open!: () => void
  const passed = new Promise<void>((resolve) => {
    open = resolve
  })
  return { passed, open }
}

describe('a disk that is resized while it is read', () => {
  test('puts nothing into room that a read from before is still on its way to', async () => {
    let open!: () => void
    const gate = new Promise<void>((resolve) => {
      open = resolve
    })
    let guarded = Number.NaN
    const wrap = (store: ByteStore): ByteStore => ({
      ...watchedStore(store, ({ kind, at }) => (kind === 'read' && at === guarded ? gate : undefined)),
      discard: (at, length) => store.write(at, new Uint8Array(length).fill(0xdd)),
    })
    const base = await baseOf(8 * MIB, (store) => store)
    const top = await layerOf(qcow2, 4 * MIB, { cluster_size: '4K' }, wrap, 8 * MIB)
    const chain = new Chain([base, top])
    await promised(chain.write(0, TRUTH.subarray(0, 4 * KIB)))
    await promised(chain.flush())
    const extent = await promised(chain.map(0, 4 * KIB))
    guarded = extent.kind === 'data' ? extent.at : Number.NaN
    const found = new Uint8Array(4 * KIB)
    const reading = promised(chain.read(0, found))
    await promised(chain.erase(0, 4 * KIB))
    // The table of the larger disk needs room, and is put in place by more than one flush.
    const resizing = promised(chain.resize(64 * MIB))
    for (let i = 0; i < 50; i++) await promised(breathe())
    open()
    await Promise.all([reading, resizing])
    expect(foreignIn(found, 0)).toBeUndefined()
    expect(chain.size).toBe(64 * MIB)
    await promised(chain.close())
  })

  test('moves no table to where a read is still on its way', async () => {
    const [flushing, reading] = [gate(), gate()]
    let guarded = Number.NaN
    const folder = new MemoryFolder((store) =>
      watchedStore(store, ({ kind, at }) => {
        if (kind === 'flush') return flushing.passed
        return kind === 'read' && at === guarded ? reading.passed : undefined
      }),
    )
    // The map has one sector, full, and the first block follows at once: that has to make room for a larger map.
    const entries = [0, ...Array<number>(127).fill(FREE)]
    await promised(settle(folder.image('disk').store.write(0, vdiBytes({ entries }))))
    const chain = new Chain([await promised(vdi.open(folder.image('disk'), 'write'))])
    const extent = await promised(chain.map(0, 4 * KIB))
    const resizing = promised(chain.resize(64 * MIB))
    // The resizing has seen that nobody reads, and has got no further than to its first flush.
    guarded = extent.kind === 'data' ? extent.at + KIB : Number.NaN
    const found = new Uint8Array(2 * KIB)
    const read = promised(chain.read(KIB, found))
    flushing.open()
    for (let i = 0; i < 50; i++) await promised(breathe())
    reading.open()
    await Promise.all([read, resizing])
    expect(found.every((byte) => byte === 1)).toBe(true)
    const after = new Uint8Array(4 * KIB)
    await promised(chain.read(0, after))
    expect(after.every((byte) => byte === 1)).toBe(true)
    await promised(chain.close())
  })

  const KINDS: readonly (readonly [string, FormatDriver, Record<string, string>, number | undefined])[] = [
    ['raw', raw, {}, undefined],
    ['qcow2', qcow2, { cluster_size: '4K' }, undefined],
    ['qcow2 over a larger parent', qcow2, { cluster_size: '4K' }, 7 * MIB],
    ['VHDX', vhdx, { block_size: '1M' }, undefined],
    ['VDI', vdi, { block_size: '4K' }, undefined],
    ['VDI over a larger parent', vdi, { block_size: '4K' }, 7 * MIB],
    ['VHDX over a larger parent', vhdx, { block_size: '1M' }, 7 * MIB],
  ]
  describe.each(KINDS)('%s', (_name, driver, options, parentSize) => {
    randomTest('shows what it held or zeros, and refuses what it has lost', async (random) => {
      const wrap = (store: ByteStore): ByteStore => delayedStore(store, random.below(2 ** 31))
      const [small, large] = [2 * MIB, 6 * MIB]
      const top = await layerOf(driver, small, options, wrap, parentSize)
      const chain = new Chain(parentSize === undefined ? [top] : [await baseOf(parentSize, wrap), top])
      // The first part of the disk stays as it is.
      await promised(chain.write(0, TRUTH.subarray(0, MIB)))
      let ended = false
      /** The smallest size since some moment. */
      let least = small
      const place = (): { offset: number; length: number } => {
        const length = 1 + random.below(random.chance(0.2) ? 300_000 : 20_000)
        return { offset: random.below(large - length), length }
      }
      const outside = (error: unknown, end: number): void => {
        expect(isVdiskError(error, 'OUT_OF_RANGE') && end > least, String(error)).toBe(true)
      }
      const reader = async (): Promise<void> => {
        while (!ended) {
          const { offset, length } = place()
          const found = new Uint8Array(length)
          try {
            await promised(chain.read(offset, found))
          } catch (error) {
            outside(error, offset + length)
            await promised(breathe())
            continue
          }
          expect(foreignIn(found, offset), `${length} at ${offset}`).toBeUndefined()
          const stable = found.subarray(0, Math.max(0, MIB - offset))
          expect(Buffer.compare(stable, TRUTH.subarray(offset, offset + stable.length)), `${length} at ${offset}`).toBe(
            0,
          )
          await promised(breathe())
        }
      }
      const writer = async (): Promise<void> => {
        while (!ended) {
          const { offset, length } = place()
          const at = MIB + (offset % (large - MIB - length))
          try {
            if (random.chance(0.6)) await promised(chain.write(at, TRUTH.subarray(at, at + length)))
            else await promised(chain.erase(at, length))
            if (random.chance(0.3)) await promised(chain.flush())
          } catch (error) {
            outside(error, at + length)
          }
          await promised(breathe())
        }
      }
      const end = (): void => {
        ended = true
      }
      const users = Promise.all([reader(), reader(), reader(), writer(), writer()].map((user) => user.finally(end)))
      users.catch(end)
      for (let i = 0; i < 12 && !ended; i++) {
        const size = random.chance(0.3) ? small : small + random.below((large - small) / 512) * 512
        least = Math.min(chain.size, size)
        await promised(chain.resize(size))
        for (let turn = 0; turn < 20; turn++) await promised(breathe())
      }
      ended = true
      await users
      await promised(chain.close())
    })
  })
})
