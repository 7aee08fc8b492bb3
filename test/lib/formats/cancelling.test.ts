import { describe, expect, test } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import type { FormatDriver } from '../../../lib/contracts/driver.ts'
import type { InternalSnapshots, Layer, WritableLayer } from '../../../lib/contracts/layer.ts'
import { isVdiskError } from '../../../lib/errors.ts'
import { qcow2 } from '../../../lib/formats/qcow2/driver.ts'
import { vhdx } from '../../../lib/formats/vhdx/driver.ts'
import { Pace, promised, runSync } from '../../../lib/io/io.ts'
import { MemoryStore } from '../../../lib/io/memory.ts'
import { checkLayer, create } from '../../contract/driver-contract.ts'
import { patternFor } from '../../model/history.ts'
import { MemoryFolder } from '../../support/memory-image.ts'
import { rawBase, rawParent } from '../../support/raw-base.ts'
import { contentOf } from '../../support/stores.ts'

const KIB = 1024
const MIB = 1 << 20

/** Says "stop" from the look number `looks` on; counts from 0. */
function signalAfter(looks: number): AbortSignal & { readonly heard: boolean } {
  let count = 0
  return {
    get aborted() {
      return count++ >= looks
    },
    get heard() {
      return count > looks
    },
  } as AbortSignal & { readonly heard: boolean }
}

type Edit = NonNullable<InternalSnapshots['edit']>

interface Work {
  readonly name: string
  readonly driver: FormatDriver
  readonly options: Record<string, string>
  readonly size: number
  readonly work: (layer: WritableLayer, signal: AbortSignal | undefined) => Promise<unknown>
}

const small = { driver: qcow2, options: { cluster_size: '512' }, size: 300 * KIB }
const blocks = { driver: vhdx, options: { block_size: '1M' }, size: 6 * MIB }
const edit = (layer: WritableLayer): Edit => (layer.snapshots as InternalSnapshots).edit as Edit
const clear: Work['work'] = async (layer, signal) => {
  await promised((layer.clear as NonNullable<WritableLayer['clear']>)(layer.size, signal))
}

const works: Work[] = [
  { ...small, name: 'a snapshot', work: (layer, signal) => promised(edit(layer).create('new', signal)) },
  { ...small, name: 'a revert', work: (layer, signal) => promised(edit(layer).revert('old', signal)) },
  { ...small, name: 'clearing qcow2', work: clear },
  { ...small, name: 'growing qcow2', work: (layer, signal) => promised(layer.resize(MIB, 900 * KIB, signal)) },
  { ...small, name: 'shrinking qcow2', work: (layer, signal) => promised(layer.resize(64 * KIB, 0, signal)) },
  { ...blocks, name: 'clearing vhdx', work: clear },
  { ...blocks, name: 'growing vhdx', work: (layer, signal) => promised(layer.resize(9 * MIB, 9 * MIB, signal)) },
  {
    ...blocks,
    name: 'growing vhdx far',
    work: (layer, signal) => promised(layer.resize(200_000 * MIB, 9 * MIB, signal)),
  },
  { ...blocks, name: 'shrinking vhdx', work: (layer, signal) => promised(layer.resize(2 * MIB, 0, signal)) },
]

async function contentBehind(base: Layer, layer: Layer): Promise<Uint8Array> {
  const chain = new Chain([base, layer])
  const bytes = new Uint8Array(Math.min(chain.size, 8 * MIB))
  await promised(chain.read(0, bytes))
  return bytes
}

async function openIn(
  driver: FormatDriver,
  content: Uint8Array,
): Promise<{ layer: WritableLayer; store: MemoryStore }> {
  const folder = new MemoryFolder()
  const store = new MemoryStore('a', { content })
  folder.files.set('a', store)
  return { layer: (await promised(driver.open(folder.image('a'), 'write'))) as WritableLayer, store }
}

