import { describe, expect, test } from 'vitest'
import { VdiskError } from '../../../lib/errors.ts'
import { promised, settle } from '../../../lib/io/io.ts'
import { MemoryStore } from '../../../lib/io/memory.ts'
import type { ByteStore } from '../../../lib/io/store.ts'
import type { Subject } from '../../../lib/tracking/binding.ts'
import { ChangeMap } from '../../../lib/tracking/change-map.ts'
import { oneByOne } from '../../../lib/tracking/changed-runs.ts'
import { NO_CONTENT } from '../../../lib/tracking/guard.ts'
import { LIMIT, REGION } from '../../../lib/tracking/layout.ts'
import { Superblock } from '../../../lib/tracking/superblock.ts'
import type { Token } from '../../../lib/tracking/token.ts'
import { refusal } from '../../support/refusal.ts'
import { watchedStore } from '../../support/stores.ts'

const G = 65_536
const SIZE = 64 << 20
const STAMP = { size: 1, modified: 2n, changed: 3n, inode: 4n, born: 5n }
const OWN = { size: 9, modified: 8n, changed: 7n, inode: 6n, born: 5n }
const CONTENT = new Uint8Array(32).fill(7)

/** A tracked disk whose sidecar lies on a medium that does what a test says. */
class Scene {
  readonly medium = new MemoryStore('disk.vdisk-track')
  size = SIZE
  removed = 0
  /** called before each change of the sidecar */
  before: () => void | Promise<void> = () => {}
  map!: ChangeMap

  static async make(options: { size?: number; required?: boolean } = {}): Promise<Scene> {
    const scene = new Scene()
    scene.size = options.size ?? SIZE
    const { required = false } = options
    await promised(ChangeMap.create(scene.store(), scene.subject(), { granularity: G, required, at: 0 }))
    await scene.open()
    return scene
  }

  subject(): Subject {
    return { size: this.size, stamp: STAMP, content: CONTENT, next: CONTENT, noticesWriters: true }
  }

  store(): ByteStore {
    const store = watchedStore(this.medium, ({ kind }) => {
      if (kind === 'write') return this.before()
    })
    return { ...store, stamp: () => OWN }
  }

  options() {
    return {
      store: this.store(),
      sizeOf: () => this.size,
      stampOf: () => STAMP,
      contentOf: () => CONTENT,
      remove: () => void this.removed++,
      now: () => 0,
    }
  }

  async open(subject = this.subject()): Promise<void> {
    this.map = await promised(ChangeMap.open(subject, this.options()))
  }

  async write(offset: number, length: number): Promise<void> {
    await this.end(offset, length, await this.begin(offset, length))
  }

  async begin(offset: number, length: number): Promise<number> {
    const begun = this.map.begin(offset, length)
    return typeof begun === 'number' ? begun : await promised(begun)
  }

  async end(offset: number, length: number, begun: number): Promise<void> {
    const ending = this.map.end(offset, length, begun)
    if (ending) await promised(ending)
  }

  async changes(token: Token | undefined, map = this.map): Promise<{ full: string | undefined; granules: number[] }> {
    const granules: number[] = []
    const tell = oneByOne((offset, length) => {
      for (let at = offset; at < offset + length; at += G) granules.push(at / G)
    })
    const { full } = await promised(map.changes(token, tell))
    return { full, granules }
  }
}

function noRoom(): never {
  throw new VdiskError('NO_SPACE', { message: 'Cannot write: no room is left', where: { file: 'disk.vdisk-track' } })
}

