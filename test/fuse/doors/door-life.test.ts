import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { TRANSPORTS, type Transport, unmountAt } from '../../../fuse/daemon.ts'
import { mountedAt } from '../../../fuse/doors/mount-table.ts'
import { createDisk } from '../../../lib/index.ts'
import {
  describeIf,
  errnoOf,
  findingsOf,
  logOf,
  MIB,
  makeImage,
  mountsOf,
  NOBODY,
  noise,
  readBack,
  useBench,
} from '../../support/mount-suite.ts'
import {
  execute,
  isRunning,
  must,
  until,
  whyNoMounts,
  whyNoPrograms,
  whyNoTransport,
  whyNotReachable,
} from '../../support/mounts.ts'

const bench = useBench()

/** An empty directory for a mount that another process makes; should that be left behind, it goes with the test. */
function placeFor(name?: string): string {
  const mountpoint = bench.directory(name)
  bench.onClean(() => mountedAt(mountpoint) && execute('umount', '-l', mountpoint))
  return mountpoint
}

/** Room that is lost to a kill or a full medium is no damage. */
async function damageOf(image: string): Promise<unknown[]> {
  const findings = (await findingsOf(image)) as { severity: string }[]
  return findings.filter(({ severity }) => severity !== 'leak')
}

/** How mounts fail and end: the same for both doors. */
describe.each(Object.keys(TRANSPORTS) as Transport[])('through the door %s', (transport) => {
  const missing = whyNoMounts() ?? whyNoTransport(transport)

  const mount = (options: { image: string; readOnly?: boolean; allowOther?: boolean; mountpoint?: string }) =>
    bench.mount({ ...options, transport })

  describeIf(missing, 'errors', () => {
    test('of a full medium are ENOSPC, and once there is room again all is well', async () => {
      const medium = bench.directory('medium')
      must('mount', '-t', 'tmpfs', '-o', 'size=4M', 'medium', medium)
      bench.onClean(() => execute('umount', '-l', medium))
      const image = path.join(medium, 'disk.qcow2')
      await (await createDisk(image, { format: 'qcow2', size: 16 * MIB })).close()
      const ballast = path.join(medium, 'ballast')
      fs.writeFileSync(ballast, Buffer.alloc(3 * MIB))
      const mounted = await mount({ image })
      const attempt = execute('dd', 'if=/dev/urandom', `of=${mounted.disk}`, 'bs=1M', 'count=2', 'conv=notrunc')
      expect(attempt.stderr).toContain('No space left on device')
      expect(logOf(mounted)).toMatch(/WRITE of \d+ bytes at \d+ failed: Cannot/)
      fs.rmSync(ballast)
      const file = fs.openSync(mounted.disk, 'r+')
      fs.writeSync(file, noise(MIB), 0, MIB, 8 * MIB)
      fs.fsyncSync(file)
      fs.closeSync(file)
      expect((await unmountAt(mounted.mountpoint)).ended).toBe('durable')
      expect((await readBack(image, 8 * MIB, MIB)).equals(noise(MIB))).toBe(true)
      expect(await damageOf(image)).toEqual([])
    })

    test('of a vanished medium are EIO, in the log too, and end the unmounting', async () => {
      const medium = await bench.mount({ image: await makeImage(bench, 'raw', MIB, 'medium.raw'), format: 'raw' })
      const mounted = await bench.mount({ image: medium.disk, format: 'raw', transport })
      const file = fs.openSync(mounted.disk, 'r+')
      fs.writeSync(file, noise(4096), 0, 4096, 0)
      process.kill(medium.pid, 'SIGKILL')
      await until(() => !isRunning(medium.pid))
      expect(errnoOf(() => fs.fsyncSync(file))).toBe('EIO')
      expect(errnoOf(() => fs.closeSync(file))).toBe('EIO')
      await expect(unmountAt(mounted.mountpoint)).rejects.toMatchObject({ code: 'IO' })
      expect(mountedAt(mounted.mountpoint)).toBeUndefined()
      expect(isRunning(mounted.pid)).toBe(false)
      expect(logOf(mounted)).toContain(`FSYNC failed: Cannot make ${medium.disk} durable`)
    })
  })

  describeIf(missing, 'the end', () => {
    test('is refused while somebody is inside, and comes when he has left', async () => {
      const image = await makeImage(bench, 'qcow2', MIB)
      const mounted = await mount({ image })
      const file = fs.openSync(mounted.disk, 'r+')
      await expect(unmountAt(mounted.mountpoint)).rejects.toMatchObject({ code: 'IN_USE' })
      process.kill(mounted.pid, 'SIGTERM')
      await until(() => mountedAt(mounted.mountpoint) === undefined)
      expect(fs.existsSync(mounted.disk)).toBe(false)
      fs.writeSync(file, noise(4096), 0, 4096, 0)
      expect(isRunning(mounted.pid)).toBe(true)
      fs.closeSync(file)
      await until(() => !isRunning(mounted.pid))
      expect((await readBack(image, 0, 4096)).equals(noise(4096))).toBe(true)
    })

    test('does not wait for him when it is asked for twice', async () => {
      const image = await makeImage(bench, 'qcow2', MIB)
      const mounted = await mount({ image })
      const file = fs.openSync(mounted.disk, 'r+')
      fs.writeSync(file, noise(4096), 0, 4096, 0)
      process.kill(mounted.pid, 'SIGTERM')
      await until(() => mountedAt(mounted.mountpoint) === undefined)
      process.kill(mounted.pid, 'SIGTERM')
      await until(() => !isRunning(mounted.pid))
      expect(errnoOf(() => fs.readSync(file, Buffer.alloc(512), 0, 512, 8192))).toBe('ENOTCONN')
      expect(errnoOf(() => fs.closeSync(file))).toBe('ENOTCONN')
      expect(mountsOf(bench)).toEqual([])
      expect((await readBack(image, 0, 4096)).equals(noise(4096))).toBe(true)
    })

    test('by umount is a good one too', async () => {
      const mounted = await mount({ image: await makeImage(bench, 'qcow2', MIB) })
      must('umount', mounted.mountpoint)
      await until(() => !isRunning(mounted.pid))
      expect(mountsOf(bench)).toEqual([])
    })

    test('by SIGKILL loses nothing that fsync has answered for, and the dead mount is cleaned', async () => {
      const image = await makeImage(bench, 'qcow2', 8 * MIB)
      const mounted = await mount({ image })
      const file = fs.openSync(mounted.disk, 'r+')
      fs.writeSync(file, noise(3 * MIB), 0, 3 * MIB, 2 * MIB)
      fs.fsyncSync(file)
      fs.writeSync(file, noise(MIB), 0, MIB, 0)
      process.kill(mounted.pid, 'SIGKILL')
      await until(() => !isRunning(mounted.pid))
      expect(errnoOf(() => fs.closeSync(file))).toBe('ENOTCONN')
      expect((await unmountAt(mounted.mountpoint)).ended).toBe('died')
      expect(mountedAt(mounted.mountpoint)).toBeUndefined()
      expect((await readBack(image, 2 * MIB, 3 * MIB)).equals(noise(3 * MIB))).toBe(true)
      expect(await damageOf(image)).toEqual([])
      await mount({ image, mountpoint: mounted.mountpoint })
    })
  })

  describeIf(
    missing ??
      whyNoPrograms({ name: 'fusermount3', package: 'fuse3' }, { name: 'setpriv', package: 'util-linux' }) ??
      whyNotReachable(NOBODY),
    'users',
    () => {
      const asNobody = (...command: string[]) =>
        execute('setpriv', '--reuid', String(NOBODY), '--regid', String(NOBODY), '--clear-groups', ...command)

      /** As it is on ordinary systems; in containers it may be root's alone. */
      const openDevice = (): void => {
        const { mode } = fs.statSync('/dev/fuse')
        fs.chmodSync('/dev/fuse', 0o666)
        bench.onClean(() => fs.chmodSync('/dev/fuse', mode & 0o7777))
      }

      test('other than the owner see it only if he lets them in, and never write', async () => {
        const alone = await mount({ image: await makeImage(bench, 'qcow2', MIB) })
        expect(asNobody('head', '-c', '3', alone.disk).stderr).toContain('Permission denied')
        const shared = await mount({ image: await makeImage(bench, 'qcow2', MIB), allowOther: true })
        expect(asNobody('head', '-c', '3', shared.disk)).toMatchObject({ status: 0, stderr: '' })
        expect(asNobody('sh', '-c', `: >> ${shared.disk}`).stderr).toContain('Permission denied')
      })

      test('mount, write and unmount without being root', async () => {
        openDevice()
        const image = await makeImage(bench, 'qcow2', MIB, 'a, b\\c.qcow2')
        const mountpoint = placeFor('a, b')
        const state = bench.directory('state')
        for (const file of [image, path.dirname(image), mountpoint, state]) fs.chownSync(file, NOBODY, NOBODY)
        const script = `
          import * as door from ${JSON.stringify(bench.library)}
          import fs from 'node:fs'
          const mounted = await door.startDaemon(${JSON.stringify({ images: [image], mountpoint, transport })}, ${JSON.stringify(bench.entry)})
          const file = fs.openSync(mounted.images[0].disk, 'r+')
          fs.writeSync(file, Buffer.alloc(8192, 0x42), 0, 8192, 4096)
          fs.closeSync(file)
          const mounts = door.listMounts().filter(({ mountpoint }) => mountpoint === mounted.mountpoint)
          console.log(JSON.stringify({ mounts, ended: (await door.unmountAt(mounted.mountpoint)).ended }))`
        const variables = [`VDISK_RUNTIME_DIR=${state}`, `XDG_STATE_HOME=${state}`]
        const program = [process.execPath, '--input-type=module', '-e', script]
        const { status, stdout, stderr } = asNobody('env', ...variables, ...program)
        expect({ status, stderr }).toEqual({ status: 0, stderr: '' })
        expect(JSON.parse(stdout)).toMatchObject({
          mounts: [{ mountpoint, state: 'serving' }],
          ended: 'durable',
        })
        expect(mountedAt(mountpoint)).toBeUndefined()
        expect((await readBack(image, 4096, 8192)).every((byte) => byte === 0x42)).toBe(true)
      })

      test('mount only where they may', async () => {
        openDevice()
        const image = await makeImage(bench, 'qcow2', MIB)
        const mountpoint = placeFor()
        const state = bench.directory('state')
        for (const file of [image, path.dirname(image), state]) fs.chownSync(file, NOBODY, NOBODY)
        const script = `
          import * as door from ${JSON.stringify(bench.library)}
          await door.startDaemon(${JSON.stringify({ images: [image], mountpoint, transport })}, ${JSON.stringify(bench.entry)})
            .catch((error) => console.log(error.code, error.advice))`
        const variables = [`VDISK_RUNTIME_DIR=${state}`, `XDG_STATE_HOME=${state}`]
        const { stdout } = asNobody('env', ...variables, process.execPath, '--input-type=module', '-e', script)
        expect(stdout).toMatch(/^REFUSED .*mountpoint .*belong/)
        expect(mountedAt(mountpoint)).toBeUndefined()
      })
    },
  )
})

