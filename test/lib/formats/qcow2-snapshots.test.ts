import { describe, expect, test } from 'vitest'
import { Chain } from '../../../lib/chain/chain.ts'
import type { InternalSnapshots, WritableLayer } from '../../../lib/contracts/layer.ts'
import { qcow2 } from '../../../lib/formats/qcow2/driver.ts'
import { promised } from '../../../lib/io/io.ts'
import { MemoryStore } from '../../../lib/io/memory.ts'
import type { ByteStore } from '../../../lib/io/store.ts'
import { checkLayer, create } from '../../contract/driver-contract.ts'
import { CrashedFile } from '../../crash/crashed-file.ts'
import { MemoryFolder } from '../../support/memory-image.ts'
import { Random } from '../../support/random.ts'
import { contentOf, failingStore, RecordingStore } from '../../support/stores.ts'

const SIZE = 64 << 10
const CLUSTER = 4096

async function openIn(
  content: Uint8Array,
  access: 'read' | 'write' = 'write',
): Promise<{ layer: WritableLayer; store: RecordingStore }> {
  const folder = new MemoryFolder()
  const store = new RecordingStore(new MemoryStore('a', { content }))
  folder.files.set('a', store)
  return { layer: (await promised(qcow2.open(folder.image('a'), access))) as WritableLayer, store }
}

async function openOn(store: ByteStore): Promise<WritableLayer> {
  const folder = new MemoryFolder()
  folder.files.set('a', store)
  return (await promised(qcow2.open(folder.image('a'), 'write'))) as WritableLayer
}

async function contentBehind(layer: WritableLayer, snapshot?: string): Promise<Uint8Array> {
  const shown = snapshot === undefined ? layer : await promised((layer.snapshots as InternalSnapshots).open(snapshot))
  const bytes = new Uint8Array(shown.size)
  await promised(new Chain([shown]).read(0, bytes))
  return bytes
}

/** An image with two snapshots, and what each of its three states holds. */
async function imageWithSnapshots(): Promise<{ content: Uint8Array; states: Record<string, Uint8Array> }> {
  const folder = new MemoryFolder()
  const options = { cluster_size: String(CLUSTER) }
  const layer = await create(qcow2, folder, 'a', { name: '', size: SIZE, options })
  const chain = new Chain([layer])
  const edit = layer.snapshots?.edit as NonNullable<InternalSnapshots['edit']>
  const states: Record<string, Uint8Array> = {}
  for (const [index, name] of ['one', 'two', 'now'].entries()) {
    await promised(chain.write(index * 10000, new Uint8Array(20000).fill(index + 1)))
    states[name] = await contentBehind(layer)
    if (name !== 'now') await promised(edit.create(name))
  }
  await promised(chain.close())
  return { content: contentOf(folder.image('a').store), states }
}

test('the last entry of the snapshot table may end with the file, before its padding', async () => {
  const { content } = await imageWithSnapshots()
  const tableAt = Number(new DataView(content.buffer).getBigUint64(64))
  // Two entries of 40 + 24 bytes, an id of one byte and a name of three: 68, and 72 with padding.
  const { layer } = await openIn(content.slice(0, tableAt + 72 + 68), 'read')
  expect(layer.snapshots?.list().map(({ name }) => name)).toEqual(['one', 'two'])
})

describe('a crash while a snapshot', () => {
  const works: [string, string, (edit: NonNullable<InternalSnapshots['edit']>) => Promise<unknown>][] = [
    ['is made', 'now', (edit) => promised(edit.create('three'))],
    ['is reverted to', 'one', (edit) => promised(edit.revert('one'))],
    ['is deleted', 'now', (edit) => promised(edit.delete('one'))],
  ]
  test.each(works)('%s leaves the state before or the state after, and no damage', async (_, after, work) => {
    const { content, states } = await imageWithSnapshots()
    const file = new CrashedFile(content)
    const layer = await openOn(file.folder.store('a'))
    await work(layer.snapshots?.edit as NonNullable<InternalSnapshots['edit']>)
    await promised(layer.close())
    const random = new Random(1)
    for (let end = 0; end <= file.length; end++) {
      for (const kept of ['none', 'all', random, random] as const) {
        const crashed = contentOf(file.after(end, kept).store('a'))
        await expectSound(crashed, states, [states.now as Uint8Array, states[after] as Uint8Array], `crash at ${end}`)
      }
    }
  })
})

