import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { pathToFileURL } from 'node:url'
import { expect, test } from 'vitest'
import { openSource } from '../../lib/backup/source.ts'
import {
  type Answer,
  type ChangedExtent,
  changesSince,
  checkpoint,
  createDisk,
  disableTracking,
  enableTracking,
  exportBitmap,
  listBitmaps,
  openDisk,
  relink,
  trackingStatus,
} from '../../lib/index.ts'
import { byteMap } from '../support/bitmaps.ts'
import { MAIN } from '../support/command-line.ts'
import { describeWithPeers, runPeer } from '../support/peers.ts'
import { expectCleanByQemu, expectCleanByUs, Qemu } from '../support/qemu.ts'
import { printSeed, randomFor, randomTest } from '../support/random.ts'
import { scratchFolder } from '../support/temp.ts'

printSeed()

const TOOLS = ['qemu-img', 'qemu-io'] as const
const SIZE = 8 << 20
const GRANULARITY = 65536
const KILLER = pathToFileURL(path.join(import.meta.dirname, '..', 'support', 'kill-at-change.mjs')).href
/** How often a checkpoint is killed, at places that cover its whole length. */
const KILLS = Number(process.env.VDISK_GUARD_KILLS ?? 5)

/** An image with some content whose changes are tracked, with a guard. */
interface Scene {
  readonly qemu: Qemu
  readonly file: string
  readonly token: string
  /** what is told although nobody changed it */
  readonly sentinels: Uint8Array
}

async function guarded(make: (qemu: Qemu) => unknown = (qemu) => qemu.create('a', SIZE)): Promise<Scene> {
  const qemu = new Qemu(scratchFolder())
  await make(qemu)
  const file = qemu.path('a')
  const token = await enableTracking(file, { guard: true, granularity: GRANULARITY })
  const { guard = '' } = await trackingStatus(file)
  expect(guard).toMatch(/^vdisk-guard-[0-9a-f]{8}$/)
  const fresh: ChangedExtent[] = []
  await exportBitmap(file, guard, { visit: (extent) => fresh.push(extent) })
  return { qemu, file, token, sentinels: byteMap(SIZE, fresh) }
}

async function told(file: string, token: string): Promise<Answer & { sectors: Uint8Array }> {
  const extents: ChangedExtent[] = []
  const answer = await changesSince(file, token, { visit: (extent) => extents.push(extent) })
  return { ...answer, sectors: byteMap(answer.size, extents) }
}

/** All of what changed is told, and nothing else but what a guard always has. */
async function expectExactly(
  { file, sentinels }: Scene,
  token: string,
  changed: readonly ChangedExtent[],
): Promise<void> {
  const { full, sectors } = await told(file, token)
  expect(full).toBeUndefined()
  const granules = changed.map(({ offset, length }) => {
    const start = offset - (offset % GRANULARITY)
    return { offset: start, length: Math.ceil((offset + length) / GRANULARITY) * GRANULARITY - start }
  })
  const needed = byteMap(Math.max(SIZE, sectors.length * 512), granules)
  for (const [i, sector] of sectors.entries()) {
    if (needed[i]) expect(sector, `sector ${i} has changed`).toBe(1)
    else if (!sentinels[i]) expect(sector, `sector ${i} was not touched`).toBe(0)
  }
}

/** All of the disk counts as changed, for this reason. */
async function expectFull({ file }: Scene, token: string, why: RegExp): Promise<void> {
  expect((await told(file, token)).full).toMatch(why)
}

async function write(file: string, offset: number, length: number): Promise<void> {
  await using disk = await openDisk(file, { writable: true })
  await disk.write(offset, new Uint8Array(length).fill(7))
}

/** Overwrites bytes of a file past its format. */
function dd(file: string, at: number, bytes: Uint8Array): void {
  const opened = fs.openSync(file, 'r+')
  fs.writeSync(opened, bytes, 0, bytes.length, at)
  fs.closeSync(opened)
}

