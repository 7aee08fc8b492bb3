import fs from 'node:fs'
import path from 'node:path'
import { expect, test } from 'vitest'
import { describeIf, MIB, makeImage, NOBODY, readBack, useBench } from '../support/mount-suite.ts'
import { execute, whyNoMounts, whyNoPrograms, whyNotReachable } from '../support/mounts.ts'

const noMounts = whyNoMounts()
const bench = useBench()

describeIf(
  noMounts ??
    whyNoPrograms({ name: 'fusermount3', package: 'fuse3' }, { name: 'setpriv', package: 'util-linux' }) ??
    whyNotReachable(NOBODY),
  'an ordinary user',
  () => {
    /** Runs a script as nobody; `door` is the FUSE door. */
    const asNobody = (script: string, env: NodeJS.ProcessEnv = {}): ReturnType<typeof execute> => {
      const code = `import * as door from ${JSON.stringify(bench.library)}; import fs from 'node:fs'; ${script}`
      const who = ['--reuid', String(NOBODY), '--regid', String(NOBODY), '--clear-groups']
      const variables = Object.entries(env).map(([name, value]) => `${name}=${value}`)
      return execute('setpriv', ...who, 'env', ...variables, process.execPath, '--input-type=module', '-e', code)
    }

    const openDevice = (): void => {
      const { mode } = fs.statSync('/dev/fuse')
      fs.chmodSync('/dev/fuse', 0o666)
      bench.onClean(() => fs.chmodSync('/dev/fuse', mode & 0o7777))
    }

    /** What `nobody` needs: an image, a place to mount, and folders for records, all its own. */
    const prepare = async () => {
      const image = await makeImage(bench, 'qcow2', MIB, 'a, b\\c.qcow2')
      const mountpoint = bench.directory()
      const state = bench.directory('state')
      for (const file of [image, path.dirname(image), mountpoint, state]) fs.chownSync(file, NOBODY, NOBODY)
      return { image, mountpoint, env: { VDISK_RUNTIME_DIR: state, XDG_STATE_HOME: state } }
    }

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
