import fs from 'node:fs'
import path from 'node:path'
import { expect, test, vi } from 'vitest'
import { lastFailure } from '../../fuse/control/control-client.ts'
import { unmountAt } from '../../fuse/daemon.ts'
import { mountedAt } from '../../fuse/doors/mount-table.ts'
import { createDisk, openDisk } from '../../lib/index.ts'
import { describeIf, findingsOf, MIB, makeImage, mountsOf, noise, readBack, useBench } from '../support/mount-suite.ts'
import { execute, isRunning, must, until, whyNoMounts } from '../support/mounts.ts'

const noMounts = whyNoMounts()
const bench = useBench()

describeIf(noMounts, 'the end of a mount', () => {
  test('by SIGTERM is clean: unmounted, durable, no record', async () => {
    const image = await makeImage(bench, 'qcow2', MIB)
    const mounted = await bench.mount({ image })
    fs.writeFileSync(mounted.disk, noise(MIB), { flag: 'r+' })
    process.kill(mounted.pid, 'SIGTERM')
    await until(() => !isRunning(mounted.pid))
    expect(mountedAt(mounted.mountpoint)).toBeUndefined()
    expect(mountsOf(bench)).toEqual([])
    expect((await readBack(image, 0, MIB)).equals(noise(MIB))).toBe(true)
  })

  test('by umount is the same', async () => {
    const mounted = await bench.mount({ image: await makeImage(bench, 'qcow2', MIB) })
    must('umount', mounted.mountpoint)
    await until(() => !isRunning(mounted.pid))
    expect(mountsOf(bench)).toEqual([])
  })

  test('is refused while the mount is in use, and nothing changes', async () => {
    const image = await makeImage(bench, 'qcow2', MIB)
    const mounted = await bench.mount({ image })
    const file = fs.openSync(mounted.disk, 'r+')
    await expect(unmountAt(mounted.mountpoint)).rejects.toMatchObject({
      code: 'IN_USE',
      message: expect.stringContaining('it is in use'),
      advice: expect.stringContaining('fuser'),
    })
    expect(mountsOf(bench)).toMatchObject([{ state: 'serving', pid: mounted.pid }])
    fs.writeSync(file, noise(512), 0, 512, 0)
    fs.closeSync(file)
    expect((await unmountAt(mounted.mountpoint)).ended).toBe('durable')
    expect((await readBack(image, 0, 512)).equals(noise(512))).toBe(true)
  })

  test('by SIGTERM while in use keeps new users out and lets the old ones finish', async () => {
    const image = await makeImage(bench, 'qcow2', MIB)
    const mounted = await bench.mount({ image })
    const file = fs.openSync(mounted.disk, 'r+')
    process.kill(mounted.pid, 'SIGTERM')
    await until(() => mountedAt(mounted.mountpoint) === undefined)
    expect(fs.existsSync(mounted.disk)).toBe(false)
    expect(mountsOf(bench)).toMatchObject([{ state: 'detached', pid: mounted.pid }])
    fs.writeSync(file, noise(4096), 0, 4096, 0)
    fs.closeSync(file)
    await until(() => !isRunning(mounted.pid))
    expect(mountsOf(bench)).toEqual([])
    expect((await readBack(image, 0, 4096)).equals(noise(4096))).toBe(true)
  })

  test.each([
    ['with native calls', undefined],
    ['without', '1'],
  ])('by a second SIGTERM does not wait for them, %s', async (_, without) => {
    const image = await makeImage(bench, 'raw', MIB)
    vi.stubEnv('VDISK_NO_NATIVE', without)
    const mounted = await bench.mount({ image, format: 'raw' })
    const file = fs.openSync(mounted.disk, 'r+')
    fs.writeSync(file, noise(4096), 0, 4096, 0)
    process.kill(mounted.pid, 'SIGTERM')
    await until(() => mountedAt(mounted.mountpoint) === undefined)
    process.kill(mounted.pid, 'SIGTERM')
    await until(() => !isRunning(mounted.pid))
    expect(() => fs.readSync(file, Buffer.alloc(512), 0, 512, 8192)).toThrow('ENOTCONN')
    expect(() => fs.closeSync(file)).toThrow('ENOTCONN')
    expect(mountsOf(bench)).toEqual([])
    expect((await readBack(image, 0, 4096, 'raw')).equals(noise(4096))).toBe(true)
  })

  test('by SIGKILL leaves a dead mount, which is cleaned, and a sound image', async () => {
    const image = await makeImage(bench, 'qcow2', 8 * MIB)
    const mounted = await bench.mount({ image })
    must('dd', 'if=/dev/urandom', `of=${mounted.disk}`, 'bs=1M', 'count=4', 'conv=notrunc')
    const file = fs.openSync(mounted.disk, 'r+')
    fs.writeSync(file, noise(3 * MIB), 0, 3 * MIB, 2 * MIB)
    process.kill(mounted.pid, 'SIGKILL')
    await until(() => !isRunning(mounted.pid))
    expect(() => fs.writeSync(file, noise(512), 0, 512, 0)).toThrow('ENOTCONN')
    expect(mountsOf(bench)).toMatchObject([{ mountpoint: mounted.mountpoint, state: 'dead' }])
    // Cleaned even though the file is still open: it is lost already.
    expect((await unmountAt(mounted.mountpoint)).ended).toBe('died')
    expect(() => fs.closeSync(file)).toThrow('ENOTCONN')
    expect(mountedAt(mounted.mountpoint)).toBeUndefined()
    expect(mountsOf(bench)).toEqual([])
    const findings = (await findingsOf(image)) as { severity: string }[]
    expect(findings.filter(({ severity }) => severity !== 'leak')).toEqual([])
    await bench.mount({ image, mountpoint: mounted.mountpoint })
  })

  test('by SIGKILL does not keep the place from being mounted on again, which says what was lost', async () => {
    const image = await makeImage(bench, 'qcow2', MIB)
    const mounted = await bench.mount({ image })
    process.kill(mounted.pid, 'SIGKILL')
    await until(() => !isRunning(mounted.pid))
    expect(mountsOf(bench)).toMatchObject([{ state: 'dead', advice: expect.stringContaining('vdisk unmount') }])
    const again = await bench.mount({ image, mountpoint: mounted.mountpoint })
    expect(again.notes).toEqual([expect.stringContaining('had died')])
    expect(mountsOf(bench)).toMatchObject([{ state: 'serving', pid: again.pid }])
    expect(fs.readdirSync(mounted.mountpoint)).toContain('disk.raw')
    expect((await unmountAt(image)).ended).toBe('durable')
    expect(mountedAt(mounted.mountpoint)).toBeUndefined()
  })

  test('that cannot be cleared away, since it is no mount of ours, is left alone', async () => {
    const image = await makeImage(bench, 'qcow2', MIB)
    const stranger = bench.directory()
    must('mount', '-t', 'tmpfs', '-o', 'size=64k', 'stranger', stranger)
    bench.onClean(() => execute('umount', stranger))
    fs.writeFileSync(path.join(stranger, 'file'), '')
    await expect(bench.mount({ image, mountpoint: stranger })).rejects.toMatchObject({ code: 'REFUSED' })
    expect(mountedAt(stranger)?.type).toBe('tmpfs')
  })

  test('by SIGKILL is cleaned even where the record is lost and a file is open', async () => {
    const image = await makeImage(bench, 'qcow2', MIB)
    const mounted = await bench.mount({ image })
    const file = fs.openSync(mounted.disk, 'r')
    fs.rmSync(path.join(process.env.VDISK_RUNTIME_DIR as string, 'vdisk'), { recursive: true })
    expect(mountsOf(bench)).toMatchObject([{ mountpoint: mounted.mountpoint, images: [{ image }], state: 'unknown' }])
    await expect(unmountAt(mounted.mountpoint)).rejects.toMatchObject({ code: 'IN_USE' })
    process.kill(mounted.pid, 'SIGKILL')
    await until(() => !isRunning(mounted.pid))
    expect((await unmountAt(mounted.mountpoint)).ended).toBe('unknown')
    expect(mountedAt(mounted.mountpoint)).toBeUndefined()
    expect(() => fs.closeSync(file)).toThrow('ENOTCONN')
  })

  test('tells whoever unmounts that the last bytes could not be made durable', async () => {
    // The medium is a mount too, so that it can be taken away.
    const medium = await bench.mount({ image: await makeImage(bench, 'raw', MIB, 'medium.raw'), format: 'raw' })
    const mounted = await bench.mount({ image: medium.disk, format: 'raw' })
    const file = fs.openSync(mounted.disk, 'r+')
    fs.writeSync(file, noise(4096), 0, 4096, 0)
    process.kill(medium.pid, 'SIGKILL')
    await until(() => !isRunning(medium.pid))
    expect(() => fs.closeSync(file)).toThrow('EIO')
    await expect(unmountAt(mounted.mountpoint)).rejects.toMatchObject({
      code: 'IO',
      message: expect.stringContaining(`Cannot make ${medium.disk} durable`),
      advice: expect.stringContaining('may be lost'),
    })
    expect(mountedAt(mounted.mountpoint)).toBeUndefined()
    expect(isRunning(mounted.pid)).toBe(false)
    expect(fs.readFileSync(mounted.log as string, 'utf8')).toContain('FLUSH failed')
    expect(mountsOf(bench)).toMatchObject([{ pid: medium.pid, state: 'dead' }])
  })
})