describeWithPeers(TOOLS, 'with a guard, what QEMU changes is told exactly', () => {
  randomTest('by turns with us, to all who ask', async (random) => {
    const ours = random.below(2) === 0
    const scene = await guarded((qemu) =>
      ours
        ? createDisk(qemu.path('a'), { format: 'qcow2', size: SIZE }).then((disk) => disk.close())
        : qemu.create('a', SIZE),
    )
    const { qemu, file } = scene
    const asked: { token: string; changed: ChangedExtent[] }[] = [{ token: scene.token, changed: [] }]
    for (let step = 0; step < 12; step++) {
      const offset = random.below(SIZE - 1)
      const range = { offset, length: 1 + random.below(Math.min(200_000, SIZE - offset)) }
      const kind = random.below(7)
      if (kind < 2) await write(file, range.offset, range.length)
      else if (kind < 4) qemu.io('a', [`write ${range.offset} ${range.length}`])
      else if (kind === 4) qemu.io('a', [`write -z ${range.offset} ${range.length}`])
      else if (kind === 5) qemu.io('a', [`discard ${range.offset} ${range.length}`])
      else {
        asked.push({ token: await checkpoint(file), changed: [] })
        continue
      }
      for (const { changed } of asked) changed.push(range)
    }
    for (const { token, changed } of asked) await expectExactly(scene, token, changed)
    expectCleanByQemu(qemu, 'a')
    await expectCleanByUs(file)
  })

  test('and once only: a checkpoint begins the guard anew', async () => {
    const scene = await guarded()
    const { qemu, file } = scene
    for (let round = 0; round < 3; round++) {
      const offset = (round + 1) << 20
      const before = await checkpoint(file)
      qemu.io('a', [`write ${offset} 4k`])
      await expectExactly(scene, before, [{ offset, length: 4096 }])
      const extents: ChangedExtent[] = []
      await exportBitmap(file, (await trackingStatus(file)).guard as string, {
        visit: (extent) => extents.push(extent),
      })
      expect(extents.some((extent) => extent.offset <= offset && offset < extent.offset + extent.length)).toBe(true)
    }
    const token = await checkpoint(file)
    await expectExactly(scene, token, [])
  })

  test('and once only for a backup, too', async () => {
    const scene = await guarded()
    scene.qemu.io('a', ['write 1M 4k'])
    const source = await openSource(scene.file)
    await source.close()
    scene.qemu.io('a', ['write 2M 4k'])
    await expectExactly(scene, source.token as string, [{ offset: 2 << 20, length: 4096 }])
  })

  test('when the disk grew', async () => {
    const scene = await guarded()
    scene.qemu.io('a', ['write 1M 4k'])
    scene.qemu.img(['resize', '-q', 'a', String(SIZE * 2)])
    scene.qemu.io('a', ['write 12M 4k'])
    await expectExactly(scene, scene.token, [
      { offset: 1 << 20, length: 4096 },
      { offset: SIZE, length: SIZE },
    ])
  })

  test('when a snapshot was made inside', async () => {
    const scene = await guarded()
    scene.qemu.img(['snapshot', '-c', 'one', 'a'])
    scene.qemu.io('a', ['write 3M 4k'])
    await expectExactly(scene, scene.token, [{ offset: 3 << 20, length: 4096 }])
    // Somebody could go back to it: so the guard is not begun anew, and what it says is told again.
    const token = await checkpoint(scene.file)
    scene.qemu.io('a', ['write 4M 4k'])
    await expectExactly(scene, token, [
      { offset: 3 << 20, length: 4096 },
      { offset: 4 << 20, length: 4096 },
    ])
    // When we have written, what it said is gone.
    await write(scene.file, 0, 1)
    const later = await checkpoint(scene.file)
    scene.qemu.io('a', ['write 4M 4k'])
    await expectFull(scene, later, /it was not begun/)
  })

  test('when what wrote was a conversion into it', async () => {
    const scene = await guarded()
    fs.writeFileSync(scene.qemu.path('raw'), new Uint8Array(SIZE).fill(3, 2 << 20, 3 << 20))
    scene.qemu.img(['convert', '-n', '-f', 'raw', '-O', 'qcow2', '-S', '0', 'raw', 'a'])
    await expectExactly(scene, scene.token, [{ offset: 0, length: SIZE }])
  })

  test('also when the image has got another name of its parent, from the next checkpoint on', async () => {
    const scene = await guarded((qemu) => {
      qemu.create('base', SIZE)
      qemu.create('a', SIZE, {}, ['base', 'qcow2'])
    })
    const { qemu, file } = scene
    fs.copyFileSync(qemu.path('base'), qemu.path('copy'))
    await relink(file, qemu.path('copy'), { acceptModified: true })
    const token = await checkpoint(file)
    qemu.io('a', ['write 2M 4k'])
    await expectExactly(scene, token, [{ offset: 2 << 20, length: 4096 }])
  })

  test('also after it was killed, from the next checkpoint on', async () => {
    const scene = await guarded()
    runPeer('qemu-io', ['-f', 'qcow2', '-c', 'write 1M 4k', '-c', 'abort', 'a'], {
      in: scene.qemu.folder,
      accept: [-1],
    })
    await expectFull(scene, scene.token, /not saved by its last writer/)
    const token = await checkpoint(scene.file)
    scene.qemu.io('a', ['write 2M 4k'])
    await expectExactly(scene, token, [{ offset: 2 << 20, length: 4096 }])
    await expectFull(scene, scene.token, /not saved by its last writer/)
  })
})

