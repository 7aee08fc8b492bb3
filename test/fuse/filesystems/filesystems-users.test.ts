import fs from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { unmountAt } from '../../../fuse/daemon.ts'
import {
  contentOf,
  type Formatted,
  fill,
  type Kind,
  makeFilesystem,
  mustBeClean,
  whyNoFilesystems,
} from '../../support/filesystems.ts'
import { useBench } from '../../support/mount-suite.ts'
import { execute, isRunning, must, until, whyNoPrograms, whyNotReachable } from '../../support/mounts.ts'

/** An ordinary user that every system has. */
const NOBODY = 65534

const bench = useBench()

interface Setting extends Formatted {
  readonly mountpoint: string
  /** where records go, and what programs are found */
  readonly env: NodeJS.ProcessEnv
}

/** What `nobody` needs: an image with a file system, a place to mount, and folders for records, all its own. */
async function prepare(kind: Kind, table: 'gpt' | undefined = 'gpt'): Promise<Setting> {
  const { mode } = fs.statSync('/dev/fuse')
  fs.chmodSync('/dev/fuse', 0o666)
  bench.onClean(() => fs.chmodSync('/dev/fuse', mode & 0o7777))
  const disk = await makeFilesystem(bench, kind, table)
  const mountpoint = bench.directory()
  const state = bench.directory('state')
  giveAway(disk.image, path.dirname(disk.image), mountpoint, state)
  return { ...disk, mountpoint, env: { VDISK_RUNTIME_DIR: state, XDG_STATE_HOME: state } }
}

function giveAway(...files: string[]): void {
  for (const file of files) fs.chownSync(file, NOBODY, NOBODY)
}

interface Told {
  readonly code?: string
  readonly message?: string
  readonly advice?: string
  readonly [more: string]: unknown
}

/**
 * Runs a script as nobody, in namespaces of its own: all processes end with it, and all mounts with those.
 *
 * In the script `door` is the FUSE door, `mount` and `unmount` do that with the setting, `sh` runs a line of shell, and
 * what is given to `tell` comes back; or else the error.
 *
 * @param configuration what /etc/fuse.conf says to these processes
 */
function asNobody({ image, mountpoint, env }: Setting, script: string, configuration = ''): Told {
  const file = bench.place('script.mjs')
  const conf = path.join(path.dirname(file), 'fuse.conf')
  fs.writeFileSync(conf, configuration)
  fs.writeFileSync(
    file,
    `import * as door from ${JSON.stringify(bench.library)}
     import fs from 'node:fs'
     import { execFileSync } from 'node:child_process'
     const at = ${JSON.stringify(mountpoint)}
     const tell = (told) => console.log(JSON.stringify(told))
     const sh = (line) => execFileSync('sh', ['-c', line], { encoding: 'utf8', env: { ...process.env, PATH: '/usr/bin:/bin:/usr/sbin:/sbin' } })
     const mount = (more = {}, wanted = 'sensible') =>
       door.mountFilesystem({ images: [${JSON.stringify(image)}], mountpoint: at, ...more }, wanted, ${JSON.stringify(bench.entry)})
     const unmount = () => door.unmountAt(at)
     try {
       ${script}
     } catch ({ name, code, message, advice }) {
       tell({ name, code, message, advice })
     }`,
  )
  const variables = Object.entries(env).map(([name, value]) => `${name}=${value}`)
  const who = ['setpriv', '--reuid', String(NOBODY), '--regid', String(NOBODY), '--clear-groups', 'env', ...variables]
  const inside = `touch /etc/fuse.conf; mount --bind '${conf}' /etc/fuse.conf && "$@"`
  const command = ['sh', '-c', inside, 'sh', ...who, process.execPath, file]
  const apart = ['unshare', '--mount', '--propagation', 'private', '--pid', '--fork', '--kill-child', '--mount-proc']
  const { stdout, stderr } = execute('timeout', '60', ...apart, ...command)
  if (stdout === '') throw new Error(`the script said nothing, but: ${stderr}`)
  return JSON.parse(stdout) as Told
}

/** Mounts, copies a folder into the file system, unmounts, and looks at it again. */
const THERE_AND_BACK = (source: string): string => `
  const first = await mount()
  sh(\`cp -r '${source}/Ordner' '\${at}'\`)
  const ended = [await unmount()]
  const second = await mount({ readOnly: true })
  const content = sh(\`cd '\${at}/Ordner' && find . -type f -print0 | sort -z | xargs -0 sha256sum\`)
  ended.push(await unmount())
  const left = [...fs.readdirSync(at), ...fs.readdirSync(process.env.VDISK_RUNTIME_DIR + '/vdisk/filesystems')]
  tell({ filesystem: first.filesystem, notes: [first.notes, second.notes], content, ended: ended.map(({ ended }) => ended), left })`

const ALLOWED = 'user_allow_other\n'

const missing =
  whyNoFilesystems() ?? whyNotReachable(NOBODY) ?? whyNoPrograms({ name: 'fusermount3', package: 'fuse3' })

