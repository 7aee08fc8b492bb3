import fs from 'node:fs'
import path from 'node:path'
import { expect } from 'vitest'
import {
  type ConvertOptions,
  convertDisk,
  createDisk,
  createLayer,
  finish,
  inspectChain,
  mergeImage,
  openDisk,
  resizeDisk,
  revertToSnapshot,
} from '../../lib/index.ts'
import { OurImage } from '../support/our-history.ts'
import { describeWithPeers } from '../support/peers.ts'
import { expectCleanByUs, expectSameBytes, ourReading, Qemu } from '../support/qemu.ts'
import { printSeed, type Random, randomTest } from '../support/random.ts'
import { scratchFolder } from '../support/temp.ts'
import { readByLibvhdi } from '../support/vhdimount.ts'

printSeed()

const KIB = 1024
const MIB = 1 << 20

/** Whatever vdisk makes is sound to the format's other tools, and reads the same there. */
async function expectSound(qemu: Qemu, name: string, format: string, content: Uint8Array): Promise<void> {
  expectSameBytes(await ourReading(qemu.path(name), { format }), content, name)
  if (format !== 'raw') {
    const { status, report } = qemu.check(name, format)
    expect(status, report).toBe(0)
    await expectCleanByUs(qemu.path(name))
  }
  fs.writeFileSync(qemu.path('content'), content)
  qemu.img(['compare', '-f', format, '-F', 'raw', name, 'content'])
}

/** A raw disk with data, zeros and holes, in runs of all lengths; its end is no border of anything. */
function randomContent(random: Random, size: number): Uint8Array {
  const content = new Uint8Array(size)
  for (let at = 0; at < size; ) {
    const length = Math.min(size - at, 512 * (1 + random.below(random.pick([4, 40, 400, 1200]))))
    const kind = random.below(4)
    if (kind === 0) content.set(random.bytes(length), at)
    if (kind === 1) content.fill(1 + random.below(255), at, at + length)
    at += length
  }
  return content
}

async function rawDisk(qemu: Qemu, name: string, content: Uint8Array): Promise<string> {
  await using disk = await createDisk(qemu.path(name), { format: 'raw', size: content.length })
  for (let at = 0; at < content.length; at += 64 * KIB) {
    const part = content.subarray(at, at + 64 * KIB)
    if (part.some((byte) => byte !== 0)) await disk.write(at, part)
  }
  return qemu.path(name)
}

async function convert(source: string, format: string, target: string, options: ConvertOptions): Promise<void> {
  await using disk = await openDisk(source, { format })
  await finish(convertDisk(disk.chain, target, options))
}

async function kindsIn(file: string): Promise<Set<string>> {
  await using disk = await openDisk(file)
  const kinds = new Set<string>()
  for await (const { kind } of disk.extents()) kinds.add(kind)
  return kinds
}

const CLUSTERS = ['512', '1K', '2K', '4K', '8K', '16K', '32K', '64K', '128K', '256K', '512K', '1M', '2M']
const COUNTS = ['1', '2', '4', '8', '16', '32', '64']
const PREALLOCATIONS = ['off', 'metadata', 'falloc', 'full']

/** Each option that vdisk can make a qcow2 image with, and each value of it. */
const QCOW2: readonly Record<string, string>[] = [
  ...CLUSTERS.map((cluster_size) => ({ cluster_size })),
  ...COUNTS.map((refcount_bits) => ({ refcount_bits, cluster_size: '1K' })),
  ...['64K', '512'].map((cluster_size) => ({ compat: '0.10', cluster_size })),
  { lazy_refcounts: 'on' },
  ...['16K', '64K', '2M'].map((cluster_size) => ({ extended_l2: 'on', cluster_size })),
  { data_file: 'data' },
  { data_file: 'data', data_file_raw: 'on' },
  { data_file: 'data', extended_l2: 'on', cluster_size: '16K' },
  ...PREALLOCATIONS.map((preallocation) => ({ preallocation })),
  ...PREALLOCATIONS.map((preallocation) => ({ preallocation, extended_l2: 'on' })),
  ...PREALLOCATIONS.map((preallocation) => ({ preallocation, data_file: 'data' })),
  ...PREALLOCATIONS.map((preallocation) => ({ preallocation, compat: '0.10', cluster_size: '4K' })),
  { compression_type: 'zstd' },
  { compression_type: 'zstd', extended_l2: 'on', refcount_bits: '8', lazy_refcounts: 'on', cluster_size: '32K' },
]

