import { createHash } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test, vi } from 'vitest'
import { type BackedUp, backUp } from '../../../lib/backup/backup.ts'
import { decodeCatalogue, encodeCatalogue } from '../../../lib/backup/catalogue.ts'
import { listBackups } from '../../../lib/backup/list.ts'
import { restoreBackup } from '../../../lib/backup/restore.ts'
import { openSource } from '../../../lib/backup/source.ts'
import { verifyBackups } from '../../../lib/backup/verify.ts'
import type { VdiskError } from '../../../lib/errors.ts'
import { createDisk, enableTracking, finish, openDisk } from '../../../lib/index.ts'
import type { FileStore, Files, OpenFileOptions } from '../../../lib/io/files.ts'
import { hostFiles } from '../../../lib/io/host-files.ts'
import { contentOf, expectRestored, Scene, stopAfter } from '../../support/backup-scene.ts'
import { refusal } from '../../support/refusal.ts'
import { scratchFolder } from '../../support/temp.ts'

const MiB = 1 << 20
const KiB = 1024

/** Bytes of a disk that a backup notes at a time; more of them than it notes together. */
const SECTION = 256 * MiB
const SECTIONS = 65

const LAYER = { file: 'full.qcow2', digests: 'full.qcow2.digests', size: 65536, sum: '00' }
const BACKUP = { number: 1, layer: 'full.qcow2', at: 5, size: 65536, read: 0, written: 0, verified: true }
const CONTENT = { source: '/disk.raw', format: 'qcow2', granule: 65536, layers: [LAYER], backups: [BACKUP] }

/** A catalogue with its checksum, whatever it says. */
function catalogueOf(content: unknown, version: unknown = 1): string {
  const sha256 = createHash('sha256').update(JSON.stringify(content)).digest('hex')
  return JSON.stringify({ format: 'vdisk-backups', version, sha256, content })
}

async function refusedCatalogue(text: string): Promise<VdiskError> {
  const folder = scratchFolder()
  fs.writeFileSync(path.join(folder, 'backups.json'), text)
  const error = await refusal(() => listBackups(folder))
  expect(error.where.file).toBe(path.join(folder, 'backups.json'))
  return error
}

/** This machine's files, of which `change` may make others of one that is opened. */
function changedFiles(change: (file: string, store: FileStore, options: OpenFileOptions) => FileStore): Files {
  return { ...hostFiles, open: (file, options = {}) => change(file, hostFiles.open(file, options), options) }
}

/** The same open file, with other calls in the place of some of its own. */
function withCalls(store: FileStore, calls: Partial<FileStore>): FileStore {
  return new Proxy(store, {
    get(target, key) {
      const value: unknown = Reflect.get(key in calls ? calls : target, key)
      return typeof value === 'function' ? value.bind(key in calls ? calls : target) : value
    },
  })
}