/** What leaves no trace in a guard, or no trace that can be relied on: for each a reason that is told. */
const FULL: readonly (readonly [string, RegExp, (scene: Scene) => unknown])[] = [
  ['the disk was cut off', /cut off/, ({ qemu }) => qemu.img(['resize', '-q', '--shrink', 'a', String(SIZE / 2)])],
  [
    'the disk was cut off, and grew again',
    /cut off/,
    ({ qemu }) => {
      qemu.img(['resize', '-q', '--shrink', 'a', String(SIZE / 2)])
      qemu.img(['resize', '-q', 'a', String(SIZE)])
    },
  ],
  [
    'another parent was named',
    /another content/,
    ({ qemu }) => {
      qemu.create('other', SIZE)
      qemu.img(['rebase', '-u', '-b', 'other', '-F', 'qcow2', 'a'])
    },
  ],
  [
    'the image became one of version 2',
    /the program did not keep/,
    ({ qemu }) => qemu.img(['amend', '-f', 'qcow2', '-o', 'compat=0.10', 'a']),
  ],
  [
    'the file was written to as bytes',
    /the program did not keep/,
    ({ file }) => dd(file, fs.statSync(file).size - 100, new Uint8Array(100)),
  ],
  [
    'somebody has emptied the guard',
    /emptied/,
    async ({ qemu, file }) => qemu.img(['bitmap', '--clear', 'a', (await trackingStatus(file)).guard as string]),
  ],
  [
    'somebody has switched it off',
    /switched it off/,
    async ({ qemu, file }) => qemu.img(['bitmap', '--disable', 'a', (await trackingStatus(file)).guard as string]),
  ],
  [
    'somebody has removed it',
    /not there/,
    async ({ qemu, file }) => qemu.img(['bitmap', '--remove', 'a', (await trackingStatus(file)).guard as string]),
  ],
  [
    'somebody has made another one of its name',
    /emptied/,
    async ({ qemu, file }) => {
      const { guard = '' } = await trackingStatus(file)
      qemu.img(['bitmap', '--remove', 'a', guard])
      qemu.img(['bitmap', '--add', '-g', String(GRANULARITY), 'a', guard])
    },
  ],
  [
    'a program wrote that knows no bitmaps',
    /not saved by its last writer/,
    // It clears the autoclear bits that it does not know. ["Header", autoclear_features]
    ({ file }) => dd(file, 88, new Uint8Array(8)),
  ],
]