describeIf(whyNoMounts() ?? whyNoTransport('fuse-native'), 'the library', () => {
  const mount = (mountpoint: string, image: string) => bench.mount({ image, mountpoint, transport: 'fuse-native' })

  test('is not asked for what it would do wrong', async () => {
    const image = await makeImage(bench, 'qcow2', MIB)
    let deep = bench.directory()
    while (deep.length < 1024) deep = path.join(deep, 'x'.repeat(200))
    fs.mkdirSync(deep, { recursive: true })
    await expect(mount(deep, image)).rejects.toMatchObject({
      code: 'UNSUPPORTED',
      message: expect.stringContaining('1023'),
    })
    const top = bench.directory()
    must('mount', '-t', 'tmpfs', '-o', 'size=64k', 'medium', top)
    bench.onClean(() => execute('umount', top))
    await expect(mount(top, image)).rejects.toMatchObject({
      code: 'UNSUPPORTED',
      message: expect.stringContaining('something is mounted there already'),
    })
    expect(mountedAt(top)?.type).toBe('tmpfs')
  })

  test('gets a name that it has room for, and the options behind it', async () => {
    let folder = bench.directory('images')
    while (folder.length < 1000) folder = path.join(folder, 'with,comma'.repeat(10))
    fs.mkdirSync(folder, { recursive: true })
    const image = path.join(folder, 'disk.qcow2')
    await (await createDisk(image, { format: 'qcow2', size: MIB })).close()
    const mounted = await bench.mount({ image, transport: 'fuse-native', readOnly: true })
    const entry = mountedAt(mounted.mountpoint)
    expect(entry).toMatchObject({ type: 'fuse.vdisk', readOnly: true })
    expect(image.endsWith(entry?.source as string)).toBe(true)
    expect(entry?.source.length).toBeGreaterThan(500)
  })
})