describe('a record of changes on a medium that is full', () => {
  test('is lost where it may be: the disk is written all the same, and whoever asks is told that all counts', async () => {
    const scene = await Scene.make()
    const token = await promised(scene.map.checkpoint('nightly'))
    scene.before = () => {
      scene.before = () => {}
      noRoom()
    }
    await scene.write(0, G)
    expect(scene.map.problem).toBe('the record of changes could not be written: Cannot write: no room is left')
    // What is asked of it later changes nothing, and fails nothing.
    await scene.write(5 * G, G)
    await promised(scene.map.resizing(100))
    scene.map.resized()
    await promised(scene.map.flushed())
    await promised(scene.map.remember('other', token))
    await promised(scene.map.lose('something else'))
    expect(scene.map.problem).toContain('no room is left')
    expect((await scene.changes(token)).full).toContain('no room is left')
    await promised(scene.map.close())
    await scene.open()
    expect((await scene.changes(token)).full).toContain('no room is left')
    expect(scene.map.facts.consumers.map(({ name }) => name)).toEqual(['nightly'])
    expect(scene.map.tokenOf('nightly')).toBeUndefined()
    expect(scene.removed).toBe(0)
  })

  test('begins anew with the next checkpoint, once what was not recorded has ended', async () => {
    const scene = await Scene.make()
    scene.before = () => {
      scene.before = () => {}
      noRoom()
    }
    const first = await scene.begin(0, G)
    const second = await scene.begin(9 * G, G)
    const asked = promised(scene.map.checkpoint())
    let done = false
    void asked.then(() => {
      done = true
    })
    await scene.end(0, G, first)
    await new Promise((resolve) => setImmediate(resolve))
    expect(done).toBe(false)
    await scene.end(9 * G, G, second)
    const token = await asked
    expect(scene.map.problem).toBeUndefined()
    await scene.write(3 * G, G)
    expect(await scene.changes(token)).toEqual({ full: undefined, granules: [3] })
  })

  test('that cannot even be marked is removed, and stays away', async () => {
    const scene = await Scene.make()
    scene.before = noRoom
    await scene.write(0, G)
    expect(scene.removed).toBe(1)
    scene.before = () => {}
    const error = await refusal(() => promised(scene.map.checkpoint()))
    expect([error.code, error.message]).toEqual(['REFUSED', expect.stringContaining('it is gone, since the record')])
    await promised(scene.map.close())
  })

  test('keeps a disk from being written to where it is required, and the change has not begun', async () => {
    const scene = await Scene.make({ required: true })
    const token = await promised(scene.map.checkpoint())
    scene.before = noRoom
    const error = await refusal(() => scene.write(0, G))
    expect([error.code, error.advice]).toEqual(['NO_SPACE', expect.stringContaining('--best-effort')])
    expect((await refusal(() => promised(scene.map.resizing(G)))).code).toBe('NO_SPACE')
    scene.before = () => {}
    scene.map.resized()
    await scene.write(2 * G, G)
    expect(await scene.changes(token)).toEqual({ full: undefined, granules: expect.arrayContaining([2]) })
    expect(scene.removed).toBe(0)
  })

  test('closes in peace: the medium says that it is open, and that is true', async () => {
    const scene = await Scene.make()
    await scene.write(0, G)
    scene.before = noRoom
    await promised(scene.map.close())
    scene.before = () => {}
    const { facts } = await promised(Superblock.open(scene.medium))
    expect(facts.state).toBe('open')
  })

  test('what is no failure of a medium is nobody else’s to hide', async () => {
    const scene = await Scene.make()
    scene.before = () => {
      throw new TypeError('a mistake')
    }
    await expect(scene.write(0, G)).rejects.toThrow(TypeError)
    await expect(promised(scene.map.lose('for a test'))).rejects.toThrow(TypeError)
    await expect(promised(scene.map.close())).rejects.toThrow(TypeError)
    expect(scene.removed).toBe(0)
  })

  test('from the start tells its problem, and nothing that comes is taken for recorded', async () => {
    const scene = await Scene.make()
    await promised(scene.map.close())
    scene.before = () => {
      scene.before = () => {}
      noRoom()
    }
    await scene.open()
    expect(scene.map.problem).toContain('no room is left')
  })
})