describe('a catalogue of backups', () => {
  test.each([
    ['is no JSON', 'rubbish', 'it is no catalogue of backups'],
    ['is a list', '[]', 'it is no catalogue of backups'],
    ['is of something else', '{"format":"vdisk-link"}', 'it is no catalogue of backups'],
    ['was changed', catalogueOf(CONTENT).replace('/disk.raw', '/disk.rAw'), 'its checksum does not match'],
    ['has no content', '{"format":"vdisk-backups","version":1}', 'its checksum does not match'],
    ['does not tell the image', catalogueOf({ ...CONTENT, source: 5 }), 'it is not complete'],
    ['is of a format that is unknown', catalogueOf({ ...CONTENT, format: 'raw' }), 'it is not complete'],
    ['has another granule', catalogueOf({ ...CONTENT, granule: 4096 }), 'it is not complete'],
    ['has no layers', catalogueOf({ ...CONTENT, layers: undefined }), 'a list is missing'],
    ['has no backups', catalogueOf({ ...CONTENT, backups: {} }), 'a list is missing'],
    ['has a number for a layer', catalogueOf({ ...CONTENT, layers: [5] }), 'a layer is not described'],
    [
      'has a layer of no size',
      catalogueOf({ ...CONTENT, layers: [{ ...LAYER, size: -1 }] }),
      'a layer is not described',
    ],
    [
      'has a layer of no name',
      catalogueOf({ ...CONTENT, layers: [{ ...LAYER, file: 1 }] }),
      'a layer is not described',
    ],
    ['has a text for a backup', catalogueOf({ ...CONTENT, backups: ['one'] }), 'a backup is not described'],
    [
      'has a backup of half a number',
      catalogueOf({ ...CONTENT, backups: [{ ...BACKUP, number: 0.5 }] }),
      'a backup is not described',
    ],
    [
      'has a backup of which it is not said whether it was read back',
      catalogueOf({ ...CONTENT, backups: [{ ...BACKUP, verified: null }] }),
      'a backup is not described',
    ],
    [
      'has a backup in a layer that is not there',
      catalogueOf({ ...CONTENT, backups: [BACKUP, { ...BACKUP, number: 2, layer: '000002.qcow2' }] }),
      'backup 2 has no layer',
    ],
  ])('that %s is refused as damaged, with what is wrong', async (_, text, why) => {
    const error = await refusedCatalogue(text)
    expect([error.code, error.message]).toEqual(['CORRUPT', expect.stringContaining(why)])
    expect(error.advice).toContain('the newest opens')
  })

  test('of a later version is not guessed at', async () => {
    const error = await refusedCatalogue(catalogueOf(CONTENT, 2))
    expect([error.code, error.message]).toEqual(['UNSUPPORTED', expect.stringContaining('it is of version 2')])
  })

  test('larger than any is not read', async () => {
    const folder = scratchFolder()
    const file = path.join(folder, 'backups.json')
    fs.writeFileSync(file, '')
    fs.truncateSync(file, (64 << 20) + 1)
    const error = await refusal(() => listBackups(folder))
    expect([error.code, error.where.file]).toEqual(['LIMIT_EXCEEDED', file])
  })

  test('that names no backup says what to do', async () => {
    const folder = scratchFolder()
    fs.writeFileSync(path.join(folder, 'backups.json'), catalogueOf({ ...CONTENT, layers: [], backups: [] }))
    const error = await refusal(() => finish(verifyBackups(folder, undefined)))
    expect([error.code, error.advice]).toEqual(['NOT_FOUND', expect.stringContaining('Begin again')])
  })
})

