import fs from 'node:fs'
import { expect, test } from 'vitest'
import type { StoredBitmaps } from '../../lib/contracts/layer.ts'
import {
  checkImage,
  createDisk,
  createInternalSnapshot,
  createLayer,
  finish,
  isVdiskError,
  mergeImage,
  openDisk,
  promised,
  revertToSnapshot,
} from '../../lib/index.ts'
import { byteMap, expectSameBitmap, ourBitmaps } from '../support/bitmaps.ts'
import { describeWithPeers } from '../support/peers.ts'
import { expectAgreement, expectCleanByQemu, expectSameBytes, ourReading, Qemu } from '../support/qemu.ts'
import { printSeed, randomTest } from '../support/random.ts'
import { scratchFolder } from '../support/temp.ts'

printSeed()

const TOOLS = ['qemu-img', 'qemu-io', 'qemu-nbd', 'nbdinfo'] as const
const SIZE = 2 << 20

/** An image with a bitmap that records, one that does not, and some bits set in both. */
function imageWithBitmaps(): Qemu {
  const qemu = new Qemu(scratchFolder())
  qemu.create('a', SIZE)
  qemu.img(['bitmap', '--add', '-g', '4096', 'a', 'recording'])
  qemu.img(['bitmap', '--add', '-g', '65536', 'a', 'resting'])
  qemu.io('a', ['write -P 1 64k 8k', 'write -P 2 1M 200k'])
  qemu.img(['bitmap', '--disable', 'a', 'resting'])
  return qemu
}

async function write(file: string, offset: number, length: number): Promise<void> {
  await using disk = await openDisk(file, { writable: true })
  await disk.write(offset, new Uint8Array(length).fill(7))
}