describe.skipIf(missing)(`a file system that an ordinary user mounts${missing ? ` (skipped: ${missing})` : ''}`, () => {
  test.each<[Kind, 'gpt' | undefined, string, string]>([
    ['ext4', 'gpt', 'fuse2fs', ''],
    ['ext4', undefined, 'fuse2fs', ''],
    ['vfat', 'gpt', 'fusefat', ''],
    ['ntfs', 'gpt', 'ntfs-3g', ALLOWED],
    ['ntfs', undefined, 'ntfs-3g', ALLOWED],
  ])('of type %s, table %s, keeps what is written by %s', async (kind, table, driver, configuration) => {
    const setting = await prepare(kind, table)
    const source = bench.directory('source')
    fill(source)
    const told = asNobody(setting, THERE_AND_BACK(source), configuration)
    expect(told).toMatchObject({ filesystem: { type: kind, driver }, ended: ['durable', 'durable'], left: [] })
    expect(told.content).toBe(contentOf(source))
    expect(told.notes).toEqual([[], []])
    await mustBeClean(bench, setting, kind)
  })

  test('whose driver runs as root is refused where the system does not let it in', async () => {
    const told = asNobody(await prepare('ntfs'), 'await mount()')
    expect(told).toMatchObject({ code: 'REFUSED', advice: expect.stringContaining('the line user_allow_other') })
    expect(told.message).toMatch(/^Cannot mount the file system of partition 1 of .*disk\.qcow2: ntfs-3g: /)
  })

  test('that has no driver for ordinary users is refused, with ways that lead to it', async () => {
    expect(asNobody(await prepare('xfs'), 'await mount()')).toMatchObject({
      code: 'UNSUPPORTED',
      message: expect.stringContaining('xfs needs a driver that only root may use'),
      advice: expect.stringMatching(/as root.*guestmount/s),
    })
  })

  test.each<[Kind, string]>([
    ['ext4', 'fuse2fs'],
    ['vfat', 'fusefat'],
    ['ntfs', 'ntfs-3g'],
  ])('of type %s names the package of its driver where that is not installed', async (kind, name) => {
    const setting = await prepare(kind)
    const programs = bench.directory('programs')
    fs.symlinkSync(must('sh', '-c', 'command -v fusermount3').trim(), path.join(programs, 'fusermount3'))
    const told = asNobody({ ...setting, env: { ...setting.env, PATH: programs } }, 'await mount()')
    expect(told).toMatchObject({ code: 'UNSUPPORTED', advice: `Run: apt install ${name}` })
    expect(told.message).toContain(`${name} is not installed, a driver for ${kind}`)
  })

  test('that was not unmounted is shown as it is, and mended where it may be written', async () => {
    const setting = await prepare('ext4')
    const { mountpoint, pid } = await bench.mountFilesystem({ images: [setting.image] })
    fill(mountpoint)
    must('sync', '--file-system', mountpoint)
    process.kill(pid, 'SIGKILL')
    await until(() => !isRunning(pid))
    await unmountAt(mountpoint)
    const told = asNobody(
      setting,
      `const { notes: looking } = await mount({ readOnly: true })
       await unmount()
       const { notes: writing } = await mount()
       const files = sh(\`find '\${at}/Ordner' -type f\`)
       await unmount()
       tell({ looking, writing, files: files.trim().split('\\n').length })`,
    )
    expect(told).toEqual({
      looking: [expect.stringContaining('its journal is not replayed')],
      writing: [expect.stringContaining('its journal was replayed by e2fsck')],
      files: 21,
    })
    await mustBeClean(bench, setting, 'ext4')
  })

  test('in use stays as it is, and who uses it is named', async () => {
    const told = asNobody(
      await prepare('ext4'),
      `await mount()
       process.chdir(at)
       const refused = await unmount().catch(({ code, message }) => ({ code, message }))
       fs.writeFileSync('new', 'still here')
       process.chdir('/')
       tell({ refused, pid: process.pid, ended: (await unmount()).ended })`,
    )
    expect(told).toMatchObject({ refused: { code: 'IN_USE' }, ended: 'durable' })
    expect((told.refused as Told).message).toContain(`it is in use by ${String(told.pid)} (node)`)
  })

  test.each<[Kind, string]>([
    ['ext4', ''],
    ['ntfs', ALLOWED],
  ])('of type %s is cleared when its server has died', async (kind, configuration) => {
    const told = asNobody(
      await prepare(kind),
      `const { pid } = await mount()
       fs.writeFileSync(at + '/file', 'x')
       process.chdir(at)
       process.kill(pid, 'SIGKILL')
       while (fs.existsSync('/proc/' + pid)) await new Promise((look) => setTimeout(look, 5))
       const { ended } = await unmount()
       process.chdir('/')
       const again = await mount()
       tell({ ended, driver: again.filesystem.driver, again: (await unmount()).ended, left: fs.readdirSync(at) })`,
      configuration,
    )
    expect(told).toMatchObject({ ended: 'died', again: 'durable', left: [] })
  })

  test('whose driver was killed is unmounted all the same, and what that means is said', async () => {
    const told = asNobody(
      await prepare('ext4'),
      `await mount()
       const driver = sh(\`pgrep -f '^fuse2fs .*\${at}'\`).trim()
       process.kill(Number(driver), 'SIGKILL')
       while (fs.existsSync('/proc/' + driver)) await new Promise((look) => setTimeout(look, 5))
       const { code, message } = await unmount().catch((error) => error)
       tell({ code, message, left: fs.readdirSync(at) })`,
    )
    expect(told).toMatchObject({ code: 'IO', left: [] })
    expect(told.message).toMatch(/^Unmounted .*, but not all .* is on the disk: fuse2fs had ended before$/)
  })
})
