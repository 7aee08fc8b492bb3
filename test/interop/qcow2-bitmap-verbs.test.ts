import fs from 'node:fs'
import { expect, test } from 'vitest'
import {
  addBitmap,
  bitmapToToken,
  changesSince,
  checkImage,
  checkpoint,
  clearBitmap,
  createDisk,
  enableTracking,
  exportBitmap,
  finish,
  importBitmap,
  listBitmaps,
  mergeBitmaps,
  openDisk,
  removeBitmap,
  setBitmapEnabled,
} from '../../lib/index.ts'
import { byteMap, expectSameBitmap } from '../support/bitmaps.ts'
import { describeWithPeers } from '../support/peers.ts'
import { expectCleanByQemu, expectCleanByUs, expectSameBytes, Qemu } from '../support/qemu.ts'
import { printSeed, type Random, randomTest } from '../support/random.ts'
import { scratchFolder } from '../support/temp.ts'

printSeed()

const TOOLS = ['qemu-img', 'qemu-io', 'qemu-nbd', 'nbdinfo'] as const
const SIZE = (2 << 20) - 512

/** What a bitmap should be: sectors, and whether it records. */
interface Model {
  readonly granularity: number
  enabled: boolean
  sectors: Uint8Array
}

function cover({ granularity }: Model, offset: number, length: number): Uint8Array {
  const start = offset - (offset % granularity)
  const end = Math.min(SIZE, Math.ceil((offset + length) / granularity) * granularity)
  return byteMap(SIZE, [{ offset: start, length: end - start }])
}

function union(a: Uint8Array, b: Uint8Array): Uint8Array {
  return a.map((byte, i) => byte | (b[i] as number))
}

/** What `from` has, in the granules of `into`. */
function inGranulesOf(into: Model, from: Model): Uint8Array {
  let all = byteMap(SIZE, [])
  for (const [i, set] of from.sectors.entries()) if (set) all = union(all, cover(into, i * 512, 512))
  return all
}

/** One step of a history, by QEMU or by us. */
async function step(random: Random, qemu: Qemu, models: Map<string, Model>): Promise<void> {
  const ours = random.below(2) === 0
  const file = qemu.path('a')
  const names = [...models.keys()]
  const name = names.length > 0 ? random.pick(names) : undefined
  const model = name === undefined ? undefined : (models.get(name) as Model)
  const kind = random.below(8)
  if (name === undefined || !model || kind === 0) {
    const added = `bitmap ${models.size}-${random.below(1000)}`
    const granularity = random.pick([512, 4096, 65536, 1 << 20])
    const enabled = random.below(3) > 0
    if (ours) await addBitmap(file, added, { granularity, enabled })
    else qemu.img(['bitmap', '--add', '-g', String(granularity), ...(enabled ? [] : ['--disable']), 'a', added])
    models.set(added, { granularity, enabled, sectors: byteMap(SIZE, []) })
  } else if (kind === 1) {
    if (ours) await removeBitmap(file, name)
    else qemu.img(['bitmap', '--remove', 'a', name])
    models.delete(name)
  } else if (kind === 2) {
    if (ours) await clearBitmap(file, name)
    else qemu.img(['bitmap', '--clear', 'a', name])
    model.sectors = byteMap(SIZE, [])
  } else if (kind === 3) {
    if (ours) await setBitmapEnabled(file, name, !model.enabled)
    else qemu.img(['bitmap', model.enabled ? '--disable' : '--enable', 'a', name])
    model.enabled = !model.enabled
  } else if (kind === 4) {
    const source = random.pick(names)
    if (ours) await mergeBitmaps(file, name, [source])
    else qemu.img(['bitmap', '--merge', source, 'a', name])
    model.sectors = union(model.sectors, inGranulesOf(model, models.get(source) as Model))
  } else {
    const offset = random.below(SIZE - 1)
    const length = 1 + random.below(Math.min(100_000, SIZE - offset))
    if (ours) {
      await using disk = await openDisk(file, { writable: true })
      await disk.write(offset, random.bytes(length))
    } else qemu.io('a', [`write ${offset} ${length}`])
    for (const one of models.values()) if (one.enabled) one.sectors = union(one.sectors, cover(one, offset, length))
  }
}

