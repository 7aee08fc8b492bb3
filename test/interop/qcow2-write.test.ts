import { createDisk } from '../../lib/index.ts'
import { OurImage } from '../support/our-history.ts'
import { describeWithPeers } from '../support/peers.ts'
import {
  expectAgreement,
  expectCleanByQemu,
  expectCleanByUs,
  expectSameBytes,
  ourReading,
  Qemu,
} from '../support/qemu.ts'
import { printSeed, type Random, randomTest } from '../support/random.ts'
import { scratchFolder } from '../support/temp.ts'

printSeed()

interface Variant {
  readonly options: Readonly<Record<string, string>>
  /** bytes of the disk at first */
  readonly size: number
  readonly cluster: number
  /** false: this kind of image keeps its size, or no snapshots */
  readonly resize?: boolean
  readonly snapshots?: boolean
}

const VARIANTS: readonly Variant[] = [
  { options: {}, size: (4 << 20) + 512, cluster: 65536 },
  { options: { cluster_size: '512' }, size: 150 << 10, cluster: 512 },
  { options: { cluster_size: '1K' }, size: 400 << 10, cluster: 1024 },
  { options: { cluster_size: '4K' }, size: 1 << 20, cluster: 4096 },
  { options: { cluster_size: '256K' }, size: 5 << 20, cluster: 256 << 10 },
  { options: { cluster_size: '2M' }, size: 12 << 20, cluster: 2 << 20 },
  { options: { refcount_bits: '1', cluster_size: '1K' }, size: 300 << 10, cluster: 1024, snapshots: false },
  { options: { refcount_bits: '4', cluster_size: '1K' }, size: 300 << 10, cluster: 1024 },
  { options: { refcount_bits: '8', cluster_size: '512' }, size: 150 << 10, cluster: 512 },
  { options: { refcount_bits: '32', cluster_size: '2K' }, size: 500 << 10, cluster: 2048 },
  { options: { refcount_bits: '64', cluster_size: '512' }, size: 150 << 10, cluster: 512 },
  // A disk of version 2 with snapshots keeps its size: its snapshots do not know theirs.
  { options: { compat: '0.10' }, size: 3 << 20, cluster: 65536, snapshots: false },
  { options: { compat: '0.10', cluster_size: '512' }, size: 150 << 10, cluster: 512, resize: false },
  { options: { extended_l2: 'on' }, size: 4 << 20, cluster: 65536 },
  { options: { extended_l2: 'on', cluster_size: '16K' }, size: 2 << 20, cluster: 16384 },
  { options: { lazy_refcounts: 'on' }, size: 2 << 20, cluster: 65536 },
  { options: { data_file: 'data' }, size: 3 << 20, cluster: 65536, snapshots: false },
  { options: { data_file: 'data', data_file_raw: 'on' }, size: 3 << 20, cluster: 65536, snapshots: false },
  {
    options: { data_file: 'data', extended_l2: 'on', cluster_size: '16K' },
    size: 2 << 20,
    cluster: 16384,
    snapshots: false,
  },
  { options: { preallocation: 'metadata' }, size: 2 << 20, cluster: 65536 },
  { options: { preallocation: 'falloc', cluster_size: '4K' }, size: 1 << 20, cluster: 4096 },
  { options: { preallocation: 'full', extended_l2: 'on' }, size: 2 << 20, cluster: 65536 },
]

const CHILDREN: readonly Variant[] = [
  { options: {}, size: 1 << 20, cluster: 65536 },
  { options: { cluster_size: '512' }, size: 150 << 10, cluster: 512 },
  { options: { compat: '0.10', cluster_size: '4K' }, size: 400 << 10, cluster: 4096, snapshots: false },
  { options: { extended_l2: 'on' }, size: 1 << 20, cluster: 65536 },
  { options: { extended_l2: 'on', cluster_size: '16K' }, size: 500 << 10, cluster: 16384 },
  { options: { data_file: 'data', cluster_size: '8K' }, size: 400 << 10, cluster: 8192, snapshots: false },
]

async function create(qemu: Qemu, { options, size }: Variant): Promise<OurImage> {
  await (await createDisk(qemu.path('a'), { format: 'qcow2', size, options })).close()
  return new OurImage(qemu.path('a'), new Uint8Array(size))
}

/** Two rounds: we write, QEMU judges; QEMU writes, we read. */
async function takeTurns(qemu: Qemu, image: OurImage, random: Random, variant: Variant): Promise<void> {
  const { cluster } = variant
  for (let round = 0; round < 2; round++) {
    await image.play(random, {
      cluster,
      steps: 40,
      resizeUpTo: variant.resize === false ? undefined : variant.size * 2,
      snapshots: variant.snapshots !== false,
    })
    expectCleanByQemu(qemu, 'a')
    await expectCleanByUs(image.file)
    expectSameBytes(qemu.reads('a'), image.model.bytes, `QEMU's reading after round ${round}`)
    for (const [name, bytes] of image.snapshots) {
      expectSameBytes(qemu.readsSnapshot('a', name), bytes, `QEMU's reading of snapshot ${name}`)
    }
    qemu.io('a', qemu.history(random, { size: image.model.bytes.length, cluster, steps: 15 }))
    image.model.bytes = await expectAgreement(qemu, 'a')
  }
}

describeWithPeers(['qemu-img', 'qemu-io'], 'images that we make and write are sound to QEMU', () => {
  for (const variant of VARIANTS) {
    const title = Object.entries(variant.options).map(([name, value]) => `${name}=${value}`)
    randomTest(title.join(' ') || 'default options', async (random) => {
      const qemu = new Qemu(scratchFolder())
      await takeTurns(qemu, await create(qemu, variant), random, variant)
      expectSameBytes(await ourReading(qemu.path('a')), qemu.reads('a'), 'our reading')
    })
  }
})

describeWithPeers(['qemu-img', 'qemu-io'], 'children that we make and write are sound to QEMU', () => {
  for (const variant of CHILDREN) {
    for (const [length, share] of [
      ['shorter', 0.6],
      ['longer', 1.7],
    ] as const) {
      const title = Object.entries(variant.options).map(([name, value]) => `${name}=${value}`)
      randomTest(`${title.join(' ') || 'default options'}, over a ${length} parent`, async (random) => {
        const qemu = new Qemu(scratchFolder())
        const size = Math.floor((variant.size * share) / 512) * 512
        const format = random.pick(['raw', 'qcow2'])
        qemu.img(['create', '-q', '-f', format, 'base', String(size)])
        qemu.io('base', qemu.history(random, { size, cluster: 65536, steps: 30 }), ['-f', format])
        const { options } = variant
        const parent = { parent: qemu.path('base'), parentFormat: format }
        await (await createDisk(qemu.path('a'), { format: 'qcow2', size: variant.size, options, ...parent })).close()
        const content = new Uint8Array(variant.size)
        content.set(qemu.reads('base', { format }).subarray(0, variant.size))
        await takeTurns(qemu, new OurImage(qemu.path('a'), content), random, variant)
      })
    }
  }
})