describeWithPeers(TOOLS, 'with a guard, all of the disk counts as changed when', () => {
  for (const [title, why, spoil] of FULL) {
    test(title, async () => {
      const scene = await guarded()
      await spoil(scene)
      await expectFull(scene, scene.token, why)
      // And it still does when QEMU has written later; but what was written as bytes cannot be seen any more then.
      if (/as bytes/.test(title)) return
      scene.qemu.io('a', ['write 1M 4k'])
      expect((await told(scene.file, scene.token)).full).toBeDefined()
    })
  }

  test('the parent has changed, too', async () => {
    const scene = await guarded((qemu) => {
      qemu.create('base', SIZE)
      qemu.create('a', SIZE, {}, ['base', 'qcow2'])
    })
    scene.qemu.io('a', ['write 1M 4k'])
    await expectExactly(scene, scene.token, [{ offset: 1 << 20, length: 4096 }])
    scene.qemu.io('base', ['write 2M 4k'])
    await expectFull(scene, scene.token, /another content/)
  })

  test('a child was merged into it, which QEMU does without a word to whoever it does not know', async () => {
    const scene = await guarded()
    scene.qemu.create('child', undefined, {}, ['a', 'qcow2'])
    scene.qemu.io('child', ['write 5M 4k'])
    scene.qemu.img(['commit', '-q', 'child'])
    await expectFull(scene, scene.token, /the program did not keep/)
  })

  test('an older copy was put in its place, and then written to', async () => {
    const scene = await guarded()
    const older = fs.readFileSync(scene.file)
    await write(scene.file, 6 << 20, 4096)
    fs.writeFileSync(scene.file, older, { flag: 'r+' })
    scene.qemu.io('a', ['write 1M 4k'])
    await expectFull(scene, scene.token, /another content/)
  })

  test('the parent was another one for a while, during which somebody asked', async () => {
    const scene = await guarded((qemu) => {
      qemu.create('base', SIZE)
      qemu.create('other', SIZE)
      qemu.io('other', ['write 7M 4k'])
      qemu.create('a', SIZE, {}, ['base', 'qcow2'])
    })
    scene.qemu.img(['rebase', '-u', '-b', 'other', '-F', 'qcow2', 'a'])
    // Tracking goes on from here, and the image is as it was.
    await (await openDisk(scene.file, { writable: true })).close()
    const token = await checkpoint(scene.file)
    scene.qemu.img(['rebase', '-u', '-b', 'base', '-F', 'qcow2', 'a'])
    const { full, sectors } = await told(scene.file, token)
    expect(full !== undefined || sectors[(7 << 20) / 512] === 1).toBe(true)
  })
})

describeWithPeers(TOOLS, 'without a guard, all of the disk counts as changed when', () => {
  test('something was merged into a parent that is a copy, which leaves no other trace than its time', async () => {
    const qemu = new Qemu(scratchFolder())
    await (await createDisk(qemu.path('original'), { format: 'qcow2', size: SIZE })).close()
    await write(qemu.path('original'), 0, 4096)
    fs.copyFileSync(qemu.path('original'), qemu.path('base'))
    await (await createDisk(qemu.path('a'), { format: 'qcow2', parent: qemu.path('base') })).close()
    const token = await enableTracking(qemu.path('a'))
    qemu.create('other', undefined, {}, ['base', 'qcow2'])
    qemu.io('other', ['write 3M 64k'])
    expect((await told(qemu.path('a'), token)).full).toBeUndefined()
    qemu.img(['commit', '-q', 'other'])
    expect((await told(qemu.path('a'), token)).full).toBeDefined()
  })
})

describeWithPeers(TOOLS, 'QEMU does not go back to a snapshot', () => {
  test('of an image with a guard', async () => {
    const scene = await guarded((qemu) => {
      qemu.create('a', SIZE)
      qemu.img(['snapshot', '-c', 'one', 'a'])
    })
    const { stderr } = runPeer('qemu-img', ['snapshot', '-a', 'one', 'a'], { in: scene.qemu.folder, accept: [1] })
    expect(stderr).toContain('dirty bitmaps')
    // Other programs may: so the guard of such an image says nothing.
    await expectFull(scene, scene.token, /it was not begun/)
  })
})