describeIf(noMounts, 'a medium that is full', () => {
  test('is told to whoever writes, in the log and in the list; room that comes later is used', async () => {
    const medium = bench.directory('medium')
    must('mount', '-t', 'tmpfs', '-o', 'size=3m', 'medium', medium)
    bench.onClean(() => execute('umount', '-l', medium))
    const image = path.join(medium, 'disk.qcow2')
    await (await createDisk(image, { format: 'qcow2', size: 64 * MIB })).close()
    fs.writeFileSync(path.join(medium, 'filler'), Buffer.alloc(MIB))
    const mounted = await bench.mount({ image })
    expect(await lastFailure(mounted.mountpoint)).toBeUndefined()
    const write = (mebibyte: number, seed: number): string => {
      const source = bench.place('source')
      fs.writeFileSync(source, noise(MIB, seed))
      const where = [`if=${source}`, `of=${mounted.disk}`, 'bs=64k', `seek=${16 * mebibyte}`]
      return execute('dd', ...where, 'conv=notrunc,fsync').stderr
    }
    expect(write(0, 1)).not.toContain('error')
    expect(write(1, 2)).toContain('No space left on device')
    expect(await lastFailure(mounted.mountpoint)).toMatchObject({
      code: 'NO_SPACE',
      request: expect.stringMatching(/^WRITE/),
    })
    expect(fs.readFileSync(mounted.log as string, 'utf8')).toContain('no room is left')
    fs.rmSync(path.join(medium, 'filler'))
    expect(write(1, 2)).not.toContain('error')
    expect((await unmountAt(mounted.mountpoint)).ended).toBe('durable')
    expect((await readBack(image, 0, 2 * MIB)).equals(Buffer.concat([noise(MIB, 1), noise(MIB, 2)]))).toBe(true)
    expect(await findingsOf(image)).toEqual([])
  })
})

