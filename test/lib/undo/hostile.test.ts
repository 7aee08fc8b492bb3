import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { createDisk, isVdiskError, planUndo, resizeDisk, undoImage, type VdiskError } from '../../../lib/index.ts'
import { batchOf, type NewRecord, recordOf } from '../../../lib/undo/batch.ts'
import { header, KIND, LIMIT, MAGIC, sealed } from '../../../lib/undo/layout.ts'
import { printSeed, randomTest } from '../../support/random.ts'
import { RecordingFiles } from '../../support/recording-files.ts'
import { scratchFolder } from '../../support/temp.ts'
import { UNDO_SCENES, type UndoScene } from '../../support/undo-scenes.ts'

printSeed()

const IMAGE = '/disks/image.qcow2'
const JOURNAL = `${IMAGE}.vdisk-undo`
const ID = '00112233-4455-6677-8899-aabbccddeeff'

interface Scene {
  readonly journal: Uint8Array
  readonly before: Uint8Array
  readonly after: Uint8Array
  /** another medium in the state after the verb, with this journal */
  with(journal: Uint8Array): RecordingFiles
}

async function sceneOf(title = 'qcow2, made larger'): Promise<Scene> {
  const scene = UNDO_SCENES.find((one) => one.title === title) as UndoScene
  const files = new RecordingFiles()
  await scene.make('/disks', { files })
  const bytes = (name: string): Uint8Array => files.content(name)?.bytes() as Uint8Array
  const before = bytes(IMAGE)
  await scene.run(IMAGE, { files, undo: true })
  const after = bytes(IMAGE)
  return {
    journal: bytes(JOURNAL),
    before,
    after,
    with(journal) {
      const medium = new RecordingFiles()
      medium.put(IMAGE, after)
      medium.put(JOURNAL, journal)
      return medium
    },
  }
}

/** Undoes with some journal. @returns why not; undefined: it was done, and everything is as before */
async function attempt(scene: Scene, journal: Uint8Array, what: string): Promise<VdiskError | undefined> {
  const medium = scene.with(journal)
  const content = (): Uint8Array => medium.content(IMAGE)?.bytes() as Uint8Array
  try {
    await undoImage(IMAGE, { files: medium, force: true })
  } catch (error) {
    if (!isVdiskError(error)) throw new Error(`${what}: ${String(error)}`, { cause: error })
    expect(Buffer.compare(content(), scene.after), `${what}: the image is as the verb left it`).toBe(0)
    return error
  }
  expect(Buffer.compare(content(), scene.before), `${what}: the image is as before`).toBe(0)
  return undefined
}

describe('a damaged journal changes nothing', () => {
  test('cut off at any byte', async () => {
    const scene = await sceneOf()
    for (let end = 0; end < scene.journal.length; end++) {
      const error = await attempt(scene, scene.journal.subarray(0, end), `cut at ${end}`)
      // The last sector is padded: without its end nothing is missing.
      if (end < scene.journal.length - 512) expect(error?.code, `cut at ${end}`).toBe('CORRUPT')
    }
  })

  randomTest('with any byte changed', async (random) => {
    const scene = await sceneOf()
    let refused = 0
    for (let at = 0; at < scene.journal.length; at++) {
      const journal = scene.journal.slice()
      journal[at] = (journal[at] as number) ^ (1 << random.below(8))
      if (await attempt(scene, journal, `byte ${at} changed`)) refused++
    }
    // What is not refused lies in the padding between batches, and says nothing.
    expect(refused).toBeGreaterThan(scene.journal.length / 3)
  })

  randomTest('made of random bytes, with and without a head that is right', async (random) => {
    const scene = await sceneOf()
    for (let round = 0; round < 300; round++) {
      const journal = random.bytes(random.below(5000))
      if (round % 3 !== 0) journal.set(scene.journal.subarray(0, 512).subarray(0, journal.length))
      expect((await attempt(scene, journal, `round ${round}`))?.code).toBe('CORRUPT')
    }
  })

  test('of another state of the image', async () => {
    const scene = await sceneOf()
    const other = await sceneOf('qcow2, made smaller')
    expect((await attempt(scene, other.journal, 'of another image'))?.code).toBe('REFUSED')
  })
})

