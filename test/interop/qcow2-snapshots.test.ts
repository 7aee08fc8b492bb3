import fs from 'node:fs'
import { expect, test } from 'vitest'
import type { InternalSnapshots, Layer } from '../../lib/contracts/layer.ts'
import {
  Chain,
  createDisk,
  createInternalSnapshot,
  deleteInternalSnapshot,
  isVdiskError,
  listSnapshots,
  openDisk,
  promised,
  revertToSnapshot,
} from '../../lib/index.ts'
import { OurImage } from '../support/our-history.ts'
import { describeWithPeers } from '../support/peers.ts'
import { expectAgreement, expectCleanByQemu, expectCleanByUs, expectSameBytes, Qemu } from '../support/qemu.ts'
import { printSeed, type Random, randomTest } from '../support/random.ts'
import { scratchFolder } from '../support/temp.ts'

printSeed()

const VARIANTS: readonly { options: Record<string, string>; size: number; cluster: number; resize?: boolean }[] = [
  { options: {}, size: 2 << 20, cluster: 65536 },
  { options: { cluster_size: '512' }, size: 150 << 10, cluster: 512 },
  { options: { extended_l2: 'on', cluster_size: '16K' }, size: 1 << 20, cluster: 16384 },
  { options: { refcount_bits: '4', cluster_size: '2K' }, size: 300 << 10, cluster: 2048 },
  { options: { refcount_bits: '64', cluster_size: '4K' }, size: 500 << 10, cluster: 4096 },
  // A disk of version 2 keeps its size while it has snapshots.
  { options: { compat: '0.10', cluster_size: '4K' }, size: 400 << 10, cluster: 4096, resize: false },
]

/** The content of an internal snapshot as we read it, with the parents of the image below it. */
async function ourSnapshot(file: string, name: string): Promise<Uint8Array> {
  await using disk = await openDisk(file)
  const layers = disk.chain.layers
  const { snapshots } = layers.at(-1) as Layer
  const view = await promised((snapshots as InternalSnapshots).open(name))
  const chain = new Chain([...layers.slice(0, -1), view])
  const bytes = new Uint8Array(chain.size)
  await promised(chain.read(0, bytes))
  return bytes
}

/** One of the two programs does something with snapshots. */
interface Hand {
  create(name: string): Promise<void> | void
  revert(name: string): Promise<void> | void
  delete(name: string): Promise<void> | void
  resize(size: number): Promise<void> | void
}

function hands(qemu: Qemu): { ours: Hand; theirs: Hand } {
  const file = qemu.path('a')
  const snapshot = (flag: string, name: string): void => void qemu.img(['snapshot', flag, name, 'a'])
  return {
    ours: {
      create: async (name) => void (await createInternalSnapshot(file, name)),
      revert: async (name) => void (await revertToSnapshot(file, name)),
      delete: async (name) => await deleteInternalSnapshot(file, name),
      resize: async (size) => {
        await using disk = await openDisk(file, { writable: true })
        await disk.resize(size)
      },
    },
    theirs: {
      create: (name) => snapshot('-c', name),
      revert: (name) => snapshot('-a', name),
      delete: (name) => snapshot('-d', name),
      resize: (size) => void qemu.img(['resize', '-q', '--shrink', '-f', 'qcow2', 'a', String(size)]),
    },
  }
}