describeWithPeers(TOOLS, 'a bitmap that records', () => {
  test('is not trusted after a crash, by nobody; one that rests is', async () => {
    const qemu = imageWithBitmaps()
    await using disk = await openDisk(qemu.path('a'), { writable: true })
    await disk.write(0, new Uint8Array(4096).fill(7))
    await disk.flush()
    fs.copyFileSync(qemu.path('a'), qemu.path('crashed'))
    await disk.close()
    const flags = (name: string): unknown =>
      (qemu.info(name)['format-specific'] as { data: { bitmaps: unknown } }).data.bitmaps
    expect(flags('crashed')).toEqual([
      { name: 'recording', granularity: 4096, flags: ['in-use', 'auto'] },
      { name: 'resting', granularity: 65536, flags: [] },
    ])
    expect((await ourBitmaps(qemu.path('crashed'))).map(({ consistent }) => consistent)).toEqual([false, true])
    await using crashed = await openDisk(qemu.path('crashed'))
    const stored = crashed.chain.layers[0]?.bitmaps as StoredBitmaps
    const error = await promised(stored.read('recording')).catch((thrown: unknown) => thrown)
    expect(isVdiskError(error, 'CORRUPT')).toBe(true)
    await crashed.close()
    // Nor can it follow a new size, and nobody minds. ["Bitmap directory", flags]
    fs.copyFileSync(qemu.path('crashed'), qemu.path('resized'))
    await using resized = await openDisk(qemu.path('resized'), { writable: true })
    await resized.resize(SIZE * 100)
    await resized.close()
    await expectAgreementButBitmaps(qemu, 'resized')
    // It stays what it is when others write, and both programs take the image as sound.
    await write(qemu.path('crashed'), 500_000, 5000)
    qemu.io('crashed', ['write -P 9 700k 4k'])
    expect((await ourBitmaps(qemu.path('crashed'))).map(({ consistent }) => consistent)).toEqual([false, true])
    await expectAgreementButBitmaps(qemu, 'crashed')
    qemu.img(['bitmap', '--remove', 'crashed', 'recording'])
    await expectAgreement(qemu, 'crashed')
    expect((await ourBitmaps(qemu.path('crashed'))).map(({ name }) => name)).toEqual(['resting'])
  })

  test('is untouched where an image is only opened for writing', async () => {
    const qemu = imageWithBitmaps()
    const before = fs.readFileSync(qemu.path('a'))
    await (await openDisk(qemu.path('a'), { writable: true })).close()
    expect(fs.readFileSync(qemu.path('a')).equals(before)).toBe(true)
  })

  test('is not trusted after a writer that knows no bitmaps', async () => {
    const qemu = imageWithBitmaps()
    // Such a writer clears the autoclear bits that it does not know. ["Header", autoclear_features]
    const file = fs.openSync(qemu.path('a'), 'r+')
    fs.writeSync(file, new Uint8Array(8), 0, 8, 88)
    fs.closeSync(file)
    expect((await ourBitmaps(qemu.path('a'))).map(({ consistent }) => consistent)).toEqual([false, false])
    await write(qemu.path('a'), 0, 4096)
    expect((await ourBitmaps(qemu.path('a'))).map(({ consistent }) => consistent)).toEqual([false, false])
    expectSameBytes(await ourReading(qemu.path('a')), qemu.reads('a'), 'the disk')
  })

  test('records what is merged into the image, and nothing else', async () => {
    const qemu = imageWithBitmaps()
    const before = await expectSameBitmap(qemu, 'recording')
    await createLayer(qemu.path('a'), qemu.path('b'), {})
    await write(qemu.path('b'), 300_000, 10_000)
    await finish(mergeImage(qemu.path('b')))
    const merged = byteMap(SIZE, [{ offset: 262_144, length: 65_536 }])
    const after = await expectSameBitmap(qemu, 'recording')
    const changed = byteMap(SIZE, [{ offset: 299_008, length: 12_288 }])
    for (let i = 0; i < after.length; i++) {
      if (before[i] || changed[i]) expect(after[i], `sector ${i}`).toBe(1)
      else if (!merged[i]) expect(after[i], `sector ${i}`).toBe(0)
    }
    expectCleanByQemu(qemu, 'a')
  })

  test('is all dirty after a revert, which QEMU refuses', async () => {
    const qemu = imageWithBitmaps()
    await createInternalSnapshot(qemu.path('a'), 'x')
    await write(qemu.path('a'), 0, 4096)
    expect(() => qemu.img(['snapshot', '-a', 'x', 'a'])).toThrow()
    await revertToSnapshot(qemu.path('a'), 'x')
    expectSameBytes(await expectSameBitmap(qemu, 'recording'), byteMap(SIZE, [{ offset: 0, length: SIZE }]), 'it')
    await expectAgreement(qemu, 'a')
  })

  randomTest('follows the size of the disk, up and down', async (random) => {
    const qemu = imageWithBitmaps()
    for (let round = 0; round < 6; round++) {
      const before = new Map<string, Uint8Array>()
      for (const name of ['recording', 'resting']) before.set(name, await expectSameBitmap(qemu, name))
      const size = 4096 * (16 + random.below(1000))
      const shared = Math.min(size, qemu.info('a')['virtual-size'] as number) / 512
      if (round % 2 === 0) {
        await using disk = await openDisk(qemu.path('a'), { writable: true })
        await disk.resize(size)
        await disk.close()
      } else qemu.img(['resize', '-q', '--shrink', '-f', 'qcow2', 'a', String(size)])
      for (const [name, old] of before) {
        const after = await expectSameBitmap(qemu, name)
        // The granule that holds the old end may reach into the new room.
        const end = name === 'resting' ? shared - (shared % 128) : shared
        expectSameBytes(after.subarray(0, end), old.subarray(0, end), `${name} after ${size}`)
      }
      await expectAgreement(qemu, 'a')
      await write(qemu.path('a'), random.below(size - 5000), 5000)
    }
  })

  test('without bits of its own costs the room of its table, and is stored as QEMU stores it', async () => {
    const qemu = imageWithBitmaps()
    await using disk = await openDisk(qemu.path('a'), { writable: true })
    await disk.erase(0, SIZE)
    await disk.close()
    expectSameBytes(await expectSameBitmap(qemu, 'recording'), byteMap(SIZE, [{ offset: 0, length: SIZE }]), 'it')
    await expectAgreement(qemu, 'a')
  })
})

describeWithPeers(TOOLS, 'images of ours', () => {
  for (const options of [{}, { cluster_size: '512' }, { data_file: 'data' }]) {
    test(`take bitmaps by QEMU: ${JSON.stringify(options)}`, async () => {
      const qemu = new Qemu(scratchFolder())
      await (await createDisk(qemu.path('a'), { format: 'qcow2', size: SIZE, options })).close()
      for (let i = 0; i < 5; i++) qemu.img(['bitmap', '--add', '-g', '4096', 'a', `bitmap-${i}`])
      await write(qemu.path('a'), 10_000, 100)
      for (let i = 0; i < 5; i++) {
        const dirty = byteMap(SIZE, [{ offset: 8192, length: 4096 }])
        expectSameBytes(await expectSameBitmap(qemu, `bitmap-${i}`), dirty, `bitmap-${i}`)
      }
      await expectAgreement(qemu, 'a')
    })
  }
})

/** Agreement on the content and on the structure; a bitmap that was not saved is a warning, and no damage. */
async function expectAgreementButBitmaps(qemu: Qemu, name: string): Promise<void> {
  expectSameBytes(await ourReading(qemu.path(name)), qemu.reads(name), name)
  expectCleanByQemu(qemu, name)
  const { findings } = await finish(checkImage(qemu.path(name)))
  expect(findings.map(({ code, severity }) => [code, severity])).toEqual([['BITMAP_INCONSISTENT', 'warning']])
}