const VHDX: readonly Record<string, string>[] = [
  { block_size: '1M' },
  { block_size: '8M' },
  { block_size: '256M' },
  { block_size: '1M', block_state_zero: 'on' },
  { block_size: '1M', log_size: '3M' },
  { block_size: '1M', physical_sector_size: '512' },
  ...['off', 'falloc', 'full'].map((preallocation) => ({ block_size: '1M', subformat: 'fixed', preallocation })),
]

function titleOf(options: Readonly<Record<string, string>>): string {
  const pairs = Object.entries(options).map(([name, value]) => `${name}=${value}`)
  return pairs.join(' ') || 'default options'
}

describeWithPeers(['qemu-img'], 'a raw disk converted by vdisk is sound, and the same to QEMU', () => {
  for (const options of QCOW2) {
    randomTest(`to qcow2, ${titleOf(options)}`, async (random) => {
      const qemu = new Qemu(scratchFolder())
      const content = randomContent(random, options.cluster_size === '512' ? 700 * KIB : 3 * MIB + 512)
      const source = await rawDisk(qemu, 'source', content)
      await convert(source, 'raw', qemu.path('target'), { format: 'qcow2', options })
      await expectSound(qemu, 'target', 'qcow2', content)
      if (options.data_file_raw) {
        qemu.img(['compare', '-f', 'raw', '-F', 'raw', 'data', 'content'])
      }
    })
  }

  for (const options of VHDX) {
    randomTest(`to VHDX, ${titleOf(options)}`, async (random) => {
      const qemu = new Qemu(scratchFolder())
      const content = randomContent(random, 3 * MIB + 512)
      const source = await rawDisk(qemu, 'source', content)
      await convert(source, 'raw', qemu.path('target'), { format: 'vhdx', options })
      await expectSound(qemu, 'target', 'vhdx', content)
    })
  }

  for (const compress of ['zlib', 'zstd']) {
    for (const options of [{ cluster_size: '4K' }, {}, { cluster_size: '2M' }, { extended_l2: 'on' }]) {
      randomTest(`to qcow2 compressed with ${compress}, ${titleOf(options)}`, async (random) => {
        const qemu = new Qemu(scratchFolder())
        const content = randomContent(random, 5 * MIB + 512)
        const source = await rawDisk(qemu, 'source', content)
        await convert(source, 'raw', qemu.path('target'), { format: 'qcow2', options, compress })
        await expectSound(qemu, 'target', 'qcow2', content)
        expect(await kindsIn(qemu.path('target'))).toContain('packed')
        // What is compressed can be written over, by us and by QEMU.
        const image = new OurImage(qemu.path('target'), content)
        await image.play(random, { cluster: 65536, steps: 15 })
        await expectSound(qemu, 'target', 'qcow2', image.model.bytes)
        qemu.io('target', qemu.history(random, { size: content.length, cluster: 65536, steps: 15 }))
        await expectSound(qemu, 'target', 'qcow2', qemu.reads('target'))
      })
    }
  }
})

const FORMATS = ['raw', 'qcow2', 'vhdx'] as const

/** A disk with some history: a chain of two where the format has chains. */
async function disk(
  random: Random,
  qemu: Qemu,
  format: string,
): Promise<{ top: string; base: string; content: Uint8Array }> {
  const options = format === 'vhdx' ? { block_size: '1M' } : {}
  const size = 4 * MIB + 1536
  const base = format === 'raw' ? 'top' : 'base'
  await (await createDisk(qemu.path(base), { format, size, options })).close()
  const image = new OurImage(qemu.path(base), new Uint8Array(size))
  await image.play(random, { cluster: 65536, steps: 25, open: { format } })
  if (format === 'raw') return { top: 'top', base, content: image.model.bytes }
  await (await createDisk(qemu.path('top'), { format, options, parent: qemu.path(base) })).close()
  const top = new OurImage(qemu.path('top'), image.model.bytes)
  await top.play(random, { cluster: 65536, steps: 15 })
  return { top: 'top', base, content: top.model.bytes }
}