describe('a folder of backups', () => {
  test('that holds none is told from one that does', async () => {
    const folder = scratchFolder()
    expect(await refusal(() => listBackups(folder))).toMatchObject({ code: 'NOT_FOUND', where: { file: folder } })
  })

  test('is made where it is to lie, not further up, and nothing else is taken for it', async () => {
    const scene = await Scene.make('raw', MiB)
    const source = await openSource(scene.file, { format: 'raw' })
    try {
      const deep = path.join(scene.home, 'not', 'there')
      expect(await refusal(() => finish(backUp(source, deep)))).toMatchObject({
        code: 'NOT_FOUND',
        where: { file: deep },
        advice: `Make it first: mkdir -p ${path.dirname(deep)}`,
      })
      expect(fs.existsSync(path.dirname(deep))).toBe(false)
      expect(await refusal(() => finish(backUp(source, scene.file)))).toMatchObject({
        code: 'REFUSED',
        where: { file: scene.file },
      })
    } finally {
      await source.close()
    }
  })

  test('takes layers of its first format alone, and no more than chains may have', async () => {
    const scene = await Scene.make('raw', MiB)
    await scene.backUp()
    const other = await refusal(() => scene.backUp({ format: 'vhdx' }))
    expect([other.code, other.message]).toEqual(['REFUSED', expect.stringContaining('the backups there are qcow2')])
    await scene.backUp({ format: 'qcow2', maxDepth: 2 })
    const full = await refusal(() => scene.backUp({ maxDepth: 2 }))
    expect([full.code, full.message]).toEqual(['LIMIT_EXCEEDED', expect.stringContaining('2 layers are there')])
    expect((await scene.backUp({ maxDepth: 3 })).number).toBe(3)
  })

  test('knows a tracked disk whose folder has another name, and its record', async () => {
    const home = scratchFolder()
    const [folder, before, after] = ['backups', 'one', 'two'].map((name) => path.join(home, name)) as [
      string,
      string,
      string,
    ]
    fs.mkdirSync(before)
    await (await createDisk(path.join(before, 'disk.raw'), { format: 'raw', size: MiB })).close()
    await enableTracking(path.join(before, 'disk.raw'), { format: 'raw' })
    const backUpFrom = async (place: string): Promise<BackedUp> => {
      const source = await openSource(path.join(place, 'disk.raw'), { format: 'raw' })
      try {
        return await finish(backUp(source, folder))
      } finally {
        await source.close()
      }
    }
    await backUpFrom(before)
    fs.renameSync(before, after)
    expect(await backUpFrom(after)).toMatchObject({ number: 2, read: 0, full: undefined })
    expect((await listBackups(folder)).source).toBe(path.join(after, 'disk.raw'))
  })

  test.each([
    ['is cut short', (file: string) => fs.truncateSync(file, 100)],
    ['is something else', (file: string) => fs.writeFileSync(file, Buffer.alloc(8192, 7))],
  ])('of which a table of digests %s is refused with its name', async (_, damage) => {
    const scene = await Scene.make('raw', MiB)
    await scene.backUp()
    await scene.write(0, 64 * KiB, 1)
    await scene.backUp()
    const digests = path.join(scene.folder, '000002.qcow2.digests')
    damage(digests)
    const wanted = { code: 'CORRUPT', where: { file: digests, offset: 0 } }
    expect(await refusal(() => scene.verify(false))).toMatchObject(wanted)
    // What the layers below have cannot be told, either.
    expect(await refusal(() => scene.backUp())).toMatchObject(wanted)
    expect((await scene.verify(false, { backup: 1 })).damaged).toEqual([])
  })

  test('whose digests are not those that were made is not called sound', async () => {
    const scene = await Scene.make('raw', MiB)
    await scene.write(0, 64 * KiB, 1)
    await scene.backUp()
    const digests = path.join(scene.folder, 'full.qcow2.digests')
    const bytes = fs.readFileSync(digests)
    bytes.writeUInt8(bytes.readUInt8(4096) ^ 1, 4096)
    fs.writeFileSync(digests, bytes)
    const error = await refusal(() => scene.verify(false))
    expect([error.code, error.where.file]).toEqual(['CORRUPT', digests])
    expect(error.message).toContain('its digests are not those of the backup')
  })

  test('says which backups there are where another is asked for', async () => {
    const scene = await Scene.make('raw', MiB)
    await scene.backUp()
    await scene.backUp()
    const error = await refusal(() => scene.verify(false, { backup: 7 }))
    expect([error.code, error.message]).toEqual(['NOT_FOUND', `Cannot find backup 7 in ${scene.folder}`])
    expect(error.advice).toContain('There are: 1, 2')
  })
})

