import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { backUp } from '../../../lib/backup/backup.ts'
import { listBackups } from '../../../lib/backup/list.ts'
import { restoreBackup } from '../../../lib/backup/restore.ts'
import { openSource } from '../../../lib/backup/source.ts'
import { checkImage, finish, openDisk, resizeDisk, trackingStatus } from '../../../lib/index.ts'
import { contentOf, expectRestored, restored, Scene, stopAfter } from '../../support/backup-scene.ts'
import { type Random, randomFor, randomTest } from '../../support/random.ts'
import { refusal } from '../../support/refusal.ts'

const MiB = 1 << 20
const KiB = 1024

describe('a backup', () => {
  test('is full at first, later holds what changed, and each can be restored', async () => {
    const scene = await Scene.make('qcow2', 64 * MiB)
    await scene.write(0, 3 * MiB, 1)
    const truth = new Map([[1, await scene.content()]])
    const first = await scene.backUp({ consumer: 'nightly' })
    expect(first).toMatchObject({ number: 1, kind: 'full', read: 3 * MiB, written: 3 * MiB, verified: true })
    await scene.write(MiB, 64 * KiB, 2)
    truth.set(2, await scene.content())
    const second = await scene.backUp({ consumer: 'nightly' })
    expect(second).toMatchObject({ kind: 'incremental', read: 64 * KiB, written: 64 * KiB, full: undefined })
    // The newest opens as an ordinary chain.
    expect((await contentOf(second.file)).equals(truth.get(2) as Buffer)).toBe(true)
    await expectRestored(scene, truth)
    expect((await trackingStatus(scene.file)).consumers.map(({ name }) => name)).toEqual(['nightly'])
    expect(await scene.verify()).toMatchObject({ backups: [1, 2], damaged: [], source: { bytes: 0, changed: 0 } })
  })

  test('of a disk whose changes are not tracked reads all, and holds what differs', async () => {
    const scene = await Scene.make('qcow2', 64 * MiB, false)
    await scene.write(0, 4 * MiB, 1)
    await scene.backUp()
    await scene.write(MiB, 64 * KiB, 0)
    const second = await scene.backUp()
    expect(second).toMatchObject({ read: 4 * MiB, written: 64 * KiB, full: 'changes are not tracked' })
    await expectRestored(
      scene,
      new Map([
        [1, await restored(scene, 1)],
        [2, await scene.content()],
      ]),
    )
  })

  test('that finds a foreign writer reads all, and holds what differs', async () => {
    const scene = await Scene.make('raw', 16 * MiB)
    await scene.write(0, 2 * MiB, 1)
    await scene.backUp()
    const fd = fs.openSync(scene.file, 'r+')
    fs.writeSync(fd, Buffer.alloc(512, 7), 0, 512, 5 * MiB)
    fs.closeSync(fd)
    const second = await scene.backUp()
    expect(second).toMatchObject({ written: 64 * KiB })
    expect(second.full).toBeDefined()
    await expectRestored(
      scene,
      new Map([
        [1, await restored(scene, 1)],
        [2, await scene.content()],
      ]),
    )
  })

  test('keeps as many as it is told, merging the oldest away', async () => {
    const scene = await Scene.make('raw', 32 * MiB)
    const truth = new Map<number, Buffer>()
    for (let number = 1; number <= 5; number++) {
      await scene.write(number * 3 * MiB, 2 * MiB + 512, number)
      truth.set(number, await scene.content())
      const { retired } = await scene.backUp({ keep: 2, format: 'vhdx' })
      expect(retired).toEqual(number > 2 ? [number - 2] : [])
    }
    const { backups } = await listBackups(scene.folder)
    expect(backups.map(({ number }) => number)).toEqual([4, 5])
    await expectRestored(scene, truth)
    expect(await scene.verify()).toMatchObject({ backups: [4, 5], damaged: [], source: { bytes: 0 } })
    expect(fs.readdirSync(scene.folder).filter((name) => name.endsWith('.vhdx'))).toHaveLength(2)
  })

  test('rolls one image forward', async () => {
    const scene = await Scene.make('raw', 32 * MiB)
    const into = path.join(scene.home, 'full.qcow2')
    await scene.write(0, 2 * MiB, 1)
    await scene.backUp({ into })
    await scene.write(MiB, 2 * MiB, 2)
    const second = await scene.backUp({ into })
    expect(second).toMatchObject({ number: 2, file: into, retired: [1] })
    expect((await contentOf(into)).equals(await scene.content())).toBe(true)
    expect(fs.readdirSync(`${into}.vdisk-backups`).toSorted()).toEqual(['.lock', 'backups.json', 'full.qcow2.digests'])
  })

  test('goes on where one was cut short, and takes what changed since', async () => {
    const scene = await Scene.make('raw', 520 * MiB)
    for (const at of [0, 300, 515]) await scene.write(at * MiB, MiB, (at % 255) | 1)
    await stopAfter(scene, 2, { rate: 4 * MiB })
    await scene.write(300 * MiB, 64 * KiB, 99)
    await scene.write(10 * MiB, 64 * KiB, 98)
    expect(await scene.backUp()).toMatchObject({ number: 1, kind: 'full', verified: true })
    expect(await scene.verify()).toMatchObject({ damaged: [], source: { bytes: 0, changed: 0, full: undefined } })
    const left = fs.readdirSync(scene.folder).toSorted()
    expect(left).toEqual(['.lock', 'backups.json', 'full.qcow2', 'full.qcow2.digests'])
  })

  test('that was cut short need not copy again what is durable and has not changed', async () => {
    const scene = await Scene.make('raw', 64 * 256 * MiB + 256 * MiB)
    // More sections than are made durable at a time.
    await scene.change(async (disk) => {
      for (let section = 0; section < 65; section++)
        await disk.write(section * 256 * MiB, Buffer.alloc(64 * KiB, section + 1))
    })
    await stopAfter(scene, 1, { rate: 16 * MiB }, ({ done, total }) => done > total * 0.99)
    await scene.write(0, 64 * KiB, 200)
    const { resumed, read } = await scene.backUp()
    expect(resumed).toBe(true)
    // The section that changed, and at most the one that was not noted yet.
    expect(read).toBeLessThanOrEqual(2 * 64 * KiB)
    expect(await scene.verify()).toMatchObject({ damaged: [], source: { bytes: 0 } })
  })

  test('is not put among those of another disk, unless it is said to be the same', async () => {
    const [one, other] = [await Scene.make('raw', MiB), await Scene.make('raw', MiB)]
    await one.backUp()
    const source = await openSource(other.file, { format: 'raw' })
    try {
      const { code, message } = await refusal(() => finish(backUp(source, one.folder)))
      expect(code).toBe('REFUSED')
      expect(message).toContain(one.file)
      expect((await finish(backUp(source, one.folder, { sameDisk: true }))).number).toBe(2)
    } finally {
      await source.close()
    }
  })

  test('is not put into a folder with other things, nor over an image that no backup has made', async () => {
    const scene = await Scene.make('raw', MiB)
    fs.mkdirSync(scene.folder)
    fs.writeFileSync(path.join(scene.folder, 'letter.txt'), 'dear')
    expect((await refusal(() => scene.backUp())).code).toBe('REFUSED')
    const into = path.join(scene.home, 'taken.qcow2')
    fs.writeFileSync(into, '')
    expect((await refusal(() => scene.backUp({ into }))).code).toBe('REFUSED')
  })

  test('that rots is found, by place and number', async () => {
    const scene = await Scene.make('raw', 16 * MiB)
    await scene.write(0, 4 * MiB, 1)
    await scene.backUp()
    await scene.write(2 * MiB, MiB, 2)
    const { file } = await scene.backUp()
    const bytes = fs.readFileSync(file)
    // The first cluster of data.
    const at = bytes.indexOf(Buffer.alloc(64 * KiB, 2))
    expect(at).toBeGreaterThan(0)
    bytes[at + 100] = 3
    fs.writeFileSync(file, bytes)
    const found = await scene.verify()
    expect(found.damaged).toEqual([{ backup: 2, ranges: [{ offset: 2 * MiB, length: 64 * KiB }], bytes: 64 * KiB }])
    expect(found.source).toMatchObject({ bytes: 0 })
    const { code, where } = await refusal(() => restored(scene, 2))
    expect([code, where.offset]).toEqual(['CORRUPT', 2 * MiB])
    // The one below is as it was.
    expect((await scene.verify(false, { backup: 1 })).damaged).toEqual([])
  })

  test.each(['qcow2', 'vhdx'] as const)(
    'of %s whose lowest layer seems to be written to by a stranger are what their digests say: the next backup mends the links',
    async (format) => {
      const scene = await Scene.make('raw', 16 * MiB)
      for (const byte of [1, 2, 3]) {
        await scene.write(byte * MiB, MiB, byte)
        await scene.backUp({ format })
      }
      const truth = await scene.content()
      const { backups } = await listBackups(scene.folder)
      const [lowest, , newest] = backups.map(({ file }) => file) as [string, string, string]
      await seemWritten(lowest)
      expect((await refusal(() => contentOf(newest))).code).toBe('PARENT_MISMATCH')
      expect(await scene.verify()).toMatchObject({ damaged: [], backups: [1, 2, 3] })
      expect((await restored(scene, 3)).equals(truth)).toBe(true)
      const unchecked = restoreBackup(scene.folder, path.join(scene.home, 'unchecked'), {
        format: 'raw',
        verify: false,
      })
      expect((await refusal(() => finish(unchecked))).code).toBe('PARENT_MISMATCH')
      const { file } = await scene.backUp({ keep: 2 })
      expect((await contentOf(file)).equals(truth)).toBe(true)
      expect(await scene.verify()).toMatchObject({ damaged: [], backups: [3, 4] })
    },
  )

  test('of which one was changed by a stranger are not built upon any more', async () => {
    const scene = await Scene.make('raw', 16 * MiB)
    await scene.write(0, MiB, 1)
    const { file } = await scene.backUp()
    await scene.write(MiB, MiB, 2)
    await scene.backUp()
    {
      await using disk = await openDisk(file, { writable: true })
      await disk.write(0, Buffer.from('stranger'))
    }
    const { code, message } = await refusal(() => scene.backUp())
    expect([code, message]).toEqual(['CORRUPT', expect.stringContaining('backup 1 does not read as it must')])
  })

  test.each([
    ['zlib', {}],
    ['zstd', {}],
    ['zlib', { cluster_size: '4K' }],
  ] as const)('is packed by %s %j, all of it and what changed, and reads as the disk', async (compress, options) => {
    // The last cluster is cut short by the end of the disk.
    const scene = await Scene.make('raw', 8 * MiB + 512)
    const noise = randomFor('packed').bytes(64 * KiB)
    await scene.change(async (disk) => {
      for (let offset = 0; offset < 4 * MiB; offset += KiB) await disk.write(offset, Buffer.alloc(KiB, offset / KiB))
      // What does not shrink.
      await disk.write(5 * MiB, noise)
      await disk.write(8 * MiB, Buffer.alloc(512, 3))
    })
    const truth = new Map<number, Buffer>()
    const sizes: number[] = []
    for (const number of [1, 2, 3]) {
      truth.set(number, await scene.content())
      const { file, read } = await scene.backUp({ compress, options })
      sizes.push(read / fs.statSync(file).size)
      await scene.write(number * MiB + 100, MiB, number)
      await scene.change((disk) => disk.erase(3 * MiB, number * 64 * KiB))
    }
    for (const size of sizes) expect(size).toBeGreaterThan(2)
    await expectRestored(scene, truth)
    expect(await scene.verify()).toMatchObject({ damaged: [] })
    truth.set(4, await scene.content())
    await scene.backUp({ keep: 1, compress, options })
    await expectRestored(scene, truth)
    const [{ file } = { file: '' }] = (await listBackups(scene.folder)).backups
    expect((await finish(checkImage(file))).findings).toEqual([])
  })

  test('is packed as far as it was not begun, where one was cut short', async () => {
    const scene = await Scene.make('raw', 8 * MiB)
    await scene.write(0, 8 * MiB, 1)
    await stopAfter(scene, 2, { compress: 'zstd', rate: 4 * MiB })
    await scene.write(MiB, MiB, 2)
    const { number } = await scene.backUp({ compress: 'zstd' })
    await expectRestored(scene, new Map([[number, await scene.content()]]))
  })

  test('is not packed where that cannot be', async () => {
    const scene = await Scene.make('raw', MiB)
    const vhdx = await refusal(() => scene.backUp({ compress: 'zlib', format: 'vhdx' }))
    expect([vhdx.code, vhdx.message]).toEqual([
      'UNSUPPORTED',
      expect.stringContaining('vhdx, which has no compression'),
    ])
    for (const options of [{ cluster_size: '2M' }, { compression_type: 'zstd' }]) {
      expect((await refusal(() => scene.backUp({ compress: 'zlib', options }))).code).toBe('UNSUPPORTED')
    }
    expect((await scene.backUp({ compress: 'zlib' })).number).toBe(1)
  })

  test('whose disk was written to behind the back of all records is told to differ', async () => {
    const scene = await Scene.make('raw', 16 * MiB)
    await scene.write(0, 4 * MiB, 1)
    await scene.backUp()
    await scene.write(8 * MiB, 64 * KiB, 5)
    expect((await scene.verify()).source).toMatchObject({ bytes: 0, changed: 64 * KiB, full: undefined })
    const fd = fs.openSync(scene.file, 'r+')
    fs.writeSync(fd, Buffer.alloc(512, 7), 0, 512, MiB)
    fs.closeSync(fd)
    const { source, damaged } = await scene.verify()
    expect(damaged).toEqual([])
    expect(source?.full).toBeDefined()
    expect(source?.ranges).toEqual([
      { offset: MiB, length: 64 * KiB },
      { offset: 8 * MiB, length: 64 * KiB },
    ])
  })

  test.each(['raw', 'qcow2', 'vhdx'])(
    'are verified without a change to any file, whatever happened to a disk of %s',
    async (format) => {
      const scene = await Scene.make(format, 16 * MiB)
      await scene.write(0, 4 * MiB, 1)
      await scene.backUp()
      await scene.write(8 * MiB, 64 * KiB, 5)
      await expectNothingWritten(scene)
      // The record says that somebody writes: a writer was killed, and what it has left is not taken over yet.
      const sidecar = `${scene.file}.vdisk-track`
      let open = Buffer.alloc(0)
      await scene.change(async (disk) => {
        await disk.write(9 * MiB, new Uint8Array(100).fill(6))
        open = fs.readFileSync(sidecar)
      })
      writeOver(sidecar, open)
      await expectNothingWritten(scene)
      writeOver(scene.file, fs.readFileSync(scene.file))
      await expectNothingWritten(scene)
    },
  )

  describe.each(['qcow2', 'vhdx'] as const)('in layers of %s', (format) => {
    randomTest('restores every state of a long history', async (random) => {
      const scene = await Scene.make('raw', 8 * MiB)
      const truth = new Map<number, Buffer>()
      for (let number = 1; number <= 8; number++) {
        for (let i = 0; i < 4; i++) await changeSomething(scene, random)
        if (random.chance(0.3)) await backUpInPart(scene, random)
        const keep = random.chance(0.3) ? 1 + random.below(4) : undefined
        truth.set(number, await scene.content())
        expect((await scene.backUp({ format, keep })).number).toBe(number)
      }
      await expectRestored(scene, truth)
      expect(await scene.verify()).toMatchObject({ damaged: [], source: { bytes: 0 } })
    })
  })
})