describeWithPeers(TOOLS, 'bitmaps that QEMU and we change by turns', () => {
  for (const cluster of ['512', '64K']) {
    randomTest(`are the same to both: clusters of ${cluster}`, async (random) => {
      const qemu = new Qemu(scratchFolder())
      qemu.create('a', SIZE, { cluster_size: cluster })
      const models = new Map<string, Model>()
      for (let i = 0; i < 16; i++) await step(random, qemu, models)
      expectCleanByQemu(qemu, 'a')
      await expectCleanByUs(qemu.path('a'))
      const listed = await listBitmaps(qemu.path('a'))
      expect(listed.map(({ name, granularity, enabled }) => [name, { granularity, enabled }])).toEqual(
        [...models].map(([name, { granularity, enabled }]) => [name, { granularity, enabled }]),
      )
      for (const [name, { sectors }] of models) expectSameBytes(await expectSameBitmap(qemu, name), sectors, name)
    })
  }

  test('merge from another image, as QEMU merges', async () => {
    const qemu = new Qemu(scratchFolder())
    for (const [name, offset] of [
      ['a', 0],
      ['b', 300_000],
    ] as const) {
      qemu.create(name, SIZE)
      await addBitmap(qemu.path(name), 'nightly', { granularity: 4096 })
      qemu.io(name, [`write ${offset} 5000`])
    }
    fs.copyFileSync(qemu.path('a'), qemu.path('c'))
    await mergeBitmaps(qemu.path('a'), 'nightly', ['nightly'], { sourceImage: qemu.path('b') })
    qemu.img(['bitmap', '--merge', 'nightly', '-b', 'b', '-F', 'qcow2', 'c', 'nightly'])
    expectSameBytes(
      await expectSameBitmap(qemu, 'nightly'),
      byteMap(SIZE, [
        { offset: 0, length: 8192 },
        { offset: 299_008, length: 8192 },
      ]),
      'a',
    )
    expect(qemu.dirtyRanges('c', 'nightly')).toEqual(qemu.dirtyRanges('a', 'nightly'))
    qemu.create('small', SIZE / 2)
    await addBitmap(qemu.path('small'), 'nightly')
    await expect(
      mergeBitmaps(qemu.path('a'), 'nightly', ['nightly'], { sourceImage: qemu.path('small') }),
    ).rejects.toMatchObject({ code: 'REFUSED' })
  })

  test('have names and granularities as QEMU takes them', async () => {
    const qemu = new Qemu(scratchFolder())
    qemu.create('a', SIZE)
    const longest = `${'\u00fc'.repeat(511)}x`
    await addBitmap(qemu.path('a'), longest, { granularity: 2 ** 31 })
    await addBitmap(qemu.path('a'), 'usual')
    const told = (qemu.info('a')['format-specific'] as { data: { bitmaps: { name: string; granularity: number }[] } })
      .data
    expect(told.bitmaps.map(({ name, granularity }) => [name, granularity])).toEqual([
      [longest, 2 ** 31],
      ['usual', 65536],
    ])
    for (const [name, granularity] of [
      [`${longest}x`, 65536],
      ['', 65536],
      ['a', 256],
      ['a', 2 ** 32],
      ['a', 1000],
    ] as const) {
      await expect(addBitmap(qemu.path('a'), name, { granularity })).rejects.toMatchObject({ code: 'REFUSED' })
    }
    qemu.create('large', 2 ** 40)
    await expect(addBitmap(qemu.path('large'), 'fine', { granularity: 512 })).rejects.toMatchObject({
      code: 'LIMIT_EXCEEDED',
    })
    qemu.create('old', SIZE, { compat: '0.10' })
    await expect(addBitmap(qemu.path('old'), 'a')).rejects.toMatchObject({ code: 'UNSUPPORTED' })
    expectCleanByQemu(qemu, 'large')
  })
})

/** An image that we had open and were writing to, as it is after a crash, with what tracks it. */
async function crashed(qemu: Qemu): Promise<string> {
  await (await createDisk(qemu.path('a'), { format: 'qcow2', size: SIZE })).close()
  await addBitmap(qemu.path('a'), 'nightly', { granularity: 4096 })
  const token = await enableTracking(qemu.path('a'), { granularity: 4096 })
  const disk = await openDisk(qemu.path('a'), { writable: true })
  await disk.write(100_000, new Uint8Array(5000).fill(7))
  await disk.flush()
  const [image, sidecar] = [qemu.path('a'), `${qemu.path('a')}.vdisk-track`].map((file) => fs.readFileSync(file))
  await disk.close()
  // Over the same files, for copies would be others.
  fs.writeFileSync(qemu.path('a'), image as Buffer, { flag: 'r+' })
  fs.writeFileSync(`${qemu.path('a')}.vdisk-track`, sidecar as Buffer, { flag: 'r+' })
  return token
}