describe('a backup', () => {
  test('that is not read back says so, and is as good; nor need what is restored be', async () => {
    const scene = await Scene.make('raw', MiB)
    await scene.write(0, 64 * KiB, 1)
    expect(await scene.backUp({ verify: false, durable: false, locking: false })).toMatchObject({ verified: false })
    const { backups } = await listBackups(scene.folder)
    expect(backups.map(({ verified }) => verified)).toEqual([false])
    expect((await scene.verify()).damaged).toEqual([])
    const out = path.join(scene.home, 'out.raw')
    expect(await finish(restoreBackup(scene.folder, out, { format: 'raw', verify: false }))).toMatchObject({
      verified: false,
    })
    expect((await contentOf(out)).equals(await scene.content())).toBe(true)
  })

  test('that reads back otherwise than it was written does not count, and the one before does', async () => {
    const scene = await Scene.make('raw', MiB)
    await scene.write(0, 64 * KiB, 1)
    await scene.backUp()
    await scene.write(512 * KiB, 64 * KiB, 2)
    const rots = changedFiles((file, store, { write }) =>
      write || !file.endsWith('.partial')
        ? store
        : withCalls(store, {
            async read(at, target) {
              await store.read(at, target)
              if (target.length === 64 * KiB && target[0] === 2) target[0] = 3
            },
          }),
    )
    const source = await openSource(scene.file, { format: 'raw' })
    try {
      const error = await refusal(() => finish(backUp(source, scene.folder, { files: rots })))
      expect([error.code, error.where.offset]).toEqual(['IO', 512 * KiB])
      const fails = changedFiles((file, store, { write }) => {
        if (write || !file.endsWith('.partial')) return store
        store.close()
        throw new Error('no such medium')
      })
      await expect(finish(backUp(source, scene.folder, { files: fails }))).rejects.toThrow('no such medium')
      expect((await listBackups(scene.folder)).backups.map(({ number }) => number)).toEqual([1])
      expect((await finish(backUp(source, scene.folder))).number).toBe(2)
    } finally {
      await source.close()
    }
    expect(await scene.verify()).toMatchObject({ damaged: [], source: { bytes: 0 } })
  })

  test('that was cut short and of which somebody has removed the layer begins anew', async () => {
    const scene = await Scene.make('raw', 8 * MiB)
    await scene.write(0, 8 * MiB, 1)
    await stopAfter(scene, 1, { rate: 4 * MiB })
    fs.rmSync(path.join(scene.folder, 'full.qcow2.partial'))
    expect(await scene.backUp()).toMatchObject({ resumed: false, read: 8 * MiB })
    expect((await scene.verify()).damaged).toEqual([])
  })

  test('that was cut short twice takes of each part what changed since its own moment', async () => {
    const scene = await manySections()
    await scene.write(0, 64 * KiB, 200)
    await scene.write(5 * SECTION, 64 * KiB, 201)
    // These two and the last are done again, of the second moment.
    await stopAfter(scene, 1, {}, ({ phase, done, total }) => phase === 'backup' && done === total)
    await scene.write(SECTION, 64 * KiB, 202)
    expect(await scene.backUp()).toMatchObject({ resumed: true, read: 64 * KiB })
    await expectDisk(scene)
  })

  test('that was cut short goes on from what is whole of its notes', async () => {
    const scene = await manySections()
    const notes = path.join(scene.folder, 'unfinished')
    const lines = fs.readFileSync(notes, 'utf8').split('\n')
    expect(lines).toHaveLength(1 + 64 + 1)
    // The line of the last section but one is torn: it and all after it do not count.
    lines[63] = `${lines[63]?.slice(0, -3)}xyz`
    fs.writeFileSync(notes, lines.join('\n'))
    expect(await scene.backUp()).toMatchObject({ resumed: true, read: 3 * 64 * KiB })
    await expectDisk(scene)
  })

  test('whose merging found the layers strangers to each other compares them, and goes on', async () => {
    const scene = await interruptedMerge()
    const truth = await scene.content()
    const { backups } = await listBackups(scene.folder)
    const lowest = path.join(scene.folder, 'full.qcow2')
    {
      await using disk = await openDisk(lowest, { writable: true })
      const bytes = new Uint8Array(4096)
      await disk.read(0, bytes)
      await disk.write(0, bytes)
    }
    expect((await refusal(() => contentOf(backups.at(-1)?.file as string))).code).toBe('PARENT_MISMATCH')
    const { number } = await scene.backUp()
    await expectRestored(
      scene,
      new Map([
        [2, truth],
        [number, truth],
      ]),
    )
  })

  test('whose merging fails for another reason is told that', async () => {
    const scene = await interruptedMerge()
    const image = path.join(scene.folder, '000002.qcow2')
    fs.truncateSync(image, 50)
    const error = await refusal(() => scene.backUp())
    expect(error.code).not.toBe('PARENT_MISMATCH')
    expect(error.where.file).toBe(image)
    expect(fs.statSync(image).size).toBe(50)
  })
})