/** Another program writes to a file. */
function writeOver(file: string, bytes: Uint8Array): void {
  const fd = fs.openSync(file, 'r+')
  fs.writeSync(fd, bytes)
  fs.closeSync(fd)
}

/** Leaves a layer as a power cut may that comes while it is closed: the same content, and another identity. */
async function seemWritten(file: string): Promise<void> {
  await using disk = await openDisk(file, { writable: true })
  const bytes = new Uint8Array(4096)
  await disk.read(MiB, bytes)
  await disk.write(MiB, bytes)
}

async function expectNothingWritten(scene: Scene): Promise<void> {
  const seen = (): unknown[] => {
    const names = fs.readdirSync(scene.home, { recursive: true, withFileTypes: true }).filter((one) => one.isFile())
    const files = names.map(({ parentPath, name }) => path.join(parentPath, name)).sort()
    return files.map((file) => {
      const { mtimeNs, ctimeNs, ino } = fs.statSync(file, { bigint: true })
      return { file, mtimeNs, ctimeNs, ino }
    })
  }
  const before = seen()
  expect((await scene.verify()).damaged).toEqual([])
  expect(seen()).toEqual(before)
}

async function changeSomething(scene: Scene, random: Random): Promise<void> {
  await scene.change(async (disk) => {
    const offset = random.below(disk.size)
    const length = Math.min(disk.size - offset, random.below(300 * KiB) + 1)
    const action = random.below(10)
    if (action < 6) await disk.write(offset, random.bytes(length))
    else if (action < 8) await disk.erase(offset, length)
  })
  if (random.chance(0.15)) {
    const size = (4 + random.below(9)) * MiB - (random.chance(0.5) ? 512 * random.below(200) : 0)
    await resizeDisk(scene.file, size, { format: scene.format, shrink: true })
  }
}

/** A backup that is cut short at some step. */
async function backUpInPart(scene: Scene, random: Random): Promise<void> {
  await stopAfter(scene, 1 + random.below(3), {})
  await changeSomething(scene, random)
}
