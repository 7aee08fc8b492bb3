import { expect } from 'vitest'
import { byteMap, expectSameBitmap, ourBitmaps } from '../support/bitmaps.ts'
import { OurImage } from '../support/our-history.ts'
import { describeWithPeers } from '../support/peers.ts'
import { expectCleanByQemu, expectCleanByUs, expectSameBytes, Qemu } from '../support/qemu.ts'
import { printSeed, type Random, randomTest } from '../support/random.ts'
import { scratchFolder } from '../support/temp.ts'

printSeed()

const TOOLS = ['qemu-img', 'qemu-io', 'qemu-nbd', 'nbdinfo'] as const

const VARIANTS: readonly { options: Record<string, string>; size: number; cluster: number; grains: number[] }[] = [
  { options: {}, size: (4 << 20) - 512, cluster: 65536, grains: [512, 65536, 1 << 20] },
  { options: { cluster_size: '512' }, size: 3 << 20, cluster: 512, grains: [512, 4096] },
  { options: { cluster_size: '4K', extended_l2: 'off' }, size: 2 << 20, cluster: 4096, grains: [2048, 65536] },
  { options: { extended_l2: 'on', cluster_size: '16K' }, size: 2 << 20, cluster: 16384, grains: [512, 32768] },
  { options: { data_file: 'data' }, size: 2 << 20, cluster: 65536, grains: [4096, 65536] },
]

/** Adds one recording bitmap for each granularity, and one that does not record. */
function addBitmaps(qemu: Qemu, grains: readonly number[]): string[] {
  const names = grains.map((grain) => {
    qemu.img(['bitmap', '--add', '-g', String(grain), 'a', `every-${grain}`])
    return `every-${grain}`
  })
  qemu.img(['bitmap', '--add', '--disable', 'a', 'resting'])
  return names
}

describeWithPeers(TOOLS, 'dirty bitmaps by QEMU', () => {
  for (const { options, size, cluster, grains } of VARIANTS) {
    const title = Object.entries(options).map(([name, value]) => `${name}=${value}`)
    randomTest(`are read as QEMU reads them: ${title.join(' ') || 'default options'}`, async (random) => {
      const qemu = new Qemu(scratchFolder())
      qemu.create('a', size, options)
      const names = addBitmaps(qemu, grains)
      for (let session = 0; session < 3; session++) {
        const all = session === 2 ? [`write -z 0 ${size}`] : []
        qemu.io('a', [...qemu.history(random, { size, cluster, steps: 6 }), ...all])
        for (const name of [...names, 'resting']) await expectSameBitmap(qemu, name)
      }
      expect(
        (await ourBitmaps(qemu.path('a'))).map(({ name, enabled, consistent }) => [name, enabled, consistent]),
      ).toEqual([...names.map((name) => [name, true, true]), ['resting', false, true]])
    })

    randomTest(`record what we change, session by session: ${title.join(' ') || 'default options'}`, async (random) => {
      const qemu = new Qemu(scratchFolder())
      qemu.create('a', size, options)
      const names = addBitmaps(qemu, grains)
      qemu.io('a', qemu.history(random, { size, cluster, steps: 4 }))
      for (let session = 0; session < 3; session++) await expectRecorded(random, qemu, names, cluster)
      // Switched on and off by QEMU, the other way round than before.
      const [first] = names as [string]
      qemu.img(['bitmap', '--disable', 'a', first])
      qemu.img(['bitmap', '--enable', 'a', 'resting'])
      await expectRecorded(random, qemu, [...names.slice(1), 'resting'], cluster)
      qemu.img(['bitmap', '--merge', first, 'a', 'resting'])
      qemu.img(['bitmap', '--clear', 'a', first])
      await expectSameBitmap(qemu, 'resting')
      expectSameBytes(await expectSameBitmap(qemu, first), byteMap(size, []), 'a cleared bitmap')
    })
  }
})

/** We change the disk: what records has the old bits, all that changed, and nothing that was not touched. */
async function expectRecorded(
  random: Random,
  qemu: Qemu,
  recording: readonly string[],
  cluster: number,
): Promise<void> {
  const infos = await ourBitmaps(qemu.path('a'))
  const before = new Map<string, Uint8Array>()
  for (const { name } of infos) before.set(name, await expectSameBitmap(qemu, name))
  const content = qemu.reads('a')
  const image = new OurImage(qemu.path('a'), content)
  await image.play(random, { cluster, steps: 8 })
  expectCleanByQemu(qemu, 'a')
  await expectCleanByUs(qemu.path('a'))
  for (const { name, granularity } of infos) {
    const after = await expectSameBitmap(qemu, name)
    const old = before.get(name) as Uint8Array
    if (!recording.includes(name)) {
      expectSameBytes(after, old, `${name}, which does not record`)
      continue
    }
    const grains = (ranges: readonly { offset: number; length: number }[]): Uint8Array =>
      byteMap(
        content.length,
        ranges.map(({ offset, length }) => {
          const start = offset - (offset % granularity)
          const end = Math.min(content.length, Math.ceil((offset + length) / granularity) * granularity)
          return { offset: start, length: end - start }
        }),
      )
    const changed = grains(changedSectors(content, image.model.bytes))
    const touched = grains(image.touched)
    for (let i = 0; i < after.length; i++) {
      if (old[i] || changed[i]) expect(after[i], `${name}: sector ${i} must be dirty`).toBe(1)
      else if (!touched[i]) expect(after[i], `${name}: sector ${i} was not touched`).toBe(0)
    }
  }
}

function changedSectors(before: Uint8Array, after: Uint8Array): { offset: number; length: number }[] {
  const changed: { offset: number; length: number }[] = []
  for (let offset = 0; offset < before.length; offset += 512) {
    if (Buffer.compare(before.subarray(offset, offset + 512), after.subarray(offset, offset + 512)) !== 0) {
      changed.push({ offset, length: 512 })
    }
  }
  return changed
}