/** Both programs keep, revert to and delete snapshots of one image, in turns as chance has it. */
async function playTogether(random: Random, qemu: Qemu, variant: (typeof VARIANTS)[number]): Promise<void> {
  const { ours, theirs } = hands(qemu)
  const kept = new Map<string, Uint8Array>()
  let content = qemu.reads('a')
  for (let step = 0; step < 12; step++) {
    const hand = random.pick([ours, theirs])
    const names = [...kept.keys()]
    const kind = names.length === 0 ? 0 : random.below(5)
    if (kind <= 1 && names.length < 6) {
      const name = `state-${step}`
      await hand.create(name)
      kept.set(name, content)
    } else if (kind === 2) {
      const name = random.pick(names)
      await hand.revert(name)
      content = kept.get(name) as Uint8Array
    } else if (kind === 3) {
      const name = random.pick(names)
      await hand.delete(name)
      kept.delete(name)
    } else if (variant.resize !== false) {
      await hand.resize(512 * (1 + random.below((variant.size * 2) / 512)))
    }
    expectCleanByQemu(qemu, 'a')
    content = await change(random, qemu, variant.cluster)
    for (const [name, bytes] of kept) {
      expectSameBytes(await ourSnapshot(qemu.path('a'), name), bytes, `our reading of ${name} at step ${step}`)
    }
  }
  for (const [name, bytes] of kept) expectSameBytes(qemu.readsSnapshot('a', name), bytes, `QEMU's reading of ${name}`)
}

/** One of the programs writes a little. @returns the content on which both agree */
async function change(random: Random, qemu: Qemu, cluster: number): Promise<Uint8Array> {
  const content = qemu.reads('a')
  if (random.chance(0.5)) qemu.io('a', qemu.history(random, { size: content.length, cluster, steps: 4 }))
  else {
    const image = new OurImage(qemu.path('a'), content)
    await image.play(random, { cluster, steps: 6 })
    expectSameBytes(qemu.reads('a'), image.model.bytes, 'what we wrote')
  }
  return await expectAgreement(qemu, 'a')
}

describeWithPeers(['qemu-img', 'qemu-io'], 'internal snapshots are kept by QEMU and by us in turns', () => {
  for (const variant of VARIANTS) {
    const title = Object.entries(variant.options).map(([name, value]) => `${name}=${value}`)
    randomTest(title.join(' ') || 'default options', async (random) => {
      const qemu = new Qemu(scratchFolder())
      qemu.create('a', variant.size, variant.options)
      qemu.io('a', qemu.compressedHistory(random, { size: variant.size, cluster: variant.cluster, steps: 5 }))
      await playTogether(random, qemu, variant)
    })

    randomTest(`${title.join(' ') || 'default options'}, of a child`, async (random) => {
      const qemu = new Qemu(scratchFolder())
      qemu.create('base', variant.size + 4096)
      qemu.io('base', qemu.history(random, { size: variant.size, cluster: 65536, steps: 20 }))
      qemu.create('a', variant.size, variant.options, ['base', 'qcow2'])
      await playTogether(random, qemu, variant)
    })
  }
})