/** A disk of 65 sections, and a backup that was cut short when 64 of them were durable. */
async function manySections(): Promise<Scene> {
  const scene = await Scene.make('raw', SECTIONS * SECTION)
  await scene.change(async (disk) => {
    for (let i = 0; i < SECTIONS; i++) await disk.write(i * SECTION, Buffer.alloc(64 * KiB, i + 1))
  })
  // It tells how far it is at each step.
  let now = Date.now()
  const clock = vi.spyOn(Date, 'now').mockImplementation(() => (now += 200))
  await stopAfter(scene, 1, {}, ({ done, total }) => done > (total * 64) / 65 && done < total)
  clock.mockRestore()
  return scene
}

/** Two backups, of which the first was given up: its layer is about to take the other's content. */
async function interruptedMerge(): Promise<Scene> {
  const scene = await Scene.make('raw', MiB)
  await scene.write(0, 64 * KiB, 1)
  await scene.backUp()
  await scene.write(512 * KiB, 64 * KiB, 2)
  await scene.backUp()
  const file = path.join(scene.folder, 'backups.json')
  const catalogue = decodeCatalogue(fs.readFileSync(file), file)
  fs.writeFileSync(file, encodeCatalogue({ ...catalogue, backups: catalogue.backups.slice(1) }))
  return scene
}

/** The newest backup reads as the disk. */
async function expectDisk(scene: Scene): Promise<void> {
  expect(await scene.verify()).toMatchObject({ damaged: [], source: { bytes: 0, changed: 0, full: undefined } })
}

describe('a disk to back up', () => {
  test('whose record of changes is damaged is read whole, with a note', async () => {
    const scene = await Scene.make('raw', MiB)
    await scene.write(0, 64 * KiB, 1)
    await scene.backUp({ consumer: 'nightly' })
    fs.truncateSync(`${scene.file}.vdisk-track`, 100)
    const source = await openSource(scene.file, { format: 'raw' })
    try {
      expect(source.notes).toEqual([expect.stringContaining('what is known of its changes cannot be used')])
      expect(source.token).toBeUndefined()
      const second = await finish(backUp(source, scene.folder, { consumer: 'nightly', sameDisk: true }))
      expect(second).toMatchObject({ number: 2, read: 64 * KiB, written: 0, full: 'changes are not tracked' })
    } finally {
      await source.close()
    }
  })

  test('that is in use is not', async () => {
    const scene = await Scene.make('raw', MiB)
    await scene.change(async () => {
      expect((await refusal(() => openSource(scene.file, { format: 'raw' }))).code).toBe('IN_USE')
    })
  })

  test('whose moment cannot be kept is closed again, with its record', async () => {
    const scene = await Scene.make('raw', MiB)
    const open = new Set<string>()
    const files = changedFiles((file, store, { write }) => {
      const name = `${file} ${open.size}`
      open.add(name)
      return withCalls(store, {
        close() {
          open.delete(name)
          store.close()
        },
        ...(write && file.endsWith('.vdisk-track')
          ? {
              flush() {
                throw new Error('no room for a moment')
              },
            }
          : {}),
      })
    })
    await expect(openSource(scene.file, { format: 'raw', files })).rejects.toThrow('no room for a moment')
    expect([...open]).toEqual([])
  })
})