describe('an error while a snapshot', () => {
  const works: [string, string, number, (edit: NonNullable<InternalSnapshots['edit']>) => Promise<unknown>][] = [
    ['is made', 'now', 2, (edit) => promised(edit.create('three'))],
    ['is reverted to', 'one', 2, (edit) => promised(edit.revert('one'))],
    ['is deleted', 'now', 2, (edit) => promised(edit.delete('one'))],
  ]
  // When the header was to be written, or its flush failed, nobody knows which one the medium has: counts stay high.
  test.each(works)('%s leaks nothing, but where the header may have been written', async (_, after, most, work) => {
    const { content, states } = await imageWithSnapshots()
    let leaks = 0
    for (let index = 0, done = false; !done; index++) {
      const medium = new MemoryStore('a', { content })
      const kinds = ['read', 'write', 'truncate', 'flush']
      const failing = failingStore(medium, { index, code: 'IO', kinds })
      const layer = await openOn(failing).catch(() => openOn(failing))
      const edit = layer.snapshots?.edit as NonNullable<InternalSnapshots['edit']>
      const before = edit === undefined ? [] : layer.snapshots?.list()
      const failure = await work(edit).then(
        () => undefined,
        (error: unknown) => error,
      )
      done = !failing.fired
      const switched = layer.snapshots?.list().length !== before?.length
      await promised(layer.close()).catch(() => {})
      const where = `fault at ${index}`
      const { layer: again } = await openIn(contentOf(medium))
      const found = await contentBehind(again)
      const possible = [states.now as Uint8Array, states[after] as Uint8Array]
      expect(
        possible.some((bytes) => Buffer.compare(bytes, found) === 0),
        where,
      ).toBe(true)
      const { findings } = await checkLayer(qcow2, again)
      expect(
        findings.filter(({ severity, code }) => severity === 'error' && code !== 'COPIED_FLAG_WRONG'),
        where,
      ).toEqual([])
      const isOld = !switched && Buffer.compare(found, states.now as Uint8Array) === 0
      if (failure !== undefined && isOld && findings.some(({ severity }) => severity === 'leak')) leaks++
    }
    expect(leaks).toBeLessThanOrEqual(most)
  })

  test('a write that cannot read a shared table leaks nothing', async () => {
    const { content: before, states } = await imageWithSnapshots()
    const { layer: shared, store } = await openIn(before)
    await promised(
      ((shared.snapshots as InternalSnapshots).edit as NonNullable<InternalSnapshots['edit']>).create('three'),
    )
    await promised(shared.close())
    const content = contentOf(store)
    for (let index = 0, done = false; !done; index++) {
      const medium = new MemoryStore('a', { content })
      const failing = failingStore(medium, { index, code: 'IO', kinds: ['read'] })
      const layer = await openOn(failing).catch(() => openOn(failing))
      const chain = new Chain([layer])
      await promised(chain.write(5000, new Uint8Array(9000).fill(9))).catch(() => {})
      done = !failing.fired
      await promised(chain.close())
      const { layer: again } = await openIn(contentOf(medium))
      expect((await checkLayer(qcow2, again)).findings, `fault at ${index}`).toEqual([])
      expect(Buffer.compare(await contentBehind(again, 'one'), states.one as Uint8Array)).toBe(0)
    }
  })
})

async function expectSound(
  image: Uint8Array,
  states: Record<string, Uint8Array>,
  possible: readonly Uint8Array[],
  where: string,
): Promise<void> {
  const { layer } = await openIn(image)
  const found = await contentBehind(layer)
  expect(
    possible.some((bytes) => Buffer.compare(bytes, found) === 0),
    where,
  ).toBe(true)
  for (const { name } of layer.snapshots?.list() ?? []) {
    const wanted = states[name === 'three' ? 'now' : name] as Uint8Array
    expect(Buffer.compare(await contentBehind(layer, name), wanted), `${name}, ${where}`).toBe(0)
  }
  // Flags may lag behind the counts: then a write copies where it need not.
  const { findings } = await checkLayer(qcow2, layer)
  expect(
    findings.filter(({ severity, code }) => severity === 'error' && code !== 'COPIED_FLAG_WRONG'),
    where,
  ).toEqual([])
  // What is written next reaches neither the snapshots nor what was not written.
  await promised(new Chain([layer]).write(5000, new Uint8Array(30000).fill(9)))
  await promised(layer.flush())
  for (const { name } of layer.snapshots?.list() ?? []) {
    const wanted = states[name === 'three' ? 'now' : name] as Uint8Array
    expect(Buffer.compare(await contentBehind(layer, name), wanted), `${name} after a write, ${where}`).toBe(0)
  }
}