describe('a record of changes', () => {
  test('knows nothing of a change of no bytes', async () => {
    const scene = await Scene.make()
    const token = await promised(scene.map.checkpoint())
    await scene.write(5 * G, 0)
    expect(await scene.changes(token)).toEqual({ full: undefined, granules: [] })
  })

  test('is lost where the disk becomes larger than can be tracked', async () => {
    const scene = await Scene.make()
    await promised(scene.map.resizing(LIMIT.disk + 1))
    expect(scene.map.problem).toContain('larger than can be tracked')
    const huge = { ...scene.subject(), size: LIMIT.disk + 1 }
    const how = { granularity: G, required: false, at: 0 }
    expect(await refusal(() => promised(ChangeMap.create(scene.store(), huge, how)))).toMatchObject({
      code: 'LIMIT_EXCEEDED',
      where: { file: 'disk.vdisk-track' },
    })
  })

  test('tells of an epoch that is used up, and goes on with the next', async () => {
    const scene = await Scene.make()
    await promised(scene.map.close())
    const block = await promised(Superblock.open(scene.medium))
    await promised(block.write({ epoch: LIMIT.epoch - 1 }))
    await scene.open()
    const before = { trackId: scene.map.facts.trackId, epoch: LIMIT.epoch - 2, size: SIZE }
    await promised(scene.map.checkpoint())
    expect((await scene.changes(before)).full).toContain('its epochs were used up')
  })

  test('answers a token that is none of its own with all of the disk, and why', async () => {
    const scene = await Scene.make()
    const token = await promised(scene.map.checkpoint())
    const whole = Array.from({ length: SIZE / G }, (_, i) => i)
    for (const [asked, why] of [
      [undefined, 'no token was given'],
      [{ ...token, trackId: '00112233-4455-6677-8899-aabbccddeeff' }, 'or of another disk'],
      [{ ...token, epoch: token.epoch + 1 }, 'from a later state'],
    ] as const)
      expect(await scene.changes(asked)).toEqual({ full: expect.stringContaining(why), granules: whole })
  })

  test('says what others wrote, as the guard of the image tells, whether it is looked at or opened', async () => {
    const scene = await Scene.make()
    const token = await promised(scene.map.checkpoint())
    await promised(scene.map.close())
    const block = await promised(Superblock.open(scene.medium))
    const guard = { id: '0123abcd', granularity: G, size: SIZE, content: CONTENT }
    await promised(block.write({ guard }))
    const changed = [{ offset: 7 * G, length: 2 * G }]
    const overtaken = {
      content: CONTENT,
      *changed() {
        return yield* settle(changed)
      },
    }
    const other = { ...scene.subject(), content: new Uint8Array(32).fill(9), overtaken }
    const seen = await promised(ChangeMap.view(other, scene.options()))
    expect(await scene.changes(token, seen)).toEqual({ full: undefined, granules: [7, 8] })
    expect(seen.staleGuard).toEqual(guard)
    await scene.open(other)
    expect(await scene.changes(token)).toEqual({ full: undefined, granules: [7, 8] })
  })

  test('whose guard says what it should has none that is stale', async () => {
    const scene = await Scene.make()
    await promised(scene.map.close())
    expect((await promised(ChangeMap.view(scene.subject(), scene.options()))).staleGuard).toBeUndefined()
    const block = await promised(Superblock.open(scene.medium))
    const guard = { id: '0123abcd', granularity: G, size: SIZE, content: CONTENT }
    await promised(block.write({ guard }))
    expect((await promised(ChangeMap.view(scene.subject(), scene.options()))).staleGuard).toBeUndefined()
    const unbegun = { ...guard, content: NO_CONTENT }
    await promised(block.write({ guard: unbegun }))
    expect((await promised(ChangeMap.view(scene.subject(), scene.options()))).staleGuard).toEqual(unbegun)
  })

  test('that cannot be seen whole by a reader says so: too much of it was lost, or too much changed', async () => {
    const regions = (1 << 16) + 1
    const scene = await Scene.make({ size: regions * REGION })
    await promised(scene.map.checkpoint())
    await scene.write(0, regions * REGION)
    // A writer is killed here: its intents name more than a reader keeps in memory.
    const seen = await promised(ChangeMap.view(scene.subject(), scene.options()))
    expect(seen.problem).toContain('more of the record of changes was lost than can be named')
    await promised(scene.map.close())
    const block = await promised(Superblock.open(scene.medium))
    await promised(block.write({ guard: { id: '0123abcd', granularity: G, size: SIZE, content: CONTENT } }))
    const overtaken = {
      content: CONTENT,
      *changed() {
        return yield* settle([{ offset: 0, length: 5000 * 1020 * G }])
      },
    }
    const large = { ...scene.subject(), size: 6000 * 1020 * G, content: new Uint8Array(32).fill(9), overtaken }
    scene.size = large.size
    const other = await promised(ChangeMap.view(large, scene.options()))
    expect(other.problem).toContain('another program changed more of the image than can be named')
  })
})