/** A journal with all its checksums right. */
function crafted(records: readonly Partial<NewRecord>[], size: number): Uint8Array {
  const image = { kind: KIND.file, file: 0, at: BigInt(size), length: 0n }
  const all = [image, ...records].map((record) => recordOf({ kind: 0, file: 0, at: 0n, length: 0n, ...record }))
  return craftedOf(Buffer.concat(all))
}

/** The same, of one batch that holds some bytes. */
function craftedOf(body: Uint8Array, version = 1): Uint8Array {
  const head = header.encode({
    magic: MAGIC.header,
    version,
    checksum: 0,
    id: ID,
    begun: Number.MAX_SAFE_INTEGER,
    batches: 1,
    wordsLength: 65_535,
    words: Buffer.from('\u001b[31mrm -rf\n'),
  })
  return Buffer.concat([sealed(head, header.offsetOf('checksum')), batchOf(ID, 0, body)])
}

const SECTOR = new Uint8Array(512).fill(7)
const text = (name: string): Uint8Array => new TextEncoder().encode(name)

describe('a journal that lies, with every checksum right, changes nothing', () => {
  const HUGE = 2n ** 63n
  const old = { kind: KIND.old, at: 512n, length: 512n, payload: SECTOR }
  test.each<[string, readonly Partial<NewRecord>[]]>([
    ['old content past the end', [{ ...old, at: 1n << 40n }]],
    ['old content at a place that no file has', [{ ...old, at: HUGE }]],
    ['old content that is not as long as it says', [{ ...old, length: 1024n }]],
    ['old content at half a sector', [{ ...old, at: 100n }]],
    ['old content of half a sector', [{ ...old, length: 100n, payload: SECTOR.subarray(0, 100) }]],
    ['old content of no length', [{ ...old, length: 0n, payload: new Uint8Array(0) }]],
    ['old content twice', [old, old]],
    ['zeros over old content', [old, { kind: KIND.oldZero, at: 0n, length: 4096n }]],
    ['zeros past the end', [{ kind: KIND.oldZero, at: 0n, length: 1n << 50n }]],
    ['zeros that bring bytes', [{ kind: KIND.oldZero, at: 0n, length: 512n, payload: SECTOR }]],
    ['zeros of a length that no file has', [{ kind: KIND.notedZero, at: 0n, length: HUGE }]],
    ['checksums that are too few', [{ kind: KIND.noted, at: 0n, length: 1024n, payload: new Uint8Array(4) }]],
    [
      'a run of checksums that is too long',
      [{ kind: KIND.noted, at: 0n, length: 512n * 129n, payload: new Uint8Array(516) }],
    ],
    ['a size that no file has', [{ kind: KIND.size, at: HUGE }]],
    ['a file that it did not name', [{ ...old, file: 1 }]],
    ['the image twice', [{ kind: KIND.file, file: 1, at: 0n, length: 0n }]],
    ['files out of order', [{ kind: KIND.file, file: 5, at: 0n, length: 0n, payload: text('x') }]],
    ['a name of some length', [{ kind: KIND.file, file: 1, payload: new Uint8Array(LIMIT.name + 1).fill(97) }]],
    ['a change after the end', [{ kind: KIND.end, at: 0n, length: 1n }, old]],
    ['checksums of half a sector', [{ kind: KIND.noted, at: 0n, length: 100n, payload: new Uint8Array(4) }]],
    ['a file of a size that none has', [{ kind: KIND.file, file: 1, at: HUGE, payload: text('x') }]],
    ['a record of an unknown kind', [{ kind: 99, at: 0n, length: 512n }]],
    [
      'too many files',
      Array.from({ length: LIMIT.files }, (_, i) => ({ kind: KIND.file, file: i + 1, payload: text(`f${i}`) })),
    ],
  ])('%s', async (what, records) => {
    const scene = await sceneOf()
    const error = await attempt(scene, crafted(records, scene.after.length), what)
    expect([error?.code, error?.where.structure]).toEqual(['CORRUPT', 'undo journal'])
  })

  const image = recordOf({ kind: KIND.file, file: 0, at: 0n, length: 0n })
  test.each<[string, Uint8Array, string]>([
    ['of no file', recordOf({ kind: KIND.undoing, file: 0, at: 0n, length: 0n }), 'it speaks of no file'],
    ['with a record that is cut off', Buffer.concat([image, image.subarray(0, 20)]), 'a record is cut off'],
    [
      'with a record that is longer than its batch',
      recordOf({ ...old, file: 0 }).subarray(0, 100),
      'a record is longer than its batch',
    ],
  ])('%s', async (what, body, why) => {
    const scene = await sceneOf()
    const error = await attempt(scene, craftedOf(body), what)
    expect([error?.code, error?.message]).toEqual(['CORRUPT', expect.stringContaining(why)])
  })

  test('content that was never there, over content that is none of its own', async () => {
    const scene = await sceneOf()
    const error = await attempt(scene, crafted([old], scene.after.length), 'invented')
    expect(error).toMatchObject({ code: 'REFUSED', message: expect.stringContaining('it was written to at 512') })
  })

  test('a size that the image never had', async () => {
    const scene = await sceneOf()
    for (const size of [0, 1, 2 ** 52]) {
      expect((await attempt(scene, crafted([], size), `size ${size}`))?.message).toContain('was left with')
    }
  })

  test('more records than it may have', async () => {
    const scene = await sceneOf()
    const records = Array.from({ length: LIMIT.records }, () => ({ kind: KIND.size, at: 1n }))
    expect((await attempt(scene, crafted(records, scene.after.length), 'many'))?.code).toBe('LIMIT_EXCEEDED')
  })

  test('its words reach no terminal as they are', async () => {
    const scene = await sceneOf()
    const error = await attempt(scene, crafted([old], scene.after.length), 'words')
    expect(error?.message).toContain('rm -rf')
    const plan = await planUndo(IMAGE, { files: scene.with(crafted([], scene.after.length)) })
    expect(Number.isNaN(new Date(plan.begun).getTime())).toBe(false)
  })
})