describe('a transport that is not installed', () => {
  test('is said so, with the line that brings it', async () => {
    const image = await makeImage(bench, 'qcow2', MIB)
    const mountpoint = placeFor()
    // A server with packages of its own, among which this one is not.
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'vdisk-without-'))
    bench.onClean(() => fs.rmSync(folder, { recursive: true }))
    for (const name of fs.readdirSync(bench.folder).filter((one) => one.endsWith('.js') || one === 'package.json')) {
      fs.copyFileSync(path.join(bench.folder, name), path.join(folder, name))
    }
    const packages = path.join(folder, 'node_modules')
    fs.mkdirSync(packages)
    for (const name of ['binary-parser', 'koffi', '@koromix']) {
      fs.symlinkSync(path.join(bench.folder, 'node_modules', name), path.join(packages, name))
    }
    // Not just absent: there may be one in a folder above.
    fs.mkdirSync(path.join(packages, 'fuse-native'))
    fs.writeFileSync(path.join(packages, 'fuse-native', 'package.json'), '{ "main": "missing.js" }')
    const script = `
      import * as door from ${JSON.stringify(path.join(folder, 'daemon.js'))}
      await door.startDaemon(${JSON.stringify({ images: [image], mountpoint, transport: 'fuse-native' })})
        .catch((error) => console.log(error.code, error.message, error.advice))`
    const { stdout, stderr } = execute(process.execPath, '--input-type=module', '-e', script)
    expect(stderr).toBe('')
    expect(stdout).toMatch(/^UNSUPPORTED .*needs the fuse-native package.* npm install fuse-native/)
  })
})