describeWithPeers(
  ['qemu-img', 'qemu-io'],
  'a disk converted by vdisk to another format is sound, and the same to QEMU',
  () => {
    for (const from of FORMATS) {
      for (const to of FORMATS) {
        for (const compress of to === 'qcow2' ? [undefined, 'zlib', 'zstd'] : [undefined]) {
          randomTest(`${from} to ${to}${compress === undefined ? '' : `, ${compress}`}`, async (random) => {
            const qemu = new Qemu(scratchFolder())
            const { top, content } = await disk(random, qemu, from)
            const before = fs.readFileSync(qemu.path(top))
            await convert(qemu.path(top), from, qemu.path('target'), { format: to, compress })
            await expectSound(qemu, 'target', to, content)
            expect((await inspectChain(qemu.path('target'), { format: to })).length).toBe(1)
            expect(fs.readFileSync(qemu.path(top)).equals(before)).toBe(true)
          })
        }
      }
    }

    for (const from of ['raw', 'qcow2']) {
      for (const parentFormat of ['raw', 'qcow2']) {
        randomTest(`${from} to a qcow2 child of a ${parentFormat} parent`, async (random) => {
          const qemu = new Qemu(scratchFolder())
          const { top, base, content } = await disk(random, qemu, from)
          // The very parent it has, or another file that has much in common with it.
          const parent = from === 'qcow2' && parentFormat === 'qcow2' ? base : 'other'
          if (parent === 'other') {
            const similar = content.slice()
            similar.set(random.bytes(300_000), random.below(3 * MIB))
            await rawDisk(qemu, 'similar', similar)
            await convert(qemu.path('similar'), 'raw', qemu.path('other'), { format: parentFormat })
          }
          await convert(qemu.path(top), from, qemu.path('target'), {
            format: 'qcow2',
            parent: qemu.path(parent),
            parentFormat,
          })
          await expectSound(qemu, 'target', 'qcow2', content)
          expect((await inspectChain(qemu.path('target'))).at(-1)?.link?.level).toMatch(/^(verified|consistent)$/)
          expect(qemu.info('target')).toMatchObject({
            'backing-filename': parent,
            'backing-filename-format': parentFormat,
          })
        })
      }
    }

    randomTest('one whole chain after a merge, a resize, a layer and a revert, qcow2 and VHDX', async (random) => {
      for (const format of ['qcow2', 'vhdx']) {
        const qemu = new Qemu(scratchFolder())
        const { top, base, content } = await disk(random, qemu, format)
        const wanted = new Uint8Array(6 * MIB)
        wanted.set(content)
        await finish(mergeImage(qemu.path(top), { delete: true }))
        await expectSound(qemu, base, format, content)
        await resizeDisk(qemu.path(base), 6 * MIB)
        await expectSound(qemu, base, format, wanted)
        await createLayer(qemu.path(base), qemu.path('layer'), {})
        const layer = new OurImage(qemu.path('layer'), wanted.slice())
        await layer.play(random, { cluster: 65536, steps: 12 })
        expectSameBytes(await ourReading(qemu.path('layer')), layer.model.bytes, 'the layer')
        await revertToSnapshot(qemu.path('layer'), base)
        if (format === 'qcow2') await expectSound(qemu, 'layer', format, wanted)
        else expectSameBytes(await ourReading(qemu.path('layer')), wanted, 'the layer')
        await finish(mergeImage(qemu.path('layer'), { delete: true }))
        await expectSound(qemu, base, format, wanted)
      }
    })
  },
)

