import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test, vi } from 'vitest'
import { unmountAt } from '../../fuse/daemon.ts'
import { mountedAt } from '../../fuse/doors/mount-table.ts'
import { corpusEntries, corpusMissing, restored } from '../support/corpus.ts'
import { describeIf, MIB, makeImage, NOBODY, noise, readBack, useBench } from '../support/mount-suite.ts'
import { execute, isRunning, must, until, whyNoMounts, whyNoPrograms, whyNotReachable } from '../support/mounts.ts'
import { refusal } from '../support/refusal.ts'

const noMounts = whyNoMounts()
const bench = useBench()

/** Runs a script as nobody; `door` is the FUSE door. */
function asNobody(script: string, env: NodeJS.ProcessEnv = {}): ReturnType<typeof execute> {
  const code = `import * as door from ${JSON.stringify(bench.library)}; import fs from 'node:fs'; ${script}`
  const who = ['--reuid', String(NOBODY), '--regid', String(NOBODY), '--clear-groups']
  const variables = Object.entries(env).map(([name, value]) => `${name}=${value}`)
  return execute('setpriv', ...who, 'env', ...variables, process.execPath, '--input-type=module', '-e', code)
}

function openDevice(): void {
  const { mode } = fs.statSync('/dev/fuse')
  fs.chmodSync('/dev/fuse', 0o666)
  bench.onClean(() => fs.chmodSync('/dev/fuse', mode & 0o7777))
}

/** What `nobody` needs: an image, a place to mount, and folders for records, all its own. */
async function prepare() {
  const image = await makeImage(bench, 'qcow2', MIB, 'a, b\\c.qcow2')
  for (const file of [image, path.dirname(image)]) fs.chownSync(file, NOBODY, NOBODY)
  return { image, ...prepareFolders() }
}

/** The same without the image. */
function prepareFolders() {
  const mountpoint = bench.directory()
  const state = bench.directory('state')
  for (const file of [mountpoint, state]) fs.chownSync(file, NOBODY, NOBODY)
  return { mountpoint, env: { VDISK_RUNTIME_DIR: state, XDG_STATE_HOME: state } }
}

describeIf(
  noMounts ??
    whyNoPrograms({ name: 'fusermount3', package: 'fuse3' }, { name: 'setpriv', package: 'util-linux' }) ??
    whyNotReachable(NOBODY),
  'an ordinary user',
  () => {
    test('mounts, writes and unmounts', async () => {
      openDevice()
      const { image, mountpoint, env } = await prepare()
      const { status, stdout, stderr } = asNobody(
        `const mounted = await door.startDaemon(${JSON.stringify({ images: [image], mountpoint })}, ${JSON.stringify(bench.entry)})
         const file = fs.openSync(mounted.images[0].disk, 'r+')
         fs.writeSync(file, Buffer.alloc(8192, 0x42), 0, 8192, 4096)
         fs.closeSync(file)
         const mounts = door.listMounts().filter(({ mountpoint }) => mountpoint === mounted.mountpoint)
         const ended = await door.unmountAt(mounted.mountpoint)
         console.log(JSON.stringify({ mounts, ended, table: fs.readFileSync('/proc/self/mountinfo', 'utf8').includes(mounted.mountpoint) }))`,
        env,
      )
      expect(stderr).toBe('')
      expect(status).toBe(0)
      expect(JSON.parse(stdout)).toMatchObject({
        mounts: [{ images: [{ image }], mountpoint, state: 'serving' }],
        ended: { ended: 'durable' },
        table: false,
      })
      expect((await readBack(image, 4096, 8192)).every((byte) => byte === 0x42)).toBe(true)
    })

    describe.skipIf(corpusMissing)(`and a real image${corpusMissing ? ` (skipped: ${corpusMissing})` : ''}`, () => {
      test.each(['vhdx/discutils-btrfs', 'qcow2/dfvfs-ext2', 'raw/etcher-img'])('%s', async (id) => {
        openDevice()
        const entry = corpusEntries.find((one) => one.id === id)
        if (!entry) throw new Error(`the corpus has no ${id}`)
        const image = restored(entry, bench.directory('images'))
        for (const file of [image, path.dirname(image)]) fs.chownSync(file, NOBODY, NOBODY)
        const { mountpoint, env } = prepareFolders()
        const { status, stdout, stderr } = asNobody(
          `import { createHash } from 'node:crypto'
           const mounted = await door.startDaemon(${JSON.stringify({ images: [image], format: entry.format, mountpoint })}, ${JSON.stringify(bench.entry)})
           const hash = createHash('sha256')
           for await (const chunk of fs.createReadStream(mounted.images[0].disk, { highWaterMark: 1 << 20 })) hash.update(chunk)
           await door.unmountAt(mounted.mountpoint)
           console.log(hash.digest('hex'))`,
          env,
        )
        expect({ status, stderr }).toEqual({ status: 0, stderr: '' })
        expect(stdout.trim()).toBe(entry.sha256_guest)
      })
    })

    test('is told what is missing', async () => {
      const { image, mountpoint, env } = await prepare()
      const attempt = (more: NodeJS.ProcessEnv): string =>
        asNobody(
          `await door.startDaemon(${JSON.stringify({ images: [image], mountpoint })}, ${JSON.stringify(bench.entry)})
             .catch((error) => console.log(error.code, error.message, error.advice))`,
          { ...env, ...more },
        ).stdout
      expect(attempt({ VDISK_NO_NATIVE: '1' })).toMatch(/^UNSUPPORTED .*koffi.*npm install koffi/)
      expect(attempt({ PATH: '/nonexistent' })).toMatch(
        /^UNSUPPORTED .*fusermount3 is not installed.*apt install fuse3/,
      )
      openDevice()
      fs.chownSync(mountpoint, 0, 0)
      expect(attempt({})).toMatch(/^REFUSED .*The mountpoint must belong to you/)
    })
  },
)