describeWithPeers([...TOOLS, 'qemu-storage-daemon'], 'with a guard, what a daemon of QEMU changes', () => {
  for (const [signal, isSaved] of [
    ['SIGTERM', true],
    ['SIGKILL', false],
  ] as const) {
    test(`is told ${isSaved ? 'exactly' : 'as all of the disk'} after ${signal}`, async () => {
      const scene = await guarded()
      const { folder } = scene.qemu
      const socket = path.join(folder, 's')
      runPeer(
        'qemu-storage-daemon',
        [
          '--daemonize',
          '--pidfile=pid',
          '--blockdev=qcow2,node-name=a,file.driver=file,file.filename=a',
          `--nbd-server=addr.type=unix,addr.path=${socket}`,
          '--export=nbd,id=a,node-name=a,writable=on',
        ],
        { in: folder },
      )
      const pid = Number(fs.readFileSync(path.join(folder, 'pid'), 'utf8'))
      try {
        runPeer('qemu-io', ['-f', 'raw', '-c', 'write 2M 100k', '-c', 'flush', `nbd+unix:///a?socket=${socket}`], {
          in: folder,
        })
      } finally {
        process.kill(pid, signal)
        while (isRunning(pid)) await new Promise((resolve) => setImmediate(resolve))
      }
      if (isSaved) await expectExactly(scene, scene.token, [{ offset: 2 << 20, length: 100 << 10 }])
      else await expectFull(scene, scene.token, /not saved by its last writer/)
    })
  }
})

/** Its files are closed when no thread is left but one that has ended. */
function isRunning(pid: number): boolean {
  try {
    const threads = fs.readdirSync(`/proc/${pid}/task`)
    return threads.length > 1 || !/^State:\s+Z/m.test(fs.readFileSync(`/proc/${pid}/status`, 'utf8'))
  } catch (error) {
    void error
    return false
  }
}

describeWithPeers(TOOLS, 'a guard', () => {
  test('is made only where it can be, and goes when tracking ends', async () => {
    const { qemu, file } = await guarded()
    expect(await listBitmaps(file)).toHaveLength(1)
    // Anew as before; without a word about it, with a guard.
    await enableTracking(file, { anew: true })
    expect(await listBitmaps(file)).toMatchObject([{ name: (await trackingStatus(file)).guard }])
    await disableTracking(file)
    expect(await listBitmaps(file)).toEqual([])
    expectCleanByQemu(qemu, 'a')
    qemu.create('old', SIZE, { compat: '0.10' })
    qemu.create('outside', SIZE, { data_file: 'data' })
    fs.writeFileSync(qemu.path('raw'), new Uint8Array(SIZE))
    for (const name of ['old', 'outside', 'raw']) {
      const wish = { guard: true, format: name === 'raw' ? 'raw' : undefined }
      await expect(enableTracking(qemu.path(name), wish)).rejects.toMatchObject({ code: 'UNSUPPORTED' })
    }
  })

  test(`hides nothing where a checkpoint is killed while it takes it over: ${KILLS} places`, async () => {
    const random = randomFor('a guard, killed')
    let length = 40
    for (let kill = 0; kill < KILLS; kill++) {
      const scene = await guarded()
      scene.qemu.io('a', ['write 5M 4k'])
      const at = 1 + Math.floor(((kill + random.fraction()) * length) / KILLS)
      const ran = spawnSync(
        process.execPath,
        ['--import', `${KILLER}?at=${at}`, MAIN, 'track', 'checkpoint', scene.file],
        {
          encoding: 'utf8',
        },
      )
      if (ran.signal !== 'SIGKILL') {
        expect(ran.status, ran.stderr).toBe(0)
        length = Number(/changes (\d+)/.exec(ran.stderr)?.[1])
      }
      for (const later of [[], ['write 6M 4k']]) {
        scene.qemu.io('a', later)
        const { sectors } = await told(scene.file, scene.token)
        expect(sectors[(5 << 20) / 512], `killed at change ${at}`).toBe(1)
        if (later.length > 0) expect(sectors[(6 << 20) / 512], `killed at change ${at}`).toBe(1)
      }
      expect(scene.qemu.check('a')).toMatchObject({ corruptions: 0 })
    }
  })
})