describeWithPeers(['vhdimount', 'umount'], 'a chain of VHDX files reads the same to libvhdi', () => {
  /** Writes that leave no block zero in a child: libvhdi takes such a block for one that the parent has, against 2.5.1.1. */
  async function scribble(file: string, random: Random, content: Uint8Array): Promise<Uint8Array> {
    await using image = await openDisk(file, { writable: true })
    const bytes = content.slice()
    for (let i = 0; i < 12; i++) {
      const length = 1 + random.below(400_000)
      const at = random.below(bytes.length - length)
      const source = random.bytes(length)
      bytes.set(source, at)
      await image.write(at, source)
    }
    await image.close()
    return bytes
  }

  /** A chain of VHDX files with what each of them reads as, base first. */
  async function chain(random: Random, folder: string, names: readonly string[]): Promise<Map<string, Uint8Array>> {
    const contents = new Map<string, Uint8Array>()
    let below: Uint8Array = new Uint8Array(5 * MIB)
    for (const [depth, name] of names.entries()) {
      const parent = names[depth - 1]
      const shape = parent === undefined ? { size: below.length } : { parent: path.join(folder, parent) }
      await (
        await createDisk(path.join(folder, name), { format: 'vhdx', options: { block_size: '1M' }, ...shape })
      ).close()
      below = await scribble(path.join(folder, name), random, below)
      contents.set(name, below)
    }
    return contents
  }

  function expectSameThere(folder: string, names: readonly string[], contents: Map<string, Uint8Array>): void {
    const theirs = readByLibvhdi(path.join(folder, names.at(-1) as string), names.length)
    for (const [i, name] of names.entries()) {
      expectSameBytes(theirs[i] as Buffer, contents.get(name) as Uint8Array, name)
    }
  }

  randomTest('after its middle, and then its top, was merged', async (random) => {
    const folder = scratchFolder()
    const names = ['a.vhdx', 'b.avhdx', 'c.avhdx', 'd.avhdx']
    const contents = await chain(random, folder, names)
    expectSameThere(folder, names, contents)
    await finish(mergeImage(path.join(folder, 'c.avhdx'), { delete: true }))
    contents.set('b.avhdx', contents.get('c.avhdx') as Uint8Array)
    expectSameThere(folder, ['a.vhdx', 'b.avhdx', 'd.avhdx'], contents)
    await finish(mergeImage(path.join(folder, 'd.avhdx'), { delete: true }))
    contents.set('b.avhdx', contents.get('d.avhdx') as Uint8Array)
    expectSameThere(folder, ['a.vhdx', 'b.avhdx'], contents)
    await finish(mergeImage(path.join(folder, 'b.avhdx'), { delete: true }))
    contents.set('a.vhdx', contents.get('b.avhdx') as Uint8Array)
    expectSameThere(folder, ['a.vhdx'], contents)
  })

  randomTest('after a layer was added to it and emptied again', async (random) => {
    const folder = scratchFolder()
    const contents = await chain(random, folder, ['a.vhdx', 'b.avhdx'])
    const below = contents.get('b.avhdx') as Uint8Array
    const top = path.join(folder, 'c.avhdx')
    await createLayer(path.join(folder, 'b.avhdx'), top, { options: { block_size: '1M' } })
    contents.set('c.avhdx', await scribble(top, random, below))
    expectSameThere(folder, ['a.vhdx', 'b.avhdx', 'c.avhdx'], contents)
    await revertToSnapshot(top, 'b.avhdx')
    // libvhdi looks at the sector bits of a block that is not present; they say nothing then. [2.5.1.1] So it is not asked
    // about the empty layer, only about what lies below.
    expectSameBytes(await ourReading(top), below, 'the empty layer')
    await expectCleanByUs(top)
    await finish(mergeImage(top, { delete: true }))
    expectSameThere(folder, ['a.vhdx', 'b.avhdx'], contents)
  })

  randomTest('when its child was converted from qcow2, or from the chain itself', async (random) => {
    const folder = scratchFolder()
    const contents = await chain(random, folder, ['a.vhdx', 'b.avhdx'])
    const qcow2 = path.join(folder, 'b.qcow2')
    await convert(path.join(folder, 'b.avhdx'), 'vhdx', qcow2, { format: 'qcow2' })
    for (const [source, format] of [
      [qcow2, 'qcow2'],
      [path.join(folder, 'b.avhdx'), 'vhdx'],
    ] as const) {
      const target = path.join(folder, `from-${format}.avhdx`)
      await convert(source, format, target, { format: 'vhdx', parent: path.join(folder, 'a.vhdx') })
      contents.set(path.basename(target), contents.get('b.avhdx') as Uint8Array)
      expectSameThere(folder, ['a.vhdx', path.basename(target)], contents)
    }
    const flat = path.join(folder, 'flat.vhdx')
    await convert(path.join(folder, 'b.avhdx'), 'vhdx', flat, { format: 'vhdx' })
    contents.set('flat.vhdx', contents.get('b.avhdx') as Uint8Array)
    expectSameThere(folder, ['flat.vhdx'], contents)
  })
})