test('a journal of a later version is neither used nor replaced', async () => {
  const scene = await sceneOf()
  const journal = craftedOf(new Uint8Array(0), 2)
  expect((await attempt(scene, journal, 'version 2'))?.code).toBe('UNSUPPORTED')
  const files = scene.with(journal)
  await expect(resizeDisk(IMAGE, 90 << 20, { files, undo: true })).rejects.toMatchObject({ code: 'UNSUPPORTED' })
  expect(Buffer.compare(files.content(IMAGE)?.bytes() as Uint8Array, scene.after)).toBe(0)
  expect(Buffer.compare(files.content(JOURNAL)?.bytes() as Uint8Array, journal)).toBe(0)
})

test.each([
  ['a verb', [], 'Cannot change /disks/image.qcow2: "'],
  ['its undoing', [{ kind: KIND.undoing }], 'Cannot change /disks/image.qcow2: the undoing of "'],
])('where %s was cut short, nothing else is begun', async (_, records, why) => {
  const scene = await sceneOf()
  const files = scene.with(crafted(records, scene.after.length))
  await expect(resizeDisk(IMAGE, 90 << 20, { files, undo: true })).rejects.toMatchObject({
    code: 'REFUSED',
    message: expect.stringContaining(why),
    advice: expect.stringContaining('--discard'),
  })
  expect(Buffer.compare(files.content(IMAGE)?.bytes() as Uint8Array, scene.after)).toBe(0)
})