describeIf(noMounts, 'a mount that cannot be', () => {
  test('says what the server found, with its code, its advice and its place', async () => {
    const image = bench.place('missing.qcow2')
    await expect(bench.mount({ image })).rejects.toMatchObject({
      name: 'VdiskError',
      code: 'NOT_FOUND',
      message: expect.stringContaining('there is no such file'),
      where: { file: image },
    })
    const damaged = await makeImage(bench, 'qcow2', MIB)
    fs.writeFileSync(damaged, noise(100), { flag: 'r+' })
    await expect(bench.mount({ image: damaged, format: 'qcow2' })).rejects.toMatchObject({ name: 'VdiskError' })
    expect(mountsOf(bench)).toEqual([])
  })

  test('because the image is in use, leaves the place as it was', async () => {
    const image = await makeImage(bench, 'qcow2', MIB)
    const mounted = await bench.mount({ image })
    const mountpoint = bench.directory()
    await expect(bench.mount({ image, mountpoint })).rejects.toMatchObject({
      code: 'IN_USE',
      message: expect.stringContaining(`it is mounted at ${mounted.mountpoint} by process ${mounted.pid}`),
      advice: expect.stringContaining(`vdisk unmount ${mounted.mountpoint}`),
    })
    expect(mountedAt(mountpoint)).toBeUndefined()
  })

  test('because another process writes to the image, names that', async () => {
    const image = await makeImage(bench, 'qcow2', MIB)
    await using disk = await openDisk(image, { writable: true })
    for (const readOnly of [true, false]) {
      await expect(bench.mount({ image, readOnly })).rejects.toMatchObject({
        code: 'IN_USE',
        message: expect.stringContaining(`(process ${process.pid})`),
      })
    }
    expect(disk.writable).toBe(true)
    // Whoever says so goes on all the same, and it is written down.
    const mounted = await bench.mount({ image, locking: false })
    expect(mounted.notes).toEqual([expect.stringContaining('Locks are off')])
    expect(fs.readFileSync(mounted.log as string, 'utf8')).toContain('Locks are off')
  })

  test('because of the place, says why', async () => {
    const image = await makeImage(bench, 'qcow2', MIB)
    const missing = bench.place('missing')
    await expect(bench.mount({ image, mountpoint: missing })).rejects.toMatchObject({
      code: 'NOT_FOUND',
      advice: expect.stringContaining('mkdir'),
    })
    const full = bench.directory()
    fs.writeFileSync(path.join(full, 'something'), '')
    await expect(bench.mount({ image, mountpoint: full })).rejects.toMatchObject({
      code: 'REFUSED',
      message: expect.stringContaining('not empty'),
    })
    const mounted = await bench.mount({ image })
    await expect(bench.mount({ image, mountpoint: mounted.mountpoint })).rejects.toMatchObject({
      code: 'IN_USE',
      message: expect.stringContaining('mounted there already'),
    })
    const pipe = bench.place('pipe')
    must('mkfifo', pipe)
    await expect(bench.mount({ image, mountpoint: pipe })).rejects.toMatchObject({ code: 'REFUSED' })
  })

  test('unmounted where nothing is, or something else, is said so', async () => {
    await expect(unmountAt(bench.directory())).rejects.toMatchObject({ code: 'NOT_FOUND' })
    // A mount of this test alone: should the check ever be broken, nothing else is lost.
    const stranger = bench.directory()
    must('mount', '-t', 'tmpfs', '-o', 'size=64k', 'stranger', stranger)
    bench.onClean(() => execute('umount', stranger))
    await expect(unmountAt(stranger)).rejects.toMatchObject({ code: 'REFUSED' })
    expect(mountedAt(stranger)?.type).toBe('tmpfs')
  })
})
