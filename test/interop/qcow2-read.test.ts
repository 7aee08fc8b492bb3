import { describeWithPeers } from '../support/peers.ts'
import { expectAgreement, Qemu } from '../support/qemu.ts'
import { printSeed, randomTest } from '../support/random.ts'
import { scratchFolder } from '../support/temp.ts'

printSeed()

/** Ways of making an image. Disks are small, so that tables overflow early and ends are met often. */
const VARIANTS: readonly { options: Record<string, string>; size: number; cluster: number }[] = [
  { options: {}, size: (6 << 20) + 512, cluster: 65536 },
  ...['512', '1K', '2K', '4K', '8K', '16K', '32K', '128K', '256K', '512K', '1M', '2M'].map((text) => {
    const cluster = Number(text.replace(/\D/, '')) * (text.endsWith('K') ? 1024 : text.endsWith('M') ? 1 << 20 : 1)
    return { options: { cluster_size: text }, size: Math.min(24 << 20, cluster * 300) - 512, cluster }
  }),
  ...[1, 2, 4, 8, 32, 64].map((bits) => ({
    options: { refcount_bits: String(bits), cluster_size: '1K' },
    size: 1 << 20,
    cluster: 1024,
  })),
  { options: { compat: '0.10' }, size: 5 << 20, cluster: 65536 },
  { options: { compat: '0.10', cluster_size: '1K' }, size: 1 << 20, cluster: 1024 },
  { options: { extended_l2: 'on' }, size: 7 << 20, cluster: 65536 },
  { options: { extended_l2: 'on', cluster_size: '16K' }, size: (2 << 20) - 1024, cluster: 16384 },
  { options: { extended_l2: 'on', cluster_size: '2M' }, size: 17 << 20, cluster: 2 << 20 },
  { options: { lazy_refcounts: 'on' }, size: 5 << 20, cluster: 65536 },
  { options: { data_file: 'data' }, size: 5 << 20, cluster: 65536 },
  { options: { data_file: 'data', data_file_raw: 'on' }, size: 5 << 20, cluster: 65536 },
  { options: { data_file: 'data', extended_l2: 'on', cluster_size: '32K' }, size: 3 << 20, cluster: 32768 },
  { options: { preallocation: 'metadata' }, size: 5 << 20, cluster: 65536 },
  { options: { preallocation: 'metadata', extended_l2: 'on' }, size: 5 << 20, cluster: 65536 },
  { options: { preallocation: 'falloc', cluster_size: '4K' }, size: 3 << 20, cluster: 4096 },
  { options: { preallocation: 'full' }, size: 3 << 20, cluster: 65536 },
]

describeWithPeers(['qemu-img', 'qemu-io'], 'images that QEMU makes read as QEMU reads them', () => {
  for (const { options, size, cluster } of VARIANTS) {
    const title = Object.entries(options).map(([name, value]) => `${name}=${value}`)
    randomTest(title.join(' ') || 'default options', async (random) => {
      const qemu = new Qemu(scratchFolder())
      qemu.create('a', size, options)
      for (let session = 0; session < 2; session++) {
        qemu.io('a', qemu.history(random, { size, cluster, steps: 25 }))
        await expectAgreement(qemu, 'a')
      }
    })
  }
})

describeWithPeers(['qemu-img', 'qemu-io'], 'compressed clusters by QEMU are read', () => {
  for (const algorithm of ['zlib', 'zstd']) {
    for (const cluster of [4096, 65536, 2 << 20]) {
      randomTest(`${algorithm}, clusters of ${cluster}, written and converted`, async (random) => {
        const qemu = new Qemu(scratchFolder())
        const size = Math.min(24 << 20, cluster * 50)
        const options = { compression_type: algorithm, cluster_size: String(cluster) }
        qemu.create('a', size, options)
        qemu.io('a', qemu.compressedHistory(random, { size, cluster, steps: 10 }))
        await expectAgreement(qemu, 'a')
        qemu.io('a', qemu.history(random, { size, cluster, steps: 15 }))
        await expectAgreement(qemu, 'a')
        const given = Object.entries(options).flatMap(([name, value]) => ['-o', `${name}=${value}`])
        qemu.img(['convert', '-c', '-f', 'qcow2', '-O', 'qcow2', ...given, 'a', 'b'])
        await expectAgreement(qemu, 'b')
      })
    }
  }

  randomTest('with extended L2 entries, beside plain subclusters', async (random) => {
    const qemu = new Qemu(scratchFolder())
    const shape = { size: 4 << 20, cluster: 65536 }
    qemu.create('a', shape.size, { extended_l2: 'on' })
    qemu.io('a', qemu.compressedHistory(random, { ...shape, steps: 20 }))
    qemu.io('a', qemu.history(random, { ...shape, steps: 20 }))
    await expectAgreement(qemu, 'a')
  })
})

describeWithPeers(['qemu-img', 'qemu-io'], 'chains of QEMU read as QEMU reads them', () => {
  const tops: [string, Record<string, string>][] = [
    ['plain children', {}],
    ['children with extended L2 entries', { extended_l2: 'on', cluster_size: '32K' }],
    ['children of version 2', { compat: '0.10' }],
    ['children with clusters of 512 bytes', { cluster_size: '512' }],
  ]
  for (const [title, options] of tops) {
    for (const base of ['qcow2', 'raw']) {
      randomTest(`${title} of other sizes over a ${base} base`, async (random) => {
        const qemu = new Qemu(scratchFolder())
        const sizes = [2 << 20, (1 << 20) + 4096 * random.below(256), (3 << 20) - 512 * random.below(2000)]
        if (base === 'raw') qemu.img(['create', '-q', '-f', 'raw', 'a', String(sizes[0])])
        else qemu.create('a', sizes[0])
        qemu.io('a', qemu.history(random, { size: sizes[0] as number, cluster: 65536, steps: 30 }), ['-f', base])
        let below = 'a'
        for (const [depth, name] of ['b', 'c'].entries()) {
          const size = sizes[depth + 1] as number
          qemu.create(name, size, options, [below, depth === 0 ? base : 'qcow2'])
          qemu.io(name, qemu.history(random, { size, cluster: 16384, steps: 15 }))
          await expectAgreement(qemu, name)
          below = name
        }
      })
    }
  }
})