describeIf(
  noMounts ??
    whyNoPrograms({ name: 'fusermount3', package: 'fuse3' }, { name: 'setpriv', package: 'util-linux' }) ??
    whyNotReachable(NOBODY),
  'an image of another user',
  () => {
    test('is not written to, and it is said how else to mount it', async () => {
      openDevice()
      const image = await makeImage(bench, 'qcow2', MIB)
      const { mountpoint, env } = prepareFolders()
      const attempt = (mode: string): string =>
        asNobody(
          `const options = { images: [${JSON.stringify(image)}], mountpoint: ${JSON.stringify(mountpoint)}, ${mode} }
           await door.startDaemon(options, ${JSON.stringify(bench.entry)}).then(
             async ({ images }) => { await door.unmountAt(options.mountpoint); console.log(images[0].mode) },
             (error) => console.log(error.code, error.message, error.advice))`,
          env,
        ).stdout
      expect(attempt('')).toMatch(/^READ_ONLY .*permission denied .*--read-only.*--overlay FILE or --temporary/)
      expect(attempt('readOnly: true')).toBe('read-only\n')
      expect(attempt('temporary: true')).toBe('temporary\n')
    })
  },
)

describeIf(noMounts, 'a mount that somebody else has made', () => {
  /** Mounts as a privileged helper does, and keeps the descriptor. */
  const mountFor = (at: string): number => {
    const fd = fs.openSync('/dev/fuse', 'r+')
    const options = 'fd=3,rootmode=40000,user_id=0,group_id=0,default_permissions'
    const { status, stderr } = spawnSync('mount', ['-i', '-t', 'fuse.vdisk', '-o', options, 'helper', at], {
      stdio: ['ignore', 'ignore', 'pipe', fd],
    })
    if (status !== 0) throw new Error(String(stderr))
    bench.onClean(() => mountedAt(at) && execute('umount', '-l', at))
    return fd
  }

  test('is served on the descriptor that is handed over, in the background', async () => {
    const image = await makeImage(bench, 'qcow2', MIB)
    const at = bench.directory()
    const fd = mountFor(at)
    const mounted = await bench.mount({ image, mountpoint: `/dev/fd/${fd}` })
    fs.closeSync(fd)
    expect(mounted.mountpoint).toBe(at)
    fs.writeFileSync(mounted.disk, noise(MIB), { flag: 'r+' })
    expect((await unmountAt(at)).ended).toBe('durable')
    expect((await readBack(image, 0, MIB)).equals(noise(MIB))).toBe(true)
  })

  test('is let go where we may not unmount it', async () => {
    const image = await makeImage(bench, 'qcow2', MIB)
    const at = bench.directory()
    const fd = mountFor(at)
    // As a process without privileges: the program that would unmount is not there.
    vi.stubEnv('PATH', '/nonexistent')
    const mounted = await bench.mount({ image, mountpoint: `/dev/fd/${fd}` })
    vi.unstubAllEnvs()
    fs.closeSync(fd)
    fs.writeFileSync(mounted.disk, noise(MIB), { flag: 'r+' })
    process.kill(mounted.pid, 'SIGTERM')
    await until(() => !isRunning(mounted.pid))
    expect(mountedAt(at)).toBeDefined()
    expect(() => fs.readdirSync(at)).toThrow('ENOTCONN')
    expect((await readBack(image, 0, MIB)).equals(noise(MIB))).toBe(true)
  })

  test('is refused where the descriptor is something else', async () => {
    const image = await makeImage(bench, 'qcow2', MIB)
    const fd = fs.openSync(image, 'r')
    bench.onClean(() => fs.closeSync(fd))
    const error = await refusal(() => bench.mount({ image, mountpoint: `/dev/fd/${fd}` }))
    expect(error).toMatchObject({ code: 'REFUSED', message: expect.stringContaining('not /dev/fuse') })
  })
})

describeIf(noMounts ?? whyNoPrograms({ name: 'setpriv', package: 'util-linux' }), 'the files of a mount', () => {
  test('belong to whom the user says, with the permissions that he says', async () => {
    const image = await makeImage(bench, 'qcow2', MIB)
    const mounted = await bench.mount({ image, allowOther: true, uid: NOBODY, gid: NOBODY, mode: 0o640 })
    const stat = fs.statSync(mounted.disk)
    expect([stat.uid, stat.gid, (stat.mode & 0o7777).toString(8)]).toEqual([NOBODY, NOBODY, '640'])
    const user = ['--reuid', String(NOBODY), '--regid', String(NOBODY), '--clear-groups']
    must('setpriv', ...user, 'dd', 'if=/dev/zero', `of=${mounted.disk}`, 'bs=512', 'count=1', 'conv=notrunc')
  })
})