describe.skipIf(process.platform === 'win32')('names in a journal lead nowhere that names in an image do not', () => {
  test.each([
    '../canary',
    '/etc/canary',
    'link',
    'nbd://localhost/canary',
    'json:{"file.filename":"canary"}',
    'fifo',
    'folder',
    'a\nb',
    'image.raw',
    'linked/canary',
  ])('%s', async (name) => {
    const root = scratchFolder()
    const folder = path.join(root, 'disks')
    fs.mkdirSync(path.join(folder, 'folder'), { recursive: true })
    const canary = path.join(root, 'canary')
    fs.writeFileSync(canary, 'precious')
    fs.symlinkSync(canary, path.join(folder, 'link'))
    fs.symlinkSync(root, path.join(folder, 'linked'))
    spawnSync('mkfifo', [path.join(folder, 'fifo')])
    const image = path.join(folder, 'image.raw')
    fs.writeFileSync(image, 'image')
    const records = [
      { kind: KIND.file, file: 1, at: 8n, payload: text(name) },
      { kind: KIND.old, file: 1, at: 0n, length: 8n, payload: text('replaced') },
      { kind: KIND.noted, file: 1, at: 0n, length: 512n, payload: new Uint8Array(4) },
    ]
    fs.writeFileSync(`${image}.vdisk-undo`, crafted(records, 5))
    await expect(undoImage(image, { force: true })).rejects.toMatchObject({
      code: expect.stringMatching(/REFUSED|NOT_FOUND|IN_USE/),
    })
    expect(fs.readFileSync(canary, 'utf8')).toBe('precious')
    expect(fs.readFileSync(image, 'utf8')).toBe('image')
  })
})

describe.skipIf(process.platform === 'win32')('what stands where a journal belongs', () => {
  async function imageWith(
    stand: (journal: string, canary: string) => void,
  ): Promise<{ image: string; canary: string }> {
    const folder = scratchFolder()
    const canary = path.join(folder, 'canary')
    fs.writeFileSync(canary, 'precious')
    const image = path.join(folder, 'image.qcow2')
    await (await createDisk(image, { format: 'qcow2', size: 1 << 20 })).close()
    stand(`${image}.vdisk-undo`, canary)
    return { image, canary }
  }

  test.each<[string, (journal: string, canary: string) => void]>([
    ['a link', (journal, canary) => fs.symlinkSync(canary, journal)],
    ['a folder', (journal) => fs.mkdirSync(journal)],
    ['a FIFO', (journal) => void spawnSync('mkfifo', [journal])],
  ])('%s is not followed, and not opened', async (_what, stand) => {
    const { image, canary } = await imageWith(stand)
    await expect(undoImage(image)).rejects.toMatchObject({ code: 'REFUSED' })
    await expect(planUndo(image)).rejects.toMatchObject({ code: 'REFUSED' })
    expect(fs.readFileSync(canary, 'utf8')).toBe('precious')
  })

  test('a link is replaced by the next journal, and what it leads to stays', async () => {
    const { image, canary } = await imageWith((journal, target) => {
      fs.symlinkSync(target, journal)
      fs.symlinkSync(target, `${journal}.partial`)
    })
    await resizeDisk(image, 2 << 20, { undo: true })
    expect(fs.readFileSync(canary, 'utf8')).toBe('precious')
    expect(fs.lstatSync(`${image}.vdisk-undo`).isFile()).toBe(true)
    expect(fs.existsSync(`${image}.vdisk-undo.partial`)).toBe(false)
    await undoImage(image)
  })

  test('a folder keeps the verb from changing anything', async () => {
    const { image } = await imageWith((journal) => fs.mkdirSync(path.join(journal, 'x'), { recursive: true }))
    const before = fs.readFileSync(image)
    await expect(resizeDisk(image, 2 << 20, { undo: true })).rejects.toMatchObject({
      code: 'IO',
      advice: expect.stringContaining('--no-undo'),
    })
    expect(fs.readFileSync(image).equals(before)).toBe(true)
    expect(fs.readdirSync(path.dirname(image)).filter((name) => name.endsWith('.partial'))).toEqual([])
  })

  test('an old journal that cannot be read is replaced', async () => {
    const { image } = await imageWith((journal) => fs.writeFileSync(journal, 'nothing of ours'))
    await resizeDisk(image, 2 << 20, { undo: true })
    await undoImage(image)
  })
})