describeWithPeers(['qemu-img', 'qemu-io'], 'internal snapshots', () => {
  test('are listed with the names, sizes and times that QEMU gave them', async () => {
    const qemu = new Qemu(scratchFolder())
    qemu.create('a', 1 << 20)
    qemu.img(['snapshot', '-c', 'first', 'a'])
    qemu.img(['resize', '-q', 'a', '3M'])
    qemu.img(['snapshot', '-c', 'zweiter Stand', 'a'])
    const theirs = qemu.info('a').snapshots as { id: string; name: string; 'date-sec': number }[]
    const ours = await listSnapshots(qemu.path('a'))
    expect(ours.map(({ id, name, created }) => ({ id, name, 'date-sec': created }))).toEqual(
      theirs.map(({ id, name, 'date-sec': seconds }) => ({ id, name, 'date-sec': seconds })),
    )
    expect(ours.map(({ size }) => size)).toEqual([1 << 20, 3 << 20])
  })

  test('of ours are listed by QEMU with what we gave them', async () => {
    const qemu = new Qemu(scratchFolder())
    await (await createDisk(qemu.path('a'), { format: 'qcow2', size: 1 << 20 })).close()
    const made = await createInternalSnapshot(qemu.path('a'), 'before the upgrade')
    const [theirs] = qemu.info('a').snapshots as Record<string, unknown>[]
    expect(theirs).toMatchObject({ id: made.id, name: made.name, 'date-sec': made.created, 'vm-state-size': 0 })
  })

  test('are refused where counts have one bit, and the image stays as it was', async () => {
    const qemu = new Qemu(scratchFolder())
    const options = { refcount_bits: '1' }
    const disk = await createDisk(qemu.path('a'), { format: 'qcow2', size: 1 << 20, options })
    await disk.write(0, new Uint8Array(512))
    await disk.close()
    const before = fs.readFileSync(qemu.path('a'))
    const error = await createInternalSnapshot(qemu.path('a'), 'x').catch((thrown: unknown) => thrown)
    expect(isVdiskError(error, 'REFUSED')).toBe(true)
    expect(fs.readFileSync(qemu.path('a')).equals(before)).toBe(true)
    expect(() => qemu.img(['snapshot', '-c', 'x', 'a'])).toThrow()
  })

  randomTest('end where a count can rise no more: the refusal leaves a sound image', async (random) => {
    const qemu = new Qemu(scratchFolder())
    const options = { refcount_bits: '2', cluster_size: '4K' }
    await (await createDisk(qemu.path('a'), { format: 'qcow2', size: 1 << 20, options })).close()
    const image = new OurImage(qemu.path('a'), new Uint8Array(1 << 20))
    await image.play(random, { cluster: 4096, steps: 20 })
    await createInternalSnapshot(qemu.path('a'), 'one')
    await createInternalSnapshot(qemu.path('a'), 'two')
    const error = await createInternalSnapshot(qemu.path('a'), 'three').catch((thrown: unknown) => thrown)
    expect(isVdiskError(error, 'LIMIT_EXCEEDED')).toBe(true)
    expectCleanByQemu(qemu, 'a')
    await expectCleanByUs(qemu.path('a'))
    expectSameBytes(await ourSnapshot(qemu.path('a'), 'two'), image.model.bytes, 'the second snapshot')
    await image.play(random, { cluster: 4096, steps: 20 })
    expectSameBytes(await expectAgreement(qemu, 'a'), image.model.bytes, 'the disk')
  })

  test('of version 2 keep the disk at its size, as with QEMU', async () => {
    const qemu = new Qemu(scratchFolder())
    await (await createDisk(qemu.path('a'), { format: 'qcow2', size: 1 << 20, options: { compat: '0.10' } })).close()
    await createInternalSnapshot(qemu.path('a'), 'one')
    await using disk = await openDisk(qemu.path('a'), { writable: true })
    const error = await disk.resize(2 << 20).catch((thrown: unknown) => thrown)
    expect(isVdiskError(error, 'UNSUPPORTED')).toBe(true)
    await disk.close()
    expect(() => qemu.img(['resize', 'a', '2M'])).toThrow(/snapshots/)
  })

  test('are refused with an external data file, as with QEMU', async () => {
    const qemu = new Qemu(scratchFolder())
    const options = { data_file: 'data' }
    await (await createDisk(qemu.path('a'), { format: 'qcow2', size: 1 << 20, options })).close()
    const error = await createInternalSnapshot(qemu.path('a'), 'x').catch((thrown: unknown) => thrown)
    expect(isVdiskError(error, 'UNSUPPORTED')).toBe(true)
    expect(() => qemu.img(['snapshot', '-c', 'x', 'a'])).toThrow()
  })

  // `qemu-img convert -l` shows a snapshot in the size of the present disk. The format gives each its own
  // ("Snapshots", extra data: virtual disk size), and so do we.
  randomTest('of another size than the disk read as far as QEMU shows them', async (random) => {
    const qemu = new Qemu(scratchFolder())
    qemu.create('a', 3 << 20)
    qemu.io('a', qemu.history(random, { size: 3 << 20, cluster: 65536, steps: 20 }))
    const content = qemu.reads('a')
    qemu.img(['snapshot', '-c', 'large', 'a'])
    qemu.img(['resize', '-q', '--shrink', 'a', '1M'])
    expectSameBytes(await ourSnapshot(qemu.path('a'), 'large'), content, 'our reading')
    const theirs = qemu.reads('a', { snapshot: 'large' })
    expect(theirs.length).toBe(1 << 20)
    expectSameBytes(theirs, content.subarray(0, 1 << 20), "QEMU's reading")
  })

  test('that are deleted give their room back', async () => {
    const qemu = new Qemu(scratchFolder())
    const disk = await createDisk(qemu.path('a'), { format: 'qcow2', size: 8 << 20 })
    await disk.write(0, new Uint8Array(4 << 20).fill(1))
    await disk.close()
    await createInternalSnapshot(qemu.path('a'), 'x')
    await using again = await openDisk(qemu.path('a'), { writable: true })
    await again.write(0, new Uint8Array(4 << 20).fill(2))
    await again.close()
    const before = fs.statSync(qemu.path('a')).blocks * 512
    await deleteInternalSnapshot(qemu.path('a'), 'x')
    expect(before - fs.statSync(qemu.path('a')).blocks * 512).toBeGreaterThanOrEqual(4 << 20)
    expectCleanByQemu(qemu, 'a')
  })

  for (const { options, size, cluster, resize } of VARIANTS) {
    const title = Object.entries(options).join(' ') || 'default options'
    randomTest(`a child reverted to the layer below is sound and keeps its snapshots: ${title}`, async (random) => {
      const qemu = new Qemu(scratchFolder())
      const below = resize === false ? size : size - random.below(size >> 10) * 512
      qemu.create('base', below)
      qemu.io('base', qemu.history(random, { size: below, cluster: 65536, steps: 15 }))
      qemu.create('a', size, options, ['base', 'qcow2'])
      qemu.io('a', qemu.history(random, { size, cluster, steps: 15 }))
      qemu.img(['snapshot', '-c', 'kept', 'a'])
      const kept = await ourSnapshot(qemu.path('a'), 'kept')
      qemu.io('a', qemu.history(random, { size, cluster, steps: 15 }))
      expect(await revertToSnapshot(qemu.path('a'), 'base')).toBe('layer')
      expectCleanByQemu(qemu, 'a')
      await expectCleanByUs(qemu.path('a'))
      expectSameBytes(qemu.reads('a'), qemu.reads('base'), 'the disk')
      expectSameBytes(await ourSnapshot(qemu.path('a'), 'kept'), kept, 'the snapshot')
      qemu.io('a', qemu.history(random, { size: below, cluster, steps: 15 }))
      expectCleanByQemu(qemu, 'a')
      expectSameBytes(await ourSnapshot(qemu.path('a'), 'kept'), kept, 'the snapshot, after writes')
    })
  }

  test('a reverted child gives its room back, and its bitmaps say that all has changed', async () => {
    const qemu = new Qemu(scratchFolder())
    qemu.create('base', 8 << 20)
    qemu.create('a', 8 << 20, {}, ['base', 'qcow2'])
    qemu.img(['bitmap', '--add', 'a', 'dirty'])
    qemu.io('a', ['write -P 1 0 4M'])
    qemu.img(['bitmap', '--clear', 'a', 'dirty'])
    const before = fs.statSync(qemu.path('a')).blocks * 512
    await revertToSnapshot(qemu.path('a'), 'base')
    expect(before - fs.statSync(qemu.path('a')).blocks * 512).toBeGreaterThanOrEqual(4 << 20)
    expectCleanByQemu(qemu, 'a')
    await using disk = await openDisk(qemu.path('a'))
    const { bitmaps } = disk.chain.layers.at(-1) as Layer
    const bits = await promised((bitmaps as NonNullable<Layer['bitmaps']>).read('dirty'))
    expect(bits.count()).toBe(bits.length)
  })
})