/** A child with content here and there, and for qcow2 with a snapshot. */
async function childOf({ driver, options, size }: Work, base: Layer): Promise<Uint8Array> {
  const folder = new MemoryFolder()
  const layer = await create(driver, folder, 'a', { name: '', size, options }, rawParent(base.size))
  const chain = new Chain([base, layer])
  for (let at = 1000; at < size - 9000; at += size >> 3) await promised(chain.write(at, patternFor(at, 7000, 3)))
  if (driver === qcow2) await promised(edit(layer).create('old'))
  await promised(chain.write(20 * KIB, patternFor(0, 30 * KIB, 4)))
  await promised(chain.close())
  return contentOf(folder.image('a').store)
}

describe.each(works)('$name', (one) => {
  test('that is cancelled at any moment has not happened, leaves no trace, and can be done again', async () => {
    const base = await rawBase(one.size)
    const content = await childOf(one, base)
    for (let looks = 0, ended = false; !ended; looks += 1 + (looks >> 3)) {
      const { layer, store } = await openIn(one.driver, content)
      const before = await contentBehind(base, layer)
      const signal = signalAfter(looks)
      const where = `cancelled at look ${looks}`
      const failure = await one.work(layer, signal).catch((error: unknown) => error)
      ended = !isVdiskError(failure)
      expect(ended, where).toBe(!signal.heard)
      if (!ended) {
        expect(failure).toMatchObject({ code: 'CANCELLED' })
        expect(Buffer.compare(await contentBehind(base, layer), before), where).toBe(0)
        expect(layer.snapshots?.list().length ?? 0).toBe(one.driver === qcow2 ? 1 : 0)
        if (looks % 2 === 1) await one.work(layer, undefined)
      }
      await promised(layer.close())
      const again = await openIn(one.driver, contentOf(store))
      // Growing far moves the table of a VHDX, and its old place stays empty.
      const { findings } = await checkLayer(one.driver, again.layer)
      expect(
        findings.filter(({ code }) => code !== 'ROOM_UNUSED'),
        where,
      ).toEqual([])
    }
  })
})

describe('opening for writing', () => {
  test.each([
    { ...small, name: 'qcow2' },
    { ...blocks, name: 'vhdx' },
  ])('is cancelled by the signal of the image: $name', async ({ driver, options, size }) => {
    const folder = new MemoryFolder()
    await promised((await create(driver, folder, 'a', { name: '', size, options })).close())
    const image = folder.image('a')
    const open = (looks: number) => promised(driver.open({ ...image, signal: signalAfter(looks) }, 'write'))
    await expect(open(0)).rejects.toMatchObject({ code: 'CANCELLED' })
    await promised((await open(1000)).close())
  })

  test('of an image that was not closed can be cancelled while its counts are made anew, and be done again', async () => {
    const folder = new MemoryFolder()
    const options = { cluster_size: '4096', lazy_refcounts: 'on' }
    const chain = new Chain([await create(qcow2, folder, 'a', { name: '', size: MIB, options })])
    await promised(chain.write(0, patternFor(0, 300 * KIB, 1)))
    await promised(chain.close())
    const content = contentOf(folder.image('a').store)
    // The dirty bit, and counts that were not written.
    content[79] = (content[79] as number) | 1
    content.fill(0, 2 * 4096 + 6, 3 * 4096)
    let cancelled = 0
    for (let looks = 0, ended = false; !ended; looks++) {
      const image = { ...folder.image('b'), store: new MemoryStore('b', { content }), signal: signalAfter(looks) }
      const layer = await promised(qcow2.open(image, 'write')).catch((error: unknown) => {
        expect(error).toMatchObject({ code: 'CANCELLED' })
        cancelled++
      })
      ended = layer !== undefined
      if (layer) await promised(layer.close())
      const again = await openIn(qcow2, contentOf(image.store))
      expect((await checkLayer(qcow2, again.layer)).findings).toEqual([])
      expect(
        Buffer.compare(
          await contentBehind(await rawBase(0), again.layer).then((b) => b.subarray(0, 300 * KIB)),
          patternFor(0, 300 * KIB, 1),
        ),
      ).toBe(0)
    }
    expect(cancelled).toBeGreaterThan(3)
  })
})

test('a pace without a signal never ends a walk; with one it does so before the first step', () => {
  expect(() => runSync(new Pace().keep())).not.toThrow()
  expect(() => runSync(new Pace(AbortSignal.abort()).keep())).toThrow('Cancelled')
})