describeWithPeers(TOOLS, 'a bitmap that was not saved', () => {
  test('is told of, refused, and can be removed', async () => {
    const qemu = new Qemu(scratchFolder())
    await crashed(qemu)
    const file = qemu.path('a')
    expect(await listBitmaps(file)).toMatchObject([{ name: 'nightly', consistent: false }])
    const { findings } = await finish(checkImage(file))
    expect(findings.map(({ code }) => code)).toContain('BITMAP_INCONSISTENT')
    for (const work of [
      () => clearBitmap(file, 'nightly'),
      () => setBitmapEnabled(file, 'nightly', false),
      () => exportBitmap(file, 'nightly'),
      () => bitmapToToken(file, 'nightly'),
      () => mergeBitmaps(file, 'nightly', ['nightly']),
    ]) {
      await expect(work()).rejects.toMatchObject({ code: 'CORRUPT' })
    }
    await removeBitmap(file, 'nightly')
    expect(await listBitmaps(file)).toEqual([])
    expectCleanByQemu(qemu, 'a')
    await expectCleanByUs(file)
  })

  test('is made anew from a token, and QEMU goes on with it', async () => {
    const qemu = new Qemu(scratchFolder())
    const token = await crashed(qemu)
    const { full } = await importBitmap(qemu.path('a'), 'nightly', { since: token })
    expect(full).toBeUndefined()
    const after = await expectSameBitmap(qemu, 'nightly')
    for (const sector of [196, 200, 205]) expect(after[sector], `sector ${sector}`).toBe(1)
    qemu.io('a', ['write 1M 4k'])
    const later = await expectSameBitmap(qemu, 'nightly')
    expect(later[2048]).toBe(1)
    expectCleanByQemu(qemu, 'a')
  })

  test('goes, with all others, where a program has written that knows none', async () => {
    const qemu = new Qemu(scratchFolder())
    qemu.create('a', SIZE)
    for (const name of ['one', 'two']) await addBitmap(qemu.path('a'), name)
    // Such a writer clears the autoclear bits that it does not know. ["Header", autoclear_features]
    const file = fs.openSync(qemu.path('a'), 'r+')
    fs.writeSync(file, new Uint8Array(8), 0, 8, 88)
    fs.closeSync(file)
    expect(await listBitmaps(qemu.path('a'))).toMatchObject([{ consistent: false }, { consistent: false }])
    await addBitmap(qemu.path('a'), 'three')
    expect(await listBitmaps(qemu.path('a'))).toMatchObject([{ name: 'three', consistent: true }])
    await expectSameBitmap(qemu, 'three')
    // What the others took is lost room: who knows what lies there by now.
    expect(qemu.check('a')).toMatchObject({ corruptions: 0 })
  })
})

describeWithPeers(TOOLS, 'a bitmap by QEMU', () => {
  test('becomes what a consumer is told, with all that follows', async () => {
    const qemu = new Qemu(scratchFolder())
    await (await createDisk(qemu.path('a'), { format: 'qcow2', size: SIZE })).close()
    qemu.img(['bitmap', '--add', '-g', '4096', 'a', 'libvirt'])
    qemu.io('a', ['write 256k 4k'])
    await enableTracking(qemu.path('a'), { granularity: 4096 })
    await bitmapToToken(qemu.path('a'), 'libvirt', { consumer: 'nightly' })
    {
      await using disk = await openDisk(qemu.path('a'), { writable: true })
      await disk.write(1 << 20, new Uint8Array(100))
    }
    const told: { offset: number; length: number }[] = []
    const answer = await changesSince(qemu.path('a'), undefined, {
      consumer: 'nightly',
      visit: (extent) => told.push(extent),
    })
    expect(answer.full).toBeUndefined()
    expect(told).toEqual([
      { offset: 262_144, length: 4096 },
      { offset: 1 << 20, length: 4096 },
    ])
    // And back: what a token says, as a bitmap.
    await importBitmap(qemu.path('a'), 'again', { consumer: 'nightly', granularity: 4096 })
    expectSameBytes(await expectSameBitmap(qemu, 'again'), byteMap(SIZE, told), 'again')
    qemu.img(['bitmap', '--disable', 'a', 'libvirt'])
    await expect(bitmapToToken(qemu.path('a'), 'libvirt')).rejects.toMatchObject({ code: 'REFUSED' })
  })

  test('is not taken for all that changed where somebody wrote past the format', async () => {
    const qemu = new Qemu(scratchFolder())
    await (await createDisk(qemu.path('a'), { format: 'qcow2', size: SIZE })).close()
    await addBitmap(qemu.path('a'), 'nightly')
    await enableTracking(qemu.path('a'))
    fs.utimesSync(qemu.path('a'), new Date(), new Date())
    await expect(bitmapToToken(qemu.path('a'), 'nightly')).rejects.toMatchObject({ code: 'REFUSED' })
    expect(await checkpoint(qemu.path('a'))).toMatch(/^vdisk1-/)
  })
})
